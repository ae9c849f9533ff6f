use std::collections::HashMap;

use jiff::fmt::strtime::BrokenDownTime;
use regex::Regex;
use rust_decimal::{Decimal, RoundingStrategy};
use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::{ColumnId, Columns, Failure};

/// A column and exactly one thing to do with it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepConfig {
    /// The column that is read; `concatenate` and `constant` do without.
    column: Option<String>,
    /// The column that is written: another one, or a new one. Without it, the one that is read.
    into: Option<String>,
    /// What becomes of a cell that is no date or number.
    #[serde(default)]
    invalid: Invalid,
    /// Takes away white space around the text.
    trim: Option<bool>,
    /// Writes the text in capitals, small letters, or with a capital at the start of each word.
    case: Option<Case>,
    /// Replaces what a regular expression finds; `$1` is its first group.
    replace: Option<Replace>,
    /// Takes one part of the text.
    split: Option<Split>,
    /// Joins several columns; those without a value are left out.
    concatenate: Option<Concatenate>,
    /// The text for cells without a value.
    default: Option<String>,
    /// Replaces whole cells by a table.
    map: Option<Map>,
    /// Writes a date in another form.
    date: Option<DateForm>,
    /// Writes a number with a decimal point and without thousands separators.
    number: Option<NumberForm>,
    /// The text for every cell.
    constant: Option<String>,
}

