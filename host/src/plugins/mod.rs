//! Finds a goal's plugins: bundled with this binary, in the plugin folder, or at a path.

mod config_schema;
pub(crate) mod guest;
pub(crate) mod registry;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluicebox_files::{FileError, open_regular};
use sluicebox_processors::{
    CompileLimits, Compiler, Configuration, Fault, MAX_COMPONENT, Plugin, Runtime, Session,
    compile_for_parent,
};

use crate::config::{Config, Connection, ProcessorEntry, nearest};
use crate::error::Error;

/// The components in this binary, by name.
pub(crate) const BUNDLED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// The BLAKE3 digests by which stores of earlier versions know bundled plugins, whatever build of them a program had: those of
/// the first release. They must never change, or an upgrade imports files again.
const LEDGER_DIGESTS: [(&str, &str); 5] = [
    ("email-normalizer", "c98ebb0de10db5939eb7e824980eaa871a64e41ac1fe65fdafb5439428b2c5ee"),
    ("field-transform", "fb18848b7b55162f16941152a370a3949d0c1cefd6236aad1743439c81b0f537"),
    ("phone-normalizer", "95f1f4502ea56a08ca010ea0f4374198061031d50ad39386258629eb43ccfc87"),
    ("pseudonymizer", "4a24121afe2e08e08ccfd7bbaea8e42db8500e2ca6a7a3171739a51ca9a5e545"),
    ("row-filter", "e1fb1b6a8cccca77c9958f2596e536859e4c396832f4cb7745159f2fc97a596e"),
];

/// A plugin with its configuration.
pub(crate) struct Processor {
    pub plugin: Plugin,
    /// The linked file whose rows it reads; `None` = the root file.
    pub file: Option<usize>,
    /// With its secrets: never shown.
    pub config: Configuration,
    pub build: Build,
    /// Why `describe` failed: it crashed, or was stopped. The goal fails with this message.
    pub broken: Option<String>,
}

/// Which build of a plugin a processor runs.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// The plugin's name or path in the goal.
    pub name: String,
    /// The BLAKE3 digest of the component.
    pub digest: [u8; 32],
    /// Whether the goal or the lock file allows no other build.
    pub pinned: bool,
    /// The digest by which stores of earlier versions know every build of a bundled plugin.
    pub first_release: Option<[u8; 32]>,
    /// Whether the component is one of this program.
    is_bundled: bool,
}

impl Processor {
    /// Its file, and the bytes that it may take. A bundled plugin takes little more than a batch, which the division of the memory
    /// counts already.
    pub(crate) fn memory(&self) -> (Option<usize>, usize) {
        (self.file, if self.build.is_bundled { 0 } else { self.plugin.limits().memory })
    }
}

impl Build {
    fn of(entry: &ProcessorEntry, plugin: &Plugin, has_lock: bool) -> Self {
        let digest = *plugin.digest();
        let known = LEDGER_DIGESTS.iter().find(|(name, _)| *name == plugin.name());
        let first_release = known.and_then(|(_, digest)| blake3::Hash::from_hex(digest).ok());
        let bundled = BUNDLED.iter().find(|(name, _)| *name == plugin.name());
        Self {
            name: entry.plugin.clone(),
            digest,
            pinned: has_lock || entry.sha256.is_some(),
            first_release: first_release.map(|digest| *digest.as_bytes()),
            is_bundled: bundled.is_some_and(|(_, bytes)| *blake3::hash(bytes).as_bytes() == digest),
        }
    }

    /// A build of a plugin that is not bundled.
    #[cfg(test)]
    pub(crate) fn test(name: &str, digest: [u8; 32], pinned: bool) -> Self {
        Self { name: name.to_owned(), digest, pinned, first_release: None, is_bundled: false }
    }

    /// The digest by which exports know the plugin. Another build of a bundled plugin has the same.
    pub(crate) fn export_digest(&self) -> [u8; 32] {
        self.first_release.filter(|_| self.is_bundled).unwrap_or(self.digest)
    }
}

/// The bytes that the processors of a goal may take together: each with its file, and the memory that it may use. The sessions of the
/// root file are open while linked files are read, one after the other. The largest answer is read while its plugin still has it.
pub(crate) fn memory_of(processors: impl Iterator<Item = (Option<usize>, usize)>) -> usize {
    let mut of_files: BTreeMap<Option<usize>, usize> = BTreeMap::new();
    let mut largest = 0;
    for (file, memory) in processors {
        let of_file = of_files.entry(file).or_default();
        *of_file = of_file.saturating_add(memory);
        largest = memory.max(largest);
    }
    let root = of_files.remove(&None).unwrap_or(0);
    let linked = of_files.into_values().max().unwrap_or(0);
    root.saturating_add(linked).saturating_add(largest)
}

