//! An export goal: select → rows → process → write → encode → put.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp, ZonedDateTime};
use sluicebox_files::{CsvOptions, FileError, Output, Packing, RowEncoder, Unencodable};
use sluicebox_model::{
    Event, EventKey, EventType, EventTypeId, NestedTypeId, PropertyId, PropertySchema, RecordId, RejectedRow,
    RejectionCode, ValueType, Verdict,
};
use sluicebox_processors::Session;
use sluicebox_store::{Commit, ExportState, Names, Owner, Store};

use crate::config::{Config, Connection, EXPORT_PROFILES, ExportGoal, ExportedEvents, Opened, WhenEmpty};
use crate::error::Error;
use crate::exchange::{Exchanged, Way};
use crate::import::{LOOK, NEVER};
use crate::plugins::Processor;
use crate::progress::{Progress, Watch};
use crate::rejected::{self, RejectedRows};
use crate::report::{FileReport, FileStatus, Kept, ProcessorReport, Report, Run};
use crate::rows::{EventCells, Page, Rows};
use crate::segments::Untold;
use crate::walk::{Selection, walk};

/// What an export goal works with.
pub(crate) struct Export<'a> {
    pub config: &'a Config,
    pub connection: &'a Connection,
    pub goal: &'a ExportGoal,
    pub opened: &'a Opened,
    pub processors: &'a [Processor],
    pub store: &'a Store,
    /// The connection's run.
    pub run: &'a Run,
    /// Who is shown how far it is.
    pub watch: Watch<'a>,
    /// Whether the store is a copy: nothing is written but the counts.
    pub dry: bool,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
}

impl<'a> Export<'a> {
    /// An export that only looks, and nobody looks at.
    pub(crate) fn looking(
        config: &'a Config,
        connection: &'a Connection,
        goal: &'a ExportGoal,
        opened: &'a Opened,
        processors: &'a [Processor],
        store: &'a Store,
    ) -> Self {
        let (run, watch, stop) = (&LOOK, Watch::Nobody, &NEVER);
        Self { config, connection, goal, opened, processors, store, run, watch, dry: true, stop }
    }
}

