//! The types that the crates of the host share: batches of rows, profiles and groups, identifiers, values, merge rules.
//!
//! This crate does no IO.

mod batch;
mod event;
mod identifier;
pub mod invariant;
mod linked;
mod list;
mod moment;
mod number;
pub mod packed;
mod provenance;
mod record;
mod schema;
mod strptime;
mod value;

pub use batch::{
    Column, Header, RecordBatch, RejectedCell, RejectedRow, RejectedScope, RejectionCode, Verdict, append,
};
pub use event::{Event, EventKey, EventOrigin, EventRows, EventTouch, EventTypeId, NestedTypeId, Properties};
pub use identifier::{
    Identifier, IdentifierHash, IdentifierHasher, PropertyId, RecordId, RecordIds, SpaceId,
};
pub use invariant::{Expected, OrNever};
pub use linked::{LinkedRow, LinkedRows, at_path};
pub use list::{append_list_value, split_list};
pub use moment::Moment;
pub use number::{NumberFormat, add_exactly};
pub use provenance::{Provenance, Setter};
pub use record::{Class, Property, Record, Touch};
pub use schema::{
    EventType, GroupType, Lifecycle, MergeRule, NestedType, Permission, PropertySchema, READ_ONLY_PROPERTIES,
    Schema, Segment, property, system_properties,
};
pub use strptime::{Strptime, time_format_error};
pub use value::{CellFormat, TimeFormat, TypeMismatch, Value, ValueType};

/// The property that holds the objectives that a person consented to.
pub const CONSENTED: &str = "consented_objectives";
/// The property that holds the objectives that a person refused.
pub const REFUSED: &str = "refused_objectives";
