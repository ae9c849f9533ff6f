//! Properties and values as bytes, the format of records in memory and on disk. A row is merged into a record without decoding
//! the properties that it does not write.
//!
//! Properties follow each other in the order of their ids: id, shape (0 = one value, otherwise 1 + the number of
//! values), values. A value is a tag and its bytes. Numbers are LEB128; negative ones zigzag. Equal values are equal
//! bytes.

use std::borrow::Cow;

use compact_str::CompactString;
use jiff::civil::Date;
use rust_decimal::Decimal;

use crate::batch::append;
use crate::{Moment, Property, PropertyId, Value};

const TEXT: u8 = 0;
const NUMBER: u8 = 1;
const FALSE: u8 = 2;
const TRUE: u8 = 3;
const DATE: u8 = 4;
const DATE_TIME: u8 = 5;

/// Appends a number without a sign.
#[inline]
pub fn pack_number(number: u64, out: &mut Vec<u8>) {
    if number < 0x80 {
        return out.push(number as u8);
    }
    let (mut bytes, mut length, mut left) = ([0; 10], 0, number);
    for byte in &mut bytes {
        let last = left < 0x80;
        *byte = left as u8 | if last { 0 } else { 0x80 };
        length += 1;
        left >>= 7;
        if last {
            break;
        }
    }
    append(bytes.get(..length).unwrap_or_default(), out);
}

/// Appends a number with a sign.
pub fn pack_signed(number: i128, out: &mut Vec<u8>) {
    // Nearly every number fits.
    if let Ok(number) = i64::try_from(number) {
        return pack_number(((number << 1) ^ (number >> 63)) as u64, out);
    }
    let mut number = ((number << 1) ^ (number >> 127)) as u128;
    while number > u64::MAX.into() {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    pack_number(number as u64, out);
}

/// Appends a text. Its bytes are not checked.
#[inline]
pub fn pack_text(text: &[u8], out: &mut Vec<u8>) {
    out.push(TEXT);
    pack_number(text.len() as u64, out);
    out.extend_from_slice(text);
}

/// Appends a property that is a text, as most are. Answers `false` and appends nothing where the id or the text is too long for
/// one byte of id and one of length.
#[inline]
pub fn pack_short_text(id: PropertyId, text: &str, out: &mut Vec<u8>) -> bool {
    let short = |number: Option<u8>| number.filter(|number| *number < 0x80);
    let (id, length) = (short(u8::try_from(id.0).ok()), short(u8::try_from(text.len()).ok()));
    let (Some(id), Some(length)) = (id, length) else { return false };
    out.extend_from_slice(&[id, 0, TEXT, length]);
    append(text.as_bytes(), out);
    true
}

/// Appends a value.
pub fn pack_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => pack_text(text.as_bytes(), out),
        Value::Number(number) => {
            out.push(NUMBER);
            pack_number(number.scale().into(), out);
            pack_signed(number.mantissa(), out);
        }
        Value::Boolean(false) => out.push(FALSE),
        Value::Boolean(true) => out.push(TRUE),
        Value::Date(date) => {
            out.push(DATE);
            pack_signed(date.year().into(), out);
            pack_signed(date.month().into(), out);
            pack_signed(date.day().into(), out);
        }
        Value::DateTime(moment) => {
            out.push(DATE_TIME);
            pack_signed(moment.as_nanosecond(), out);
        }
    }
}

/// Appends the shape of one value (`None`), or of a list of a number of values.
#[inline]
pub fn pack_shape(values: Option<usize>, out: &mut Vec<u8>) {
    pack_number(values.map_or(0, |values| values as u64 + 1), out);
}

/// Appends the shape and the values of a property.
pub fn pack_property(property: &Property, out: &mut Vec<u8>) {
    match property {
        Property::One(value) => {
            pack_shape(None, out);
            pack_value(value, out);
        }
        Property::Many(values) => {
            pack_shape(Some(values.len()), out);
            values.iter().for_each(|value| pack_value(value, out));
        }
    }
}

/// Appends properties that are in the order of their ids.
pub fn pack_properties(properties: &[(PropertyId, Property)], out: &mut Vec<u8>) {
    for (id, property) in properties {
        pack_number(id.0.into(), out);
        pack_property(property, out);
    }
}

