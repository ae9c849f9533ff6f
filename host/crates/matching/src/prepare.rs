use std::collections::HashSet;
use std::num::NonZero;
use std::ops::Range;

use compact_str::CompactString;
use sluicebox_model::packed::{
    Unpacker, pack_number, pack_shape, pack_short_text, pack_text, packed_text_bytes, packed_values,
};
use sluicebox_model::{
    CellFormat, Event, EventOrigin, EventTouch, EventTypeId, Expected, Identifier, IdentifierHash, LinkedRow,
    LinkedRows, MergeRule, Moment, OrNever, Properties, Property, PropertyId, RecordBatch, RecordId,
    RejectedCell, RejectedRow, RejectedScope, RejectionCode, ValueType, Verdict, at_path, split_list,
};

use crate::index::{Index, KeyIndex};
use crate::plan::{EventPlan, FieldPlan, NestedPlan, Plan, ValuePlan};
use crate::rules::is_stored_as_written;

/// Lists of more values are searched by hash.
pub(crate) const FEW_VALUES: usize = 32;

/// Buffers in which the rows of one batch after the other are packed.
#[derive(Debug, Default)]
pub struct Buffers {
    packed: Vec<u8>,
    keys: Keys,
}

/// A batch whose cells have become packed values.
#[derive(Debug)]
pub struct Prepared {
    /// The rows as the file has them, where rows may still be rejected.
    pub(crate) batch: Option<RecordBatch>,
    /// Where each row that the processors kept starts, and where one after the last would.
    rows: Vec<RowStart>,
    /// Where the events of those rows start, if rows carry any.
    row_events: Vec<RowEventsStart>,
    /// The number in the file of the batch's first row, and its line.
    first: (u64, u64),
    /// Rows that were rejected while reading or by a processor, by number.
    pub(crate) rejected: Vec<RejectedRow>,
    /// By number: the rows of which cells were rejected, and those without an identifier value.
    incomplete: Vec<RejectedRow>,
    /// The numbers of rows that a processor dropped.
    pub(crate) dropped: Vec<u64>,
    pub(crate) lookups: Vec<Lookup>,
    /// The record ids that cells hold.
    ids: Vec<RecordId>,
    pub(crate) events: Vec<RowEvent>,
    pub(crate) keys: Keys,
    /// Each row's writes, packed.
    packed: Vec<u8>,
    /// Whether several fields write one property; each write then starts with the place of its field.
    repeated: bool,
    /// For each write of a unique property, the key of its first value; those of its other values follow.
    written_keys: Vec<KeyIndex>,
    /// Values of lookups, packed, where the key does not hold them.
    values: Vec<u8>,
    pub(crate) end: u64,
    rows_read: usize,
    bytes_read: u64,
    memory: usize,
}

/// Where the parts of a row start; they end where those of the next row start.
#[derive(Clone, Copy, Debug, Default)]
struct RowStart {
    /// The row's number in the file, counted from the batch's first row.
    number: u32,
    /// Its line, counted from that of the batch's first row.
    line: u32,
    first_key: u32,
    lookups: u32,
    writes: u32,
    written_keys: u32,
    rejected_cells: u32,
    /// Whether the packed writes of a new record differ from the values that it holds.
    needs_merge: bool,
}

/// Where a row's events start, and how many of its events have no valid time.
#[derive(Clone, Copy, Debug, Default)]
struct RowEventsStart {
    first: u32,
    rejected: u32,
}

/// A row that the processors kept.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its number in the file.
    pub number: u64,
    /// The physical line where it begins.
    pub line: u64,
    /// Its keys.
    pub keys: Range<u32>,
    pub lookups: Range<u32>,
    /// Its [`Write`]s, as bytes of `packed`.
    pub writes: Range<u32>,
    /// Where `written_keys` has the first keys of its writes of unique properties.
    pub written_keys: Range<u32>,
    /// Whether a new record holds its packed writes unchanged, each unique property with one value.
    pub is_stored_as_packed: bool,
    pub events: Range<u32>,
    /// Cells that do not fit their property's type, those of events included.
    pub rejected_cells: u32,
    /// Events without a valid time.
    pub events_rejected: u32,
}

