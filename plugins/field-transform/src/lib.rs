//! Changes cells by steps that follow each other. The README shows every step.

mod step;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::{Batch, Cells, ColumnId, Columns, Failure, Output, Processor, register};

use crate::step::{Step, StepConfig};

/// The steps, in order: each sees what those before it left.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The steps.
    steps: Vec<StepConfig>,
}

struct FieldTransform {
    steps: Vec<Step>,
    /// Every column that a step reads or writes.
    columns: Vec<ColumnId>,
    /// Places in `columns` of those that are written.
    written: Vec<usize>,
    /// The cells of the row at hand, by place in `columns`.
    row: Vec<String>,
}

impl Processor for FieldTransform {
    const NAME: &'static str = "field-transform";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str =
        "Changes cells: trim, case, replace, split, concatenate, default, map, dates, numbers, constants.";
    type Config = Config;

    fn open(config: Config, columns: &mut Columns) -> Result<Self, Failure> {
        if config.steps.is_empty() {
            return Err(Failure::config("steps: expected at least one"));
        }
        let mut places = BTreeMap::new();
        let mut ids = Vec::new();
        let mut steps = Vec::new();
        for (number, step) in config.steps.into_iter().enumerate() {
            let mut place = |id: ColumnId| {
                *places.entry(id).or_insert_with(|| {
                    ids.push(id);
                    ids.len() - 1
                })
            };
            let step = step.compile(columns, &mut place);
            steps.push(step.map_err(|failure| match failure {
                Failure::Config(message) => Failure::Config(format!("steps[{number}]: {message}")),
                failure @ Failure::Data(_) => failure,
            })?);
        }
        let mut written: Vec<usize> = steps.iter().map(|step| step.into).collect();
        written.sort_unstable();
        written.dedup();
        Ok(Self { steps, row: vec![String::new(); ids.len()], columns: ids, written })
    }

    fn process(&mut self, batch: &Batch, output: &mut Output) -> Result<(), Failure> {
        let mut changed = vec![Cells::for_rows(batch.rows()); self.written.len()];
        for row in 0..batch.rows() {
            for (cell, column) in self.row.iter_mut().zip(&self.columns) {
                cell.clear();
                cell.push_str(batch.column(*column).cell(row));
            }
            for step in &self.steps {
                if let Err(misfit) = step.apply(&mut self.row) {
                    let column = self.columns.get(step.into).copied();
                    output.reject(row, column, misfit.code, misfit.reason);
                }
            }
            for (cells, place) in changed.iter_mut().zip(&self.written) {
                cells.push(self.row.get(*place).map_or("", String::as_str));
            }
        }
        for (cells, place) in changed.into_iter().zip(&self.written) {
            if let Some(column) = self.columns.get(*place) {
                output.change(*column, cells);
            }
        }
        Ok(())
    }
}

register!(FieldTransform);

#[cfg(test)]
mod tests {
    use sluicebox_sdk::testing::{Verdict, run};

    use super::*;

