use std::borrow::Cow;
use std::fmt;

use compact_str::CompactString;
use jiff::civil::{Date, Time};
use jiff::tz::{Offset, TimeZone};
use rust_decimal::Decimal;

use crate::packed::{pack_text, pack_value};
use crate::{Moment, NumberFormat, Strptime};

/// The type of a property.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueType {
    /// Unicode text, kept unchanged.
    #[default]
    Text,
    /// An exact decimal number of up to 28 digits.
    Number,
    /// True or false.
    Boolean,
    /// A day.
    Date,
    /// A moment.
    DateTime,
}

impl ValueType {
    /// Every type, with the name that it has in `schema.toml`.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("text", Self::Text),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("date", Self::Date),
        ("datetime", Self::DateTime),
    ];

    /// The name in `schema.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::DateTime => "datetime",
        }
    }
}

/// One value of a property.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// Text, never empty.
    Text(CompactString),
    /// A number without trailing zeros.
    Number(Decimal),
    /// True or false.
    Boolean(bool),
    /// A day.
    Date(Date),
    /// A moment, to the nanosecond.
    DateTime(Moment),
}

impl Value {
    /// The canonical text, which is shown, and by which identifiers are compared.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            other => Cow::Owned(other.to_string()),
        }
    }

    /// The bytes of a text that is stored outside the value.
    pub(crate) fn long_text(&self) -> usize {
        match self {
            Self::Text(text) if text.is_heap_allocated() => text.len(),
            _ => 0,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
            Self::Date(date) => write!(f, "{date}"),
            Self::DateTime(moment) => write!(f, "{moment}"),
        }
    }
}

/// How a date or a moment is written in a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TimeFormat {
    /// A date in ISO 8601; a moment in RFC 3339 with `T` or a space and an optional zone, or a date, which means its midnight.
    #[default]
    Standard,
    /// A format of `strptime`.
    Custom(Strptime),
}

impl TimeFormat {
    /// The format of a goal's column; `None` = the standard one.
    pub fn new(format: Option<&str>) -> Self {
        format.map_or(Self::Standard, |format| Self::Custom(Strptime::new(format)))
    }
}

/// How the cells of a mapped column become values.
#[derive(Clone, Debug)]
pub struct CellFormat {
    /// The property's type.
    pub value_type: ValueType,
    /// How numbers are written.
    pub number: NumberFormat,
    /// How dates and moments are written.
    pub time: TimeFormat,
    /// The zone of moments that are written without one.
    pub timezone: TimeZone,
}

/// A cell does not fit the type of its property. The message names the type and never quotes the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cell is not a {}", .0.name())]
pub struct TypeMismatch(pub ValueType);

impl CellFormat {
    /// The value of a cell. The cell must not be empty: an empty cell has no value.
    ///
    /// # Errors
    /// If the cell does not fit the type.
    pub fn parse(&self, cell: &str) -> Result<Value, TypeMismatch> {
        let value = match self.value_type {
            ValueType::Text => Some(Value::Text(cell.into())),
            ValueType::Number => self.number.parse(cell).map(Value::Number),
            ValueType::Boolean => parse_boolean(cell).map(Value::Boolean),
            ValueType::Date => self.parse_date(cell).map(Value::Date),
            ValueType::DateTime => self.parse_moment(cell).map(Value::DateTime),
        };
        value.ok_or(TypeMismatch(self.value_type))
    }

    /// Appends the packed value of a cell. The cell must not be empty.
    ///
    /// # Errors
    /// If the cell does not fit the type; nothing is appended then.
    pub fn pack(&self, cell: &str, out: &mut Vec<u8>) -> Result<(), TypeMismatch> {
        match self.value_type {
            ValueType::Text => pack_text(cell.as_bytes(), out),
            _ => pack_value(&self.parse(cell)?, out),
        }
        Ok(())
    }

    /// The moment that a cell holds, whatever the type. `None` where it holds none, or is empty.
    pub fn parse_moment(&self, cell: &str) -> Option<Moment> {
        let moment = match &self.time {
            TimeFormat::Standard => standard_moment(cell.as_bytes(), &self.timezone),
            TimeFormat::Custom(format) => format.parse_moment(cell, &self.timezone),
        };
        moment.filter(|moment| moment.has_year())
    }

    fn parse_date(&self, cell: &str) -> Option<Date> {
        match &self.time {
            TimeFormat::Standard => standard_date(cell.as_bytes()),
            TimeFormat::Custom(format) => {
                format.parse(cell)?.to_date().ok().filter(|date| (1..=9999).contains(&date.year()))
            }
        }
    }
}

fn parse_boolean(cell: &str) -> Option<bool> {
    let is = |word: &&str| cell.eq_ignore_ascii_case(word);
    if ["true", "yes", "1"].iter().any(is) {
        Some(true)
    } else if ["false", "no", "0"].iter().any(is) {
        Some(false)
    } else {
        None
    }
}

