//! Finds a goal's plugins: bundled in this binary, in the plugin folder, or at a path.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::error::ValidationErrorKind;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluicebox_processors::{Plugin, Runtime};

use crate::config::{Config, Connection, ProcessorEntry, nearest};
use crate::error::Error;

/// The components that this binary carries, by name.
pub(crate) const BUNDLED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// A plugin with its configuration.
pub(crate) struct Processor {
    pub plugin: Plugin,
    /// The linked file whose rows it sees; `None` = the root file.
    pub file: Option<usize>,
    /// With its secrets: never shown.
    pub config: String,
    /// Why it cannot say what it is: it broke off, or was stopped. The goal fails for that.
    pub broken: Option<String>,
}

/// Loads the plugins of a goal.
///
/// # Errors
/// If one is missing, is no component, or is not the one that is pinned; if a secret is missing; if a configuration does
/// not go with the plugin's schema.
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
                return Err(failed(format!(
                    "plugin {name} is not the one that is pinned: its sha256 is {found}"
                )));
            }
        }
        if let Some(lock) = &lock {
            lock.check(&entry.plugin, &sha256(&bytes)).map_err(failed)?;
        }
        let plugin = runtime.load(&name, &bytes, entry.limits).map_err(|error| failed(error.to_string()))?;
        let own = entry.config.open(&config.root)?;
        let broken = match plugin.describe() {
            Ok(description) => {
                check_config(&own, &description.config_schema)
                    .map_err(|reason| failed(format!("plugin {name}: {reason}")))?;
                None
            }
            Err(error) => Some(error.to_string()),
        };
        Ok(Processor { plugin, file: entry.file, config: own, broken })
    };
    entries.iter().map(load).collect()
}

/// Whether a configuration goes with a plugin's JSON Schema; the answer names each wrong value by its path and quotes
/// none, for it may be a secret.
fn check_config(config: &str, schema: &str) -> Result<(), String> {
    let schema: serde_json::Value = serde_json::from_str(schema)
        .map_err(|error| format!("the schema of its configuration is not JSON: {error}"))?;
    // The schema is the plugin's: what it refers to elsewhere is not fetched.
    let validator = jsonschema::validator_for(&schema)
        .map_err(|error| format!("the schema of its configuration is no JSON Schema: {}", error.masked()))?;
    let config: serde_json::Value =
        serde_json::from_str(config).map_err(|error| format!("configuration: {error}"))?;
    let wrong = validator.iter_errors(&config).take(5).map(|error| {
        let path: String = error.instance_path().to_string().replace('/', ".");
        format!("config{path}: {}", problem(&error, &schema))
    });
    let wrong: Vec<String> = wrong.collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// What is wrong with a value, without the value. A key is no secret, and the nearest one helps.
fn problem(error: &jsonschema::ValidationError<'_>, schema: &serde_json::Value) -> String {
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let known = known_keys(error, schema);
            let near = |key: &String| match nearest(key, known.iter().copied()) {
                Some(near) => format!("unknown key `{key}`; did you mean `{near}`?"),
                None => format!("unknown key `{key}`; there are: {}", known.join(", ")),
            };
            unexpected.iter().map(near).collect::<Vec<_>>().join("; ")
        }
        ValidationErrorKind::OneOfNotValid { .. } | ValidationErrorKind::AnyOf { .. } => {
            match choices(error, schema) {
                choices if choices.is_empty() => "none of the forms that the plugin takes".to_owned(),
                choices => format!("expected one of {}", choices.join(", ")),
            }
        }
        ValidationErrorKind::Required { property } => {
            format!("`{}` is missing", property.as_str().unwrap_or_default())
        }
        _ => error.masked().to_string(),
    }
}

/// The part of the schema that a value goes against.
fn rule<'s>(
    error: &jsonschema::ValidationError<'_>,
    schema: &'s serde_json::Value,
) -> Option<&'s serde_json::Value> {
    schema.pointer(error.schema_path().as_str())
}

/// The keys that a table may have where an unknown one was found.
fn known_keys<'s>(error: &jsonschema::ValidationError<'_>, schema: &'s serde_json::Value) -> Vec<&'s str> {
    let path = error.schema_path().as_str();
    let table = path.rsplit_once('/').and_then(|(table, _)| schema.pointer(table));
    let properties = table.and_then(|table| table.get("properties")).and_then(serde_json::Value::as_object);
    properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str)).collect()
}

