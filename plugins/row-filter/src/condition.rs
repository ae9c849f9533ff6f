use std::cmp::Ordering;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil};
use regex::Regex;
use rust_decimal::Decimal;
use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::{Batch, ColumnId, Columns, Failure};

/// Either `all`, `any` or `not`, or a `column` with one test.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConditionConfig {
    /// True if all of these are.
    all: Option<Vec<ConditionConfig>>,
    /// True if any of these is.
    any: Option<Vec<ConditionConfig>>,
    /// True if this is false.
    not: Option<Box<ConditionConfig>>,
    /// The column to test.
    column: Option<String>,
    /// The cell is this text.
    equals: Option<String>,
    /// The cell is one of these texts.
    #[serde(rename = "in")]
    one_of: Option<Vec<String>>,
    /// Whether `equals` and `in` ignore upper and lower case.
    #[serde(default)]
    ignore_case: bool,
    /// The regular expression matches a part of the cell.
    regex: Option<String>,
    /// Whether the cell has no value.
    empty: Option<bool>,
    /// The cell is a number less than this.
    less_than: Option<f64>,
    /// The cell is a number of at most this.
    at_most: Option<f64>,
    /// The cell is a number greater than this.
    greater_than: Option<f64>,
    /// The cell is a number of at least this.
    at_least: Option<f64>,
    /// The cell is a date or time before this one (ISO 8601).
    before: Option<String>,
    /// The cell is a date or time after this one.
    after: Option<String>,
}

/// A compiled condition. An empty cell passes only the test `empty`.
pub(crate) enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Cell(ColumnId, Test),
}

pub(crate) enum Test {
    OneOf { texts: Vec<String>, ignore_case: bool },
    Regex(Regex),
    Empty(bool),
    Number { bound: Decimal, less: bool, or_equal: bool },
    Before(Timestamp),
    After(Timestamp),
}

impl ConditionConfig {
    pub(crate) fn compile(self, columns: &mut Columns) -> Result<Condition, Failure> {
        let several = |conditions: Vec<Self>, columns: &mut Columns| {
            conditions.into_iter().map(|condition| condition.compile(columns)).collect::<Result<Vec<_>, _>>()
        };
        match self {
            Self { all: Some(conditions), any: None, not: None, column: None, .. } => {
                Ok(Condition::All(several(conditions, columns)?))
            }
            Self { all: None, any: Some(conditions), not: None, column: None, .. } => {
                Ok(Condition::Any(several(conditions, columns)?))
            }
            Self { all: None, any: None, not: Some(condition), column: None, .. } => {
                Ok(Condition::Not(Box::new(condition.compile(columns)?)))
            }
            Self { all: None, any: None, not: None, column: Some(ref column), .. } => {
                let id = columns.want(column)?;
                let column = column.clone();
                Ok(Condition::Cell(id, self.test(&column)?))
            }
            _ => Err(Failure::config("a condition is one of all, any, not, or a column with a test")),
        }
    }

    fn test(self, column: &str) -> Result<Test, Failure> {
        let wrong = |expected: &str| Failure::expected(&format!("a condition on `{column}`"), expected);
        let number = |bound: f64, less, or_equal| {
            // The shortest text of a float is the number in the configuration.
            let bound = bound.to_string().parse().map_err(|_| wrong("a number of up to 28 digits"))?;
            Ok(Test::Number { bound, less, or_equal })
        };
        let moment = |text: String| moment(&text).ok_or_else(|| wrong("a date or time such as 2026-01-31"));
        let ignore_case = self.ignore_case;
        let tests: Vec<Option<Result<Test, Failure>>> = vec![
            self.equals.map(|text| Ok(Test::OneOf { texts: vec![text], ignore_case })),
            self.one_of.map(|texts| Ok(Test::OneOf { texts, ignore_case })),
            self.regex
                .map(|regex| Regex::new(&regex).map(Test::Regex).map_err(|_| wrong("a regular expression"))),
            self.empty.map(|empty| Ok(Test::Empty(empty))),
            self.less_than.map(|bound| number(bound, true, false)),
            self.at_most.map(|bound| number(bound, true, true)),
            self.greater_than.map(|bound| number(bound, false, false)),
            self.at_least.map(|bound| number(bound, false, true)),
            self.before.map(|text| moment(text).map(Test::Before)),
            self.after.map(|text| moment(text).map(Test::After)),
        ];
        let mut given = tests.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(test), None) => test,
            _ => Err(Failure::config(format!(
                "a condition on `{column}` needs exactly one test, such as equals, in, regex or empty"
            ))),
        }
    }
}

impl Condition {
    pub(crate) fn holds(&self, batch: &Batch, row: usize) -> bool {
        match self {
            Self::All(conditions) => conditions.iter().all(|condition| condition.holds(batch, row)),
            Self::Any(conditions) => conditions.iter().any(|condition| condition.holds(batch, row)),
            Self::Not(condition) => !condition.holds(batch, row),
            Self::Cell(column, test) => test.passes(batch.column(*column).cell(row)),
        }
    }
}

impl Test {
    fn passes(&self, cell: &str) -> bool {
        match self {
            Self::Empty(empty) => cell.is_empty() == *empty,
            _ if cell.is_empty() => false,
            Self::OneOf { texts, ignore_case: false } => texts.iter().any(|text| text == cell),
            Self::OneOf { texts, ignore_case: true } => {
                let cell = cell.to_lowercase();
                texts.iter().any(|text| text.to_lowercase() == cell)
            }
            Self::Regex(regex) => regex.is_match(cell),
            Self::Number { bound, less, or_equal } => {
                let Ok(number) = cell.trim().parse::<Decimal>() else { return false };
                match number.cmp(bound) {
                    Ordering::Less => *less,
                    Ordering::Greater => !*less,
                    Ordering::Equal => *or_equal,
                }
            }
            Self::Before(bound) => moment(cell).is_some_and(|moment| moment < *bound),
            Self::After(bound) => moment(cell).is_some_and(|moment| moment > *bound),
        }
    }
}

/// A time in RFC 3339, in UTC where it has no zone. A date is its first moment.
fn moment(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let in_utc = |moment: civil::DateTime| TimeZone::UTC.to_timestamp(moment).ok();
    text.parse::<Timestamp>()
        .ok()
        .or_else(|| {
            text.parse::<Date>().ok().filter(|_| text.len() == 10).and_then(|day| in_utc(day.at(0, 0, 0, 0)))
        })
        .or_else(|| text.parse::<civil::DateTime>().ok().and_then(in_utc))
}
