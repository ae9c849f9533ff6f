//! Values that are written as texts: sizes, time spans, secrets.

use std::env;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};
use sluicebox_files::read_regular;
use sluicebox_processors::Configuration;
use toml::de::DeValue;

use super::reader::{Entry, Section};
use crate::error::Error;

/// A number from 1 to `max`; `default` if it is not set.
pub(crate) fn count(section: &Section<'_>, key: &'static str, default: usize, max: usize) -> usize {
    let Some(entry) = section.get(key) else { return default };
    match entry.whole().and_then(|count| usize::try_from(count).ok()) {
        Some(count) if (1..=max).contains(&count) => count,
        Some(_) => {
            entry.problem(format!("`{key}`: expected 1 to {max}"));
            default
        }
        None => default,
    }
}

/// A number of bytes: `"64MiB"`, or a whole number.
pub(crate) fn size(section: &Section<'_>, key: &'static str, default: u64) -> u64 {
    let Some(entry) = section.get(key) else { return default };
    let size = match entry.value() {
        DeValue::String(text) => parse_size(text),
        DeValue::Integer(_) => entry.whole(),
        _ => None,
    };
    match size {
        Some(size) if size > 0 => size,
        _ => {
            entry.problem(format!("`{key}`: expected a size such as \"64MiB\", \"512KiB\" or \"1000B\""));
            default
        }
    }
}

fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 7] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("kB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
    ];
    let (number, unit) = UNITS.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// A time span: `"5s"`, `"500ms"`, `"2m"`, `"12h"`, `"365d"`.
pub(crate) fn duration(section: &Section<'_>, key: &'static str, default: Duration) -> Duration {
    let Some(entry) = section.get(key) else { return default };
    let Some(text) = entry.text() else { return default };
    match parse_duration(text) {
        Some(duration) if !duration.is_zero() => duration,
        _ => {
            entry.problem(format!("`{key}`: expected a time span such as \"5s\", \"500ms\" or \"2m\""));
            default
        }
    }
}

/// A time span that may be zero: `"0s"`. `None` without the key, or after a problem.
pub(crate) fn span(section: &Section<'_>, key: &'static str) -> Option<Duration> {
    let entry = section.get(key)?;
    let span = parse_duration(entry.text()?);
    if span.is_none() {
        entry.problem(format!("`{key}`: expected a time span such as \"10s\", \"2m\" or \"0s\""));
    }
    span
}

fn parse_duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let (number, unit) = UNITS.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?, *size)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_millis)
}

/// Where a secret is. It is read when it is needed.
#[derive(Clone)]
enum SecretSource {
    Plain(String),
    Env(String),
    File(String),
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("Plain"),
            Self::Env(name) => write!(f, "Env({name})"),
            Self::File(name) => write!(f, "File({name})"),
        }
    }
}

impl SecretSource {
    /// Reads the secret.
    ///
    /// # Errors
    /// If it cannot be found. `place` is the place of its key, for the message.
    fn open(&self, root: &Path, place: &str) -> Result<Vec<u8>, Error> {
        let missing = |reason: String| Error::Secret { place: place.to_owned(), reason };
        match self {
            Self::Plain(text) => Ok(text.clone().into_bytes()),
            Self::Env(name) => match env::var(name) {
                Ok(text) => Ok(text.into_bytes()),
                Err(_) => Err(missing(format!("the environment variable {name} is not set"))),
            },
            Self::File(name) => {
                let path = root.join(name);
                // Reading a FIFO could block for ever.
                if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
                    return Err(missing(format!("the file {name} is not a regular file")));
                }
                read_regular(&path)
                    .map_err(|error| missing(format!("the file {name} cannot be read: {}", error.kind())))
            }
        }
    }

    fn open_text(&self, root: &Path, place: &str) -> Result<String, Error> {
        let text = String::from_utf8(self.open(root, place)?);
        let text = text.map_err(|_| Error::Secret {
            place: place.to_owned(),
            reason: "the secret is not UTF-8".to_owned(),
        })?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }
}

/// A secret of the configuration: a plain text, `{ env = "NAME" }` or `{ file = "path" }`.
#[derive(Clone, Debug)]
pub(crate) struct Secret {
    source: SecretSource,
    place: String,
}

impl Secret {
    /// The secret under a key.
    pub(crate) fn read(section: &Section<'_>, key: &'static str) -> Option<Self> {
        Self::of(&section.get(key)?)
    }

