//! How many different profiles a connection has imported and exported, each counted once, however often it was.
//!
//! A HyperLogLog sketch of at most 16 KiB counts them: exactly while they are few, within about 1 % when they are many.
//! The commit that holds the profiles holds the sketch too.

use datasketches::hll::{HllSketch, HllType, HllUnion};
use sluicebox_model::RecordId;
use sluicebox_store::{SketchUpdate, Store, StoreError};

use crate::error::Error;

/// 2^14 registers: a standard error of 0.8 %.
const REGISTERS_LOG2: u8 = 14;

/// Which profiles are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Those that imports created, updated or found.
    Imported,
    /// Those that exports wrote.
    Exported,
}

/// The different profiles that a connection has imported, or exported.
#[derive(Clone)]
pub(crate) struct DistinctProfiles {
    key: String,
    /// The stored sketch.
    stored: Vec<u8>,
    sketch: HllSketch,
    changed: bool,
}

impl DistinctProfiles {
    /// Loads the profiles of earlier runs.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn load(store: &Store, connection: &str, direction: Direction) -> Result<Self, Error> {
        let direction = if direction == Direction::Imported { "in" } else { "out" };
        let key = format!("{direction} {connection}");
        let damaged = |_| Error::Store(StoreError::Damaged("the count of exchanged profiles"));
        let stored = store.exchanged(&key)?;
        let sketch = match &stored {
            Some(bytes) => HllSketch::deserialize(bytes),
            None => HllSketch::new(REGISTERS_LOG2, HllType::Hll8),
        };
        Ok(Self { key, stored: stored.unwrap_or_default(), sketch: sketch.map_err(damaged)?, changed: false })
    }

    /// Adds profiles. Those that were added before change nothing.
    pub(crate) fn add(&mut self, profiles: impl IntoIterator<Item = RecordId>) {
        for id in profiles {
            self.sketch.update(id.0);
            self.changed = true;
        }
    }

    /// What the next commit writes; `None` if nothing was added.
    pub(crate) fn changed(&mut self) -> Option<SketchUpdate> {
        self.changed.then(|| {
            let sketch = self.sketch.serialize();
            let base = std::mem::replace(&mut self.stored, sketch.clone());
            SketchUpdate { key: self.key.clone(), base, sketch, merge }
        })
    }

    /// How many profiles there are.
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

/// The sketch of the profiles of both.
fn merge(one: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    let mut union = HllUnion::new(REGISTERS_LOG2).ok()?;
    union.update(&HllSketch::deserialize(one).ok()?);
    union.update(&HllSketch::deserialize(other).ok()?);
    Some(union.to_sketch(HllType::Hll8).serialize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_sketches_count_the_profiles_of_both() {
        let sketch = |profiles: std::ops::Range<u32>| {
            let mut sketch = HllSketch::new(REGISTERS_LOG2, HllType::Hll8).unwrap();
            profiles.for_each(|profile| sketch.update(profile));
            sketch.serialize()
        };
        let count = |bytes: &[u8]| HllSketch::deserialize(bytes).unwrap().estimate().round();
        let few = merge(&sketch(0..30), &sketch(20..50)).unwrap();
        assert!((count(&few) - 50.0).abs() < f64::EPSILON);
        let many = count(&merge(&sketch(0..60_000), &sketch(40_000..100_000)).unwrap());
        assert!((many - 100_000.0).abs() < 3000.0, "{many}");
        assert_eq!(merge(&[1, 2, 3], &sketch(0..1)), None);
    }
}
