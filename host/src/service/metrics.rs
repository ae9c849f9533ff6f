//! Numbers for Prometheus, in OpenMetrics text.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Service;
use crate::report::{Report, Status};

/// Seconds that a run takes, up to two hours.
const BUCKETS: [f64; 10] = [0.1, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 7200.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRun {
    connection: String,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRows {
    connection: String,
    goal: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPlugin {
    plugin: String,
}

/// What is counted since the service began, and what is measured when it is asked.
pub(super) struct Metrics {
    registry: Registry,
    runs: Family<OfRun, Counter>,
    seconds: Histogram,
    rows: Family<OfRows, Counter>,
    cells_rejected: Counter,
    plugin_seconds: Family<OfPlugin, Counter<f64, std::sync::atomic::AtomicU64>>,
    plugin_traps: Family<OfPlugin, Counter>,
    store_bytes: Gauge,
    store_records: Gauge,
    queue: Gauge,
    running: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("sluicebox");
        let (runs, rows) = (Family::<OfRun, Counter>::default(), Family::<OfRows, Counter>::default());
        let (seconds, cells_rejected) = (Histogram::new(BUCKETS), Counter::default());
        let plugin_seconds = Family::<OfPlugin, Counter<f64, std::sync::atomic::AtomicU64>>::default();
        let plugin_traps = Family::<OfPlugin, Counter>::default();
        let [store_bytes, store_records, queue, running] = std::array::from_fn(|_| Gauge::<i64>::default());
        registry.register("runs", "Runs of connections that ended", runs.clone());
        registry.register_with_unit("run", "How long runs took", Unit::Seconds, seconds.clone());
        registry.register("rows", "Rows by what became of them", rows.clone());
        registry.register("cells_rejected", "Cells that were not imported", cells_rejected.clone());
        registry.register_with_unit("plugin", "Time in processors", Unit::Seconds, plugin_seconds.clone());
        registry.register("plugin_traps", "Processors that broke off or were stopped", plugin_traps.clone());
        registry.register_with_unit("store", "Size of the store's tables", Unit::Bytes, store_bytes.clone());
        registry.register("store_records", "Profiles and groups, about", store_records.clone());
        registry.register("queue", "Runs that wait", queue.clone());
        registry.register("running", "Runs under way", running.clone());
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

    /// A run ended.
    pub(super) fn run(&self, connection: &str, failed: bool, took: Duration) {
        let status = if failed { "failed" } else { "succeeded" };
        self.runs.get_or_create(&OfRun { connection: connection.to_owned(), status }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// A goal of it ended.
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
            self.rows.get_or_create(&OfRows { connection, goal, outcome }).inc_by(count);
        }
        self.cells_rejected.inc_by(report.cells_rejected);
        for processor in &report.processors {
            let plugin = OfPlugin { plugin: processor.plugin.clone() };
            let seconds = Duration::from_millis(processor.time_ms).as_secs_f64();
            self.plugin_seconds.get_or_create(&plugin).inc_by(seconds);
            self.plugin_traps.get_or_create(&plugin).inc_by(processor.traps);
        }
    }
}

impl Service {
    /// All of them, as text.
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
        // A text takes whatever is written to it.
        let _ = encode(&mut text, &metrics.registry);
        text
    }
}
