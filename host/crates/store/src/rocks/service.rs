use super::open::durable;
use super::{FAMILIES, RocksStore};
use crate::StoreError;
use crate::keys::{KeyKind, Meta};

impl RocksStore {
    pub(crate) fn runs_of(&self, connection: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get(KeyKind::Runs.key(connection.as_bytes()))?)
    }

    pub(crate) fn remember_runs_of(&self, connection: &str, runs: &[u8]) -> Result<(), StoreError> {
        Ok(self.db.put_opt(KeyKind::Runs.key(connection.as_bytes()), runs, &durable())?)
    }

    pub(crate) fn exchanged(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get(KeyKind::Exchanged.key(key.as_bytes()))?)
    }

    pub(crate) fn about_bytes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for name in FAMILIES.into_iter().chain(["default"]) {
            let family = self.family(name)?;
            let of_tables = self.db.property_int_value_cf(family, "rocksdb.total-sst-files-size")?;
            bytes += of_tables.unwrap_or_default();
        }
        Ok(bytes)
    }

    pub(crate) fn probe(&self) -> Result<(), StoreError> {
        Ok(self.db.put_opt(Meta::Probe, [], &durable())?)
    }
}
