//! Metrics for Prometheus, as OpenMetrics text.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use sluicebox_model::OrNever;

use super::Service;
use crate::runs::report::{Report, Status};

/// Buckets of the duration of runs, in seconds.
const BUCKETS: [f64; 10] = [0.1, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 7200.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RunLabels {
    connection: String,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RowLabels {
    connection: String,
    goal: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PluginLabels {
    plugin: String,
}

/// Counters since the service started, and gauges that are set when they are read.
pub(super) struct Metrics {
    registry: Registry,
    runs: Family<RunLabels, Counter>,
    seconds: Histogram,
    rows: Family<RowLabels, Counter>,
    cells_rejected: Counter,
    plugin_seconds: Family<PluginLabels, Counter<f64, std::sync::atomic::AtomicU64>>,
    plugin_traps: Family<PluginLabels, Counter>,
    store_bytes: Gauge,
    store_records: Gauge,
    queue: Gauge,
    running: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("sluicebox");
        let (runs, rows) = (Family::<RunLabels, Counter>::default(), Family::<RowLabels, Counter>::default());
        let (seconds, cells_rejected) = (Histogram::new(BUCKETS), Counter::default());
        let plugin_seconds = Family::<PluginLabels, Counter<f64, std::sync::atomic::AtomicU64>>::default();
        let plugin_traps = Family::<PluginLabels, Counter>::default();
        let [store_bytes, store_records, queue, running] = std::array::from_fn(|_| Gauge::<i64>::default());
        registry.register("runs", "Runs that ended", runs.clone());
        registry.register_with_unit("run", "Duration of runs", Unit::Seconds, seconds.clone());
        registry.register("rows", "Rows by outcome", rows.clone());
        registry.register("cells_rejected", "Rejected cells", cells_rejected.clone());
        registry.register_with_unit("plugin", "Time in processors", Unit::Seconds, plugin_seconds.clone());
        registry.register("plugin_traps", "Traps of processors", plugin_traps.clone());
        registry.register_with_unit("store", "Size of the store's tables", Unit::Bytes, store_bytes.clone());
        registry.register("store_records", "Profiles and groups, estimated", store_records.clone());
        registry.register("queue", "Runs that wait", queue.clone());
        registry.register("running", "Running runs", running.clone());
        Self {
            registry,
            runs,
            seconds,
            rows,
            cells_rejected,
            plugin_seconds,
            plugin_traps,
            store_bytes,
            store_records,
            queue,
            running,
        }
    }

    /// Counts a run that ended.
    pub(super) fn run(&self, connection: &str, failed: bool, took: Duration) {
        let status = if failed { "failed" } else { "succeeded" };
        self.runs.get_or_create(&RunLabels { connection: connection.to_owned(), status }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts a goal run that ended.
    pub(super) fn goal(&self, connection: &str, report: &Report) {
        if report.status == Status::Skipped {
            return;
        }
        let rows = report.rows;
        let outcomes = [
            ("merged", rows.merged),
            ("rejected", rows.rejected),
            ("excluded", rows.excluded),
            ("dropped", rows.dropped),
        ];
        for (outcome, count) in outcomes {
            let (connection, goal) = (connection.to_owned(), report.goal.clone());
            self.rows.get_or_create(&RowLabels { connection, goal, outcome }).inc_by(count);
        }
        self.cells_rejected.inc_by(report.cells_rejected);
        for processor in &report.processors {
            let plugin = PluginLabels { plugin: processor.plugin.clone() };
            let seconds = Duration::from_millis(processor.time_ms).as_secs_f64();
            self.plugin_seconds.get_or_create(&plugin).inc_by(seconds);
            self.plugin_traps.get_or_create(&plugin).inc_by(processor.traps);
        }
    }
}

impl Service {
    /// All metrics, as text.
    pub(super) fn measure(&self) -> String {
        let queued = self.queue.list();
        let running = queued.iter().filter(|queued| queued.running).count();
        let gauge = |gauge: &Gauge, value: Option<u64>| {
            gauge.set(value.and_then(|value| i64::try_from(value).ok()).unwrap_or(-1));
        };
        let metrics = &self.metrics;
        gauge(&metrics.store_bytes, self.store.about_bytes().ok());
        gauge(&metrics.store_records, self.store.about_records().ok());
        gauge(&metrics.queue, Some((queued.len() - running) as u64));
        gauge(&metrics.running, Some(running as u64));
        let mut text = String::new();
        encode(&mut text, &metrics.registry).or_never("the text of the metrics");
        text
    }
}
