//! Writes a column in capital letters.

use schemars::JsonSchema;
use serde::Deserialize;
use sluicebox_sdk::{Batch, Cells, ColumnId, Columns, Failure, Output, Processor, register};

/// The configuration. Its JSON Schema is derived from this type and its comments.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The column to change.
    column: String,
}

/// The processor at work on one file.
pub struct Shout {
    column: ColumnId,
}

impl Processor for Shout {
    const NAME: &'static str = "{{name}}";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "Writes a column in capital letters.";
    type Config = Config;

    fn open(config: Config, columns: &mut Columns) -> Result<Self, Failure> {
        Ok(Self { column: columns.want(&config.column)? })
    }

    fn process(&mut self, batch: &Batch, output: &mut Output) -> Result<(), Failure> {
        let mut cells = Cells::for_rows(batch.rows());
        for (row, cell) in batch.column(self.column).iter().enumerate() {
            if cell.is_empty() {
                output.reject(row, Some(self.column), "no-value", "the cell is empty");
            }
            cells.push(&cell.to_uppercase());
        }
        output.change(self.column, cells);
        Ok(())
    }
}

register!(Shout);

#[cfg(test)]
mod tests {
    use sluicebox_sdk::testing::run;

    use super::*;

    #[test]
    fn writes_names_in_capital_letters() {
        let config = r#"{"column": "name"}"#;
        let processed = run::<Shout>(config, &["id", "name"], &[&["1", "ann"], &["2", ""]]).unwrap();
        assert_eq!(processed.kept(), [["1", "ANN"]]);
    }

    #[test]
    fn reports_a_column_that_does_not_exist() {
        let failure = run::<Shout>(r#"{"column": "mail"}"#, &["id", "name"], &[]).unwrap_err();
        assert_eq!(failure, Failure::config("there is no column `mail`; found `id`, `name`"));
    }
}
