use jiff::Timestamp;
use serde_json::{Value, json};
use sluicebox_model::{EventType, PropertySchema, Schema, ValueType, time_format_error};

use super::goal::{ValueEntry, property_settings, value, with_escape};
use super::linked::{self, LinkedEntry, chain};
use super::reader::{Section, unknown};

/// Events that an import adds to the timelines of profiles.
#[derive(Debug)]
pub(crate) struct EventEntry {
    pub event_type: String,
    /// The linked file whose rows they are; `None` = the root file.
    pub file: Option<usize>,
    /// The linked files from the root file to that file.
    pub path: Vec<usize>,
    /// The column of the id.
    pub id: Option<String>,
    /// The column of the time.
    pub time: String,
    pub time_format: Option<String>,
    pub fields: Vec<ValueEntry>,
    pub all_fields: bool,
    pub product_store: bool,
    pub nested: Vec<NestedEntry>,
}

/// Nested rows of each event.
#[derive(Debug)]
pub(crate) struct NestedEntry {
    pub name: String,
    /// The linked file whose rows they are; `None` = the root file.
    pub file: Option<usize>,
    /// The linked files from the event's own file to that file; empty = each row of the event's own file is a nested row.
    pub path: Vec<usize>,
    pub fields: Vec<ValueEntry>,
    pub all_fields: bool,
}

impl EventEntry {
    /// The properties of its type.
    pub(crate) fn properties<'s>(&self, schema: &'s Schema) -> &'s [PropertySchema] {
        schema.event(&self.event_type).map_or(&[], |event| &event.properties)
    }

    /// Whether rows of its file with the same profile and id are one event: each is a nested row of it.
    pub(crate) fn gathers(&self) -> bool {
        self.nested.iter().any(|nested| nested.path.is_empty())
    }

    /// Older events are not stored.
    pub(crate) fn keep_from(&self, schema: &Schema, now: Timestamp) -> Option<Timestamp> {
        schema.event(&self.event_type)?.keep_from(now)
    }

    pub(crate) fn settings(&self, schema: &Schema) -> Value {
        let nested = self.nested.iter().map(|nested| {
            let properties = nested.properties(&self.event_type, schema);
            // Settings must not change between versions: files would be imported again.
            let file = if nested.path.is_empty() { json!("own") } else { json!(nested.file) };
            json!([nested.name, file, fields(&nested.fields, nested.all_fields, properties)])
        });
        json!([
            self.event_type,
            self.file,
            self.id,
            self.time,
            self.time_format,
            self.product_store,
            fields(&self.fields, self.all_fields, self.properties(schema)),
            nested.collect::<Vec<_>>(),
        ])
    }
}

impl NestedEntry {
    /// The properties of its type.
    pub(crate) fn properties<'s>(&self, event: &str, schema: &'s Schema) -> &'s [PropertySchema] {
        let nested =
            schema.event(event).and_then(|event| event.nested.iter().find(|it| it.name == self.name));
        nested.map_or(&[], |nested| &nested.properties)
    }
}

/// The settings of a mapping. A bulk mapping depends on every property.
fn fields(fields: &[ValueEntry], all: bool, properties: &[PropertySchema]) -> Value {
    let named = fields.iter().map(|field| {
        let settings =
            json!([field.column, property_settings(&field.property), field.separator, field.format]);
        with_escape(settings, field.separator_escape)
    });
    let bulk: Option<Vec<Value>> = all.then(|| properties.iter().map(property_settings).collect());
    json!([named.collect::<Vec<_>>(), bulk])
}

pub(crate) fn read(schema: &Schema, linked: &[LinkedEntry], section: &Section<'_>) -> Option<EventEntry> {
    let name = section.required("type");
    let event_type = schema.event(name);
    if let (None, Some(entry)) = (event_type, section.get("type")) {
        entry.problem(unknown("event", name, schema.events.iter().map(|event| event.name.as_str())));
    }
    let named = section.get("file").map(|entry| linked::file(linked, &entry));
    let has_known_file = named != Some(None);
    let file = named.flatten().flatten();
    let id = section.text("id").map(str::to_owned);
    let time = section.required("time").to_owned();
    let time_format = section.text("time_format").map(str::to_owned);
    if let (Some(format), Some(entry)) = (&time_format, section.get("time_format"))
        && let Some(error) = time_format_error(format, ValueType::DateTime)
    {
        entry.problem(format!("`time_format`: {error}"));
    }
    let all_fields = section.flag("all_fields", false);
    let product_store = section.flag("product_store", false);
    let (field_sections, nested_sections) = (section.sections("fields"), section.sections("nested"));
    section.finish();
    let event_type = event_type?;
    let path = file.map(|file| chain(linked, file)).unwrap_or_default();
    let mut nested_rows: Vec<NestedEntry> = Vec::new();
    for nested_section in &nested_sections {
        let Some(read) = nested(event_type, linked, (file, &path), nested_section) else { continue };
        if read.path.is_empty() && id.is_none() && has_known_file {
            section.problem(format!(
                "the rows of one `{name}` stand in one file, and are found by its id: set `id` to the column that holds it"
            ));
        }
        nested_rows.push(read);
    }
    let gathers = nested_rows.iter().any(|nested| nested.path.is_empty());
    for (nested, section) in nested_rows.iter().zip(&nested_sections).filter(|_| gathers) {
        if nested_rows.iter().filter(|other| other.name == nested.name).count() > 1 {
            section.problem(format!("two entries of `nested` fill the list `{}`", nested.name));
        }
    }
    Some(EventEntry {
        event_type: name.to_owned(),
        file,
        path,
        id,
        time,
        time_format,
        fields: values(&field_sections, &event_type.properties),
        all_fields,
        product_store,
        nested: nested_rows,
    })
}

/// Reads nested rows of an event whose rows `own` names: its file, and the path to it.
fn nested(
    event_type: &EventType,
    linked: &[LinkedEntry],
    (own, path): (Option<usize>, &[usize]),
    section: &Section<'_>,
) -> Option<NestedEntry> {
    let name = section.required("name");
    let kind = event_type.nested.iter().find(|nested| nested.name == name);
    if let (None, Some(entry)) = (kind, section.get("name")) {
        let known = event_type.nested.iter().map(|nested| nested.name.as_str());
        entry.problem(unknown(&format!("nested type of event `{}`", event_type.name), name, known));
    }
    let entry = section.get("file");
    let all_fields = section.flag("all_fields", false);
    let field_sections = section.sections("fields");
    section.finish();
    let kind = kind?;
    let file = match &entry {
        Some(entry) => linked::file(linked, entry)?,
        None => own,
    };
    let below = file.map(|file| chain(linked, file)).unwrap_or_default();
    let Some(rest) = below.strip_prefix(path) else {
        if let Some(entry) = entry {
            entry.problem("`file`: expected the event's own file, or one that is linked to it");
        }
        return None;
    };
    Some(NestedEntry {
        name: name.to_owned(),
        file,
        path: rest.to_vec(),
        fields: values(&field_sections, &kind.properties),
        all_fields,
    })
}

fn values(sections: &[Section<'_>], properties: &[PropertySchema]) -> Vec<ValueEntry> {
    let mut values: Vec<ValueEntry> = Vec::new();
    for section in sections {
        let Some(value) = value(section, properties) else { continue };
        if values.iter().any(|other| other.property.name == value.property.name) {
            section.problem(format!("two columns write the property `{}`", value.property.name));
        }
        values.push(value);
    }
    values
}
