//! The files of rejected rows: the columns of the source file, then the place and the reason of each row.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use sluicebox_files::{CsvOptions, Reader, RowWriter};
use sluicebox_model::RejectedRow;

use crate::config::Config;
use crate::error::Error;

/// Beside the store.
const FOLDER: &str = "rejected";

/// The folder of a run's rejected rows.
pub(crate) fn folder(config: &Config, run: &str) -> PathBuf {
    config.data().join(FOLDER).join(run)
}

/// The rejected rows of one goal run. The first row creates a file; rows with other columns begin another.
pub(crate) struct RejectedRows {
    folder: PathBuf,
    goal: String,
    options: CsvOptions,
    open: Option<Open>,
    /// The name and length of each file.
    pub written: Vec<(String, u64)>,
}

struct Open {
    columns: Vec<String>,
    path: PathBuf,
    writer: RowWriter<BufWriter<File>>,
}

impl RejectedRows {
    /// Writes to the run's folder, in the goal's dialect.
    pub(crate) fn new(folder: PathBuf, goal: &str, options: &CsvOptions) -> Self {
        Self { folder, goal: goal.to_owned(), options: options.clone(), open: None, written: Vec::new() }
    }

    /// Appends rows of a file. They are on the disk when this returns.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(crate) fn append(
        &mut self,
        columns: &[String],
        file: &str,
        rows: &[RejectedRow],
    ) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        if self.open.as_ref().is_none_or(|open| open.columns != columns) {
            self.open = Some(self.begin(columns)?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let (path, delimiter) = (open.path.clone(), self.options.delimiter);
        let mut write = || {
            for row in rows {
                let line = row.line.to_string();
                let place = [file, &line, row.code.as_str(), &row.reason];
                let cells = join_surplus(&row.cells, columns.len(), delimiter);
                open.writer.write(cells.iter().map(|cell| &**cell).chain(place))?;
            }
            let writer = open.writer.get_mut();
            writer.flush()?;
            writer.get_ref().sync_data()?;
            writer.get_ref().metadata()
        };
        let length = write().map_err(|error| Error::io(&path, error))?.len();
        if let Some((_, written)) = self.written.last_mut() {
            *written = length;
        }
        Ok(())
    }

    fn begin(&mut self, columns: &[String]) -> Result<Open, Error> {
        // A person who may not read the store may not read the rejected rows either.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|error| Error::io(&self.folder, error))?;
        let name = match self.written.len() {
            0 => format!("{}.csv", self.goal),
            more => format!("{}-{}.csv", self.goal, more + 1),
        };
        let path = self.folder.join(&name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = file.map_err(|error| Error::io(&path, error))?;
        let mut writer = RowWriter::new(BufWriter::new(file), &self.options);
        let place = ["_file", "_line", "_code", "_reason"];
        let header = columns.iter().map(String::as_str).chain(place);
        writer.write(header).map_err(|error| Error::io(&path, error))?;
        self.written.push((name, 0));
        Ok(Open { columns: columns.to_owned(), path, writer })
    }
}

/// The cells of a row, as many as there are columns: missing ones are empty, and the surplus is joined to the last.
fn join_surplus(cells: &[String], columns: usize, delimiter: char) -> Vec<Cow<'_, str>> {
    let (own, surplus) = cells.split_at_checked(columns).unwrap_or((cells, &[]));
    let mut row: Vec<Cow<'_, str>> = own.iter().map(|cell| Cow::Borrowed(cell.as_str())).collect();
    row.resize(columns, Cow::Borrowed(""));
    if let Some(last) = row.last_mut() {
        for cell in surplus {
            last.to_mut().extend([delimiter]);
            last.to_mut().push_str(cell);
        }
    }
    row
}

/// Removes the rows that a goal run whose process died had written after its last commit.
///
/// # Errors
/// If a file cannot be cut or removed.
pub(crate) fn truncate(folder: &Path, goal: &str, committed: &[(String, u64)]) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let of_goal = name.to_str().and_then(|name| name.strip_prefix(goal)?.strip_suffix(".csv"));
        let of_goal = of_goal.is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix('-').is_some_and(|number| number.parse::<u32>().is_ok())
        });
        let done = match committed.iter().find(|(committed, _)| name == committed.as_str()) {
            Some((_, length)) => {
                OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(*length))
            }
            None if of_goal => fs::remove_file(&path),
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
        files.extend(csv.filter(|path| path.extension().is_some_and(|extension| extension == "csv")));
    }
    files.sort();
    Ok(files)
}

/// The dialect of a file of rejected rows, which is that of the goal's files. The file has the goal's name, with a number
/// where there are several.
pub(crate) fn options(config: &Config, file: &Path) -> CsvOptions {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let numbered = stem.rsplit_once('-').filter(|(_, number)| number.parse::<u32>().is_ok());
    let names = [Some(stem.as_ref()), numbered.map(|(name, _)| name)];
    let goals = || config.connections.iter().flat_map(|connection| &connection.goals);
    let goal = names.into_iter().flatten().find_map(|name| goals().find(|goal| goal.name == name));
    let own = goal.map(|goal| goal.csv.clone()).unwrap_or_default();
    CsvOptions { header: true, skip_rows: 0, trim: false, null_values: Vec::new(), ..own }
}

/// Calls `row` with the columns and cells of each row of a file of rejected rows.
///
/// # Errors
/// If the file cannot be read, or `row` fails.
pub(crate) fn read(
    file: &Path,
    options: &CsvOptions,
    mut row: impl FnMut(&[String], &[&str]) -> Result<(), Error>,
) -> Result<(), Error> {
    let failed = |error| Error::File { name: file.display().to_string(), error };
    let input = File::open(file).map_err(|error| Error::io(file, error))?;
    let input = Box::new(BufReader::new(input));
    let reader = Reader::open(input, Arc::new(AtomicU64::new(0)), options.clone(), 1024).map_err(failed)?;
    let Some(mut reader) = reader else { return Ok(()) };
    let columns = reader.header().columns.clone();
    while let Some(batch) = reader.next_batch().map_err(failed)? {
        for place in 0..batch.rows() {
            let cells: Vec<&str> = (0..columns.len()).map(|column| batch.raw(place, column)).collect();
            row(&columns, &cells)?;
        }
        for rejected in &batch.rejected {
            let cells: Vec<&str> = rejected.cells.iter().map(String::as_str).collect();
            row(&columns, &cells)?;
        }
    }
    Ok(())
}
