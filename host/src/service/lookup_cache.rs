//! A cache of history entries and of plugins' descriptions. A goal run that ended never changes; a plugin is described again when
//! its file changes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use sluicebox_store::StoreError;

use crate::config::Config;
use crate::error::Error;
use crate::plugins::{BUNDLED, in_plugin_folder, read, runtime, sha256};
use crate::runs::report::{HistoryEntry, Status};
use crate::service::{NICENESS, Service};

/// History entries in the cache.
const MAX_ENTRIES: usize = 2000;

/// Plugins that are described at a time. A stranger's file may take long, and memory.
const MAX_DESCRIBERS: usize = 2;
/// How long a look waits for descriptions of files. Those that take longer are there at a later look.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// How long a look waits for descriptions of bundled plugins, which end.
const BUNDLED_TIME: Duration = Duration::from_secs(30);

/// The cache.
#[derive(Default)]
pub(super) struct LookupCache {
    /// By their numbers.
    entries: Mutex<BTreeMap<u64, Arc<HistoryEntry>>>,
    descriptions: Arc<Descriptions>,
}

/// A plugin as it describes itself.
#[derive(Clone, Debug, Default)]
pub(super) struct PluginInfo {
    pub name: String,
    /// Absent if its file cannot be read, or is not read yet.
    pub sha256: Option<String>,
    /// Bytes.
    pub size: u64,
    pub bundled: bool,
    pub version: Option<String>,
    pub summary: Option<String>,
    /// Why it cannot be used.
    pub problem: Option<String>,
    /// Whether it is not described yet.
    pub pending: bool,
}

/// Where a plugin is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Bundled(&'static str),
    File(PathBuf),
}

/// The time and size of a plugin's file: another is described again, whether describing it succeeded or not.
type Stamp = Option<(SystemTime, u64)>;

/// Descriptions, and the threads that make them. No look waits for another look's plugin.
#[derive(Default)]
struct Descriptions {
    state: Mutex<State>,
    /// Another plugin is described.
    described: Condvar,
}

#[derive(Default)]
struct State {
    /// `None` while it waits to be described.
    known: HashMap<Place, (Stamp, Option<Arc<PluginInfo>>)>,
    waiting: VecDeque<Waiting>,
    describers: usize,
}

struct Waiting {
    place: Place,
    stamp: Stamp,
    name: String,
    config: Arc<Config>,
}

impl Service {
    /// The goal runs of the history, newest first.
    pub(super) fn history_entries(&self) -> impl Iterator<Item = Result<Arc<HistoryEntry>, Error>> + '_ {
        self.store.history().map(|entry| {
            let (number, bytes) = entry?;
            let mut cached = self.lookup_cache.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = cached.get(&number) {
                return Ok(Arc::clone(entry));
            }
            let entry = Arc::new(HistoryEntry::decode(&bytes).ok_or(StoreError::Damaged("the history"))?);
            if entry.report.status != Status::Running {
                cached.insert(number, Arc::clone(&entry));
                if cached.len() > MAX_ENTRIES {
                    cached.pop_first();
                }
            }
            Ok(entry)
        })
    }

    /// The bundled plugins, then those of the plugin folder. Those that take long are not described yet.
    pub(super) fn all_plugins(&self) -> Vec<Arc<PluginInfo>> {
        let config = self.folder.config();
        let bundled = BUNDLED.iter().map(|(name, bytes)| Waiting {
            place: Place::Bundled(name),
            stamp: Some((SystemTime::UNIX_EPOCH, bytes.len() as u64)),
            name: (*name).to_owned(),
            config: Arc::clone(&config),
        });
        let files = in_plugin_folder(&config).into_iter().map(|(name, path)| {
            let metadata = fs::metadata(&path);
            let stamp = metadata.and_then(|metadata| Ok((metadata.modified()?, metadata.len()))).ok();
            Waiting { place: Place::File(path), stamp, name, config: Arc::clone(&config) }
        });
        self.lookup_cache.descriptions.of(bundled.collect(), files.collect())
    }
}

