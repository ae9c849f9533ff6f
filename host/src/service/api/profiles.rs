use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use sluicebox_model::RecordId;
use utoipa::IntoParams;

use super::{Failure, PathParams, QueryParams, blocking};
use crate::error::Error;
use crate::queries::profile;
use crate::queries::provenance;
use crate::queries::view;
use crate::service::Service;

/// The value of a unique property.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ProfileQuery {
    /// The name of the property.
    property: String,
    /// Its value.
    value: String,
}

impl Service {
    /// A profile with its events, and the run and file that set each property.
    pub(in crate::service) fn profile(&self, id: &str) -> Result<Value, Failure> {
        let record = self.record(id)?;
        match record.get("profile_id") {
            Some(_) => Ok(record),
            None => Err(Error::NotFound(format!("there is no profile `{id}`")).into()),
        }
    }

    /// A profile with its events, or a group; with the run and file that set each property.
    pub(in crate::service) fn record(&self, id: &str) -> Result<Value, Failure> {
        let missing = || Error::NotFound(format!("there is no profile or group `{id}`"));
        let found: RecordId = id.parse().map_err(|_| missing())?;
        let (id, record) = self.store.load(found)?.ok_or_else(missing)?;
        let names = self.store.names();
        let mut shown = match view::group(&names, id, &record) {
            Some(group) => group,
            None => view::profile(&names, id, &record, self.store.events_of(id)?).ok_or_else(missing)?,
        };
        if let Value::Object(object) = &mut shown {
            object.insert("explain".to_owned(), provenance::of(&self.store, &names, &record)?);
        }
        Ok(shown)
    }

    /// The profiles with a value of a unique property: at most one of each domain group.
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
            let message = format!("`{property}` is not unique: profiles are found by unique properties");
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

/// The profiles with a value of a unique property: at most one of each domain group.
#[utoipa::path(get, path = "/profiles", params(ProfileQuery), responses(
    (status = 200, body = Vec<Object>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn find_profiles(
    State(service): State<Arc<Service>>,
    QueryParams(query): QueryParams<ProfileQuery>,
) -> Result<Json<Vec<Value>>, Failure> {
    blocking(service, move |service| Ok(Json(service.find_profiles(&query.property, &query.value)?))).await
}

/// A profile with its events, and the run and file that set each property.
#[utoipa::path(get, path = "/profiles/{profile}", params(("profile" = String, Path, description = "Its id")), responses(
    (status = 200, body = Object),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_profile(
    State(service): State<Arc<Service>>,
    PathParams(id): PathParams<String>,
) -> Result<Json<Value>, Failure> {
    blocking(service, move |service| Ok(Json(service.profile(&id)?))).await
}
