use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Failure, blocking};
use crate::config::Connection;
use crate::service::Service;
use crate::service::lookup_cache::{PluginInfo, wait_for_descriptions};

/// Goal runs whose costs are added up.
const RECENT_RUNS: usize = 1000;

/// A plugin, its uses and its costs.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PluginState {
    pub name: String,
    pub version: Option<String>,
    pub summary: Option<String>,
    /// The SHA-256 of its file, in hexadecimal; absent if the file cannot be read, or is not read yet.
    pub sha256: Option<String>,
    /// `bundled` or `folder`.
    pub origin: &'static str,
    /// Bytes of its file.
    pub size: u64,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// Whether it is not described yet: a later request has its version and summary, or its problem.
    pub pending: bool,
    /// Where it is used.
    pub uses: Vec<PluginUse>,
    /// Rows that it processed in the last runs.
    pub rows: u64,
    /// Nanoseconds a row; absent if there were no rows.
    pub nanoseconds_a_row: Option<u64>,
    /// Its highest memory use, in bytes.
    pub peak_memory: u64,
    /// How often it trapped.
    pub traps: u64,
}

/// A processor of a goal that uses a plugin, with its limits.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PluginUse {
    /// The name of the connection's file without `.toml`.
    pub connection: String,
    pub goal: String,
    /// Bytes.
    pub memory: u64,
    /// Milliseconds.
    pub batch_time: u64,
    /// Milliseconds.
    pub open_time: u64,
    pub log_lines: u32,
    /// Whether the goal pins the SHA-256 of the plugin.
    pub pinned: bool,
}

impl Service {
    /// All plugins, with their costs in the last runs.
    pub(in crate::service) fn plugins(&self) -> Result<Vec<PluginState>, Failure> {
        let mut costs: BTreeMap<String, (u64, u64, u64, u64)> = BTreeMap::new();
        for entry in self.history(RECENT_RUNS)? {
            for processor in &entry.report.processors {
                let (rows, time, memory, traps) = costs.entry(processor.plugin.clone()).or_default();
                *rows += processor.read;
                *time += processor.time_ms;
                *memory = processor.peak_memory.max(*memory);
                *traps += processor.traps;
            }
        }
        let config = self.folder.config();
        let state = |plugin: Arc<PluginInfo>| {
            let (rows, time, peak_memory, traps) = costs.get(&plugin.name).copied().unwrap_or_default();
            PluginState {
                name: plugin.name.clone(),
                sha256: plugin.sha256.clone(),
                origin: if plugin.bundled { "bundled" } else { "folder" },
                size: plugin.size,
                version: plugin.version.clone(),
                summary: plugin.summary.clone(),
                problem: plugin.problem.clone(),
                pending: plugin.pending,
                uses: config
                    .connections
                    .iter()
                    .flat_map(|connection| uses(connection, &plugin.name))
                    .collect(),
                rows,
                nanoseconds_a_row: (time * 1_000_000).checked_div(rows),
                peak_memory,
                traps,
            }
        };
        Ok(self.all_plugins().into_iter().map(state).collect())
    }
}

fn uses(connection: &Connection, plugin: &str) -> Vec<PluginUse> {
    let mut uses = Vec::new();
    for goal in connection.all_goals() {
        for entry in goal.processors().iter().filter(|entry| entry.plugin == plugin) {
            let milliseconds =
                |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            uses.push(PluginUse {
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

/// All plugins, with their costs in the last runs.
#[utoipa::path(get, path = "/plugins", responses(
    (status = 200, body = Vec<PluginState>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_plugins(
    State(service): State<Arc<Service>>,
) -> Result<Json<Vec<PluginState>>, Failure> {
    wait_for_descriptions(&service).await;
    blocking(service, |service| Ok(Json(service.plugins()?))).await
}
