//! The words of Sluicebox: batches of records, profiles and groups, identifiers, values, merge rules.
//!
//! Nothing here reads, writes or runs anything; every other crate of the host speaks in these types.

mod batch;
mod event;
mod identifier;
mod linked;
mod number;
pub mod packed;
mod record;
mod schema;
mod value;

pub use batch::{Column, Header, RecordBatch, RejectedRow, RejectionCode, Verdict, append};
pub use event::{Event, EventKey, EventTouch, EventTypeId, NestedTypeId, Properties};
pub use identifier::{
    Identifier, IdentifierHash, IdentifierHasher, PropertyId, RecordId, RecordIds, SpaceId,
};
pub use linked::{LinkedRow, LinkedRows, at_path};
pub use number::{NumberFormat, add_exactly};
pub use record::{Class, Property, Record, Touch};
pub use schema::{
    EventType, GroupType, Lifecycle, MergeRule, NestedType, Permission, PropertySchema, READ_ONLY_PROPERTIES,
    Schema, Segment, property, system_properties,
};
pub use value::{CellFormat, Misfit, TimeFormat, Value, ValueType, time_format_error};

/// The property that holds the objectives which a person consented to.
pub const CONSENTED: &str = "consented_objectives";
/// The property that holds the objectives which a person refused.
pub const REFUSED: &str = "refused_objectives";