/// An event that a row carries.
#[derive(Debug)]
pub(crate) struct RowEvent {
    pub event_type: EventTypeId,
    pub id: CompactString,
    pub event: Event,
    /// Whether it is older than the retention of its type.
    pub expired: bool,
    /// Where the row is one of several that may make the event: what else is known of it.
    pub row: Option<Box<EventRow>>,
}

/// A row that is one of several that may make an event.
#[derive(Debug)]
pub(crate) struct EventRow {
    /// Its line in the event's file.
    pub line: u64,
    /// The line of its row of the root file.
    pub root: u64,
    /// Whether it has a time.
    pub time: RowTime,
    /// Whether it was missing of an earlier import.
    pub supplements: bool,
    /// The lines of its nested rows, as the event has them.
    pub nested: Vec<Vec<u64>>,
}

/// The time cell of a row that is one of several that may make an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowTime {
    Valid,
    /// The cell is empty: another row has the time.
    Empty,
    /// The cell is no time.
    Invalid,
}

/// An identifier cell with a value.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The value of a unique property: the place of its column in `Plan::identifiers`, its key, and where it starts in
    /// `values` if the key does not hold it.
    Property { identifier: u16, value: Option<NonZero<u32>>, key: KeyIndex },
    /// A record's own id, by its place in `ids`.
    Record(u32),
}

/// A mapped cell that may change something. The writes of a row are packed as the properties of a record are, so that a new
/// record can usually take them over as bytes. An empty cell is a list without values, which no record holds.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    /// The place in `Plan::fields`.
    pub field: usize,
    /// For a unique property, the key of the first value; those of the others follow.
    pub key: KeyIndex,
    /// The values of the cell; `None` = it is empty.
    pub property: Option<&'a [u8]>,
}

/// The writes of a row, in the order of their fields.
pub(crate) struct Writes<'a> {
    fields: &'a [FieldPlan],
    /// The place of the first field that the next write may be of.
    field: usize,
    repeated: bool,
    packed: Unpacker<'a>,
    keys: &'a [KeyIndex],
}

impl<'a> Iterator for Writes<'a> {
    type Item = Write<'a>;

    #[inline]
    fn next(&mut self) -> Option<Write<'a>> {
        if self.repeated {
            self.field = self.packed.length()?;
        }
        let (id, property) = self.packed.entry()?;
        let fields = self.fields.get(self.field..).unwrap_or_default().iter();
        let (place, field) = (self.field..)
            .zip(fields)
            .find(|(_, field)| field.property == id)
            .expected("the field of a write")?;
        self.field = place + 1;
        let property = Some(property).filter(|property| *property != NO_VALUES);
        let mut key = KeyIndex(0);
        if property.is_some() && field.unique {
            let (first, rest) = self.keys.split_first().expected("the key of a write")?;
            (key, self.keys) = (*first, rest);
        }
        Some(Write { field: place, key, property })
    }
}

/// A list without values.
const NO_VALUES: &[u8] = &[1];

/// The canonical bytes of identifiers, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// The hash of each, until `ChunkRows` takes them.
    pub(crate) hashes: Vec<IdentifierHash>,
}

impl Keys {
    fn push(&mut self, plan: &Plan, property: PropertyId, value: &[u8]) -> KeyIndex {
        self.push_once(plan, property, value, self.len())
    }

