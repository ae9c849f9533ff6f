//! Which record a row belongs to, and what the row makes of it. Pure functions: nothing here reads or writes.
//!
//! `prepare` turns a batch's cells into typed values, identifiers and events; `Gathered` collects the identifiers of
//! many batches so that the store can look them up in one sorted sweep; `apply` walks the rows in file order, and `shares`
//! those of different records at the same time; `timeline` puts their events in place. `segments` tells which profiles an expression holds of.

mod apply;
mod gather;
mod plan;
mod prepare;
mod rules;
mod segments;
mod shares;
mod timeline;

pub use apply::{Applied, Context, Counts, Found};
pub use gather::Gathered;
pub use plan::{EventPlan, FieldPlan, IdentifierPlan, NestedPlan, OnAmbiguous, Plan, ValuePlan};
pub use prepare::{Prepared, Room, prepare};
pub use segments::{EventSum, Names, Nearest, Needs, Person, Segments, segment_problem};
pub use shares::Workers;
pub use timeline::{HeldEvents, NoEvents};
