//! Profiles as rows of an export: which of them are in it, and what stands in their cells.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use sluicebox_model::packed::{Unpacker, packed_text, packed_values, unpack_value};
use sluicebox_model::{
    CONSENTED, Event, EventKey, Header, PropertyId, REFUSED, Record, RecordBatch, RecordId, Value, ValueType,
};
use sluicebox_store::{Names, Store, StoreError};

use crate::config::{ColumnSource, Config, Connection, ExportGoal, ValueFormat};
use crate::error::Error;
use crate::segments::{Membership, Untold, of_lifecycles};
use crate::walk::Worker;

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
    /// The properties that columns show, sorted, and the places of their columns.
    properties: Vec<(PropertyId, Vec<usize>)>,
    /// Whether a profile needs a value in one of the columns.
    needs_value: bool,
    header: Arc<Header>,
    /// Only profiles that changed after this time.
    since: Option<i64>,
    events: bool,
}

enum Column<'a> {
    Property(Cells<'a>),
    ProfileId,
    Created(Cells<'a>),
    Modified(Cells<'a>),
    /// Names, and their places in what the membership says.
    Segments(Vec<(&'a str, usize)>),
    /// For each lifecycle its stages as they are shown, and the places of their segments.
    Lifecycles(Vec<Vec<(String, usize)>>),
    Text(&'a str),
}

/// How a property's values are written.
struct Cells<'a> {
    value_type: ValueType,
    format: &'a ValueFormat,
    timezone: &'a TimeZone,
}

/// Some rows of an export.
pub(crate) struct Page {
    pub batch: RecordBatch,
    pub ids: Vec<RecordId>,
    /// The events of each row's profile, if they are wanted.
    pub events: Vec<Vec<(EventKey, Event)>>,
    /// Profiles that were looked at.
    pub looked_at: u64,
    /// Those that are in the segment.
    pub read: u64,
    /// Those of them that did not consent, or have no value to show.
    pub excluded: u64,
}

impl<'a> Rows<'a> {
    /// What makes rows for a goal. `now` is the moment for expressions.
    ///
    /// # Errors
    /// If an expression does not parse, which the configuration's validation finds before.
    pub(crate) fn new(
        config: &'a Config,
        connection: &Connection,
        goal: &'a ExportGoal,
        (store, names): (&'a Store, &'a Names),
        since: Option<i64>,
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
        let place = |segment: &str| membership.place(segment).unwrap_or(usize::MAX);
        let cells = |value_type| Cells { value_type, format: &goal.values, timezone: &goal.timezone };
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
            since,
            events: goal.events.is_some(),
        })
    }

    /// The rows of those records that are in the export.
    fn page(&mut self, records: &[(RecordId, Record)]) -> Result<Page, StoreError> {
        let looked_at = records.len() as u64;
        let (mut read, mut excluded) = (0, 0);
        let (mut text, mut ends, mut places) = (String::new(), Vec::new(), Vec::new());
        let (mut ids, mut events) = (Vec::new(), Vec::new());
        for (id, record) in records {
            let changed = self.since.is_none_or(|since| record.modified > since);
            if !changed || !self.names.domain_groups.contains_key(&record.space) {
                continue;
            }
            let own_events = match self.events || self.membership.needs_events() {
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
            if !self.consents(record) || !self.append(*id, record, &segments, &mut text, &mut ends) {
                excluded += 1;
                continue;
            }
            places.push((places.len() as u64, places.len() as u64 + 1));
            ids.push(*id);
            if self.events {
                events.push(own_events);
            }
        }
        let end = places.len() as u64;
        let batch = RecordBatch::new(Arc::clone(&self.header), text, ends, places, Vec::new(), end);
        let batch = batch.ok_or(StoreError::Damaged("a text"))?;
        Ok(Page { batch, ids, events, looked_at, read, excluded })
    }

    /// The segments of which it could not be told whether they hold, how often, and why.
    pub(crate) fn untold(&self) -> impl Iterator<Item = Untold> + '_ {
        self.membership.untold()
    }

    fn consents(&self, record: &Record) -> bool {
        if self.objectives.is_empty() {
            return true;
        }
        let values = |id: Option<PropertyId>| id.map(|id| record.values(id)).unwrap_or_default();
        let (consented, refused) = (values(self.consented), values(self.refused));
        self.objectives.iter().any(|objective| consented.contains(objective) && !refused.contains(objective))
    }

    /// Appends a profile's cells; `false`, and nothing, if it has no value for any column.
    fn append(
        &self,
        id: RecordId,
        record: &Record,
        segments: &[bool],
        text: &mut String,
        ends: &mut Vec<u32>,
    ) -> bool {
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
            return false;
        }
        for (column, held) in self.columns.iter().zip(held) {
            match (column, held) {
                (Column::Property(cells), Some(held)) => cells.property(held, text),
                (Column::Property(_), None) => {}
                (Column::ProfileId, _) => text.push_str(&id.to_string()),
                (Column::Created(cells), _) => cells.milliseconds(record.created, text),
                (Column::Modified(cells), _) => cells.milliseconds(record.modified, text),
                (Column::Segments(names), _) => {
                    let names = names.iter().filter(|(_, place)| segments.get(*place) == Some(&true));
                    self.join(names.map(|(name, _)| *name), text);
                }
                (Column::Lifecycles(lifecycles), _) => {
                    let stages = lifecycles.iter().filter_map(|stages| {
                        let mut stages = stages.iter();
                        stages.find(|(_, place)| segments.get(*place) == Some(&true))
                    });
                    self.join(stages.map(|(stage, _)| stage.as_str()), text);
                }
                (Column::Text(own), _) => text.push_str(own),
            }
            ends.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        }
        true
    }

    fn join<'t>(&self, parts: impl Iterator<Item = &'t str>, text: &mut String) {
        for (place, part) in parts.enumerate() {
            if place > 0 {
                text.push_str(&self.goal.values.list_separator);
            }
            text.push_str(part);
        }
    }
}