/// Whether a name is that of a bundled plugin.
pub(crate) fn is_bundled(name: &str) -> bool {
    BUNDLED.iter().any(|(bundled, _)| *bundled == name)
}

/// Loads the plugins of a goal.
///
/// # Errors
/// If a plugin is missing, is not a component, or is not the pinned one; if a secret is missing; if a configuration does not
/// match the plugin's JSON Schema.
pub(crate) fn load(
    config: &Config,
    entries: &[ProcessorEntry],
    runtime: &Runtime,
) -> Result<Vec<Processor>, Error> {
    let lock = Lock::read(&config.root)?;
    let load = |entry: &ProcessorEntry| {
        let failed = |reason: String| Error::Plugin { place: entry.place.clone(), reason };
        let (bytes, name) = find(config, &entry.plugin).map_err(failed)?;
        if let Some(pinned) = &entry.sha256 {
            let found = sha256(&bytes);
            if found != *pinned {
                return Err(failed(format!("plugin {name} is not the pinned one: its sha256 is {found}")));
            }
        }
        if let Some(lock) = &lock {
            lock.check(&entry.plugin, &sha256(&bytes)).map_err(failed)?;
        }
        let plugin = runtime.load(&name, &bytes, entry.limits).map_err(|error| match error.fault {
            Fault::Stopped => Error::Interrupted,
            _ => failed(error.to_string()),
        })?;
        let own = entry.config.open(&config.root)?;
        let broken = match plugin.describe() {
            Ok(description) => {
                config_schema::check(own.json(), &description.config_schema)
                    .map_err(|reason| failed(format!("plugin {name}: {reason}")))?;
                None
            }
            Err(error) => Some(error.to_string()),
        };
        let build = Build::of(entry, &plugin, lock.is_some());
        Ok(Processor { plugin, file: entry.file, config: own, build, broken })
    };
    entries.iter().map(load).collect()
}

/// The BLAKE3 digest of a processor's component.
///
/// # Errors
/// If the plugin is missing.
pub(crate) fn digest(config: &Config, entry: &ProcessorEntry) -> Result<[u8; 32], Error> {
    let failed = |reason: String| Error::Plugin { place: entry.place.clone(), reason };
    let (bytes, _) = find(config, &entry.plugin).map_err(failed)?;
    Ok(blake3::hash(&bytes).into())
}

/// Opens a session of each processor on a file with the columns `columns`, and appends the columns that they add.
///
/// # Errors
/// If a processor cannot work on the columns.
pub(crate) fn open_sessions<'p>(
    processors: impl IntoIterator<Item = &'p Processor>,
    goal: &str,
    file: &str,
    columns: &mut Vec<String>,
) -> Result<Vec<Session>, Error> {
    let open = |processor: &Processor| {
        let session = processor.plugin.open(goal, &processor.config, columns);
        let session =
            session.map_err(|error| Error::Processor { file: file.to_owned(), batch: None, error })?;
        columns.extend_from_slice(session.added());
        Ok(session)
    };
    processors.into_iter().map(open).collect()
}

/// The bytes of a plugin and its name.
fn find(config: &Config, plugin: &str) -> Result<(Vec<u8>, String), String> {
    let path = Path::new(plugin);
    if plugin.ends_with(".wasm") || path.components().count() > 1 {
        let place = config.root.join(path);
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return read(&place).map(|bytes| (bytes, name));
    }
    let in_folder = config.settings.plugins.join(format!("{plugin}.wasm"));
    if in_folder.is_file() {
        return read(&in_folder).map(|bytes| (bytes, plugin.to_owned()));
    }
    if let Some((_, bytes)) = BUNDLED.iter().find(|(name, _)| *name == plugin) {
        return Ok((bytes.to_vec(), plugin.to_owned()));
    }
    let mut known: Vec<String> = BUNDLED.iter().map(|(name, _)| (*name).to_owned()).collect();
    known.extend(in_plugin_folder(config).into_iter().map(|(name, _)| name));
    let hint = match nearest(plugin, known.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if BUNDLED.is_empty() => {
            "; this binary was built without bundled plugins, which `cargo xtask build-plugins` builds"
                .to_owned()
        }
        None => format!("; there are: {}", known.join(", ")),
    };
    Err(format!("there is no plugin `{plugin}`{hint}"))
}

