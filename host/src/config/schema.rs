use std::time::Duration;

use sluicebox_model::{
    EventType, GroupType, NestedType, Permission, PropertySchema, READ_ONLY_PROPERTIES, Schema, ValueType,
    system_properties,
};

use super::reader::Section;
use super::value::duration;

pub(crate) fn read(file: Section<'_>) -> Schema {
    let mut properties = properties(&file);
    for system in system_properties() {
        if properties.iter().any(|property| property.name == system.name) {
            file.problem(format!("`{}` is a property of the system; it needs no entry", system.name));
        } else {
            properties.push(system);
        }
    }
    for name in READ_ONLY_PROPERTIES {
        if properties.iter().any(|property| property.name == name) {
            file.problem(format!("`{name}` is a property of the system; it needs no entry"));
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
    for (_, segment) in file.named("segments") {
        segment.required("where");
        segment.finish();
    }
    for (_, lifecycle) in file.named("lifecycles") {
        for stage in lifecycle.sections("stages") {
            stage.required("name");
            stage.required("segment");
            stage.finish();
        }
        lifecycle.finish();
    }
    let mut domain_groups = names(&file, "domain_groups");
    if !domain_groups.iter().any(|name| name == "default") {
        domain_groups.push("default".to_owned());
    }
    let objectives = names(&file, "objectives");
    file.finish();
    Schema { properties, groups, events, objectives, domain_groups }
}

/// Names with nothing to say about them yet.
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