impl Descriptions {
    /// The descriptions of all plugins; without those that are not made in time.
    fn of(self: &Arc<Self>, bundled: Vec<Waiting>, files: Vec<Waiting>) -> Vec<Arc<PluginInfo>> {
        let all = || bundled.iter().chain(&files);
        let present: HashSet<&Place> = all().map(|plugin| &plugin.place).collect();
        self.state().known.retain(|place, _| present.contains(place));
        all().for_each(|plugin| self.ask(plugin));
        let in_time = |plugins: &[Waiting], time| {
            let until = Instant::now() + time;
            plugins.iter().map(|plugin| self.wait(plugin, until)).collect::<Vec<_>>()
        };
        let mut described = in_time(&bundled, BUNDLED_TIME);
        described.extend(in_time(&files, LOOK_TIME));
        described
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a plugin described that is not.
    fn ask(self: &Arc<Self>, plugin: &Waiting) {
        let mut state = self.state();
        if state.known.get(&plugin.place).is_some_and(|(stamp, _)| *stamp == plugin.stamp) {
            return;
        }
        state.known.insert(plugin.place.clone(), (plugin.stamp, None));
        state.waiting.retain(|waiting| waiting.place != plugin.place);
        let Waiting { place, stamp, name, config } = plugin;
        let (place, name, config) = (place.clone(), name.clone(), Arc::clone(config));
        state.waiting.push_back(Waiting { place, stamp: *stamp, name, config });
        if state.describers < MAX_DESCRIBERS {
            let shared = Arc::clone(self);
            let describer = thread::Builder::new().name("describe".to_owned());
            match describer.spawn(move || shared.work()) {
                Ok(_) => state.describers += 1,
                Err(error) => tracing::error!(%error, "no thread can be started to describe plugins"),
            }
        }
    }

    /// Describes plugins until none waits.
    fn work(&self) {
        // Imports go first, as with requests.
        let _ = rustix::process::nice(NICENESS);
        loop {
            let mut state = self.state();
            let Some(next) = state.waiting.pop_front() else {
                state.describers -= 1;
                return;
            };
            drop(state);
            let described = catch_unwind(AssertUnwindSafe(|| describe(&next)));
            let described = described.unwrap_or_else(|_| PluginInfo {
                problem: Some("internal error".to_owned()),
                ..next.pending()
            });
            let mut state = self.state();
            // Its file may have changed or gone meanwhile.
            if let Some((stamp, known)) = state.known.get_mut(&next.place)
                && *stamp == next.stamp
            {
                *known = Some(Arc::new(PluginInfo { pending: false, ..described }));
            }
            drop(state);
            self.described.notify_all();
        }
    }

    /// The description of a plugin, or what is known without it.
    fn wait(&self, plugin: &Waiting, until: Instant) -> Arc<PluginInfo> {
        let mut state = self.state();
        loop {
            match state.known.get(&plugin.place) {
                Some((_, Some(described))) => return Arc::clone(described),
                Some((_, None)) => {}
                None => return Arc::new(plugin.pending()),
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Arc::new(plugin.pending());
            }
            let waited = self.described.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Waiting {
    /// What is known without a description.
    fn pending(&self) -> PluginInfo {
        PluginInfo {
            name: self.name.clone(),
            size: self.stamp.map_or(0, |(_, size)| size),
            bundled: matches!(self.place, Place::Bundled(_)),
            pending: true,
            ..PluginInfo::default()
        }
    }
}

fn describe(plugin: &Waiting) -> PluginInfo {
    let known = plugin.pending();
    let bytes = match &plugin.place {
        Place::Bundled(name) => {
            BUNDLED.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.to_vec())
        }
        Place::File(path) => match read(path) {
            Ok(bytes) => Some(bytes),
            Err(problem) => return PluginInfo { problem: Some(problem), ..known },
        },
    };
    let bytes = bytes.unwrap_or_default();
    let limits = plugin.config.settings.limits;
    let described = runtime(&plugin.config, true).map_err(|error| error.to_string()).and_then(|runtime| {
        let loaded = runtime.load(&plugin.name, &bytes, limits);
        loaded.and_then(|plugin| plugin.describe()).map_err(|error| error.to_string())
    });
    PluginInfo {
        sha256: Some(sha256(&bytes)),
        size: bytes.len() as u64,
        version: described.as_ref().ok().map(|it| it.version.clone()),
        summary: described.as_ref().ok().map(|it| it.summary.clone()),
        problem: described.err(),
        ..known
    }
}
