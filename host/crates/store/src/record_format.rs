//! A record as bytes.
//!
//! The first byte is the kind: 6 = a record; 7 = merged into the record whose id follows, by the goal run that follows it (a number), which
//! kind 2 of older layouts lacks. A record is `space` (a number), `created`
//! (i64, little endian), what `modified` is later (a number that may be negative), the goal run (a number), a byte with the
//! class, 4 more if the first fingerprint follows, 8 more if the sum of its events' fingerprints does (u64, little endian; those that are absent are 0),
//! 16 more if exceptions do, and 32 if the number of merged records does (a number, after the sum), its provenance, and its properties; numbers and properties as [`packed`](sluicebox_model::packed) has them.
//!
//! The provenance is the setter of most properties, and the exceptions: their number, and for each the difference to the property before
//! it, doubled, and one more where it has the setter of the exception before it; otherwise its setter follows. A setter is how much
//! smaller its goal run is than that of the record, modulo 2^64, and the file's place.
//!
//! Four older kinds are read too: 5 = a record of layouts 5 and 6, without provenance;
//! 4 = a record of layout 4: `space, created, modified, goal run, first fingerprint, events` (u32 and five 64-bit integers,
//! little endian), the class (u8), and its properties; 3 = the same of layout 2, with the number of properties before them; 1 = that
//! of layout 1, without `events`.
//!
//! An event is 1, the goal run (u64, little endian), the class (u8), whether it feeds the product store (u8), the time
//! in nanoseconds, the id's length and text, properties after their number, and the number of nested types; for each of
//! them its id, the number of rows and each row's properties after their number. An event of which it is known what it was made of is 2
//! and the same, then what stands for its import (u64, little endian), and 0; or, where several rows made it, 1, the line after the
//! last row of the root file, the line of the row that gave the time, that of each property, those of the nested rows of each type,
//! each as the difference to the one before, and 0, or 1 and the fingerprint before (u64, little endian).

use compact_str::CompactString;
use sluicebox_model::packed::{Unpacker, pack_number, pack_properties, pack_signed};
use sluicebox_model::{
    Class, Event, EventOrigin, EventRows, EventTouch, Moment, NestedTypeId, Properties, Property, PropertyId,
    Provenance, Record, RecordId, Setter, SpaceId, Touch,
};

use crate::StoreError;

const RECORD_WITHOUT_EVENTS: u8 = 1;
const MERGED: u8 = 2;
const COUNTED_RECORD: u8 = 3;
const LONG_RECORD: u8 = 4;
const RECORD_WITHOUT_PROVENANCE: u8 = 5;
const RECORD: u8 = 6;
const MERGED_BY: u8 = 7;
const EVENT_WITHOUT_ORIGIN: u8 = 1;
const EVENT: u8 = 2;
/// Of a record's class and what else it has.
const CLASS: u8 = 3;
const HAS_FINGERPRINT: u8 = 4;
const HAS_EVENTS: u8 = 8;
const HAS_EXCEPTIONS: u8 = 16;
const HAS_ABSORBED: u8 = 32;
/// The maximum number of bytes of a record before its properties, but for exceptions of its provenance.
const MAX_BEFORE: usize = 1 + 5 + 8 + 10 + 10 + 1 + 2 * 8 + 5 + MAX_SETTER + 5;
/// The maximum number of bytes of a setter, and of an exception.
const MAX_SETTER: usize = 10 + 5;
const MAX_EXCEPTION: usize = 5 + MAX_SETTER;

/// What is stored under a record's id.
#[derive(Debug, PartialEq)]
pub(crate) enum Stored {
    Record(Record),
    MergedInto(MergedInto),
}

/// Where a record leads that was merged into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MergedInto {
    pub record: RecordId,
    /// The goal run that merged it; 0 = not known.
    pub goal_run: u64,
}

impl MergedInto {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + 16 + 10);
        bytes.push(MERGED_BY);
        bytes.extend_from_slice(&self.record.0);
        pack_number(self.goal_run, &mut bytes);
        bytes
    }

    /// Reads what is stored of a record, if that is where it leads.
    pub(crate) fn read(stored: &[u8]) -> Option<Self> {
        match stored.first() {
            Some(&(MERGED | MERGED_BY)) => Reader(Unpacker(stored)).merged(),
            _ => None,
        }
    }
}

