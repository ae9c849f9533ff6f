//! `sluicebox check`.

use std::collections::BTreeMap;
use std::path::Path;

use sluicebox_files::{Location, Permission, S3, S3Problem};
use sluicebox_processors::Runtime;
use sluicebox_store::{DryCopy, Store};

use crate::cli::{complain, print};
use crate::config::{AfterImport, Config, Connection, ExportGoal, ImportGoal, Target};
use crate::error::Error;
use crate::export::Export;
use crate::import::Import;
use crate::plugins;
use crate::sets::FileSet;

/// The goals that write each property of profiles, or of groups of a type.
type Writers = BTreeMap<(String, String), Vec<String>>;

/// Validates the configuration; then, for each goal, its plugins, its folder, what it may do there, and the columns of
/// the first file.
///
/// # Errors
/// If the configuration is wrong. Problems of goals are shown, each by itself.
pub(crate) fn run(folder: &Path, names: &[String]) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    for warning in &config.warnings {
        print(format!("warning: {warning}"))?;
    }
    let connections = connections_of(&config, names)?;
    if connections.is_empty() {
        print("warning: there are no connections")?;
    }
    // Columns are resolved against a store's dictionary; an empty one does.
    let scratch = DryCopy::of(&std::env::temp_dir().join("sluicebox-check-has-no-store"))?;
    let store = Store::open(scratch.path())?;
    let runtime = plugins::runtime(&config, false)?;
    let (mut wrong, mut writers) = (false, Writers::new());
    for connection in connections {
        let opened = connection.open(&config.root);
        for goal in &connection.goals {
            let title = format!("{} / {}", connection.name, goal.name);
            let result = plugins::load(&config, &goal.processors, &runtime).and_then(|processors| {
                let opened = match &opened {
                    Ok(opened) => opened,
                    // Each goal says it, in its own words.
                    Err(_) => &connection.open(&config.root)?,
                };
                let import = Import::looking(&config, connection, goal, opened, &processors, &store);
                if let Some(broken) = processors.iter().find_map(|processor| processor.broken.clone()) {
                    return Err(Error::Plugin { place: title.clone(), reason: broken });
                }
                if let Location::S3(bucket) = &opened.location {
                    permissions(bucket, connection, goal)?;
                }
                first_set(&import, &title, &mut writers)
            });
            match result {
                Ok(found) => print(format!("ok: {title}: {found}"))?,
                Err(error) => {
                    wrong = true;
                    print(format!("error: {title}"))?;
                    complain(&error);
                }
            }
        }
    }
    for connection in connections_of(&config, names)? {
        for goal in &connection.exports {
            let title = format!("{} / {}", connection.name, goal.name);
            match export(&config, connection, goal, &store, &runtime) {
                Ok(found) => print(format!("ok: {title}: {found}"))?,
                Err(error) => {
                    wrong = true;
                    print(format!("error: {title}"))?;
                    complain(&error);
                }
            }
        }
    }
    for ((_, property), goals) in writers.iter().filter(|(_, goals)| goals.len() > 1) {
        print(format!("warning: existing property: `{property}` is written by {}", goals.join(" and by ")))?;
    }
    Ok(if wrong { 2 } else { 0 })
}

fn connections_of<'c>(config: &'c Config, names: &[String]) -> Result<Vec<&'c Connection>, Error> {
    match names {
        [] => Ok(config.connections.iter().collect()),
        names => names.iter().map(|name| config.connection(name)).collect(),
    }
}

/// Opens the plugins of an export as it would, and tries whether it may write.
fn export(
    config: &Config,
    connection: &Connection,
    goal: &ExportGoal,
    store: &Store,
    runtime: &Runtime,
) -> Result<String, Error> {
    let opened = &connection.open(&config.root)?;
    let processors = &plugins::load(config, &goal.processors, runtime)?;
    if let Some(broken) = processors.iter().find_map(|processor| processor.broken.clone()) {
        return Err(Error::Failed(broken));
    }
    let export = Export::looking(config, connection, goal, opened, processors, store);
    let (_, columns) = export.open(&goal.file)?;
    match &opened.location {
        Location::S3(bucket) => permitted(bucket, connection, &[Permission::PutObject], &goal.directory)?,
        Location::Directory(directory) if !directory.root.is_dir() => {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::io(&directory.root, missing));
        }
        Location::Directory(_) => {}
    }
    if goal.changed_only && !["{time}", "{run}"].iter().any(|part| goal.file.contains(part)) {
        print(format!(
            "warning: {} / {}: each run puts its changes in place of the last one's; `{{time}}` in `file` keeps both",
            connection.name, goal.name
        ))?;
    }
    let slash = if goal.directory.is_empty() { "" } else { "/" };
    Ok(format!("{} columns to {}{slash}{}", columns.len(), goal.directory, goal.file))
}