/// What becomes of a cell that is no date or number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Invalid {
    /// It is emptied.
    #[default]
    Empty,
    /// It stays as it is.
    Keep,
    /// The row is rejected.
    Reject,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Case {
    Upper,
    Lower,
    Title,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Replace {
    /// The regular expression.
    pattern: String,
    /// The text in place of what it finds.
    with: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Split {
    /// What lies between the parts.
    separator: String,
    /// Which part: 1 is the first, -1 the last.
    part: i32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Concatenate {
    /// The columns, in order.
    columns: Vec<String>,
    /// What goes between them.
    #[serde(default)]
    separator: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Map {
    /// From cell to cell.
    table: HashMap<String, String>,
    /// What a cell becomes that is not in the table; absent = it stays.
    otherwise: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DateForm {
    /// How it is written: `strptime` directives.
    from: String,
    /// How it will be written.
    to: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NumberForm {
    /// The decimal sign.
    #[serde(default = "point")]
    decimal: char,
    /// The thousands separator, which is taken away.
    thousands: Option<char>,
    /// Rounds, half away from zero, and fills up to so many decimals.
    decimals: Option<u32>,
}

fn point() -> char {
    '.'
}

/// A step on the cells of a row.
pub(crate) struct Step {
    from: Option<usize>,
    pub(crate) into: usize,
    invalid: Invalid,
    operation: Operation,
}

enum Operation {
    Trim,
    Case(Case),
    Replace(Regex, String),
    Split(String, i32),
    Concatenate(Vec<usize>, String),
    Default(String),
    Map(Map),
    Date(DateForm),
    Number(NumberForm),
    Constant(String),
}

/// Why a row is rejected.
pub(crate) struct Misfit {
    pub(crate) code: &'static str,
    pub(crate) reason: &'static str,
}

impl StepConfig {
    /// `place` gives each column its place among the cells of a row.
    pub(crate) fn compile(
        self,
        columns: &mut Columns,
        place: &mut impl FnMut(ColumnId) -> usize,
    ) -> Result<Step, Failure> {
        let (column, into, invalid) = (self.column.clone(), self.into.clone(), self.invalid);
        let operation = self.operation(columns, place)?;
        let needs_column = !matches!(operation, Operation::Concatenate(..) | Operation::Constant(_));
        let from = match &column {
            Some(name) => Some(place(columns.want_or_added(name)?)),
            None if needs_column => return Err(Failure::config("`column` is missing")),
            None => None,
        };
        let into = match (into, column) {
            (Some(name), _) | (None, Some(name)) => place(columns.want_or_add(&name)?),
            (None, None) => return Err(Failure::config("`into` is missing")),
        };
        Ok(Step { from, into, invalid, operation })
    }

    fn operation(
        self,
        columns: &mut Columns,
        place: &mut impl FnMut(ColumnId) -> usize,
    ) -> Result<Operation, Failure> {
        let expected = "expected exactly one of trim, case, replace, split, concatenate, default, map, date, number and constant";
        let replace = |replace: Replace| match Regex::new(&replace.pattern) {
            Ok(regex) => Ok(Operation::Replace(regex, replace.with)),
            Err(_) => Err(Failure::config("pattern: expected a regular expression")),
        };
        let split = |split: Split| match split {
            Split { separator, .. } if separator.is_empty() => {
                Err(Failure::config("separator: expected at least one character"))
            }
            Split { part: 0, .. } => Err(Failure::config("part: the first is 1, the last -1")),
            Split { separator, part } => Ok(Operation::Split(separator, part)),
        };
        let mut concatenate = |joined: Concatenate| {
            let places = joined.columns.iter().map(|name| Ok(place(columns.want_or_added(name)?)));
            Ok(Operation::Concatenate(places.collect::<Result<_, Failure>>()?, joined.separator))
        };
        let operations: Vec<Option<Result<Operation, Failure>>> = vec![
            self.trim.filter(|trim| *trim).map(|_| Ok(Operation::Trim)),
            self.case.map(|case| Ok(Operation::Case(case))),
            self.replace.map(replace),
            self.split.map(split),
            self.concatenate.map(&mut concatenate),
            self.default.map(|text| Ok(Operation::Default(text))),
            self.map.map(|map| Ok(Operation::Map(map))),
            self.date.map(|date| Ok(Operation::Date(date))),
            self.number.map(|number| Ok(Operation::Number(number))),
            self.constant.map(|text| Ok(Operation::Constant(text))),
        ];
        let mut given = operations.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(operation), None) => operation,
            _ => Err(Failure::config(expected)),
        }
    }
}

impl Step {
    pub(crate) fn apply(&self, row: &mut [String]) -> Result<(), Misfit> {
        let cell = self.from.and_then(|place| row.get(place)).map_or("", String::as_str);
        let changed = match &self.operation {
            Operation::Trim => cell.trim().to_owned(),
            Operation::Case(Case::Upper) => cell.to_uppercase(),
            Operation::Case(Case::Lower) => cell.to_lowercase(),
            Operation::Case(Case::Title) => title(cell),
            Operation::Replace(regex, with) => regex.replace_all(cell, with.as_str()).into_owned(),
            Operation::Split(separator, part) => split(cell, separator, *part).to_owned(),
            Operation::Concatenate(places, separator) => {
                let cells = places.iter().filter_map(|place| row.get(*place)).filter(|cell| !cell.is_empty());
                cells.map(String::as_str).collect::<Vec<_>>().join(separator)
            }
            Operation::Default(text) if cell.is_empty() => text.clone(),
            Operation::Default(_) => cell.to_owned(),
            Operation::Map(map) => {
                map.table.get(cell).or(map.otherwise.as_ref()).map_or(cell, String::as_str).to_owned()
            }
            Operation::Constant(text) => text.clone(),
            Operation::Date(_) | Operation::Number(_) if cell.is_empty() => String::new(),
            Operation::Date(form) => {
                let changed =
                    BrokenDownTime::parse(&form.from, cell).and_then(|time| time.to_string(&form.to));
                let misfit =
                    Misfit { code: "invalid-date", reason: "the cell is not a date of the form expected" };
                self.or_invalid(changed.ok(), cell, misfit)?
            }
            Operation::Number(form) => {
                let misfit = Misfit {
                    code: "invalid-number",
                    reason: "the cell is not a number of the form expected",
                };
                self.or_invalid(number(cell, form), cell, misfit)?
            }
        };
        if let Some(into) = row.get_mut(self.into) {
            *into = changed;
        }
        Ok(())
    }

    fn or_invalid(&self, changed: Option<String>, cell: &str, misfit: Misfit) -> Result<String, Misfit> {
        match (changed, self.invalid) {
            (Some(changed), _) => Ok(changed),
            (None, Invalid::Empty) => Ok(String::new()),
            (None, Invalid::Keep) => Ok(cell.to_owned()),
            (None, Invalid::Reject) => Err(misfit),
        }
    }
}

fn title(cell: &str) -> String {
    let mut changed = String::with_capacity(cell.len());
    let mut inside = false;
    for character in cell.chars() {
        if inside {
            changed.extend(character.to_lowercase());
        } else {
            changed.extend(character.to_uppercase());
        }
        inside = character.is_alphanumeric() || character == '\'';
    }
    changed
}

fn split<'a>(cell: &'a str, separator: &str, part: i32) -> &'a str {
    let place = usize::try_from(part.unsigned_abs()).unwrap_or(usize::MAX) - 1;
    let found = if part > 0 { cell.split(separator).nth(place) } else { cell.rsplit(separator).nth(place) };
    found.unwrap_or_default().trim()
}

fn number(cell: &str, form: &NumberForm) -> Option<String> {
    let plain: String = cell
        .trim()
        .chars()
        .filter(|character| Some(*character) != form.thousands)
        .map(|character| if character == form.decimal { '.' } else { character })
        .collect();
    let digits = |character: char| character.is_ascii_digit() || matches!(character, '.' | '-' | '+');
    if !plain.chars().all(digits) {
        return None;
    }
    let number: Decimal = plain.parse().ok()?;
    Some(match form.decimals {
        Some(decimals) => {
            let mut rounded = number.round_dp_with_strategy(decimals, RoundingStrategy::MidpointAwayFromZero);
            rounded.rescale(decimals);
            rounded.to_string()
        }
        None => number.to_string(),
    })
}
