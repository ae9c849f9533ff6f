use std::borrow::Cow;
use std::fmt;

use compact_str::CompactString;
use jiff::civil::{Date, DateTime, Time};
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use rust_decimal::Decimal;

use crate::NumberFormat;
use crate::packed::{pack_text, pack_value};

/// The type of a property.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueType {
    /// Unicode text, kept as it is.
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
    DateTime(Timestamp),
}

impl Value {
    /// The canonical text: what is shown, and what identifiers are compared by.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            other => Cow::Owned(other.to_string()),
        }
    }

    /// The bytes of a text that does not lie in the value itself.
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

/// How a time is written in a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum TimeFormat {
    /// ISO 8601 for a day; for a moment RFC 3339 with `T` or a space, and an optional zone.
    #[default]
    Standard,
    /// `strptime` directives.
    Custom(String),
}

/// How the cells of a mapped column become values.
#[derive(Clone, Debug)]
pub struct CellFormat {
    /// The property's type.
    pub value_type: ValueType,
    /// How numbers are written.
    pub number: NumberFormat,
    /// How days and moments are written.
    pub time: TimeFormat,
    /// The zone of a moment that is written without one.
    pub timezone: TimeZone,
}

/// A cell that does not fit its property's type. It says the type and never the cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cell is not a {}", .0.name())]
pub struct Misfit(pub ValueType);

impl CellFormat {
    /// The value that a cell holds. The cell must not be empty: an empty cell carries no value.
    pub fn parse(&self, cell: &str) -> Result<Value, Misfit> {
        let value = match self.value_type {
            ValueType::Text => Some(Value::Text(cell.into())),
            ValueType::Number => self.number.parse(cell).map(Value::Number),
            ValueType::Boolean => parse_boolean(cell).map(Value::Boolean),
            ValueType::Date => self.parse_date(cell).map(Value::Date),
            ValueType::DateTime => self.parse_datetime(cell).map(Value::DateTime),
        };
        value.ok_or(Misfit(self.value_type))
    }

    /// Appends the value that a cell holds, packed. The cell must not be empty.
    ///
    /// # Errors
    /// If it does not fit; nothing is appended then.
    pub fn pack(&self, cell: &str, out: &mut Vec<u8>) -> Result<(), Misfit> {
        match self.value_type {
            ValueType::Text => pack_text(cell.as_bytes(), out),
            _ => pack_value(&self.parse(cell)?, out),
        }
        Ok(())
    }

    /// The moment of an event: a datetime, or, where no format is given, a day too, which begins at midnight of the
    /// zone. The cell may be empty, and then gives none.
    pub fn parse_moment(&self, cell: &str) -> Option<Timestamp> {
        self.parse_datetime(cell).or_else(|| match self.time {
            TimeFormat::Standard => {
                self.timezone.to_timestamp(standard_date(cell.as_bytes())?.to_datetime(Time::midnight())).ok()
            }
            TimeFormat::Custom(_) => None,
        })
    }

    fn parse_date(&self, cell: &str) -> Option<Date> {
        match &self.time {
            TimeFormat::Standard => standard_date(cell.as_bytes()),
            TimeFormat::Custom(format) => BrokenDownTime::parse(format, cell).ok()?.to_date().ok(),
        }
    }

    fn parse_datetime(&self, cell: &str) -> Option<Timestamp> {
        match &self.time {
            TimeFormat::Standard => standard_datetime(cell.as_bytes(), &self.timezone),
            TimeFormat::Custom(format) => {
                custom_datetime(&BrokenDownTime::parse(format, cell).ok()?, &self.timezone)
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

/// `YYYY-MM-DD`.
fn standard_date(text: &[u8]) -> Option<Date> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = digits(&[*y1, *y2, *y3, *y4])?;
    Date::new(
        i16::try_from(year).ok()?,
        i8::try_from(digits(&[*m1, *m2])?).ok()?,
        i8::try_from(digits(&[*d1, *d2])?).ok()?,
    )
    .ok()
}

/// RFC 3339 section 5.6, with the zone optional. A leap second is read as the second before it.
fn standard_datetime(text: &[u8], timezone: &TimeZone) -> Option<Timestamp> {
    let date = standard_date(text.get(..10)?)?;
    let (b'T' | b't' | b' ') = text.get(10)? else { return None };
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
    let local = DateTime::from_parts(date, time);
    match zone {
        [] => timezone.to_timestamp(local).ok(),
        [b'Z' | b'z'] => TimeZone::UTC.to_timestamp(local).ok(),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = (hours * 60 + minutes) * 60;
            let seconds = if *sign == b'-' { -seconds } else { seconds };
            jiff::tz::Offset::from_seconds(seconds).ok()?.to_timestamp(local).ok()
        }
        _ => None,
    }
}

fn custom_datetime(parsed: &BrokenDownTime, timezone: &TimeZone) -> Option<Timestamp> {
    if let Some(seconds) = parsed.timestamp() {
        return Some(seconds);
    }
    let date = parsed.to_date().ok()?;
    let time = match parsed.hour() {
        Some(_) => parsed.to_time().ok()?,
        None => Time::midnight(),
    };
    let local = DateTime::from_parts(date, time);
    match parsed.offset() {
        Some(offset) => offset.to_timestamp(local).ok(),
        None => timezone.to_timestamp(local).ok(),
    }
}

fn digits(text: &[u8]) -> Option<i32> {
    text.iter()
        .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + i32::from(byte - b'0')))
}