impl Worker for Rows<'_> {
    type Done = Page;

    fn work(&mut self, records: &[(RecordId, Record)]) -> Result<Page, StoreError> {
        self.page(records)
    }
}

impl Cells<'_> {
    /// Writes the values of a packed property.
    fn property(&self, held: &[u8], text: &mut String) {
        for (place, value) in packed_values(held).enumerate() {
            if place > 0 {
                text.push_str(&self.format.list_separator);
            }
            self.value(value, text);
        }
    }

    fn value(&self, value: &[u8], text: &mut String) {
        match self.value_type {
            ValueType::Date if self.format.date.is_some() => match unpack_value(value) {
                Some(Value::Date(date)) => self.date(date, text),
                _ => text.push_str(&packed_text(value)),
            },
            ValueType::DateTime if self.format.datetime.is_some() => match unpack_value(value) {
                Some(Value::DateTime(moment)) => self.moment(moment, text),
                _ => text.push_str(&packed_text(value)),
            },
            ValueType::Number if self.format.decimal != '.' => {
                text.extend(
                    packed_text(value).chars().map(|c| if c == '.' { self.format.decimal } else { c }),
                );
            }
            _ => text.push_str(&packed_text(value)),
        }
    }

    fn date(&self, date: Date, text: &mut String) {
        match &self.format.date {
            Some(format) => text.push_str(&date.strftime(format).to_string()),
            None => text.push_str(&date.to_string()),
        }
    }

    fn moment(&self, moment: Timestamp, text: &mut String) {
        match &self.format.datetime {
            Some(format) => {
                let zoned = ZonedDateTime::new(moment, self.timezone.clone());
                text.push_str(&zoned.strftime(format).to_string());
            }
            None => text.push_str(&moment.to_string()),
        }
    }

    fn milliseconds(&self, milliseconds: i64, text: &mut String) {
        if let Ok(moment) = Timestamp::from_millisecond(milliseconds) {
            self.moment(moment, text);
        }
    }
}

/// Writes the cells of events and their nested rows.
pub(crate) struct EventCells<'a> {
    goal: &'a ExportGoal,
}

impl<'a> EventCells<'a> {
    pub(crate) fn new(goal: &'a ExportGoal) -> Self {
        Self { goal }
    }

    /// The cells of properties that are in the order of their ids, for these columns.
    pub(crate) fn cells(
        &self,
        held: &[(PropertyId, sluicebox_model::Property)],
        columns: &[(Option<PropertyId>, ValueType)],
    ) -> Vec<String> {
        let cell = |(id, value_type): &(Option<PropertyId>, ValueType)| {
            let mut text = String::new();
            let found = id.and_then(|id| held.binary_search_by_key(&id, |(held, _)| *held).ok());
            if let Some((_, property)) = found.and_then(|place| held.get(place)) {
                let mut packed = Vec::new();
                sluicebox_model::packed::pack_property(property, &mut packed);
                self.of(*value_type).property(&packed, &mut text);
            }
            text
        };
        columns.iter().map(cell).collect()
    }

    /// The cell of an event's time.
    pub(crate) fn time(&self, time: Timestamp) -> String {
        let mut text = String::new();
        self.of(ValueType::DateTime).moment(time, &mut text);
        text
    }

    fn of(&self, value_type: ValueType) -> Cells<'a> {
        Cells { value_type, format: &self.goal.values, timezone: &self.goal.timezone }
    }
}
