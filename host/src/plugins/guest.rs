//! Finds a Rust compiler with the standard library for `wasm32-unknown-unknown`, the target of plugins.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The target of plugins.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// A compiler for plugins with its standard library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guest {
    /// A toolchain of rustup that has the library.
    Rustup,
    /// Debian's compiler, which builds the library from its sources.
    Debian,
}

impl Guest {
    /// A compiler with the library installed; or rustup's, which installs the library; or Debian's.
    pub(crate) fn find() -> Option<Self> {
        let installed = || library().is_some_and(|library| library.is_dir());
        if installed() {
            return Some(Self::Rustup);
        }
        let mut rustup = Command::new("rustup");
        if output(rustup.args(["target", "add", TARGET])).is_some() && installed() {
            return Some(Self::Rustup);
        }
        let sysroot = output(Command::new("/usr/bin/rustc").args(["--print", "sysroot"]))?;
        let sources = Path::new(&sysroot).join("lib/rustlib/src/rust/library").exists();
        (sources && Path::new("/usr/bin/cargo").exists()).then_some(Self::Debian)
    }

    /// `cargo build` for the target of plugins.
    pub(crate) fn cargo(self) -> Command {
        let mut command = match self {
            Self::Rustup => {
                let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                command.arg("build");
                command
            }
            Self::Debian => {
                let mut command = Command::new("/usr/bin/cargo");
                command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
                // These variables of rustup would lead back to its own toolchain.
                command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
                command.args(["build", "-Z", "build-std=std,panic_abort"]);
                command
            }
        };
        command.args(["--target", TARGET]);
        command
    }
}

/// Where rustup's toolchain keeps its linkers.
pub(crate) fn linkers() -> Option<PathBuf> {
    let host = output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    Some(sysroot()?.join("lib/rustlib").join(host).join("bin"))
}

fn library() -> Option<PathBuf> {
    Some(sysroot()?.join("lib/rustlib").join(TARGET).join("lib"))
}

fn sysroot() -> Option<PathBuf> {
    output(Command::new("rustc").args(["--print", "sysroot"])).map(PathBuf::from)
}

/// The output of a program, if it exists and succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
