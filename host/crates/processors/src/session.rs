use std::time::{Duration, Instant};

use sluicebox_model::{RecordBatch, Verdict};
use wasmtime::component::ResourceAny;
use wasmtime::{Store, Trap};

use crate::arena;
use crate::bindings::{Batch, Failure, Guest, World, WorldPre};
use crate::error::shown;
use crate::limits::{Refused, State, TABLE_ELEMENTS};
use crate::outcome::validate;
use crate::runtime::{TICK, trap};
use crate::{Fault, Limits, PluginError};

/// What the host asks of a plugin.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Start,
    Describe,
    Open,
    Process,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Describe => "describe",
            Self::Open => "open",
            Self::Process => "process",
        }
    }

    fn time(self, limits: &Limits) -> Duration {
        match self {
            Self::Start | Self::Describe | Self::Open => limits.open_time,
            Self::Process => limits.batch_time,
        }
    }
}

/// A running plugin with its own memory.
pub(crate) struct Instance {
    store: Store<State>,
    world: World,
    name: String,
    limits: Limits,
}

impl Instance {
    pub(crate) fn start(
        pre: &WorldPre<State>,
        name: &str,
        goal: &str,
        limits: Limits,
    ) -> Result<Self, Fault> {
        let mut store = Store::new(pre.engine(), State::new(name, goal, limits));
        store.limiter(|state| state);
        // Nothing that is handed over can be larger than the memory that it comes from; aliased lists could.
        store.set_hostcall_fuel(limits.memory);
        deadline(&mut store, Call::Start, &limits);
        match pre.instantiate(&mut store) {
            Ok(world) => Ok(Self { store, world, name: name.to_owned(), limits }),
            Err(error) => Err(fault(&store, &limits, Call::Start, &error)),
        }
    }

    /// Calls the plugin under its limits. After an error the instance must not be used again.
    pub(crate) fn call<T>(
        &mut self,
        call: Call,
        run: impl FnOnce(&Guest, &mut Store<State>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        deadline(&mut self.store, call, &self.limits);
        run(self.world.sluicebox_processor_processor(), &mut self.store)
            .map_err(|error| fault(&self.store, &self.limits, call, &error))
    }
}

fn deadline(store: &mut Store<State>, call: Call, limits: &Limits) {
    let ticks = call.time(limits).as_millis().div_ceil(TICK.as_millis());
    // The tick under way is not a whole one.
    store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1));
}

/// What made a call fail.
fn fault(store: &Store<State>, limits: &Limits, call: Call, error: &wasmtime::Error) -> Fault {
    let name = call.name();
    match (error.downcast_ref::<Trap>(), store.data().refused) {
        (Some(Trap::Interrupt), _) => Fault::Time { call: name, limit: call.time(limits) },
        (Some(Trap::StackOverflow), _) => Fault::Stack(name),
        // Whoever gets no memory usually breaks off by `unreachable`; an instance that starts with too much fails.
        (Some(Trap::UnreachableCodeReached) | None, Some(Refused::Memory)) => {
            Fault::Memory { limit: limits.memory }
        }
        (Some(Trap::UnreachableCodeReached) | None, Some(Refused::Tables)) => {
            Fault::Tables { limit: TABLE_ELEMENTS }
        }
        (None, None) if format!("{error:#}").contains("fuel allocated for hostcalls") => Fault::TooMuch(name),
        _ => Fault::Trap { call: name, trap: trap(error) },
    }
}

/// A plugin at work on one file. After an error it is of no use any more.
pub struct Session {
    instance: Instance,
    resource: ResourceAny,
    header: usize,
    /// The places of its columns in the batch: those that it wanted, then those that it added.
    columns: Vec<usize>,
    wanted: usize,
    added: Vec<String>,
    input: Batch,
    usage: Usage,
}

/// What a plugin did, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Rows that it saw, without those that were taken out before.
    pub rows: u64,
    /// Rows of them that it dropped.
    pub dropped: u64,
    /// Rows of them that it rejected.
    pub rejected: u64,
    /// The time of its calls, the host's copies included.
    pub time: Duration,
    /// Bytes of its memories, at most.
    pub peak_memory: u64,
}

