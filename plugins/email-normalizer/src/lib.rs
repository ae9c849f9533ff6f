//! Normalizes e-mail addresses, so that equal addresses are equal text. The README shows what becomes of which cell.

mod address;
mod invisible;
mod look;
mod plain;

use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::{Batch, Cells, ColumnId, Columns, Failure, Invalid, Output, Processor, register};

use crate::address::{normalize, trim};
use crate::invisible::without_invisible;
use crate::plain::Plain;

/// The columns, and how far to normalize.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The columns that hold addresses.
    columns: Vec<String>,
    /// What separates several addresses in one cell; absent = a cell holds one.
    separator: Option<String>,
    /// What to do with a cell that is not an address. `reject` gives the code `invalid-email`.
    #[serde(default)]
    invalid: Invalid,
    #[serde(flatten)]
    rules: Rules,
}

/// How far to change the local part, before the `@`. The domain is always written in ASCII (IDNA) and in lower case.
#[derive(Debug, Default, Deserialize, JsonSchema)]
struct Rules {
    /// Writes the local part in lower case. RFC 5321 allows case to matter; at no large provider does it.
    #[serde(default)]
    lowercase_local: bool,
    /// Removes what providers ignore: dots and plus-tags at gmail.com, plus-tags at outlook.com and others. Writes
    /// googlemail.com as gmail.com.
    #[serde(default)]
    provider_rules: bool,
}

/// The processor at work on one file.
#[derive(Debug)]
pub struct EmailNormalizer {
    columns: Vec<ColumnId>,
    separator: Option<String>,
    invalid: Invalid,
    rules: Rules,
}

impl Processor for EmailNormalizer {
    const NAME: &'static str = "email-normalizer";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Normalizes e-mail addresses, so that equal addresses are equal text.";
    type Config = Config;

    fn open(config: Config, columns: &mut Columns) -> Result<Self, Failure> {
        if config.separator.as_deref() == Some("") {
            return Err(Failure::expected("separator", "at least one character"));
        }
        Ok(Self {
            columns: columns.want_all("columns", &config.columns)?,
            separator: config.separator,
            invalid: config.invalid,
            rules: config.rules,
        })
    }

    fn process(&mut self, batch: &Batch, output: &mut Output) -> Result<(), Failure> {
        for column in &self.columns {
            let mut cells = Cells::for_rows(batch.rows());
            for (row, cell) in batch.column(*column).iter().enumerate() {
                let mut valid = true;
                cells.push_with(|out| valid = self.write(cell, out));
                if !valid && self.invalid == Invalid::Reject {
                    output.reject(row, Some(*column), "invalid-email", "the cell is not an e-mail address");
                }
            }
            output.change(*column, cells);
        }
        Ok(())
    }
}

impl EmailNormalizer {
    /// Appends the normalized cell. `false` if the cell, or a part of it, is not an address.
    #[inline(always)]
    fn write(&self, cell: &str, out: &mut String) -> bool {
        match &self.separator {
            None => self.write_one(cell, out),
            Some(separator) => self.write_several(cell, separator, out),
        }
    }

    fn write_several(&self, cell: &str, separator: &str, out: &mut String) -> bool {
        let (start, mut valid) = (out.len(), true);
        for part in cell.split(separator).map(str::trim).filter(|part| !part.is_empty()) {
            let before = out.len();
            if before > start {
                out.push_str(separator);
            }
            let from = out.len();
            valid &= self.write_one(part, out);
            if out.len() == from {
                out.truncate(before);
            }
        }
        valid
    }

    #[inline(always)]
    fn write_one(&self, cell: &str, out: &mut String) -> bool {
        if cell.is_empty() {
            return true;
        }
        match plain::write(cell, &self.rules, out) {
            Plain::Written => true,
            Plain::NoAddress => self.refuse(cell, out),
            Plain::Unknown => self.look_closer(cell, out),
        }
    }

    #[cold]
    fn look_closer(&self, cell: &str, out: &mut String) -> bool {
        let start = out.len();
        let visible = without_invisible(cell);
        if trim(&visible).is_empty() || normalize(&visible, &self.rules, out).is_some() {
            return true;
        }
        out.truncate(start);
        self.refuse(cell, out)
    }

    /// Appends what stands in place of a cell that is not an address.
    #[cold]
    fn refuse(&self, cell: &str, out: &mut String) -> bool {
        out.push_str(self.invalid.replacement(cell));
        false
    }
}

register!(EmailNormalizer);

#[cfg(test)]
mod tests {
    use sluicebox_sdk::testing::{Verdict, run};

