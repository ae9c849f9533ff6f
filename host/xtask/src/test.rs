//! All checks and tests.

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
    // Shows each failure at once, not only those of the first program of tests that fails.
    let mut tests = cargo(&["test", "--release", "--workspace", "--no-fail-fast"])?;
    tests.env("SLUICEBOX_PYTHON", setup::duckdb()?);
    tests.env("SLUICEBOX_SERVICE_PYTHON", setup::service()?).env("SLUICEBOX_BROWSER", setup::browser()?);
    // Tests save pictures of the page here.
    tests.env("SLUICEBOX_SCREENSHOTS", target()?.join("screenshots"));
    tests.env("SLUICEBOX_WEED", weed).env("SLUICEBOX_COMPONENTIZE", setup::componentize()?);
    run_command(&mut tests)?;
    let mut documentation =
        cargo(&["doc", "--release", "--workspace", "--no-deps", "--document-private-items"])?;
    run_command(documentation.env("RUSTDOCFLAGS", "-D warnings"))?;
    deny()
}

/// Kills everything that writes, each `each` times.
pub(crate) fn kills(each: u32, seed: u64) -> anyhow::Result<()> {
    setup::clang()?;
    plugins::build()?;
    let mut tests = cargo(&[
        "test",
        "--release",
        "--workspace",
        "--test",
        "kills",
        "--",
        "--nocapture",
        "--test-threads=1",
    ])?;
    run_command(tests.env("SLUICEBOX_KILLS", each.to_string()).env("SLUICEBOX_SEED", seed.to_string()))
}

/// Checks licences, sources and versions of all dependencies; and known vulnerabilities, if their list can be
/// downloaded.
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
    println!("known vulnerabilities: NOT CHECKED, this machine cannot download their list");
    Ok(())
}
