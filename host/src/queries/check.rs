//! Checks connections as far as that is possible without running them: plugins, location and permissions of each goal, and the
//! columns of its next file.

use std::collections::{BTreeMap, BTreeSet};

use sluicebox_files::{Location, Permission, S3, S3Problem};
use sluicebox_processors::Runtime;
use sluicebox_store::Store;

use crate::config::{AfterImport, Config, Connection, ExportGoal, ImportGoal, Opened, Target};
use crate::error::Error;
use crate::export::Export;
use crate::import::Import;
use crate::import::sets::FileSet;
use crate::output::counted;
use crate::plugins::{self, Processor};
use crate::queries::examine::{examine, known};
use crate::runs::imported_again::{self, ImportedAgain};

/// What a check finds.
pub(crate) enum Finding {
    /// Something that works, but probably not as intended.
    Warning(String),
    /// A goal that would run, and what it would do.
    Ready { goal: String, what: String },
    /// A goal that would fail.
    Failing { goal: String, error: Error },
}

/// The goals that write each property, by the group type (empty for profiles) and the property's name.
type Writers = BTreeMap<(String, String), Vec<String>>;

/// Where findings go.
type Report<'f> = &'f mut dyn FnMut(Finding) -> Result<(), Error>;

/// Checks the import goals of connections, then their export goals, and calls `report` with each finding.
///
/// # Errors
/// If the store or `report` fails. A goal that would fail is a finding.
pub(crate) fn check(config: &Config, connections: &[&Connection], report: Report<'_>) -> Result<(), Error> {
    // A read-only store takes no new names: columns are resolved with the dictionary of an empty one.
    let scratch = Store::temporary()?;
    let mut checker = Checker {
        config,
        scratch: &scratch,
        ledger: Store::open_read_only(&config.settings.store)?,
        runtime: plugins::runtime(config, false)?,
        writers: Writers::new(),
        report,
    };
    for connection in connections {
        let opened = connection.open(&config.root);
        for goal in &connection.goals {
            let title = format!("{} / {}", connection.name, goal.name);
            let ready = match &opened {
                Ok(opened) => checker.import(connection, goal, opened, &title),
                // Each goal states the problem in its own words.
                Err(_) => {
                    let opened = connection.open(&config.root);
                    opened.and_then(|opened| checker.import(connection, goal, &opened, &title))
                }
            };
            checker.conclude(title, ready)?;
        }
    }
    for connection in connections {
        for goal in &connection.exports {
            let title = format!("{} / {}", connection.name, goal.name);
            let ready = checker.export(connection, goal, &title).map(Some);
            checker.conclude(title, ready)?;
        }
    }
    for ((_, property), goals) in checker.writers.iter().filter(|(_, goals)| goals.len() > 1) {
        let goals = goals.join(" and by ");
        (checker.report)(Finding::Warning(format!("existing property: `{property}` is written by {goals}")))?;
    }
    Ok(())
}

struct Checker<'a> {
    config: &'a Config,
    /// An empty store.
    scratch: &'a Store,
    /// The working folder's store, if there is one: it knows which files are imported.
    ledger: Option<Store>,
    runtime: Runtime,
    writers: Writers,
    report: Report<'a>,
}

