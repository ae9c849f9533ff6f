//! Replaces cells with a keyed hash. The README says what that protects, and what it does not protect.

use hmac::{Hmac, KeyInit, Mac};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Sha256;
use sluicebox_sdk::{Batch, Cells, ColumnId, Columns, Failure, Output, Processor, register};

/// The columns and the key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The columns to replace.
    columns: Vec<String>,
    /// The secret key: at least 16 bytes. Give it as `{ env = "NAME" }` or `{ file = "path" }`.
    key: String,
    /// Keeps the columns and adds new ones for the hashes, named as the columns with this suffix.
    suffix: Option<String>,
    /// Gives upper and lower case the same hash.
    #[serde(default)]
    ignore_case: bool,
}

const MIN_KEY_BYTES: usize = 16;

struct Pseudonymizer {
    /// The columns to read and the columns to write.
    columns: Vec<(ColumnId, ColumnId)>,
    keyed: Hmac<Sha256>,
    ignore_case: bool,
}

impl Processor for Pseudonymizer {
    const NAME: &'static str = "pseudonymizer";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str =
        "Replaces cells with a keyed hash: equal cells stay equal, and cannot be read.";
    type Config = Config;

    fn open(config: Config, columns: &mut Columns) -> Result<Self, Failure> {
        if config.key.len() < MIN_KEY_BYTES {
            return Err(Failure::expected("key", &format!("at least {MIN_KEY_BYTES} bytes")));
        }
        let keyed = Hmac::<Sha256>::new_from_slice(config.key.as_bytes())
            .map_err(|_| Failure::expected("key", "a key for HMAC-SHA-256"))?;
        let mut pairs = Vec::new();
        for (from, name) in columns.want_all("columns", &config.columns)?.into_iter().zip(&config.columns) {
            let into = match &config.suffix {
                Some(suffix) => columns.add(&format!("{name}{suffix}"))?,
                None => from,
            };
            pairs.push((from, into));
        }
        Ok(Self { columns: pairs, keyed, ignore_case: config.ignore_case })
    }

    fn process(&mut self, batch: &Batch, output: &mut Output) -> Result<(), Failure> {
        for (from, into) in &self.columns {
            let mut cells = Cells::for_rows(batch.rows());
            for cell in batch.column(*from).iter() {
                cells.push_with(|out| self.write(cell, out));
            }
            output.change(*into, cells);
        }
        Ok(())
    }
}

impl Pseudonymizer {
    /// Appends the HMAC-SHA-256 (RFC 2104) as 64 hexadecimal digits. An empty cell stays empty.
    fn write(&self, cell: &str, out: &mut String) {
        if cell.is_empty() {
            return;
        }
        let mut keyed = self.keyed.clone();
        if self.ignore_case {
            keyed.update(cell.to_lowercase().as_bytes());
        } else {
            keyed.update(cell.as_bytes());
        }
        for byte in keyed.finalize().into_bytes() {
            for digit in [byte >> 4, byte & 15] {
                out.extend(char::from_digit(u32::from(digit), 16));
            }
        }
    }
}

register!(Pseudonymizer);

#[cfg(test)]
mod tests {
    use sluicebox_sdk::testing::run;

    use super::*;

    const KEY: &str = "an example key of 32 bytes here.";

    fn hashed(options: &str, cell: &str) -> Vec<String> {
        let config = format!(r#"{{"columns": ["email"], "key": "{KEY}"{options}}}"#);
        let processed = run::<Pseudonymizer>(&config, &["email"], &[&[cell]]).unwrap();
        processed.kept()[0].to_vec()
    }

    #[test]
    fn is_hmac_sha256() {
        // printf 'ann@example.com' | openssl dgst -sha256 -hmac 'an example key of 32 bytes here.'
        let expected = "ec6af28cf37f20b14ced6aa284cb62cb8f1bd9b67ae9cf79f6aa5591c7935d8f";
        assert_eq!(hashed("", "ann@example.com"), [expected]);
    }

    #[test]
    fn equal_cells_stay_equal_and_empty_ones_empty() {
        assert_eq!(hashed("", ""), [""]);
        assert_ne!(hashed("", "Ann@example.com"), hashed("", "ann@example.com"));
        let ignore = r#", "ignore_case": true"#;
        assert_eq!(hashed(ignore, "Ann@example.com"), hashed("", "ann@example.com"));
    }

    #[test]
    fn keeps_the_column_with_a_suffix() {
        let cells = hashed(r#", "suffix": "_hash""#, "ann@example.com");
        assert_eq!(cells, ["ann@example.com".to_owned(), hashed("", "ann@example.com").remove(0)]);
    }

    #[test]
    fn errors_do_not_show_the_key() {
        let check = |config: &str, expected: &str| {
            assert_eq!(run::<Pseudonymizer>(config, &["email"], &[]).err(), Some(Failure::config(expected)));
        };
        check(r#"{"columns": ["email"], "key": "hunter2"}"#, "key: expected at least 16 bytes");
        check(r#"{"columns": ["email"], "key": ["hunter2"]}"#, "key: expected a string");
        check(r#"{"columns": "hunter2", "key": "hunter2"}"#, "columns: expected a sequence");
    }
}
