use std::borrow::Cow;

use jiff::civil::Time;
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use crate::{Moment, ValueType};

/// A `strptime` format for dates and moments.
///
/// It differs from jiff's in two ways: a year has as many digits as its directive says, four or two, and `%z` takes `+01:00`,
/// `+0100` and `Z`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strptime {
    format: String,
    years: Vec<Year>,
    offset: Option<OffsetDirective>,
}

/// A directive of a year.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Year {
    /// The format before it.
    before: String,
    /// How many digits the year has.
    digits: usize,
    /// Whether it is the year of ISO weeks.
    is_iso: bool,
}

/// The directive of a distance from UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OffsetDirective {
    /// The format before it.
    before: String,
    /// Whether jiff wants a colon between hours and minutes.
    colon: bool,
}

impl Strptime {
    /// The format as a goal writes it. [`time_format_error`] says whether it can be used.
    pub fn new(format: &str) -> Self {
        let expanded = format.replace("%F", "%Y-%m-%d").replace("%D", "%m/%d/%y");
        let (mut years, mut offset) = (Vec::new(), None);
        for (start, directive) in directives(&expanded) {
            let before = expanded.get(..start).unwrap_or_default().to_owned();
            match directive.chars().last() {
                Some('Y') => years.push(Year { before, digits: 4, is_iso: false }),
                Some('y') => years.push(Year { before, digits: 2, is_iso: false }),
                Some('G') => years.push(Year { before, digits: 4, is_iso: true }),
                Some('g') => years.push(Year { before, digits: 2, is_iso: true }),
                Some('z') if !directive.contains("::") => {
                    offset = Some(OffsetDirective { before, colon: directive.contains(':') });
                }
                _ => {}
            }
        }
        Self { format: format.to_owned(), years, offset }
    }

    /// The parts of a time; `None` where the cell does not have the format.
    pub(crate) fn parse(&self, cell: &str) -> Option<BrokenDownTime> {
        let mut cell = Cow::Borrowed(cell);
        let parsed = match BrokenDownTime::parse(&self.format, &*cell) {
            Ok(parsed) => parsed,
            Err(_) => {
                cell = Cow::Owned(self.offset.as_ref()?.normalize(&cell)?);
                BrokenDownTime::parse(&self.format, &*cell).ok()?
            }
        };
        let one = self.years.len() == 1;
        self.years.iter().all(|year| year.has_all_digits(&parsed, &cell, one)).then_some(parsed)
    }

    /// The moment that a cell holds; without a distance from UTC it is a local time of the zone, and without a time midnight.
    pub(crate) fn parse_moment(&self, cell: &str, timezone: &TimeZone) -> Option<Moment> {
        moment(&self.parse(cell)?, timezone)
    }
}

impl Year {
    /// Whether the year has as many digits as it must. jiff takes at most that many, so a number that needs them all has them.
    fn has_all_digits(&self, parsed: &BrokenDownTime, cell: &str, is_only_year: bool) -> bool {
        let year = if self.is_iso { parsed.iso_week_year() } else { parsed.year() };
        let needs_all = match self.digits {
            4 => year.is_some_and(|year| year >= 1000),
            _ => year.is_some_and(|year| year % 100 >= 10),
        };
        if needs_all && is_only_year {
            return true;
        }
        let Ok((_, start)) = BrokenDownTime::parse_prefix(&self.before, cell) else { return false };
        let digits = cell.as_bytes().get(start..).unwrap_or_default().trim_ascii_start();
        digits.get(..self.digits).is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
    }
}

impl OffsetDirective {
    /// The cell with its distance from UTC as jiff wants it, where it has one that jiff refuses.
    fn normalize(&self, cell: &str) -> Option<String> {
        let (_, start) = BrokenDownTime::parse_prefix(&self.before, cell).ok()?;
        let (before, offset) = cell.split_at_checked(start)?;
        let (hours, minutes, after) = match offset.as_bytes() {
            [b'Z' | b'z', ..] => ("+00", "00", offset.get(1..)?),
            [b'+' | b'-', _, _, b':', _, _, ..] => (offset.get(..3)?, offset.get(4..6)?, offset.get(6..)?),
            [b'+' | b'-', _, _, _, _, ..] => (offset.get(..3)?, offset.get(3..5)?, offset.get(5..)?),
            _ => return None,
        };
        let colon = if self.colon { ":" } else { "" };
        Some(format!("{before}{hours}{colon}{minutes}{after}"))
    }
}

