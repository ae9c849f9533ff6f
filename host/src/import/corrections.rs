//! Imports corrected lines of the files of rejected rows through the goal that rejected them.
//!
//! Each line is a row of its own that the ledger knows by the run, the goal, the file and the line: it is imported once. Of a line
//! with the scope `cells` only those cells are mapped. A line that is rejected again can be corrected again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, DirBuilder, File};
use std::io::BufWriter;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use sluicebox_files::{CsvOptions, Decoding, Directory, Location, Pattern, RowWriter};
use sluicebox_matching::{FieldPlan, Plan, Workers};
use sluicebox_model::{MergeRule, RecordBatch, RejectedRow, RejectedScope};
use utoipa::ToSchema;

use crate::config::Config;
use crate::error::Error;
use crate::import::Import;
use crate::import::linked::scratch_folder;
use crate::import::sets::FileSet;
use crate::runs::fingerprint::Fingerprint;
use crate::runs::rejected::{self, Line, LineScope, Source};
use crate::runs::report::HistoryEntry;

/// The lines of a goal run's rejected rows that are imported now.
pub(crate) struct CorrectedLines {
    /// The groups of lines, each of which is read as a file of its own.
    groups: Vec<Group>,
    /// Lines that cannot be imported, with the reason.
    pub refused: Vec<Refused>,
    /// Lines that were imported before.
    pub already_imported: u64,
    /// The folder of the groups' files.
    folder: PathBuf,
}

/// A line that cannot be imported.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Refused {
    pub file: String,
    pub line: u64,
    pub code: String,
    pub reason: String,
}

/// Lines of one shape: they have the same columns, and the same cells of them are mapped.
struct Group {
    /// The file that holds the lines as rows.
    path: PathBuf,
    lines: Vec<GroupLine>,
    /// The columns that are mapped; `None` = all of them.
    only: Option<Vec<String>>,
}

/// Where a row of a group comes from.
struct GroupLine {
    key: [u8; 32],
    file: String,
    line: u64,
}

/// What an import of a group knows of its rows.
pub(crate) struct Corrections<'a> {
    /// What is reported as the file.
    pub name: &'a str,
    group: &'a Group,
}

impl Drop for CorrectedLines {
    fn drop(&mut self) {
        // The next run removes what is left.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The ledger's key of a line.
pub(crate) fn key(run: &str, goal: &str, line: &Line) -> [u8; 32] {
    let (number, scope) = (line.number.to_string(), line.scope.name());
    Fingerprint::of(["corrected line", run, goal, &line.file, &number, scope])
}

/// Why a line cannot be imported, however it is corrected.
pub(crate) fn never_imported(line: &Line, is_linked: bool, is_unmerged: bool) -> Option<&'static str> {
    if is_linked {
        return Some("a row of a linked file is imported with its root row: correct the file");
    }
    if is_unmerged {
        return Some("nothing of its file was merged: correct the file, or the goal");
    }
    line.cells.iter().all(String::is_empty).then_some("the row was recorded without its cells")
}

impl Import<'_> {
    /// Imports corrected lines: those of some files, or of the goal run's own files of rejected rows.
    ///
    /// # Errors
    /// If the lines cannot be read, the store fails, or the run is interrupted. Lines that are rejected again are in the report.
    pub(crate) fn run_corrections(
        &self,
        corrected: &HistoryEntry,
        files: Option<&[PathBuf]>,
    ) -> Result<(HistoryEntry, CorrectedLines), Error> {
        let lines = self.corrected_lines(corrected, files)?;
        let entry = self.run_with(|running| {
            let report = &mut running.run.entry.report;
            report.rows.read += lines.refused.len() as u64;
            report.rows.rejected += lines.refused.len() as u64;
            for refused in &lines.refused {
                running.rejected.refuse(&refused.code, &refused.file, refused.line);
            }
            running.rejected.report(&mut running.run.entry);
            let name = format!("rejected rows of {}", corrected.report.run);
            lines.groups.iter().try_for_each(|group| self.import_group(group, &name, running))?;
            running.report_file(name, 0);
            Ok(())
        })?;
        Ok((entry, lines))
    }

