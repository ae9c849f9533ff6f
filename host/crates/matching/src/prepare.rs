use std::ops::Range;

use compact_str::CompactString;
use sluicebox_model::packed::{Unpacker, pack_number, pack_shape, packed_text, packed_values};
use sluicebox_model::{
    CellFormat, Event, EventTouch, EventTypeId, Identifier, LinkedRow, LinkedRows, MergeRule, Properties,
    Property, PropertyId, RecordBatch, RecordId, RejectedRow, RejectionCode, Verdict, at_path,
};

use crate::plan::{EventPlan, FieldPlan, Plan, ValuePlan};

/// A batch whose cells have become packed values.
#[derive(Debug)]
pub struct Prepared {
    /// The rows as the file has them, where one may still be rejected.
    pub(crate) batch: Option<RecordBatch>,
    /// Rows that the processors kept.
    pub(crate) rows: Vec<Row>,
    /// Rows that were rejected while reading or by a processor, by number.
    pub(crate) rejected: Vec<RejectedRow>,
    /// The numbers of rows that a processor dropped.
    pub(crate) dropped: Vec<u64>,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) events: Vec<RowEvent>,
    pub(crate) keys: Keys,
    /// Values, packed: those of lookups, and each row's writes.
    pub(crate) packed: Vec<u8>,
    pub(crate) end: u64,
    records: usize,
    bytes_read: u64,
    memory: usize,
}

/// A row that the processors kept.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its place in the file.
    pub number: u64,
    /// Its place in the batch.
    pub index: u32,
    /// Its first key; the others follow.
    pub first_key: u32,
    pub lookups: Range<u32>,
    /// Its [`Write`]s, as bytes of `packed`.
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
    /// The value of a unique property as bytes of `packed`, by the number of its key.
    Property { identifier: u32, value: Range<u32>, key: u32 },
    /// A record's own id.
    Record(RecordId),
}

/// A mapped cell that may change something. Packed, it is the place of the field, for a unique property the number of
/// the first value's key among those of the row, and 0 for an empty cell or 1 and the property.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    /// The place in `Plan::fields`.
    pub field: usize,
    /// For a unique property, the number of the first value's key; the others follow.
    pub key: u32,
    /// What the cell holds; `None` = it is empty.
    pub property: Option<&'a [u8]>,
}

impl<'a> Write<'a> {
    /// Reads the next of a row's writes.
    pub(crate) fn next(plan: &Plan, row: &Row, packed: &mut Unpacker<'a>) -> Option<Self> {
        let field = packed.length()?;
        let key = if plan.fields.get(field)?.unique { row.first_key + packed.number::<u32>()? } else { 0 };
        let property = if packed.byte()? == 0 { None } else { Some(packed.skip_property()?) };
        Some(Self { field, key, property })
    }
}