impl Export<'_> {
    /// Runs the goal. What goes wrong is in the report.
    ///
    /// # Errors
    /// If the store fails, or the run is interrupted.
    pub(crate) fn run(&self) -> Result<Kept, Error> {
        let begun = Instant::now();
        let started = Timestamp::now();
        let report = Report {
            processors: self.processors.iter().map(ProcessorReport::of).collect(),
            ..Report::of(&self.run.id, &self.connection.name, &self.goal.name, EXPORT_PROFILES)
        };
        let mut kept = Kept::new(report, started, self.run);
        let (number, now) = self.store.begin_goal_run(started.as_millisecond(), |_| kept.encode())?;

        kept.at = now;
        let mut exchanged = Exchanged::load(self.store, &self.connection.stem, Way::Out)?;
        let result = self.export(started, &mut kept, &mut exchanged);

        kept.end(result.as_ref().err(), begun.elapsed());
        // The files are in place: what changes from now on is for the next run.
        let state = ExportState { until: now, settings: self.settings() };
        let export = result.is_ok().then(|| (self.key(), state));
        let goal_run = Some((number, kept.encode()));
        let exchanged = if result.is_ok() { exchanged.changed() } else { None };
        self.store.commit(Commit {
            goal_run,
            ends_goal_run: true,
            export,
            exchanged,
            ..Commit::default()
        })?;
        match result {
            Err(error @ (Error::Store(_) | Error::Interrupted)) => Err(error),
            _ => Ok(kept),
        }
    }

    fn export(&self, started: Timestamp, kept: &mut Kept, exchanged: &mut Exchanged) -> Result<(), Error> {
        if let Some(broken) = self.processors.iter().find_map(|processor| processor.broken.clone()) {
            return Err(Error::Failed(broken));
        }
        let selection = self.selection()?;
        let name = self.free_name(started);
        let names = self.store.names();
        let (mut sessions, columns) = self.open(&name)?;
        let mut files = Files::create(self, &name, &columns, &names)?;
        let mut rejected = RejectedRows::new(
            rejected::folder(self.config, &self.run.id),
            &self.goal.name,
            &CsvOptions { delimiter: self.goal.csv.delimiter, ..CsvOptions::default() },
        );
        let mut batches = 0;
        let result = self.pages(&selection, &names, started, |page| {
            batches += 1;
            let exported =
                self.write(page, batches, &mut sessions, &mut files, (&mut rejected, &columns, kept))?;
            exchanged.add(exported);
            Ok(true)
        });
        for (processor, session) in kept.report.processors.iter_mut().zip(&sessions) {
            processor.add(session.usage());
        }
        if let Err(error) = &result {
            kept.report.trapped(error);
        }
        kept.rejected_files.clone_from(&rejected.written);
        result?;
        kept.report.files = files.finish(self)?;
        Ok(())
    }

    /// What the goal looks at: all, or what changed since its last successful run with the same settings.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn selection(&self) -> Result<Selection, Error> {
        let state = self.store.export_state(&self.key())?;
        let same = state.filter(|state| self.goal.changed_only && state.settings == self.settings());
        let Some(state) = same else { return Ok(Selection::All(None)) };
        // Where much changed, it is found faster by looking at all.
        Ok(match self.store.changed_since(state.until)? {
            Some(ids) if ids.len() as u64 * 4 <= self.store.about_records()? => {
                Selection::Changed(ids, state.until)
            }
            _ => Selection::All(Some(state.until)),
        })
    }

    /// Hands the selected profiles on as pages of rows, in the order of their ids, for as long as `take` says that it goes
    /// on.
    ///
    /// # Errors
    /// If the store fails, the run is interrupted, or with what `take` says.
    pub(crate) fn pages(
        &self,
        selection: &Selection,
        names: &Names,
        now: Timestamp,
        mut take: impl FnMut(Page) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let workers = self.config.settings.tuning.threads.saturating_sub(1).max(1);
        let rows = || {
            let store = (self.store, names);
            Rows::new(self.config, self.connection, self.goal, store, selection.since(), now)
        };
        let workers = (0..workers).map(|_| rows()).collect::<Result<Vec<_>, _>>()?;
        let mut progress = Progress::of_file(self.watch, &self.goal.name, self.store.about_records()?);
        let mut done = 0;
        let workers = walk(self.store, selection, workers, |page| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            done += page.looked_at;
            progress.advance(done, page.batch.rows() as u64);
            take(page)
        })?;
        for untold in Untold::sum(workers.iter().flat_map(Rows::untold)) {
            self.warn(&untold.to_string());
        }
        Ok(())
    }

    /// Opens a session of each processor; answers with them and the columns that the file has then.
    ///
    /// # Errors
    /// If a processor cannot work on the columns.
    pub(crate) fn open(&self, file: &str) -> Result<(Vec<Session>, Vec<String>), Error> {
        let mut columns: Vec<String> = self.goal.columns.iter().map(|column| column.header.clone()).collect();
        let mut sessions = Vec::new();
        for processor in self.processors {
            let session = processor.plugin.open(&self.goal.name, &processor.config, &columns);
            let session =
                session.map_err(|error| Error::Processor { file: file.to_owned(), batch: None, error })?;
            columns.extend_from_slice(session.added());
            sessions.push(session);
        }
        Ok((sessions, columns))
    }

    /// Has a page processed, and writes what is left of it; answers with whom that is.
    fn write(
        &self,
        mut page: Page,
        batch: u64,
        sessions: &mut [Session],
        files: &mut Files<'_>,
        (rejected, columns, kept): (&mut RejectedRows, &[String], &mut Kept),
    ) -> Result<Vec<RecordId>, Error> {
        let mut exported = Vec::with_capacity(page.ids.len());
        for session in sessions {
            let failed =
                |error| Error::Processor { file: files.profiles.name.clone(), batch: Some(batch), error };
            session.process(&mut page.batch).map_err(failed)?;
        }
        let rows = &mut kept.report.rows;
        rows.read += page.read;
        rows.excluded += page.excluded;
        let before = rows.dropped + rows.rejected + rows.merged;
        let mut refused: Vec<RejectedRow> = Vec::new();
        for row in 0..page.batch.rows() {
            match page.batch.verdict(row) {
                Verdict::Drop => rows.dropped += 1,
                Verdict::Reject { code, reason } => {
                    let code = RejectionCode::Processor(code.clone());
                    refused.push(page.batch.reject(row, code, reason.clone()));
                }
                Verdict::Keep => {
                    let cells = (0..columns.len()).map(|column| page.batch.cell(row, column));
                    match files.profiles.row(cells)? {
                        Ok(()) => {
                            rows.merged += 1;
                            exported.extend(page.ids.get(row).copied());
                            let events = page.events.get(row).map_or(&[][..], Vec::as_slice);
                            let id = page.ids.get(row).map(ToString::to_string).unwrap_or_default();
                            kept.report.events.exported += files.events(&id, events)?;
                        }
                        Err(Unencodable(column)) => {
                            let column = columns.get(column).map_or("", String::as_str);
                            let reason = format!(
                                "column `{column}` has a character that the file's encoding cannot hold"
                            );
                            refused.push(page.batch.reject(row, RejectionCode::Encoding, reason));
                        }
                    }
                }
            }
        }
        rows.rejected += refused.len() as u64;
        // The line that the row would have, were it not for those that were dropped.
        refused.iter_mut().for_each(|row| row.line += before);
        if !self.dry {
            let own = columns.get(..self.goal.columns.len()).unwrap_or_default();
            rejected.append(own, &files.profiles.name, &refused)?;
        }
        Ok(exported)
    }

    /// How the text of a file becomes its bytes.
    fn packing(&self) -> Packing {
        Packing { compression: self.goal.compression, key: self.opened.public_key.clone() }
    }

    /// The name of the file. One with the time in it takes no other's place: of two runs within a second the second gets
    /// the next.
    fn free_name(&self, started: Timestamp) -> String {
        let packing = self.packing();
        let taken = |name: &String| self.opened.location.exists(&self.goal.directory, &packing.name(name));
        let seconds = if self.goal.file.contains("{time}") && !self.dry { 60 } else { 0 };
        let later = |second| started.checked_add(SignedDuration::from_secs(second)).unwrap_or(started);
        let names = (0..seconds).map(|second| self.file_name(later(second)));
        names.into_iter().find(|name| !taken(name)).unwrap_or_else(|| self.file_name(started))
    }

    /// The name of the file, its placeholders filled in.
    fn file_name(&self, started: Timestamp) -> String {
        let at = ZonedDateTime::new(started, self.goal.timezone.clone());
        let safe = |text: &str| text.replace(['/', '\\', '\0'], "_");
        self.goal
            .file
            .replace("{date}", &at.strftime("%Y-%m-%d").to_string())
            .replace("{time}", &at.strftime("%H%M%S").to_string())
            .replace("{run}", &self.run.id)
            .replace("{goal}", &self.goal.name)
            .replace("{connection}", &safe(&self.connection.stem))
    }

    /// By what the store knows the goal.
    fn key(&self) -> [u8; 32] {
        hash([self.connection.stem.as_bytes(), self.goal.name.as_bytes()])
    }

    /// A hash of everything that decides about what the files hold.
    fn settings(&self) -> [u8; 32] {
        let settings = self.goal.settings.to_string();
        let mut parts = vec![settings.as_bytes()];
        parts.extend(self.connection.objectives.iter().map(String::as_bytes));
        for processor in self.processors {
            parts.push(processor.plugin.digest());
            parts.push(processor.config.as_bytes());
        }
        hash(parts)
    }

    fn warn(&self, message: &str) {
        tracing::warn!(connection = self.connection.name, goal = self.goal.name, "{message}");
    }

    fn failed(&self, name: &str) -> impl Fn(FileError) -> Error + use<> {
        let name = name.to_owned();
        move |error| Error::File { name: name.clone(), error }
    }
}

