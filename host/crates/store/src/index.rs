use std::collections::HashSet;

use rocksdb::{IteratorMode, WriteBatch};
use sluicebox_model::{IdentifierHash, PropertyId, RecordId};

use crate::keys::{self, IDENTIFIERS, INDEXED};
use crate::open::durable;
use crate::{Store, StoreError};

/// Index entries written at a time while a property is indexed.
const ENTRIES: usize = 65_536;

impl Store {
    /// Sees to it that exactly the values of `unique` properties find records. A property that was not unique
    /// when its values were written is indexed now.
    ///
    /// # Errors
    /// [`StoreError::NotUnique`] with the property, if two records of a space hold one value of it; the store is
    /// then as before.
    pub fn index(&self, unique: &[PropertyId]) -> Result<(), (PropertyId, StoreError)> {
        let held = self.indexed().map_err(|error| (PropertyId(0), error))?;
        for property in held.iter().filter(|property| !unique.contains(property)) {
            let key = keys::key(INDEXED, &property.0.to_be_bytes());
            self.db.delete_opt(key, &durable()).map_err(|error| (*property, error.into()))?;
        }
        for property in unique.iter().filter(|property| !held.contains(property)) {
            self.build(*property).map_err(|error| (*property, error))?;
        }
        Ok(())
    }

    fn indexed(&self) -> Result<HashSet<PropertyId>, StoreError> {
        let mut properties = HashSet::new();
        for entry in self.db.iterator(IteratorMode::From(&[INDEXED], rocksdb::Direction::Forward)) {
            let (key, _) = entry?;
            let Some((&INDEXED, number)) = key.split_first() else { break };
            let number =
                keys::read_u32(number).ok_or(StoreError::Damaged("the list of indexed properties"))?;
            properties.insert(PropertyId(number));
        }
        Ok(properties)
    }

    fn build(&self, property: PropertyId) -> Result<(), StoreError> {
        // Left over from a time when it was unique before.
        let bound = |property: u32| property.to_be_bytes();
        let family = self.family(IDENTIFIERS)?;
        self.db.delete_range_cf(family, bound(property.0), bound(property.0.saturating_add(1)))?;
        let mut identifiers = Vec::new();
        for record in self.records()? {
            let (id, record) = record?;
            let hash = |value| self.hash(record.space, property, value);
            identifiers.extend(record.values(property).iter().map(|value| (hash(value), Some(id))));
            if identifiers.len() >= ENTRIES {
                self.db.write(self.identified(&mut identifiers)?)?;
            }
        }
        let mut batch = self.identified(&mut identifiers)?;
        batch.put(keys::key(INDEXED, &property.0.to_be_bytes()), []);
        self.db.write_opt(batch, &durable())?;
        Ok(())
    }

    /// A batch that lets identifiers find their records, which nobody else holds.
    fn identified(
        &self,
        identifiers: &mut Vec<(IdentifierHash, Option<RecordId>)>,
    ) -> Result<WriteBatch, StoreError> {
        identifiers.sort_unstable();
        let hashes: Vec<IdentifierHash> = identifiers.iter().map(|(hash, _)| *hash).collect();
        let twice = hashes.array_windows().any(|[one, next]| one == next);
        if twice || self.find_sorted(&hashes)?.iter().any(Option::is_some) {
            return Err(StoreError::NotUnique);
        }
        let mut batch = WriteBatch::default();
        self.identify_all(identifiers.drain(..), &mut batch)?;
        Ok(batch)
    }
}
