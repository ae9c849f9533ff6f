use std::collections::HashMap;

use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::{ColumnId, Columns, Failure, Invalid};

use crate::date::{DateForm, Rewrite};
use crate::number::NumberForm;

/// A column and exactly one change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepConfig {
    /// The column to read. `concatenate` and `constant` need none.
    column: Option<String>,
    /// The column to write: another column, or a new one. Without it, the column that is read.
    into: Option<String>,
    /// What to do with a cell that is not a date or number of the given form. `reject` gives the code `invalid-date` or
    /// `invalid-number`.
    #[serde(default)]
    invalid: Invalid,
    /// Removes white space around the text.
    trim: Option<bool>,
    /// Writes the text in upper case, in lower case, or with an upper-case letter at the start of each word.
    case: Option<Case>,
    /// Replaces the matches of a regular expression; `$1` is its first group.
    replace: Option<Replace>,
    /// Takes one part of the text.
    split: Option<Split>,
    /// Joins several columns, without empty cells.
    concatenate: Option<Concatenate>,
    /// The text for empty cells.
    default: Option<String>,
    /// Replaces whole cells according to a table.
    map: Option<Map>,
    /// Writes a date in another form.
    date: Option<DateForm>,
    /// Writes a number with a decimal point and no thousands separators.
    number: Option<NumberForm>,
    /// The text for every cell.
    constant: Option<String>,
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
    /// The text in place of each match.
    with: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Split {
    /// The text between the parts.
    separator: String,
    /// Which part: 1 is the first, -1 the last.
    part: i32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Concatenate {
    /// The columns, in order.
    columns: Vec<String>,
    /// The text between them.
    #[serde(default)]
    separator: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Map {
    /// From cell to cell.
    table: HashMap<String, String>,
    /// The text for a cell that is not in the table; absent = the cell stays.
    otherwise: Option<String>,
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
    Date(Rewrite),
    Number(NumberForm),
    Constant(String),
}

/// Why a row is rejected.
pub(crate) struct Misfit {
    pub(crate) code: &'static str,
    pub(crate) reason: &'static str,
}

impl StepConfig {
    /// `place` answers with the place of a column among the cells of a row.
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
            Err(_) => Err(Failure::expected("pattern", "a regular expression")),
        };
        let split = |split: Split| match split {
            Split { separator, .. } if separator.is_empty() => {
                Err(Failure::expected("separator", "at least one character"))
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
            self.date.map(|date| Ok(Operation::Date(date.compile()))),
            self.number.map(|number| Ok(Operation::Number(number.checked()?))),
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
            Operation::Date(rewrite) => {
                let misfit =
                    Misfit { code: "invalid-date", reason: "the cell is not a date of the expected form" };
                self.or_invalid(rewrite.apply(cell), cell, misfit)?
            }
            Operation::Number(form) => {
                let misfit = Misfit {
                    code: "invalid-number",
                    reason: "the cell is not a number of the expected form",
                };
                self.or_invalid(form.rewrite(cell), cell, misfit)?
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
            (None, Invalid::Reject) => Err(misfit),
            (None, invalid) => Ok(invalid.replacement(cell).to_owned()),
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
