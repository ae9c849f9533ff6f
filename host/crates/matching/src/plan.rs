use sluicebox_model::{CellFormat, MergeRule, PropertyId, SpaceId, Value};

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

/// What an import goal does to records, resolved against one file's columns and the store's dictionary.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The domain group of profiles, or the type of group.
    pub space: SpaceId,
    /// In the order in which they are looked up.
    pub identifiers: Vec<IdentifierPlan>,
    /// In the order in which they are written.
    pub fields: Vec<FieldPlan>,
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
