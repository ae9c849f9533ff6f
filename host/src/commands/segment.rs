//! `sluicebox segment`.

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value as Json, json};
use sluicebox_model::{Record, RecordId, Schema};
use sluicebox_store::{Names, Store, StoreError};

use super::profile::show;
use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::segments::{Membership, Untold};
use crate::view;
use crate::walk::{Selection, Worker, walk};

/// How to look at segments.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows every segment with the number of its profiles, and every stage of a lifecycle.
    List {
        /// One JSON object a segment.
        #[arg(long)]
        json: bool,
    },
    /// Counts the profiles of a segment.
    Count {
        /// The segment.
        segment: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows the profiles of a segment, in the order of their ids.
    Members {
        /// The segment.
        segment: String,
        /// One JSON object a profile.
        #[arg(long)]
        json: bool,
    },
}

/// Asks every profile, in one pass over the store.
///
/// # Errors
/// If the configuration is wrong, there is no such segment, or the store fails.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let known: Vec<String> = config.schema.segments.iter().map(|segment| segment.name.clone()).collect();
    let wanted = match command {
        Command::List { .. } => known.clone(),
        Command::Count { segment, .. } | Command::Members { segment, .. } => vec![segment.clone()],
    };
    if let Some(missing) = wanted.iter().find(|name| !known.contains(name)) {
        return Err(Error::Unknown { kind: "segment", name: missing.clone(), known });
    }
    let store = Store::open_read_only(&config.settings.store)?;
    let show_member = |profile| match command {
        Command::Members { json, .. } => show(Some(profile), *json),
        _ => Ok(()),
    };
    let counts = match &store {
        Some(store) => {
            count(&config, store, &wanted, matches!(command, Command::Members { .. }), show_member)?
        }
        None => Counts::default(),
    };
    match command {
        Command::Members { .. } => {}
        Command::Count { json, .. } => {
            let count = counts.segments.first().copied().unwrap_or_default();
            print(if *json { json!({ "count": count }).to_string() } else { count.to_string() })?;
        }
        Command::List { json } => {
            for (place, name) in wanted.iter().enumerate() {
                let count = counts.segments.get(place).copied().unwrap_or_default();
                print(match json {
                    true => json!({ "segment": name, "profiles": count }).to_string(),
                    false => format!("{name}: {count} profiles"),
                })?;
            }
            for (place, lifecycle) in config.schema.lifecycles.iter().enumerate() {
                for (stage, (name, _)) in lifecycle.stages.iter().enumerate() {
                    let count = counts.stages.get(place).and_then(|stages| stages.get(stage));
                    let count = count.copied().unwrap_or_default();
                    print(match json {
                        true => json!({ "lifecycle": lifecycle.name, "stage": name, "profiles": count })
                            .to_string(),
                        false => format!("{} / {name}: {count} profiles", lifecycle.name),
                    })?;
                }
            }
        }
    }
    Ok(0)
}

/// How many profiles are in each segment, and in each stage of each lifecycle.
#[derive(Default)]
struct Counts {
    segments: Vec<u64>,
    stages: Vec<Vec<u64>>,
}

/// Counts the profiles of pages, and collects those of the first segment if they are wanted.
struct Counting<'a> {
    store: &'a Store,
    names: &'a Names,
    schema: &'a Schema,
    membership: Membership<'a>,
    collects: bool,
}

impl Worker for Counting<'_> {
    type Done = (Counts, Vec<Json>);

    fn work(&mut self, records: &[(RecordId, Record)]) -> Result<Self::Done, StoreError> {
        let lifecycles = &self.schema.lifecycles;
        let stages = lifecycles.iter().map(|lifecycle| vec![0; lifecycle.stages.len()]).collect();
        let (mut counts, mut members) = (Counts { segments: Vec::new(), stages }, Vec::new());
        for (id, record) in records {
            if !self.names.domain_groups.contains_key(&record.space) {
                continue;
            }
            let events = if self.membership.needs_events() { self.store.events_of(*id)? } else { Vec::new() };
            let holds = self.membership.of(record, &events)?;
            counts.segments.resize(holds.len(), 0);
            for (count, holds) in counts.segments.iter_mut().zip(&holds) {
                *count += u64::from(*holds);
            }
            let held = |segment: &str| {
                self.membership.place(segment).is_some_and(|place| holds.get(place) == Some(&true))
            };
            for (lifecycle, counts) in lifecycles.iter().zip(&mut counts.stages) {
                let stage = lifecycle.stages.iter().position(|(_, segment)| held(segment));
                if let Some(count) = stage.and_then(|stage| counts.get_mut(stage)) {
                    *count += 1;
                }
            }
            if self.collects && holds.first() == Some(&true) {
                members.extend(view::profile(self.names, *id, record, self.store.events_of(*id)?));
            }
        }
        Ok((counts, members))
    }
}

fn count(
    config: &Config,
    store: &Store,
    wanted: &[String],
    collects: bool,
    member: impl Fn(Json) -> Result<(), Error>,
) -> Result<Counts, Error> {
    let (names, now) = (&store.names(), Timestamp::now());
    let counting = || {
        let membership = Membership::new(&config.schema, store, names, wanted.iter().cloned(), now)?;
        Ok::<_, Error>(Counting { store, names, schema: &config.schema, membership, collects })
    };
    let workers = (0..config.settings.tuning.threads).map(|_| counting()).collect::<Result<Vec<_>, _>>()?;
    let mut total = Counts::default();
    let workers = walk(store, &Selection::All(None), workers, |(counts, members)| {
        add(&mut total.segments, &counts.segments);
        total.stages.resize(counts.stages.len(), Vec::new());
        for (total, counts) in total.stages.iter_mut().zip(&counts.stages) {
            add(total, counts);
        }
        members.into_iter().try_for_each(&member)?;
        Ok(true)
    })?;
    for untold in Untold::sum(workers.iter().flat_map(|worker| worker.membership.untold())) {
        tracing::warn!("{untold}");
    }
    Ok(total)
}

fn add(total: &mut Vec<u64>, counts: &[u64]) {
    total.resize(total.len().max(counts.len()), 0);
    for (total, count) in total.iter_mut().zip(counts) {
        *total += count;
    }
}
