//! The events that profiles have before a chunk is merged.

use std::collections::HashMap;

use sluicebox_matching::EventSource;
use sluicebox_model::{Event, EventKey, RecordId};
use sluicebox_store::{Store, StoreError};

/// The events that were loaded in one sweep; the others come from the store one by one.
pub(crate) struct StoredEvents<'s> {
    store: &'s Store,
    loaded: HashMap<EventKey, Option<Event>>,
    failure: Option<StoreError>,
}

impl<'s> StoredEvents<'s> {
    /// Loads the events of sorted keys.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn preload(store: &'s Store, keys: Vec<EventKey>) -> Result<Self, StoreError> {
        let events = store.load_events_sorted(&keys)?;
        Ok(Self { store, loaded: keys.into_iter().zip(events).collect(), failure: None })
    }

    /// The failure of the store, if it failed: some events are missing then, and what was merged with them must not be used.
    pub(crate) fn failure(self) -> Option<StoreError> {
        self.failure
    }
}

impl EventSource for StoredEvents<'_> {
    fn get(&mut self, key: &EventKey) -> Option<Event> {
        if let Some(event) = self.loaded.get(key) {
            return event.clone();
        }
        let found = self.store.load_events_sorted(std::slice::from_ref(key));
        found.map_err(|error| self.failure = Some(error)).ok()?.pop()?
    }

    fn all(&mut self, record: RecordId) -> Vec<(EventKey, Event)> {
        self.store.events_of(record).map_err(|error| self.failure = Some(error)).unwrap_or_default()
    }
}
