//! An import of example data into a new working folder.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::bench::host;
use crate::data::{NORMALIZER, SCHEMA, connection, customers};
use crate::shell::{run as run_command, target};

pub(crate) fn run(rows: u64) -> anyhow::Result<()> {
    let binary = host()?;
    let folder = target()?.join("demo");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let incoming = folder.join("exchange/incoming");
    fs::create_dir_all(&incoming)?;
    fs::create_dir_all(folder.join("connections"))?;
    fs::write(folder.join("schema.toml"), SCHEMA)?;
    fs::write(folder.join("connections/shop.toml"), connection(&format!("{NORMALIZER}{ADDED}")))?;
    println!("writing {rows} customers to {}", incoming.join("customers_1.csv").display());
    let file = incoming.join("customers_1.csv");
    customers(&file, rows, 0)?;
    let text = BufReader::new(File::open(&file)?);
    let line = text.lines().nth(1).context("the file has no row")??;
    let email = line.split(',').nth(1).unwrap_or_default().to_lowercase();

    let sluicebox = |arguments: &[&str]| command(&binary, &folder, arguments);
    run_command(&mut sluicebox(&["check"]))?;
    run_command(&mut sluicebox(&["preview", "shop", "customers", "--rows", "2"]))?;
    run_command(&mut sluicebox(&["run"]))?;
    run_command(&mut sluicebox(&["profile", "count"]))?;
    run_command(&mut sluicebox(&["profile", "find", &format!("email={email}")]))?;
    run_command(&mut sluicebox(&["history"]))?;
    println!("\nThe working folder is {}; look around with", folder.display());
    println!("  {} -C {} profile list | less", binary.display(), folder.display());
    Ok(())
}

/// A second processor, which adds a column.
const ADDED: &str = r#"
[[import_profiles.processors]]
plugin = "field-transform"
config = { steps = [ { column = "email", into = "domain", replace = { pattern = "^.*@", with = "" } } ] }
"#;

fn command(binary: &Path, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command.arg("-C").arg(folder).args(arguments);
    command
}