/// `YYYY-MM-DD`, from the year 1 on.
fn standard_date(text: &[u8]) -> Option<Date> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = digits(&[*y1, *y2, *y3, *y4]).filter(|year| *year > 0)?;
    Date::new(
        i16::try_from(year).ok()?,
        i8::try_from(digits(&[*m1, *m2])?).ok()?,
        i8::try_from(digits(&[*d1, *d2])?).ok()?,
    )
    .ok()
}

/// RFC 3339 section 5.6, with the zone optional, or a date, which means its midnight. A leap second is read as the second
/// before it.
fn standard_moment(text: &[u8], timezone: &TimeZone) -> Option<Moment> {
    let date = standard_date(text.get(..10)?)?;
    let Some(separator) = text.get(10) else {
        return Some(Moment::from_local(date.to_datetime(Time::midnight()), timezone));
    };
    let (b'T' | b't' | b' ') = separator else { return None };
    let [h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] = text.get(11..)? else { return None };
    let (nanos, zone) = match rest {
        [b'.', fraction @ ..] => {
            let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (fraction, zone) = fraction.split_at_checked(length)?;
            (nanoseconds(fraction)?, zone)
        }
        zone => (0, zone),
    };
    let time = Time::new(
        i8::try_from(digits(&[*h1, *h2])?).ok()?,
        i8::try_from(digits(&[*m1, *m2])?).ok()?,
        match digits(&[*s1, *s2])? {
            60 => 59,
            second => i8::try_from(second).ok()?,
        },
        nanos,
    )
    .ok()?;
    let local = date.to_datetime(time);
    match zone {
        [] => Some(Moment::from_local(local, timezone)),
        [b'Z' | b'z'] => Some(Moment::at_offset(local, Offset::UTC)),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = (hours * 60 + minutes) * 60;
            let seconds = if *sign == b'-' { -seconds } else { seconds };
            Some(Moment::at_offset(local, Offset::from_seconds(seconds).ok()?))
        }
        _ => None,
    }
}

fn digits(text: &[u8]) -> Option<i32> {
    text.iter()
        .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i32::from(byte - b'0')))
}