    fn import_group(
        &self,
        group: &Group,
        name: &str,
        running: &mut super::RunningImport,
    ) -> Result<(), Error> {
        let folder = group.path.parent().unwrap_or(Path::new(""));
        let file = group.path.file_name().unwrap_or_default().to_string_lossy();
        let location = Location::Directory(Directory { root: folder.to_owned() });
        let pattern = Pattern::wildcard(&file).map_err(|error| Error::Failed(error.to_string()))?;
        let found = location.list("", &[&pattern]);
        let found = found.map_err(|error| Error::File { name: file.to_string(), error })?;
        let Some(root) = found.files.into_iter().next() else { return Ok(()) };
        let set = FileSet { root, linked: self.goal.linked.iter().map(|_| Vec::new()).collect() };
        let csv = CsvOptions {
            trim: self.goal.csv.trim,
            null_values: self.goal.csv.null_values.clone(),
            max_cell: self.goal.csv.max_cell,
            ..rejected::dialect()
        };
        let import = Import {
            config: self.config,
            connection: self.connection,
            goal: self.goal,
            location: &location,
            decoding: Decoding::default(),
            csv: &csv,
            corrections: Some(Corrections { name, group }),
            processors: self.processors,
            store: self.store,
            erasure_key: self.erasure_key,
            keep: self.keep,
            diff: self.diff,
            run: self.run,
            watch: self.watch,
            dry: self.dry,
            reimport: false,
            turns: self.turns,
            stop: self.stop,
            workers: Workers::new(self.config.settings.tuning.threads),
            earlier: OnceLock::new(),
        };
        import.import_corrected(&set, running)
    }

    /// Reads the lines, and writes those that are to be imported into files that the pipeline reads.
    fn corrected_lines(
        &self,
        corrected: &HistoryEntry,
        files: Option<&[PathBuf]>,
    ) -> Result<CorrectedLines, Error> {
        let (run, goal) = (&corrected.report.run, &corrected.report.goal);
        let folder = scratch_folder(self);
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| Error::io(&folder, error))?;
        let mut lines =
            CorrectedLines { groups: Vec::new(), refused: Vec::new(), already_imported: 0, folder };
        let recorded = Recorded::read(self.config, corrected)?;
        let mut groups = Groups::default();
        for path in files.unwrap_or(&recorded.paths) {
            rejected::read_lines(path, |line| {
                let key = key(run, goal, &line);
                if self.store.file_state(&key)?.is_some() {
                    lines.already_imported += 1;
                } else if let Err((code, reason)) = self.may_import(&recorded, &line) {
                    lines.refused.push(Refused { file: line.file, line: line.number, code, reason });
                } else {
                    groups.add(&lines.folder, &line, key)?;
                }
                Ok(())
            })?;
        }
        lines.groups = groups.finish()?;
        Ok(lines)
    }

    /// Whether a line can be imported; otherwise a code and the reason.
    fn may_import(&self, recorded: &Recorded, line: &Line) -> Result<(), (String, String)> {
        let refuse = |code: &str, reason: &str| Err((code.to_owned(), reason.to_owned()));
        let Some(is_linked) = recorded.linked.get(&(line.file.clone(), line.number)) else {
            return refuse("unknown-line", "the run recorded no such line");
        };
        if let Some(reason) = never_imported(line, *is_linked, recorded.unmerged.contains(&line.file)) {
            return refuse(&line.code, reason);
        }
        if line.has_lost_bytes() {
            return refuse(&line.code, "a cell still holds bytes that are no text");
        }
        if line.is_uncorrected(&self.goal.csv) {
            return refuse(&line.code, "the line is not corrected");
        }
        let LineScope::Cells(columns) = &line.scope else { return Ok(()) };
        for event in self.goal.events.iter().filter(|event| event.file.is_none() && event.id.is_none()) {
            let of_field = |column: &String| event.fields.iter().any(|field| field.column == *column);
            if !columns.contains(&event.time) && columns.iter().any(of_field) {
                let reason = "the event has no id, so that it cannot be found again: correct the file";
                return refuse(&line.code, reason);
            }
        }
        Ok(())
    }
}

/// What a goal run recorded.
struct Recorded {
    paths: Vec<PathBuf>,
    /// For the file and number of each line: whether it is of a linked file.
    linked: HashMap<(String, u64), bool>,
    /// Files of which nothing was merged.
    unmerged: Vec<String>,
}

impl Recorded {
    fn read(config: &Config, corrected: &HistoryEntry) -> Result<Self, Error> {
        let folder = rejected::folder(config, &corrected.report.run);
        let mut recorded =
            Self { paths: Vec::new(), linked: HashMap::new(), unmerged: corrected.unmerged_files.clone() };
        for (name, _) in &corrected.rejected_files {
            let path = folder.join(name);
            if !path.exists() {
                continue;
            }
            let is_linked = !rejected::is_of_root_files(name, &corrected.report.goal);
            rejected::read_lines(&path, |line| {
                recorded.linked.insert((line.file, line.number), is_linked);
                Ok(())
            })?;
            recorded.paths.push(path);
        }
        Ok(recorded)
    }
}

/// The lines' columns, and those of them that are mapped.
type Shape = (Arc<[String]>, Option<Vec<String>>);

/// Groups that are being written.
#[derive(Default)]
struct Groups(BTreeMap<Shape, (Group, RowWriter<BufWriter<File>>)>);

