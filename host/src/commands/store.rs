//! `sluicebox store`.

use std::path::{Path, PathBuf};

use serde_json::json;
use sluicebox_store::Store;

use crate::config::Config;
use crate::error::Error;
use crate::output::{counted, print};
use crate::queries::upkeep::{Verification, verify};

/// How to maintain the store.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Checks that records, indexes and events agree.
    Verify {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows the size of the store.
    Stats {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Rewrites the files of the store, which makes them as small as possible.
    Compact,
    /// Copies the store into a new folder.
    Backup {
        /// The folder; it must not exist yet.
        to: PathBuf,
    },
    /// Replaces the store by a backup. The old store is kept beside it.
    Restore {
        /// The folder of the backup.
        from: PathBuf,
    },
}

/// Maintains the store.
///
/// # Errors
/// If the store cannot be read or written.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let location = &config.settings.store;
    let missing = || Error::NotFound(format!("there is no store at {location}"));
    let write = || Store::open_existing(location)?.ok_or_else(missing);
    match command {
        Command::Verify { json } => {
            show_verified(&config, &Store::open_read_only(location)?.ok_or_else(missing)?, *json)
        }
        Command::Stats { json } => stats(&Store::open_read_only(location)?.ok_or_else(missing)?, *json),
        Command::Compact => {
            let store = write()?;
            let before = store.stats()?.bytes;
            store.compact()?;
            drop(store);
            let after = Store::open_read_only(location)?.ok_or_else(missing)?.stats()?.bytes;
            print(format!("{before} bytes before, {after} bytes now"))?;
            Ok(0)
        }
        Command::Backup { to } => {
            let to = folder.join(to);
            write()?.back_up(&to)?;
            print(format!("{}: a copy of the store", to.display()))?;
            Ok(0)
        }
        Command::Restore { from } => {
            let from = folder.join(from);
            match Store::restore(&from, location)? {
                None => print(format!("{location}: restored"))?,
                Some(before) => {
                    print(format!("{location}: restored; the old store is in {}", before.display()))?
                }
            }
            Ok(0)
        }
    }
}

fn show_verified(config: &Config, store: &Store, json: bool) -> Result<u8, Error> {
    let verified = verify(config, store)?;
    if json {
        print(verified.json())?;
    } else {
        let Verification { profiles, groups, merged, identifiers, events, problems, .. } = verified;
        let counts = [
            counted(profiles, "profile"),
            counted(groups, "group"),
            counted(merged, "merged record"),
            counted(identifiers, "identifier"),
            counted(events, "event"),
        ];
        let result = if problems == 0 { "no problems".to_owned() } else { counted(problems, "PROBLEM") };
        print(format!("{}: {result}", counts.join(", ")))?;
        verified.described.iter().try_for_each(print)?;
    }
    Ok(u8::from(verified.problems > 0))
}

fn stats(store: &Store, json: bool) -> Result<u8, Error> {
    let stats = store.stats()?;
    if json {
        let families = stats.families.iter().map(|(name, entries, bytes)| {
            ((*name).to_owned(), json!({ "entries": entries, "bytes": bytes }))
        });
        let families: serde_json::Map<_, _> = families.collect();
        print(json!({ "layout": stats.layout, "bytes": stats.bytes, "families": families }))?;
        return Ok(0);
    }
    print(format!("layout {}, {} on the disk", stats.layout, counted(stats.bytes, "byte")))?;
    for (name, entries, bytes) in &stats.families {
        print(format!("  {name}: about {entries} entries, {bytes} bytes"))?;
    }
    Ok(0)
}