/// The maximum number of bytes that [`encode`] appends.
pub(crate) fn encoded_size(record: &Record) -> usize {
    MAX_BEFORE + record.provenance.others().len() * MAX_EXCEPTION + record.packed().len()
}

pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) {
    let Touch { goal_run, first_fingerprint, class: of_run, absorbed } = record.touch;
    out.push(RECORD);
    pack_number(record.space.0.into(), out);
    out.extend_from_slice(&record.created.to_le_bytes());
    pack_signed(i128::from(record.modified) - i128::from(record.created), out);
    pack_number(goal_run, out);
    let has = |number: u64, flag: u8| if number == 0 { 0 } else { flag };
    let exceptions = record.provenance.others();
    out.push(
        class(of_run)
            | has(first_fingerprint, HAS_FINGERPRINT)
            | has(record.events, HAS_EVENTS)
            | has(exceptions.len() as u64, HAS_EXCEPTIONS)
            | has(absorbed.into(), HAS_ABSORBED),
    );
    for number in [first_fingerprint, record.events].into_iter().filter(|number| *number != 0) {
        out.extend_from_slice(&number.to_le_bytes());
    }
    if absorbed != 0 {
        pack_number(absorbed.into(), out);
    }
    put_setter(record.provenance.most(), goal_run, out);
    if !exceptions.is_empty() {
        put_exceptions(exceptions, goal_run, out);
    }
    out.extend_from_slice(record.packed());
}

fn put_setter(setter: Setter, goal_run: u64, out: &mut Vec<u8>) {
    pack_number(goal_run.wrapping_sub(setter.goal_run), out);
    pack_number(setter.file.into(), out);
}

fn put_exceptions(exceptions: &[(PropertyId, Setter)], goal_run: u64, out: &mut Vec<u8>) {
    pack_number(exceptions.len() as u64, out);
    let (mut before, mut last) = (0, None);
    for (property, setter) in exceptions {
        let same = last == Some(*setter);
        pack_number(u64::from(property.0.wrapping_sub(before)) << 1 | u64::from(same), out);
        if !same {
            put_setter(*setter, goal_run, out);
        }
        (before, last) = (property.0, Some(*setter));
    }
}

/// An event as bytes, with its id.
pub(crate) fn encode_event(id: &str, event: &Event, out: &mut Vec<u8>) {
    let origin = Some(&event.origin).filter(|origin| **origin != EventOrigin::default());
    out.push(if origin.is_some() { EVENT } else { EVENT_WITHOUT_ORIGIN });
    out.extend_from_slice(&event.touch.goal_run.to_le_bytes());
    out.push(class(event.touch.class));
    out.push(u8::from(event.product_store));
    pack_signed(event.time.as_nanosecond(), out);
    pack_number(id.len() as u64, out);
    out.extend_from_slice(id.as_bytes());
    put_properties(&event.properties, out);
    pack_number(event.nested.len() as u64, out);
    for (nested, rows) in &event.nested {
        pack_number(nested.0.into(), out);
        pack_number(rows.len() as u64, out);
        rows.iter().for_each(|row| put_properties(row, out));
    }
    if let Some(origin) = origin {
        put_origin(origin, out);
    }
}

/// An event has as many properties and nested rows as its origin has rows of them, so that how many they are is not there twice.
fn put_origin(origin: &EventOrigin, out: &mut Vec<u8>) {
    out.extend_from_slice(&origin.import.to_le_bytes());
    let Some(rows) = &origin.rows else { return out.push(0) };
    out.push(1);
    pack_number(rows.next, out);
    pack_number(rows.time, out);
    rows.properties.iter().for_each(|row| pack_number(*row, out));
    for nested in &rows.nested {
        let mut before = 0;
        for row in nested {
            pack_number(row.wrapping_sub(before), out);
            before = *row;
        }
    }
    match rows.before {
        None => out.push(0),
        Some(before) => {
            out.push(1);
            out.extend_from_slice(&before.to_le_bytes());
        }
    }
}

