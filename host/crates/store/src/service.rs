use crate::keys::{self, EXCHANGED, RUNS};
use crate::open::durable;
use crate::{Store, StoreError};

impl Store {
    /// What the service remembers of a connection's runs, as the host wrote it.
    ///
    /// # Errors
    /// If the store fails.
    pub fn runs_of(&self, connection: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get(keys::key(RUNS, connection.as_bytes()))?)
    }

    /// Remembers something else. When this returns, it is on the disk.
    ///
    /// # Errors
    /// If the store fails.
    pub fn remember_runs_of(&self, connection: &str, runs: &[u8]) -> Result<(), StoreError> {
        Ok(self.db.put_opt(keys::key(RUNS, connection.as_bytes()), runs, &durable())?)
    }

    /// The sketch of the profiles that went through a connection one way, as the last commit wrote it.
    ///
    /// # Errors
    /// If the store fails.
    pub fn exchanged(&self, way: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get(keys::key(EXCHANGED, way.as_bytes()))?)
    }

    /// About how many bytes its tables take on the disk.
    ///
    /// # Errors
    /// If the store fails.
    pub fn about_bytes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for name in keys::FAMILIES.into_iter().chain(["default"]) {
            let family = self.family(name)?;
            let of_tables = self.db.property_int_value_cf(family, "rocksdb.total-sst-files-size")?;
            bytes += of_tables.unwrap_or_default();
        }
        Ok(bytes)
    }

    /// Whether it can be written to.
    ///
    /// # Errors
    /// If it cannot.
    pub fn probe(&self) -> Result<(), StoreError> {
        Ok(self.db.put_opt(keys::PROBE, [], &durable())?)
    }
}
