//! Profiles as people and programs see them.

use std::collections::HashMap;
use std::str::FromStr;

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};
use sluicebox_model::{Property, PropertyId, Record, RecordId, SpaceId, Value};
use sluicebox_store::Store;

/// The names that a store's records need to be shown.
pub(crate) struct Names {
    properties: HashMap<PropertyId, String>,
    spaces: HashMap<SpaceId, String>,
}

impl Names {
    pub(crate) fn of(store: &Store) -> Self {
        let (properties, spaces) = store.names();
        Self { properties, spaces }
    }

    /// The spaces that are domain groups, with their names.
    pub(crate) fn domain_groups(&self) -> impl Iterator<Item = (SpaceId, &str)> {
        self.spaces.iter().map(|(space, name)| (*space, name.as_str()))
    }

    /// The number of a property, if the store has met it.
    pub(crate) fn property(&self, name: &str) -> Option<PropertyId> {
        self.properties.iter().find(|(_, known)| *known == name).map(|(id, _)| *id)
    }

    /// A profile; `None` if the record is none.
    pub(crate) fn profile(&self, id: RecordId, record: &Record) -> Option<Json> {
        let domain_group = self.spaces.get(&record.space)?;
        let mut properties = Map::new();
        for (property, held) in record.properties() {
            let Some(name) = self.properties.get(property) else { continue };
            let shown = match held {
                Property::One(value) => json_of(value),
                Property::Many(values) => values.iter().map(json_of).collect(),
            };
            properties.insert(name.clone(), shown);
        }
        Some(json!({
            "profile_id": id.to_string(),
            "domain_group": domain_group,
            "created": moment(record.created),
            "modified": moment(record.modified),
            "properties": properties,
            "events": [],
        }))
    }
}

/// Numbers keep their digits: a JSON number is not a float here.
fn json_of(value: &Value) -> Json {
    match value {
        Value::Number(number) => {
            serde_json::Number::from_str(&number.to_string()).map_or(Json::Null, Json::Number)
        }
        Value::Boolean(boolean) => Json::Bool(*boolean),
        other => Json::String(other.to_string()),
    }
}

fn moment(milliseconds: i64) -> String {
    Timestamp::from_millisecond(milliseconds).map(|moment| moment.to_string()).unwrap_or_default()
}

/// A profile for people, from its JSON: a property a line.
pub(crate) fn text(profile: &Json) -> String {
    let plain = |value: &Json| match value {
        Json::String(text) => text.clone(),
        Json::Array(values) => {
            let texts = values.iter().map(|value| value.as_str().map_or(value.to_string(), str::to_owned));
            texts.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    let mut lines = Vec::new();
    for key in ["profile_id", "domain_group", "created", "modified"] {
        lines.push(format!("{key}: {}", plain(&profile[key])));
    }
    for (name, value) in profile["properties"].as_object().into_iter().flatten() {
        lines.push(format!("  {name}: {}", plain(value)));
    }
    lines.join("\n")
}
