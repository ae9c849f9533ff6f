//! When a connection runs: pure functions from a time to the next one.
//!
//! A time of day is that of a wall clock in a zone. Where the clock skips it (daylight saving begins), the run is later by what
//! the clock skips. Where it occurs twice, the run is at the first. So each time that the schedule names gives one run, every day.

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, ZonedDateTime};

const MINUTES_PER_DAY: u32 = 24 * 60;
/// No schedule has a longer pause: every quarter has a month with a fifth Tuesday.
const MAX_DAYS_AHEAD: i32 = 400;

/// When a connection runs without being asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    pub rule: Rule,
    /// The zone of the time of day.
    pub timezone: TimeZone,
}

/// The kinds of schedules.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rule {
    /// Every few minutes, counted from midnight of 1970-01-01 UTC: every 15 minutes is at :00, :15, :30 and :45.
    Every { minutes: u32 },
    /// Several times a day, evenly, the first at this time.
    TimesPerDay { times: u32, time: Time },
    /// On these days.
    Days { days: Days, time: Time },
}

/// Days of a calendar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Days {
    /// Weekdays of every week.
    OfWeek(Vec<Weekday>),
    /// Days of every month. In a month that lacks one, its last day.
    OfMonth(Vec<DayOfMonth>),
    /// One weekday of every month: the first to fourth, the fifth where there is one, or the last.
    WeekdayOfMonth(Nth, Weekday),
}

/// A day of a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DayOfMonth {
    /// 1 to 31.
    Day(i8),
    /// The last day of the month.
    Last,
}

/// Which of the month's days of that weekday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nth {
    /// 1 to 5.
    Nth(i8),
    /// The fourth or the fifth.
    Last,
}

impl Schedule {
    /// The first run after a moment; `None` only where the calendar ends.
    pub(crate) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        if let Rule::Every { minutes } = self.rule {
            let step = i64::from(minutes.max(1)) * 60;
            let next = after.as_second().div_euclid(step).checked_add(1)?.checked_mul(step)?;
            return Timestamp::from_second(next).ok();
        }
        // Where the clock skips a time, its run may move past midnight: yesterday's count too.
        let today = ZonedDateTime::new(after, self.timezone.clone()).date();
        let mut date = today.yesterday().ok()?;
        for _ in 0..MAX_DAYS_AHEAD {
            let tomorrow = date.tomorrow().ok()?;
            if let Some(next) = self.first_on(date, after) {
                // For the same reason a run of tomorrow may be earlier.
                return Some(self.first_on(tomorrow, after).map_or(next, |other| other.min(next)));
            }
            date = tomorrow;
        }
        None
    }

    fn first_on(&self, date: Date, after: Timestamp) -> Option<Timestamp> {
        let times = self.rule.times_on(date).into_iter();
        times.filter_map(|time| self.moment(date, time)).filter(|moment| *moment > after).min()
    }

    /// The runs after a moment, in order.
    pub(crate) fn upcoming(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
        std::iter::successors(self.next_after(after), |last| self.next_after(*last))
    }

    fn moment(&self, date: Date, time: Time) -> Option<Timestamp> {
        self.timezone.to_ambiguous_timestamp(date.to_datetime(time)).compatible().ok()
    }
}

impl Rule {
    /// The times of the wall clock on a day.
    fn times_on(&self, date: Date) -> Vec<Time> {
        match self {
            Self::Every { .. } => Vec::new(),
            Self::TimesPerDay { times, time } => {
                let first =
                    u32::from(time.hour().unsigned_abs()) * 60 + u32::from(time.minute().unsigned_abs());
                let at = |n: u32| (first + n * MINUTES_PER_DAY / times) % MINUTES_PER_DAY;
                (0..*times).filter_map(|n| of_minutes(at(n))).collect()
            }
            Self::Days { days, time } if days.hold(date) => vec![*time],
            Self::Days { .. } => Vec::new(),
        }
    }
}

fn of_minutes(minutes: u32) -> Option<Time> {
    Time::new(i8::try_from(minutes / 60).ok()?, i8::try_from(minutes % 60).ok()?, 0, 0).ok()
}

