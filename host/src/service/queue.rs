//! What is to run. Each connection is in it once at most, and what is in it outlives the process: it is written down before
//! it is promised, and crossed out when it is done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluicebox_store::{Store, StoreError};
use tokio::sync::watch;

use crate::config::{Config, Connection};
use crate::error::Error;
use crate::report::{Kept, Run, Trigger};

/// Runs that wait, and the one under way.
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    /// Counts changes, for those who watch.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// The files of the connections that wait, first in, first out.
    waiting: VecDeque<String>,
    running: Option<String>,
    connections: BTreeMap<String, Remembered>,
    closed: bool,
}

/// What is known of a connection's runs, here and in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    /// The schedule that the time below belongs to, as text; a new one begins anew.
    schedule: Option<String>,
    /// What was due up to this time is taken care of, in milliseconds since the epoch.
    taken_care_of: i64,
    wanted: Option<Wanted>,
}

/// A run that is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    /// Its id.
    pub run: String,
    pub trigger: Trigger,
    /// Only these goals; empty = all.
    pub goals: Vec<String>,
    /// Goals that an earlier run, which was cut off, brought to their end.
    pub done: Vec<String>,
    pub continues: Option<String>,
    /// Whether it began.
    pub begun: bool,
}

impl Wanted {
    pub(super) fn new(trigger: Trigger, goals: Vec<String>) -> Self {
        Self { run: Run::new(trigger).id, trigger, goals, done: Vec::new(), continues: None, begun: false }
    }

    /// Whether a goal of it is still to run.
    pub(super) fn wants(&self, goal: &str) -> bool {
        (self.goals.is_empty() || self.goals.iter().any(|wanted| wanted == goal))
            && !self.done.iter().any(|done| done == goal)
    }

    pub(super) fn as_run(&self) -> Run {
        Run { id: self.run.clone(), trigger: self.trigger, continues: self.continues.clone() }
    }
}

/// A run in the queue, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    /// The connection's file.
    pub connection: String,
    pub wanted: Wanted,
    pub running: bool,
}

/// The connection has a run already.
#[derive(Debug)]
pub(super) struct Busy {
    pub run: String,
}

