use std::collections::BTreeMap;

use sluicebox_model::SpaceId;

/// Problems that are described; more are only counted.
const MAX_DESCRIBED: usize = 20;

/// What verifying a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Profiles and groups, by their domain group or type.
    pub records: BTreeMap<SpaceId, u64>,
    /// Records that were merged into another.
    pub merged: u64,
    /// Entries of the index of identifiers.
    pub identifiers: u64,
    /// Events.
    pub events: u64,
    /// How many problems there are.
    pub problems: u64,
    /// The first of them in words, without any value.
    pub described: Vec<String>,
}

impl Verification {
    pub(crate) fn problem(&mut self, problem: String) {
        self.problems += 1;
        if self.described.len() < MAX_DESCRIBED {
            self.described.push(problem);
        }
    }
}

/// How large a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The version of its layout.
    pub layout: u32,
    /// About how many entries each part of the store has, and its bytes on the disk.
    pub families: Vec<(&'static str, u64, u64)>,
    /// All bytes on the disk.
    pub bytes: u64,
}
