use std::time::{Duration, Instant};

use wasmtime::ResourceLimiter;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, ResourceTable, WasiCtx, WasiCtxView, WasiView};

use wasmtime_wasi::random::Deterministic;

use crate::bindings::{log, types};
use crate::messages::Messages;
use crate::redact::Secrets;

/// The limits of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all its memories together.
    pub memory: usize,
    /// The time of one call of `process`.
    pub batch_time: Duration,
    /// The time of the start of an instance, of `describe` and of `open`, each.
    pub open_time: Duration,
    /// Messages while it works on one file: of the log, and lines of standard output and error.
    pub log_lines: u32,
    /// What it may use besides its rows.
    pub grants: Grants,
}

/// What a processor may use besides its rows. Without a grant, clocks stand still and random numbers are always the same, so
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

/// Elements of all tables together. Tables hold functions; large programs have some tens of thousands.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 200_000;
/// Resources of WASI that an instance may hold, such as streams and pollables.
const MAX_RESOURCES: usize = 1000;

/// The host's side of an instance.
pub(crate) struct State {
    pub messages: Messages,
    /// When the time of the current call ends.
    pub deadline: Instant,
    limits: Limits,
    /// The bytes of its memories, which never shrink.
    pub memory: usize,
    table_elements: usize,
    /// The growth that was refused last. A plugin that traps afterwards trapped because of it.
    pub refused: Option<Refused>,
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
    pub(crate) fn new(plugin: &str, goal: &str, secrets: &Secrets, limits: Limits) -> Self {
        let messages = Messages::new(plugin, goal, secrets.clone(), limits.log_lines);
        let mut wasi = WasiCtx::builder();
        wasi.stdout(messages.stream(log::Level::Info)).stderr(messages.stream(log::Level::Warn));
        wasi.allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false).max_random_size(64 << 10);
        if !limits.grants.clock {
            wasi.wall_clock(StoppedClock).monotonic_clock(StoppedClock);
        }
        if !limits.grants.random {
            wasi.secure_random(same_numbers()).insecure_random(same_numbers()).insecure_random_seed(0);
        }
        let wasi = wasi.build();
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(MAX_RESOURCES);
        Self {
            messages,
            deadline: Instant::now(),
            limits,
            memory: 0,
            table_elements: 0,
            refused: None,
            wasi,
            resources,
        }
    }

    /// What a wait needs: the resources, and the end of the time.
    pub(crate) fn waits(&mut self) -> (&mut ResourceTable, Instant) {
        (&mut self.resources, self.deadline)
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
        if total > MAX_TABLE_ELEMENTS {
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
        self.messages.write(level, &message);
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