/// The nanoseconds of a fraction of one to nine digits, or more of which the rest is zeros or cut off.
fn nanoseconds(fraction: &[u8]) -> Option<i32> {
    let first = fraction.get(..fraction.len().min(9)).filter(|digits| !digits.is_empty())?;
    let missing = 9 - u32::try_from(first.len()).ok()?;
    Some(digits(first)? * 10i32.pow(missing))
}

/// Why a `strptime` format cannot be used for a property of this type, or `None`.
pub fn time_format_error(format: &str, value_type: ValueType) -> Option<String> {
    let sample = ZonedDateTime::new(Timestamp::UNIX_EPOCH, TimeZone::UTC);
    let written = match strtime::format(format, &sample) {
        Ok(written) => written,
        Err(error) => return Some(error.to_string()),
    };
    let parsed = match BrokenDownTime::parse(format, &written) {
        Ok(parsed) => parsed,
        Err(error) => return Some(error.to_string()),
    };
    let fits = match value_type {
        ValueType::Date => parsed.to_date().is_ok(),
        _ => custom_datetime(&parsed, &TimeZone::UTC).is_some(),
    };
    (!fits).then(|| "it does not hold a whole date".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value_type: ValueType, format: Option<&str>, cell: &str, expected: Option<&str>) {
        let format = CellFormat {
            value_type,
            number: NumberFormat::default(),
            time: format.map_or(TimeFormat::Standard, |text| TimeFormat::Custom(text.into())),
            timezone: TimeZone::fixed(jiff::tz::offset(2)),
        };
        let found = format.parse(cell).ok().map(|value| value.to_string());
        assert_eq!(found.as_deref(), expected, "{cell}");
    }

    #[test]
    fn dates() {
        let check = |cell, expected| check(ValueType::Date, None, cell, expected);
        check("2024-02-29", Some("2024-02-29"));
        for wrong in ["2023-02-29", "24-02-29", "2024-2-9", "20240229", "2024-02-29T00:00:00Z", ""] {
            check(wrong, None);
        }
    }

    #[test]
    fn custom_dates() {
        check(ValueType::Date, Some("%d-%m-%Y"), "29-02-2024", Some("2024-02-29"));
        check(ValueType::Date, Some("%d-%m-%Y"), "2024-02-29", None);
        check(ValueType::Date, Some("%d %B %Y"), "3 March 2024", Some("2024-03-03"));
    }

    #[test]
    fn datetimes() {
        let check = |cell, expected| check(ValueType::DateTime, None, cell, expected);
        check("2026-01-02T03:04:05Z", Some("2026-01-02T03:04:05Z"));
        check("2026-01-02 03:04:05.120+01:00", Some("2026-01-02T02:04:05.12Z"));
        check("2026-01-02 03:04:05", Some("2026-01-02T01:04:05Z"));
        check("2026-01-02t03:04:05.123456789z", Some("2026-01-02T03:04:05.123456789Z"));
        for wrong in [
            "2026-01-02",
            "2026-01-02T03:04",
            "2026-01-02T03:04:05+1",
            "2026-01-02T25:00:00Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05 Z",
            "2026-01-02T03:04:05+99:00",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn moments_may_be_days() {
        let format = CellFormat {
            value_type: ValueType::DateTime,
            number: NumberFormat::default(),
            time: TimeFormat::Standard,
            timezone: TimeZone::fixed(jiff::tz::offset(2)),
        };
        let check = |cell: &str, expected: Option<&str>| {
            let found = format.parse_moment(cell).map(|moment| moment.to_string());
            assert_eq!(found.as_deref(), expected, "{cell}");
        };
        check("2026-01-02", Some("2026-01-01T22:00:00Z"));
        check("2026-01-02 03:04:05Z", Some("2026-01-02T03:04:05Z"));
        check("", None);
        check("2026-1-2", None);
    }

    #[test]
    fn custom_datetimes() {
        let check = |format, cell, expected| check(ValueType::DateTime, Some(format), cell, expected);
        check("%d/%m/%Y %H:%M", "02/01/2026 12:30", Some("2026-01-02T10:30:00Z"));
        check("%d/%m/%Y %H:%M %z", "02/01/2026 12:30 +0100", Some("2026-01-02T11:30:00Z"));
        check("%d/%m/%Y", "02/01/2026", Some("2026-01-01T22:00:00Z"));
        check("%s", "0", Some("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn formats_are_checked() {
        assert_eq!(time_format_error("%d-%m-%Y", ValueType::Date), None);
        assert_eq!(time_format_error("%Y-%m-%d %H:%M:%S", ValueType::DateTime), None);
        assert!(time_format_error("%d-%m", ValueType::Date).is_some());
        assert!(time_format_error("%Y-%m-%d %!", ValueType::DateTime).is_some());
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