    /// The secret in a value; reports a problem if it is none.
    pub(crate) fn of(entry: &Entry<'_>) -> Option<Self> {
        let key = entry.key();
        let source = match entry.value() {
            DeValue::String(text) if text.is_empty() => None,
            DeValue::String(text) => Some(SecretSource::Plain(text.to_string())),
            DeValue::Table(table) => {
                let mut entries = table.iter();
                match (entries.next(), entries.next()) {
                    (Some((name, value)), None) => {
                        value.get_ref().as_str().and_then(|text| secret(name.get_ref(), text))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        if source.is_none() {
            entry.problem(format!("`{key}`: expected {{ env = \"NAME\" }}, {{ file = \"path\" }} or a text"));
        }
        Some(Self { source: source?, place: entry.place() })
    }

    /// The secret as text, without a line end.
    ///
    /// # Errors
    /// If it cannot be found or is not UTF-8.
    pub(crate) fn text(&self, root: &Path) -> Result<String, Error> {
        self.source.open_text(root, &self.place)
    }

    /// The bytes of the secret.
    ///
    /// # Errors
    /// If it cannot be found.
    pub(crate) fn bytes(&self, root: &Path) -> Result<Vec<u8>, Error> {
        self.source.open(root, &self.place)
    }

    /// File and line, for errors.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }
}

/// The configuration of a processor whose secrets are not yet read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sealed {
    value: Value,
    secrets: Vec<(String, SecretSource, String)>,
}

impl Sealed {
    /// Converts a table to JSON. `{ env = "NAME" }` and `{ file = "path" }` anywhere in it are secrets.
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let mut sealed = Self::default();
        let mut object = Map::new();
        for entry in section.entries() {
            let path = format!("/{}", escaped(entry.key()));
            object.insert(entry.key().to_owned(), sealed.take(entry.value(), path, &entry.place()));
        }
        sealed.value = Value::Object(object);
        sealed
    }

    fn take(&mut self, value: &DeValue<'_>, path: String, place: &str) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(number) => {
                i64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
                    .map_or(Value::Null, Value::from)
            }
            DeValue::Float(number) => {
                number.as_str().replace('_', "").parse::<f64>().map_or(Value::Null, Value::from)
            }
            DeValue::Boolean(flag) => Value::Bool(*flag),
            DeValue::Datetime(moment) => Value::String(moment.to_string()),
            DeValue::Array(values) => {
                let values = values.iter().enumerate();
                values.map(|(n, value)| self.take(value.get_ref(), format!("{path}/{n}"), place)).collect()
            }
            DeValue::Table(table) => {
                let mut entries = table.iter();
                if let (Some((key, value)), None) = (entries.next(), entries.next())
                    && let DeValue::String(text) = value.get_ref()
                    && let Some(source) = secret(key.get_ref(), text)
                {
                    self.secrets.push((path, source, place.to_owned()));
                    return Value::Null;
                }
                let mut object = Map::new();
                for (key, value) in table {
                    let path = format!("{path}/{}", escaped(key.get_ref()));
                    object.insert(key.get_ref().to_string(), self.take(value.get_ref(), path, place));
                }
                Value::Object(object)
            }
        }
    }

    /// The configuration with its secrets.
    ///
    /// # Errors
    /// If a secret cannot be found.
    pub(crate) fn open(&self, root: &Path) -> Result<Configuration, Error> {
        let (mut value, mut secrets) = (self.value.clone(), Vec::new());
        for (path, source, place) in &self.secrets {
            let secret = source.open_text(root, place)?;
            if let Some(slot) = value.pointer_mut(path) {
                *slot = Value::String(secret.clone());
            }
            secrets.push(secret);
        }
        Ok(Configuration::new(value.to_string(), &secrets))
    }
}

fn secret(key: &str, text: &str) -> Option<SecretSource> {
    match key {
        "env" => Some(SecretSource::Env(text.to_owned())),
        "file" => Some(SecretSource::File(text.to_owned())),
        _ => None,
    }
}

/// A key escaped for a JSON pointer (RFC 6901).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Whether a path stays inside the folder that it is relative to; reports a problem if not.
pub(crate) fn stays_inside(entry: &Entry<'_>, path: &str) -> bool {
    let leaves = path.starts_with('/') || path.split('/').any(|part| part == "..") || path.contains('\0');
    if leaves {
        entry.problem(format!("`{}` leads out of the location", entry.key()));
    }
    !leaves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!(parse_size("64MiB"), Some(64 << 20));
        assert_eq!(parse_size("1 kB"), Some(1000));
        assert_eq!([parse_size("64"), parse_size("MiB"), parse_size("-1B"), parse_size("1.5MiB")], [None; 4]);
        assert_eq!(parse_duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!([parse_duration("5"), parse_duration("s"), parse_duration("-1s")], [None; 3]);
    }
}
