//! Changes cells in steps. The README shows every step.

mod date;
mod number;
mod step;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::{Batch, Cells, ColumnId, Columns, Failure, Output, Processor, register};

use crate::step::{Step, StepConfig};

/// The steps, in order. Each sees the result of those before it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The steps.
    steps: Vec<StepConfig>,
}

struct FieldTransform {
    steps: Vec<Step>,
    /// All columns that a step reads or writes.
    columns: Vec<ColumnId>,
    /// The places in `columns` of those that a step writes.
    written: Vec<usize>,
    /// The cells of the current row, by their place in `columns`.
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
            return Err(Failure::expected("steps", "at least one"));
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
            steps.push(step.map_err(|failure| failure.at(&format!("steps[{number}]")))?);
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
    fn changes_text() {
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
    fn maps_by_a_table() {
        check(r#""map": {"table": {"m": "male", "f": "female"}}"#, "f", "female");
        check(r#""map": {"table": {"m": "male"}}"#, "x", "x");
        check(r#""map": {"table": {"m": "male"}, "otherwise": ""}"#, "x", "");
        check(r#""map": {"table": {"": "none"}}"#, "", "none");
    }

    #[test]
    fn rewrites_dates_and_numbers() {
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
        check(r#""number": {"decimals": 2}"#, "1.005", "1.01");
        check(r#""number": {"decimals": 2}"#, "-3", "-3.00");
        check(r#""number": {}"#, "1e5", "");
        let (verdict, _) =
            transform(&format!(r#"{{"column": "a", {date}, "invalid": "reject"}}"#), &["a"], &["x"]);
        assert!(matches!(verdict, Verdict::Reject(code, _) if code == "invalid-date"));
    }

    #[test]
    fn separators_of_a_number_stand_where_they_belong() {
        let european = r#""number": {"decimal": ",", "thousands": "."}"#;
        let american = r#""number": {"thousands": ","}"#;
        for (cell, expected) in [
            ("1.234,50", "1234.50"),
            ("1.234.567", "1234567"),
            ("-583,28", "-583.28"),
            ("+12", "12"),
            ("1234567,8", "1234567.8"),
            ("13.75", ""),
            ("9.00", ""),
            ("1.2.3", ""),
            ("1.2345", ""),
            ("1234.567", ""),
            (".123", ""),
            ("0.125", ""),
            ("1,234.5", ""),
            ("1,2,3", ""),
            ("5,", ""),
            (",5", ""),
            ("1..234", ""),
            ("1-2", ""),
            ("--1", ""),
            ("", ""),
        ] {
            check(european, cell, expected);
        }
        for (cell, expected) in [
            ("1,234.50", "1234.50"),
            ("1,234,567.89", "1234567.89"),
            ("12", "12"),
            ("9,00", ""),
            ("13,75", ""),
            ("1,2,3", ""),
            ("1.234,5", ""),
        ] {
            check(american, cell, expected);
        }
        check(r#""number": {}"#, "1,234", "");
        check(r#""number": {"decimal": "٫"}"#, "1٫5", "1.5");
        check(r#""number": {"thousands": " "}"#, " 1 234.5 ", "1234.5");
    }

    #[test]
    fn years_have_all_their_digits() {
        let date = |from: &str| format!(r#""date": {{"from": "{from}", "to": "%Y-%m-%d"}}"#);
        for (from, cell, expected) in [
            ("%d/%m/%Y", "03/04/2025", "2025-04-03"),
            ("%d/%m/%Y", "3/4/2025", "2025-04-03"),
            ("%d/%m/%Y", "03/04/25", ""),
            ("%d/%m/%Y", "03/04/991", ""),
            ("%d/%m/%Y", "03/04/20255", ""),
            ("%d/%m/%Y", "03/04/-2025", ""),
            ("%d%m%Y", "03042025", "2025-04-03"),
            ("%d%m%Y", "031991", ""),
            ("%Y%m%d", "20250403", "2025-04-03"),
            ("%F", "2025-04-03", "2025-04-03"),
            ("%F", "25-04-03", ""),
            ("%d.%m.%y", "02.11.22", "2022-11-02"),
            ("%d.%m.%y", "31.12.69", "1969-12-31"),
            ("%d.%m.%y", "02.11.2022", ""),
            ("%d.%m.%y", "02.11.2", ""),
            ("%D", "04/03/25", "2025-04-03"),
            ("%D", "04/03/2025", ""),
            ("%%Y %Y-%m-%d", "%Y 2025-04-03", "2025-04-03"),
        ] {
            check(&date(from), cell, expected);
        }
    }

    #[test]
    fn offsets_have_three_forms() {
        let date = r#""date": {"from": "%Y-%m-%dT%H:%M:%S%z", "to": "%H:%M %:z"}"#;
        for (cell, expected) in [
            ("2026-01-02T03:04:05+01:00", "03:04 +01:00"),
            ("2026-01-02T03:04:05+0100", "03:04 +01:00"),
            ("2026-01-02T03:04:05-0530", "03:04 -05:30"),
            ("2026-01-02T03:04:05Z", "03:04 +00:00"),
            ("2026-01-02T03:04:05", ""),
            ("2026-01-02T03:04:05+01:00:", ""),
            ("2026-01-02T03:04:05Zulu", ""),
        ] {
            check(date, cell, expected);
        }
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
    fn reports_configuration_errors() {
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
        check(
            r#"{"column": "a", "number": {"thousands": "."}}"#,
            "steps[0]: number: expected different signs for `decimal` and `thousands`, neither a digit nor `+` or `-`",
        );
    }
}
