//! Where files come from and how their bytes become batches of rows.
//!
//! `location` lists and opens files in folders and buckets, `pgp` decrypts them, `decode` turns their bytes into
//! UTF-8, `csv` cuts that into batches. For exports, `encode` writes rows, and `output` compresses and encrypts them
//! into a file that gets its name when it is complete.
//! Nothing here knows profiles, processors or the store.

mod csv;
mod decode;
mod encode;
mod error;
mod hint;
mod kind;
mod location;
mod output;
mod pattern;
mod pgp;
mod write;

pub use csv::{CsvOptions, Ragged, Reader, cells_of_row};
pub use decode::{Decoding, Encoding, ExpansionLimit, decode, verify};
pub use encode::{CsvFormat, LineEnd, RowEncoder, Unencodable};
pub use error::FileError;
pub use hint::{looks_like_data, missing_column_hint};
pub use location::{
    Destination, Directory, FileName, FoundFile, Listing, Location, Patience, Permission, S3, S3Error,
    S3Options, S3Problem, Settle, Source, open_regular, read_regular,
};
pub use output::{Compression, Output, Packing};
pub use pattern::{LinkedPattern, Pattern, PatternError, WildcardValues};
pub use pgp::{PgpError, PrivateKey, PublicKey};
pub use write::RowWriter;
