//! A record as bytes.
//!
//! The first byte tells the kind: 3 = a record, 1 = a record as layout 1 had it, without `events`; 2 = merged into the
//! record whose id follows. A record is `space, created, modified, goal run, first fingerprint, events` (u32 and five
//! 64-bit integers, little endian), the class (u8), and properties: their number, and for each, in the order of their
//! ids: id, shape (0 = one value, otherwise 1 + the number of values), values. A value is a tag and its bytes.
//!
//! An event is 1, the goal run (u64, little endian), the class (u8), whether it feeds the product store (u8), the time
//! in nanoseconds, the id's length and text, properties, and the number of nested types; for each of them its id, the
//! number of rows and each row's properties. Numbers without a stated width are LEB128; negative ones zigzag.

use compact_str::CompactString;
use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use sluicebox_model::{
    Class, Event, EventTouch, NestedTypeId, Properties, Property, PropertyId, Record, RecordId, SpaceId,
    Value,
};

use crate::StoreError;

const RECORD_WITHOUT_EVENTS: u8 = 1;
const MERGED: u8 = 2;
const RECORD: u8 = 3;
const EVENT: u8 = 1;

const TEXT: u8 = 0;
const NUMBER: u8 = 1;
const FALSE: u8 = 2;
const TRUE: u8 = 3;
const DATE: u8 = 4;
const DATE_TIME: u8 = 5;

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

pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) {
    out.push(RECORD);
    out.extend_from_slice(&record.space.0.to_le_bytes());
    out.extend_from_slice(&record.created.to_le_bytes());
    out.extend_from_slice(&record.modified.to_le_bytes());
    out.extend_from_slice(&record.touch.goal_run.to_le_bytes());
    out.extend_from_slice(&record.touch.first_fingerprint.to_le_bytes());
    out.extend_from_slice(&record.events.to_le_bytes());
    out.push(class(record.touch.class));
    put_properties(record.properties(), out);
}