impl Queue {
    /// What an earlier process left. A run that it began goes on as a run of its own, with the goals that had not ended.
    pub(super) fn restore(config: &Config, store: &Store) -> Result<Self, Error> {
        let mut state = State::default();
        for connection in &config.connections {
            let mut remembered = remembered(store, &connection.stem)?;
            if let Some(cut_off) = remembered.wanted.take_if(|wanted| wanted.begun) {
                remembered.wanted = continuation(connection, store, cut_off)?;
                put(store, &connection.stem, &remembered)?;
            }
            if remembered.wanted.is_some() {
                state.waiting.push_back(connection.stem.clone());
            }
            state.connections.insert(connection.stem.clone(), remembered);
        }
        Ok(Self { state: Mutex::new(state), filled: Condvar::new(), changes: watch::Sender::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Tells of changes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Puts a run of a connection into the queue.
    ///
    /// # Errors
    /// If the store fails. [`Busy`] if the connection has a run that waits or is under way.
    pub(super) fn put(
        &self,
        store: &Store,
        connection: &str,
        wanted: Wanted,
    ) -> Result<Result<String, Busy>, Error> {
        let mut state = self.lock();
        let mut remembered = state.remembered(store, connection)?;
        if let Some(before) = remembered.wanted {
            return Ok(Err(Busy { run: before.run }));
        }
        let run = wanted.run.clone();
        remembered.wanted = Some(wanted);
        put(store, connection, &remembered)?;
        state.connections.insert(connection.to_owned(), remembered);
        state.waiting.push_back(connection.to_owned());
        drop(state);
        self.filled.notify_all();
        self.changed();
        Ok(Ok(run))
    }

    /// Puts a run into the queue if the connection is due, and answers when it is due next. What was due several times
    /// meanwhile runs once.
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
        let mut remembered = state.remembered(store, &connection.stem)?;
        let before = remembered.clone();
        if remembered.schedule != text {
            remembered.schedule = text;
            remembered.taken_care_of = now.as_millisecond();
        }
        let since = Timestamp::from_millisecond(remembered.taken_care_of).unwrap_or(now);
        let next = schedule.and_then(|schedule| schedule.next_after(since));
        let due = next.is_some_and(|next| next <= now);
        // While a run waits or is under way the connection stays due: it is made up when that one ended.
        let waits = remembered.wanted.is_some();
        if due && !waits {
            let late = next.is_some_and(|next| now.duration_since(next) > LATE);
            let trigger = if late { Trigger::Missed } else { Trigger::Schedule };
            remembered.wanted = Some(Wanted::new(trigger, Vec::new()));
            remembered.taken_care_of = now.as_millisecond();
            state.waiting.push_back(connection.stem.clone());
        }
        if remembered != before {
            put(store, &connection.stem, &remembered)?;
        }
        state.connections.insert(connection.stem.clone(), remembered);
        drop(state);
        if due && !waits {
            self.filled.notify_all();
            self.changed();
        }
        Ok(if due { schedule.and_then(|schedule| schedule.next_after(now)) } else { next })
    }

    /// The next run, when there is one; `None` when the service stops. It is written down that it began.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn take(&self, store: &Store) -> Result<Option<(String, Wanted)>, Error> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return Ok(None);
            }
            if let Some(connection) = state.waiting.pop_front() {
                let mut remembered = state.remembered(store, &connection)?;
                let Some(wanted) = &mut remembered.wanted else { continue };
                wanted.begun = true;
                let taken = wanted.clone();
                put(store, &connection, &remembered)?;
                state.running = Some(connection.clone());
                state.connections.insert(connection.clone(), remembered);
                drop(state);
                self.changed();
                return Ok(Some((connection, taken)));
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Crosses out a run that ended; one that was cut off by the end of the service is left for the next start.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn ended(&self, store: &Store, connection: &str, done: bool) -> Result<(), Error> {
        let mut state = self.lock();
        state.running = None;
        if done {
            let mut remembered = state.remembered(store, connection)?;
            remembered.wanted = None;
            put(store, connection, &remembered)?;
            state.connections.insert(connection.to_owned(), remembered);
        }
        drop(state);
        self.changed();
        Ok(())
    }

    /// Takes a run that waits out of the queue; answers whether it was in it.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn withdraw(&self, store: &Store, run: &str) -> Result<bool, Error> {
        let mut state = self.lock();
        let of_run = |state: &State, name: &String| {
            state
                .connections
                .get(name)
                .and_then(|known| known.wanted.as_ref())
                .is_some_and(|known| known.run == run)
        };
        let Some(place) = state.waiting.iter().position(|name| of_run(&state, name)) else {
            return Ok(false);
        };
        let Some(connection) = state.waiting.remove(place) else { return Ok(false) };
        let mut remembered = state.remembered(store, &connection)?;
        remembered.wanted = None;
        put(store, &connection, &remembered)?;
        state.connections.insert(connection, remembered);
        drop(state);
        self.changed();
        Ok(true)
    }

    /// The run under way, then those that wait, in their order.
    pub(super) fn list(&self) -> Vec<Queued> {
        let state = self.lock();
        let queued = |connection: &String, running| {
            let wanted = state.connections.get(connection)?.wanted.clone()?;
            Some(Queued { connection: connection.clone(), wanted, running })
        };
        let running = state.running.iter().filter_map(|connection| queued(connection, true));
        running.chain(state.waiting.iter().filter_map(|connection| queued(connection, false))).collect()
    }

    /// No run begins any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }
}

/// A run that begins later than this was missed.
const LATE: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

impl State {
    /// What is known of a connection; of one whose file is new, what the store has.
    fn remembered(&self, store: &Store, connection: &str) -> Result<Remembered, Error> {
        match self.connections.get(connection) {
            Some(known) => Ok(known.clone()),
            None => remembered(store, connection),
        }
    }
}

fn remembered(store: &Store, connection: &str) -> Result<Remembered, Error> {
    let Some(bytes) = store.runs_of(connection)? else { return Ok(Remembered::default()) };
    serde_json::from_slice(&bytes).map_err(|_| StoreError::Damaged("what the service remembers").into())
}

fn put(store: &Store, connection: &str, remembered: &Remembered) -> Result<(), Error> {
    // Texts and numbers alone: this cannot fail.
    let bytes = serde_json::to_vec(remembered).unwrap_or_default();
    Ok(store.remember_runs_of(connection, &bytes)?)
}

/// What is left of a run that was cut off; `None` if all its goals had ended.
fn continuation(connection: &Connection, store: &Store, cut_off: Wanted) -> Result<Option<Wanted>, Error> {
    let mut done = cut_off.done;
    for entry in store.history() {
        let kept = Kept::decode(&entry?.1).ok_or(StoreError::Damaged("the history"))?;
        // Ids begin with their time.
        if kept.report.run < cut_off.run {
            break;
        }
        if kept.report.run == cut_off.run && !kept.interrupted {
            done.push(kept.report.goal);
        }
    }
    let continues = Some(cut_off.run);
    let left = Wanted { done, continues, ..Wanted::new(Trigger::Continuation, cut_off.goals) };
    let any =
        connection.enabled && connection.all_goals().any(|goal| goal.enabled() && left.wants(goal.name()));
    Ok(any.then_some(left))
}
