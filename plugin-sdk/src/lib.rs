//! The library for writing a Sluicebox processor.
//!
//! A processor reads the rows of a file, batch by batch. It may change cells, add columns, and drop or
//! reject rows; it can touch nothing else. Write a struct, implement [`Processor`], and [`register!`] it:
//!
//! ```
//! use schemars::JsonSchema;
//! use serde::Deserialize;
//! use sluicebox_sdk::{Batch, Cells, ColumnId, Columns, Failure, Output, Processor, register};
//!
//! /// The configuration. Its JSON Schema is derived from this type and its comments.
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     /// The columns to shout.
//!     columns: Vec<String>,
//! }
//!
//! struct Shout {
//!     columns: Vec<ColumnId>,
//! }
//!
//! impl Processor for Shout {
//!     const NAME: &'static str = "shout";
//!     const VERSION: &'static str = env!("CARGO_PKG_VERSION");
//!     const SUMMARY: &'static str = "Writes a column in capital letters.";
//!     type Config = Config;
//!
//!     fn open(config: Config, columns: &mut Columns) -> Result<Self, Failure> {
//!         Ok(Self { columns: columns.want_all("columns", &config.columns)? })
//!     }
//!
//!     fn process(&mut self, batch: &Batch, output: &mut Output) -> Result<(), Failure> {
//!         for column in &self.columns {
//!             let mut cells = Cells::for_rows(batch.rows());
//!             for cell in batch.column(*column) {
//!                 cells.push(&cell.to_uppercase());
//!             }
//!             output.change(*column, cells);
//!         }
//!         Ok(())
//!     }
//! }
//!
//! register!(Shout);
//!
//! // A test needs no WebAssembly.
//! let config = r#"{"columns": ["name"]}"#;
//! let result = sluicebox_sdk::testing::run::<Shout>(config, &["id", "name"], &[&["1", "ann"]]);
//! assert_eq!(result.unwrap().kept(), [["1", "ANN"]]);
//! # fn main() {}
//! ```
//!
//! Build it for `wasm32-unknown-unknown` as a `cdylib` and link it with `wasm-component-ld`. The component imports nothing
//! but the log.

mod batch;
mod columns;
mod component;
mod configuration;
mod failure;
mod invalid;
pub mod log;
mod output;
pub mod testing;

pub use batch::{Batch, Column};
pub use columns::{ColumnId, Columns};
pub use component::Component;
pub use failure::Failure;
pub use invalid::Invalid;
pub use output::{Cells, Output};

/// The WIT contract as Rust. A processor needs it only through [`register!`].
#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "plugin",
        pub_export_macro: true,
        default_bindings_module: "sluicebox_sdk::bindings",
    });
}

/// A processor at work on one file.
pub trait Processor: Sized + 'static {
    /// The name by which goals refer to it: `[a-z0-9-]`.
    const NAME: &'static str;
    /// Its version: semantic versioning.
    const VERSION: &'static str;
    /// What it does, in one line.
    const SUMMARY: &'static str;

    /// The configuration in a goal. `sluicebox plugin inspect` shows its JSON Schema.
    type Config: serde::de::DeserializeOwned + schemars::JsonSchema;

    /// Begins a file: chooses the columns to read and the columns to add.
    ///
    /// # Errors
    /// If the configuration is wrong, or does not fit the columns.
    fn open(config: Self::Config, columns: &mut Columns) -> Result<Self, Failure>;

    /// Processes the next batch, about 1,000 rows. Batches arrive in the order of the file.
    ///
    /// # Errors
    /// If the data is wrong in a way that no verdict on single rows can express. The goal fails at this batch.
    fn process(&mut self, batch: &Batch, output: &mut Output) -> Result<(), Failure>;
}

/// Exports a [`Processor`] from the component. Call it once in a crate.
#[macro_export]
macro_rules! register {
    ($processor:ty) => {
        #[cfg(target_arch = "wasm32")]
        #[expect(unsafe_code, reason = "the exports of a component")]
        const _: () = {
            type Registered = $crate::Component<$processor>;
    $crate::bindings::export!(Registered with_types_in $crate::bindings);
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: &str = <$processor as $crate::Processor>::NAME;
    };
}
