//! The runs that wait, and the current ones. Each connection has at most one. They outlive the process: a run is in the store
//! before it is promised, and is removed when it has ended.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluicebox_model::{OrNever, never};
use sluicebox_store::{Store, StoreError};
use tokio::sync::watch;

use crate::config::{Config, Connection};
use crate::error::Error;
use crate::runs::rejected::corrected_folder;
use crate::runs::report::{HistoryEntry, Run, Trigger};

/// The runs that wait, and the current ones.
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    /// Counts changes.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// The files of the connections whose runs wait, the first first.
    waiting: VecDeque<String>,
    /// The files of the connections whose runs are current, the first first.
    running: Vec<String>,
    connections: BTreeMap<String, ConnectionRuns>,
    closed: bool,
}

/// A connection's schedule and run, as the store keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ConnectionRuns {
    /// The schedule of the time below, as text. A changed schedule starts over.
    schedule: Option<String>,
    /// Runs that were due up to this time have been queued. In milliseconds since the epoch.
    #[serde(rename = "taken_care_of")]
    queued_until: i64,
    /// The run that waits or is current.
    #[serde(rename = "wanted")]
    run: Option<PlannedRun>,
}

/// A run that waits or is current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlannedRun {
    /// Its id.
    pub run: String,
    pub trigger: Trigger,
    /// Only these goals; empty = all.
    pub goals: Vec<String>,
    /// The corrected lines that it imports, instead of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected: Option<CorrectedRows>,
    /// Goals that ended in the interrupted run that this one continues.
    pub done: Vec<String>,
    pub continues: Option<String>,
    /// Whether it imports files again that were imported already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reimport: bool,
    /// Goals that it continues: their files were marked as due before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<String>,
    /// Whether it has started.
    pub begun: bool,
}

/// Corrected lines of a goal run's rejected rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CorrectedRows {
    /// The run that did not take them.
    pub run: String,
    pub goal: String,
    /// Names their folder: the id of the run that was to import them first.
    pub import: String,
}

impl CorrectedRows {
    /// The folder of the lines.
    pub(super) fn folder(&self, config: &Config) -> PathBuf {
        corrected_folder(config, &self.run, &self.import)
    }
}

impl PlannedRun {
    pub(super) fn new(trigger: Trigger, goals: Vec<String>) -> Self {
        Self {
            run: Run::new(trigger).id,
            trigger,
            goals,
            corrected: None,
            done: Vec::new(),
            continues: None,
            reimport: false,
            resumed: Vec::new(),
            begun: false,
        }
    }

    /// Whether it runs a goal.
    pub(super) fn includes(&self, goal: &str) -> bool {
        (self.goals.is_empty() || self.goals.iter().any(|included| included == goal))
            && !self.done.iter().any(|done| done == goal)
    }

    pub(super) fn as_run(&self) -> Run {
        Run { id: self.run.clone(), trigger: self.trigger, continues: self.continues.clone() }
    }
}

/// A run in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    /// The connection's file.
    pub connection: String,
    pub planned: PlannedRun,
    pub running: bool,
}

/// The connection has a run that waits or is current.
#[derive(Debug)]
pub(super) struct AlreadyQueued {
    pub run: String,
}

