use jiff::civil::{Time, Weekday};

use super::goal::timezone;
use super::reader::{Entry, Section};
use super::value::duration;
use crate::runs::schedule::{DayOfMonth, Days, Nth, Rule, Schedule};

const KINDS: [&str; 5] = ["every", "times_per_day", "days", "days_of_month", "weekday_of_month"];
const EXPECTED_TIME: &str = "expected a time of day such as \"02:30\"";

/// The `[schedule]` of a connection; `None` after a problem.
pub(super) fn read(section: &Section<'_>) -> Option<Schedule> {
    let timezone = timezone(section);
    let time = time(section);
    let given = KINDS.into_iter().filter(|key| section.has(key)).collect::<Vec<_>>();
    let rule = match given.as_slice() {
        ["every"] => every(section),
        ["times_per_day"] => times_per_day(section, time),
        ["days"] => of_week(section).map(|days| Rule::Days { days, time }),
        ["days_of_month"] => of_month(section).map(|days| Rule::Days { days, time }),
        ["weekday_of_month"] => weekday_of_month(section).map(|days| Rule::Days { days, time }),
        [] => {
            section.problem(format!("[schedule] needs one of {}", KINDS.join(", ")));
            None
        }
        several => {
            section.problem(format!("[schedule] has {}; keep one of them", several.join(" and ")));
            None
        }
    };
    if matches!(rule, Some(Rule::Every { .. })) && section.has("time") {
        section.problem("`time` cannot be used with `every`, which counts from midnight UTC");
    }
    section.finish();
    Some(Schedule { rule: rule?, timezone })
}

fn every(section: &Section<'_>) -> Option<Rule> {
    let span = duration(section, "every", std::time::Duration::from_secs(60));
    let minutes = u32::try_from(span.as_secs() / 60).ok()?;
    if !span.as_millis().is_multiple_of(60_000) || !(1..=7 * 24 * 60).contains(&minutes) {
        section.get("every")?.problem("`every`: expected whole minutes, such as \"15m\", up to \"7d\"");
        return None;
    }
    Some(Rule::Every { minutes })
}

fn times_per_day(section: &Section<'_>, time: Time) -> Option<Rule> {
    let entry = section.get("times_per_day")?;
    let times = entry.whole()?;
    if !(1..=24 * 60).contains(&times) {
        entry.problem("`times_per_day`: expected 1 to 1440");
        return None;
    }
    Some(Rule::TimesPerDay { times: u32::try_from(times).ok()?, time })
}

fn time(section: &Section<'_>) -> Time {
    let Some(entry) = section.get("time") else { return Time::midnight() };
    let Some(text) = entry.text() else { return Time::midnight() };
    let parsed = text.split_once(':').and_then(|(hour, minute)| {
        let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let (hour, minute) = (digits(hour).then_some(hour)?, digits(minute).then_some(minute)?);
        Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
    });
    parsed.unwrap_or_else(|| {
        entry.problem(format!("`time`: {EXPECTED_TIME}"));
        Time::midnight()
    })
}

const WEEKDAYS: [(&str, Weekday); 7] = [
    ("monday", Weekday::Monday),
    ("tuesday", Weekday::Tuesday),
    ("wednesday", Weekday::Wednesday),
    ("thursday", Weekday::Thursday),
    ("friday", Weekday::Friday),
    ("saturday", Weekday::Saturday),
    ("sunday", Weekday::Sunday),
];
const NTH: [(&str, Nth); 6] = [
    ("first", Nth::Nth(1)),
    ("second", Nth::Nth(2)),
    ("third", Nth::Nth(3)),
    ("fourth", Nth::Nth(4)),
    ("fifth", Nth::Nth(5)),
    ("last", Nth::Last),
];

fn of_week(section: &Section<'_>) -> Option<Days> {
    let entry = section.get("days")?;
    let days: Option<Vec<Weekday>> =
        not_empty(entry)?.iter().map(|day| day.choose(day.text()?, &WEEKDAYS)).collect();
    Some(Days::OfWeek(days?))
}

