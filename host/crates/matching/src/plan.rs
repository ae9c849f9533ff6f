use jiff::Timestamp;
use sluicebox_model::{
    CellFormat, EventTypeId, IdentifierHasher, MergeRule, NestedTypeId, PropertyId, SpaceId, Value,
};

/// What to do when the identifiers of one row find several records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAmbiguous {
    /// The row is rejected.
    #[default]
    Reject,
    /// The record found by the first identifier is the row's.
    First,
    /// The record modified last is the row's; on a tie that of the first identifier.
    Newest,
    /// The records become one, that of the first identifier.
    Merge,
}

impl OnAmbiguous {
    /// Every choice, with its name in a goal.
    pub const NAMES: [(&'static str, Self); 4] =
        [("reject", Self::Reject), ("first", Self::First), ("newest", Self::Newest), ("merge", Self::Merge)];
}

/// A column that identifies a record.
#[derive(Clone, Debug)]
pub struct IdentifierPlan {
    /// The column's place in the batch.
    pub column: usize,
    /// The unique property; `None` = the record's own id.
    pub property: Option<PropertyId>,
    /// Whether the property holds a list.
    pub multiple: bool,
    /// How the cell is read.
    pub format: CellFormat,
}

/// A column that writes a property.
#[derive(Clone, Debug)]
pub struct FieldPlan {
    /// The column's place in the batch.
    pub column: usize,
    /// The property.
    pub property: PropertyId,
    /// How it changes.
    pub rule: MergeRule,
    /// What splits the cell into several values.
    pub separator: Option<String>,
    /// Whether the property holds a list.
    pub multiple: bool,
    /// Whether the property identifies.
    pub unique: bool,
    /// How the cell is read.
    pub format: CellFormat,
}

/// A column that gives a property of an event or of a nested row.
#[derive(Clone, Debug)]
pub struct ValuePlan {
    /// The column's place in the row.
    pub column: usize,
    /// The property.
    pub property: PropertyId,
    /// What splits the cell into several values.
    pub separator: Option<String>,
    /// Whether the property holds a list.
    pub multiple: bool,
    /// How the cell is read.
    pub format: CellFormat,
}

/// Events that rows carry.
#[derive(Clone, Debug)]
pub struct EventPlan {
    /// The type of the events.
    pub event_type: EventTypeId,
    /// Whose rows they are: linked files, each linked to the one before; empty = the root file's own.
    pub path: Vec<usize>,
    /// The column of the id; an event without one is identified by its content.
    pub id: Option<usize>,
    /// The column of the time; an event without one is rejected.
    pub time: usize,
    /// How the time is read.
    pub time_format: CellFormat,
    /// In the order of their properties' ids.
    pub fields: Vec<ValuePlan>,
    /// The rows that each event carries.
    pub nested: Vec<NestedPlan>,
    /// Events before this moment are not kept.
    pub keep_from: Option<Timestamp>,
    /// Whether nested rows count as products that were bought.
    pub product_store: bool,
}

/// Rows that an event carries.
#[derive(Clone, Debug)]
pub struct NestedPlan {
    /// Their type.
    pub nested_type: NestedTypeId,
    /// The linked files from the event's own to theirs.
    pub path: Vec<usize>,
    /// In the order of their properties' ids.
    pub fields: Vec<ValuePlan>,
}

/// What an import goal does to records, resolved against one file's columns and the store's dictionary.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The domain group of profiles, or the type of group.
    pub space: SpaceId,
    /// What hashes the store's identifiers.
    pub hasher: IdentifierHasher,
    /// In the order in which they are looked up.
    pub identifiers: Vec<IdentifierPlan>,
    /// In the order of their properties' ids; those of one property in the order in which they are written.
    pub fields: Vec<FieldPlan>,
    /// In the order in which they are written.
    pub events: Vec<EventPlan>,
    /// Whether a row that finds nothing creates a record.
    pub create: bool,
    /// What to do when a row finds several records.
    pub on_ambiguous: OnAmbiguous,
    /// The objectives of which a profile must have consented to one; empty = no consent is needed.
    pub objectives: Vec<Value>,
    /// The property of the consented objectives.
    pub consented: PropertyId,
    /// The property of the refused objectives.
    pub refused: PropertyId,
    /// Every property whose values identify, sorted.
    pub unique: Vec<PropertyId>,
}

impl Plan {
    /// Whether a row may be rejected because its identifiers find several records.
    pub(crate) fn may_be_ambiguous(&self) -> bool {
        self.on_ambiguous == OnAmbiguous::Reject && self.identifiers.len() > 1
    }
}
