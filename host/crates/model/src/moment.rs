use std::cmp::Ordering;
use std::fmt;

use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

use crate::Expected;

/// A moment in UTC, to the nanosecond.
///
/// It reaches further than [`Timestamp`], which ends at 9999-12-30T22:00Z: partners write 9999-12-31 for "never ends". A moment
/// may be the last of the year 9999 in any zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// Seconds since the epoch, rounded down.
    second: i64,
    /// Nanoseconds since that second.
    nanosecond: u32,
}

const NANOSECONDS: i128 = 1_000_000_000;
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// The last second of the year 9999 in UTC.
const LAST_SECOND: i64 = 253_402_300_799;
/// The first second of the year 1 in UTC.
const FIRST_SECOND: i64 = -62_135_596_800;
const DAY: i64 = 24 * 60 * 60;
/// The largest distance from UTC that a text may have, in minutes.
const MAX_OFFSET: i64 = 23 * 60 + 59;

impl Moment {
    /// The moment of a number of nanoseconds since the epoch; `None` beyond all years.
    pub fn from_nanosecond(nanosecond: i128) -> Option<Self> {
        let second = i64::try_from(nanosecond.div_euclid(NANOSECONDS)).ok()?;
        let days = Timestamp::MIN.as_second() - 2 * DAY..=LAST_SECOND + DAY;
        let in_years = days.contains(&second);
        let nanosecond = u32::try_from(nanosecond.rem_euclid(NANOSECONDS)).ok()?;
        in_years.then_some(Self { second, nanosecond })
    }

    /// The moment of a local time in a zone.
    pub fn from_local(local: DateTime, timezone: &TimeZone) -> Self {
        match timezone.to_timestamp(local) {
            Ok(moment) => moment.into(),
            Err(_) => Self::at_offset(local, last_offset(timezone)),
        }
    }

    /// The moment of a local time at a distance from UTC.
    pub fn at_offset(local: DateTime, offset: Offset) -> Self {
        if let Ok(moment) = offset.to_timestamp(local) {
            return moment.into();
        }
        let since = local.duration_since(EPOCH).as_nanos() - i128::from(offset.seconds()) * NANOSECONDS;
        Self::from_nanosecond(since).expected("a moment").unwrap_or(Self { second: 0, nanosecond: 0 })
    }

    /// Whether its year in UTC has four digits, from 0001 to 9999: every other moment has no form of its own in RFC 3339.
    pub fn has_year(self) -> bool {
        (FIRST_SECOND..=LAST_SECOND).contains(&self.second)
    }

    /// Nanoseconds since the epoch.
    pub fn as_nanosecond(self) -> i128 {
        i128::from(self.second) * NANOSECONDS + i128::from(self.nanosecond)
    }

    /// Seconds since the epoch, rounded down.
    pub fn as_second(self) -> i64 {
        self.second
    }

    /// Nanoseconds since that second.
    pub fn subsec_nanosecond(self) -> u32 {
        self.nanosecond
    }

    /// The moment as `strftime` writes it in a zone.
    pub fn format(self, format: &str, timezone: &TimeZone) -> String {
        if let Ok(moment) = Timestamp::try_from(self) {
            return ZonedDateTime::new(moment, timezone.clone()).strftime(format).to_string();
        }
        let offset = last_offset(timezone);
        let (local, offset) = match self.local(i64::from(offset.seconds())) {
            Some(local) => (local, offset),
            None => self.in_last_year(),
        };
        let mut parts = BrokenDownTime::from(local);
        parts.set_offset(Some(offset));
        parts.to_string(format).unwrap_or_else(|_| self.to_string())
    }

    /// The local time at an offset from UTC, in seconds; `None` after the year 9999.
    fn local(self, offset: i64) -> Option<DateTime> {
        let since =
            SignedDuration::new(self.second.checked_add(offset)?, i32::try_from(self.nanosecond).ok()?);
        EPOCH.checked_add(since).ok()
    }

    /// The local time at the distance of fewest hours from UTC that has the year 9999.
    fn in_last_year(self) -> (DateTime, Offset) {
        let hours = (self.second - LAST_SECOND).max(0).unsigned_abs().div_ceil(3600);
        let minutes = i64::try_from(hours * 60).unwrap_or(MAX_OFFSET).min(MAX_OFFSET);
        let offset = i32::try_from(-minutes * 60).ok().and_then(|seconds| Offset::from_seconds(seconds).ok());
        let local = self.local(-minutes * 60).expected("a local time in the year 9999");
        (local.unwrap_or(DateTime::MAX), offset.unwrap_or(Offset::UTC))
    }
}

/// A zone's distance from UTC at the end of the year 9999.
fn last_offset(timezone: &TimeZone) -> Offset {
    timezone.to_offset(Timestamp::MAX)
}

