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
    /// The row belongs to the record that the first identifier finds.
    First,
    /// The row belongs to the record modified last; on a tie, to that of the first identifier.
    Newest,
    /// The records are merged into the one that the first identifier finds.
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
    /// The text that separates the values of a cell; `None` = the cell is one value.
    pub separator: Option<String>,
    /// The character that makes a separator after it literal.
    pub separator_escape: Option<char>,
    /// Whether the property holds a list.
    pub multiple: bool,
    /// Whether the property is unique.
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
    /// The text that separates the values of a cell; `None` = the cell is one value.
    pub separator: Option<String>,
    /// The character that makes a separator after it literal.
    pub separator_escape: Option<char>,
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
    /// The linked files that lead to their rows, each linked to the one before; empty = rows of the root file.
    pub path: Vec<usize>,
    /// Whether rows of the same profile, type and id are one event: each adds its values and its nested rows.
    pub gathers: bool,
    /// Where rows are gathered from a linked file, the column of a row's line in it; rows of the root file have theirs.
    pub line: Option<usize>,
    /// Whether the rows are some that were missing of an earlier import, as corrected ones are: they add to the event that is there.
    pub supplements: bool,
    /// Stands for the file and its import: rows of other imports replace the event.
    pub import: u64,
    /// The column of the id; an event without an id is identified by its content.
    pub id: Option<usize>,
    /// The column of the time; an event without a time is rejected.
    pub time: usize,
    /// How the time is read.
    pub time_format: CellFormat,
    /// In the order of their properties' ids.
    pub fields: Vec<ValuePlan>,
    /// The nested rows that each event carries.
    pub nested: Vec<NestedPlan>,
    /// Events before this moment are ignored.
    pub keep_from: Option<Timestamp>,
    /// Whether nested rows count as products that were bought.
    pub product_store: bool,
}

/// Nested rows of an event.
#[derive(Clone, Debug)]
pub struct NestedPlan {
    /// The type of the nested rows.
    pub nested_type: NestedTypeId,
    /// The linked files from the event's own to theirs; empty = each row of the event's own file is a nested row.
    pub path: Vec<usize>,
    /// Where events gather rows, the column of a linked row's line in its file.
    pub line: Option<usize>,
    /// In the order of their properties' ids.
    pub fields: Vec<ValuePlan>,
}

/// The mappings of an import goal, resolved for the columns of one file and the dictionary of the store.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The domain group of the profiles, or the type of the groups.
    pub space: SpaceId,
    /// Hashes identifiers as the store does.
    pub hasher: IdentifierHasher,
    /// Identifier columns, in the order in which they are looked up.
    pub identifiers: Vec<IdentifierPlan>,
    /// Fields in the order of their properties' ids; those of one property in the order in which they are written.
    pub fields: Vec<FieldPlan>,
    /// Events in the order in which they are written.
    pub events: Vec<EventPlan>,
    /// Whether a row that finds no record creates one.
    pub create: bool,
    /// What to do when a row finds several records.
    pub on_ambiguous: OnAmbiguous,
    /// How many others may be merged into one profile in a run; a row that would merge more is rejected.
    pub merge_limit: u32,
    /// A profile must have consented to one of these objectives; empty = no consent is needed.
    pub objectives: Vec<Value>,
    /// The property that holds the consented objectives.
    pub consented: PropertyId,
    /// The property that holds the refused objectives.
    pub refused: PropertyId,
    /// Every unique property, sorted.
    pub unique: Vec<PropertyId>,
}

impl Plan {
    /// Whether a row may be rejected because its identifiers find several records, or too many.
    pub(crate) fn may_be_ambiguous(&self) -> bool {
        matches!(self.on_ambiguous, OnAmbiguous::Reject | OnAmbiguous::Merge) && self.identifiers.len() > 1
    }

    /// How many cells of a row are mapped to properties and events, once for each mapping.
    pub fn mapped_cells(&self) -> usize {
        let events = self.events.iter().map(|event| {
            1 + event.fields.len() + event.nested.iter().map(|nested| nested.fields.len()).sum::<usize>()
        });
        self.identifiers.len() + self.fields.len() + events.sum::<usize>()
    }

    /// Whether matching may find that a row, or a cell of it, cannot be taken. The row is recorded as the file has it then.
    pub(crate) fn needs_rows_as_read(&self) -> bool {
        let may_lack_times = self.events.iter().any(|event| event.gathers);
        self.may_be_ambiguous() || self.may_find_nothing() || self.may_lack_unique_values() || may_lack_times
    }

    /// Whether a row with an identifier value may be excluded because it finds no record.
    fn may_find_nothing(&self) -> bool {
        !self.create || self.identifiers.iter().any(|identifier| identifier.property.is_none())
    }

    /// Whether a record may not get a value because another record has it. What identifies a record is its own.
    fn may_lack_unique_values(&self) -> bool {
        let identifies = |field: &FieldPlan| match self.identifiers.as_slice() {
            [only] => only.property == Some(field.property) && only.column == field.column,
            _ => false,
        };
        self.fields.iter().any(|field| field.unique && !identifies(field))
    }
}
