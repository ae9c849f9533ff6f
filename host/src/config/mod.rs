//! The working folder: `sluicebox.toml`, `schema.toml` and `connections/*.toml`, parsed and validated once.
//!
//! Every problem of all files is found in one go and says its file, line and column.

mod connection;
mod events;
mod export;
mod goal;
mod linked;
mod reader;
mod schedule;
mod schema;
mod service;
mod settings;
mod value;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sluicebox_model::Schema;

pub(crate) use connection::{Connection, Goal, Opened};
pub(crate) use events::{EventEntry, NestedEntry};
pub(crate) use export::{ColumnSource, EXPORT_PROFILES, ExportGoal, ExportedEvents, ValueFormat, WhenEmpty};
pub(crate) use goal::{
    AfterImport, ImportGoal, MaxRejected, ProcessorEntry, Target, ValueEntry, property_settings,
};
pub(crate) use reader::{Problem, nearest};
pub(crate) use schedule::{in_words, schedule_as_written};
pub(crate) use service::{Security, Server, Smtp, Webhook};
pub(crate) use settings::{Settings, Tuning};

use crate::error::Error;
use reader::{Document, Problems};

/// A working folder that is free of problems.
#[derive(Debug)]
pub(crate) struct Config {
    /// The working folder.
    pub root: PathBuf,
    /// What `sluicebox.toml` says.
    pub settings: Settings,
    /// What `schema.toml` says.
    pub schema: Schema,
    /// In the order of their files' names.
    pub connections: Vec<Connection>,
    /// What works, but probably not as meant.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads and validates a working folder.
    ///
    /// # Errors
    /// With every problem found.
    pub(crate) fn load(root: &Path) -> Result<Self, Error> {
        Self::load_with(root, None)
    }

    /// The same, as it were if a file of it had another text.
    ///
    /// # Errors
    /// With every problem found.
    pub(crate) fn load_with(root: &Path, changed: Option<(&str, &str)>) -> Result<Self, Error> {
        let text = |name: &str, problems: &Problems| match changed {
            Some((changed, text)) if changed == name => Ok(text.to_owned()),
            _ => text_of(root, name, problems),
        };
        let files = connection_files(root)?;
        let present = |name: &str| root.join(name).is_file();
        if files.is_empty() && !present("sluicebox.toml") && !present("schema.toml") {
            return Err(Error::NoWorkingFolder(root.to_owned()));
        }
        let problems = Problems::default();
        let settings_text = text("sluicebox.toml", &problems)?;
        let document = Document::parse("sluicebox.toml", &settings_text, &problems);
        let settings = settings::read(root, document.root(&problems));
        let schema_text = text("schema.toml", &problems)?;
        let schema = schema::read(Document::parse("schema.toml", &schema_text, &problems).root(&problems));
        let mut connections = Vec::new();
        for name in files {
            let stem = name.trim_end_matches(".toml").to_owned();
            let path = format!("connections/{name}");
            let connection_text = text(&path, &problems)?;
            let document = Document::parse(&path, &connection_text, &problems);
            connections.push(connection::read(
                root,
                &stem,
                &schema,
                settings.limits,
                document.root(&problems),
            ));
        }
        for (place, connection) in connections.iter().enumerate() {
            let twice = connections.iter().take(place).find(|other| other.name == connection.name);
            if let Some(other) = twice {
                problems.file(
                    &format!("connections/{}.toml", connection.stem),
                    format!("the name {:?} is that of connections/{}.toml too", connection.name, other.stem),
                );
            }
        }
        for connection in &connections {
            let mailed = connection.notify.as_ref().is_some_and(|notify| !notify.email.is_empty());
            if mailed && settings.smtp.is_none() {
                problems.warn(format!(
                    "connections/{}.toml: [notify] names addresses, and sluicebox.toml has no [smtp] to send with",
                    connection.stem
                ));
            }
        }
        let (errors, warnings) = problems.into_parts();
        if errors.is_empty() {
            Ok(Self { root: root.to_owned(), settings, schema, connections, warnings })
        } else {
            Err(Error::Config(errors))
        }
    }

    /// The connection of that name or file name.
    ///
    /// # Errors
    /// With the nearest name.
    pub(crate) fn connection(&self, name: &str) -> Result<&Connection, Error> {
        let found =
            self.connections.iter().find(|connection| connection.name == name || connection.stem == name);
        found.ok_or_else(|| Error::Unknown {
            kind: "connection",
            name: name.to_owned(),
            known: self.connections.iter().map(|connection| connection.stem.clone()).collect(),
        })
    }

    /// Where rejected rows, compiled plugins and the like lie: beside the store.
    pub(crate) fn data(&self) -> &Path {
        self.settings.store.parent().unwrap_or(&self.root)
    }
}

fn connection_files(root: &Path) -> Result<Vec<String>, Error> {
    let folder = root.join("connections");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(&folder, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| Error::io(&folder, error))?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(".toml") && !name.starts_with('.')) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The text of a file; empty where it is missing.
fn text_of(root: &Path, name: &str, problems: &Problems) -> Result<String, Error> {
    let path = root.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            problems.file(name, "the file is not UTF-8".to_owned());
            Ok(String::new())
        }
        Err(error) => Err(Error::io(&path, error)),
    }
}