    fn transform(steps: &str, header: &[&str], cells: &[&str]) -> (Verdict, Vec<String>) {
        let config = format!(r#"{{"steps": [{steps}]}}"#);
        let processed = run::<FieldTransform>(&config, header, &[cells]).unwrap();
        processed.rows.into_iter().next().unwrap()
    }

    fn check(step: &str, cell: &str, expected: &str) {
        let (verdict, cells) = transform(&format!(r#"{{"column": "a", {step}}}"#), &["a"], &[cell]);
        assert_eq!((verdict, cells[0].as_str()), (Verdict::Keep, expected), "{step} {cell:?}");
    }

    #[test]
    fn texts_change() {
        check(r#""trim": true"#, " a b ", "a b");
        check(r#""case": "upper""#, "jörg", "JÖRG");
        check(r#""case": "lower""#, "JÖRG", "jörg");
        check(r#""case": "title""#, "jan-peter DE VRIES", "Jan-Peter De Vries");
        check(r#""replace": {"pattern": "[^0-9]", "with": ""}"#, "a1b2", "12");
        check(r#""replace": {"pattern": "(\\w+) (\\w+)", "with": "$2, $1"}"#, "Ann Lee", "Lee, Ann");
        check(r#""split": {"separator": ",", "part": 2}"#, "a, b,c", "b");
        check(r#""split": {"separator": ",", "part": -1}"#, "a, b,c", "c");
        check(r#""split": {"separator": ",", "part": 9}"#, "a", "");
        check(r#""default": "x""#, "", "x");
        check(r#""default": "x""#, "y", "y");
        check(r#""constant": "x""#, "y", "x");
    }

    #[test]
    fn tables_map() {
        check(r#""map": {"table": {"m": "male", "f": "female"}}"#, "f", "female");
        check(r#""map": {"table": {"m": "male"}}"#, "x", "x");
        check(r#""map": {"table": {"m": "male"}, "otherwise": ""}"#, "x", "");
        check(r#""map": {"table": {"": "none"}}"#, "", "none");
    }

    #[test]
    fn dates_and_numbers_change_their_form() {
        let date = r#""date": {"from": "%d-%m-%Y", "to": "%Y-%m-%d"}"#;
        check(date, "31-12-2025", "2025-12-31");
        check(date, "", "");
        check(date, "31-13-2025", "");
        check(&format!(r#"{date}, "invalid": "keep""#), "31-13-2025", "31-13-2025");
        check(
            r#""date": {"from": "%Y-%m-%dT%H:%M:%S%z", "to": "%H:%M"}"#,
            "2026-01-02T03:04:05+0100",
            "03:04",
        );
        check(r#""number": {"decimal": ",", "thousands": "."}"#, "1.234,50", "1234.50");
        check(r#""number": {"decimals": 2}"#, "1.005", "1.01");
        check(r#""number": {"decimals": 2}"#, "-3", "-3.00");
        check(r#""number": {}"#, "1e5", "");
        let (verdict, _) =
            transform(&format!(r#"{{"column": "a", {date}, "invalid": "reject"}}"#), &["a"], &["x"]);
        assert!(matches!(verdict, Verdict::Reject(code, _) if code == "invalid-date"));
    }

    #[test]
    fn steps_follow_each_other_and_add_columns() {
        let steps = r#"
            {"column": "name", "into": "first", "split": {"separator": " ", "part": 1}},
            {"column": "first", "case": "lower"},
            {"into": "mail", "concatenate": {"columns": ["first", "domain"], "separator": "@"}}"#;
        let (_, cells) = transform(steps, &["name", "domain"], &["Ann Lee", "x.example"]);
        assert_eq!(cells, ["Ann Lee", "x.example", "ann", "ann@x.example"]);
        let join = r#"{"into": "all", "concatenate": {"columns": ["a", "b"], "separator": " "}}"#;
        assert_eq!(transform(join, &["a", "b"], &["", "x"]).1[2], "x");
    }

    #[test]
    fn says_what_is_wrong_with_its_configuration() {
        let check = |steps: &str, expected: &str| {
            let config = format!(r#"{{"steps": [{steps}]}}"#);
            assert_eq!(run::<FieldTransform>(&config, &["a"], &[]).err(), Some(Failure::config(expected)));
        };
        check("", "steps: expected at least one");
        check(
            r#"{"column": "a"}"#,
            "steps[0]: expected exactly one of trim, case, replace, split, concatenate, default, map, date, number and constant",
        );
        check(r#"{"column": "b", "trim": true}"#, "steps[0]: there is no column `b`; found `a`");
        check(r#"{"trim": true}"#, "steps[0]: `column` is missing");
        check(
            r#"{"column": "a", "split": {"separator": "", "part": 1}}"#,
            "steps[0]: separator: expected at least one character",
        );
    }
}