impl From<Timestamp> for Moment {
    fn from(moment: Timestamp) -> Self {
        let (second, nanosecond) = (moment.as_second(), moment.subsec_nanosecond());
        match u32::try_from(nanosecond) {
            Ok(nanosecond) => Self { second, nanosecond },
            // Before the epoch, jiff counts both numbers down.
            Err(_) => Self { second: second - 1, nanosecond: 1_000_000_000 - nanosecond.unsigned_abs() },
        }
    }
}

impl TryFrom<Moment> for Timestamp {
    type Error = jiff::Error;

    fn try_from(moment: Moment) -> Result<Self, jiff::Error> {
        Self::from_nanosecond(moment.as_nanosecond())
    }
}

impl PartialEq<Timestamp> for Moment {
    fn eq(&self, other: &Timestamp) -> bool {
        *self == Self::from(*other)
    }
}

impl PartialOrd<Timestamp> for Moment {
    fn partial_cmp(&self, other: &Timestamp) -> Option<Ordering> {
        Some(self.cmp(&Self::from(*other)))
    }
}

impl fmt::Display for Moment {
    /// RFC 3339 in UTC. A moment after the year 9999 in UTC has the distance from UTC at which its year is 9999.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(moment) = Timestamp::try_from(*self) {
            return fmt::Display::fmt(&moment, f);
        }
        match self.in_last_year() {
            (local, Offset::UTC) => write!(f, "{local}Z"),
            (local, offset) => {
                let minutes = offset.seconds().unsigned_abs() / 60;
                write!(f, "{local}-{:02}:{:02}", minutes / 60, minutes % 60)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(local: &str, offset: i8, expected: &str) {
        let moment = Moment::at_offset(local.parse().unwrap(), jiff::tz::offset(offset));
        assert_eq!(moment.to_string(), expected);
        assert_eq!(Moment::from_nanosecond(moment.as_nanosecond()), Some(moment));
    }

    #[test]
    fn moments_reach_to_the_end_of_9999_in_every_zone() {
        check("2026-01-02T03:04:05.12", 2, "2026-01-02T01:04:05.12Z");
        check("9999-12-30T23:59:59", 0, "9999-12-30T23:59:59Z");
        check("9999-12-31T00:00:00", 0, "9999-12-31T00:00:00Z");
        check("9999-12-31T23:59:59.999999999", 0, "9999-12-31T23:59:59.999999999Z");
        check("9999-12-31T23:59:59.5", 14, "9999-12-31T09:59:59.5Z");
        check("9999-12-31T23:59:59.5", -5, "9999-12-31T23:59:59.5-05:00");
        check("9999-12-31T20:00:00", -5, "9999-12-31T23:00:00-02:00");
        check("9999-12-31T23:59:59.999999999", -23, "9999-12-31T23:59:59.999999999-23:00");
        check("0001-01-01T00:00:00", 0, "0001-01-01T00:00:00Z");
    }

    #[test]
    fn zones_have_their_offset_on_the_last_day() {
        let zone = TimeZone::fixed(jiff::tz::offset(-5));
        let moment = Moment::from_local("9999-12-31T23:00:00".parse().unwrap(), &zone);
        assert_eq!(moment.format("%Y-%m-%d %H:%M %z", &zone), "9999-12-31 23:00 -0500");
        assert_eq!(moment.format("%d.%m.%Y", &TimeZone::UTC), "31.12.9999");
        let early = Moment::from_local("2026-01-02T03:04:05".parse().unwrap(), &zone);
        assert_eq!(early.format("%Y-%m-%d %H:%M %z", &zone), "2026-01-02 03:04 -0500");
    }

    proptest! {
        #[test]
        fn moments_are_ordered_and_shown_as_timestamps_are(
            one in -377_705_023_201_i64..=253_402_207_200, other in any::<i32>(), nanos in 0..1_000_000_000,
        ) {
            let timestamps = [
                Timestamp::new(one, if one > 0 { nanos } else { 0 }).unwrap(),
                Timestamp::from_nanosecond(i128::from(other) * 1_000_000_007).unwrap(),
            ];
            let moments = timestamps.map(Moment::from);
            prop_assert_eq!(moments[0].cmp(&moments[1]), timestamps[0].cmp(&timestamps[1]));
            for (moment, timestamp) in moments.into_iter().zip(timestamps) {
                prop_assert_eq!(moment.as_nanosecond(), timestamp.as_nanosecond());
                prop_assert_eq!(Moment::from_nanosecond(timestamp.as_nanosecond()), Some(moment));
                prop_assert_eq!(moment.to_string(), timestamp.to_string());
                prop_assert_eq!(moment.partial_cmp(&timestamp), Some(Ordering::Equal));
            }
        }
    }
}
