//! Which record a row belongs to, and what the row makes of it. Pure functions: nothing here reads or writes.
//!
//! `prepare` turns a batch's cells into typed values and identifiers; `Gathered` collects the identifiers of
//! many batches so that the store can look them up in one sorted sweep; `apply` walks the rows in file order.

mod apply;
mod gather;
mod plan;
mod prepare;
mod rules;

pub use apply::{Applied, Context, Counts};
pub use gather::Gathered;
pub use plan::{FieldPlan, IdentifierPlan, OnAmbiguous, Plan};
pub use prepare::{Prepared, prepare};
pub use rules::{Change, Outcome, merge};
