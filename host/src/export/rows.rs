//! Profiles as rows of an export: which profiles, and their cells.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use sluicebox_model::packed::Unpacker;
use sluicebox_model::{
    CONSENTED, Event, EventKey, Header, PropertyId, REFUSED, Record, RecordBatch, RecordId, Value, ValueType,
    append_list_value, never,
};
use sluicebox_store::{Names, Store, StoreError};

use crate::config::{ColumnSource, Config, Connection, ExportGoal};
use crate::error::Error;
use crate::export::cells::Cells;
use crate::queries::segments::{Membership, UndecidedSegment, of_lifecycles};
use crate::queries::walk::Worker;

/// Turns profiles into rows.
pub(crate) struct Rows<'a> {
    goal: &'a ExportGoal,
    names: &'a Names,
    store: &'a Store,
    objectives: Vec<Value>,
    consented: Option<PropertyId>,
    refused: Option<PropertyId>,
    membership: Membership<'a>,
    columns: Vec<Column<'a>>,
    /// The properties that columns show, sorted, with the places of their columns.
    properties: Vec<(PropertyId, Vec<usize>)>,
    /// Whether only profiles with a value in one of the columns are exported.
    needs_value: bool,
    header: Arc<Header>,
    /// Whether events are exported.
    with_events: bool,
}

