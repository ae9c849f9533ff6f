//! The files of an export: that of the profiles, and those of events and nested types.

use std::io::Write;

use sluicebox_files::{Destination, Output, RowEncoder, Unencodable};
use sluicebox_model::{
    Event, EventKey, EventType, EventTypeId, NestedTypeId, PropertyId, PropertySchema, ValueType,
};
use sluicebox_store::{Names, Owner, Store};

use crate::config::{ExportedEvents, WhenEmpty};
use crate::error::Error;
use crate::export::Export;
use crate::export::cells::EventCells;
use crate::runs::report::{FileReport, FileStatus};

/// The files of an export. None of them has its name before all are complete.
pub(super) struct Files<'a> {
    profiles: File,
    events: Vec<EventFile<'a>>,
    cells: EventCells<'a>,
    /// Only events of this period are written.
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

/// The file of a nested type.
struct NestedFile {
    nested_type: Option<NestedTypeId>,
    columns: Vec<(Option<PropertyId>, ValueType)>,
    file: File,
}

/// The columns that join the rows of an event's files.
const KEYS: [&str; 3] = ["profile_id", "event_id", "event_time"];
/// Bytes that are collected before they are compressed and written.
const BLOCK: usize = 256 << 10;

impl<'a> Files<'a> {
    /// Begins the files with their headers.
    pub(super) fn create(
        export: &Export<'a>,
        name: &str,
        columns: &[String],
        names: &Names,
    ) -> Result<Self, Error> {
        let goal = export.goal;
        if !export.dry {
            let cleared = export.opened.location.clear(&goal.directory, &tag(export));
            cleared.map_err(export.failed(name))?;
        }
        let mut taken = Vec::new();
        let profiles = File::create(export, name, columns.iter().map(String::as_str), &mut taken)?;
        let mut events = Vec::new();
        let types = goal.events.iter().flat_map(|events| &events.types);
        for event_type in types.filter_map(|name| export.config.schema.event(name)) {
            events.push(EventFile::create(export, event_type, names, &mut taken)?);
        }
        Ok(Self { profiles, events, cells: EventCells::new(goal), period: goal.events.as_ref() })
    }

    /// The name of the profiles' file.
    pub(super) fn name(&self) -> &str {
        &self.profiles.name
    }

    /// How many values of lists in events had the list separator in them.
    pub(super) fn with_separator(&self) -> u64 {
        self.cells.with_separator()
    }

    /// Writes the row of a profile, unless a cell of it cannot be encoded.
    pub(super) fn write_profile<'c>(
        &mut self,
        cells: impl IntoIterator<Item = &'c str>,
    ) -> Result<Result<(), Unencodable>, Error> {
        self.profiles.row(cells)
    }

    /// Writes the events of a profile; answers with their number.
    pub(super) fn write_events(&mut self, profile: &str, events: &[(EventKey, Event)]) -> Result<u64, Error> {
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

    /// Finishes all files, the profiles' last: a partner who waits for it finds the others.
    pub(super) fn finish(self, export: &Export<'_>) -> Result<Vec<FileReport>, Error> {
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
    fn create(
        export: &Export<'a>,
        event_type: &'a EventType,
        names: &Names,
        taken: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let name = event_type.name.as_str();
        let number = names.event_types.iter().find(|(_, known)| *known == name).map(|(number, _)| *number);
        let columns = columns(export.store, Owner::Event(name), &event_type.properties);
        let header = |properties: &'a [PropertySchema]| {
            KEYS.into_iter().chain(properties.iter().map(|property| property.name.as_str()))
        };
        let file = File::create(export, &format!("{name}.csv"), header(&event_type.properties), taken)?;
        let mut nested = Vec::new();
        for kind in &event_type.nested {
            let own = format!("{name}_{}.csv", kind.name);
            nested.push(NestedFile {
                nested_type: export.store.known_nested_type(name, &kind.name),
                columns: self::columns(export.store, Owner::Nested(name, &kind.name), &kind.properties),
                file: File::create(export, &own, header(&kind.properties), taken)?,
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
                "an event of type `{}` has a character that the file's encoding does not have",
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

/// The properties of a type, with their ids in the store.
fn columns(
    store: &Store,
    owner: Owner<'_>,
    properties: &[PropertySchema],
) -> Vec<(Option<PropertyId>, ValueType)> {
    let column =
        |property: &PropertySchema| (store.known_property(owner, &property.name), property.value_type);
    properties.iter().map(column).collect()
}

/// Marks the unfinished files of a goal.
fn tag(export: &Export<'_>) -> String {
    export.key().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The name of a file inside the location.
fn full_name(export: &Export<'_>, own: &str) -> String {
    match export.goal.directory.as_str() {
        "" => own.to_owned(),
        directory => format!("{directory}/{own}"),
    }
}

impl File {
    /// Begins a file. Its name is not among the `taken` ones of this run, and joins them.
    fn create<'h>(
        export: &Export<'_>,
        name: &str,
        header: impl Iterator<Item = &'h str>,
        taken: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let goal = export.goal;
        let (location, packing) = (&export.opened.location, export.packing());
        let own = packing.name(&name.replace(['/', '\\'], "_"));
        let own = location.free_name(&goal.directory, &own, taken, goal.replace);
        taken.push(own.to_string());
        let name = full_name(export, &own.to_string());
        let output = match export.dry {
            true => None,
            false => {
                let to = Destination {
                    location,
                    directory: &goal.directory,
                    name: own,
                    replace: goal.replace,
                    tag: &tag(export),
                    run: &export.run.id,
                };
                Some(Output::create(to, &packing).map_err(export.failed(&name))?)
            }
        };
        let (mut encoder, mut bytes) = (RowEncoder::new(&goal.csv), Vec::with_capacity(BLOCK + BLOCK / 4));
        encoder.begin(header, &mut bytes).map_err(|Unencodable(column)| {
            Error::Failed(format!(
                "the header of column {} has a character that the file's encoding does not have",
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

    /// Gives the file its name; `None` if it has no rows and the goal wants no empty file.
    fn finish(mut self, export: &Export<'_>) -> Result<Option<FileReport>, Error> {
        if self.rows == 0 && export.goal.when_empty == WhenEmpty::Skip {
            return Ok(None);
        }
        self.write()?;
        if let Some(output) = self.output.take() {
            let own = output.finish().map_err(export.failed(&self.name))?;
            self.name = full_name(export, &own);
        }
        Ok(Some(FileReport { name: self.name, status: FileStatus::Exported, rows: self.rows }))
    }
}