/// The bytes of a plugin's file.
///
/// # Errors
/// If it cannot be read, is not a file, or is larger than a plugin may be.
pub(crate) fn read(place: &Path) -> Result<Vec<u8>, String> {
    let wrong = |what: &str| format!("the plugin {} {what}", place.display());
    let unreadable = |error: io::Error| wrong(&format!("cannot be read: {error}"));
    let file = open_regular(place).map_err(|error| match error {
        FileError::NotRegular(_) => wrong("is not a file"),
        error => wrong(&format!("cannot be read: {error}")),
    })?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(MAX_COMPONENT as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > MAX_COMPONENT {
        let size = metadata.len().max(bytes.len() as u64);
        return Err(wrong(&format!(
            "has {size} bytes, more than the {MAX_COMPONENT} that a plugin may have"
        )));
    }
    Ok(bytes)
}

/// The names and files of the plugins in the plugin folder.
pub(crate) fn in_plugin_folder(config: &Config) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(&config.settings.plugins).into_iter().flatten().flatten();
    let wasm = entries.map(|entry| entry.path()).filter(|path| is_wasm(path));
    let mut found: Vec<_> =
        wasm.filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path))).collect();
    found.sort();
    found
}

/// Whether the name of a file is that of a plugin.
pub(crate) fn is_wasm(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "wasm")
}

/// The SHA-256 of a file in hexadecimal digits, as in pins.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An engine that keeps compiled plugins beside the store, if `keep`: commands that only read leave no trace.
///
/// # Errors
/// If this machine cannot run WebAssembly.
pub(crate) fn runtime(config: &Config, keep: bool) -> Result<Runtime, Error> {
    let cache = config.data().join("plugin-cache");
    let keep = keep || cache.exists();
    runtime_with(keep.then_some(cache.as_path()), config.settings.compile)
}

/// An engine that keeps compiled plugins in a folder, if there is one.
///
/// # Errors
/// If this machine cannot run WebAssembly.
pub(crate) fn runtime_with(cache: Option<&Path>, limits: CompileLimits) -> Result<Runtime, Error> {
    // The unit tests are another program.
    let compiler = if cfg!(test) { Compiler::Here } else { Compiler::Process { command: COMPILER, limits } };
    Runtime::new(cache, compiler).map_err(|fault| Error::Usage(fault.to_string()))
}

/// This program, also when its file has been replaced meanwhile, and the hidden command of [`compile`].
const COMPILER: &[&str] = &["/proc/self/exe", "compile-plugin"];

/// Compiles a plugin for the process that started this one; answers with the exit code.
pub(crate) fn compile(memory: u64, milliseconds: u64, parent: u32) -> u8 {
    compile_for_parent(CompileLimits { memory, time: Duration::from_millis(milliseconds) }, parent)
}

/// The plugins that the goals use, pinned by `sluicebox plugin lock`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    /// The SHA-256 of each, by the name or path in the goals.
    pub plugins: BTreeMap<String, String>,
}

const LOCK_FILE: &str = "plugins.lock";

impl Lock {
    /// The present plugins.
    ///
    /// # Errors
    /// If a plugin is missing.
    pub(crate) fn of(config: &Config) -> Result<Self, Error> {
        let mut plugins = BTreeMap::new();
        for entry in config.connections.iter().flat_map(Connection::processors) {
            let (bytes, _) = find(config, &entry.plugin)
                .map_err(|reason| Error::Plugin { place: entry.place.clone(), reason })?;
            plugins.insert(entry.plugin.clone(), sha256(&bytes));
        }
        Ok(Self { plugins })
    }

    /// The lock file, if there is one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn read(root: &Path) -> Result<Option<Self>, Error> {
        let place = root.join(LOCK_FILE);
        let text = match fs::read_to_string(&place) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&place, error)),
        };
        let wrong =
            |error: toml::de::Error| Error::Usage(format!("{}: {}", place.display(), error.message()));
        toml::from_str(&text).map(Some).map_err(wrong)
    }

    /// Writes the lock file into the working folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self, root: &Path) -> Result<(), Error> {
        let place = root.join(LOCK_FILE);
        let table = toml::to_string(self).map_err(|error| Error::Usage(error.to_string()))?;
        let text = format!(
            "# Written by `sluicebox plugin lock`: `sluicebox run` refuses a plugin that differs.\n{table}"
        );
        fs::write(&place, text).map_err(|error| Error::io(&place, error))
    }

    fn check(&self, plugin: &str, found: &str) -> Result<(), String> {
        let next = "`sluicebox plugin lock` accepts the present plugins";
        match self.plugins.get(plugin) {
            Some(locked) if locked == found => Ok(()),
            Some(_) => {
                Err(format!("plugin {plugin} is not the one in {LOCK_FILE}: its sha256 is {found}; {next}"))
            }
            None => Err(format!("plugin {plugin} is not in {LOCK_FILE}; {next}")),
        }
    }
}