    /// Adds the key of a packed value, unless one of the keys from `first` on is the same; answers with that key.
    fn push_once(&mut self, plan: &Plan, property: PropertyId, value: &[u8], first: usize) -> KeyIndex {
        let start = self.bytes.len();
        Identifier::write(plan.space, property, &packed_text_bytes(value), &mut self.bytes);
        let key = self.bytes.get(start..).unwrap_or_default();
        if let Some(same) = (first..self.len()).map(KeyIndex::new).find(|other| self.get(*other) == key) {
            self.bytes.truncate(start);
            return same;
        }
        self.hashes.push(plan.hasher.hash(key));
        self.ends.push(offset(self.bytes.len()));
        KeyIndex::new(self.len() - 1)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, key: KeyIndex) -> &[u8] {
        let key = key.place();
        let from = key.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| *end as usize);
        let to = self.ends.get(key).expected("the end of a key").map_or(from, |end| *end as usize);
        self.bytes.get(from..to).or_never("the bytes of a key")
    }
}

impl Buffers {
    fn clear(&mut self) {
        self.packed.clear();
        self.keys.bytes.clear();
        self.keys.ends.clear();
        self.keys.hashes.clear();
    }
}

impl Prepared {
    /// The number of rows of the file up to the end of this batch.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The number of rows of the file that were read for this batch, dropped and rejected ones included.
    pub fn rows_read(&self) -> usize {
        self.rows_read
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

    /// The writes of a row, packed.
    pub(crate) fn packed_writes(&self, row: &Row) -> &[u8] {
        self.packed.get(row.writes.start as usize..row.writes.end as usize).or_never("the writes of a row")
    }

    /// For each write of a unique property, the key of its first value.
    pub(crate) fn written_keys(&self, row: &Row) -> &[KeyIndex] {
        let Range { start, end } = row.written_keys;
        self.written_keys.get(start as usize..end as usize).or_never("the written keys of a row")
    }

    /// How many rows the processors kept.
    pub(crate) fn kept(&self) -> usize {
        self.rows.len().saturating_sub(1)
    }

    /// The row at a place among those that the processors kept.
    pub(crate) fn row(&self, place: usize) -> Option<Row> {
        let [row, next] = self.rows.get(place..)?.first_chunk()?;
        // Without events the plan has none, and every range is empty.
        let events = self.row_events.get(place..).and_then(|rows| rows.first_chunk());
        let [events, next_events] = events.copied().unwrap_or_default();
        Some(Row {
            number: self.first.0 + u64::from(row.number),
            line: self.first.1 + u64::from(row.line),
            keys: row.first_key..next.first_key,
            lookups: row.lookups..next.lookups,
            writes: row.writes..next.writes,
            written_keys: row.written_keys..next.written_keys,
            is_stored_as_packed: !row.needs_merge,
            events: events.first..next_events.first,
            rejected_cells: row.rejected_cells,
            events_rejected: events.rejected,
        })
    }

    /// What reading the cells of a row said of it: that cells of it were rejected, or that no identifier has a value.
    pub(crate) fn incomplete(&self, number: u64) -> Option<&RejectedRow> {
        let place = self.incomplete.binary_search_by_key(&number, |row| row.number).ok()?;
        self.incomplete.get(place)
    }

    /// How many rows were rejected while reading or by a processor.
    pub fn rejected_rows(&self) -> u64 {
        self.rejected.len() as u64
    }

    /// Those rows.
    pub fn rejected(&self) -> &[RejectedRow] {
        &self.rejected
    }

    /// The rows of which cells were rejected.
    pub fn rows_without_cells(&self) -> impl Iterator<Item = &RejectedRow> {
        self.incomplete.iter().filter(|row| matches!(row.scope, RejectedScope::Cells(_)))
    }

    /// How many cells of the other rows were rejected.
    pub fn rejected_cells(&self) -> u64 {
        self.rows.iter().map(|row| u64::from(row.rejected_cells)).sum()
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
    pub(crate) fn pack_value(&self, value: Option<NonZero<u32>>, key: KeyIndex, out: &mut Vec<u8>) {
        match value {
            Some(start) => {
                let mut values = Unpacker(self.values.get(start.get() as usize..).unwrap_or_default());
                out.extend_from_slice(values.skip_value().or_never("the value of a lookup"));
            }
            None => pack_text(Identifier::short_text(self.keys.get(key)).or_never("the text of a key"), out),
        }
    }

    /// The record ids by which rows are identified.
    pub(crate) fn ids(&self) -> &[RecordId] {
        &self.ids
    }

    /// One of those ids, by its place.
    pub(crate) fn id(&self, place: u32) -> Option<RecordId> {
        self.ids.get(place as usize).copied().expected("the id of a lookup")
    }

    /// Counts more bytes, for a test.
    #[cfg(test)]
    pub(crate) fn lengthen(&mut self, bytes: usize) {
        self.memory += bytes;
    }

    fn measure(&self) -> usize {
        let rows = |event: &RowEvent| {
            event
                .row
                .as_ref()
                .map_or(0, |row| 64 + row.nested.iter().map(|rows| 24 + 8 * rows.len()).sum::<usize>())
        };
        let events: usize = self.events.iter().map(|event| event.event.memory() + rows(event)).sum();
        let rejected: usize = self.rejected.iter().chain(&self.incomplete).map(RejectedRow::memory).sum();
        self.batch.as_ref().map_or(0, RecordBatch::memory)
            + self.rows.len() * size_of::<RowStart>()
            + self.row_events.len() * size_of::<RowEventsStart>()
            + self.lookups.len() * size_of::<Lookup>()
            + self.ids.len() * size_of::<RecordId>()
            + self.values.len()
            + self.packed.len()
            + self.written_keys.len() * size_of::<KeyIndex>()
            // Sorting and finding the keys takes more than their bytes.
            + self.keys.bytes.len()
            + self.keys.ends.len() * 56
            + events
            + rejected
    }
}

/// Reads the mapped cells of the rows that the processors kept, from row number `from` of the file on. `linked[n]` has
/// the linked rows of the n-th row of the batch; it is empty without linked files.
pub fn prepare(
    plan: &Plan,
    mut batch: RecordBatch,
    linked: &[Vec<LinkedRows>],
    from: u64,
    buffers: &mut Buffers,
) -> Prepared {
    let rows = batch.rows();
    let Buffers { packed, keys } = std::mem::take(buffers);
    let mut prepared = Prepared {
        batch: None,
        rows: Vec::with_capacity(rows + 1),
        row_events: Vec::new(),
        first: if rows > 0 { batch.place(0) } else { (0, 0) },
        rejected: std::mem::take(&mut batch.rejected),
        incomplete: Vec::new(),
        dropped: Vec::new(),
        lookups: Vec::with_capacity(rows * plan.identifiers.len()),
        events: Vec::new(),
        ids: Vec::new(),
        keys,
        packed,
        repeated: plan.fields.array_windows().any(|[field, next]| field.property == next.property),
        written_keys: Vec::with_capacity(rows * plan.fields.iter().filter(|field| field.unique).count()),
        // No value starts at 0.
        values: vec![0],
        end: batch.end,
        rows_read: 0,
        bytes_read: batch.bytes_read,
        memory: 0,
    };
    prepared.rows_read = rows + prepared.rejected.len();
    prepared.rejected.retain(|row| row.number >= from);
    let rejected_by_reader = prepared.rejected.len();
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
    if prepared.rejected.len() > rejected_by_reader {
        prepared.rejected.sort_by_key(|row| row.number);
    }
    prepared.rows.push(prepared.row_start());
    if !plan.events.is_empty() {
        prepared.row_events.push(prepared.row_events_start());
    }
    // A batch waits until its chunk is complete, so it keeps copies without spare capacity.
    let (keys, packed) = (prepared.keys.clone(), prepared.packed.clone());
    buffers.keys = std::mem::replace(&mut prepared.keys, keys);
    buffers.packed = std::mem::replace(&mut prepared.packed, packed);
    buffers.clear();
    prepared.batch = plan.needs_rows_as_read().then_some(batch);
    prepared.memory = prepared.measure();
    prepared
}

impl Prepared {
    /// Where a row that is read now starts.
    fn row_start(&self) -> RowStart {
        let lengths = [self.keys.ends.len(), self.lookups.len(), self.packed.len(), self.written_keys.len()];
        let [first_key, lookups, writes, written_keys] = lengths.map(offset);
        let needs_merge = self.repeated;
        RowStart { first_key, lookups, writes, written_keys, needs_merge, ..RowStart::default() }
    }

    fn row_events_start(&self) -> RowEventsStart {
        RowEventsStart { first: offset(self.events.len()), rejected: 0 }
    }

    fn read_row(
        &mut self,
        plan: &Plan,
        batch: &RecordBatch,
        index: usize,
        linked: &[LinkedRows],
    ) -> RowStart {
        let mut start = self.row_start();
        let mut misfits = Misfits::default();
        for (identifier, number) in plan.identifiers.iter().zip(0..) {
            let cell = batch.cell(index, identifier.column);
            if cell.is_empty() {
                continue;
            }
            let lookup = match identifier.property {
                None => cell.parse().ok().map(|id| {
                    self.ids.push(id);
                    Lookup::Record(offset(self.ids.len() - 1))
                }),
                Some(property) => self.read_lookup(plan, number, property, &identifier.format, cell),
            };
            match lookup {
                Some(lookup) => self.lookups.push(lookup),
                None => misfits.add(
                    identifier.column,
                    match identifier.property {
                        Some(_) => RejectionCode::Type(identifier.format.value_type),
                        None => RejectionCode::ProfileId,
                    },
                ),
            }
        }
        for (number, field) in plan.fields.iter().enumerate() {
            let cell = batch.cell(index, field.column);
            if !self.read_field(plan, number, field, cell, &mut start) {
                misfits.add(field.column, RejectionCode::Type(field.format.value_type));
            }
        }
        let mut events = self.row_events_start();
        // Lines, unlike numbers of rows, are what people and files of rejected rows name.
        let root = batch.place(index).1;
        for plan in &plan.events {
            if plan.path.is_empty() {
                let cell = |column| batch.cell(index, column);
                match read_event(plan, &cell, linked, (root, root), &mut misfits) {
                    Some(event) => self.events.push(event),
                    None => {
                        events.rejected += 1;
                        misfits
                            .cells
                            .push(RejectedCell { column: plan.time, code: RejectionCode::EventTime });
                    }
                }
            }
            // What does not fit in linked rows was recorded when they were read: here it only counts.
            let mut below = Misfits::default();
            for row in at_path(linked, &plan.path) {
                let lines = (root, line_of(row, plan.line));
                let cell = |column| row.cells.cell(column);
                match read_event(plan, &cell, &row.below, lines, &mut below) {
                    Some(event) => self.events.push(event),
                    None => events.rejected += 1,
                }
            }
            misfits.count += below.count;
        }
        if !plan.events.is_empty() {
            self.row_events.push(events);
        }
        if self.lookups.len() == start.lookups as usize {
            let reason = match misfits.cells.is_empty() {
                true => "no identifier of the row has a value",
                false => "no identifier of the row has a value that fits its property",
            };
            let row = batch.reject(index, RejectionCode::NoIdentifier, reason.to_owned());
            self.incomplete.push(RejectedRow { scope: RejectedScope::Excluded, ..row });
        } else if !misfits.cells.is_empty() {
            self.incomplete.extend(batch.reject_cells(index, misfits.cells));
        }
        let (number, line) = batch.place(index);
        let [number, line] = [(number, self.first.0), (line, self.first.1)].map(|(place, first)| {
            let place = place.checked_sub(first).and_then(|place| u32::try_from(place).ok());
            place.or_never("the place of a row in its batch")
        });
        RowStart { number, line, rejected_cells: misfits.count, ..start }
    }

    /// The lookup of an identifier cell, if the cell fits the property's type.
    fn read_lookup(
        &mut self,
        plan: &Plan,
        identifier: u16,
        property: PropertyId,
        format: &CellFormat,
        cell: &str,
    ) -> Option<Lookup> {
        let start = self.values.len();
        format.pack(cell, &mut self.values).ok()?;
        let value = self.values.get(start..).unwrap_or_default();
        let key = self.keys.push(plan, property, value);
        let is_in_key =
            format.value_type == ValueType::Text && Identifier::short_text(self.keys.get(key)).is_some();
        if is_in_key {
            self.values.truncate(start);
        }
        let value = if is_in_key { None } else { NonZero::new(offset(start)) };
        Some(Lookup::Property { identifier, value, key })
    }

    /// Appends what a cell of the row that starts at `row` writes, if anything; answers whether all of the cell fits.
    fn read_field(
        &mut self,
        plan: &Plan,
        number: usize,
        field: &FieldPlan,
        cell: &str,
        row: &mut RowStart,
    ) -> bool {
        if cell.is_empty() && field.rule != MergeRule::SetOrClear {
            return true;
        }
        let start = self.packed.len();
        if self.repeated {
            pack_number(number as u64, &mut self.packed);
        }
        // Most cells are such texts.
        let plain = !field.multiple && !field.unique && field.format.value_type == ValueType::Text;
        if plain && !cell.is_empty() && pack_short_text(field.property, cell, &mut self.packed) {
            row.needs_merge |= matches!(field.rule, MergeRule::Add | MergeRule::Sum);
            return true;
        }
        pack_number(field.property.0.into(), &mut self.packed);
        let property_start = self.packed.len();
        let fits = match (field.multiple, cell) {
            (_, "") => true,
            (false, cell) => {
                pack_shape(None, &mut self.packed);
                field.format.pack(cell, &mut self.packed).is_ok()
            }
            (true, cell) => pack_list(field, cell, &mut self.packed),
        };
        let property = self.packed.get(property_start..).unwrap_or_default();
        if property.len() <= usize::from(!field.multiple) {
            let clears = fits && field.rule == MergeRule::SetOrClear;
            self.packed.truncate(if clears { property_start } else { start });
            if clears {
                self.packed.extend_from_slice(NO_VALUES);
                row.needs_merge = true;
            }
            return fits;
        }
        row.needs_merge |= !is_stored_as_written(field.rule, property);
        if field.unique {
            row.needs_merge |= field.rule == MergeRule::Sum || packed_values(property).nth(1).is_some();
            let key = self.push_written_keys(plan, field, property_start, row.first_key);
            self.written_keys.push(key);
        }
        fits
    }

    /// Adds the keys of the values of a unique property, which ends `packed`; answers with the first.
    fn push_written_keys(
        &mut self,
        plan: &Plan,
        field: &FieldPlan,
        property_start: usize,
        first_key: u32,
    ) -> KeyIndex {
        let property = self.packed.get(property_start..).unwrap_or_default();
        if !field.multiple {
            // Usually an identifier column of the row holds the same value, and has its key.
            let value = packed_values(property).next().or_never("the value of a write");
            return self.keys.push_once(plan, field.property, value, first_key as usize);
        }
        let first = KeyIndex::new(self.keys.len());
        for value in packed_values(property) {
            self.keys.push(plan, field.property, value);
        }
        first
    }
}

/// The cells of a row that do not fit.
#[derive(Default)]
struct Misfits {
    /// How many there are, once for each mapping.
    count: u32,
    /// Those of the row itself, not of its linked rows; also the times of its rejected events.
    cells: Vec<RejectedCell>,
}

impl Misfits {
    /// Adds the cells that do not fit these properties. Every text fits.
    fn check<'c>(&mut self, fields: &[ValuePlan], cell: &dyn Fn(usize) -> &'c str) {
        for field in fields.iter().filter(|field| field.format.value_type != ValueType::Text) {
            let separator = (field.separator.as_deref(), field.separator_escape);
            if !read_values(&field.format, field.multiple, separator, cell(field.column)).1 {
                self.add(field.column, RejectionCode::Type(field.format.value_type));
            }
        }
    }

    fn add(&mut self, column: usize, code: RejectionCode) {
        self.count += 1;
        self.cells.push(RejectedCell { column, code });
    }
}

/// The cells of a row of a linked file that do not fit what events and nested rows map them to. `cell` gives the cells that the
/// goal uses of the file; the columns of what it answers are their places.
pub fn rejected_linked_cells<'c>(
    plan: &Plan,
    file: usize,
    cell: &dyn Fn(usize) -> &'c str,
) -> Vec<RejectedCell> {
    let mut misfits = Misfits::default();
    for event in &plan.events {
        let is_own = event.path.last() == Some(&file);
        let mut has_event = true;
        if is_own {
            let time = cell(event.time);
            let may_be_elsewhere = event.gathers && time.is_empty();
            has_event = event.time_format.parse_moment(time).is_some() || may_be_elsewhere;
            if has_event {
                misfits.check(&event.fields, cell);
            } else {
                misfits.cells.push(RejectedCell { column: event.time, code: RejectionCode::EventTime });
            }
        }
        let is_here = |nested: &&NestedPlan| match nested.path.last() {
            Some(last) => *last == file,
            None => is_own && has_event,
        };
        event.nested.iter().filter(is_here).for_each(|nested| misfits.check(&nested.fields, cell));
    }
    misfits.cells
}