/// Tries each permission that a goal needs.
fn permissions(bucket: &S3, connection: &Connection, goal: &ImportGoal) -> Result<(), Error> {
    let mut needed = vec![Permission::ListBucket, Permission::GetObject];
    match goal.after_import {
        AfterImport::Keep => {}
        AfterImport::DoneSuffix => needed.extend([Permission::PutObject, Permission::DeleteObject]),
        AfterImport::Delete => needed.push(Permission::DeleteObject),
    }
    permitted(bucket, connection, &needed, &goal.directory)
}

fn permitted(
    bucket: &S3,
    connection: &Connection,
    needed: &[Permission],
    directory: &str,
) -> Result<(), Error> {
    let mut lacking = Vec::new();
    for permission in needed {
        match bucket.probe(*permission, directory) {
            Ok(()) => {}
            Err(error) => match error.problem {
                S3Problem::Denied(_) => lacking.push(permission.name()),
                _ => return Err(Error::Location { place: connection.name.clone(), error: error.into() }),
            },
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Error::Permissions {
        identity: connection.identity(),
        lacking,
        place: format!("s3://{}/{directory}", bucket.bucket()),
    })
}

/// Opens the first files as an import would.
fn first_set(import: &Import<'_>, title: &str, writers: &mut Writers) -> Result<String, Error> {
    let found = import.sets()?;
    for warning in &found.warnings {
        print(format!("warning: {warning}"))?;
    }
    let count = found.sets.len();
    let first = found.sets.into_iter().next();
    let set = match first {
        None => {
            note(import, title, &[], writers);
            return Ok(format!("no file matches `{}`", import.goal.pattern));
        }
        Some(Err(incomplete)) => {
            return Err(Error::Set { name: incomplete.root.name, message: incomplete.message });
        }
        Some(Ok(set)) => set,
    };
    let bulk = resolve(import, &set)?;
    note(import, title, &bulk, writers);
    let name = &set.root.name;
    Ok(format!("{count} file{} to take, the first is {name}", if count == 1 { "" } else { "s" }))
}

/// Answers with the properties that the bulk mapping writes.
fn resolve(import: &Import<'_>, set: &FileSet) -> Result<Vec<String>, Error> {
    let resolver = import.resolver();
    let (files, mut bulk) = (set.linked.iter().enumerate(), Vec::new());
    let linked = files.flat_map(|(place, files)| files.first().map(|file| (file, Some(place))));
    for (file, place) in std::iter::once((&set.root, None)).chain(linked) {
        let source = file.open().map_err(|error| Error::File { name: file.name.clone(), error })?;
        let Some(open) = import.open(file, source, place)? else { continue };
        match place {
            Some(place) => drop(resolver.linked(place).places(&file.name, &open.columns)?),
            None => {
                let resolved = resolver.root(&file.name, &open.columns)?;
                for warning in resolved.warnings {
                    print(format!("warning: {warning}"))?;
                }
                bulk = resolved.bulk.into_iter().map(|property| property.name).collect();
            }
        }
    }
    Ok(bulk)
}

/// Notes which properties a goal writes.
fn note(import: &Import<'_>, title: &str, bulk: &[String], writers: &mut Writers) {
    let group = match &import.goal.target {
        Target::Profiles(_) => String::new(),
        Target::Groups(group) => group.clone(),
    };
    let fields = import.goal.fields.iter().map(|field| &field.property.name);
    for property in fields.chain(bulk) {
        let goals = writers.entry((group.clone(), property.clone())).or_default();
        if goals.last().is_none_or(|last| last != title) {
            goals.push(title.to_owned());
        }
    }
}
