use std::ops::Range;

use sluicebox_model::{Identifier, MergeRule, Property, RecordBatch, RecordId, Value};

use crate::plan::{FieldPlan, Plan};
use crate::rules::Change;

/// A batch whose cells have become values.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) batch: RecordBatch,
    pub(crate) rows: Vec<Row>,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) writes: Vec<Write>,
    pub(crate) keys: Keys,
}

/// A row that the processors kept.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its place in the batch.
    pub index: usize,
    pub lookups: Range<u32>,
    pub writes: Range<u32>,
    /// Cells that do not fit their property.
    pub misfits: u32,
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
        self.batch.memory() + self.writes.len() * 72 + self.lookups.len() * 48 + self.keys.bytes.len() * 2
    }

    /// How many bytes of the file had been read when the batch was complete.
    pub fn bytes_read(&self) -> u64 {
        self.batch.bytes_read
    }
}

/// Reads the mapped cells of the rows that the processors kept, from record number `from` of the file on.
pub fn prepare(plan: &Plan, batch: RecordBatch, from: u64) -> Prepared {
    let mut lookups = Vec::with_capacity(batch.rows() * plan.identifiers.len());
    let mut writes = Vec::with_capacity(batch.rows() * plan.fields.len());
    let mut rows = Vec::with_capacity(batch.rows());
    let mut keys = Keys::default();
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
        rows.push(Row {
            index,
            lookups: range(first_lookup, lookups.len()),
            writes: range(first_write, writes.len()),
            misfits,
        });
    }
    Prepared { batch, rows, lookups, writes, keys }
}

fn range(from: usize, to: usize) -> Range<u32> {
    u32::try_from(from).unwrap_or(u32::MAX)..u32::try_from(to).unwrap_or(u32::MAX)
}

/// What a cell asks for, and whether it, or a part of it, does not fit.
fn read(field: &FieldPlan, cell: &str) -> (Option<Change>, bool) {
    let empty = (field.rule == MergeRule::SetOrClear).then_some(Change::Clear);
    if cell.is_empty() {
        return (empty, false);
    }
    if !field.multiple {
        return match field.format.parse(cell) {
            Ok(value) => (Some(Change::Write(Property::One(value))), false),
            Err(_) => (None, true),
        };
    }
    let (mut values, mut misfit, mut parts) = (Vec::new(), false, 0);
    let mut take = |part: &str| {
        if part.is_empty() {
            return;
        }
        parts += 1;
        match field.format.parse(part) {
            Ok(value) if !values.contains(&value) => values.push(value),
            Ok(_) => {}
            Err(_) => misfit = true,
        }
    };
    match &field.separator {
        Some(separator) => cell.split(separator.as_str()).for_each(|part| take(part.trim())),
        None => take(cell),
    }
    match (values.is_empty(), parts) {
        (true, 0) => (empty, false),
        (true, _) => (None, misfit),
        _ => (Some(Change::Write(Property::Many(values))), misfit),
    }
}