fn hash<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize().into()
}

/// The files of an export. None of them has its name before all are whole.
struct Files<'a> {
    profiles: File,
    events: Vec<EventFile<'a>>,
    cells: EventCells<'a>,
    period: Option<&'a ExportedEvents>,
}

/// A file that rows are written to.
struct File {
    /// Inside the location.
    name: String,
    encoder: RowEncoder,
    /// Rows that are not written yet.
    bytes: Vec<u8>,
    rows: u64,
    /// Absent in a dry run.
    output: Option<Output>,
}

/// The file of a type of events, and those of its nested types.
struct EventFile<'a> {
    event_type: Option<EventTypeId>,
    columns: Vec<(Option<PropertyId>, ValueType)>,
    file: File,
    nested: Vec<NestedFile>,
    name: &'a str,
}

struct NestedFile {
    nested_type: Option<NestedTypeId>,
    columns: Vec<(Option<PropertyId>, ValueType)>,
    file: File,
}

/// The columns by which the rows of an event's files are joined again.
const KEYS: [&str; 3] = ["profile_id", "event_id", "event_time"];
/// Bytes that are gathered before they are compressed and written.
const BLOCK: usize = 256 << 10;

impl<'a> Files<'a> {
    fn create(export: &Export<'a>, name: &str, columns: &[String], names: &Names) -> Result<Self, Error> {
        let goal = export.goal;
        if !export.dry {
            let cleared = export.opened.location.clear(&goal.directory, &tag(export));
            cleared.map_err(export.failed(name))?;
        }
        let profiles = File::create(export, name, columns.iter().map(String::as_str))?;
        let mut events = Vec::new();
        let types = goal.events.iter().flat_map(|events| &events.types);
        for event_type in types.filter_map(|name| export.config.schema.event(name)) {
            events.push(EventFile::create(export, event_type, names)?);
        }
        Ok(Self { profiles, events, cells: EventCells::new(goal), period: goal.events.as_ref() })
    }

