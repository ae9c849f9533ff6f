//! `sluicebox segment`.

use std::path::Path;

use serde_json::json;
use sluicebox_model::Schema;
use sluicebox_store::Store;

use super::profile::show;
use crate::config::Config;
use crate::error::Error;
use crate::output::{counted, print};
use crate::queries::segment_counts::{SegmentCounts, count, known_segment, members};

/// How to read segments.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows each segment and each stage of a lifecycle with the number of its profiles.
    List {
        /// Prints one JSON object per segment or stage.
        #[arg(long)]
        json: bool,
    },
    /// Counts the profiles of a segment.
    Count {
        /// The segment.
        segment: String,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows the profiles of a segment, in the order of their ids.
    Members {
        /// The segment.
        segment: String,
        /// Prints one JSON object per profile.
        #[arg(long)]
        json: bool,
    },
}

/// Evaluates segments for all profiles, in one pass over the store.
///
/// # Errors
/// If the configuration is wrong, there is no such segment, or the store fails.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    if let Command::Count { segment, .. } | Command::Members { segment, .. } = command {
        known_segment(&config.schema, segment)?;
    }
    let store = Store::open_read_only(&config.settings.store)?;
    let counts = |segments: &[String]| match &store {
        Some(store) => count(&config, store, segments),
        None => Ok(SegmentCounts::none(&config.schema, segments.len())),
    };
    match command {
        Command::Members { segment, json } => {
            if let Some(store) = &store {
                members(&config, store, segment, |profile| show(Some(profile), *json))?;
            }
        }
        Command::Count { segment, json } => {
            let count = counts(std::slice::from_ref(segment))?.segments.iter().sum::<u64>();
            print(if *json { json!({ "count": count }).to_string() } else { count.to_string() })?;
        }
        Command::List { json } => {
            let names: Vec<String> =
                config.schema.segments.iter().map(|segment| segment.name.clone()).collect();
            list(&config.schema, &names, &counts(&names)?, *json)?;
        }
    }
    Ok(0)
}

fn list(schema: &Schema, names: &[String], counts: &SegmentCounts, json: bool) -> Result<(), Error> {
    for (name, count) in names.iter().zip(&counts.segments) {
        print(match json {
            true => json!({ "segment": name, "profiles": count }).to_string(),
            false => format!("{name}: {}", counted(*count, "profile")),
        })?;
    }
    for (lifecycle, counts) in schema.lifecycles.iter().zip(&counts.stages) {
        for ((stage, _), count) in lifecycle.stages.iter().zip(counts) {
            print(match json {
                true => json!({ "lifecycle": lifecycle.name, "stage": stage, "profiles": count }).to_string(),
                false => format!("{} / {stage}: {}", lifecycle.name, counted(*count, "profile")),
            })?;
        }
    }
    Ok(())
}