    use super::*;

    fn cell(options: &str, cell: &str) -> (Verdict, String) {
        let config = format!(r#"{{"columns": ["email"]{options}}}"#);
        let processed = run::<EmailNormalizer>(&config, &["id", "email"], &[&["1", cell]]).unwrap();
        let (verdict, cells) = processed.rows.into_iter().next().unwrap();
        (verdict, cells.into_iter().nth(1).unwrap())
    }

    fn check(options: &str, input: &str, expected: &str) {
        assert_eq!(cell(options, input), (Verdict::Keep, expected.to_owned()), "{input}");
    }

    #[test]
    fn normalizes_addresses() {
        for (input, expected) in [
            ("  Ann@Example.COM ", "Ann@example.com"),
            ("Ann Lee <ann@example.com>", "ann@example.com"),
            ("\"Lee, Ann\" <ann@example.com>", "ann@example.com"),
            ("mailto:ann@example.com", "ann@example.com"),
            ("ann@Bücher.example", "ann@xn--bcher-kva.example"),
            ("ann@example.com.", "ann@example.com"),
            ("a'b+c@example.com", "a'b+c@example.com"),
            ("jürgen@example.com", "jürgen@example.com"),
            ("", ""),
        ] {
            check("", input, expected);
        }
    }

    #[test]
    fn empties_cells_that_are_not_addresses() {
        for input in [
            "ann",
            "ann@",
            "@example.com",
            "ann@example",
            "ann@exa mple.com",
            "a@b@example.com",
            "ann lee@example.com",
            ".ann@example.com",
            "ann.@example.com",
            "a..b@example.com",
            "ann@-example.com",
            "ann@example..com",
            "Ann <ann@example.com",
            "ann@[127.0.0.1]",
            &format!("{}@example.com", "a".repeat(65)),
            &format!("ann@{}.com", "a".repeat(64)),
        ] {
            check("", input, "");
            check(r#", "invalid": "keep""#, input, input);
        }
    }

    #[test]
    fn removes_invisible_characters() {
        for input in [
            "\u{feff}ann@example.com",
            "ann@example.com\u{200b}",
            "an\u{ad}n@exam\u{200d}ple.com",
            "\u{a0}ann@example.com\u{a0}",
            "\u{202a}ann@example.com\u{202c}",
            "\u{200e}Ann <\u{2060}ann@example.com>\u{200f}",
            "\u{200b} ann@example.com \u{feff}",
        ] {
            check("", input, "ann@example.com");
        }
        for input in ["\u{200b}", "\u{a0}\u{feff}"] {
            check("", input, "");
            assert_eq!(cell(r#", "invalid": "reject""#, input).0, Verdict::Keep);
        }
        check(r#", "invalid": "keep""#, "an\u{200b}n", "an\u{200b}n");
        check("", "an\u{a0}n@example.com", "");
    }

    #[test]
    fn applies_the_rules_that_are_on() {
        let provider = r#", "lowercase_local": true, "provider_rules": true"#;
        check(r#", "lowercase_local": true"#, "ANN.Lee@Example.com", "ann.lee@example.com");
        check(provider, "Ann.Lee+news@GoogleMail.com", "annlee@gmail.com");
        check(provider, "ann.lee+news@outlook.com", "ann.lee@outlook.com");
        check(provider, "ann.lee+news@example.com", "ann.lee+news@example.com");
        check(provider, "+news@gmail.com", "");
    }

    #[test]
    fn splits_several_addresses() {
        let several = r#", "separator": ";""#;
        check(several, "a@x.example; B@X.example;;", "a@x.example;B@x.example");
        check(several, "none; a@x.example", "a@x.example");
        check(several, "\u{200b}; a@x.example", "a@x.example");
    }

    #[test]
    fn rejects_the_row_if_configured() {
        let (verdict, _) = cell(r#", "invalid": "reject""#, "ann");
        assert!(matches!(verdict, Verdict::Reject(code, _) if code == "invalid-email"));
        assert_eq!(cell(r#", "invalid": "reject""#, "").0, Verdict::Keep);
    }

    #[test]
    fn reports_configuration_errors() {
        let check = |config: &str, expected: &str| {
            let failure = run::<EmailNormalizer>(config, &["email"], &[]).unwrap_err();
            assert_eq!(failure, Failure::config(expected));
        };
        check(r#"{"columns": ["mail"]}"#, "there is no column `mail`; found `email`");
        check(r#"{"columns": []}"#, "columns: expected at least one name");
        check("{}", "missing field `columns`");
    }
}