fn class(class: Class) -> u8 {
    match class {
        Class::Unchanged => 0,
        Class::Updated => 1,
        Class::Created => 2,
    }
}

fn class_of(byte: u8) -> Option<Class> {
    match byte {
        0 => Some(Class::Unchanged),
        1 => Some(Class::Updated),
        2 => Some(Class::Created),
        _ => None,
    }
}

fn put_properties(properties: &[(PropertyId, Property)], out: &mut Vec<u8>) {
    pack_number(properties.len() as u64, out);
    pack_properties(properties, out);
}

/// The space of a record; `None` for one that was merged into another. Nothing else is read.
pub(crate) fn space_of(bytes: &[u8]) -> Result<Option<SpaceId>, StoreError> {
    let mut reader = Unpacker(bytes);
    let space = match reader.byte() {
        Some(MERGED | MERGED_BY) => return Ok(None),
        Some(LONG_RECORD | COUNTED_RECORD | RECORD_WITHOUT_EVENTS) => reader.array().map(u32::from_le_bytes),
        Some(_) => reader.number(),
        None => None,
    };
    space.map(|space| Some(SpaceId(space))).ok_or(StoreError::Damaged("a record"))
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Stored, StoreError> {
    let mut reader = Reader(Unpacker(bytes));
    reader.stored().filter(|_| reader.0.0.is_empty()).ok_or(StoreError::Damaged("a record"))
}

/// An event with its id.
pub(crate) fn decode_event(bytes: &[u8]) -> Result<(CompactString, Event), StoreError> {
    let mut reader = Reader(Unpacker(bytes));
    reader.event().filter(|_| reader.0.0.is_empty()).ok_or(StoreError::Damaged("an event"))
}

struct Reader<'a>(Unpacker<'a>);