    /// Writes the events of a profile; answers how many they are.
    fn events(&mut self, profile: &str, events: &[(EventKey, Event)]) -> Result<u64, Error> {
        let mut count = 0;
        for (key, event) in events {
            let in_period = self.period.is_some_and(|period| {
                period.since.is_none_or(|since| event.time >= since)
                    && period.until.is_none_or(|until| event.time < until)
            });
            let of_type = |file: &&mut EventFile<'_>| file.event_type == Some(key.event_type);
            let Some(own) = self.events.iter_mut().find(of_type).filter(|_| in_period) else { continue };
            own.write(&self.cells, profile, key, event)?;
            count += 1;
        }
        Ok(count)
    }

    /// Ends all files: the profiles' last, so that whoever waits for it finds the others.
    fn finish(self, export: &Export<'_>) -> Result<Vec<FileReport>, Error> {
        let events = self.events.into_iter().flat_map(|event| {
            std::iter::once(event.file).chain(event.nested.into_iter().map(|nested| nested.file))
        });
        let events: Vec<Option<FileReport>> =
            events.map(|file| file.finish(export)).collect::<Result<_, _>>()?;
        let profiles = self.profiles.finish(export)?;
        Ok(std::iter::once(profiles).chain(events).flatten().collect())
    }
}

