use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluicebox_model::{OrNever, RecordBatch, Verdict, never};
use wasmtime::component::ResourceAny;
use wasmtime::{Store, Trap, WasmBacktrace};

use crate::arena;
use crate::bindings::{Batch, Failure, Guest, World, WorldPre};
use crate::error::shown;
use crate::limits::{MAX_TABLE_ELEMENTS, Refused, State};
use crate::outcome::validate;
use crate::redact::{Configuration, Secrets};
use crate::runtime::{TICK, chain, contract, trap};
use crate::{Fault, Limits, PluginError};

/// A call of the host.
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
        secrets: &Secrets,
        limits: Limits,
    ) -> Result<Self, Fault> {
        let mut store = Store::new(pre.engine(), State::new(name, goal, secrets, limits));
        store.limiter(|state| state);
        // An answer comes from the memory, but lists in it may alias. Together they must not be larger than the memory.
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
    // The current tick is not a whole one.
    store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1));
    let now = Instant::now();
    // A limit beyond what the clock can count is none.
    let far = now + Duration::from_secs(u32::MAX.into());
    store.data_mut().deadline = now.checked_add(call.time(limits)).unwrap_or(far);
}

/// Why a call failed.
fn fault(store: &Store<State>, limits: &Limits, call: Call, error: &wasmtime::Error) -> Fault {
    let name = call.name();
    match (error.downcast_ref::<Trap>(), store.data().refused) {
        (Some(Trap::Interrupt), _) => Fault::Time { call: name, limit: call.time(limits) },
        (Some(Trap::StackOverflow), _) => Fault::Stack(name),
        // A plugin that gets no memory usually traps with `unreachable`. An instance that starts with too much fails.
        (Some(Trap::UnreachableCodeReached) | None, Some(Refused::Memory)) => {
            Fault::Memory { limit: limits.memory }
        }
        (Some(Trap::UnreachableCodeReached) | None, Some(Refused::Tables)) => {
            Fault::Tables { limit: MAX_TABLE_ELEMENTS }
        }
        (None, None) if format!("{error:#}").contains("fuel allocated for hostcalls") => Fault::TooMuch(name),
        (None, None) if matches!(call, Call::Start) && error.downcast_ref::<WasmBacktrace>().is_none() => {
            Fault::Types { expected: contract(), found: chain(error) }
        }
        _ => Fault::Trap { call: name, trap: trap(error) },
    }
}

/// A plugin at work on one file. After an error it must not be used again.
pub struct Session {
    instance: Instance,
    resource: ResourceAny,
    /// The number of columns of the file, with those that earlier processors added.
    header: usize,
    /// The places of its columns in the batch: those that it reads, then those that it adds.
    columns: Vec<usize>,
    /// Their names.
    names: Vec<String>,
    /// The number of columns that it reads.
    wanted: usize,
    input: Arc<Batch>,
    usage: Usage,
}

/// The work of a plugin, and its cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Rows that it read, without those that earlier processors dropped or rejected.
    pub rows: u64,
    /// Rows that it dropped.
    pub dropped: u64,
    /// Rows that it rejected.
    pub rejected: u64,
    /// The time of its calls, with the host's copies.
    pub time: Duration,
    /// Bytes of its memories, at most.
    pub peak_memory: u64,
}

impl Session {
    pub(crate) fn open(
        mut instance: Instance,
        limits: Limits,
        config: &Configuration,
        header: &[String],
    ) -> Result<Self, Fault> {
        never!(instance.limits != limits, "a session has other limits than its instance");
        let opened = instance
            .call(Call::Open, |guest, store| guest.session().call_open(store, config.json(), header))?;
        let messages = &instance.store.data().messages;
        let opened = opened.map_err(|failure| match failure {
            Failure::Config(words) => Fault::Config(messages.safe(&words)),
            Failure::Data(words) => Fault::Data(messages.safe(&words)),
        })?;
        let mut columns = places(&opened.wanted, header).map_err(Fault::Opened)?;
        check_added(&opened.added, header, config.secrets()).map_err(Fault::Opened)?;
        let mut names: Vec<String> = columns.iter().filter_map(|place| header.get(*place)).cloned().collect();
        never!(names.len() != columns.len(), "a column of a session has no name");
        let wanted = columns.len();
        columns.extend(header.len()..header.len() + opened.added.len());
        names.extend(opened.added);
        let input = Arc::new(Batch { rows: 0, data: Vec::new(), offsets: Vec::new(), validity: Vec::new() });
        Ok(Self {
            instance,
            resource: opened.session,
            header: header.len(),
            columns,
            names,
            wanted,
            input,
            usage: Usage::default(),
        })
    }

