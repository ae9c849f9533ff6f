//! Writes telephone numbers in E.164: `+31612345678`. The README shows what becomes of which cell.

use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumberFormat, Region};
use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::{Batch, Cells, ColumnId, Columns, Failure, Invalid, Output, Processor, register};

/// The columns, and the country of numbers without a country code.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that hold telephone numbers.
    columns: Vec<String>,
    /// The country of numbers without a country code: two letters (ISO 3166). Without it, such numbers are invalid.
    country: Option<String>,
    /// The column with the country of each row. `country` applies to rows where it is empty.
    country_column: Option<String>,
    /// What to do with a cell that is not a telephone number. `reject` gives the code `invalid-phone`.
    #[serde(default)]
    invalid: Invalid,
}

struct PhoneNormalizer {
    columns: Vec<ColumnId>,
    country: Option<Region>,
    country_column: Option<ColumnId>,
    invalid: Invalid,
}

impl Processor for PhoneNormalizer {
    const NAME: &'static str = "phone-normalizer";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Writes telephone numbers in E.164.";
    type Config = Config;

    fn open(config: Config, columns: &mut Columns) -> Result<Self, Failure> {
        let country = match config.country {
            Some(country) => {
                let expected = || Failure::expected("country", "two letters such as NL");
                Some(region(&country).ok_or_else(expected)?)
            }
            None => None,
        };
        Ok(Self {
            columns: columns.want_all("columns", &config.columns)?,
            country,
            country_column: columns.want_if_named(config.country_column.as_deref())?,
            invalid: config.invalid,
        })
    }

    fn process(&mut self, batch: &Batch, output: &mut Output) -> Result<(), Failure> {
        for column in &self.columns {
            let mut cells = Cells::for_rows(batch.rows());
            for (row, cell) in batch.column(*column).iter().enumerate() {
                if cell.is_empty() {
                    cells.push("");
                    continue;
                }
                let country = self.country(batch, row);
                match e164(cell, country) {
                    Some(number) => cells.push(&number),
                    None => {
                        if self.invalid == Invalid::Reject {
                            let reason = "the cell is not a telephone number";
                            output.reject(row, Some(*column), "invalid-phone", reason);
                        }
                        cells.push(self.invalid.replacement(cell));
                    }
                }
            }
            output.change(*column, cells);
        }
        Ok(())
    }
}

impl PhoneNormalizer {
    fn country(&self, batch: &Batch, row: usize) -> Option<Region> {
        let own = self.country_column.map(|column| batch.column(column).cell(row)).unwrap_or_default();
        if own.is_empty() { self.country } else { region(own) }
    }
}

fn region(country: &str) -> Option<Region> {
    let region = country.trim().to_uppercase().parse().ok()?;
    PHONE_NUMBER_UTIL.get_country_code_for_region(region).map(|_| region)
}

/// The number in E.164 if it is valid in its numbering plan.
fn e164(cell: &str, country: Option<Region>) -> Option<String> {
    // Without a country, `00` stands for `+`: it is the international prefix of most countries.
    let international =
        cell.trim().strip_prefix("00").filter(|_| country.is_none()).map(|rest| format!("+{rest}"));
    let number = PHONE_NUMBER_UTIL.parse(international.as_deref().unwrap_or(cell), country).ok()?;
    if !PHONE_NUMBER_UTIL.is_valid_number(&number) {
        return None;
    }
    Some(PHONE_NUMBER_UTIL.format(&number, PhoneNumberFormat::E164).into_owned())
}

register!(PhoneNormalizer);

#[cfg(test)]
mod tests {
    use sluicebox_sdk::testing::{Verdict, run};

    use super::*;

    fn check(options: &str, cell: &str, expected: &str) {
        let config = format!(r#"{{"columns": ["phone"]{options}}}"#);
        let processed = run::<PhoneNormalizer>(&config, &["phone"], &[&[cell]]).unwrap();
        assert_eq!(processed.kept(), [[expected]], "{cell}");
    }

    #[test]
    fn writes_numbers_in_e164() {
        let dutch = r#", "country": "nl""#;
        check(dutch, "06 12 34 56 78", "+31612345678");
        check(dutch, "06-12345678", "+31612345678");
        check(dutch, "+49 30 901820", "+4930901820");
        check(dutch, "0031612345678", "+31612345678");
        check(dutch, "", "");
        check("", "+31 6 12345678", "+31612345678");
        check("", "0031 6 12345678", "+31612345678");
    }

    #[test]
    fn empties_cells_that_are_not_numbers() {
        for cell in ["call me", "123", "+31 6 1"] {
            check(r#", "country": "NL""#, cell, "");
            check(r#", "country": "NL", "invalid": "keep""#, cell, cell);
        }
        check("", "06 12 34 56 78", "");
    }

    #[test]
    fn uses_the_country_of_the_row() {
        let config = r#"{"columns": ["phone"], "country": "NL", "country_column": "country"}"#;
        let rows: [&[&str]; 2] = [&["030 901820", "de"], &["0612345678", ""]];
        let processed = run::<PhoneNormalizer>(config, &["phone", "country"], &rows).unwrap();
        assert_eq!(processed.kept(), [["+4930901820", "de"], ["+31612345678", ""]]);
    }

    #[test]
    fn rejects_the_row_if_configured() {
        let config = r#"{"columns": ["phone"], "invalid": "reject"}"#;
        let processed = run::<PhoneNormalizer>(config, &["phone"], &[&["x"], &[""]]).unwrap();
        assert!(matches!(&processed.rows[0].0, Verdict::Reject(code, _) if code == "invalid-phone"));
        assert_eq!(processed.rows[1].0, Verdict::Keep);
    }

    #[test]
    fn reports_configuration_errors() {
        let failure =
            run::<PhoneNormalizer>(r#"{"columns": ["p"], "country": "XX"}"#, &["p"], &[]).unwrap_err();
        assert_eq!(failure, Failure::config("country: expected two letters such as NL"));
    }
}