impl Days {
    fn hold(&self, date: Date) -> bool {
        match self {
            Self::OfWeek(days) => days.contains(&date.weekday()),
            Self::OfMonth(days) => days.iter().any(|day| match day {
                DayOfMonth::Day(day) => (*day).min(date.days_in_month()) == date.day(),
                DayOfMonth::Last => date.day() == date.days_in_month(),
            }),
            Self::WeekdayOfMonth(nth, weekday) => {
                date.weekday() == *weekday
                    && match nth {
                        Nth::Nth(nth) => (date.day() - 1) / 7 + 1 == *nth,
                        Nth::Last => date.saturating_add(1.week()).month() != date.month(),
                    }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn days(days: Days, time: Time) -> Rule {
        Rule::Days { days, time }
    }

    fn check(rule: Rule, zone: &str, after: &str, expected: &[&str]) {
        let schedule = Schedule { rule, timezone: TimeZone::get(zone).unwrap() };
        let runs = schedule.upcoming(after.parse().unwrap()).take(expected.len());
        assert_eq!(runs.map(|run| run.to_string()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_kinds_of_schedules() {
        let two = Time::constant(2, 30, 0, 0);
        let from = "2026-11-01T00:00:00Z";
        check(Rule::Every { minutes: 20 }, "UTC", from, &["2026-11-01T00:20:00Z", "2026-11-01T00:40:00Z"]);
        let thrice = Rule::TimesPerDay { times: 3, time: two };
        check(
            thrice,
            "UTC",
            from,
            &["2026-11-01T02:30:00Z", "2026-11-01T10:30:00Z", "2026-11-01T18:30:00Z", "2026-11-02T02:30:00Z"],
        );
        let week = days(Days::OfWeek(vec![Weekday::Monday, Weekday::Friday]), two);
        check(week, "UTC", from, &["2026-11-02T02:30:00Z", "2026-11-06T02:30:00Z", "2026-11-09T02:30:00Z"]);
        let month = days(Days::OfMonth(vec![DayOfMonth::Day(1), DayOfMonth::Day(31)]), two);
        check(month, "UTC", from, &["2026-11-01T02:30:00Z", "2026-11-30T02:30:00Z", "2026-12-01T02:30:00Z"]);
        let last = days(Days::OfMonth(vec![DayOfMonth::Last]), two);
        check(last, "UTC", "2028-02-01T00:00:00Z", &["2028-02-29T02:30:00Z", "2028-03-31T02:30:00Z"]);
        let second = days(Days::WeekdayOfMonth(Nth::Nth(2), Weekday::Tuesday), two);
        check(second, "UTC", from, &["2026-11-10T02:30:00Z", "2026-12-08T02:30:00Z"]);
        let fifth = days(Days::WeekdayOfMonth(Nth::Nth(5), Weekday::Sunday), two);
        check(fifth, "UTC", from, &["2026-11-29T02:30:00Z", "2027-01-31T02:30:00Z"]);
        let last = days(Days::WeekdayOfMonth(Nth::Last, Weekday::Friday), two);
        check(last, "UTC", from, &["2026-11-27T02:30:00Z", "2026-12-25T02:30:00Z"]);
    }

    #[test]
    fn a_skipped_time_runs_later_and_a_repeated_one_at_the_first() {
        let daily = |hour| Rule::TimesPerDay { times: 1, time: Time::constant(hour, 30, 0, 0) };
        // Amsterdam has no 02:30 on 29 March 2026: the clock goes from 02:00 to 03:00.
        check(
            daily(2),
            "Europe/Amsterdam",
            "2026-03-27T12:00:00Z",
            &["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"],
        );
        // On 25 October it has two.
        check(
            daily(2),
            "Europe/Amsterdam",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        );
        // Santiago skips midnight itself on 6 September.
        check(
            daily(0),
            "America/Santiago",
            "2026-09-05T12:00:00Z",
            &["2026-09-06T04:30:00Z", "2026-09-07T03:30:00Z"],
        );
        check(
            Rule::Every { minutes: 60 },
            "Europe/Amsterdam",
            "2026-10-25T00:30:00Z",
            &["2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"],
        );
    }

    fn rules() -> impl Strategy<Value = Rule> {
        let times = || (0..24_i8, 0..60_i8).prop_map(|(hour, minute)| Time::constant(hour, minute, 0, 0));
        let weekday = || (1..=7_i8).prop_map(|day| Weekday::from_monday_one_offset(day).unwrap());
        let of_month =
            (1..=32_i8).prop_map(|day| if day == 32 { DayOfMonth::Last } else { DayOfMonth::Day(day) });
        let nth = (1..=6_i8).prop_map(|nth| if nth == 6 { Nth::Last } else { Nth::Nth(nth) });
        prop_oneof![
            (1..2000_u32).prop_map(|minutes| Rule::Every { minutes }),
            (1..=24_u32, times()).prop_map(|(times, time)| Rule::TimesPerDay { times, time }),
            (proptest::collection::vec(weekday(), 1..4), times())
                .prop_map(|(week, time)| days(Days::OfWeek(week), time)),
            (proptest::collection::vec(of_month, 1..4), times())
                .prop_map(|(month, time)| days(Days::OfMonth(month), time)),
            (nth, weekday(), times())
                .prop_map(|(nth, weekday, time)| days(Days::WeekdayOfMonth(nth, weekday), time)),
        ]
    }

    /// Goes through every minute of every day that the wall clock shows or skips, and takes those that the rule names.
    fn naive(schedule: &Schedule, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let mut found = Vec::new();
        if let Rule::Every { minutes } = schedule.rule {
            for minute in from.as_second() / 60..=until.as_second() / 60 {
                let moment = Timestamp::from_second(minute * 60).unwrap();
                if moment > from && minute % i64::from(minutes) == 0 {
                    found.push(moment);
                }
            }
            return found;
        }
        let mut date = ZonedDateTime::new(from, schedule.timezone.clone()).date().saturating_sub(2.days());
        let last = ZonedDateTime::new(until, schedule.timezone.clone()).date();
        while date <= last {
            for minute in 0..MINUTES_PER_DAY {
                let time = of_minutes(minute).unwrap();
                let named = match &schedule.rule {
                    Rule::Every { .. } => false,
                    Rule::TimesPerDay { times, time: first } => (0..*times).any(|n| {
                        let first = first.hour() as u32 * 60 + first.minute() as u32;
                        (first + (f64::from(n) * 1440.0 / f64::from(*times)).floor() as u32) % 1440 == minute
                    }),
                    Rule::Days { days, time: at } => {
                        *at == time
                            && match days {
                                Days::OfWeek(days) => days.iter().any(|day| *day == date.weekday()),
                                Days::OfMonth(days) => days.iter().any(|day| {
                                    let last = date.last_of_month().day();
                                    let day = if let DayOfMonth::Day(day) = day { *day } else { last };
                                    date.day() == if day > last { last } else { day }
                                }),
                                Days::WeekdayOfMonth(nth, weekday) => {
                                    let nth = if let Nth::Nth(nth) = nth { *nth } else { -1 };
                                    date.nth_weekday_of_month(nth, *weekday).is_ok_and(|day| day == date)
                                }
                            }
                    }
                };
                let moment = schedule.timezone.to_zoned_datetime(date.to_datetime(time)).unwrap().timestamp();
                if named && moment > from && moment <= until {
                    found.push(moment);
                }
            }
            date = date.tomorrow().unwrap();
        }
        found.sort();
        found.dedup();
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_next_run_is_the_first_that_the_rule_names(
            rule in rules(),
            zone in prop::sample::select(&["UTC", "Europe/Amsterdam", "America/Santiago", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"][..]),
            from in 1_293_000_000_i64..1_830_000_000,
        ) {
            let schedule = Schedule { rule, timezone: TimeZone::get(zone).unwrap() };
            let from = Timestamp::from_second(from).unwrap();
            let until = from.checked_add((24 * 40).hours()).unwrap();
            let runs = schedule.upcoming(from).take_while(|run| *run <= until).collect::<Vec<_>>();
            prop_assert_eq!(runs, naive(&schedule, from, until));
        }
    }
}
