use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::guest::output;

/// The root of the repository in which cargo runs. Clones share a target folder, so the path at compile time may be that of
/// another clone.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).join("../..")
}

/// The target folder. All clones on a machine share one, because RocksDB takes long to compile.
pub(crate) fn target() -> anyhow::Result<PathBuf> {
    if let Some(folder) = env::var_os("CARGO_TARGET_DIR") {
        return Ok(folder.into());
    }
    let home = env::home_dir().context("there is no home folder; set CARGO_TARGET_DIR")?;
    Ok(home.join(".cache/sluicebox-target"))
}

/// A cargo of the toolchain that runs this, in the root of the repository.
pub(crate) fn cargo(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root()).env("CARGO_TARGET_DIR", target()?);
    // Some crates depend on these variables of the outer cargo, and would be built again.
    let of_outer = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_outer)) {
        command.env_remove(name);
    }
    Ok(command)
}

/// Prints a command, runs it, and fails if it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    println!("$ {}", line(command));
    let status = command.status().with_context(|| line(command))?;
    if status.success() { Ok(()) } else { bail!("`{}` failed with {status}", line(command)) }
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Installs packages of the system, as root or with sudo.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    let list = packages.join(" ");
    if output(Command::new("apt-get").arg("--version")).is_none() {
        bail!(
            "these packages are missing, and cannot be installed because this is not Debian or Ubuntu: {list}"
        );
    }
    let root = output(Command::new("id").arg("-u")).as_deref() == Some("0");
    let apt = || {
        let mut command = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            command.arg("apt-get");
        }
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    println!("installing {list}{}", if root { "" } else { " with sudo" });
    run(apt().args(["update", "-q"]))?;
    run(apt().args(["install", "-y", "-q", "--no-install-recommends"]).args(packages))
}
