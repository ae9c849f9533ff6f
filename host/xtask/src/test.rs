//! Everything that must hold.

use std::process::Command;

use crate::guest::output;
use crate::shell::{cargo, root, run as run_command, target};
use crate::{plugins, setup};

pub(crate) fn run() -> anyhow::Result<()> {
    setup::clang()?;
    plugins::build()?;
    plugins::build_hostile()?;
    run_command(&mut cargo(&["fmt", "--all", "--check"])?)?;
    let lints = ["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
    run_command(&mut cargo(&lints)?)?;
    setup::gnupg()?;
    setup::registry()?;
    setup::faketime()?;
    let weed = setup::seaweedfs()?;
    let mut tests = cargo(&["test", "--release", "--workspace"])?;
    tests.env("SLUICEBOX_PYTHON", setup::duckdb()?);
    tests.env("SLUICEBOX_SERVICE_PYTHON", setup::service()?).env("SLUICEBOX_BROWSER", setup::browser()?);
    // Where tests leave pictures of the page.
    tests.env("SLUICEBOX_SCREENSHOTS", target()?.join("screenshots"));
    tests.env("SLUICEBOX_WEED", weed).env("SLUICEBOX_COMPONENTIZE", setup::componentize()?);
    run_command(&mut tests)?;
    let mut documentation =
        cargo(&["doc", "--release", "--workspace", "--no-deps", "--document-private-items"])?;
    run_command(documentation.env("RUSTDOCFLAGS", "-D warnings"))?;
    deny()
}

/// Licences, sources and versions of everything that is linked; and its known vulnerabilities, where their list can be
/// had.
fn deny() -> anyhow::Result<()> {
    let program = setup::cargo_deny()?;
    let deny = |arguments: &[&str]| {
        let mut deny = Command::new(&program);
        deny.args(arguments).current_dir(root());
        deny
    };
    run_command(deny(&["check", "--hide-inclusion-graph"]).args(["licenses", "bans", "sources"]))?;
    if output(&mut deny(&["fetch", "db"])).is_some() {
        return run_command(&mut deny(&["check", "--hide-inclusion-graph", "advisories"]));
    }
    println!("known vulnerabilities: NOT CHECKED, their list cannot be fetched on this machine");
    Ok(())
}