    /// The names of the columns that it adds after the last.
    pub fn added(&self) -> &[String] {
        self.names.get(self.wanted..).or_never("the names of the added columns")
    }

    /// The number of columns of its batches, without those that it adds.
    pub fn header_len(&self) -> usize {
        self.header
    }

    /// Its work so far.
    pub fn usage(&self) -> Usage {
        Usage { peak_memory: self.instance.store.data().memory as u64, ..self.usage }
    }

    /// Passes a batch to the plugin and applies its answer.
    ///
    /// # Errors
    /// If the plugin fails, crashes, reaches a limit or breaks the contract. The batch is then unchanged.
    pub fn process(&mut self, batch: &mut RecordBatch) -> Result<(), PluginError> {
        self.instance.store.data().messages.next_batch();
        let begun = Instant::now();
        let result = self.run(batch);
        self.usage.time += begun.elapsed();
        result.map_err(|fault| PluginError { plugin: self.instance.name.clone(), fault })
    }

    fn run(&mut self, batch: &mut RecordBatch) -> Result<(), Fault> {
        if batch.rows() == 0 {
            return Ok(());
        }
        let wanted = self.columns.get(..self.wanted).or_never("the columns that a session reads");
        // Only the messages of the batch before shared it.
        arena::fill(batch, wanted, Arc::make_mut(&mut self.input));
        let size = self.input.data.len() + self.input.offsets.len() * 4;
        let limit = self.instance.limits.memory;
        if size > limit {
            return Err(Fault::Batch { size, limit });
        }
        self.instance.store.data().messages.hide(Arc::clone(&self.input));
        let (resource, input) = (self.resource, &self.input);
        let outcome = self
            .instance
            .call(Call::Process, |guest, store| guest.session().call_process(store, resource, input))?;
        let messages = &self.instance.store.data().messages;
        let mut outcome = outcome.map_err(|failure| match failure {
            Failure::Config(words) => Fault::ConfigWithRows(messages.safe(&words)),
            Failure::Data(words) => Fault::DataWithRows(messages.safe(&words)),
        })?;
        messages.secrets().hide_in(&mut outcome.rejections);
        let valid = validate(outcome, batch.rows(), &self.names)?;
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
            let place = self.columns.get(column).copied();
            if !never!(place.is_none(), "a checked answer changes a column of another session")
                && let Some(place) = place
            {
                batch.put_column(place, cells);
            }
        }
        Ok(())
    }
}

/// Columns that a plugin may add to a file.
const MAX_ADDED: usize = 10_000;
/// Bytes of the name of an added column.
const MAX_NAME: usize = 1000;

/// The places of the columns that a plugin reads, or what is wrong with them. The work is bounded by the file's columns,
/// however many the plugin names.
fn places(wanted: &[u32], header: &[String]) -> Result<Vec<usize>, String> {
    let mut is_wanted = vec![false; header.len()];
    let mut places = Vec::new();
    for place in wanted {
        let place = *place as usize;
        match (is_wanted.get_mut(place), header.get(place)) {
            (Some(is_wanted), _) if !*is_wanted => *is_wanted = true,
            (Some(_), Some(name)) => return Err(format!("it reads column `{}` twice", shown(name))),
            _ => return Err(format!("it reads column {place}, and the file has {}", columns(header.len()))),
        }
        places.push(place);
    }
    Ok(places)
}

fn columns(count: usize) -> String {
    if count == 1 { "1 column".to_owned() } else { format!("{count} columns") }
}

/// Says what is wrong with the names of added columns, if anything is. Their number is checked first: it bounds the work.
fn check_added(added: &[String], header: &[String], secrets: &Secrets) -> Result<(), String> {
    if added.len() > MAX_ADDED {
        return Err(format!("it adds {} columns, more than {MAX_ADDED}", added.len()));
    }
    let mut known: HashSet<&str> = header.iter().map(String::as_str).collect();
    for name in added {
        if name.is_empty() {
            return Err("it adds a column without a name".to_owned());
        }
        if name.len() > MAX_NAME {
            return Err(format!("it adds a column whose name is longer than {MAX_NAME} bytes"));
        }
        if secrets.are_in(name) {
            return Err("it adds a column whose name holds a secret of its configuration".to_owned());
        }
        if !known.insert(name) {
            return Err(format!("it adds a column `{}`, and there is one already", shown(name)));
        }
    }
    Ok(())
}
