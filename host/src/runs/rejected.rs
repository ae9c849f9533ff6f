//! The files of rows that were not taken: the columns of the source file, then the place and the reason of each row. Whatever the
//! dialect of the source, they are UTF-8 with commas and a header.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sluicebox_files::{CsvOptions, Reader, RowWriter, cells_of_row};
use sluicebox_model::{Column, OrNever, RejectedRow, RejectedScope, RejectionCode};

use crate::config::{Config, EXPORT_PROFILES, RecordExcluded};
use crate::error::Error;
use crate::runs::faults::Faults;
use crate::runs::report::HistoryEntry;

/// Beside the store.
const FOLDER: &str = "rejected";

/// In a run's folder: its corrected lines that wait for their import, a folder for each import.
const CORRECTED: &str = "corrected";

/// A ragged row that lacks more cells than these is recorded with fewer columns: it takes what its bytes take, and not what the header's
/// take. A partner may name a hundred thousand columns, and send millions of rows of one cell.
const MANY_MISSING: usize = 1000;

/// Stands in a recorded cell for bytes that are no text.
const NOT_TEXT: &str = "\u{FFFD}";

/// The columns after those of the source file.
pub(crate) const OWN_COLUMNS: [&str; 7] =
    ["_file", "_line", "_scope", "_columns", "_code", "_reason", "_raw"];

/// Those of files that older versions wrote, in the dialect of the goal's files.
const OLD_COLUMNS: [&str; 4] = ["_file", "_line", "_code", "_reason"];

/// The folder of a run's rejected rows.
pub(crate) fn folder(config: &Config, run: &str) -> PathBuf {
    config.data().join(FOLDER).join(run)
}

/// The folder of a run's corrected lines that the import with an id takes.
pub(crate) fn corrected_folder(config: &Config, run: &str, import: &str) -> PathBuf {
    folder(config, run).join(CORRECTED).join(import)
}

/// Where rows come from.
pub(crate) struct Source<'a> {
    /// The name of the linked file in the goal; `None` = the root file.
    pub linked: Option<&'a str>,
    /// The file's columns, then those that processors add.
    pub columns: &'a [String],
    /// How many columns the file has.
    pub width: usize,
    /// The file's name.
    pub file: &'a str,
}

impl Source<'_> {
    fn own_columns(&self) -> &[String] {
        self.columns.get(..self.width).unwrap_or(self.columns)
    }

    /// How many of its columns are recorded with a row. There are few such widths.
    fn recorded_columns(&self, row: &RejectedRow) -> usize {
        let (all, cells) = (self.own_columns().len(), row.cells.rows());
        match row.code {
            RejectionCode::Ragged if cells + MANY_MISSING < all => cells.max(1).next_power_of_two().min(all),
            _ => all,
        }
    }

    fn column(&self, place: usize) -> &str {
        self.columns.get(place).map_or("", String::as_str)
    }
}

/// The rows of one goal run that were not taken. The first row of a root or linked file creates a file; rows with other columns
/// begin another.
pub(crate) struct RejectedRows {
    folder: PathBuf,
    goal: String,
    /// Whether rows are only counted.
    dry: bool,
    record_excluded: RecordExcluded,
    /// Excluded rows that were recorded.
    excluded: u64,
    /// By the name of the linked file, and how many columns are recorded.
    open: HashMap<(Option<String>, usize), Open>,
    /// The name and length of each file.
    written: Vec<(String, u64)>,
    /// What was not taken, by kind.
    faults: Faults,
}

struct Open {
    columns: Vec<String>,
    path: PathBuf,
    /// Its place in `written`.
    place: usize,
    writer: RowWriter<BufWriter<File>>,
}

impl RejectedRows {
    /// Writes to the run's folder, or only counts.
    pub(crate) fn new(folder: PathBuf, goal: &str, record_excluded: RecordExcluded, dry: bool) -> Self {
        Self {
            folder,
            goal: goal.to_owned(),
            dry,
            record_excluded,
            excluded: 0,
            open: HashMap::new(),
            written: Vec::new(),
            faults: Faults::default(),
        }
    }