impl<'a> EventFile<'a> {
    fn create(export: &Export<'a>, event_type: &'a EventType, names: &Names) -> Result<Self, Error> {
        let name = event_type.name.as_str();
        let number = names.event_types.iter().find(|(_, known)| *known == name).map(|(number, _)| *number);
        let columns = columns(export.store, Owner::Event(name), &event_type.properties);
        let header = |properties: &'a [PropertySchema]| {
            KEYS.into_iter().chain(properties.iter().map(|property| property.name.as_str()))
        };
        let file = File::create(export, &format!("{name}.csv"), header(&event_type.properties))?;
        let mut nested = Vec::new();
        for kind in &event_type.nested {
            nested.push(NestedFile {
                nested_type: export.store.known_nested_type(name, &kind.name),
                columns: self::columns(export.store, Owner::Nested(name, &kind.name), &kind.properties),
                file: File::create(export, &format!("{name}_{}.csv", kind.name), header(&kind.properties))?,
            });
        }
        Ok(Self { event_type: number, columns, file, nested, name })
    }

    fn write(
        &mut self,
        cells: &EventCells<'_>,
        profile: &str,
        key: &EventKey,
        event: &Event,
    ) -> Result<(), Error> {
        let time = cells.time(event.time);
        let keys = [profile, key.id.as_str(), time.as_str()];
        let unencodable = |Unencodable(_)| {
            Error::Failed(format!(
                "an event of type `{}` has a character that the file's encoding cannot hold",
                self.name
            ))
        };
        let own = cells.cells(&event.properties, &self.columns);
        self.file.row(keys.into_iter().chain(own.iter().map(String::as_str)))?.map_err(unencodable)?;
        for nested in &mut self.nested {
            let of_type = event.nested.iter().filter(|(kind, _)| Some(*kind) == nested.nested_type);
            for row in of_type.flat_map(|(_, rows)| rows) {
                let own = cells.cells(row, &nested.columns);
                nested
                    .file
                    .row(keys.into_iter().chain(own.iter().map(String::as_str)))?
                    .map_err(unencodable)?;
            }
        }
        Ok(())
    }
}

/// The properties of a type, by what the store knows them.
fn columns(
    store: &Store,
    owner: Owner<'_>,
    properties: &[PropertySchema],
) -> Vec<(Option<PropertyId>, ValueType)> {
    let column =
        |property: &PropertySchema| (store.known_property(owner, &property.name), property.value_type);
    properties.iter().map(column).collect()
}

/// By what the unfinished files of a goal are known.
fn tag(export: &Export<'_>) -> String {
    export.key().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

impl File {
    fn create<'h>(
        export: &Export<'_>,
        name: &str,
        header: impl Iterator<Item = &'h str>,
    ) -> Result<Self, Error> {
        let goal = export.goal;
        let packing = export.packing();
        let own = name.replace(['/', '\\'], "_");
        let packed = packing.name(&own);
        let name = match goal.directory.as_str() {
            "" => packed,
            directory => format!("{directory}/{packed}"),
        };
        let output = match export.dry {
            true => None,
            false => {
                let location = &export.opened.location;
                let output = Output::create(location, &goal.directory, &own, &tag(export), &packing);
                Some(output.map_err(export.failed(&name))?)
            }
        };
        let (mut encoder, mut bytes) = (RowEncoder::new(&goal.csv), Vec::with_capacity(BLOCK + BLOCK / 4));
        encoder.begin(header, &mut bytes).map_err(|Unencodable(column)| {
            Error::Failed(format!(
                "the header of column {} has a character that the file's encoding cannot hold",
                column + 1
            ))
        })?;
        Ok(Self { name, encoder, bytes, rows: 0, output })
    }

    fn row<'c>(
        &mut self,
        cells: impl IntoIterator<Item = &'c str>,
    ) -> Result<Result<(), Unencodable>, Error> {
        if let Err(error) = self.encoder.row(cells, &mut self.bytes) {
            return Ok(Err(error));
        }
        self.rows += 1;
        if self.bytes.len() >= BLOCK {
            self.write()?;
        }
        Ok(Ok(()))
    }

    fn write(&mut self) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::File { name: self.name.clone(), error: error.into() };
        if let Some(output) = &mut self.output {
            output.write_all(&self.bytes).map_err(failed)?;
        }
        self.bytes.clear();
        Ok(())
    }

    /// Gives the file its name; `None` if it has no rows and is not wanted then.
    fn finish(mut self, export: &Export<'_>) -> Result<Option<FileReport>, Error> {
        if self.rows == 0 && export.goal.when_empty == WhenEmpty::Skip {
            return Ok(None);
        }
        self.write()?;
        if let Some(output) = self.output.take() {
            output.finish().map_err(export.failed(&self.name))?;
        }
        Ok(Some(FileReport { name: self.name, status: FileStatus::Exported, rows: self.rows }))
    }
}
