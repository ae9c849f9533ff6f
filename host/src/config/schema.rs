use std::time::Duration;

use sluicebox_matching::segment_problem;
use sluicebox_model::{
    EventType, GroupType, Lifecycle, NestedType, Permission, PropertySchema, READ_ONLY_PROPERTIES, Schema,
    Segment, ValueType, system_properties,
};

use super::reader::{Entry, Section, nearest, unknown};
use super::value::duration;

pub(crate) fn read(file: Section<'_>) -> Schema {
    let mut properties = properties(&file);
    for system in system_properties() {
        if properties.iter().any(|property| property.name == system.name) {
            file.problem(format!("`{}` is a system property; remove it from schema.toml", system.name));
        } else {
            properties.push(system);
        }
    }
    for name in READ_ONLY_PROPERTIES {
        if properties.iter().any(|property| property.name == name) {
            file.problem(format!("`{name}` is a system property; remove it from schema.toml"));
        }
    }
    let groups = file.named("groups").into_iter().map(|(name, section)| {
        let group = GroupType { name: name.to_owned(), properties: self::properties(&section) };
        section.finish();
        group
    });
    let groups = groups.collect();
    let events = file.named("events").into_iter().map(|(name, section)| {
        let nested = section.named("nested").into_iter().map(|(name, section)| {
            let nested = NestedType { name: name.to_owned(), properties: self::properties(&section) };
            section.finish();
            nested
        });
        let nested = nested.collect();
        let retention = section.has("retention").then(|| duration(&section, "retention", Duration::ZERO));
        let properties = self::properties(&section);
        let event = EventType { name: name.to_owned(), properties, nested, retention };
        section.finish();
        event
    });
    let events = events.collect();
    let mut domain_groups = names(&file, "domain_groups");
    if !domain_groups.iter().any(|name| name == "default") {
        domain_groups.push("default".to_owned());
    }
    let objectives = names(&file, "objectives");
    let mut schema = Schema { properties, groups, events, objectives, domain_groups, ..Schema::default() };
    schema.segments = segments(&file, &schema);
    schema.lifecycles = lifecycles(&file, &schema);
    file.finish();
    schema
}

fn segments(file: &Section<'_>, schema: &Schema) -> Vec<Segment> {
    let read = |(name, section): (&str, Section<'_>)| {
        let expression = section.required("where").to_owned();
        if let Some(entry) = section.get("where") {
            let near = |name: &str, known: Vec<&str>| nearest(name, known).map(str::to_owned);
            if let Some(problem) = segment_problem(&expression, schema, &near) {
                entry.problem(format!("`where`: {problem}"));
            }
        }
        section.finish();
        Segment { name: name.to_owned(), expression }
    };
    file.named("segments").into_iter().map(read).collect()
}

fn lifecycles(file: &Section<'_>, schema: &Schema) -> Vec<Lifecycle> {
    let stage = |section: &Section<'_>| {
        let (name, segment) = (section.required("name").to_owned(), section.required("segment").to_owned());
        if let Some(entry) = section.get("segment") {
            known_segment(&entry, &segment, schema);
        }
        section.finish();
        (name, segment)
    };
    let read = |(name, section): (&str, Section<'_>)| {
        let stages: Vec<(String, String)> = section.sections("stages").iter().map(stage).collect();
        if stages.is_empty() {
            section.problem("a lifecycle needs `stages`");
        }
        section.finish();
        Lifecycle { name: name.to_owned(), stages }
    };
    file.named("lifecycles").into_iter().map(read).collect()
}

/// Reports an unknown segment as a problem.
pub(crate) fn known_segment(entry: &Entry<'_>, name: &str, schema: &Schema) {
    if schema.segment(name).is_none() {
        entry.problem(unknown("segment", name, schema.segments.iter().map(|segment| segment.name.as_str())));
    }
}

/// The names of tables that have no keys.
fn names(file: &Section<'_>, key: &'static str) -> Vec<String> {
    let named = file.named(key).into_iter().map(|(name, section)| {
        section.finish();
        name.to_owned()
    });
    named.collect()
}

fn properties(parent: &Section<'_>) -> Vec<PropertySchema> {
    let named = parent.named("properties").into_iter().map(|(name, section)| {
        let property = PropertySchema {
            name: name.to_owned(),
            value_type: section.choice("type", &ValueType::NAMES, ValueType::Text),
            unique: section.flag("unique", false),
            multiple: section.flag("multiple", false),
            permission: section.choice("permission", &Permission::NAMES, Permission::Personal),
        };
        section.finish();
        property
    });
    named.collect()
}
