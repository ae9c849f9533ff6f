use std::collections::HashSet;
use std::num::NonZero;
use std::ops::Range;

use compact_str::CompactString;
use sluicebox_model::packed::{
    Unpacker, pack_number, pack_shape, pack_short_text, pack_text, packed_text_bytes, packed_values,
};
use sluicebox_model::{
    CellFormat, Event, EventTouch, EventTypeId, Identifier, IdentifierHash, LinkedRow, LinkedRows, MergeRule,
    Properties, Property, PropertyId, RecordBatch, RecordId, RejectedRow, RejectionCode, ValueType, Verdict,
    at_path,
};

use crate::plan::{EventPlan, FieldPlan, Plan, ValuePlan};
use crate::rules::begins;

/// A list of more values is looked through by their hashes.
pub(crate) const FEW_VALUES: usize = 32;

/// Room in which the rows of one batch after the other are packed.
#[derive(Debug, Default)]
pub struct Room {
    packed: Vec<u8>,
    keys: Keys,
}

/// A batch whose cells have become packed values.
#[derive(Debug)]
pub struct Prepared {
    /// The rows as the file has them, where one may still be rejected.
    pub(crate) batch: Option<RecordBatch>,
    /// Rows that the processors kept, and where one after the last would begin.
    rows: Vec<Begin>,
    /// The same of their events, if rows carry any.
    rows_events: Vec<BeginEvents>,
    /// The place in the file of the batch's first row.
    first: u64,
    /// Rows that were rejected while reading or by a processor, by number.
    pub(crate) rejected: Vec<RejectedRow>,
    /// The numbers of rows that a processor dropped.
    pub(crate) dropped: Vec<u64>,
    pub(crate) lookups: Vec<Lookup>,
    /// Records' own ids.
    ids: Vec<RecordId>,
    pub(crate) events: Vec<RowEvent>,
    pub(crate) keys: Keys,
    /// Each row's writes, packed.
    packed: Vec<u8>,
    /// Whether some of them are of one property, and each comes after the place of its field.
    repeated: bool,
    /// For each write of a unique property, the number of the first value's key; the others follow.
    written_keys: Vec<u32>,
    /// Values of lookups, packed, where the key does not tell them.
    values: Vec<u8>,
    pub(crate) end: u64,
    records: usize,
    bytes_read: u64,
    memory: usize,
}

/// Where the parts of a row begin; they end where those of the next begin.
#[derive(Clone, Copy, Debug, Default)]
struct Begin {
    /// The row's place in the file after that of the batch's first.
    number: u32,
    first_key: u32,
    lookups: u32,
    writes: u32,
    written_keys: u32,
    misfits: u32,
    /// Whether its writes are not what a new record holds.
    differs: bool,
}

/// Where a row's events begin, and how many of them have no time.
#[derive(Clone, Copy, Debug, Default)]
struct BeginEvents {
    first: u32,
    rejected: u32,
}

/// A row that the processors kept.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its place in the file.
    pub number: u64,
    /// Its keys.
    pub keys: Range<u32>,
    pub lookups: Range<u32>,
    /// Its [`Write`]s, as bytes of `packed`.
    pub writes: Range<u32>,
    /// The first keys of those of unique properties, by their places in `written_keys`.
    pub written_keys: Range<u32>,
    /// Whether a new record holds what is written as it is, each unique property one value.
    pub is_record: bool,
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
    /// The value of a unique property, by the number of its key; and where in `values` it begins, if the key does not tell it.
    Property { identifier: u16, value: Option<NonZero<u32>>, key: u32 },
    /// A record's own id, by its place in `ids`.
    Record(u32),
}

/// A mapped cell that may change something. A row's writes are packed as the properties of a record are: a new one mostly takes them as
/// they are. An empty cell is a list without values, which no record has.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    /// The place in `Plan::fields`.
    pub field: usize,
    /// For a unique property, the number of the first value's key; the others follow.
    pub key: u32,
    /// What the cell holds; `None` = it is empty.
    pub property: Option<&'a [u8]>,
}

/// The writes of a row, in the order of their fields.
pub(crate) struct Writes<'a> {
    fields: &'a [FieldPlan],
    /// The place of the first field that the next may be of.
    field: usize,
    repeated: bool,
    packed: Unpacker<'a>,
    keys: &'a [u32],
}