impl Checker<'_> {
    fn conclude(&mut self, goal: String, ready: Result<Option<String>, Error>) -> Result<(), Error> {
        match ready {
            Ok(Some(what)) => (self.report)(Finding::Ready { goal, what }),
            Ok(None) => Ok(()),
            Err(error) => (self.report)(Finding::Failing { goal, error }),
        }
    }

    fn warn(&mut self, warning: String) -> Result<(), Error> {
        (self.report)(Finding::Warning(warning))
    }

    /// Checks an import goal; answers with what it would do, or with nothing if all of its sets are incomplete.
    fn import(
        &mut self,
        connection: &Connection,
        goal: &ImportGoal,
        opened: &Opened,
        title: &str,
    ) -> Result<Option<String>, Error> {
        let config = self.config;
        let processors = plugins::load(config, &goal.processors, &self.runtime)?;
        let import = Import::new(config, connection, goal, opened, &processors, self.scratch);
        if let Some(broken) = broken(&processors) {
            return Err(Error::Plugin { place: title.to_owned(), reason: broken });
        }
        if let Location::S3(bucket) = &opened.location {
            import_permissions(bucket, connection, goal)?;
        }
        let found = import.sets()?;
        for warning in found.warnings {
            self.warn(warning)?;
        }
        let (mut sets, mut incomplete) = (Vec::new(), 0);
        for set in found.sets {
            match set {
                Ok(set) => sets.push(set),
                Err(error) => {
                    incomplete += 1;
                    self.conclude(title.to_owned(), Err(error.into()))?;
                }
            }
        }
        let (imported, new) = match &self.ledger {
            Some(ledger) => {
                let import = Import::new(config, connection, goal, opened, &processors, ledger);
                let SeparatedSets { imported, new, again, changed_plugins } =
                    separate_imported(&import, sets)?;
                let mut warnings = imported_again::in_words(&again, goal);
                if !again.is_empty() {
                    warnings.push(imported_again::how_to_accept(connection, goal));
                }
                warnings.extend(import.warning_of_changed(&changed_plugins)?);
                for warning in warnings {
                    self.warn(format!("{title}: {warning}"))?;
                }
                (imported, new)
            }
            None => (Vec::new(), sets),
        };
        let Some(first) = new.first().or(imported.first()) else {
            self.note_writers(goal, title, &[]);
            return Ok((incomplete == 0).then(|| format!("no file matches `{}`", goal.pattern)));
        };
        let remark = self.check_set(&import, first, title)?;
        let files = |count: usize| counted(count as u64, "file");
        let mut what = match (new.len(), imported.len()) {
            (0, imported) => format!("no new file, {} already imported", files(imported)),
            (new, 0) => format!("{} to take, the first is {}", files(new), first.root.name),
            (new, imported) => {
                let first = &first.root.name;
                format!("{} to take, the first is {first}; {imported} already imported", files(new))
            }
        };
        what.extend(remark.map(|remark| format!("; {remark}")));
        Ok(Some(what))
    }

    /// Reads the files of a set and resolves the goal's mappings with their columns; answers with what must be known of that.
    fn check_set(
        &mut self,
        import: &Import<'_>,
        set: &FileSet,
        title: &str,
    ) -> Result<Option<String>, Error> {
        let resolver = import.resolver();
        let mut remark = None;
        let (mut bulk, mut warnings) = (Vec::new(), Vec::new());
        let linked = set.linked.iter().enumerate();
        let linked = linked.flat_map(|(place, files)| files.iter().map(move |file| (file, Some(place))));
        for (file, place) in std::iter::once((&set.root, None)).chain(linked) {
            let resolve = |columns: &[String]| match place {
                Some(place) => resolver.linked(place).places(&file.name, columns).map(|_| None),
                None => resolver.root(&file.name, columns).map(Some),
            };
            let Some(examined) = examine(import, file, place, resolve)? else { continue };
            remark = remark.or(examined.remark());
            if let Some(resolved) = examined.resolved {
                warnings = resolved.warnings;
                bulk = resolved.bulk.into_iter().map(|property| property.name).collect();
            }
            if let Some(failure) = examined.failure {
                return Err(failure);
            }
        }
        for warning in warnings {
            self.warn(warning)?;
        }
        self.note_writers(import.goal, title, &bulk);
        Ok(remark)
    }

    /// Notes which properties a goal writes.
    fn note_writers(&mut self, goal: &ImportGoal, title: &str, bulk: &[String]) {
        let group = match &goal.target {
            Target::Profiles(_) => String::new(),
            Target::Groups(group) => group.clone(),
        };
        let fields = goal.fields.iter().map(|field| &field.property.name);
        for property in fields.chain(bulk) {
            let goals = self.writers.entry((group.clone(), property.clone())).or_default();
            if goals.last().is_none_or(|last| last != title) {
                goals.push(title.to_owned());
            }
        }
    }

    /// Checks an export goal; answers with what it would do.
    fn export(&mut self, connection: &Connection, goal: &ExportGoal, title: &str) -> Result<String, Error> {
        let config = self.config;
        let opened = &connection.open(&config.root)?;
        let processors = &plugins::load(config, &goal.processors, &self.runtime)?;
        if let Some(broken) = broken(processors) {
            return Err(Error::BrokenPlugin(broken));
        }
        let export = Export::new(config, connection, goal, opened, processors, self.scratch);
        let (_, columns) = export.open(&goal.file)?;
        match &opened.location {
            Location::S3(bucket) => permitted(bucket, connection, &[Permission::PutObject], &goal.directory)?,
            Location::Directory(directory) if !directory.root.is_dir() => {
                let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(Error::io(&directory.root, missing));
            }
            Location::Directory(_) => {}
        }
        if goal.replace
            && goal.changed_only
            && !["{time}", "{run}"].iter().any(|part| goal.file.contains(part))
        {
            self.warn(format!(
                "{title}: each run replaces the file of the last one, which the partner may not have taken; \
                 replace = false keeps both"
            ))?;
        }
        let slash = if goal.directory.is_empty() { "" } else { "/" };
        let columns = counted(columns.len() as u64, "column");
        Ok(format!("{columns} to {}{slash}{}", goal.directory, goal.file))
    }
}

