//! Which record a row belongs to, and what the row makes of it. Pure functions: nothing here reads or writes.
//!
//! `prepare` turns a batch's cells into typed values, identifiers and events; `Gathered` collects the identifiers of
//! many batches so that the store can look them up in one sorted sweep; `apply` walks the rows in file order;
//! `timeline` puts their events in place.

mod apply;
mod gather;
mod plan;
mod prepare;
mod rules;
mod timeline;

pub use apply::{Applied, Context, Counts};
pub use gather::Gathered;
pub use plan::{EventPlan, FieldPlan, IdentifierPlan, NestedPlan, OnAmbiguous, Plan, ValuePlan};
pub use prepare::{Prepared, prepare};
pub use timeline::HeldEvents;