impl<'a> Iterator for Writes<'a> {
    type Item = Write<'a>;

    #[inline]
    fn next(&mut self) -> Option<Write<'a>> {
        if self.repeated {
            self.field = self.packed.length()?;
        }
        let (id, property) = self.packed.entry()?;
        let of = self.fields.get(self.field..)?.iter().position(|field| field.property == id)?;
        let place = self.field + of;
        self.field = place + 1;
        let property = Some(property).filter(|property| *property != NO_VALUES);
        let mut key = 0;
        if property.is_some() && self.fields.get(place)?.unique {
            (key, self.keys) = self.keys.split_first().map(|(first, rest)| (*first, rest))?;
        }
        Some(Write { field: place, key, property })
    }
}

/// A list without values.
const NO_VALUES: &[u8] = &[1];

/// Canonical identifiers, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// The hash of each, until `Gathered` has them.
    pub(crate) hashes: Vec<IdentifierHash>,
}

impl Keys {
    fn push(&mut self, plan: &Plan, property: PropertyId, value: &[u8]) -> u32 {
        // None is there twice beyond the last.
        self.push_once(plan, property, value, self.len())
    }

    /// Adds a key, if none from `first` on is the same; answers with the one that is there.
    fn push_once(&mut self, plan: &Plan, property: PropertyId, value: &[u8], first: u32) -> u32 {
        let begins = self.bytes.len();
        Identifier::write(plan.space, property, &packed_text_bytes(value), &mut self.bytes);
        let key = self.bytes.get(begins..).unwrap_or_default();
        if let Some(same) = (first..self.len()).find(|other| self.get(*other) == key) {
            self.bytes.truncate(begins);
            return same;
        }
        self.hashes.push(plan.hasher.hash(key));
        self.ends.push(place(self.bytes.len()));
        self.len() - 1
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

impl Room {
    fn clear(&mut self) {
        self.packed.clear();
        self.keys.bytes.clear();
        self.keys.ends.clear();
        self.keys.hashes.clear();
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

    /// The writes of a row.
    pub(crate) fn writes<'a>(&'a self, plan: &'a Plan, row: &Row) -> Writes<'a> {
        let (packed, keys) = (Unpacker(self.packed_writes(row)), self.written_keys(row));
        Writes { fields: &plan.fields, field: 0, repeated: self.repeated, packed, keys }
    }

    /// The same as bytes.
    pub(crate) fn packed_writes(&self, row: &Row) -> &[u8] {
        self.packed.get(row.writes.start as usize..row.writes.end as usize).unwrap_or_default()
    }

    /// For each write of a unique property, the first value's key.
    pub(crate) fn written_keys(&self, row: &Row) -> &[u32] {
        let Range { start, end } = row.written_keys;
        self.written_keys.get(start as usize..end as usize).unwrap_or_default()
    }

    /// How many rows the processors kept.
    pub(crate) fn kept(&self) -> usize {
        self.rows.len().saturating_sub(1)
    }

    /// A row that the processors kept, by its place among them.
    pub(crate) fn row(&self, place: usize) -> Option<Row> {
        let [row, next] = self.rows.get(place..)?.first_chunk()?;
        let events = self.rows_events.get(place..).and_then(|rows| rows.first_chunk());
        let [events, next_events] = events.copied().unwrap_or_default();
        Some(Row {
            number: self.first + u64::from(row.number),
            keys: row.first_key..next.first_key,
            lookups: row.lookups..next.lookups,
            writes: row.writes..next.writes,
            written_keys: row.written_keys..next.written_keys,
            is_record: !row.differs,
            events: events.first..next_events.first,
            misfits: row.misfits,
            events_rejected: events.rejected,
        })
    }

    /// The rows that the processors kept.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        (0..self.kept()).filter_map(|place| self.row(place))
    }

    /// The keys of each of those rows.
    pub(crate) fn keys_of_rows(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.rows.array_windows().map(|[row, next]| row.first_key..next.first_key)
    }

    /// Appends the packed value of a lookup.
    pub(crate) fn pack_value(&self, value: Option<NonZero<u32>>, key: u32, out: &mut Vec<u8>) {
        match value {
            Some(begins) => {
                let mut values = Unpacker(self.values.get(begins.get() as usize..).unwrap_or_default());
                out.extend_from_slice(values.skip_value().unwrap_or_default());
            }
            None => pack_text(Identifier::short_text(self.keys.get(key)).unwrap_or_default(), out),
        }
    }

    /// Records' own ids by which rows look them up.
    pub(crate) fn ids(&self) -> &[RecordId] {
        &self.ids
    }

    /// One of them, by its place.
    pub(crate) fn id(&self, place: u32) -> Option<RecordId> {
        self.ids.get(place as usize).copied()
    }

    /// Lets it take so many bytes more, for a test.
    #[cfg(test)]
    pub(crate) fn lengthen(&mut self, bytes: usize) {
        self.memory += bytes;
    }

    fn measure(&self) -> usize {
        let events: usize = self.events.iter().map(|event| event.event.memory()).sum();
        let rejected: usize = self.rejected.iter().map(RejectedRow::memory).sum();
        self.batch.as_ref().map_or(0, RecordBatch::memory)
            + self.rows.len() * size_of::<Begin>()
            + self.rows_events.len() * size_of::<BeginEvents>()
            + self.lookups.len() * size_of::<Lookup>()
            + self.ids.len() * size_of::<RecordId>()
            + self.values.len()
            + self.packed.len()
            + self.written_keys.len() * size_of::<u32>()
            // The keys are sorted and found by more than their bytes.
            + self.keys.bytes.len()
            + self.keys.ends.len() * 56
            + events
            + rejected
    }
}

/// Reads the mapped cells of the rows that the processors kept, from record number `from` of the file on. `linked[n]` is
/// what belongs to the n-th row of the batch; without linked files it is empty.
pub fn prepare(
    plan: &Plan,
    mut batch: RecordBatch,
    linked: &[Vec<LinkedRows>],
    from: u64,
    room: &mut Room,
) -> Prepared {
    let rows = batch.rows();
    let Room { packed, keys } = std::mem::take(room);
    let mut prepared = Prepared {
        batch: None,
        rows: Vec::with_capacity(rows + 1),
        rows_events: Vec::new(),
        first: batch.place(0).0,
        rejected: std::mem::take(&mut batch.rejected),
        dropped: Vec::new(),
        lookups: Vec::with_capacity(rows * plan.identifiers.len()),
        events: Vec::new(),
        ids: Vec::new(),
        keys,
        packed,
        repeated: plan.fields.array_windows().any(|[field, next]| field.property == next.property),
        written_keys: Vec::with_capacity(rows * plan.fields.iter().filter(|field| field.unique).count()),
        // No value begins at 0.
        values: vec![0],
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
    prepared.rows.push(prepared.begin());
    if !plan.events.is_empty() {
        prepared.rows_events.push(prepared.begin_events());
    }
    // What stays until all of a stretch is there takes no more room than it must.
    let (keys, packed) = (prepared.keys.clone(), prepared.packed.clone());
    room.keys = std::mem::replace(&mut prepared.keys, keys);
    room.packed = std::mem::replace(&mut prepared.packed, packed);
    room.clear();
    prepared.batch = plan.may_be_ambiguous().then_some(batch);
    prepared.memory = prepared.measure();
    prepared
}

impl Prepared {
    /// Where a row that comes now begins.
    fn begin(&self) -> Begin {
        let lengths = [self.keys.ends.len(), self.lookups.len(), self.packed.len(), self.written_keys.len()];
        let [first_key, lookups, writes, written_keys] = lengths.map(place);
        Begin { first_key, lookups, writes, written_keys, differs: self.repeated, ..Begin::default() }
    }

    fn begin_events(&self) -> BeginEvents {
        BeginEvents { first: place(self.events.len()), rejected: 0 }
    }

    fn read_row(&mut self, plan: &Plan, batch: &RecordBatch, index: usize, linked: &[LinkedRows]) -> Begin {
        let mut begin = self.begin();
        let mut misfits = 0;
        for (identifier, number) in plan.identifiers.iter().zip(0..) {
            let cell = batch.cell(index, identifier.column);
            if cell.is_empty() {
                continue;
            }
            let lookup = match identifier.property {
                None => cell.parse().ok().map(|id| {
                    self.ids.push(id);
                    Lookup::Record(place(self.ids.len() - 1))
                }),
                Some(property) => self.look_up(plan, number, property, &identifier.format, cell),
            };
            match lookup {
                Some(lookup) => self.lookups.push(lookup),
                None => misfits += 1,
            }
        }
        for (number, field) in plan.fields.iter().enumerate() {
            let cell = batch.cell(index, field.column);
            misfits += u32::from(!self.read_field(plan, number, field, cell, &mut begin));
        }
        let mut events = self.begin_events();
        let mut take = |event: Option<RowEvent>| match event {
            Some(event) => self.events.push(event),
            None => events.rejected += 1,
        };
        for plan in &plan.events {
            if plan.path.is_empty() {
                take(event(plan, &|column| batch.cell(index, column), linked, &mut misfits));
            }
            for row in at_path(linked, &plan.path) {
                take(event(plan, &|column| row.cells.cell(column), &row.below, &mut misfits));
            }
        }
        if !plan.events.is_empty() {
            self.rows_events.push(events);
        }
        let number = u32::try_from(batch.place(index).0.saturating_sub(self.first)).unwrap_or(u32::MAX);
        Begin { number, misfits, ..begin }
    }

    /// The lookup of an identifier cell, if it fits.
    fn look_up(
        &mut self,
        plan: &Plan,
        identifier: u16,
        property: PropertyId,
        format: &CellFormat,
        cell: &str,
    ) -> Option<Lookup> {
        let begins = self.values.len();
        format.pack(cell, &mut self.values).ok()?;
        let value = self.values.get(begins..).unwrap_or_default();
        let key = self.keys.push(plan, property, value);
        let told =
            format.value_type == ValueType::Text && Identifier::short_text(self.keys.get(key)).is_some();
        if told {
            self.values.truncate(begins);
        }
        let value = if told { None } else { NonZero::new(place(begins)) };
        Some(Lookup::Property { identifier, value, key })
    }

    /// Appends what a cell of the row that begins there asks for, if anything; answers whether all of it fits.
    fn read_field(
        &mut self,
        plan: &Plan,
        number: usize,
        field: &FieldPlan,
        cell: &str,
        row: &mut Begin,
    ) -> bool {
        if cell.is_empty() && field.rule != MergeRule::SetOrClear {
            return true;
        }
        let start = self.packed.len();
        if self.repeated {
            pack_number(number as u64, &mut self.packed);
        }
        // As nearly every cell is.
        let plain = !field.multiple && !field.unique && field.format.value_type == ValueType::Text;
        if plain && !cell.is_empty() && pack_short_text(field.property, cell, &mut self.packed) {
            row.differs |= matches!(field.rule, MergeRule::Add | MergeRule::Sum);
            return true;
        }
        pack_number(field.property.0.into(), &mut self.packed);
        let begins_at = self.packed.len();
        let fits = match (field.multiple, cell) {
            (_, "") => true,
            (false, cell) => {
                pack_shape(None, &mut self.packed);
                field.format.pack(cell, &mut self.packed).is_ok()
            }
            (true, cell) => pack_list(field, cell, &mut self.packed),
        };
        let property = self.packed.get(begins_at..).unwrap_or_default();
        if property.len() <= usize::from(!field.multiple) {
            let clears = fits && field.rule == MergeRule::SetOrClear;
            self.packed.truncate(if clears { begins_at } else { start });
            if clears {
                self.packed.extend_from_slice(NO_VALUES);
                row.differs = true;
            }
            return fits;
        }
        row.differs |= !begins(field.rule, property);
        if field.unique {
            row.differs |= field.rule == MergeRule::Sum || packed_values(property).nth(1).is_some();
            let key = self.key_field(plan, field, begins_at, row.first_key);
            self.written_keys.push(key);
        }
        fits
    }

    /// Gives the values of a unique property, which ends `packed`, their keys; answers with the first.
    fn key_field(&mut self, plan: &Plan, field: &FieldPlan, property: usize, first_key: u32) -> u32 {
        let property = self.packed.get(property..).unwrap_or_default();
        if !field.multiple {
            // Nearly always it is what an identifier of the row has looked up.
            let value = packed_values(property).next().unwrap_or_default();
            return self.keys.push_once(plan, field.property, value, first_key);
        }
        let first = self.keys.len();
        for value in packed_values(property) {
            self.keys.push(plan, field.property, value);
        }
        first
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

/// Appends the values of a list, each once; answers whether all of them fit. A cell of separators alone is an empty one.
fn pack_list(field: &FieldPlan, cell: &str, packed: &mut Vec<u8>) -> bool {
    let (start, mut fits, mut count) = (packed.len(), true, 0);
    // Nearly every shape is one byte.
    packed.push(0);
    let mut seen: HashSet<Box<[u8]>> = HashSet::new();
    let mut take = |part: &str| {
        let from = packed.len();
        if part.is_empty() || field.format.pack(part, packed).is_err() {
            fits &= part.is_empty();
            return;
        }
        let (before, value) = packed.split_at(from);
        let mut before = Unpacker(before.get(start + 1..).unwrap_or_default());
        let known = if count < FEW_VALUES {
            std::iter::from_fn(|| before.skip_value()).any(|known| known == value)
        } else {
            if seen.is_empty() {
                seen.extend(std::iter::from_fn(|| before.skip_value()).map(Box::from));
            }
            !seen.insert(value.into())
        };
        match known {
            true => packed.truncate(from),
            false => count += 1,
        }
    };
    match field.separator.as_deref() {
        // A split at one character is faster than one at a text.
        Some(separator) if separator.len() == 1 => {
            let separator = separator.as_bytes().first().copied().unwrap_or_default();
            cell.split(char::from(separator)).for_each(|part| take(part.trim()));
        }
        Some(separator) => cell.split(separator).for_each(|part| take(part.trim())),
        None => take(cell),
    }
    if count == 0 {
        packed.truncate(start);
        return fits;
    }
    match (u8::try_from(count + 1), packed.get_mut(start)) {
        (Ok(shape @ ..0x80), Some(place)) => *place = shape,
        _ => {
            let mut shape = Vec::new();
            pack_shape(Some(count), &mut shape);
            packed.splice(start..=start, shape);
        }
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
    let (mut values, mut seen, mut misfit) = (Vec::new(), HashSet::new(), false);
    let mut take = |part: &str| match format.parse(part) {
        _ if part.is_empty() => {}
        Ok(value) => {
            if seen.insert(value.clone()) {
                values.push(value);
            }
        }
        Err(_) => misfit = true,
    };
    match separator {
        Some(separator) => cell.split(separator).for_each(|part| take(part.trim())),
        None => take(cell),
    }
    ((!values.is_empty()).then_some(Property::Many(values)), misfit)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;
    use sluicebox_model::{NumberFormat, TimeFormat, ValueType};

    use super::*;

    fn field(separator: &str, value_type: ValueType) -> FieldPlan {
        FieldPlan {
            column: 0,
            property: PropertyId(1),
            rule: MergeRule::Add,
            separator: Some(separator.to_owned()),
            multiple: true,
            unique: false,
            format: CellFormat {
                value_type,
                number: NumberFormat::default(),
                time: TimeFormat::Standard,
                timezone: TimeZone::UTC,
            },
        }
    }

    proptest! {
        #[test]
        fn a_list_has_each_of_its_values_once(
            parts in prop::collection::vec("[ab]{0,2}|[0-9]{1,2}", 0..120),
            separator in prop::sample::select(vec!["|", ", ", "é"]),
        ) {
            let cell = parts.join(separator);
            let mut packed = vec![7];
            prop_assert!(pack_list(&field(separator, ValueType::Text), &cell, &mut packed));
            let mut expected: Vec<&[u8]> = Vec::new();
            for part in parts.iter().map(String::as_bytes) {
                if !part.is_empty() && !expected.contains(&part) {
                    expected.push(part);
                }
            }
            let found: Vec<_> = packed_values(&packed[1..]).map(packed_text_bytes).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(packed.len() == 1, expected.is_empty());
        }
    }

    #[test]
    fn a_list_keeps_what_fits() {
        let mut packed = Vec::new();
        assert!(!pack_list(&field("|", ValueType::Number), "1|x|1.0|2", &mut packed));
        let found: Vec<_> = packed_values(&packed).map(packed_text_bytes).collect();
        assert_eq!(found.concat(), b"12");
    }

    #[test]
    fn a_list_of_very_many_values_takes_no_time_to_speak_of() {
        let cell = (0..150_000).map(|number| format!("{number:x}|")).collect::<String>();
        let (mut packed, field) = (Vec::new(), field("|", ValueType::Text));
        assert!(pack_list(&field, &cell, &mut packed));
        assert_eq!(packed_values(&packed).count(), 150_000);
    }
}