/// The sets of a goal by what the ledger knows of them.
#[derive(Default)]
struct SeparatedSets {
    imported: Vec<FileSet>,
    /// Those that the next run takes.
    new: Vec<FileSet>,
    /// Those of `new` that were imported under another configuration.
    again: Vec<ImportedAgain>,
    /// The plugins of which another build imported some of `imported`.
    changed_plugins: BTreeSet<String>,
}

/// Separates the sets that are imported from the others. One with a file that cannot be read is not imported.
fn separate_imported(import: &Import<'_>, sets: Vec<FileSet>) -> Result<SeparatedSets, Error> {
    let mut separated = SeparatedSets::default();
    for set in sets {
        match known(import, &set)? {
            Some(identified) if identified.state.complete => {
                separated.changed_plugins.extend(identified.changed_plugins);
                separated.imported.push(set);
            }
            identified => {
                separated.again.extend(identified.and_then(|identified| identified.again));
                separated.new.push(set);
            }
        }
    }
    Ok(separated)
}

fn broken(processors: &[Processor]) -> Option<String> {
    processors.iter().find_map(|processor| processor.broken.clone())
}

/// Tries each permission that an import goal needs.
fn import_permissions(bucket: &S3, connection: &Connection, goal: &ImportGoal) -> Result<(), Error> {
    let mut needed = vec![Permission::ListBucket, Permission::GetObject];
    match goal.after_import {
        AfterImport::Keep => {}
        AfterImport::DoneSuffix => needed.extend([Permission::PutObject, Permission::DeleteObject]),
        AfterImport::Delete => needed.push(Permission::DeleteObject),
    }
    permitted(bucket, connection, &needed, &goal.directory)
}

/// Tries permissions in a folder of a bucket.
fn permitted(
    bucket: &S3,
    connection: &Connection,
    needed: &[Permission],
    directory: &str,
) -> Result<(), Error> {
    let failed = |error| Error::Location { place: connection.name.clone(), error };
    let mut lacking = Vec::new();
    for permission in needed {
        match bucket.probe(*permission, directory) {
            Ok(()) => {}
            Err(error) => match error.problem {
                S3Problem::Denied(_) => lacking.push(permission.name()),
                _ => return Err(failed(error.into())),
            },
        }
    }
    if lacking.is_empty() {
        return Ok(());
    }
    // Stores deny what an identity wants of a bucket that does not exist.
    if let Some(missing) = bucket.missing() {
        return Err(failed(missing.into()));
    }
    Err(Error::Permissions {
        identity: connection.identity(),
        lacking,
        place: format!("s3://{}/{directory}", bucket.bucket()),
    })
}