/// Canonical identifiers, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Keys {
    fn push(&mut self, plan: &Plan, property: PropertyId, value: &[u8]) -> u32 {
        Identifier::write(plan.space, property, &packed_text(value), &mut self.bytes);
        self.ends.push(place(self.bytes.len()));
        self.len() - 1
    }

    /// Takes the last key away if an earlier one, from `first` on, is the same; answers with the one that is left.
    fn once(&mut self, first: u32) -> u32 {
        let last = self.len() - 1;
        match (first..last).find(|key| self.get(*key) == self.get(last)) {
            Some(same) => {
                self.ends.pop();
                self.bytes.truncate(self.ends.last().map_or(0, |end| *end as usize));
                same
            }
            None => last,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        place(self.ends.len())
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
        self.end
    }

    /// How many records of the file this batch accounts for.
    pub fn records(&self) -> usize {
        self.records
    }

    /// About how many bytes of memory it takes.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// How many bytes of the file had been read when the batch was complete.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The packed bytes of a range.
    pub(crate) fn packed(&self, range: &Range<u32>) -> &[u8] {
        self.packed.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    fn measure(&self) -> usize {
        let events: usize = self.events.iter().map(|event| event.event.memory()).sum();
        let rejected: usize = self.rejected.iter().map(RejectedRow::memory).sum();
        self.batch.as_ref().map_or(0, RecordBatch::memory)
            + self.rows.len() * size_of::<Row>()
            + self.lookups.len() * size_of::<Lookup>()
            + self.packed.len()
            // The keys are sorted and found by more than their bytes.
            + self.keys.bytes.len()
            + self.keys.ends.len() * 40
            + events
            + rejected
    }
}

/// Reads the mapped cells of the rows that the processors kept, from record number `from` of the file on. `linked[n]` is
/// what belongs to the n-th row of the batch; without linked files it is empty.
pub fn prepare(plan: &Plan, mut batch: RecordBatch, linked: &[Vec<LinkedRows>], from: u64) -> Prepared {
    let rows = batch.rows();
    let mut prepared = Prepared {
        batch: None,
        rows: Vec::with_capacity(rows),
        rejected: std::mem::take(&mut batch.rejected),
        dropped: Vec::new(),
        lookups: Vec::with_capacity(rows * plan.identifiers.len()),
        events: Vec::new(),
        keys: Keys::default(),
        packed: Vec::with_capacity(batch.memory()),
        end: batch.end,
        records: 0,
        bytes_read: batch.bytes_read,
        memory: 0,
    };
    prepared.records = rows + prepared.rejected.len();
    prepared.rejected.retain(|row| row.number >= from);
    let read_in_order = prepared.rejected.len();
    for index in (0..rows).filter(|row| batch.place(*row).0 >= from) {
        match batch.verdict(index) {
            Verdict::Keep => {
                let linked = linked.get(index).map_or(&[][..], Vec::as_slice);
                let row = prepared.read_row(plan, &batch, index, linked);
                prepared.rows.push(row);
            }
            Verdict::Drop => prepared.dropped.push(batch.place(index).0),
            Verdict::Reject { code, reason } => {
                let code = RejectionCode::Processor(code.clone());
                prepared.rejected.push(batch.reject(index, code, reason.clone()));
            }
        }
    }
    if prepared.rejected.len() > read_in_order {
        prepared.rejected.sort_by_key(|row| row.number);
    }
    prepared.packed.shrink_to_fit();
    prepared.batch = plan.may_be_ambiguous().then_some(batch);
    prepared.memory = prepared.measure();
    prepared
}

impl Prepared {
    fn read_row(&mut self, plan: &Plan, batch: &RecordBatch, index: usize, linked: &[LinkedRows]) -> Row {
        let (first_key, first_lookup, mut misfits) = (self.keys.len(), self.lookups.len(), 0);
        for (identifier, number) in plan.identifiers.iter().zip(0..) {
            let cell = batch.cell(index, identifier.column);
            if cell.is_empty() {
                continue;
            }
            let lookup = match identifier.property {
                None => cell.parse().ok().map(Lookup::Record),
                Some(property) => {
                    let start = self.packed.len();
                    identifier.format.pack(cell, &mut self.packed).ok().map(|()| {
                        let value = self.packed.get(start..).unwrap_or_default();
                        let key = self.keys.push(plan, property, value);
                        Lookup::Property { identifier: number, value: range(start, self.packed.len()), key }
                    })
                }
            };
            match lookup {
                Some(lookup) => self.lookups.push(lookup),
                None => misfits += 1,
            }
        }
        let first_write = self.packed.len();
        for (number, field) in plan.fields.iter().enumerate() {
            misfits +=
                u32::from(!self.read_field(plan, number, field, batch.cell(index, field.column), first_key));
        }
        let last_write = self.packed.len();
        let (first_event, mut events_rejected) = (self.events.len(), 0);
        let mut take = |event: Option<RowEvent>| match event {
            Some(event) => self.events.push(event),
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
        Row {
            number: batch.place(index).0,
            index: place(index),
            first_key,
            lookups: range(first_lookup, self.lookups.len()),
            writes: range(first_write, last_write),
            events: range(first_event, self.events.len()),
            misfits,
            events_rejected,
        }
    }

    /// Appends what a cell asks for, if anything; answers whether all of it fits.
    fn read_field(
        &mut self,
        plan: &Plan,
        number: usize,
        field: &FieldPlan,
        cell: &str,
        first_key: u32,
    ) -> bool {
        if cell.is_empty() && field.rule != MergeRule::SetOrClear {
            return true;
        }
        let start = self.packed.len();
        pack_number(number as u64, &mut self.packed);
        let key_at = self.packed.len();
        self.packed.push(1);
        let property_at = self.packed.len();
        let fits = match (field.multiple, cell) {
            (_, "") => true,
            (false, cell) => {
                pack_shape(None, &mut self.packed);
                field.format.pack(cell, &mut self.packed).is_ok()
            }
            (true, cell) => pack_list(field, cell, &mut self.packed),
        };
        let holds = self.packed.len() > property_at + usize::from(!field.multiple);
        if !holds {
            self.packed.truncate(start);
            if fits && field.rule == MergeRule::SetOrClear {
                pack_number(number as u64, &mut self.packed);
                if field.unique {
                    pack_number(0, &mut self.packed);
                }
                self.packed.push(0);
            }
            return fits;
        }
        if field.unique {
            self.key_field(plan, field, key_at, first_key);
        }
        fits
    }

    /// Gives the values of a unique property, which end `packed`, their keys.
    fn key_field(&mut self, plan: &Plan, field: &FieldPlan, key_at: usize, first_key: u32) {
        let property = self.packed.get(key_at + 1..).unwrap_or_default();
        let mut key = self.keys.len();
        for value in packed_values(property) {
            self.keys.push(plan, field.property, value);
        }
        if !field.multiple {
            // Nearly always it is what an identifier of the row has looked up.
            key = self.keys.once(first_key);
        }
        let mut number = Vec::with_capacity(2);
        pack_number((key - first_key).into(), &mut number);
        self.packed.splice(key_at..key_at, number);
    }
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

fn place(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

fn range(from: usize, to: usize) -> Range<u32> {
    place(from)..place(to)
}

/// Appends the values of a list, each once; answers whether all of them fit. A cell of separators alone is an empty one.
fn pack_list(field: &FieldPlan, cell: &str, packed: &mut Vec<u8>) -> bool {
    let (mut values, mut fits) = (Vec::with_capacity(cell.len() + 8), true);
    let mut ends: Vec<(usize, usize)> = Vec::new();
    let mut take = |part: &str| {
        let start = values.len();
        if part.is_empty() {
            return;
        }
        fits &= field.format.pack(part, &mut values).is_ok();
        let value = values.get(start..).unwrap_or_default();
        if value.is_empty() {
            return;
        }
        match ends.iter().any(|(from, to)| values.get(*from..*to) == Some(value)) {
            true => values.truncate(start),
            false => ends.push((start, values.len())),
        }
    };
    match &field.separator {
        Some(separator) => cell.split(separator.as_str()).for_each(|part| take(part.trim())),
        None => take(cell),
    }
    if !ends.is_empty() {
        pack_shape(Some(ends.len()), packed);
        packed.extend_from_slice(&values);
    }
    fits
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
