//! Finds profiles by a unique property.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::Value;

use super::format::moment;
use super::{Frame, encoded, respond};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::{Failure, QueryParams};

/// What to find: a value of a property.
#[derive(Default, Deserialize)]
pub(super) struct ProfileSearch {
    property: Option<String>,
    value: Option<String>,
}

#[derive(Template)]
#[template(path = "profiles.html")]
struct ProfilesPage {
    frame: Frame,
    /// The unique properties.
    properties: Vec<String>,
    property: String,
    value: String,
    found: Option<Vec<FoundProfile>>,
    failure: Option<Failure>,
}

struct FoundProfile {
    id: String,
    domain_group: String,
    modified: String,
}

impl FoundProfile {
    fn of(profile: &Value) -> Self {
        let text = |key: &str| profile.get(key).and_then(Value::as_str).unwrap_or_default();
        Self {
            id: text("profile_id").to_owned(),
            domain_group: text("domain_group").to_owned(),
            modified: moment(text("modified")),
        }
    }
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    QueryParams(search): QueryParams<ProfileSearch>,
) -> Response {
    let value = search.value.unwrap_or_default();
    if search.property.as_deref() == Some("profile_id") && !value.is_empty() {
        return Redirect::to(&format!("/profiles/{}", encoded(value.trim()))).into_response();
    }
    respond(service, caller, "profiles", move |service, caller| {
        let config = service.folder.config();
        let unique = config.schema.properties.iter().filter(|property| property.unique);
        let properties: Vec<String> = unique.map(|property| property.name.clone()).collect();
        let property = search.property.or_else(|| properties.first().cloned()).unwrap_or_default();
        let (found, failure) = match value.is_empty() {
            true => (None, None),
            false => match service.find_profiles(&property, &value) {
                Ok(found) => (Some(found.iter().map(FoundProfile::of).collect()), None),
                Err(failure) => (None, Some(failure)),
            },
        };
        let frame = Frame::new(service, Some(caller), "Profiles", "profiles");
        Ok(ProfilesPage { frame, properties, property, value, found, failure })
    })
    .await
}