impl Session {
    pub(crate) fn open(
        mut instance: Instance,
        limits: Limits,
        config: &str,
        header: &[String],
    ) -> Result<Self, Fault> {
        debug_assert_eq!(instance.limits, limits);
        let opened = instance
            .call(Call::Open, |guest, store| guest.session().call_open(store, config, header))?
            .map_err(failure)?;
        let mut columns: Vec<usize> = opened.wanted.iter().map(|place| *place as usize).collect();
        let mut sorted = columns.clone();
        sorted.sort_unstable();
        if let Some(place) = sorted.last().filter(|place| **place >= header.len()) {
            let count = header.len();
            return Err(Fault::Opened(format!("it wants column {place}; there are {count}")));
        }
        if sorted.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(Fault::Opened("it wants a column twice".to_owned()));
        }
        for (place, name) in opened.added.iter().enumerate() {
            let known = header.iter().chain(opened.added.iter().take(place)).any(|column| column == name);
            if known || name.is_empty() || name.len() > 1000 {
                return Err(Fault::Opened(
                    "it adds a column without a name, or one that is there".to_owned(),
                ));
            }
        }
        if opened.added.len() > 10_000 {
            return Err(Fault::Opened(format!("it adds {} columns", opened.added.len())));
        }
        let wanted = columns.len();
        columns.extend(header.len()..header.len() + opened.added.len());
        let input = Batch { rows: 0, data: Vec::new(), offsets: Vec::new(), validity: Vec::new() };
        Ok(Self {
            instance,
            resource: opened.session,
            header: header.len(),
            columns,
            wanted,
            added: opened.added,
            input,
            usage: Usage::default(),
        })
    }

    /// The names of the columns that it adds after the last.
    pub fn added(&self) -> &[String] {
        &self.added
    }

    /// The columns of the batches that it sees, without those that it adds.
    pub fn header_len(&self) -> usize {
        self.header
    }

    /// What it did so far.
    pub fn usage(&self) -> Usage {
        Usage { peak_memory: self.instance.store.data().memory as u64, ..self.usage }
    }

    /// Has the plugin look at a batch, and applies what it says.
    ///
    /// # Errors
    /// If it fails, breaks off, reaches a limit or answers against the contract; the batch is as it was.
    pub fn process(&mut self, batch: &mut RecordBatch) -> Result<(), PluginError> {
        self.instance.store.data_mut().batch += 1;
        let begun = Instant::now();
        let result = self.run(batch);
        self.usage.time += begun.elapsed();
        result.map_err(|fault| PluginError { plugin: self.instance.name.clone(), fault })
    }

    fn run(&mut self, batch: &mut RecordBatch) -> Result<(), Fault> {
        if batch.rows() == 0 {
            return Ok(());
        }
        arena::fill(batch, self.columns.get(..self.wanted).unwrap_or_default(), &mut self.input);
        let size = self.input.data.len() + self.input.offsets.len() * 4;
        let limit = self.instance.limits.memory;
        if size > limit {
            return Err(Fault::Batch { size, limit });
        }
        let (resource, input) = (self.resource, &self.input);
        let outcome = self
            .instance
            .call(Call::Process, |guest, store| guest.session().call_process(store, resource, input))?
            .map_err(failure)?;
        let valid = validate(outcome, batch.rows(), self.columns.len())?;
        self.usage.rows += batch.kept().count() as u64;
        for (row, verdict) in valid.verdicts {
            match (batch.verdict(row), &verdict) {
                (Verdict::Keep, Verdict::Drop) => self.usage.dropped += 1,
                (Verdict::Keep, Verdict::Reject { .. }) => self.usage.rejected += 1,
                _ => {}
            }
            batch.judge(row, verdict);
        }
        for (column, cells) in valid.columns {
            if let Some(place) = self.columns.get(column) {
                batch.put_column(*place, cells);
            }
        }
        Ok(())
    }
}

fn failure(failure: Failure) -> Fault {
    match failure {
        Failure::Config(message) => Fault::Config(shown(&message)),
        Failure::Data(message) => Fault::Data(shown(&message)),
    }
}
