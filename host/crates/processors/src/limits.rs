use std::time::Duration;

use wasmtime::ResourceLimiter;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, ResourceTable, WasiCtx, WasiCtxView, WasiView};

use wasmtime_wasi::random::Deterministic;

use crate::bindings::{log, types};
use crate::error::shown;

/// What a processor may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all its memories together.
    pub memory: usize,
    /// The time that one call of `process` may take.
    pub batch_time: Duration,
    /// The time that `describe` and `open` may take, the instance's start included.
    pub open_time: Duration,
    /// The messages that it may write while it works on one file.
    pub log_lines: u32,
    /// What it gets besides its rows.
    pub grants: Grants,
}

/// What a processor gets besides its rows. Without a grant clocks stand still and random numbers are always the same, so
/// that a run can be repeated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// The time.
    pub clock: bool,
    /// Random numbers.
    pub random: bool,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs(5);
        Self {
            memory: 64 << 20,
            batch_time: seconds,
            open_time: seconds,
            log_lines: 1000,
            grants: Grants::default(),
        }
    }
}

/// Bytes of all messages of a plugin while it works on one file.
const LOG_BYTES: usize = 256 << 10;
/// Elements of all tables together. Tables hold functions; large programs have some ten thousand.
pub(crate) const TABLE_ELEMENTS: usize = 200_000;

/// What an instance has besides its memory: the host's side of the sandbox.
pub(crate) struct State {
    plugin: String,
    /// The goal that it works for; empty outside of one.
    goal: String,
    /// The number of the batch that it works on, from 1; 0 before the first.
    pub batch: u64,
    limits: Limits,
    /// The bytes of its memories, which never shrink.
    pub memory: usize,
    table_elements: usize,
    /// Which growth was refused, if any was: a plugin that breaks off afterwards broke off for that.
    pub refused: Option<Refused>,
    log_lines: u32,
    log_bytes: usize,
    silenced: bool,
    wasi: WasiCtx,
    resources: ResourceTable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Memory,
    Tables,
}

impl State {
    /// An empty WASI: no folders, environment, arguments or sockets.
    pub(crate) fn new(plugin: &str, goal: &str, limits: Limits) -> Self {
        let mut wasi = WasiCtx::builder();
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false).max_random_size(64 << 10);
        if !limits.grants.clock {
            wasi.wall_clock(StoppedClock).monotonic_clock(StoppedClock);
        }
        if !limits.grants.random {
            wasi.secure_random(same_numbers()).insecure_random(same_numbers()).insecure_random_seed(0);
        }
        let wasi = wasi.build();
        Self {
            plugin: plugin.to_owned(),
            goal: goal.to_owned(),
            batch: 0,
            limits,
            memory: 0,
            table_elements: 0,
            refused: None,
            log_lines: 0,
            log_bytes: 0,
            silenced: false,
            wasi,
            resources: ResourceTable::new(),
        }
    }
}

impl ResourceLimiter for State {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory.saturating_add(desired.saturating_sub(current));
        if total > self.limits.memory {
            self.refused = Some(Refused::Memory);
            return Ok(false);
        }
        self.memory = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        if total > TABLE_ELEMENTS {
            self.refused = Some(Refused::Tables);
            return Ok(false);
        }
        self.table_elements = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        100
    }

    fn tables(&self) -> usize {
        100
    }

    fn memories(&self) -> usize {
        100
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

impl types::Host for State {}

impl log::Host for State {
    fn write(&mut self, level: log::Level, message: String) {
        self.log_lines = self.log_lines.saturating_add(1);
        self.log_bytes = self.log_bytes.saturating_add(message.len());
        let (plugin, goal, batch) = (&self.plugin, &self.goal, self.batch);
        if self.log_lines > self.limits.log_lines || self.log_bytes > LOG_BYTES {
            if !std::mem::replace(&mut self.silenced, true) {
                tracing::warn!(goal, plugin, batch, "further messages of the plugin are not shown");
            }
            return;
        }
        let message = shown(&message);
        match level {
            log::Level::Trace => tracing::trace!(goal, plugin, batch, "{message}"),
            log::Level::Debug => tracing::debug!(goal, plugin, batch, "{message}"),
            log::Level::Info => tracing::info!(goal, plugin, batch, "{message}"),
            log::Level::Warn => tracing::warn!(goal, plugin, batch, "{message}"),
            log::Level::Error => tracing::error!(goal, plugin, batch, "{message}"),
        }
    }
}

/// "Random" numbers that are the same in every run.
fn same_numbers() -> Deterministic {
    Deterministic::new((0..=u8::MAX).collect())
}

struct StoppedClock;

impl HostWallClock for StoppedClock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for StoppedClock {
    fn resolution(&self) -> u64 {
        1_000_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}