fn of_month(section: &Section<'_>) -> Option<Days> {
    let day = |entry: &Entry<'_>| {
        if entry.value().as_str() == Some("last") {
            return Some(DayOfMonth::Last);
        }
        let day = entry.value().as_integer().and_then(|day| day.as_str().parse::<i8>().ok());
        let day = day.filter(|day| (1..=31).contains(day)).map(DayOfMonth::Day);
        if day.is_none() {
            entry.problem("`days_of_month`: expected 1 to 31, or \"last\"");
        }
        day
    };
    let days: Option<Vec<DayOfMonth>> = not_empty(section.get("days_of_month")?)?.iter().map(day).collect();
    Some(Days::OfMonth(days?))
}

fn weekday_of_month(section: &Section<'_>) -> Option<Days> {
    let entry = section.get("weekday_of_month")?;
    let Some((nth, weekday)) = entry.text()?.split_once(' ') else {
        entry.problem("`weekday_of_month`: expected a value such as \"second tuesday\" or \"last friday\"");
        return None;
    };
    Some(Days::WeekdayOfMonth(entry.choose(nth, &NTH)?, entry.choose(weekday.trim(), &WEEKDAYS)?))
}

fn not_empty<'d>(entry: Entry<'d>) -> Option<Vec<Entry<'d>>> {
    let entries = entry.array();
    if entries.is_empty() {
        entry.problem(format!("`{}`: expected at least one day", entry.key()));
        return None;
    }
    Some(entries)
}

/// A schedule in words, for people.
pub(crate) fn in_words(schedule: &Schedule) -> String {
    let (_, value, time) = schedule_as_written(schedule);
    let when = match &schedule.rule {
        Rule::Every { minutes } if minutes % 60 == 0 => return format!("every {} h", minutes / 60),
        Rule::Every { .. } => return format!("every {value} min"),
        Rule::TimesPerDay { times: 1, .. } => format!("every day at {time}"),
        Rule::TimesPerDay { .. } => format!("{value} times a day, first at {time}"),
        Rule::Days { days: Days::OfWeek(_), .. } => format!("every {value} at {time}"),
        Rule::Days { days: Days::OfMonth(_), .. } => format!("on day {value} of the month at {time}"),
        Rule::Days { days: Days::WeekdayOfMonth(..), .. } => format!("on the {value} of the month at {time}"),
    };
    format!("{when} ({})", schedule.timezone.iana_name().unwrap_or("UTC"))
}

/// The kind of the schedule, its value, and its time of day, as the fields of a form.
pub(crate) fn schedule_as_written(schedule: &Schedule) -> (&'static str, String, String) {
    let weekday = |wanted: &Weekday| {
        let name = WEEKDAYS.iter().find(|(_, day)| day == wanted).map_or("", |(name, _)| name);
        name.to_owned()
    };
    let written = |time: &Time| format!("{:02}:{:02}", time.hour(), time.minute());
    match &schedule.rule {
        Rule::Every { minutes } => ("every", minutes.to_string(), String::new()),
        Rule::TimesPerDay { times, time } => ("times_per_day", times.to_string(), written(time)),
        Rule::Days { days: Days::OfWeek(days), time } => {
            ("days", days.iter().map(weekday).collect::<Vec<_>>().join(", "), written(time))
        }
        Rule::Days { days: Days::OfMonth(days), time } => {
            let day = |day: &DayOfMonth| match day {
                DayOfMonth::Day(day) => day.to_string(),
                DayOfMonth::Last => "last".to_owned(),
            };
            ("days_of_month", days.iter().map(day).collect::<Vec<_>>().join(", "), written(time))
        }
        Rule::Days { days: Days::WeekdayOfMonth(nth, day), time } => {
            let nth = NTH.iter().find(|(_, other)| other == nth).map_or("", |(name, _)| name);
            ("weekday_of_month", format!("{nth} {}", weekday(day)), written(time))
        }
    }
}
