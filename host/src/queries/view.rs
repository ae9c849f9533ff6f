//! Profiles, groups and events as JSON, and as text for people.

use std::str::FromStr;

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};
use sluicebox_model::{Event, EventKey, OrNever, Property, PropertyId, Record, RecordId, Value};
use sluicebox_store::Names;

/// A profile with its events; `None` if the record is a group.
pub(crate) fn profile(
    names: &Names,
    id: RecordId,
    record: &Record,
    mut events: Vec<(EventKey, Event)>,
) -> Option<Json> {
    let domain_group = names.domain_groups.get(&record.space)?;
    events
        .sort_by(|(a, at), (b, then)| (at.time, a.event_type, &a.id).cmp(&(then.time, b.event_type, &b.id)));
    Some(json!({
        "profile_id": id.to_string(),
        "domain_group": domain_group,
        "created": moment(record.created),
        "modified": moment(record.modified),
        "properties": properties(names, &record.properties().collect::<Vec<_>>()),
        "events": events.iter().map(|(key, event)| event_json(names, key, event)).collect::<Vec<_>>(),
    }))
}

/// A group; `None` if the record is a profile.
pub(crate) fn group(names: &Names, id: RecordId, record: &Record) -> Option<Json> {
    Some(json!({
        "group_id": id.to_string(),
        "group": names.group_types.get(&record.space)?,
        "created": moment(record.created),
        "modified": moment(record.modified),
        "properties": properties(names, &record.properties().collect::<Vec<_>>()),
    }))
}

fn event_json(names: &Names, key: &EventKey, event: &Event) -> Json {
    let nested = event.nested.iter().filter_map(|(kind, rows)| {
        let name = names.nested_types.get(kind)?;
        Some((name.clone(), rows.iter().map(|row| properties(names, row)).collect()))
    });
    json!({
        "type": names.event_types.get(&key.event_type),
        "id": key.id.as_str(),
        "time": event.time.to_string(),
        "properties": properties(names, &event.properties),
        "nested": nested.collect::<Map<String, Json>>(),
    })
}

/// Properties with their names.
pub(crate) fn properties(names: &Names, properties: &[(PropertyId, Property)]) -> Json {
    let named = properties
        .iter()
        .filter_map(|(id, value)| Some((names.properties.get(id)?.clone(), property(value))));
    Json::Object(named.collect())
}

/// A value, or a list of values.
pub(crate) fn property(property: &Property) -> Json {
    match property {
        Property::One(one) => value(one),
        Property::Many(many) => many.iter().map(value).collect(),
    }
}

/// Numbers keep their digits: a JSON number is not a float here.
fn value(value: &Value) -> Json {
    match value {
        Value::Number(number) => {
            serde_json::Number::from_str(&number.to_string()).map_or(Json::Null, Json::Number)
        }
        Value::Boolean(boolean) => Json::Bool(*boolean),
        other => Json::String(other.to_string()),
    }
}

fn moment(milliseconds: i64) -> String {
    Timestamp::from_millisecond(milliseconds).or_never("the time of a record").to_string()
}

/// A profile or group as lines of text, from its JSON: one property or event a line.
pub(crate) fn text(record: &Json) -> Vec<String> {
    let plain = |value: &Json| match value {
        Json::String(text) => text.clone(),
        Json::Array(values) => {
            let texts = values.iter().map(|value| value.as_str().map_or(value.to_string(), str::to_owned));
            texts.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let mut lines = Vec::new();
    for key in ["profile_id", "domain_group", "group_id", "group", "created", "modified"] {
        lines.extend(record.get(key).map(|value| format!("{key}: {}", plain(value))));
    }
    let listed = |properties: &Json, indent: &str| {
        let properties = properties.as_object().into_iter().flatten();
        properties.map(|(name, value)| format!("{indent}{name}: {}", plain(value))).collect::<Vec<_>>()
    };
    lines.extend(listed(&record["properties"], "  "));
    for (name, by) in record["explain"].as_object().into_iter().flatten() {
        lines.push(match by.as_object() {
            None => format!("  {name}: set by a version that did not remember by what"),
            Some(_) => format!(
                "  {name}: set by run {} ({} / {}) from {} at {}",
                plain(&by["run"]),
                plain(&by["connection"]),
                plain(&by["goal"]),
                by["file"].as_str().unwrap_or("no file"),
                plain(&by["at"])
            ),
        });
    }
    for event in record["events"].as_array().into_iter().flatten() {
        lines.push(format!(
            "  {} {} at {}",
            plain(&event["type"]),
            plain(&event["id"]),
            plain(&event["time"])
        ));
        lines.extend(listed(&event["properties"], "    "));
        for (name, rows) in event["nested"].as_object().into_iter().flatten() {
            for row in rows.as_array().into_iter().flatten() {
                let cells = row.as_object().into_iter().flatten();
                let cells =
                    cells.map(|(name, value)| format!("{name}: {}", plain(value))).collect::<Vec<_>>();
                lines.push(format!("    {name}: {}", cells.join(", ")));
            }
        }
    }
    lines
}
