//! The working folder: `sluicebox.toml`, `schema.toml` and `connections/*.toml`, parsed and validated once.
//!
//! Reports all problems of all files at once, each with its file, line and column.

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

use sluicebox_files::read_regular;
use sluicebox_model::Schema;

pub(crate) use connection::{Connection, Goal, Opened};
pub(crate) use events::{EventEntry, NestedEntry};
pub(crate) use export::{ColumnSource, EXPORT_PROFILES, ExportGoal, ExportedEvents, ValueFormat, WhenEmpty};
pub(crate) use goal::{
    AfterImport, ImportGoal, MaxRejected, ProcessorEntry, RecordExcluded, Target, ValueEntry, may_follow,
    property_settings,
};
pub(crate) use reader::{Problem, nearest};
pub(crate) use schedule::{in_words, schedule_as_written};
pub(crate) use service::{EgressRule, Security, Server, Smtp, Webhook};
pub(crate) use settings::{Settings, Tuning};

use crate::error::Error;
use reader::{Document, Problems};

/// A valid working folder.
#[derive(Debug)]
pub(crate) struct Config {
    /// The working folder.
    pub root: PathBuf,
    /// The settings of `sluicebox.toml`.
    pub settings: Settings,
    /// The schema of `schema.toml`.
    pub schema: Schema,
    /// Sorted by the names of their files.
    pub connections: Vec<Connection>,
    /// Settings that are valid but probably not intended.
    pub warnings: Vec<String>,
}

/// A new text for a file of the working folder.
#[derive(Debug)]
pub(crate) struct FileChange {
    /// Inside the working folder.
    pub name: String,
    /// Its text until now.
    pub before: String,
    /// Its new text.
    pub text: String,
}

impl Config {
    /// The secrets of what runs that cannot be read now: of which connection and key, and why. No file or value is named in the
    /// former.
    pub(crate) fn missing_secrets(&self) -> Vec<(String, Error)> {
        let smtp = self.settings.smtp.as_ref().and_then(|smtp| smtp.login.as_ref());
        let smtp = smtp.and_then(|(_, password)| password.text(&self.root).err());
        let own = smtp.map(|error| ("password of [smtp]".to_owned(), error));
        let running = self.connections.iter().filter(|connection| connection.enabled);
        let of_connections = running.flat_map(|connection| {
            let missing = connection.missing_secrets(&self.root).into_iter();
            missing.map(|(key, error)| (format!("{key} of connection {}", connection.stem), error))
        });
        own.into_iter().chain(of_connections).collect()
    }

    /// Reads and validates a working folder.
    ///
    /// # Errors
    /// With every problem found.
    pub(crate) fn load(root: &Path) -> Result<Self, Error> {
        Self::load_with(root, &[])
    }

    /// Reads and validates a working folder as if some of its files had other texts.
    ///
    /// # Errors
    /// With every problem found.
    pub(crate) fn load_with(root: &Path, changed: &[FileChange]) -> Result<Self, Error> {
        let text = |name: &str, problems: &Problems| match changed.iter().find(|change| change.name == name) {
            Some(change) => Ok(change.text.clone()),
            None => text_of(root, name, problems),
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
                    format!("connections/{}.toml has the same name, {:?}", other.stem, connection.name),
                );
            }
        }
        for connection in &connections {
            let mailed = connection.notify.as_ref().is_some_and(|notify| !notify.email.is_empty());
            if mailed && settings.smtp.is_none() {
                problems.warn(format!(
                    "connections/{}.toml: [notify] has addresses, but sluicebox.toml has no [smtp], so no mail is sent",
                    connection.stem
                ));
            }
        }
        for connection in &connections {
            for goal in connection.all_goals() {
                if let Some(warning) = settings::warning_of_memory(&settings, goal.processors()) {
                    problems.warn(format!(
                        "connections/{}.toml: {}: {warning}",
                        connection.stem,
                        goal.name()
                    ));
                }
            }
        }
        let (errors, warnings) = problems.into_parts();
        if errors.is_empty() {
            Ok(Self { root: root.to_owned(), settings, schema, connections, warnings })
        } else {
            Err(Error::Config(errors))
        }
    }

    /// The connection with that name or file name.
    ///
    /// # Errors
    /// If there is none, with the nearest name.
    pub(crate) fn connection(&self, name: &str) -> Result<&Connection, Error> {
        let found =
            self.connections.iter().find(|connection| connection.name == name || connection.stem == name);
        found.ok_or_else(|| Error::Unknown {
            kind: "connection",
            name: name.to_owned(),
            known: self.connections.iter().map(|connection| connection.stem.clone()).collect(),
        })
    }

    /// The folder of rejected rows, compiled plugins and the like.
    pub(crate) fn data(&self) -> &Path {
        &self.settings.data
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
    let text = |bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into());
    match read_regular(&path).and_then(text) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            problems.file(name, "the file is not UTF-8".to_owned());
            Ok(String::new())
        }
        Err(error) => Err(Error::io(&path, error)),
    }
}