    /// Whether the next excluded row is recorded with its cells.
    pub(crate) fn records_excluded(&self) -> bool {
        match self.record_excluded {
            RecordExcluded::Rows(most) => self.excluded < most,
            RecordExcluded::All => true,
        }
    }

    /// Counts and appends rows of a file. They are on the disk when this returns.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn record(&mut self, source: &Source<'_>, rows: &[RejectedRow]) -> Result<(), Error> {
        let mut recorded: BTreeMap<usize, Vec<&RejectedRow>> = BTreeMap::new();
        for row in rows {
            self.count(source, row);
            let is_recorded = match row.scope {
                RejectedScope::Excluded if self.records_excluded() => {
                    self.excluded += 1;
                    true
                }
                RejectedScope::Excluded => false,
                RejectedScope::Row | RejectedScope::Cells(_) => true,
            };
            if is_recorded && !self.dry {
                recorded.entry(source.recorded_columns(row)).or_default().push(row);
            }
        }
        // The rows with all columns first: theirs is the file with the goal's name.
        recorded.into_iter().rev().try_for_each(|(columns, rows)| self.append(source, columns, &rows))
    }

    /// Puts into a history entry what was recorded so far.
    pub(crate) fn report(&self, entry: &mut HistoryEntry) {
        entry.rejected_files.clone_from(&self.written);
        entry.report.faults = self.faults.most_frequent();
        // An export excludes profiles, which no file records.
        if entry.report.kind != EXPORT_PROFILES {
            let excluded = entry.report.rows.excluded;
            entry.report.excluded_unrecorded = excluded.saturating_sub(self.excluded);
        }
    }

    /// Counts a line that cannot be imported.
    pub(crate) fn refuse(&mut self, code: &str, file: &str, line: u64) {
        self.faults.add(code, None, file, line);
    }

    /// Counts a row that is recorded already.
    pub(crate) fn keep(&mut self, source: &Source<'_>, row: &RejectedRow) {
        self.count(source, row);
        self.excluded += u64::from(row.scope == RejectedScope::Excluded);
    }

    /// Counts what of a row was not taken.
    fn count(&mut self, source: &Source<'_>, row: &RejectedRow) {
        match &row.scope {
            RejectedScope::Row | RejectedScope::Excluded => {
                self.faults.add(row.code.as_str(), None, source.file, row.line);
            }
            RejectedScope::Cells(cells) => {
                for cell in cells {
                    let column = Some(source.column(cell.column));
                    self.faults.add(cell.code.as_str(), column, source.file, row.line);
                }
            }
        }
    }

    /// Appends rows with the first `width` columns of their file.
    fn append(&mut self, source: &Source<'_>, width: usize, rows: &[&RejectedRow]) -> Result<(), Error> {
        let key = (source.linked.map(str::to_owned), width);
        let columns = source.own_columns().get(..width).or_never("the recorded columns");
        let mut open = match self.open.remove(&key) {
            Some(open) if open.columns == columns => open,
            _ => self.begin(source, columns)?,
        };
        let path = open.path.clone();
        let mut write = || {
            for row in rows {
                let place = own_cells(source, row).into_iter().map(Cow::Owned);
                open.writer.write(recorded_cells(&row.cells, columns.len()).chain(place))?;
            }
            let writer = open.writer.get_mut();
            writer.flush()?;
            writer.get_ref().sync_data()?;
            writer.get_ref().metadata()
        };
        let length = write().map_err(|error| Error::io(&path, error))?.len();
        if let Some((_, written)) = self.written.get_mut(open.place) {
            *written = length;
        }
        self.open.insert(key, open);
        Ok(())
    }

    fn begin(&mut self, source: &Source<'_>, columns: &[String]) -> Result<Open, Error> {
        // A person who may not read the store may not read the rejected rows either.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|error| Error::io(&self.folder, error))?;
        let stem = match source.linked {
            None => self.goal.clone(),
            Some(linked) => format!("{}.{}", self.goal, file_name(linked)),
        };
        let (name, path, file) = self.create(&stem)?;
        let mut writer = RowWriter::new(BufWriter::new(file), &CsvOptions::default());
        let header = columns.iter().map(String::as_str).chain(OWN_COLUMNS);
        writer.write(header).map_err(|error| Error::io(&path, error))?;
        self.written.push((name, 0));
        Ok(Open { columns: columns.to_owned(), path, place: self.written.len() - 1, writer })
    }

    /// Creates a file with a name that no file of the run has: rows with other columns, or a goal whose name is that of another
    /// with a linked file.
    fn create(&self, stem: &str) -> Result<(String, PathBuf, File), Error> {
        let mut number = 1_u32;
        loop {
            let name = if number == 1 { format!("{stem}.csv") } else { format!("{stem}~{number}.csv") };
            let path = self.folder.join(&name);
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok((name, path, file)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(Error::io(&path, error)),
            }
        }
    }
}

