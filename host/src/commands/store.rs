//! `sluicebox store`.

use std::path::{Path, PathBuf};

use serde_json::json;
use sluicebox_store::Store;

use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::plan::known_unique;

/// How to look after the store.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Reads everything and holds it against all that it goes with.
    Verify {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows how large the store is.
    Stats {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes the store's files anew, as small as they get.
    Compact,
    /// Copies the store into a folder, which must not be there yet.
    Backup {
        /// The folder.
        to: PathBuf,
    },
    /// Puts a backup in place of the store, which is kept beside it.
    Restore {
        /// The folder of the backup.
        from: PathBuf,
    },
}

/// Looks after the store.
///
/// # Errors
/// If the store cannot be read or written.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let path = &config.settings.store;
    let none = || Error::NotFound(format!("there is no store at {}", path.display()));
    let write = || if path.join("CURRENT").exists() { Ok(Store::open(path)?) } else { Err(none()) };
    match command {
        Command::Verify { json } => verify(&config, &Store::open_read_only(path)?.ok_or_else(none)?, *json),
        Command::Stats { json } => stats(&Store::open_read_only(path)?.ok_or_else(none)?, *json),
        Command::Compact => {
            let store = write()?;
            let before = store.stats()?.bytes;
            store.compact()?;
            drop(store);
            let after = Store::open_read_only(path)?.ok_or_else(none)?.stats()?.bytes;
            print(format!("{before} bytes before, {after} bytes now"))?;
            Ok(0)
        }
        Command::Backup { to } => {
            let to = folder.join(to);
            write()?.back_up(&to)?;
            print(format!("{}: a copy of the store as it is now", to.display()))?;
            Ok(0)
        }
        Command::Restore { from } => {
            let from = folder.join(from);
            match Store::restore(&from, path)? {
                None => print(format!("{}: restored", path.display()))?,
                Some(before) => print(format!(
                    "{}: restored; the store that was there is kept in {}",
                    path.display(),
                    before.display()
                ))?,
            }
            Ok(0)
        }
    }
}

fn verify(config: &Config, store: &Store, json: bool) -> Result<u8, Error> {
    let found = store.verify(&known_unique(&config.schema, store))?;
    let names = store.names();
    let (mut profiles, mut groups) = (0, 0);
    for (space, count) in &found.records {
        if names.domain_groups.contains_key(space) {
            profiles += count;
        } else {
            groups += count;
        }
    }
    let whole = found.problems == 0;
    if json {
        print(json!({
            "profiles": profiles, "groups": groups, "merged": found.merged, "identifiers": found.identifiers,
            "events": found.events, "problems": found.problems, "described": found.described,
        }))?;
    } else {
        print(format!(
            "{profiles} profiles, {groups} groups, {} merged records, {} identifiers, {} events: {}",
            found.merged,
            found.identifiers,
            found.events,
            if whole { "whole".to_owned() } else { format!("{} PROBLEMS", found.problems) }
        ))?;
        found.described.iter().try_for_each(print)?;
    }
    Ok(u8::from(!whole))
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
    print(format!("layout {}, {} bytes on the disk", stats.layout, stats.bytes))?;
    for (name, entries, bytes) in &stats.families {
        print(format!("  {name}: about {entries} entries, {bytes} bytes"))?;
    }
    Ok(0)
}