/// The directives of a format, such as `%d` or `%-d`, and where each starts.
fn directives(format: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + format.get(from..)?.find('%')?;
        let rest = format.get(start + 1..)?;
        let modifiers = rest.find(|c: char| !matches!(c, '-' | '_' | '^' | '#' | ':' | '.' | '0'..='9'))?;
        from = start + 1 + modifiers + rest.get(modifiers..)?.chars().next()?.len_utf8();
        Some((start, format.get(start..from)?))
    })
}

fn moment(parsed: &BrokenDownTime, timezone: &TimeZone) -> Option<Moment> {
    let years = 1..=9999;
    if let Some(moment) = parsed.timestamp() {
        let year = TimeZone::UTC.to_datetime(moment).year();
        return years.contains(&year).then(|| moment.into());
    }
    let date = parsed.to_date().ok().filter(|date| years.contains(&date.year()))?;
    let time = match parsed.hour() {
        Some(_) => parsed.to_time().ok()?,
        None => Time::midnight(),
    };
    let local = date.to_datetime(time);
    Some(match parsed.offset() {
        Some(offset) => Moment::at_offset(local, offset),
        None => Moment::from_local(local, timezone),
    })
}

/// Why a `strptime` format cannot be used for a property of a type, or `None`.
pub fn time_format_error(format: &str, value_type: ValueType) -> Option<String> {
    let error = directives_error(format, value_type)?;
    Some(match translated(format).filter(|better| directives_error(better, value_type).is_none()) {
        Some(better) => format!("`{format}` is not in the notation of strptime; write `{better}`"),
        None if !format.contains('%') => {
            "it has no directive of strptime, such as `%Y`, `%m` and `%d` in `%Y-%m-%d`".to_owned()
        }
        None => error,
    })
}

fn directives_error(format: &str, value_type: ValueType) -> Option<String> {
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
        _ => moment(&parsed, &TimeZone::UTC).is_some(),
    };
    (!fits).then(|| "it does not hold a whole date".to_owned())
}

