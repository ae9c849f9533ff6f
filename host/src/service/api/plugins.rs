use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Failure, blocking};
use crate::config::Connection;
use crate::service::Service;
use crate::service::known::KnownPlugin;

/// Goal runs whose processors' costs are added up.
const LOOKED_BACK: usize = 1000;

/// A plugin.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PluginState {
    pub name: String,
    pub version: Option<String>,
    pub summary: Option<String>,
    /// Of its file, as pins have it.
    pub sha256: String,
    /// `bundled`, or `folder`.
    pub origin: &'static str,
    /// Bytes.
    pub size: u64,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// Where it is used, with the limits that it has there.
    pub uses: Vec<Use>,
    /// Rows that it saw in the last runs.
    pub rows: u64,
    /// Of those, what a row took, in nanoseconds; absent where it saw none.
    pub nanoseconds_a_row: Option<u64>,
    /// The most memory that it took, in bytes.
    pub peak_memory: u64,
    /// How often it broke off or was stopped.
    pub traps: u64,
}

/// A processor entry that uses it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Use {
    /// The connection's file, without `.toml`.
    pub connection: String,
    pub goal: String,
    /// Bytes.
    pub memory: u64,
    /// Milliseconds.
    pub batch_time: u64,
    /// Milliseconds.
    pub open_time: u64,
    pub log_lines: u32,
    /// Whether the entry pins the plugin's digest.
    pub pinned: bool,
}

impl Service {
    /// The plugins that there are, with what they cost in the last runs.
    pub(in crate::service) fn plugins(&self) -> Result<Vec<PluginState>, Failure> {
        let mut costs: BTreeMap<String, (u64, u64, u64, u64)> = BTreeMap::new();
        for kept in self.history(LOOKED_BACK)? {
            for processor in &kept.report.processors {
                let (rows, time, memory, traps) = costs.entry(processor.plugin.clone()).or_default();
                *rows += processor.read;
                *time += processor.time_ms;
                *memory = processor.peak_memory.max(*memory);
                *traps += processor.traps;
            }
        }
        let config = self.folder.config();
        let state = |known: Arc<KnownPlugin>| {
            let (rows, time, peak_memory, traps) = costs.get(&known.name).copied().unwrap_or_default();
            PluginState {
                name: known.name.clone(),
                sha256: known.sha256.clone(),
                origin: if known.bundled { "bundled" } else { "folder" },
                size: known.size,
                version: known.version.clone(),
                summary: known.summary.clone(),
                problem: known.problem.clone(),
                uses: config
                    .connections
                    .iter()
                    .flat_map(|connection| uses(connection, &known.name))
                    .collect(),
                rows,
                nanoseconds_a_row: (time * 1_000_000).checked_div(rows),
                peak_memory,
                traps,
            }
        };
        Ok(self.known_plugins()?.into_iter().map(state).collect())
    }
}

fn uses(connection: &Connection, plugin: &str) -> Vec<Use> {
    let mut uses = Vec::new();
    for goal in connection.all_goals() {
        for entry in goal.processors().iter().filter(|entry| entry.plugin == plugin) {
            let milliseconds =
                |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            uses.push(Use {
                connection: connection.stem.clone(),
                goal: goal.name().to_owned(),
                memory: entry.limits.memory as u64,
                batch_time: milliseconds(entry.limits.batch_time),
                open_time: milliseconds(entry.limits.open_time),
                log_lines: entry.limits.log_lines,
                pinned: entry.sha256.is_some(),
            });
        }
    }
    uses
}

/// The plugins that there are, with what they cost in the last runs.
#[utoipa::path(get, path = "/plugins", responses(
    (status = 200, body = Vec<PluginState>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_plugins(
    State(service): State<Arc<Service>>,
) -> Result<Json<Vec<PluginState>>, Failure> {
    blocking(service, |service| Ok(Json(service.plugins()?))).await
}
