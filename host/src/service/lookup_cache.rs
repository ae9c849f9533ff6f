//! A cache of history entries and of plugins' descriptions. A goal run that ended never changes; a plugin is described again when
//! its file changes.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use sluicebox_processors::{CompileLimits, Limits};
use sluicebox_store::StoreError;

use crate::config::Config;
use crate::error::Error;
use crate::plugins::{BUNDLED, in_plugin_folder, read, runtime, sha256};
use crate::runs::report::{HistoryEntry, Status};
use crate::service::api::blocking;
use crate::service::{NICENESS, Service};

/// History entries in the cache.
const MAX_ENTRIES: usize = 2000;

/// Plugins that are described at a time. A stranger's file may take long, and memory.
const MAX_DESCRIBERS: usize = 2;
/// How long a look waits for descriptions of files. Those that take longer are there at a later look.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// How long a look waits for descriptions of bundled plugins, which end.
const BUNDLED_TIME: Duration = Duration::from_secs(7);
/// How often a look asks whether plugins are described.
const PAUSE: Duration = Duration::from_millis(50);

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

/// What a description depends on: where it changes, the plugin is described again, whether describing it succeeded or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    /// Bytes of its file.
    size: u64,
    /// When its file changed; absent if it is bundled or cannot be read.
    modified: Option<SystemTime>,
    limits: Limits,
    compile: CompileLimits,
}

/// Descriptions, and the threads that make them. No look waits for another look's plugin.
#[derive(Default)]
struct Descriptions(Mutex<State>);

#[derive(Default)]
struct State {
    /// `None` while it waits to be described.
    known: HashMap<Place, (Stamp, Option<Arc<PluginInfo>>)>,
    waiting: VecDeque<Wanted>,
    describers: usize,
}

/// A plugin to be described.
struct Wanted {
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

    /// The bundled plugins, then those of the plugin folder. Those that are not described yet will be.
    pub(super) fn all_plugins(&self) -> Vec<Arc<PluginInfo>> {
        let config = self.folder.config();
        let wanted = |place: Place, name: &str, size: u64, modified: Option<SystemTime>| {
            let stamp =
                Stamp { size, modified, limits: config.settings.limits, compile: config.settings.compile };
            Wanted { place, stamp, name: name.to_owned(), config: Arc::clone(&config) }
        };
        let bundled =
            BUNDLED.iter().map(|(name, bytes)| wanted(Place::Bundled(name), name, bytes.len() as u64, None));
        let files = in_plugin_folder(&config).into_iter().map(|(name, path)| {
            let metadata = fs::metadata(&path).ok();
            let size = metadata.as_ref().map_or(0, fs::Metadata::len);
            let modified = metadata.and_then(|metadata| metadata.modified().ok());
            wanted(Place::File(path), &name, size, modified)
        });
        let plugins: Vec<Wanted> = bundled.chain(files).collect();
        let descriptions = &self.lookup_cache.descriptions;
        descriptions.forget_all_but(&plugins);
        plugins.into_iter().map(|plugin| descriptions.of(plugin)).collect()
    }
}

/// Waits until all plugins are described, or long enough for a look. No thread waits meanwhile.
pub(super) async fn wait_for_descriptions(service: &Arc<Service>) {
    let (begun, mut files_from) = (Instant::now(), None);
    loop {
        let pending = |service: &Service| {
            let pending = service.all_plugins().into_iter().filter(|plugin| plugin.pending);
            Ok(pending.map(|plugin| plugin.bundled).collect::<Vec<bool>>())
        };
        // The look itself reports what is wrong.
        let Ok(pending) = blocking(Arc::clone(service), pending).await else { return };
        let is_over = match pending.as_slice() {
            [] => true,
            pending if pending.contains(&true) => begun.elapsed() > BUNDLED_TIME,
            _ => files_from.get_or_insert_with(Instant::now).elapsed() > LOOK_TIME,
        };
        if is_over {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Descriptions {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_all_but(&self, plugins: &[Wanted]) {
        let present: HashSet<&Place> = plugins.iter().map(|plugin| &plugin.place).collect();
        self.state().known.retain(|place, _| present.contains(place));
    }

    /// The description of a plugin; what is known without it, if it is not described yet.
    fn of(self: &Arc<Self>, plugin: Wanted) -> Arc<PluginInfo> {
        let mut state = self.state();
        let pending = Arc::new(plugin.pending());
        match state.known.get(&plugin.place) {
            Some((stamp, described)) if *stamp == plugin.stamp => {
                return described.clone().unwrap_or(pending);
            }
            _ => state.known.insert(plugin.place.clone(), (plugin.stamp, None)),
        };
        state.waiting.retain(|waiting| waiting.place != plugin.place);
        state.waiting.push_back(plugin);
        if state.describers < MAX_DESCRIBERS {
            let shared = Arc::clone(self);
            let describer = thread::Builder::new().name("describe".to_owned());
            match describer.spawn(move || shared.work()) {
                Ok(_) => state.describers += 1,
                Err(error) => tracing::error!(%error, "no thread can be started to describe plugins"),
            }
        }
        pending
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
        }
    }
}

impl Wanted {
    /// What is known without a description.
    fn pending(&self) -> PluginInfo {
        PluginInfo {
            name: self.name.clone(),
            size: self.stamp.size,
            bundled: matches!(self.place, Place::Bundled(_)),
            pending: true,
            ..PluginInfo::default()
        }
    }
}

fn describe(plugin: &Wanted) -> PluginInfo {
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