/// Tokens of other notations (Excel, Java, .NET, Moment.js, Oracle, PHP), long ones before those that they start with.
const TOKENS: [(&str, &str); 49] = [
    ("YYYY", "%Y"),
    ("yyyy", "%Y"),
    ("uuuu", "%Y"),
    ("YY", "%y"),
    ("yy", "%y"),
    ("Y", "%Y"),
    ("y", "%y"),
    ("MONTH", "%B"),
    ("Month", "%B"),
    ("MON", "%b"),
    ("Mon", "%b"),
    ("MMMM", "%B"),
    ("mmmm", "%B"),
    ("MMM", "%b"),
    ("mmm", "%b"),
    ("MI", "%M"),
    ("MM", MONTH_OR_MINUTE),
    ("mm", MONTH_OR_MINUTE),
    ("M", MONTH_OR_MINUTE),
    ("m", MONTH_OR_MINUTE),
    ("i", "%M"),
    ("dddd", "%A"),
    ("DDDD", "%A"),
    ("ddd", "%a"),
    ("DDD", "%a"),
    ("DD", "%d"),
    ("dd", "%d"),
    ("D", "%d"),
    ("d", "%d"),
    ("EEEE", "%A"),
    ("EEE", "%a"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("HH", "%H"),
    ("H", "%H"),
    ("hh", HOUR),
    ("h", HOUR),
    ("SSS", FRACTION),
    ("SS", "%S"),
    ("ss", "%S"),
    ("s", "%S"),
    ("tt", "%p"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("A", "%p"),
    ("a", "%p"),
    ("XXX", "%z"),
    ("Z", "%z"),
    ("T", "T"),
];
/// A token that is a minute after an hour, or after a month.
const MONTH_OR_MINUTE: &str = "month or minute";
/// A token that is one of twelve hours where AM or PM follows, and else one of 24.
const HOUR: &str = "hour";
const FRACTION: &str = "fraction";

/// A format of another notation in that of strptime, if all of its letters are known.
fn translated(format: &str) -> Option<String> {
    let (mut out, mut rest, mut last) = (String::new(), format, "");
    while let Some(first) = rest.chars().next() {
        if first == '%' {
            let (_, directive) = directives(rest).next()?;
            out.push_str(directive);
            rest = rest.strip_prefix(directive)?;
        } else if first == '\'' {
            // Java's literal text.
            let (literal, after) = rest.get(1..)?.split_once('\'')?;
            out.push_str(literal);
            rest = after;
        } else if first.is_alphanumeric() {
            let (token, directive) = TOKENS.iter().find(|(token, _)| rest.starts_with(token))?;
            rest = rest.strip_prefix(token)?;
            last = match *directive {
                MONTH_OR_MINUTE if matches!(last, "%H" | "%I" | HOUR) || out.contains("%m") => "%M",
                MONTH_OR_MINUTE => "%m",
                FRACTION => {
                    out.pop().filter(|dot| *dot == '.')?;
                    "%.f"
                }
                directive => directive,
            };
            out.push_str(last);
        } else {
            out.push(first);
            rest = rest.get(first.len_utf8()..)?;
        }
    }
    let hour = if out.contains("%p") { "%I" } else { "%H" };
    Some(out.replace(HOUR, hour))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(format: &str, value_type: ValueType, expected: Option<&str>) {
        assert_eq!(time_format_error(format, value_type).as_deref(), expected, "{format}");
    }

    #[test]
    fn formats_are_checked() {
        check("%d-%m-%Y", ValueType::Date, None);
        check("%Y-%m-%d %H:%M:%S", ValueType::DateTime, None);
        check("%FT%T%:z", ValueType::DateTime, None);
        check("%s", ValueType::DateTime, None);
        check("%d-%m", ValueType::Date, Some("it does not hold a whole date"));
        assert!(time_format_error("%Y-%m-%d %!", ValueType::DateTime).is_some());
    }

    #[test]
    fn formats_of_other_notations_are_translated() {
        for (format, better) in [
            ("DD-MM-YYYY", "%d-%m-%Y"),
            ("dd/mm/yyyy", "%d/%m/%Y"),
            ("YYYYMMDD", "%Y%m%d"),
            ("D.M.YY", "%d.%m.%y"),
            ("d MMM yyyy", "%d %b %Y"),
            ("Y-m-d", "%Y-%m-%d"),
            ("%d-%m-YYYY", "%d-%m-%Y"),
            ("DD-MON-YYYY", "%d-%b-%Y"),
        ] {
            let expected = format!("`{format}` is not in the notation of strptime; write `{better}`");
            check(format, ValueType::Date, Some(&expected));
        }
        for (format, better) in [
            ("yyyy-MM-dd HH:mm:ss", "%Y-%m-%d %H:%M:%S"),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "%Y-%m-%dT%H:%M:%S%.f%z"),
            ("YYYY-MM-DD HH24:MI:SS", "%Y-%m-%d %H:%M:%S"),
            ("MM/DD/YYYY hh:mm A", "%m/%d/%Y %I:%M %p"),
            ("dd-MM-yyyy hh:mm", "%d-%m-%Y %H:%M"),
            ("Y-m-d H:i:s", "%Y-%m-%d %H:%M:%S"),
        ] {
            let expected = format!("`{format}` is not in the notation of strptime; write `{better}`");
            check(format, ValueType::DateTime, Some(&expected));
        }
        let none = "it has no directive of strptime, such as `%Y`, `%m` and `%d` in `%Y-%m-%d`";
        check("iso", ValueType::Date, Some(none));
        check("", ValueType::Date, Some(none));
        check("MM-DD", ValueType::Date, Some(none));
    }

    #[test]
    fn directives_are_found() {
        let found: Vec<_> = directives("a%d%%%-m%.3f é%:z%").collect();
        assert_eq!(found, [(1, "%d"), (3, "%%"), (5, "%-m"), (8, "%.3f"), (15, "%:z")]);
    }
}
