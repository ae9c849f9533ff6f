use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use sluicebox_model::RecordId;
use utoipa::IntoParams;

use super::{Asked, Failure, Named, blocking};
use crate::commands::profile;
use crate::error::Error;
use crate::provenance;
use crate::service::Service;
use crate::view;

/// Which profiles.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// A property that is unique.
    property: String,
    /// Its value.
    value: String,
}

impl Service {
    /// A profile with its events, and which run and file set each property last.
    pub(in crate::service) fn profile(&self, id: &str) -> Result<Value, Failure> {
        let missing = || Error::NotFound(format!("there is no profile `{id}`"));
        let wanted: RecordId = id.parse().map_err(|_| missing())?;
        let (id, record) = self.store.load(wanted)?.ok_or_else(missing)?;
        let events = self.store.events_of(id)?;
        let mut shown = view::profile(&self.store.names(), id, &record, events).ok_or_else(missing)?;
        if let Value::Object(object) = &mut shown {
            object.insert("explain".to_owned(), provenance::of(&self.store, id, &record)?);
        }
        Ok(shown)
    }

    /// The profiles that a value identifies, one of each domain group at most.
    pub(in crate::service) fn find_profiles(
        &self,
        property: &str,
        value: &str,
    ) -> Result<Vec<Value>, Failure> {
        let config = self.folder.config();
        let known = config.schema.property(property).ok_or_else(|| Error::Unknown {
            kind: "property",
            name: property.to_owned(),
            known: config.schema.properties.iter().map(|property| property.name.clone()).collect(),
        })?;
        if !known.unique {
            let message =
                format!("`{property}` identifies nobody: only unique properties are looked up here");
            return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
        let value = profile::parse(known, value)?;
        let mut found = Vec::new();
        profile::find_unique(&self.store, property, &value, |profile| {
            found.extend(profile);
            Ok(())
        })?;
        Ok(found)
    }
}

/// The profiles that a value identifies, one of each domain group at most.
#[utoipa::path(get, path = "/profiles", params(Wanted), responses(
    (status = 200, body = Vec<Object>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn find_profiles(
    State(service): State<Arc<Service>>,
    Asked(wanted): Asked<Wanted>,
) -> Result<Json<Vec<Value>>, Failure> {
    blocking(service, move |service| Ok(Json(service.find_profiles(&wanted.property, &wanted.value)?))).await
}

/// A profile with its events, and which run and file set each property last.
#[utoipa::path(get, path = "/profiles/{profile}", params(("profile" = String, Path, description = "Its id")), responses(
    (status = 200, body = Object),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_profile(
    State(service): State<Arc<Service>>,
    Named(id): Named<String>,
) -> Result<Json<Value>, Failure> {
    blocking(service, move |service| Ok(Json(service.profile(&id)?))).await
}
