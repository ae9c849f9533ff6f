use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{CONSENTED, REFUSED, ValueType};

/// How a cell changes a property.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergeRule {
    /// Overwrites; an empty cell does nothing.
    #[default]
    Set,
    /// Writes only where the record has no value.
    SetIfEmpty,
    /// Overwrites, and clears on an empty cell.
    SetOrClear,
    /// Appends the values that the property lacks, in order.
    Add,
    /// Adds in exact decimals; a property without a value counts as 0.
    Sum,
}

impl MergeRule {
    /// Every rule, with its name in a goal.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("set", Self::Set),
        ("set-if-empty", Self::SetIfEmpty),
        ("set-or-clear", Self::SetOrClear),
        ("add", Self::Add),
        ("sum", Self::Sum),
    ];

    /// Why the rule cannot be used for a property, or `None`.
    pub fn problem(self, property: &PropertySchema) -> Option<&'static str> {
        match self {
            Self::Add if !property.multiple => Some("`add` needs a property with `multiple = true`"),
            Self::Sum if property.multiple => Some("`sum` needs a property that holds one value"),
            Self::Sum if property.value_type != ValueType::Number => {
                Some("`sum` needs a property with `type = \"number\"`")
            }
            Self::Sum if property.unique => Some("`sum` cannot write an identifier"),
            _ => None,
        }
    }
}

/// What a property's values may be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permission {
    /// They concern an identified person.
    #[default]
    Personal,
    /// They do not identify a person.
    Anonymous,
    /// They may be kept of a person who is not tracked.
    DoNotTrack,
}

impl Permission {
    /// Every permission, with its name in `schema.toml`.
    pub const NAMES: [(&'static str, Self); 3] =
        [("personal", Self::Personal), ("anonymous", Self::Anonymous), ("do-not-track", Self::DoNotTrack)];
}

/// A property as `schema.toml` declares it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertySchema {
    /// The name, unique among its siblings.
    pub name: String,
    /// The type of its values.
    pub value_type: ValueType,
    /// Whether its values identify records.
    pub unique: bool,
    /// Whether it holds a list of unique values.
    pub multiple: bool,
    /// What the values may be used for.
    pub permission: Permission,
}

/// A type of group, such as a household.
#[derive(Clone, Debug, Default)]
pub struct GroupType {
    /// The name of the type.
    pub name: String,
    /// The properties of its groups.
    pub properties: Vec<PropertySchema>,
}

/// The property of that name.
pub fn property<'s>(properties: &'s [PropertySchema], name: &str) -> Option<&'s PropertySchema> {
    properties.iter().find(|property| property.name == name)
}

/// A type of event on a profile's time line.
#[derive(Clone, Debug, Default)]
pub struct EventType {
    /// The name of the type.
    pub name: String,
    /// The properties of its events.
    pub properties: Vec<PropertySchema>,
    /// The lists of rows that an event carries.
    pub nested: Vec<NestedType>,
    /// How long its events are retained; `None` = for ever.
    pub retention: Option<Duration>,
}

impl EventType {
    /// Events of this type from before this moment are not retained.
    pub fn keep_from(&self, now: Timestamp) -> Option<Timestamp> {
        let kept = SignedDuration::try_from(self.retention?).ok()?;
        now.checked_sub(kept).ok()
    }
}

/// A list of rows inside an event, such as the products of an order.
#[derive(Clone, Debug, Default)]
pub struct NestedType {
    /// The name of the list.
    pub name: String,
    /// The properties of its rows.
    pub properties: Vec<PropertySchema>,
}

/// The properties, events and names that `schema.toml` declares.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// The properties of profiles, those of the system included.
    pub properties: Vec<PropertySchema>,
    /// The types of groups.
    pub groups: Vec<GroupType>,
    /// The types of events.
    pub events: Vec<EventType>,
    /// The names of the objectives.
    pub objectives: Vec<String>,
    /// The names of the domain groups; `default` is always among them.
    pub domain_groups: Vec<String>,
    /// The segments, in the order of the file.
    pub segments: Vec<Segment>,
    /// The lifecycles, in the order of the file.
    pub lifecycles: Vec<Lifecycle>,
}

/// A set of profiles, defined by an expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The name.
    pub name: String,
    /// The condition for its profiles, in the [Common Expression Language](https://cel.dev).
    pub expression: String,
}

/// Stages that profiles go through; a profile is in the first stage whose segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifecycle {
    /// The name.
    pub name: String,
    /// Each stage's name and that of its segment.
    pub stages: Vec<(String, String)>,
}

impl Schema {
    /// The profile property of that name.
    pub fn property(&self, name: &str) -> Option<&PropertySchema> {
        property(&self.properties, name)
    }

    /// The type of groups of that name.
    pub fn group(&self, name: &str) -> Option<&GroupType> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The segment of that name.
    pub fn segment(&self, name: &str) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.name == name)
    }

    /// The type of events of that name.
    pub fn event(&self, name: &str) -> Option<&EventType> {
        self.events.iter().find(|event| event.name == name)
    }
}

/// The system properties that an import may write. Every profile has them.
pub fn system_properties() -> [PropertySchema; 4] {
    let list =
        |name: &str| PropertySchema { name: name.to_owned(), multiple: true, ..PropertySchema::default() };
    [
        list(CONSENTED),
        list(REFUSED),
        list("viewed_interactions"),
        PropertySchema { name: "permission_level".to_owned(), ..PropertySchema::default() },
    ]
}

/// The properties that only Sluicebox writes.
pub const READ_ONLY_PROPERTIES: [&str; 2] = ["created", "modified"];