/// The cells that say where and why a row was not taken.
fn own_cells(source: &Source<'_>, row: &RejectedRow) -> [String; OWN_COLUMNS.len()] {
    let (scope, columns, reason) = match &row.scope {
        RejectedScope::Row | RejectedScope::Excluded => ("row", String::new(), row.reason.clone()),
        RejectedScope::Cells(cells) => {
            let (mut names, mut reasons): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
            // A row may have thousands of them.
            let (mut named, mut given) = (HashSet::new(), HashSet::new());
            for cell in cells {
                let (name, why) = (source.column(cell.column), cell.code.of_cell());
                if named.insert(name) {
                    names.push(name);
                }
                if given.insert((name, why)) {
                    reasons.push(format!("`{name}` {why}"));
                }
            }
            let names = serde_json::to_string(&names).or_never("the JSON of names");
            ("cells", names, reasons.join("; "))
        }
    };
    let raw = row.raw.as_ref().map(|raw| BASE64.encode(raw)).unwrap_or_default();
    let (file, line) = (source.file.to_owned(), row.line.to_string());
    [file, line, scope.to_owned(), columns, row.code.as_str().to_owned(), reason, raw]
}

/// A name as a part of a file name.
fn file_name(name: &str) -> String {
    let fits = |character: char| character.is_alphanumeric() || "_.- ".contains(character);
    name.chars().map(|character| if fits(character) { character } else { '_' }).collect()
}

/// The cells of a row, as many as there are columns: missing ones are empty, and the surplus is joined to the last. No program
/// edits a NUL byte: `_raw` has it.
fn recorded_cells(cells: &Column, columns: usize) -> impl Iterator<Item = Cow<'_, str>> {
    (0..columns).map(move |place| {
        let cell = cells.cell(place);
        let surplus = if place + 1 == columns { columns..cells.rows() } else { 0..0 };
        let has_nul = cell.contains('\0');
        if surplus.is_empty() && !has_nul {
            return Cow::Borrowed(cell);
        }
        let joined = surplus.fold(cell.to_owned(), |joined, place| joined + "," + cells.cell(place));
        Cow::Owned(readable(&joined))
    })
}

/// A cell in the form that is recorded.
fn readable(cell: &str) -> String {
    cell.replace('\0', NOT_TEXT)
}

impl Line {
    /// Whether the cells are still those that were recorded of a row that could not be read in the dialect of its file.
    pub(crate) fn is_uncorrected(&self, csv: &CsvOptions) -> bool {
        let Some(raw) = &self.raw else { return false };
        cells_of_row(raw, self.columns.len(), csv)
            .iter()
            .map(|cell| readable(cell))
            .eq(self.cells.iter().cloned())
    }
}

