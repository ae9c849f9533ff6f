use std::ops::Range;

use compact_str::CompactString;
use sluicebox_model::{
    CellFormat, Event, EventTouch, EventTypeId, Identifier, LinkedRow, LinkedRows, MergeRule, Properties,
    Property, RecordBatch, RecordId, Value, at_path,
};

use crate::plan::{EventPlan, FieldPlan, Plan, ValuePlan};
use crate::rules::Change;

/// A batch whose cells have become values.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) batch: RecordBatch,
    pub(crate) rows: Vec<Row>,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) writes: Vec<Write>,
    pub(crate) events: Vec<RowEvent>,
    pub(crate) keys: Keys,
    memory_of_events: usize,
}

/// A row that the processors kept.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its place in the batch.
    pub index: usize,
    pub lookups: Range<u32>,
    pub writes: Range<u32>,
    pub events: Range<u32>,
    /// Cells that do not fit their property, those of events included.
    pub misfits: u32,
    /// Events without a time.
    pub events_rejected: u32,
}

/// An event that a row carries.
#[derive(Debug)]
pub(crate) struct RowEvent {
    pub event_type: EventTypeId,
    pub id: CompactString,
    pub event: Event,
    /// Whether it is older than its type is kept.
    pub expired: bool,
}

/// An identifier cell with a value.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The value of a unique property, by the number of its key.
    Property { identifier: usize, value: Value, key: u32 },
    /// A record's own id.
    Record(RecordId),
}

/// A mapped cell that may change something.
#[derive(Debug)]
pub(crate) struct Write {
    /// The place in `Plan::fields`.
    pub field: usize,
    pub change: Change,
    /// For a unique property, the number of the first value's key; the others follow.
    pub key: u32,
}

/// Canonical identifiers, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Keys {
    fn push(&mut self, plan: &Plan, property: sluicebox_model::PropertyId, value: &Value) -> u32 {
        Identifier::write(plan.space, property, value, &mut self.bytes);
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        self.len() - 1
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn get(&self, key: u32) -> &[u8] {
        let key = key as usize;
        let from = key.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| *end as usize);
        let to = self.ends.get(key).map_or(from, |end| *end as usize);
        self.bytes.get(from..to).unwrap_or_default()
    }
}

impl Prepared {
    /// The number of the file's records that precede the one after this batch.
    pub fn end(&self) -> u64 {
        self.batch.end
    }

    /// How many records of the file this batch accounts for.
    pub fn records(&self) -> usize {
        self.batch.rows() + self.batch.rejected.len()
    }

    /// About how many bytes of memory it takes.
    pub fn memory(&self) -> usize {
        self.batch.memory()
            + self.writes.len() * 72
            + self.lookups.len() * 48
            + self.keys.bytes.len() * 2
            + self.memory_of_events
    }

    /// How many bytes of the file had been read when the batch was complete.
    pub fn bytes_read(&self) -> u64 {
        self.batch.bytes_read
    }
}

/// Reads the mapped cells of the rows that the processors kept, from record number `from` of the file on. `linked[n]` is
/// what belongs to the n-th row of the batch; without linked files it is empty.
pub fn prepare(plan: &Plan, batch: RecordBatch, linked: &[Vec<LinkedRows>], from: u64) -> Prepared {
    let mut lookups = Vec::with_capacity(batch.rows() * plan.identifiers.len());
    let mut writes = Vec::with_capacity(batch.rows() * plan.fields.len());
    let mut rows = Vec::with_capacity(batch.rows());
    let (mut keys, mut events, mut memory_of_events) = (Keys::default(), Vec::new(), 0);
    for index in batch.kept().filter(|row| batch.place(*row).0 >= from) {
        let (first_lookup, first_write, mut misfits) = (lookups.len(), writes.len(), 0);
        for (place, identifier) in plan.identifiers.iter().enumerate() {
            let cell = batch.cell(index, identifier.column);
            if cell.is_empty() {
                continue;
            }
            match identifier.property {
                None => match cell.parse() {
                    Ok(id) => lookups.push(Lookup::Record(id)),
                    Err(_) => misfits += 1,
                },
                Some(property) => match identifier.format.parse(cell) {
                    Ok(value) => {
                        let key = keys.push(plan, property, &value);
                        lookups.push(Lookup::Property { identifier: place, value, key });
                    }
                    Err(_) => misfits += 1,
                },
            }
        }
        for (place, field) in plan.fields.iter().enumerate() {
            let (change, misfit) = read(field, batch.cell(index, field.column));
            misfits += u32::from(misfit);
            let Some(change) = change else { continue };
            let key = keys.len();
            if let (true, Change::Write(property)) = (field.unique, &change) {
                for value in property.values() {
                    keys.push(plan, field.property, value);
                }
            }
            writes.push(Write { field: place, change, key });
        }
        let (first_event, mut events_rejected) = (events.len(), 0);
        let linked = linked.get(index).map_or(&[][..], Vec::as_slice);
        let mut take = |event: Option<RowEvent>| match event {
            Some(event) => {
                memory_of_events += event.event.memory();
                events.push(event);
            }
            None => events_rejected += 1,
        };
        for plan in &plan.events {
            if plan.path.is_empty() {
                take(event(plan, &|column| batch.cell(index, column), linked, &mut misfits));
            }
            for row in at_path(linked, &plan.path) {
                take(event(plan, &|column| row.cells.cell(column), &row.below, &mut misfits));
            }
        }
        rows.push(Row {
            index,
            lookups: range(first_lookup, lookups.len()),
            writes: range(first_write, writes.len()),
            events: range(first_event, events.len()),
            misfits,
            events_rejected,
        });
    }
    Prepared { batch, rows, lookups, writes, events, keys, memory_of_events }
}