/// The line of a linked row in its file, which the import gave it as a cell.
fn line_of(row: &LinkedRow, column: Option<usize>) -> u64 {
    column.and_then(|column| row.cells.cell(column).parse().ok()).unwrap_or_default()
}

/// The event that a row carries; `None` if it has no valid time, and cannot get one from another row. `lines` are those of its row of the
/// root file, and of the row in its own file.
fn read_event<'c>(
    plan: &EventPlan,
    cell: &dyn Fn(usize) -> &'c str,
    below: &[LinkedRows],
    (root, line): (u64, u64),
    misfits: &mut Misfits,
) -> Option<RowEvent> {
    let id = plan.id.map(cell).unwrap_or_default();
    let gathers = plan.gathers && !id.is_empty();
    let (time, row_time) = match (plan.time_format.parse_moment(cell(plan.time)), cell(plan.time)) {
        (Some(time), _) => (time, RowTime::Valid),
        (None, "") if gathers => (Moment::from(jiff::Timestamp::UNIX_EPOCH), RowTime::Empty),
        (None, _) if gathers => (Moment::from(jiff::Timestamp::UNIX_EPOCH), RowTime::Invalid),
        (None, _) => return None,
    };
    if row_time == RowTime::Invalid {
        misfits.cells.push(RejectedCell { column: plan.time, code: RejectionCode::EventTime });
    }
    let (mut nested, mut lines) = (Vec::with_capacity(plan.nested.len()), Vec::new());
    let mut of_nested = Misfits::default();
    for of_type in &plan.nested {
        let fields = &of_type.fields;
        let rows: Vec<Properties> = if of_type.path.is_empty() {
            vec![read_properties(fields, cell, misfits)]
        } else {
            let rows = at_path(below, &of_type.path);
            rows.iter()
                .map(|row| read_properties(fields, &|column| row.cells.cell(column), &mut of_nested))
                .collect()
        };
        if rows.is_empty() {
            continue;
        }
        if gathers && of_type.path.is_empty() {
            lines.push(vec![line]);
        } else if gathers {
            let rows = at_path(below, &of_type.path);
            lines.push(rows.iter().map(|row| line_of(row, of_type.line)).collect());
        }
        nested.push((of_type.nested_type, rows));
    }
    misfits.count += of_nested.count;
    let event = Event {
        time,
        properties: read_properties(&plan.fields, cell, misfits),
        nested,
        product_store: plan.product_store,
        touch: EventTouch::default(),
        origin: EventOrigin { import: plan.import, rows: None },
    };
    let id = if id.is_empty() { event.content_id() } else { id.into() };
    let expired = row_time == RowTime::Valid && plan.keep_from.is_some_and(|from| time < from);
    let row = gathers.then(|| {
        Box::new(EventRow { line, root, time: row_time, supplements: plan.supplements, nested: lines })
    });
    Some(RowEvent { event_type: plan.event_type, id, event, expired, row })
}