/// Removes the rows that a goal run whose process died had written after its last commit. `committed` has its files as of that
/// commit, `others` the names of the files of the run's other goals.
///
/// # Errors
/// If a file cannot be cut or removed.
pub(crate) fn truncate(
    folder: &Path,
    committed: &[(String, u64)],
    others: &HashSet<String>,
) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if others.contains(&*name) {
            continue;
        }
        let done = match committed.iter().find(|(committed, _)| *name == **committed) {
            Some((_, length)) => {
                OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(*length))
            }
            None if name.ends_with(".csv") => fs::remove_file(&path),
            None => Ok(()),
        };
        done.map_err(|error| Error::io(&path, error))?;
    }
    Ok(())
}

/// All files of rejected rows.
///
/// # Errors
/// If a folder cannot be read.
pub(crate) fn files(config: &Config) -> Result<Vec<PathBuf>, Error> {
    let folder = config.data().join(FOLDER);
    let mut files = Vec::new();
    let Ok(runs) = fs::read_dir(&folder) else { return Ok(files) };
    for run in runs.flatten() {
        let entries = fs::read_dir(run.path()).map_err(|error| Error::io(&run.path(), error))?;
        let csv = entries.flatten().map(|entry| entry.path());
        files.extend(csv.filter(|path| is_csv(path)));
    }
    for folder in waiting(config)? {
        files.extend(corrected_files(&folder)?);
    }
    files.sort();
    Ok(files)
}

fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "csv")
}

/// The folders of corrected lines that wait for their import.
fn waiting(config: &Config) -> Result<Vec<PathBuf>, Error> {
    let mut waiting = Vec::new();
    let Ok(runs) = fs::read_dir(config.data().join(FOLDER)) else { return Ok(waiting) };
    for run in runs.flatten() {
        let folder = run.path().join(CORRECTED);
        match fs::read_dir(&folder) {
            Ok(imports) => waiting.extend(imports.flatten().map(|import| import.path())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(&folder, error)),
        }
    }
    Ok(waiting)
}

/// The files of a folder of corrected lines.
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn corrected_files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = fs::read_dir(folder).map_err(|error| Error::io(folder, error))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| is_csv(path));
    files.sort();
    Ok(files)
}

/// Removes a folder of corrected lines that are imported, or will not be.
///
/// # Errors
/// If it cannot be removed.
pub(crate) fn remove_corrected(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(folder, error)),
    }
    // Other imports of the same run may wait in the folder around it.
    let _ = folder.parent().map(fs::remove_dir);
    Ok(())
}

/// Removes the folders of corrected lines that no import will take: their process ended between two writes.
///
/// # Errors
/// If one cannot be read or removed.
pub(crate) fn remove_corrected_except(config: &Config, wanted: &HashSet<PathBuf>) -> Result<(), Error> {
    let mut unwanted = waiting(config)?.into_iter().filter(|folder| !wanted.contains(folder));
    unwanted.try_for_each(|folder| remove_corrected(&folder))
}

/// A file of corrected lines that is being written. All lines have the same columns.
pub(crate) struct CorrectedFile {
    path: PathBuf,
    writer: RowWriter<BufWriter<File>>,
}

impl CorrectedFile {
    /// Creates a file in a folder, which only its owner can read.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn create(folder: &Path, name: &str, columns: &[String]) -> Result<Self, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| Error::io(folder, error))?;
        let path = folder.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| Error::io(&path, error))?;
        let mut writer = RowWriter::new(BufWriter::new(file), &dialect());
        let header = columns.iter().map(String::as_str).chain(OWN_COLUMNS);
        writer.write(header).map_err(|error| Error::io(&path, error))?;
        Ok(Self { path, writer })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&mut self, line: &Line) -> Result<(), Error> {
        let columns = match &line.scope {
            LineScope::Row => String::new(),
            LineScope::Cells(columns) => serde_json::to_string(columns).or_never("the JSON of names"),
        };
        let raw = line.raw.as_ref().map(|raw| BASE64.encode(raw)).unwrap_or_default();
        let number = line.number.to_string();
        let own = [&line.file, &number, line.scope.name(), &columns, &line.code, &line.reason, &raw];
        let cells = line.cells.iter().map(String::as_str).chain(own);
        self.writer.write(cells).map_err(|error| Error::io(&self.path, error))
    }

    /// Returns when the lines are on the disk.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let writer = self.writer.get_mut();
        let written = writer.flush().and_then(|()| writer.get_ref().sync_all());
        written.map_err(|error| Error::io(&self.path, error))
    }
}