/// Whether a packed property is one number.
pub fn is_number(property: &[u8]) -> bool {
    property.starts_with(&[0, NUMBER])
}

/// The digits of a packed property that is a number, and how many of them are decimals; `None` if it has more than 18 digits,
/// or is no number.
pub fn short_number(property: &[u8]) -> Option<(i64, u32)> {
    let mut reader = Unpacker(property.strip_prefix(&[0, NUMBER])?);
    let (scale, digits) = (reader.number()?, reader.signed::<i64>()?);
    let short = digits.unsigned_abs() < 10_u64.pow(18) && scale <= 18 && reader.0.is_empty();
    short.then_some((digits, scale))
}

/// Packs a property that is a number with `scale` decimals. Equal numbers have equal bytes, as with [`pack_value`].
pub fn pack_short_number(mut digits: i64, mut scale: u32, out: &mut Vec<u8>) {
    while scale > 0 && digits % 10 == 0 {
        digits /= 10;
        scale -= 1;
    }
    pack_shape(None, out);
    out.push(NUMBER);
    pack_number(scale.into(), out);
    pack_signed(digits.into(), out);
}

/// The values of a packed property, each as bytes.
#[inline]
pub fn packed_values(property: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut reader = Unpacker(property);
    let values = match reader.number::<usize>() {
        Some(0) => 1,
        Some(shape) => shape - 1,
        None => 0,
    };
    (0..values).map_while(move |_| reader.skip_value())
}

/// The bytes of the canonical text of a packed value. Those of a text are not checked.
#[inline]
pub fn packed_text_bytes(value: &[u8]) -> Cow<'_, [u8]> {
    let mut reader = Unpacker(value);
    match reader.byte().filter(|tag| *tag == TEXT).and_then(|_| reader.length()) {
        Some(length) => Cow::Borrowed(reader.take(length).unwrap_or_default()),
        None => Cow::Owned(unpack_value(value).map_or(Vec::new(), |value| value.to_string().into_bytes())),
    }
}

/// The canonical text of a packed value.
pub fn packed_text(value: &[u8]) -> Cow<'_, str> {
    let mut reader = Unpacker(value);
    match reader.text() {
        Some(text) => Cow::Borrowed(text),
        None => Cow::Owned(unpack_value(value).map_or(String::new(), |value| value.to_string())),
    }
}

/// The value that was packed; `None` if the bytes are no value.
pub fn unpack_value(value: &[u8]) -> Option<Value> {
    Unpacker(value).value()
}

/// The property that was packed; `None` if the bytes are no property.
pub fn unpack_property(property: &[u8]) -> Option<Property> {
    Unpacker(property).property()
}

/// Reads packed bytes from front to back. Each method answers `None` where the bytes are something else.
#[derive(Clone, Debug)]
pub struct Unpacker<'a>(pub &'a [u8]);

impl<'a> Unpacker<'a> {
    /// The next `length` bytes.
    #[inline]
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next byte.
    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// A number of at most 64 bits: a length, a count, an id.
    #[inline]
    fn short(&mut self) -> Option<u64> {
        match self.0.split_first()? {
            (first, rest) if *first < 0x80 => {
                self.0 = rest;
                Some(u64::from(*first))
            }
            _ => self.number(),
        }
    }

    /// A length or a count.
    #[inline]
    pub fn length(&mut self) -> Option<usize> {
        usize::try_from(self.short()?).ok()
    }