impl Queue {
    /// The runs that an earlier process left. One that had started continues as a run of its own, with the goals that had not
    /// ended.
    pub(super) fn restore(config: &Config, store: &Store) -> Result<Self, Error> {
        let mut state = State::default();
        for connection in &config.connections {
            let mut runs = load(store, &connection.stem)?;
            if let Some(interrupted) = runs.run.take_if(|run| run.begun) {
                runs.run = continuation(connection, store, interrupted)?;
                save(store, &connection.stem, &runs)?;
            }
            if runs.run.is_some() {
                state.waiting.push_back(connection.stem.clone());
            }
            state.connections.insert(connection.stem.clone(), runs);
        }
        Ok(Self { state: Mutex::new(state), filled: Condvar::new(), changes: watch::Sender::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Reports changes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Puts a run of a connection into the queue, and answers with its id.
    ///
    /// # Errors
    /// If the store fails. [`AlreadyQueued`] if the connection has a run that waits or is current.
    pub(super) fn put(
        &self,
        store: &Store,
        connection: &str,
        planned: PlannedRun,
    ) -> Result<Result<String, AlreadyQueued>, Error> {
        let mut state = self.lock();
        let mut runs = state.runs_of(store, connection)?;
        if let Some(before) = runs.run {
            return Ok(Err(AlreadyQueued { run: before.run }));
        }
        let run = planned.run.clone();
        runs.run = Some(planned);
        save(store, connection, &runs)?;
        state.connections.insert(connection.to_owned(), runs);
        state.waiting.push_back(connection.to_owned());
        drop(state);
        self.filled.notify_all();
        self.changed();
        Ok(Ok(run))
    }

    /// Puts a run into the queue if the connection is due, and answers when it is due next. Several missed times are one run.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn tick(
        &self,
        store: &Store,
        connection: &Connection,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Error> {
        let schedule = connection.schedule.as_ref().filter(|_| connection.enabled);
        let text = schedule.map(|schedule| format!("{schedule:?}"));
        let mut state = self.lock();
        let mut runs = state.runs_of(store, &connection.stem)?;
        let before = runs.clone();
        if runs.schedule != text {
            runs.schedule = text;
            runs.queued_until = now.as_millisecond();
        }
        // A time that no calendar has is damage of the store.
        let since = Timestamp::from_millisecond(runs.queued_until).unwrap_or(now);
        let next = schedule.and_then(|schedule| schedule.next_after(since));
        let due = next.is_some_and(|next| next <= now);
        // While a run waits or is current the connection stays due, and is queued when that run has ended.
        let has_run = runs.run.is_some();
        if due && !has_run {
            let late = next.is_some_and(|next| now.duration_since(next) > LATE);
            let trigger = if late { Trigger::Missed } else { Trigger::Schedule };
            runs.run = Some(PlannedRun::new(trigger, Vec::new()));
            runs.queued_until = now.as_millisecond();
            state.waiting.push_back(connection.stem.clone());
        }
        if runs != before {
            save(store, &connection.stem, &runs)?;
        }
        state.connections.insert(connection.stem.clone(), runs);
        drop(state);
        if due && !has_run {
            self.filled.notify_all();
            self.changed();
        }
        Ok(if due { schedule.and_then(|schedule| schedule.next_after(now)) } else { next })
    }

    /// Waits for the next run, and makes it a current one; `None` when the service stops.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn take(&self, store: &Store) -> Result<Option<(String, PlannedRun)>, Error> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Ok(None);
            }
            if let Some(connection) = state.waiting.pop_front() {
                let mut runs = state.runs_of(store, &connection)?;
                let Some(run) = &mut runs.run else {
                    never!(true, "a connection that waits has no run");
                    continue;
                };
                run.begun = true;
                let taken = run.clone();
                save(store, &connection, &runs)?;
                state.running.push(connection.clone());
                state.connections.insert(connection.clone(), runs);
                drop(state);
                self.changed();
                return Ok(Some((connection, taken)));
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Removes a current run, which ended. One that the end of the service interrupted (`done` = false) stays for the next
    /// start.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn ended(&self, store: &Store, connection: &str, done: bool) -> Result<(), Error> {
        let mut state = self.lock();
        state.running.retain(|running| running != connection);
        if done {
            let mut runs = state.runs_of(store, connection)?;
            runs.run = None;
            save(store, connection, &runs)?;
            state.connections.insert(connection.to_owned(), runs);
        }
        drop(state);
        self.changed();
        Ok(())
    }

    /// Removes a run that waits; answers whether there was one.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn withdraw(&self, store: &Store, run: &str) -> Result<bool, Error> {
        let mut state = self.lock();
        let has_run = |name: &String| {
            let runs = state.connections.get(name);
            runs.and_then(|runs| runs.run.as_ref()).is_some_and(|planned| planned.run == run)
        };
        let place = state.waiting.iter().position(has_run);
        let Some(connection) = place.and_then(|place| state.waiting.remove(place)) else {
            return Ok(false);
        };
        let mut runs = state.runs_of(store, &connection)?;
        runs.run = None;
        save(store, &connection, &runs)?;
        state.connections.insert(connection, runs);
        drop(state);
        self.changed();
        Ok(true)
    }

    /// Does short work while no run is current, and lets none start meanwhile; `None` if there is one.
    pub(super) fn while_idle<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let state = self.lock();
        let done = state.running.is_empty().then(work);
        drop(state);
        done
    }

    /// The current runs, then those that wait, in their order.
    pub(super) fn list(&self) -> Vec<Queued> {
        let state = self.lock();
        let queued = |connection: &String, running| {
            let planned = state.connections.get(connection)?.run.clone()?;
            Some(Queued { connection: connection.clone(), planned, running })
        };
        let running = state.running.iter().filter_map(|connection| queued(connection, true));
        running.chain(state.waiting.iter().filter_map(|connection| queued(connection, false))).collect()
    }

    /// Lets no further run start.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}

/// A run that starts later than this was missed.
const LATE: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

impl State {
    /// The schedule and run of a connection; those of a new file are in the store.
    fn runs_of(&self, store: &Store, connection: &str) -> Result<ConnectionRuns, Error> {
        match self.connections.get(connection) {
            Some(runs) => Ok(runs.clone()),
            None => load(store, connection),
        }
    }
}

fn load(store: &Store, connection: &str) -> Result<ConnectionRuns, Error> {
    let Some(bytes) = store.runs_of(connection)? else { return Ok(ConnectionRuns::default()) };
    serde_json::from_slice(&bytes).map_err(|_| StoreError::Damaged("the queue of the service").into())
}

fn save(store: &Store, connection: &str, runs: &ConnectionRuns) -> Result<(), Error> {
    let bytes = serde_json::to_vec(runs).or_never("the JSON of a queued run");
    Ok(store.remember_runs_of(connection, &bytes)?)
}

/// The rest of an interrupted run; `None` if all its goals had ended.
fn continuation(
    connection: &Connection,
    store: &Store,
    interrupted: PlannedRun,
) -> Result<Option<PlannedRun>, Error> {
    let (mut done, mut resumed) = (interrupted.done, interrupted.resumed);
    for entry in store.history() {
        let entry = HistoryEntry::decode(&entry?.1).ok_or(StoreError::Damaged("the history"))?;
        if entry.began_before(&interrupted.run) {
            break;
        }
        if entry.report.run == interrupted.run {
            let goals = if entry.interrupted { &mut resumed } else { &mut done };
            goals.push(entry.report.goal);
        }
    }
    let continues = Some(interrupted.run);
    let (reimport, corrected) = (interrupted.reimport, interrupted.corrected);
    if !reimport {
        resumed.clear();
    }
    let rest = PlannedRun::new(Trigger::Continuation, interrupted.goals);
    let rest = PlannedRun { done, continues, reimport, corrected, resumed, ..rest };
    let mut goals = connection.all_goals().filter(|goal| goal.enabled());
    let any = connection.enabled && goals.any(|goal| rest.includes(goal.name()));
    Ok(any.then_some(rest))
}