/// The values among which the plugin lets one choose, where its schema lists them.
fn choices<'s>(error: &jsonschema::ValidationError<'_>, schema: &'s serde_json::Value) -> Vec<&'s str> {
    let forms = rule(error, schema).and_then(serde_json::Value::as_array);
    let named = |form: &'s serde_json::Value| {
        let one = form.get("const").into_iter();
        let several = form.get("enum").and_then(serde_json::Value::as_array).into_iter().flatten();
        one.chain(several).filter_map(serde_json::Value::as_str)
    };
    forms.into_iter().flatten().flat_map(named).collect()
}

/// The bytes of a plugin and the name to call it by.
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
            "; this binary was built without the bundled ones, which `cargo xtask build-plugins` makes"
                .to_owned()
        }
        None => format!("; there are: {}", known.join(", ")),
    };
    Err(format!("there is no plugin `{plugin}`{hint}"))
}

fn read(place: &Path) -> Result<Vec<u8>, String> {
    // A FIFO would be waited for, for ever.
    match fs::metadata(place) {
        Ok(metadata) if !metadata.is_file() => Err(format!("the plugin {} is not a file", place.display())),
        _ => {
            fs::read(place).map_err(|error| format!("the plugin {} cannot be read: {error}", place.display()))
        }
    }
}

/// Names and files of the plugins in the plugin folder.
pub(crate) fn in_plugin_folder(config: &Config) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(&config.settings.plugins).into_iter().flatten().flatten();
    let wasm = entries.map(|entry| entry.path()).filter(|path| is_wasm(path));
    let mut found: Vec<_> =
        wasm.filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path))).collect();
    found.sort();
    found
}

/// Whether a file is a plugin by its name.
pub(crate) fn is_wasm(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "wasm")
}

/// The SHA-256 of a file, as pins have it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An engine whose compiled plugins are kept beside the store, if `keep`: what only looks leaves no trace.
///
/// # Errors
/// If this machine cannot run WebAssembly.
pub(crate) fn runtime(config: &Config, keep: bool) -> Result<Runtime, Error> {
    let cache = config.data().join("plugin-cache");
    let keep = keep || cache.exists();
    Runtime::new(keep.then_some(cache.as_path())).map_err(|fault| Error::Usage(fault.to_string()))
}

/// The plugins that the goals use, pinned by `sluicebox plugin lock`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lock {
    /// The SHA-256 of each, by the name or path that goals give.
    pub plugins: BTreeMap<String, String>,
}

const LOCK_FILE: &str = "plugins.lock";

impl Lock {
    /// What is there now.
    ///
    /// # Errors
    /// If a plugin is not there.
    pub(crate) fn of(config: &Config) -> Result<Self, Error> {
        let mut plugins = BTreeMap::new();
        for entry in config.connections.iter().flat_map(Connection::processors) {
            let (bytes, _) = find(config, &entry.plugin)
                .map_err(|reason| Error::Plugin { place: entry.place.clone(), reason })?;
            plugins.insert(entry.plugin.clone(), sha256(&bytes));
        }
        Ok(Self { plugins })
    }

    /// What was written down, if anything was.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn read(root: &Path) -> Result<Option<Self>, Error> {
        let place = root.join(LOCK_FILE);
        let text = match fs::read_to_string(&place) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(&place, error)),
        };
        let wrong =
            |error: toml::de::Error| Error::Usage(format!("{}: {}", place.display(), error.message()));
        toml::from_str(&text).map(Some).map_err(wrong)
    }

    /// Writes it into the working folder.
    ///
    /// # Errors
    /// If that cannot be done.
    pub(crate) fn write(&self, root: &Path) -> Result<(), Error> {
        let place = root.join(LOCK_FILE);
        let table = toml::to_string(self).map_err(|error| Error::Usage(error.to_string()))?;
        let text = format!(
            "# Written by `sluicebox plugin lock`: `sluicebox run` refuses a plugin that differs.\n{table}"
        );
        fs::write(&place, text).map_err(|error| Error::io(&place, error))
    }

    fn check(&self, plugin: &str, found: &str) -> Result<(), String> {
        let next = "`sluicebox plugin lock` takes the plugins as they are now";
        match self.plugins.get(plugin) {
            Some(locked) if locked == found => Ok(()),
            Some(_) => {
                Err(format!("plugin {plugin} is not the one in {LOCK_FILE}: its sha256 is {found}; {next}"))
            }
            None => Err(format!("plugin {plugin} is not in {LOCK_FILE}; {next}")),
        }
    }
}