fn read_properties<'c>(
    fields: &[ValuePlan],
    cell: &dyn Fn(usize) -> &'c str,
    misfits: &mut Misfits,
) -> Properties {
    let mut properties = Properties::with_capacity(fields.len());
    for field in fields {
        let (value, fits) = read_values(
            &field.format,
            field.multiple,
            (field.separator.as_deref(), field.separator_escape),
            cell(field.column),
        );
        if !fits {
            misfits.add(field.column, RejectionCode::Type(field.format.value_type));
        }
        properties.extend(value.map(|value| (field.property, value)));
    }
    properties
}

/// An offset into an array of a batch, which has fewer than 2^32 - 1 elements.
#[inline]
fn offset(offset: usize) -> u32 {
    u32::try_from(offset).or_never("an offset of 32 bits")
}

/// Appends the values of a list, each once; answers whether all of them fit. A cell of nothing but separators is an empty cell.
fn pack_list(field: &FieldPlan, cell: &str, packed: &mut Vec<u8>) -> bool {
    let (start, mut fits, mut count) = (packed.len(), true, 0);
    // Most shapes are one byte; a longer one is spliced in at the end.
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
        // Splitting at a character is faster than splitting at a text.
        Some(separator) if separator.len() == 1 && field.separator_escape.is_none() => {
            let separator = separator.as_bytes().first().copied().unwrap_or_default();
            cell.split(char::from(separator)).for_each(|part| take(part.trim()));
        }
        Some(separator) => split_list(cell, separator, field.separator_escape, |part| take(part.trim())),
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

/// The values of a cell, and whether all of them fit. A cell of nothing but separators is an empty cell.
fn read_values(
    format: &CellFormat,
    multiple: bool,
    (separator, escape): (Option<&str>, Option<char>),
    cell: &str,
) -> (Option<Property>, bool) {
    if cell.is_empty() {
        return (None, true);
    }
    if !multiple {
        return match format.parse(cell) {
            Ok(value) => (Some(Property::One(value)), true),
            Err(_) => (None, false),
        };
    }
    let (mut values, mut seen, mut fits) = (Vec::new(), HashSet::new(), true);
    let mut take = |part: &str| match format.parse(part) {
        _ if part.is_empty() => {}
        Ok(value) => {
            if seen.insert(value.clone()) {
                values.push(value);
            }
        }
        Err(_) => fits = false,
    };
    match separator {
        Some(separator) => split_list(cell, separator, escape, |part| take(part.trim())),
        None => take(cell),
    }
    ((!values.is_empty()).then_some(Property::Many(values)), fits)
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
            separator_escape: None,
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
    fn a_list_keeps_the_values_that_fit() {
        let mut packed = Vec::new();
        assert!(!pack_list(&field("|", ValueType::Number), "1|x|1.0|2", &mut packed));
        let found: Vec<_> = packed_values(&packed).map(packed_text_bytes).collect();
        assert_eq!(found.concat(), b"12");
    }

    #[test]
    fn a_list_of_150_000_values_is_packed_in_linear_time() {
        let cell = (0..150_000).map(|number| format!("{number:x}|")).collect::<String>();
        let (mut packed, field) = (Vec::new(), field("|", ValueType::Text));
        assert!(pack_list(&field, &cell, &mut packed));
        assert_eq!(packed_values(&packed).count(), 150_000);
    }
}
