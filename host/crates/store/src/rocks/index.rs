use std::collections::HashSet;

use rocksdb::WriteBatch;
use sluicebox_model::{IdentifierHash, PropertyId, RecordId};

use super::open::durable;
use super::{IDENTIFIERS, RocksStore, entries_of};
use crate::StoreError;
use crate::keys::{self, KeyKind};

/// Index entries written at a time while a property is indexed.
const ENTRIES: usize = 65_536;

impl RocksStore {
    pub(crate) fn index(&self, unique: &[PropertyId]) -> Result<(), (PropertyId, StoreError)> {
        let indexed = self.indexed().map_err(|error| (PropertyId(0), error))?;
        for property in indexed.iter().filter(|property| !unique.contains(property)) {
            let key = KeyKind::Indexed.key(&property.0.to_be_bytes());
            self.db.delete_opt(key, &durable()).map_err(|error| (*property, error.into()))?;
        }
        for property in unique.iter().filter(|property| !indexed.contains(property)) {
            self.build(*property).map_err(|error| (*property, error))?;
        }
        Ok(())
    }

    fn indexed(&self) -> Result<HashSet<PropertyId>, StoreError> {
        let mut properties = HashSet::new();
        for entry in entries_of(&self.db, KeyKind::Indexed) {
            let (number, _) = entry?;
            let number =
                keys::read_u32(&number).ok_or(StoreError::Damaged("the list of indexed properties"))?;
            properties.insert(PropertyId(number));
        }
        Ok(properties)
    }

    fn build(&self, property: PropertyId) -> Result<(), StoreError> {
        // Entries of an earlier time when the property was unique.
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
        batch.put(KeyKind::Indexed.key(&property.0.to_be_bytes()), []);
        self.write_data(batch, &[], None)
    }

    /// A batch that lets identifiers find their records. No other record may hold one of them.
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
