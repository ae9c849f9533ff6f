//! Data exchange: how many different profiles went through a connection, however often each did.
//!
//! A HyperLogLog sketch counts them in 16 KiB at most: exactly while they are few, within about 1 % when they are many. The
//! commit that holds the profiles holds the sketch too.

use datasketches::hll::{HllSketch, HllType};
use sluicebox_model::RecordId;
use sluicebox_store::{Store, StoreError};

use crate::error::Error;

/// 2^14 registers: a standard error of 0.8 %.
const REGISTERS_LOG2: u8 = 14;

/// Which way profiles go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// They are imported.
    In,
    /// They are exported.
    Out,
}

/// The profiles that went a connection's way so far.
#[derive(Clone)]
pub(crate) struct Exchanged {
    key: String,
    sketch: HllSketch,
    added: bool,
}

impl Exchanged {
    /// Those of earlier runs.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn load(store: &Store, connection: &str, way: Way) -> Result<Self, Error> {
        let way = if way == Way::In { "in" } else { "out" };
        let key = format!("{way} {connection}");
        let damaged = |_| Error::Store(StoreError::Damaged("the count of exchanged profiles"));
        let sketch = match store.exchanged(&key)? {
            Some(bytes) => HllSketch::deserialize(&bytes),
            None => HllSketch::new(REGISTERS_LOG2, HllType::Hll8),
        };
        Ok(Self { key, sketch: sketch.map_err(damaged)?, added: false })
    }

    /// Adds profiles; those that are in it already change nothing.
    pub(crate) fn add(&mut self, profiles: impl IntoIterator<Item = RecordId>) {
        for id in profiles {
            self.sketch.update(id.0);
            self.added = true;
        }
    }

    /// What a commit writes, if anything was added.
    pub(crate) fn changed(&self) -> Option<(String, Vec<u8>)> {
        self.added.then(|| (self.key.clone(), self.sketch.serialize()))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rounded count of records"
        )]
        let count = self.sketch.estimate().round() as u64;
        count
    }
}