/// The dialect of all files of rejected rows. Cells are not trimmed.
pub(crate) fn dialect() -> CsvOptions {
    let (max_cell, max_row) = (usize::MAX, 1 << 30);
    CsvOptions { trim: false, null_values: Vec::new(), max_cell, max_row, ..CsvOptions::default() }
}

/// How many of a file's last columns are not the source file's.
pub(crate) fn own_columns(columns: &[String]) -> usize {
    [&OWN_COLUMNS[..], &OLD_COLUMNS].into_iter().find(|own| ends_with(columns, own)).map_or(0, <[_]>::len)
}

fn ends_with(columns: &[String], names: &[&str]) -> bool {
    let end = columns.len().checked_sub(names.len()).and_then(|from| columns.get(from..));
    end.is_some_and(|end| end.iter().zip(names).all(|(column, name)| column == name))
}

/// The dialect of a file of rejected rows. Older versions wrote that of the goal's files; such a file has the goal's name, with a
/// number where there are several.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn options(config: &Config, file: &Path) -> Result<CsvOptions, Error> {
    if is_of_this_version(file)? {
        return Ok(dialect());
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let numbered = stem.rsplit_once('-').filter(|(_, number)| number.parse::<u32>().is_ok());
    let names = [Some(stem.as_ref()), numbered.map(|(name, _)| name)];
    let goals = || config.connections.iter().flat_map(|connection| &connection.goals);
    let goal = names.into_iter().flatten().find_map(|name| goals().find(|goal| goal.name == name));
    let own = goal.map(|goal| goal.csv.clone()).unwrap_or_default();
    Ok(CsvOptions { header: true, skip_rows: 0, trim: false, null_values: Vec::new(), ..own })
}

fn open(file: &Path, options: CsvOptions) -> Result<Option<Reader>, Error> {
    let input = File::open(file).map_err(|error| Error::io(file, error))?;
    let opened = Reader::open(Box::new(BufReader::new(input)), Arc::new(AtomicU64::new(0)), options, 1024);
    opened.map_err(|error| Error::File { name: file.display().to_string(), error })
}

/// Calls `row` with the columns and cells of each row of a file of rejected rows.
///
/// # Errors
/// If the file cannot be read, or `row` fails.
pub(crate) fn read(
    config: &Config,
    file: &Path,
    mut row: impl FnMut(&[String], &[&str]) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |error| Error::File { name: file.display().to_string(), error };
    let Some(mut reader) = open(file, options(config, file)?)? else { return Ok(()) };
    let columns = reader.header().columns.clone();
    while let Some(batch) = reader.next_batch().map_err(failed)? {
        for place in 0..batch.rows() {
            let cells: Vec<&str> = (0..columns.len()).map(|column| batch.raw(place, column)).collect();
            row(&columns, &cells)?;
        }
        for rejected in &batch.rejected {
            let cells = (0..columns.len().max(rejected.cells.rows())).map(|place| rejected.cells.cell(place));
            row(&columns, &cells.collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// How much of the source's row a line stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LineScope {
    Row,
    /// These columns.
    Cells(Vec<String>),
}

/// A line of a file of rejected rows.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The columns of the source file, which all lines of a file share, and their cells.
    pub columns: Arc<[String]>,
    pub cells: Vec<String>,
    /// The name of the source file.
    pub file: String,
    /// The line in it where the row begins.
    pub number: u64,
    pub scope: LineScope,
    pub code: String,
    pub reason: String,
    /// The bytes of a row that could not be split into its cells.
    pub raw: Option<Vec<u8>>,
}

impl LineScope {
    /// As `_scope` has it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Row => "row",
            Self::Cells(_) => "cells",
        }
    }
}

