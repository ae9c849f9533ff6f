//! A profile or group: its properties with the run that set each, and its events.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde_json::Value;

use super::format::moment;
use super::{Frame, respond};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::PathParams;

#[derive(Template)]
#[template(path = "profile.html")]
struct ProfilePage {
    frame: Frame,
    /// `Profile` or `Group`.
    kind: &'static str,
    id: String,
    /// The name of its domain group or group type.
    space: String,
    created: String,
    modified: String,
    properties: Vec<PropertyLine>,
    events: Vec<EventLine>,
}

struct PropertyLine {
    name: String,
    values: Vec<String>,
    /// Connection and goal that set it; `None` = an older version set it, which did not remember that.
    set_by: Option<String>,
    run: String,
    at: String,
    file: String,
}

struct EventLine {
    kind: String,
    id: String,
    at: String,
    /// RFC 3339.
    datetime: String,
    properties: Vec<(String, String)>,
    nested: Vec<NestedLine>,
}

struct NestedLine {
    kind: String,
    rows: Vec<String>,
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(text_of).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// The text under a key; empty if there is none.
fn text_at(of: &Value, key: &str) -> String {
    of.get(key).filter(|value| !value.is_null()).map(text_of).unwrap_or_default()
}

fn entries(of: &Value) -> impl Iterator<Item = (&String, &Value)> {
    of.as_object().into_iter().flatten()
}

fn items<'v>(of: &'v Value, key: &str) -> impl DoubleEndedIterator<Item = &'v Value> {
    of.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default().iter()
}

fn pairs(of: &Value) -> Vec<(String, String)> {
    entries(of).map(|(name, value)| (name.clone(), text_of(value))).collect()
}

impl PropertyLine {
    fn of(name: &str, value: &Value, set_by: &Value) -> Self {
        let values = match value {
            Value::Array(values) => values.iter().map(text_of).collect(),
            one => vec![text_of(one)],
        };
        let goal = || format!("{} / {}", text_at(set_by, "connection"), text_at(set_by, "goal"));
        Self {
            name: name.to_owned(),
            values,
            set_by: (!set_by.is_null()).then(goal),
            run: text_at(set_by, "run"),
            at: moment(&text_at(set_by, "at")),
            file: text_at(set_by, "file"),
        }
    }
}

impl EventLine {
    fn of(event: &Value) -> Self {
        let nested = event.get("nested").into_iter().flat_map(entries).map(|(kind, rows)| NestedLine {
            kind: kind.clone(),
            rows: rows.as_array().into_iter().flatten().map(row_text).collect(),
        });
        Self {
            kind: text_at(event, "type"),
            id: text_at(event, "id"),
            at: moment(&text_at(event, "time")),
            datetime: text_at(event, "time"),
            properties: event.get("properties").map(pairs).unwrap_or_default(),
            nested: nested.collect(),
        }
    }
}

fn row_text(row: &Value) -> String {
    let cells = pairs(row).into_iter().map(|(name, value)| format!("{name}: {value}"));
    cells.collect::<Vec<_>>().join(", ")
}

impl ProfilePage {
    fn of(service: &Service, caller: &Caller, record: &Value) -> Self {
        let is_group = record.get("group_id").is_some();
        let (kind, id, space) = match is_group {
            true => ("Group", text_at(record, "group_id"), text_at(record, "group")),
            false => ("Profile", text_at(record, "profile_id"), text_at(record, "domain_group")),
        };
        let set_by = |name: &str| record.get("explain").and_then(|explain| explain.get(name));
        let properties = record.get("properties").into_iter().flat_map(entries);
        let properties = properties
            .map(|(name, value)| PropertyLine::of(name, value, set_by(name).unwrap_or(&Value::Null)));
        Self {
            frame: Frame::new(service, Some(caller), format!("{kind} {id}"), "profiles"),
            kind,
            space,
            created: moment(&text_at(record, "created")),
            modified: moment(&text_at(record, "modified")),
            properties: properties.collect(),
            events: items(record, "events").rev().map(EventLine::of).collect(),
            id,
        }
    }
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams(id): PathParams<String>,
) -> Response {
    respond(service, caller, "profiles", move |service, caller| {
        Ok(ProfilePage::of(service, caller, &service.record(&id)?))
    })
    .await
}
