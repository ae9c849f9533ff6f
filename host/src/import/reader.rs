//! Opens a file with its processors: bytes → text → batches of rows, and a session of each processor.

use sluicebox_files::{FoundFile, Reader, Source, decode};
use sluicebox_processors::Session;

use crate::error::Error;
use crate::import::Import;
use crate::plugins::open_sessions;

/// A file with its processors, at the start of its first row.
pub(crate) struct OpenFile {
    pub reader: Reader,
    pub sessions: Vec<Session>,
    /// The place of each session's processor in the goal.
    pub places: Vec<usize>,
    /// The file's columns, then those that processors add.
    pub columns: Vec<String>,
}

impl OpenFile {
    /// Adds the likely reason to an error about a missing column, as far as the next rows of the file tell it.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let Error::Columns { name, mut message, missing } = error else { return error };
        if let Some(lines) = missing.as_ref().and_then(|column| self.reader.lines_before_header(column)) {
            let header = if lines == 1 { "1 line" } else { &format!("{lines} lines") };
            message.push_str(&format!(
                "; the header seems to come after {header}: set skip_rows = {lines} in the goal's csv"
            ));
        }
        Error::Columns { name, message, missing }
    }
}

impl Import<'_> {
    /// Opens a file and a session of each of its processors; `None` if it has no header and no row. `linked` is the file's
    /// place among the goal's linked files.
    ///
    /// # Errors
    /// If the file cannot be read, or a processor refuses its columns.
    pub(crate) fn open(
        &self,
        file: &FoundFile,
        source: Source,
        linked: Option<usize>,
    ) -> Result<Option<OpenFile>, Error> {
        self.open_with(file, source, linked, self.row_limit(self.config.settings.tuning.batch_rows))
    }

    /// Opens a file like [`Import::open`], to be read in batches of `batch_rows` rows.
    ///
    /// # Errors
    /// As [`Import::open`].
    pub(crate) fn open_with(
        &self,
        file: &FoundFile,
        source: Source,
        linked: Option<usize>,
        batch_rows: usize,
    ) -> Result<Option<OpenFile>, Error> {
        let opened = decode(source, &self.decoding)
            .and_then(|(text, read)| Reader::open(text, read, self.csv.clone(), batch_rows));
        let reader = opened.map_err(|error| Error::File { name: file.name.clone(), error })?;
        let Some(reader) = reader else { return Ok(None) };
        let mut columns = reader.header().columns.clone();
        let own = self.processors.iter().enumerate().filter(|(_, processor)| processor.file == linked);
        let (places, processors): (Vec<_>, Vec<_>) = own.unzip();
        let sessions = open_sessions(processors, &self.goal.name, &file.name, &mut columns)?;
        Ok(Some(OpenFile { reader, sessions, places, columns }))
    }

    /// How many rows are taken at a time: one where the changes of each row are shown.
    pub(crate) fn row_limit(&self, rows: usize) -> usize {
        if self.diff.is_some() { 1 } else { rows }
    }
}