impl Line {
    /// About how many bytes of memory it takes.
    pub(crate) fn memory(&self) -> usize {
        let cells: usize = self.cells.iter().map(|cell| size_of::<String>() + cell.len()).sum();
        cells + self.raw.as_ref().map_or(0, Vec::len)
    }

    /// Whether a cell holds what stands for bytes that are no text.
    pub(crate) fn has_lost_bytes(&self) -> bool {
        self.raw.is_some()
            && ["encoding", "nul"].contains(&self.code.as_str())
            && self.cells.iter().any(|cell| cell.contains(NOT_TEXT))
    }
}

/// Calls `take` with each line of a file of rejected rows, in the form of this version.
///
/// # Errors
/// If the file cannot be read, is no such file, or `take` fails.
pub(crate) fn read_lines(file: &Path, mut take: impl FnMut(Line) -> Result<(), Error>) -> Result<(), Error> {
    let name = || file.display().to_string();
    let Some(mut reader) = open(file, dialect())? else { return Ok(()) };
    let columns = reader.header().columns.clone();
    if !ends_with(&columns, &OWN_COLUMNS) {
        let message =
            format!("expected a file of rejected rows, whose last columns are {}", OWN_COLUMNS.join(", "));
        return Err(Error::Columns { name: name(), message, missing: None });
    }
    let width = columns.len() - OWN_COLUMNS.len();
    let own: Arc<[String]> = columns.get(..width).unwrap_or_default().into();
    while let Some(batch) = reader.next_batch().map_err(|error| Error::File { name: name(), error })? {
        if let Some(bad) = batch.rejected.first() {
            let message = format!("line {}: {}", bad.line, bad.reason);
            return Err(Error::Columns { name: name(), message, missing: None });
        }
        for row in 0..batch.rows() {
            let cell = |column: &str| {
                let place = OWN_COLUMNS.iter().position(|name| *name == column).unwrap_or_default();
                batch.raw(row, width + place)
            };
            let wrong = |column: &str| {
                let message =
                    format!("line {}: `{column}` was changed to what it cannot be", batch.place(row).1);
                Error::Columns { name: name(), message, missing: None }
            };
            let scope = match cell("_scope") {
                "row" => LineScope::Row,
                "cells" => {
                    let columns = serde_json::from_str(cell("_columns")).map_err(|_| wrong("_columns"))?;
                    LineScope::Cells(columns)
                }
                _ => return Err(wrong("_scope")),
            };
            let raw = match cell("_raw") {
                "" => None,
                raw => Some(raw_bytes(raw).ok_or_else(|| wrong("_raw"))?),
            };
            take(Line {
                columns: Arc::clone(&own),
                cells: (0..width).map(|column| batch.raw(row, column).to_owned()).collect(),
                file: cell("_file").to_owned(),
                number: cell("_line").parse().map_err(|_| wrong("_line"))?,
                scope,
                code: cell("_code").to_owned(),
                reason: cell("_reason").to_owned(),
                raw,
            })?;
        }
    }
    Ok(())
}

/// Whether a file of rejected rows has the columns of this version.
///
/// # Errors
/// If the file cannot be read.
pub(crate) fn is_of_this_version(file: &Path) -> Result<bool, Error> {
    Ok(open(file, dialect())?.is_none_or(|reader| ends_with(&reader.header().columns, &OWN_COLUMNS)))
}

/// Whether a file of a goal's rejected rows has rows of root files, not of linked ones.
pub(crate) fn is_of_root_files(file: &str, goal: &str) -> bool {
    file.strip_prefix(goal).and_then(|rest| rest.strip_suffix(".csv")).is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('~').is_some_and(|number| number.parse::<u32>().is_ok())
    })
}

/// The bytes that a cell of `_raw` stands for.
pub(crate) fn raw_bytes(cell: &str) -> Option<Vec<u8>> {
    BASE64.decode(cell).ok()
}
