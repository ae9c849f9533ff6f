//! Where files come from and how bytes become batches of records.
//!
//! `location` lists and opens files in folders and buckets, `pgp` decrypts them, `decode` turns their bytes into
//! UTF-8, `csv` cuts that into batches.
//! Nothing here knows profiles, processors or the store.

mod csv;
mod decode;
mod error;
mod location;
mod pattern;
mod pgp;
mod write;

pub use csv::{CsvOptions, Ragged, Reader};
pub use decode::{Decoding, Encoding, Expansion, decode, verify};
pub use error::FileError;
pub use location::{
    Directory, FoundFile, Listing, Location, Permission, S3, S3Error, S3Options, S3Problem, Source,
};
pub use pattern::{LinkedPattern, Pattern, PatternError, Taken};
pub use pgp::{PgpError, PrivateKey};
pub use write::RowWriter;
