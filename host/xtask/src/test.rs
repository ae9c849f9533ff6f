//! Everything that must hold.

use crate::shell::{cargo, run as run_command};
use crate::{plugins, setup};

pub(crate) fn run() -> anyhow::Result<()> {
    setup::clang()?;
    plugins::build()?;
    plugins::build_hostile()?;
    run_command(&mut cargo(&["fmt", "--all", "--check"])?)?;
    let lints = ["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run_command(&mut cargo(&lints)?)?;
    setup::gnupg()?;
    let weed = setup::seaweedfs()?;
    run_command(cargo(&["test", "--release", "--workspace"])?.env("SLUICEBOX_WEED", weed))?;
    let mut documentation =
        cargo(&["doc", "--release", "--workspace", "--no-deps", "--document-private-items"])?;
    run_command(documentation.env("RUSTDOCFLAGS", "-D warnings"))?;
    let deny = setup::cargo_deny()?;
    let mut check = std::process::Command::new(deny);
    run_command(check.current_dir(crate::shell::root()).args(["check", "--hide-inclusion-graph"]))
}