impl Reader<'_> {
    fn stored(&mut self) -> Option<Stored> {
        if let Some(&(MERGED | MERGED_BY)) = self.0.0.first() {
            return self.merged().map(Stored::MergedInto);
        }
        match self.0.byte()? {
            kind @ (RECORD | RECORD_WITHOUT_PROVENANCE) => self.record(kind == RECORD).map(Stored::Record),
            kind @ (LONG_RECORD | COUNTED_RECORD | RECORD_WITHOUT_EVENTS) => {
                self.older_record(kind).map(Stored::Record)
            }
            _ => None,
        }
    }

    fn merged(&mut self) -> Option<MergedInto> {
        let kind = self.0.byte()?;
        let record = RecordId(self.0.array()?);
        Some(MergedInto { record, goal_run: if kind == MERGED_BY { self.0.number()? } else { 0 } })
    }

    fn record(&mut self, has_provenance: bool) -> Option<Record> {
        let space = SpaceId(self.0.number()?);
        let mut record = Record::new(space, i64::from_le_bytes(self.0.array()?));
        let later: i128 = self.0.signed()?;
        record.modified = i64::try_from(i128::from(record.created).checked_add(later)?).ok()?;
        record.touch.goal_run = self.0.number()?;
        let has = self.0.byte()?;
        record.touch.class = class_of(has & CLASS)?;
        let mut number = |flag| match has & flag {
            0 => Some(0),
            _ => self.0.array().map(u64::from_le_bytes),
        };
        record.touch.first_fingerprint = number(HAS_FINGERPRINT)?;
        record.events = number(HAS_EVENTS)?;
        let mut known = CLASS | HAS_FINGERPRINT | HAS_EVENTS;
        if has_provenance {
            known |= HAS_EXCEPTIONS | HAS_ABSORBED;
            if has & HAS_ABSORBED != 0 {
                record.touch.absorbed = self.0.number()?;
            }
            record.provenance = self.provenance(record.touch.goal_run, has & HAS_EXCEPTIONS != 0)?;
        }
        if has & !known != 0 {
            return None;
        }
        record.with_packed(self.0.take(self.0.0.len())?)
    }

    fn provenance(&mut self, goal_run: u64, has_exceptions: bool) -> Option<Provenance> {
        let most = self.setter(goal_run)?;
        if !has_exceptions {
            return Some(Provenance::of(most));
        }
        let count = self.0.length()?;
        let mut exceptions: Vec<(PropertyId, Setter)> = Vec::with_capacity(count.min(self.0.0.len()));
        for _ in 0..count {
            let number: u64 = self.0.number()?;
            let (before, last) = match exceptions.last() {
                Some((property, setter)) => (property.0, Some(*setter)),
                None => (0, None),
            };
            let property = before.checked_add(u32::try_from(number >> 1).ok()?)?;
            let setter = if number & 1 == 1 { last? } else { self.setter(goal_run)? };
            exceptions.push((PropertyId(property), setter));
        }
        Provenance::new(most, exceptions)
    }

    fn setter(&mut self, goal_run: u64) -> Option<Setter> {
        let before: u64 = self.0.number()?;
        Some(Setter { goal_run: goal_run.wrapping_sub(before), file: self.0.number()? })
    }

    fn older_record(&mut self, kind: u8) -> Option<Record> {
        let mut record =
            Record::new(SpaceId(u32::from_le_bytes(self.0.array()?)), i64::from_le_bytes(self.0.array()?));
        record.modified = i64::from_le_bytes(self.0.array()?);
        record.touch.goal_run = u64::from_le_bytes(self.0.array()?);
        record.touch.first_fingerprint = u64::from_le_bytes(self.0.array()?);
        if kind != RECORD_WITHOUT_EVENTS {
            record.events = u64::from_le_bytes(self.0.array()?);
        }
        record.touch.class = self.class()?;
        if kind != LONG_RECORD {
            self.0.number::<usize>()?;
        }
        record.with_packed(self.0.take(self.0.0.len())?)
    }

    fn event(&mut self) -> Option<(CompactString, Event)> {
        let has_origin = match self.0.byte()? {
            EVENT => true,
            EVENT_WITHOUT_ORIGIN => false,
            _ => return None,
        };
        let touch = EventTouch { goal_run: u64::from_le_bytes(self.0.array()?), class: self.class()? };
        let product_store = match self.0.byte()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let time = Moment::from_nanosecond(self.0.signed()?)?;
        let length = self.0.number()?;
        let id = CompactString::from_utf8(self.0.take(length)?).ok()?;
        let properties = self.properties()?;
        let count: usize = self.0.number()?;
        let mut nested = Vec::with_capacity(count.min(self.0.0.len()));
        for _ in 0..count {
            let kind = NestedTypeId(self.0.number()?);
            let rows: usize = self.0.number()?;
            nested.push((kind, (0..rows).map(|_| self.properties()).collect::<Option<_>>()?));
        }
        let mut event =
            Event { time, properties, nested, product_store, touch, origin: EventOrigin::default() };
        if has_origin {
            event.origin = self.origin(&event)?;
        }
        Some((id, event))
    }

    fn origin(&mut self, event: &Event) -> Option<EventOrigin> {
        let import = u64::from_le_bytes(self.0.array()?);
        let 1 = self.0.byte()? else { return Some(EventOrigin { import, rows: None }) };
        let (next, time) = (self.0.number()?, self.0.number()?);
        let properties = event.properties.iter().map(|_| self.0.number()).collect::<Option<_>>()?;
        let nested = event.nested.iter().map(|(_, rows)| {
            let mut before = 0_u64;
            let mut row = || {
                before = before.wrapping_add(self.0.number()?);
                Some(before)
            };
            rows.iter().map(|_| row()).collect::<Option<Vec<u64>>>()
        });
        let nested = nested.collect::<Option<_>>()?;
        let before = match self.0.byte()? {
            0 => None,
            _ => Some(u64::from_le_bytes(self.0.array()?)),
        };
        Some(EventOrigin {
            import,
            rows: Some(Box::new(EventRows { next, time, properties, nested, before })),
        })
    }

    fn class(&mut self) -> Option<Class> {
        class_of(self.0.byte()?)
    }

    fn properties(&mut self) -> Option<Properties> {
        let count = self.0.number()?;
        self.0.properties(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use jiff::civil::Date;
    use rust_decimal::Decimal;
    use sluicebox_model::Value;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<String>().prop_map(|text| Value::Text(text.into())),
            (-(10_i128.pow(28))..10_i128.pow(28), 0_u32..=28)
                .prop_map(|(mantissa, scale)| Value::Number(Decimal::from_i128_with_scale(mantissa, scale))),
            any::<bool>().prop_map(Value::Boolean),
            (-9999_i16..=9999, 1_i8..=12, 1_i8..=28)
                .prop_map(|(year, month, day)| Value::Date(Date::new(year, month, day).unwrap())),
            (-10_i128.pow(19)..10_i128.pow(19))
                .prop_map(|moment| Value::DateTime(Moment::from_nanosecond(moment).unwrap())),
        ]
    }

    fn property() -> impl Strategy<Value = Property> {
        prop_oneof![
            value().prop_map(Property::One),
            prop::collection::vec(value(), 1..4).prop_map(Property::Many)
        ]
    }

    fn provenance() -> impl Strategy<Value = Provenance> {
        let setter = || {
            (any::<u64>(), 0_u32..3)
                .prop_map(|(goal_run, file)| Setter { goal_run: goal_run >> (goal_run % 64), file })
        };
        (setter(), setter(), prop::collection::btree_map(any::<u32>(), prop::option::of(setter()), 0..6))
            .prop_map(|(most, shared, others)| {
                let others =
                    others.into_iter().map(|(id, setter)| (PropertyId(id), setter.unwrap_or(shared)));
                Provenance::new(most, others.collect()).unwrap()
            })
    }

    fn record() -> impl Strategy<Value = Record> {
        let properties = prop::collection::btree_map(any::<u32>(), property(), 0..6);
        (any::<(u32, i64, i64, u64, u64, u64)>(), (0..3, 0_u32..3), properties, provenance()).prop_map(
            |(
                (space, created, modified, goal_run, first_fingerprint, events),
                (class, absorbed),
                properties,
                provenance,
            )| {
                let mut record = Record::new(SpaceId(space), created);
                (record.modified, record.events, record.provenance) = (modified, events, provenance);
                let class = [Class::Unchanged, Class::Updated, Class::Created][class as usize];
                record.touch = Touch { goal_run, first_fingerprint, class, absorbed };
                properties.iter().for_each(|(id, property)| record.set(PropertyId(*id), property));
                record
            },
        )
    }

    fn properties() -> impl Strategy<Value = Properties> {
        let properties = prop::collection::btree_map(any::<u32>(), property(), 0..4);
        properties
            .prop_map(|properties| properties.into_iter().map(|(id, held)| (PropertyId(id), held)).collect())
    }

    fn event() -> impl Strategy<Value = Event> {
        let nested = prop::collection::vec((any::<u32>(), prop::collection::vec(properties(), 0..3)), 0..3);
        let origin = any::<(u64, Option<(u64, u64, Option<u64>)>)>();
        (-(10_i128.pow(19))..10_i128.pow(19), any::<(bool, u64)>(), properties(), nested, origin).prop_map(
            |(time, (product_store, goal_run), properties, nested, (import, rows))| {
                let of_rows = |(next, time, before): (u64, u64, Option<u64>)| EventRows {
                    next,
                    time,
                    properties: properties.iter().map(|(id, _)| u64::from(id.0) ^ next).collect(),
                    nested: nested.iter().map(|(_, rows)| (time..).take(rows.len()).collect()).collect(),
                    before,
                };
                let rows = rows.map(|(next, time, before)| Box::new(of_rows((next, time >> 1, before))));
                Event {
                    time: Moment::from_nanosecond(time).unwrap(),
                    properties,
                    nested: nested.into_iter().map(|(kind, rows)| (NestedTypeId(kind), rows)).collect(),
                    product_store,
                    touch: EventTouch { goal_run, class: Class::Created },
                    origin: EventOrigin { import, rows },
                }
            },
        )
    }

    proptest! {
        #[test]
        fn events_come_back_as_they_were(event in event(), id: String, place: prop::sample::Index, byte: u8) {
            let mut bytes = Vec::new();
            encode_event(&id, &event, &mut bytes);
            prop_assert_eq!(decode_event(&bytes).unwrap(), (CompactString::from(id), event));
            let place = place.index(bytes.len());
            prop_assert!(decode_event(&bytes[..place]).is_err());
            bytes[place] = byte;
            let _ = decode_event(&bytes);
        }

        #[test]
        fn events_of_older_layouts_are_read(mut event in event(), id: String) {
            event.origin = EventOrigin::default();
            let mut bytes = Vec::new();
            encode_event(&id, &event, &mut bytes);
            prop_assert_eq!(bytes[0], EVENT_WITHOUT_ORIGIN);
            prop_assert_eq!(decode_event(&bytes).unwrap().1, event);
        }

        #[test]
        fn records_come_back_as_they_were(record in record()) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            prop_assert_eq!(space_of(&bytes).unwrap(), Some(record.space));
            prop_assert_eq!(decode(&bytes).unwrap(), Stored::Record(record));
        }

        #[test]
        fn damaged_bytes_are_an_error_or_another_record(record in record(), place: prop::sample::Index, byte: u8) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            let place = place.index(bytes.len());
            bytes[place] = byte;
            let _ = decode(&bytes);
        }

        #[test]
        fn records_of_older_layouts_are_read(mut record in record()) {
            record.touch.absorbed = 0;
            record.provenance = Provenance::of(Setter { goal_run: record.touch.goal_run, file: 0 });
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            record.provenance = Provenance::default();
            prop_assert!(!record.provenance.most().is_known());
            // That of layout 6 is the same without a provenance, which takes two bytes here.
            bytes[0] = RECORD_WITHOUT_PROVENANCE;
            let provenance = bytes.len() - record.packed().len() - 2;
            bytes.drain(provenance..provenance + 2);
            prop_assert_eq!(decode(&bytes).unwrap(), Stored::Record(record.clone()));
            let numbers = [record.touch.goal_run, record.touch.first_fingerprint, record.events];
            let times = [record.created, record.modified].map(i64::to_le_bytes).concat();
            let header = [&[LONG_RECORD], &record.space.0.to_le_bytes()[..], &times, &numbers.map(u64::to_le_bytes).concat(), &[class(record.touch.class)]].concat();
            prop_assert_eq!(header.len(), 46);
            let mut count = Vec::new();
            pack_number(record.properties().count() as u64, &mut count);
            let fourth = [&header, record.packed()].concat();
            prop_assert_eq!(decode(&fourth).unwrap(), Stored::Record(record.clone()));
            let mut second = [&header, &count, record.packed()].concat();
            second[0] = COUNTED_RECORD;
            prop_assert_eq!(decode(&second).unwrap(), Stored::Record(record.clone()));
            prop_assert_eq!(space_of(&second).unwrap(), Some(record.space));
            let mut first = [&header[..37], &header[45..], &count, record.packed()].concat();
            first[0] = RECORD_WITHOUT_EVENTS;
            let mut without_events = record;
            without_events.events = 0;
            prop_assert_eq!(decode(&first).unwrap(), Stored::Record(without_events));
        }
    }

    #[test]
    fn merged_records_lead_to_another() {
        let merged = MergedInto { record: RecordId::create(), goal_run: 300 };
        let bytes = merged.encode();
        assert_eq!(decode(&bytes).unwrap(), Stored::MergedInto(merged));
        assert_eq!(MergedInto::read(&bytes), Some(merged));
        assert_eq!(space_of(&bytes).unwrap(), None);
        let older = [&[MERGED][..], &merged.record.0].concat();
        assert_eq!(decode(&older).unwrap(), Stored::MergedInto(MergedInto { goal_run: 0, ..merged }));
        assert_eq!(space_of(&older).unwrap(), None);
        assert!(decode(&bytes[..18]).is_err() && decode(&older[..16]).is_err());
    }
}