/// The nanoseconds of a fraction of one or more digits. Digits after the ninth are cut off.
fn nanoseconds(fraction: &[u8]) -> Option<i32> {
    let first = fraction.get(..fraction.len().min(9)).filter(|digits| !digits.is_empty())?;
    let missing = 9 - u32::try_from(first.len()).ok()?;
    Some(digits(first)? * 10i32.pow(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value_type: ValueType, format: Option<&str>, cell: &str, expected: Option<&str>) {
        let format = CellFormat {
            value_type,
            number: NumberFormat::default(),
            time: TimeFormat::new(format),
            timezone: TimeZone::fixed(jiff::tz::offset(2)),
        };
        let found = format.parse(cell).ok().map(|value| value.to_string());
        assert_eq!(found.as_deref(), expected, "{cell}");
    }

    #[test]
    fn dates() {
        let check = |cell, expected| check(ValueType::Date, None, cell, expected);
        check("2024-02-29", Some("2024-02-29"));
        check("0001-01-01", Some("0001-01-01"));
        check("9999-12-31", Some("9999-12-31"));
        for wrong in [
            "2023-02-29",
            "24-02-29",
            "2024-2-9",
            "20240229",
            "2024-02-29T00:00:00Z",
            "0000-01-01",
            "10000-01-01",
            "",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn custom_dates() {
        let check = |format, cell, expected| check(ValueType::Date, Some(format), cell, expected);
        check("%d-%m-%Y", "29-02-2024", Some("2024-02-29"));
        check("%d-%m-%Y", "2024-02-29", None);
        check("%d %B %Y", "3 March 2024", Some("2024-03-03"));
        check("%d/%m/%Y", "31/12/9999", Some("9999-12-31"));
    }

    #[test]
    fn years_have_the_digits_of_their_directive() {
        let check = |format, cell, expected| check(ValueType::Date, Some(format), cell, expected);
        check("%d/%m/%Y", "3/4/2025", Some("2025-04-03"));
        check("%d/%m/%Y", "03/04/0025", Some("0025-04-03"));
        for wrong in ["03/04/25", "03/04/025", "03/04/5", "03/04/02025", "03/04/-025", "03/04/0000", "03/04/"]
        {
            check("%d/%m/%Y", wrong, None);
        }
        check("%d/%m/%y", "03/04/25", Some("2025-04-03"));
        check("%d/%m/%y", "03/04/05", Some("2005-04-03"));
        check("%d/%m/%y", "03/04/69", Some("1969-04-03"));
        for wrong in ["03/04/5", "03/04/2025", "03/04/025"] {
            check("%d/%m/%y", wrong, None);
        }
        check("%Y%m%d", "20250403", Some("2025-04-03"));
        check("%Y%m%d", "250403", None);
        check("%d%m%y", "030425", Some("2025-04-03"));
        check("%F", "2025-04-03", Some("2025-04-03"));
        check("%F", "25-04-03", None);
        check("%D", "04/03/25", Some("2025-04-03"));
        check("%D", "04/03/5", None);
        check("%G-W%V-%u", "2025-W14-4", Some("2025-04-03"));
        check("%G-W%V-%u", "25-W14-4", None);
        check("%B %d, %Y", "April 3, 25", None);
        check("%Y %y-%m-%d", "2025 25-04-03", Some("2025-04-03"));
        check("%Y %y-%m-%d", "25 25-04-03", None);
    }

    #[test]
    fn datetimes() {
        let check = |cell, expected| check(ValueType::DateTime, None, cell, expected);
        check("2026-01-02T03:04:05Z", Some("2026-01-02T03:04:05Z"));
        check("2026-01-02 03:04:05.120+01:00", Some("2026-01-02T02:04:05.12Z"));
        check("2026-01-02 03:04:05", Some("2026-01-02T01:04:05Z"));
        check("2026-01-02t03:04:05.123456789z", Some("2026-01-02T03:04:05.123456789Z"));
        // A date is its midnight in the goal's zone.
        check("2026-01-02", Some("2026-01-01T22:00:00Z"));
        for wrong in [
            "2026-01-2",
            "2026-01-02T",
            "2026-01-02 ",
            "2026-01-02T03:04",
            "2026-01-02T03:04:05+1",
            "2026-01-02T25:00:00Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05 Z",
            "2026-01-02T03:04:05+99:00",
            "0000-12-31T00:00:00Z",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn datetimes_of_the_first_and_last_day() {
        let check = |cell, expected| check(ValueType::DateTime, None, cell, expected);
        check("9999-12-31", Some("9999-12-30T22:00:00Z"));
        check("9999-12-31 00:00:00", Some("9999-12-30T22:00:00Z"));
        check("9999-12-31 23:59:59.999999999", Some("9999-12-31T21:59:59.999999999Z"));
        check("9999-12-31T00:00:00Z", Some("9999-12-31T00:00:00Z"));
        check("9999-12-31T23:59:59.999999999Z", Some("9999-12-31T23:59:59.999999999Z"));
        check("9999-12-31T23:59:59-05:00", None);
        check("9999-12-31T18:59:59-05:00", Some("9999-12-31T23:59:59Z"));
        check("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z"));
        // In UTC it is the day before.
        check("0001-01-01T00:00:00", None);
    }

    #[test]
    fn custom_datetimes() {
        let check = |format, cell, expected| check(ValueType::DateTime, Some(format), cell, expected);
        check("%d/%m/%Y %H:%M", "02/01/2026 12:30", Some("2026-01-02T10:30:00Z"));
        check("%d/%m/%Y", "02/01/2026", Some("2026-01-01T22:00:00Z"));
        check("%d/%m/%Y %H:%M", "31/12/9999 23:59", Some("9999-12-31T21:59:00Z"));
        check("%d/%m/%Y %H:%M", "02/01/26 12:30", None);
        check("%s", "0", Some("1970-01-01T00:00:00Z"));
        check("%s", "-99999999999", None);
    }

    #[test]
    fn offsets_are_read_with_and_without_a_colon_and_as_z() {
        let check = |format: &str, cell: &str, expected: Option<&str>| {
            check(ValueType::DateTime, Some(format), cell, expected);
        };
        for format in ["%d/%m/%Y %H:%M %z", "%d/%m/%Y %H:%M %:z"] {
            for offset in ["+0100", "+01:00"] {
                check(format, &format!("02/01/2026 12:30 {offset}"), Some("2026-01-02T11:30:00Z"));
            }
            check(format, "02/01/2026 12:30 Z", Some("2026-01-02T12:30:00Z"));
            check(format, "02/01/2026 12:30 z", Some("2026-01-02T12:30:00Z"));
            check(format, "02/01/2026 12:30 -05:30", Some("2026-01-02T18:00:00Z"));
            for wrong in ["", "+1", "+01", "+ab:cd", "+01-00", "CET", "ZZ", "+01:00x"] {
                check(format, &format!("02/01/2026 12:30 {wrong}"), None);
            }
        }
        check("%Y-%m-%dT%H:%M:%S%z", "2026-01-02T12:30:00+01:00", Some("2026-01-02T11:30:00Z"));
        check("%z %Y-%m-%d", "+01:00 2026-01-02", Some("2026-01-01T23:00:00Z"));
        check("%z %d-%m-%Y", "Z 02-01-26", None);
    }

    #[test]
    fn booleans() {
        let check = |cell, expected| check(ValueType::Boolean, None, cell, expected);
        for (cell, expected) in [("YES", "true"), ("1", "true"), ("False", "false"), ("no", "false")] {
            check(cell, Some(expected));
        }
        check("maybe", None);
    }
}
