//! How many profiles are in each segment and in each stage of each lifecycle, and which ones.

use jiff::Timestamp;
use serde_json::Value as Json;
use sluicebox_model::{Record, RecordId, Schema};
use sluicebox_store::{Names, Store, StoreError};

use crate::config::Config;
use crate::error::Error;
use crate::queries::segments::{Membership, UndecidedSegment};
use crate::queries::view;
use crate::queries::walk::{Selection, Worker, walk};

/// How many profiles are in each segment, and in each stage of each lifecycle of the schema.
#[derive(Default)]
pub(crate) struct SegmentCounts {
    /// In the order in which the segments were given.
    pub segments: Vec<u64>,
    /// For each lifecycle, its stages in order.
    pub stages: Vec<Vec<u64>>,
}

impl SegmentCounts {
    /// No profiles.
    pub(crate) fn none(schema: &Schema, segments: usize) -> Self {
        let stages = schema.lifecycles.iter().map(|lifecycle| vec![0; lifecycle.stages.len()]).collect();
        Self { segments: vec![0; segments], stages }
    }

    fn add(&mut self, more: &Self) {
        add(&mut self.segments, &more.segments);
        self.stages.iter_mut().zip(&more.stages).for_each(|(total, counts)| add(total, counts));
    }
}

fn add(total: &mut [u64], counts: &[u64]) {
    total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
}

/// Checks that the schema has a segment.
///
/// # Errors
/// With the nearest name.
pub(crate) fn known_segment(schema: &Schema, name: &str) -> Result<(), Error> {
    let known = || schema.segments.iter().map(|segment| segment.name.clone()).collect();
    match schema.segment(name) {
        Some(_) => Ok(()),
        None => Err(Error::Unknown { kind: "segment", name: name.to_owned(), known: known() }),
    }
}

/// Counts the profiles of different segments, in one pass over the store.
///
/// # Errors
/// If the store fails.
pub(crate) fn count(config: &Config, store: &Store, segments: &[String]) -> Result<SegmentCounts, Error> {
    count_and_take(config, store, segments, false, |_| Ok(()))
}

/// Calls `member` with each profile of a segment, in the order of their ids.
///
/// # Errors
/// If the store or `member` fails.
pub(crate) fn members(
    config: &Config,
    store: &Store,
    segment: &str,
    member: impl FnMut(Json) -> Result<(), Error>,
) -> Result<(), Error> {
    count_and_take(config, store, &[segment.to_owned()], true, member).map(drop)
}

fn count_and_take(
    config: &Config,
    store: &Store,
    segments: &[String],
    takes_members: bool,
    mut member: impl FnMut(Json) -> Result<(), Error>,
) -> Result<SegmentCounts, Error> {
    let (schema, names, now) = (&config.schema, &store.names(), Timestamp::now());
    let counter = || {
        let membership = Membership::new(schema, store, names, segments.iter().cloned(), now)?;
        Ok::<_, Error>(Counter { store, names, schema, membership, segments: segments.len(), takes_members })
    };
    let workers = (0..config.settings.tuning.threads).map(|_| counter()).collect::<Result<Vec<_>, _>>()?;
    let mut total = SegmentCounts::none(schema, segments.len());
    let workers = walk(store, &Selection::All(None), workers, |(counts, members)| {
        total.add(&counts);
        members.into_iter().try_for_each(&mut member)?;
        Ok(true)
    })?;
    for undecided in UndecidedSegment::sum(workers.iter().flat_map(|worker| worker.membership.undecided())) {
        tracing::warn!("{undecided}");
    }
    Ok(total)
}

/// Counts the profiles of pages, and collects those of the first segment if they are wanted.
struct Counter<'a> {
    store: &'a Store,
    names: &'a Names,
    schema: &'a Schema,
    membership: Membership<'a>,
    segments: usize,
    takes_members: bool,
}

impl Worker for Counter<'_> {
    type Done = (SegmentCounts, Vec<Json>);

    fn work(&mut self, records: &[(RecordId, Record)], _: usize) -> Result<Self::Done, StoreError> {
        let lifecycles = &self.schema.lifecycles;
        let (mut counts, mut members) = (SegmentCounts::none(self.schema, self.segments), Vec::new());
        for (id, record) in records {
            if !self.names.domain_groups.contains_key(&record.space) {
                continue;
            }
            let events = if self.membership.needs_events() { self.store.events_of(*id)? } else { Vec::new() };
            let is_in = self.membership.of(record, &events)?;
            for (count, is_in) in counts.segments.iter_mut().zip(&is_in) {
                *count += u64::from(*is_in);
            }
            let is_in_segment = |segment: &str| {
                self.membership.place(segment).is_some_and(|place| is_in.get(place) == Some(&true))
            };
            for (lifecycle, counts) in lifecycles.iter().zip(&mut counts.stages) {
                let stage = lifecycle.stages.iter().position(|(_, segment)| is_in_segment(segment));
                if let Some(count) = stage.and_then(|stage| counts.get_mut(stage)) {
                    *count += 1;
                }
            }
            if self.takes_members && is_in.first() == Some(&true) {
                members.extend(view::profile(self.names, *id, record, self.store.events_of(*id)?));
            }
        }
        Ok((counts, members))
    }
}
