//! Which record a row belongs to, and how the row changes the record. Pure functions: this crate does no IO.
//!
//! `prepare` turns the cells of a batch into typed values, identifiers and events. `ChunkRows` collects the identifiers of
//! many batches, so that the store can look them up in one sorted sweep. `apply` applies the rows in file order; `partition`
//! splits them so that several threads can. `timeline` puts events in place; `gather` makes one event of several rows.
//! `long_values` keeps long lists out of the way. `segments` evaluates expressions over profiles.

mod apply;
mod chunk;
mod gather;
mod index;
mod long_values;
mod partition;
mod plan;
mod prepare;
mod rules;
mod segments;
mod timeline;

pub use apply::{Applied, Context, Counts, LoadedRecords};
pub use chunk::ChunkRows;
pub use partition::{PartitionedChunk, Workers};
pub use plan::{EventPlan, FieldPlan, IdentifierPlan, NestedPlan, OnAmbiguous, Plan, ValuePlan};
pub use prepare::{Buffers, Prepared, prepare, rejected_linked_cells};
pub use segments::{EventSum, Names, Nearest, Needs, Person, Segments, segment_problem};
pub use timeline::{EventSource, NoEvents};