impl Groups {
    fn add(&mut self, folder: &Path, line: &Line, key: [u8; 32]) -> Result<(), Error> {
        let only = match &line.scope {
            LineScope::Row => None,
            LineScope::Cells(columns) => Some(columns.clone()),
        };
        let path = folder.join(format!("{}.csv", self.0.len()));
        let shape = (Arc::clone(&line.columns), only.clone());
        let (group, writer) = match self.0.entry(shape) {
            std::collections::btree_map::Entry::Occupied(group) => group.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let file = File::create_new(&path).map_err(|error| Error::io(&path, error))?;
                let mut writer = RowWriter::new(BufWriter::new(file), &rejected::dialect());
                let header = line.columns.iter().map(String::as_str);
                writer.write(header).map_err(|error| Error::io(&path, error))?;
                place.insert((Group { path, lines: Vec::new(), only }, writer))
            }
        };
        let cells = line.cells.iter().map(String::as_str);
        writer.write(cells).map_err(|error| Error::io(&group.path, error))?;
        group.lines.push(GroupLine { key, file: line.file.clone(), line: line.number });
        Ok(())
    }

    /// Whole rows come first: they may create the profiles that cells belong to.
    fn finish(self) -> Result<Vec<Group>, Error> {
        let (mut groups, mut cells) = (Vec::new(), Vec::new());
        for (group, mut writer) in self.0.into_values() {
            std::io::Write::flush(writer.get_mut()).map_err(|error| Error::io(&group.path, error))?;
            if group.only.is_none() { groups.push(group) } else { cells.push(group) }
        }
        groups.extend(cells);
        Ok(groups)
    }
}

impl Corrections<'_> {
    /// Gives rows the lines of their original file.
    pub(crate) fn restore_lines(&self, batch: &mut RecordBatch) {
        batch.set_lines(|row| Some(self.line(row)?.line));
    }

    /// Restricts a plan to the cells that are corrected. Rows add to the events of the original file.
    pub(crate) fn restrict(&self, plan: &mut Plan, columns: &[String]) {
        plan.events.iter_mut().for_each(|event| event.supplements = true);
        let Some(only) = &self.group.only else { return };
        let is_wanted = |place: usize| columns.get(place).is_some_and(|name| only.contains(name));
        plan.create = false;
        plan.fields.retain(|field| is_wanted(field.column));
        plan.events.retain(|event| {
            let own = event.nested.iter().filter(|nested| nested.path.is_empty());
            let mut fields = event.fields.iter().chain(own.flat_map(|nested| &nested.fields));
            let is_corrected = is_wanted(event.time) || fields.any(|field| is_wanted(field.column));
            event.path.is_empty() && is_corrected
        });
        // A profile gets its identifiers when it is created; this one was created without the value that is corrected.
        for identifier in &plan.identifiers {
            let Some(property) = identifier.property.filter(|_| is_wanted(identifier.column)) else {
                continue;
            };
            if plan.fields.iter().all(|field| field.property != property) {
                plan.fields.push(FieldPlan {
                    column: identifier.column,
                    property,
                    rule: if identifier.multiple { MergeRule::Add } else { MergeRule::SetIfEmpty },
                    separator: None,
                    separator_escape: None,
                    multiple: identifier.multiple,
                    unique: true,
                    format: identifier.format.clone(),
                });
            }
        }
        plan.fields.sort_by_key(|field| field.property);
    }

    /// The ledger's keys of the rows from `from` to `end` that were taken: not those that were rejected again.
    pub(crate) fn taken(
        &self,
        from: u64,
        end: u64,
        rejected: &[RejectedRow],
        columns: &[String],
    ) -> Vec<[u8; 32]> {
        let open: Vec<u64> =
            rejected.iter().filter(|row| self.stays(row, columns)).map(|row| row.number).collect();
        let rows = (from..end).filter(|row| open.binary_search(row).is_err());
        rows.filter_map(|row| Some(self.line(row)?.key)).collect()
    }

    /// What is recorded of rows that were not taken, or not wholly: each with the place of its original line.
    pub(crate) fn record(
        &self,
        rejected: &mut rejected::RejectedRows,
        (columns, width): (&[String], usize),
        rows: &[RejectedRow],
    ) -> Result<(), Error> {
        for row in rows {
            let Some(line) = self.line(row.number) else { continue };
            let source = Source { linked: None, columns, width, file: &line.file };
            match self.stays(row, columns) {
                true => rejected.keep(&source, row),
                false => rejected.record(&source, std::slice::from_ref(row))?,
            }
        }
        Ok(())
    }

    /// Whether a line can be corrected again, because nothing of it was taken.
    fn stays(&self, row: &RejectedRow, columns: &[String]) -> bool {
        match (&row.scope, &self.group.only) {
            (RejectedScope::Row | RejectedScope::Excluded, _) => true,
            (RejectedScope::Cells(_), None) => false,
            (RejectedScope::Cells(cells), Some(only)) => only.iter().all(|name| {
                cells.iter().any(|cell| columns.get(cell.column).is_some_and(|column| column == name))
            }),
        }
    }

    fn line(&self, row: u64) -> Option<&GroupLine> {
        self.group.lines.get(usize::try_from(row).ok()?)
    }
}
