//! Keeps, drops or rejects rows by conditions on their columns. The README shows every condition.

mod condition;

use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::{Batch, Columns, Failure, Output, Processor, register};

use crate::condition::{Condition, ConditionConfig};

/// Exactly one of the three.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Drops the rows for which this is false.
    keep_if: Option<ConditionConfig>,
    /// Drops the rows for which this is true.
    drop_if: Option<ConditionConfig>,
    /// Rejects the rows for which this is true: they go to the rejected rows.
    reject_if: Option<ConditionConfig>,
    /// The code of rejected rows: `[a-z0-9-]`.
    #[serde(default = "default_code")]
    code: String,
    /// The reason of rejected rows.
    #[serde(default = "default_reason")]
    reason: String,
}

fn default_code() -> String {
    "filtered".to_owned()
}

fn default_reason() -> String {
    "a filter of the goal rejects the row".to_owned()
}

enum Action {
    Keep,
    Drop,
    Reject { code: String, reason: String },
}

struct RowFilter {
    condition: Condition,
    action: Action,
}

impl Processor for RowFilter {
    const NAME: &'static str = "row-filter";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Keeps, drops or rejects rows by conditions on their columns.";
    type Config = Config;

    fn open(config: Config, columns: &mut Columns) -> Result<Self, Failure> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=64).contains(&config.code.len()) || !config.code.bytes().all(fits) {
            return Err(Failure::expected("code", "1 to 64 of a-z, 0-9 and `-`"));
        }
        let (condition, action) = match (config.keep_if, config.drop_if, config.reject_if) {
            (Some(condition), None, None) => (condition, Action::Keep),
            (None, Some(condition), None) => (condition, Action::Drop),
            (None, None, Some(condition)) => {
                (condition, Action::Reject { code: config.code, reason: config.reason })
            }
            _ => return Err(Failure::config("expected exactly one of keep_if, drop_if and reject_if")),
        };
        Ok(Self { condition: condition.compile(columns)?, action })
    }

    fn process(&mut self, batch: &Batch, output: &mut Output) -> Result<(), Failure> {
        for row in 0..batch.rows() {
            match (&self.action, self.condition.holds(batch, row)) {
                (Action::Keep, false) | (Action::Drop, true) => output.drop(row),
                (Action::Reject { code, reason }, true) => output.reject(row, None, code, reason),
                _ => {}
            }
        }
        Ok(())
    }
}

register!(RowFilter);

#[cfg(test)]
mod tests {
    use sluicebox_sdk::testing::{Verdict, run};

    use super::*;

    const HEADER: [&str; 3] = ["country", "spent", "since"];
    const ROWS: [&[&str]; 4] = [
        &["NL", "10.5", "2026-01-02"],
        &["de", "9", "2025-12-31T23:59:59Z"],
        &["BE", "", ""],
        &["", "many", "2026-02-30"],
    ];

    /// Compares the rows, by number, for which the condition is true.
    fn check(condition: &str, expected: &[usize]) {
        let processed = run::<RowFilter>(&format!(r#"{{"drop_if": {condition}}}"#), &HEADER, &ROWS).unwrap();
        let dropped = processed.rows.iter().enumerate().filter(|(_, (verdict, _))| *verdict == Verdict::Drop);
        assert_eq!(dropped.map(|(row, _)| row).collect::<Vec<_>>(), expected, "{condition}");
    }

    #[test]
    fn tests_of_cells() {
        check(r#"{"column": "country", "equals": "NL"}"#, &[0]);
        check(r#"{"column": "country", "equals": "DE"}"#, &[]);
        check(r#"{"column": "country", "equals": "DE", "ignore_case": true}"#, &[1]);
        check(r#"{"column": "country", "in": ["NL", "BE"]}"#, &[0, 2]);
        check(r#"{"column": "country", "regex": "^[A-Z]{2}$"}"#, &[0, 2]);
        check(r#"{"column": "country", "empty": true}"#, &[3]);
        check(r#"{"column": "country", "empty": false}"#, &[0, 1, 2]);
    }

    #[test]
    fn numbers_and_dates_compare() {
        check(r#"{"column": "spent", "less_than": 10}"#, &[1]);
        check(r#"{"column": "spent", "at_least": 10.50}"#, &[0]);
        check(r#"{"column": "spent", "at_most": 10.5}"#, &[0, 1]);
        check(r#"{"column": "spent", "greater_than": 9}"#, &[0]);
        check(r#"{"column": "since", "before": "2026-01-01"}"#, &[1]);
        check(r#"{"column": "since", "after": "2026-01-01"}"#, &[0]);
    }

    #[test]
    fn conditions_combine() {
        let nl = r#"{"column": "country", "equals": "NL"}"#;
        let cheap = r#"{"column": "spent", "less_than": 10}"#;
        check(&format!(r#"{{"any": [{nl}, {cheap}]}}"#), &[0, 1]);
        check(&format!(r#"{{"all": [{nl}, {cheap}]}}"#), &[]);
        check(&format!(r#"{{"not": {{"any": [{nl}, {cheap}]}}}}"#), &[2, 3]);
        check(r#"{"all": []}"#, &[0, 1, 2, 3]);
        check(r#"{"any": []}"#, &[]);
    }

    #[test]
    fn keeps_and_rejects() {
        let nl = r#"{"column": "country", "equals": "NL"}"#;
        let kept = run::<RowFilter>(&format!(r#"{{"keep_if": {nl}}}"#), &HEADER, &ROWS).unwrap();
        assert_eq!(kept.kept(), [ROWS[0]]);
        let config = format!(r#"{{"reject_if": {nl}, "code": "dutch", "reason": "no"}}"#);
        let rejected = run::<RowFilter>(&config, &HEADER, &ROWS).unwrap();
        assert_eq!(rejected.rows[0].0, Verdict::Reject("dutch".into(), "no".into()));
        assert_eq!(rejected.kept().len(), 3);
    }

    #[test]
    fn reports_configuration_errors() {
        let check = |config: &str, expected: &str| {
            assert_eq!(run::<RowFilter>(config, &HEADER, &[]).unwrap_err(), Failure::config(expected));
        };
        check("{}", "expected exactly one of keep_if, drop_if and reject_if");
        check(
            r#"{"drop_if": {"column": "country"}}"#,
            "a condition on `country` needs exactly one test, such as equals, in, regex or empty",
        );
        check(r#"{"drop_if": {"column": "spent", "less_than": "many"}}"#, "drop_if.less_than: expected f64");
        check(
            r#"{"drop_if": {"column": "x", "empty": true}}"#,
            "there is no column `x`; found `country`, `spent`, `since`",
        );
    }
}
