//! A record as bytes.
//!
//! The first byte tells the kind: 4 = a record; 2 = merged into the record whose id follows. A record is `space, created,
//! modified, goal run, first fingerprint, events` (u32 and five 64-bit integers, little endian), the class (u8), and its
//! properties as [`packed`](sluicebox_model::packed) has them. Two older kinds are read too: 3 = a record of layout 2,
//! with the number of properties before them; 1 = the same of layout 1, without `events`.
//!
//! An event is 1, the goal run (u64, little endian), the class (u8), whether it feeds the product store (u8), the time
//! in nanoseconds, the id's length and text, properties after their number, and the number of nested types; for each of
//! them its id, the number of rows and each row's properties after their number.

use compact_str::CompactString;
use jiff::Timestamp;
use sluicebox_model::packed::{Unpacker, pack_number, pack_properties, pack_signed};
use sluicebox_model::{
    Class, Event, EventTouch, NestedTypeId, Properties, Property, PropertyId, Record, RecordId, SpaceId,
};

use crate::StoreError;

const RECORD_WITHOUT_EVENTS: u8 = 1;
const MERGED: u8 = 2;
const COUNTED_RECORD: u8 = 3;
const RECORD: u8 = 4;
const EVENT: u8 = 1;
/// Bytes of a record before its properties.
const HEADER: usize = 1 + 4 + 5 * 8 + 1;

/// What is stored under a record's id.
#[derive(Debug, PartialEq)]
pub(crate) enum Stored {
    Record(Record),
    MergedInto(RecordId),
}

pub(crate) fn merged_into(id: RecordId) -> [u8; 17] {
    let mut bytes = [MERGED; 17];
    for (to, from) in bytes.iter_mut().skip(1).zip(id.0) {
        *to = from;
    }
    bytes
}

/// How many bytes [`encode`] appends.
pub(crate) fn encoded_size(record: &Record) -> usize {
    HEADER + record.packed().len()
}

pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) {
    out.push(RECORD);
    out.extend_from_slice(&record.space.0.to_le_bytes());
    out.extend_from_slice(&record.created.to_le_bytes());
    out.extend_from_slice(&record.modified.to_le_bytes());
    out.extend_from_slice(&record.touch.goal_run.to_le_bytes());
    out.extend_from_slice(&record.touch.first_fingerprint.to_le_bytes());
    out.extend_from_slice(&record.events.to_le_bytes());
    out.push(class(record.touch.class));
    out.extend_from_slice(record.packed());
}

/// An event as bytes, with its id.
pub(crate) fn encode_event(id: &str, event: &Event, out: &mut Vec<u8>) {
    out.push(EVENT);
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
}

fn class(class: Class) -> u8 {
    match class {
        Class::Unchanged => 0,
        Class::Updated => 1,
        Class::Created => 2,
    }
}

fn put_properties(properties: &[(PropertyId, Property)], out: &mut Vec<u8>) {
    pack_number(properties.len() as u64, out);
    pack_properties(properties, out);
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
        match self.0.byte()? {
            MERGED => Some(Stored::MergedInto(RecordId(self.0.array()?))),
            kind @ (RECORD | COUNTED_RECORD | RECORD_WITHOUT_EVENTS) => self.record(kind).map(Stored::Record),
            _ => None,
        }
    }

    fn record(&mut self, kind: u8) -> Option<Record> {
        let mut record =
            Record::new(SpaceId(u32::from_le_bytes(self.0.array()?)), i64::from_le_bytes(self.0.array()?));
        record.modified = i64::from_le_bytes(self.0.array()?);
        record.touch.goal_run = u64::from_le_bytes(self.0.array()?);
        record.touch.first_fingerprint = u64::from_le_bytes(self.0.array()?);
        if kind != RECORD_WITHOUT_EVENTS {
            record.events = u64::from_le_bytes(self.0.array()?);
        }
        record.touch.class = self.class()?;
        if kind != RECORD {
            self.0.number::<usize>()?;
        }
        record.with_packed(self.0.take(self.0.0.len())?)
    }

    fn event(&mut self) -> Option<(CompactString, Event)> {
        let EVENT = self.0.byte()? else { return None };
        let touch = EventTouch { goal_run: u64::from_le_bytes(self.0.array()?), class: self.class()? };
        let product_store = match self.0.byte()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let time = Timestamp::from_nanosecond(self.0.signed()?).ok()?;
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
        Some((id, Event { time, properties, nested, product_store, touch }))
    }

    fn class(&mut self) -> Option<Class> {
        match self.0.byte()? {
            0 => Some(Class::Unchanged),
            1 => Some(Class::Updated),
            2 => Some(Class::Created),
            _ => None,
        }
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
    use sluicebox_model::{Touch, Value};

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
                .prop_map(|moment| Value::DateTime(Timestamp::from_nanosecond(moment).unwrap())),
        ]
    }

    fn property() -> impl Strategy<Value = Property> {
        prop_oneof![
            value().prop_map(Property::One),
            prop::collection::vec(value(), 1..4).prop_map(Property::Many)
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        let properties = prop::collection::btree_map(any::<u32>(), property(), 0..6);
        (any::<(u32, i64, i64, u64, u64, u64)>(), 0..3, properties).prop_map(
            |((space, created, modified, goal_run, first_fingerprint, events), class, properties)| {
                let mut record = Record::new(SpaceId(space), created);
                (record.modified, record.events) = (modified, events);
                let class = [Class::Unchanged, Class::Updated, Class::Created][class as usize];
                record.touch = Touch { goal_run, first_fingerprint, class };
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
        (-(10_i128.pow(19))..10_i128.pow(19), any::<(bool, u64)>(), properties(), nested).prop_map(
            |(time, (product_store, goal_run), properties, nested)| Event {
                time: Timestamp::from_nanosecond(time).unwrap(),
                properties,
                nested: nested.into_iter().map(|(kind, rows)| (NestedTypeId(kind), rows)).collect(),
                product_store,
                touch: EventTouch { goal_run, class: Class::Created },
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
        fn records_come_back_as_they_were(record in record()) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
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
        fn records_of_older_layouts_are_read(record in record()) {
            let mut bytes = Vec::new();
            encode(&record, &mut bytes);
            let (header, properties) = bytes.split_at(HEADER);
            let mut count = Vec::new();
            pack_number(record.properties().count() as u64, &mut count);
            let mut second = [header, &count, properties].concat();
            second[0] = COUNTED_RECORD;
            prop_assert_eq!(decode(&second).unwrap(), Stored::Record(record.clone()));
            let mut first = [&header[..37], &header[45..], &count, properties].concat();
            first[0] = RECORD_WITHOUT_EVENTS;
            let mut without_events = record;
            without_events.events = 0;
            prop_assert_eq!(decode(&first).unwrap(), Stored::Record(without_events));
        }
    }

    #[test]
    fn merged_records_lead_to_another() {
        let id = RecordId::create();
        assert_eq!(decode(&merged_into(id)).unwrap(), Stored::MergedInto(id));
    }
}
