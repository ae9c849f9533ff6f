//! Whether the store is consistent.

use serde_json::{Value as Json, json};
use sluicebox_store::Store;

use crate::config::Config;
use crate::error::Error;
use crate::import::plan::known_unique;

/// What verifying the store found.
pub(crate) struct Verification {
    pub profiles: u64,
    pub groups: u64,
    pub merged: u64,
    pub identifiers: u64,
    pub events: u64,
    /// How many contradictions there are.
    pub problems: u64,
    /// The first of them in words.
    pub described: Vec<String>,
}

impl Verification {
    /// The result as one JSON object.
    pub(crate) fn json(&self) -> Json {
        json!({
            "profiles": self.profiles, "groups": self.groups, "merged": self.merged, "identifiers": self.identifiers,
            "events": self.events, "problems": self.problems, "described": self.described,
        })
    }
}

/// Checks that records, indexes and events agree.
///
/// # Errors
/// If the store fails.
pub(crate) fn verify(config: &Config, store: &Store) -> Result<Verification, Error> {
    let found = store.verify(&known_unique(&config.schema, store))?;
    let names = store.names();
    let (mut profiles, mut groups) = (0, 0);
    for (space, count) in &found.records {
        if names.domain_groups.contains_key(space) {
            profiles += count;
        } else {
            groups += count;
        }
    }
    Ok(Verification {
        profiles,
        groups,
        merged: found.merged,
        identifiers: found.identifiers,
        events: found.events,
        problems: found.problems,
        described: found.described,
    })
}