/// An event as bytes, with its id.
pub(crate) fn encode_event(id: &str, event: &Event, out: &mut Vec<u8>) {
    out.push(EVENT);
    out.extend_from_slice(&event.touch.goal_run.to_le_bytes());
    out.push(class(event.touch.class));
    out.push(u8::from(event.product_store));
    put_signed(event.time.as_nanosecond(), out);
    put_number(id.len() as u128, out);
    out.extend_from_slice(id.as_bytes());
    put_properties(&event.properties, out);
    put_number(event.nested.len() as u128, out);
    for (nested, rows) in &event.nested {
        put_number(nested.0.into(), out);
        put_number(rows.len() as u128, out);
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
    put_number(properties.len() as u128, out);
    for (id, property) in properties {
        put_number(id.0.into(), out);
        match property {
            Property::One(value) => {
                out.push(0);
                put_value(value, out);
            }
            Property::Many(values) => {
                put_number(values.len() as u128 + 1, out);
                values.iter().for_each(|value| put_value(value, out));
            }
        }
    }
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            out.push(TEXT);
            put_number(text.len() as u128, out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Number(number) => {
            out.push(NUMBER);
            put_number(number.scale().into(), out);
            put_signed(number.mantissa(), out);
        }
        Value::Boolean(false) => out.push(FALSE),
        Value::Boolean(true) => out.push(TRUE),
        Value::Date(date) => {
            out.push(DATE);
            put_signed(date.year().into(), out);
            put_signed(date.month().into(), out);
            put_signed(date.day().into(), out);
        }
        Value::DateTime(moment) => {
            out.push(DATE_TIME);
            put_signed(moment.as_nanosecond(), out);
        }
    }
}

fn put_number(mut number: u128, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_signed(number: i128, out: &mut Vec<u8>) {
    put_number(((number << 1) ^ (number >> 127)) as u128, out);
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Stored, StoreError> {
    let mut reader = Reader(bytes);
    reader.stored().filter(|_| reader.0.is_empty()).ok_or(StoreError::Damaged("a record"))
}

/// An event with its id.
pub(crate) fn decode_event(bytes: &[u8]) -> Result<(CompactString, Event), StoreError> {
    let mut reader = Reader(bytes);
    reader.event().filter(|_| reader.0.is_empty()).ok_or(StoreError::Damaged("an event"))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number<T: TryFrom<u128>>(&mut self) -> Option<T> {
        // Nearly all numbers here are below 2^63 and are read without 128-bit shifts.
        let (mut low, mut shift) = (0_u64, 0);
        while shift < 63 {
            let byte = self.byte()?;
            low |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u128::from(low).try_into().ok();
            }
            shift += 7;
        }
        let mut number = u128::from(low);
        while shift < 128 {
            let byte = self.byte()?;
            number |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number.try_into().ok();
            }
            shift += 7;
        }
        None
    }

    fn signed<T: TryFrom<i128>>(&mut self) -> Option<T> {
        let number: u128 = self.number()?;
        ((number >> 1) as i128 ^ -((number & 1) as i128)).try_into().ok()
    }

    fn stored(&mut self) -> Option<Stored> {
        match self.byte()? {
            MERGED => Some(Stored::MergedInto(RecordId(self.array()?))),
            RECORD => self.record(true).map(Stored::Record),
            RECORD_WITHOUT_EVENTS => self.record(false).map(Stored::Record),
            _ => None,
        }
    }

    fn record(&mut self, with_events: bool) -> Option<Record> {
        let mut record =
            Record::new(SpaceId(u32::from_le_bytes(self.array()?)), i64::from_le_bytes(self.array()?));
        record.modified = i64::from_le_bytes(self.array()?);
        record.touch.goal_run = u64::from_le_bytes(self.array()?);
        record.touch.first_fingerprint = u64::from_le_bytes(self.array()?);
        if with_events {
            record.events = u64::from_le_bytes(self.array()?);
        }
        record.touch.class = self.class()?;
        let properties = self.properties()?;
        Some(record.with_sorted_properties(properties))
    }

    fn event(&mut self) -> Option<(CompactString, Event)> {
        let EVENT = self.byte()? else { return None };
        let touch = EventTouch { goal_run: u64::from_le_bytes(self.array()?), class: self.class()? };
        let product_store = match self.byte()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let time = Timestamp::from_nanosecond(self.signed()?).ok()?;
        let length = self.number()?;
        let id = CompactString::from_utf8(self.take(length)?).ok()?;
        let properties = self.properties()?;
        let count: usize = self.number()?;
        let mut nested = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            let kind = NestedTypeId(self.number()?);
            let rows: usize = self.number()?;
            nested.push((kind, (0..rows).map(|_| self.properties()).collect::<Option<_>>()?));
        }
        Some((id, Event { time, properties, nested, product_store, touch }))
    }

    fn class(&mut self) -> Option<Class> {
        match self.byte()? {
            0 => Some(Class::Unchanged),
            1 => Some(Class::Updated),
            2 => Some(Class::Created),
            _ => None,
        }
    }

    fn properties(&mut self) -> Option<Properties> {
        let count: usize = self.number()?;
        // A count that lies cannot reserve more than the bytes that are there.
        let mut properties = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            let id = PropertyId(self.number()?);
            let shape: usize = self.number()?;
            let property = match shape.checked_sub(1) {
                None => Property::One(self.value()?),
                Some(values) => Property::Many((0..values).map(|_| self.value()).collect::<Option<_>>()?),
            };
            properties.push((id, property));
        }
        properties.is_sorted_by(|a, b| a.0 < b.0).then_some(properties)
    }

    fn value(&mut self) -> Option<Value> {
        Some(match self.byte()? {
            TEXT => {
                let length = self.number()?;
                Value::Text(CompactString::from_utf8(self.take(length)?).ok()?)
            }
            NUMBER => {
                let scale = self.number()?;
                Value::Number(Decimal::try_from_i128_with_scale(self.signed()?, scale).ok()?)
            }
            FALSE => Value::Boolean(false),
            TRUE => Value::Boolean(true),
            DATE => Value::Date(Date::new(self.signed()?, self.signed()?, self.signed()?).ok()?),
            DATE_TIME => Value::DateTime(Timestamp::from_nanosecond(self.signed()?).ok()?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use sluicebox_model::Touch;

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
                let properties = properties.into_iter().map(|(id, property)| (PropertyId(id), property));
                record.with_sorted_properties(properties.collect())
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
            prop_assert!(decode(&bytes[..place]).is_err());
        }
    }

    #[test]
    fn merged_records_lead_to_another() {
        let id = RecordId::create();
        assert_eq!(decode(&merged_into(id)).unwrap(), Stored::MergedInto(id));
    }
}