/// What a column shows.
enum Column<'a> {
    Property(Cells<'a>),
    ProfileId,
    Created(Cells<'a>),
    Modified(Cells<'a>),
    /// Names of segments, and their places in the membership.
    Segments(Vec<(&'a str, usize)>),
    /// For each lifecycle the texts of its stages, and the places of their segments.
    Lifecycles(Vec<Vec<(String, usize)>>),
    Text(&'a str),
}

/// Consecutive rows of an export.
pub(crate) struct Page {
    pub batch: RecordBatch,
    pub ids: Vec<RecordId>,
    /// The events of each row's profile, if events are exported.
    pub events: Vec<Vec<(EventKey, Event)>>,
    /// Profiles that were read for it.
    pub profiles_read: u64,
    /// Those of them that are in the segment.
    pub read: u64,
    /// Those of the segment without consent, or without a value in any column.
    pub excluded: u64,
    /// How many values of lists have the list separator in them.
    pub with_separator: u64,
}

impl<'a> Rows<'a> {
    /// Makes rows for a goal. `now` is the value of `now` in expressions.
    ///
    /// # Errors
    /// If an expression does not parse; the configuration was validated, so it does.
    pub(crate) fn new(
        config: &'a Config,
        connection: &Connection,
        goal: &'a ExportGoal,
        (store, names): (&'a Store, &'a Names),
        now: Timestamp,
    ) -> Result<Self, Error> {
        let schema = &config.schema;
        let mut wanted: Vec<String> = goal.segment.iter().cloned().collect();
        for column in &goal.columns {
            match &column.source {
                ColumnSource::Segments(names) => wanted.extend(names.iter().cloned()),
                ColumnSource::Lifecycles => wanted.extend(of_lifecycles(schema)),
                _ => {}
            }
        }
        let membership = Membership::new(schema, store, names, wanted, now)?;
        let place = |segment: &str| {
            let place = membership.place(segment);
            never!(place.is_none(), "the segment of a column was not compiled");
            place.unwrap_or(usize::MAX)
        };
        let cells = |value_type| Cells::of(goal, value_type);
        let columns = goal.columns.iter().map(|column| match &column.source {
            ColumnSource::Property(property) => Column::Property(cells(property.value_type)),
            ColumnSource::ProfileId => Column::ProfileId,
            ColumnSource::Created => Column::Created(cells(ValueType::DateTime)),
            ColumnSource::Modified => Column::Modified(cells(ValueType::DateTime)),
            ColumnSource::Segments(names) => {
                Column::Segments(names.iter().map(|name| (name.as_str(), place(name))).collect())
            }
            ColumnSource::Lifecycles => Column::Lifecycles(
                schema
                    .lifecycles
                    .iter()
                    .map(|lifecycle| {
                        let stages = lifecycle.stages.iter();
                        let shown = |stage: &str| format!("{}:{stage}", lifecycle.name);
                        stages.map(|(stage, segment)| (shown(stage), place(segment))).collect()
                    })
                    .collect(),
            ),
            ColumnSource::Text(text) => Column::Text(text),
        });
        let columns = columns.collect();
        let mut properties: HashMap<PropertyId, Vec<usize>> = HashMap::new();
        for (place, column) in goal.columns.iter().enumerate() {
            if let ColumnSource::Property(property) = &column.source
                && let Some(id) = names.profile_properties.get(&property.name)
            {
                properties.entry(*id).or_default().push(place);
            }
        }
        let mut properties: Vec<(PropertyId, Vec<usize>)> = properties.into_iter().collect();
        properties.sort();
        let header = Header {
            columns: goal.columns.iter().map(|column| column.header.clone()).collect(),
            trim: false,
            null_values: vec![String::new()],
        };
        Ok(Self {
            goal,
            names,
            store,
            objectives: connection.objectives.iter().map(|name| Value::Text(name.as_str().into())).collect(),
            consented: names.profile_properties.get(CONSENTED).copied(),
            refused: names.profile_properties.get(REFUSED).copied(),
            membership,
            columns,
            properties,
            needs_value: goal.columns.iter().any(|column| matches!(column.source, ColumnSource::Property(_))),
            header: Arc::new(header),
            with_events: goal.events.is_some(),
        })
    }

    /// The rows of those records that are in the export.
    fn page(&mut self, records: &[(RecordId, Record)], records_read: usize) -> Result<Page, StoreError> {
        let (mut read, mut excluded) = (0, 0);
        let (mut text, mut ends, mut places) = (String::new(), Vec::new(), Vec::new());
        let (mut ids, mut events, mut with_separator) = (Vec::new(), Vec::new(), 0);
        for (id, record) in records {
            if !self.names.domain_groups.contains_key(&record.space) {
                continue;
            }
            let own_events = match self.with_events || self.membership.needs_events() {
                true => self.store.events_of(*id)?,
                false => Vec::new(),
            };
            let segments = self.membership.of(record, &own_events)?;
            let in_segment = |name: &String| {
                self.membership.place(name).is_some_and(|place| segments.get(place) == Some(&true))
            };
            if !self.goal.segment.as_ref().is_none_or(in_segment) {
                continue;
            }
            read += 1;
            let appended = match self.consents(record) {
                true => self.append(*id, record, &segments, &mut text, &mut ends),
                false => None,
            };
            let Some(separators) = appended else {
                excluded += 1;
                continue;
            };
            with_separator += separators;
            places.push((places.len() as u64, places.len() as u64 + 1));
            ids.push(*id);
            if self.with_events {
                events.push(own_events);
            }
        }
        let end = places.len() as u64;
        let batch = RecordBatch::new(Arc::clone(&self.header), text, ends, places, Vec::new(), end);
        let batch = batch.ok_or(StoreError::Damaged("a text"))?;
        Ok(Page { batch, ids, events, profiles_read: records_read as u64, read, excluded, with_separator })
    }

    /// The segments whose expression failed for some profiles.
    pub(crate) fn undecided(&self) -> impl Iterator<Item = UndecidedSegment> + '_ {
        self.membership.undecided()
    }

    /// Whether the profile consented to one of the connection's objectives.
    fn consents(&self, record: &Record) -> bool {
        if self.objectives.is_empty() {
            return true;
        }
        let values = |id: Option<PropertyId>| id.map(|id| record.values(id)).unwrap_or_default();
        let (consented, refused) = (values(self.consented), values(self.refused));
        self.objectives.iter().any(|objective| consented.contains(objective) && !refused.contains(objective))
    }

    /// Appends a profile's cells. Returns how many values of lists have the list separator in them; appends nothing and
    /// returns `None` if the profile has no value in any column.
    fn append(
        &self,
        id: RecordId,
        record: &Record,
        segments: &[bool],
        text: &mut String,
        ends: &mut Vec<u32>,
    ) -> Option<u64> {
        let mut held: Vec<Option<&[u8]>> = vec![None; self.columns.len()];
        let mut properties = Unpacker(record.packed());
        let mut wanted = self.properties.iter().peekable();
        let mut has_value = !self.needs_value;
        while let Some((property, value)) = properties.entry() {
            while wanted.next_if(|(next, _)| *next < property).is_some() {}
            if let Some((_, places)) = wanted.next_if(|(next, _)| *next == property) {
                has_value = true;
                for place in places {
                    if let Some(held) = held.get_mut(*place) {
                        *held = Some(value);
                    }
                }
            }
        }
        if !has_value {
            return None;
        }
        let mut with_separator = 0;
        for (column, held) in self.columns.iter().zip(held) {
            match (column, held) {
                (Column::Property(cells), Some(held)) => with_separator += cells.property(held, text),
                (Column::Property(_), None) => {}
                (Column::ProfileId, _) => text.push_str(&id.to_string()),
                (Column::Created(cells), _) => cells.milliseconds(record.created, text),
                (Column::Modified(cells), _) => cells.milliseconds(record.modified, text),
                (Column::Segments(names), _) => {
                    let names = names.iter().filter(|(_, place)| segments.get(*place) == Some(&true));
                    with_separator += self.join(names.map(|(name, _)| *name), text);
                }
                (Column::Lifecycles(lifecycles), _) => {
                    let stages = lifecycles.iter().filter_map(|stages| {
                        let mut stages = stages.iter();
                        stages.find(|(_, place)| segments.get(*place) == Some(&true))
                    });
                    with_separator += self.join(stages.map(|(stage, _)| stage.as_str()), text);
                }
                (Column::Text(own), _) => text.push_str(own),
            }
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
        Some(with_separator)
    }

    /// Appends a list. Returns how many of its values have the list separator in them.
    fn join<'t>(&self, parts: impl Iterator<Item = &'t str>, text: &mut String) -> u64 {
        let (separator, mut with_separator) = (&self.goal.values.list_separator, 0);
        for (place, part) in parts.enumerate() {
            if place > 0 {
                text.push_str(separator);
            }
            with_separator += u64::from(append_list_value(part, separator, self.goal.list_escape, text));
        }
        with_separator
    }
}

impl Worker for Rows<'_> {
    type Done = Page;

    fn work(&mut self, records: &[(RecordId, Record)], records_read: usize) -> Result<Page, StoreError> {
        self.page(records, records_read)
    }
}
