//! Brings telephone numbers into E.164: `+31612345678`. The README shows what it does to which cell.

use rlibphonenumber::{PHONE_NUMBER_UTIL, PhoneNumberFormat, Region};
use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::{Batch, Cells, ColumnId, Columns, Failure, Output, Processor, register};

/// Which columns, and where numbers without a country code are from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns that hold telephone numbers.
    columns: Vec<String>,
    /// The country of numbers without a country code: two letters (ISO 3166). Without it such numbers are invalid.
    country: Option<String>,
    /// The column that holds the country of each row; `country` is for rows where it is empty.
    country_column: Option<String>,
    /// What becomes of a cell that is no telephone number.
    #[serde(default)]
    invalid: Invalid,
}

/// What becomes of a cell that is no telephone number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Invalid {
    /// The cell is emptied.
    #[default]
    Empty,
    /// The row is rejected, with the code `invalid-phone`.
    Reject,
    /// The cell stays as it is.
    Keep,
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
    const SUMMARY: &'static str = "Brings telephone numbers into E.164.";
    type Config = Config;

    fn open(config: Config, columns: &mut Columns) -> Result<Self, Failure> {
        if config.columns.is_empty() {
            return Err(Failure::config("columns: expected at least one name"));
        }
        let country = match config.country {
            Some(country) => Some(
                region(&country)
                    .ok_or_else(|| Failure::config("country: expected two letters such as NL"))?,
            ),
            None => None,
        };
        let wanted: Result<Vec<_>, _> = config.columns.iter().map(|name| columns.want(name)).collect();
        let country_column = config.country_column.map(|name| columns.want(&name)).transpose()?;
        Ok(Self { columns: wanted?, country, country_column, invalid: config.invalid })
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
                        cells.push(if self.invalid == Invalid::Keep { cell } else { "" });
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
    // `00` is the international prefix of most countries, and what people write where there is no `+`.
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
    fn brings_numbers_into_e164() {
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
    fn empties_what_is_no_number() {
        for cell in ["call me", "123", "+31 6 1"] {
            check(r#", "country": "NL""#, cell, "");
            check(r#", "country": "NL", "invalid": "keep""#, cell, cell);
        }
        check("", "06 12 34 56 78", "");
    }

    #[test]
    fn takes_the_country_of_the_row() {
        let config = r#"{"columns": ["phone"], "country": "NL", "country_column": "country"}"#;
        let rows: [&[&str]; 2] = [&["030 901820", "de"], &["0612345678", ""]];
        let processed = run::<PhoneNormalizer>(config, &["phone", "country"], &rows).unwrap();
        assert_eq!(processed.kept(), [["+4930901820", "de"], ["+31612345678", ""]]);
    }

    #[test]
    fn rejects_the_row_where_asked() {
        let config = r#"{"columns": ["phone"], "invalid": "reject"}"#;
        let processed = run::<PhoneNormalizer>(config, &["phone"], &[&["x"], &[""]]).unwrap();
        assert!(matches!(&processed.rows[0].0, Verdict::Reject(code, _) if code == "invalid-phone"));
        assert_eq!(processed.rows[1].0, Verdict::Keep);
    }

    #[test]
    fn says_what_is_wrong_with_its_configuration() {
        let failure =
            run::<PhoneNormalizer>(r#"{"columns": ["p"], "country": "XX"}"#, &["p"], &[]).unwrap_err();
        assert_eq!(failure, Failure::config("country: expected two letters such as NL"));
    }
}