/// The event of a row, or `None` where it has no time.
fn event<'c>(
    plan: &EventPlan,
    cell: &dyn Fn(usize) -> &'c str,
    below: &[LinkedRows],
    misfits: &mut u32,
) -> Option<RowEvent> {
    let time = plan.time_format.parse_moment(cell(plan.time))?;
    let nested = plan.nested.iter().map(|nested| {
        let own = |row: &&LinkedRow| properties(&nested.fields, &|column| row.cells.cell(column), misfits);
        (nested.nested_type, at_path(below, &nested.path).iter().map(own).collect())
    });
    let nested = nested.collect::<Vec<_>>();
    let event = Event {
        time,
        properties: properties(&plan.fields, cell, misfits),
        nested: nested.into_iter().filter(|(_, rows): &(_, Vec<_>)| !rows.is_empty()).collect(),
        product_store: plan.product_store,
        touch: EventTouch::default(),
    };
    let id = match plan.id.map(cell).unwrap_or_default() {
        "" => event.content_id(),
        id => id.into(),
    };
    let expired = plan.keep_from.is_some_and(|from| time < from);
    Some(RowEvent { event_type: plan.event_type, id, event, expired })
}

fn properties<'c>(fields: &[ValuePlan], cell: &dyn Fn(usize) -> &'c str, misfits: &mut u32) -> Properties {
    let mut properties = Properties::with_capacity(fields.len());
    for field in fields {
        let (value, misfit) =
            values(&field.format, field.multiple, field.separator.as_deref(), cell(field.column));
        *misfits += u32::from(misfit);
        properties.extend(value.map(|value| (field.property, value)));
    }
    properties
}

fn range(from: usize, to: usize) -> Range<u32> {
    u32::try_from(from).unwrap_or(u32::MAX)..u32::try_from(to).unwrap_or(u32::MAX)
}

/// What a cell asks for, and whether it, or a part of it, does not fit.
fn read(field: &FieldPlan, cell: &str) -> (Option<Change>, bool) {
    match values(&field.format, field.multiple, field.separator.as_deref(), cell) {
        (Some(property), misfit) => (Some(Change::Write(property)), misfit),
        (None, false) if field.rule == MergeRule::SetOrClear => (Some(Change::Clear), false),
        (None, misfit) => (None, misfit),
    }
}

/// What a cell holds, and whether it, or a part of it, does not fit. A cell of separators alone is an empty one.
fn values(
    format: &CellFormat,
    multiple: bool,
    separator: Option<&str>,
    cell: &str,
) -> (Option<Property>, bool) {
    if cell.is_empty() {
        return (None, false);
    }
    if !multiple {
        return match format.parse(cell) {
            Ok(value) => (Some(Property::One(value)), false),
            Err(_) => (None, true),
        };
    }
    let (mut values, mut misfit) = (Vec::new(), false);
    let mut take = |part: &str| match format.parse(part) {
        _ if part.is_empty() => {}
        Ok(value) if !values.contains(&value) => values.push(value),
        Ok(_) => {}
        Err(_) => misfit = true,
    };
    match separator {
        Some(separator) => cell.split(separator).for_each(|part| take(part.trim())),
        None => take(cell),
    }
    ((!values.is_empty()).then_some(Property::Many(values)), misfit)
}