    /// A number without a sign.
    pub fn number<T: TryFrom<u128>>(&mut self) -> Option<T> {
        // Nearly all numbers are below 2^63, and need no shifts of 128 bits.
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

    /// A number with a sign.
    pub fn signed<T: TryFrom<i128>>(&mut self) -> Option<T> {
        let number: u128 = self.number()?;
        ((number >> 1) as i128 ^ -((number & 1) as i128)).try_into().ok()
    }

    #[inline]
    fn skip_number(&mut self) -> Option<()> {
        // Eight bytes at a time: the last byte of a number has no high bit.
        let last = self.0.first_chunk().map(|bytes| !u64::from_le_bytes(*bytes) & 0x8080_8080_8080_8080);
        let length = match last {
            Some(last) if last != 0 => last.trailing_zeros() as usize / 8,
            _ => self.0.iter().position(|byte| *byte < 0x80)?,
        };
        self.take(length + 1).map(|_| ())
    }

    fn text(&mut self) -> Option<&'a str> {
        let TEXT = self.byte()? else { return None };
        let length = self.length()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    /// A value.
    pub fn value(&mut self) -> Option<Value> {
        if self.0.first() == Some(&TEXT) {
            return self.text().map(|text| Value::Text(CompactString::from(text)));
        }
        Some(match self.byte()? {
            NUMBER => {
                let scale = self.number()?;
                Value::Number(Decimal::try_from_i128_with_scale(self.signed()?, scale).ok()?)
            }
            FALSE => Value::Boolean(false),
            TRUE => Value::Boolean(true),
            DATE => Value::Date(Date::new(self.signed()?, self.signed()?, self.signed()?).ok()?),
            DATE_TIME => Value::DateTime(Moment::from_nanosecond(self.signed()?)?),
            _ => return None,
        })
    }

    /// The bytes of a value, which are not decoded.
    #[inline]
    pub fn skip_value(&mut self) -> Option<&'a [u8]> {
        let before = self.0;
        match self.byte()? {
            TEXT => {
                let length = self.length()?;
                self.take(length)?;
            }
            NUMBER => {
                self.skip_number()?;
                self.skip_number()?;
            }
            FALSE | TRUE => {}
            DATE => {
                self.skip_number()?;
                self.skip_number()?;
                self.skip_number()?;
            }
            DATE_TIME => self.skip_number()?,
            _ => return None,
        }
        before.get(..before.len() - self.0.len())
    }

    /// The shape and the values of a property.
    pub fn property(&mut self) -> Option<Property> {
        let shape: usize = self.number()?;
        match shape.checked_sub(1) {
            None => Some(Property::One(self.value()?)),
            Some(values) => Some(Property::Many((0..values).map(|_| self.value()).collect::<Option<_>>()?)),
        }
    }

    /// The bytes of a property's shape and values, which are not decoded.
    #[inline]
    pub fn skip_property(&mut self) -> Option<&'a [u8]> {
        let before = self.0;
        let shape = self.length()?;
        if shape == 0 {
            self.skip_value()?;
        }
        for _ in 1..shape {
            self.skip_value()?;
        }
        before.get(..before.len() - self.0.len())
    }

    /// The id of the next property, and the bytes of its shape and values; `None` also at the end.
    #[inline]
    pub fn entry(&mut self) -> Option<(PropertyId, &'a [u8])> {
        // Most properties are one short text.
        if let [id @ ..0x80, property @ ..] = self.0
            && let [0, TEXT, length @ ..0x80, ..] = property
            && let Some((property, rest)) = property.split_at_checked(3 + usize::from(*length))
        {
            self.0 = rest;
            return Some((PropertyId(u32::from(*id)), property));
        }
        let id = PropertyId(u32::try_from(self.short()?).ok()?);
        Some((id, self.skip_property()?))
    }

    /// `count` properties, in the order of their ids.
    pub fn properties(&mut self, count: usize) -> Option<Vec<(PropertyId, Property)>> {
        // A damaged count cannot reserve more memory than there are bytes.
        let mut properties = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            properties.push((PropertyId(self.number()?), self.property()?));
        }
        properties.is_sorted_by(|a, b| a.0 < b.0).then_some(properties)
    }
}

/// Whether the bytes are properties in the order of their ids, and nothing else. Values are not decoded: the store's
/// checksums detect damage, and reading a value that is none answers `None`.
pub(crate) fn is_well_formed(bytes: &[u8]) -> bool {
    let mut reader = Unpacker(bytes);
    let mut next = 0_u64;
    while !reader.0.is_empty() {
        let Some((id, _)) = reader.entry().filter(|(id, _)| u64::from(id.0) >= next) else { return false };
        next = u64::from(id.0) + 1;
    }
    true
}
