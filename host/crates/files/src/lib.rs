//! Where files come from and how bytes become batches of records.
//!
//! `location` lists and opens files, `decode` turns their bytes into UTF-8, `csv` cuts that into batches.
//! Nothing here knows profiles, processors or the store.

mod csv;
mod decode;
mod error;
mod location;
mod pattern;
mod write;

pub use csv::{CsvOptions, Ragged, Reader};
pub use decode::{Encoding, Expansion, decode};
pub use error::FileError;
pub use location::{Directory, FoundFile, Source};
pub use pattern::{Pattern, PatternError};
pub use write::RowWriter;
