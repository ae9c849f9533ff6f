use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::{Value as Json, json};
use sluicebox_files::{Compression, CsvFormat, Encoding, LineEnd};
use sluicebox_model::{PropertySchema, Schema, Segment, ValueType, time_format_error};
use sluicebox_processors::Limits;
use toml::de::DeValue;

use super::goal::{
    ProcessorEntry, ascii, character, directory, known_property, name, processor, property_settings, timezone,
};
use super::reader::{Entry, Section, nearest, unknown};
use super::schema::known_segment;
use super::value::stays_inside;

/// The key of such goals in a connection's file, and their kind in reports.
pub(crate) const EXPORT_PROFILES: &str = "export_profiles";

/// An export goal.
#[derive(Debug)]
pub(crate) struct ExportGoal {
    pub name: String,
    pub enabled: bool,
    /// Only profiles of this segment; `None` = all.
    pub segment: Option<String>,
    /// The folder inside the location.
    pub directory: String,
    /// The name of the file, with placeholders such as `{date}`.
    pub file: String,
    /// Whether files of earlier runs are replaced. Otherwise a name that exists gets a number.
    pub replace: bool,
    /// Whether only profiles that changed since the last successful run are exported.
    pub changed_only: bool,
    pub compression: Compression,
    /// What happens if there are no rows.
    pub when_empty: WhenEmpty,
    pub timezone: TimeZone,
    pub csv: CsvFormat,
    pub values: ValueFormat,
    /// Written before a list separator that is part of a value; `None` = separators in values are not marked.
    pub list_escape: Option<char>,
    pub processors: Vec<ProcessorEntry>,
    pub columns: Vec<ColumnEntry>,
    pub events: Option<ExportedEvents>,
    /// The settings that affect the result. After a change every profile is exported again.
    pub settings: Json,
}

/// What happens if an export has no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenEmpty {
    /// A file with only the header is written.
    File,
    /// No file is written.
    Skip,
}

/// The default of `list_escape`.
const LIST_ESCAPE: char = '\\';

/// How values are written into cells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ValueFormat {
    /// Separates the values of a list.
    pub list_separator: String,
    /// `strftime` directives; `None` = ISO 8601.
    pub date: Option<String>,
    /// `strftime` directives; `None` = RFC 3339 in UTC.
    pub datetime: Option<String>,
    /// Separates a number's whole part and its decimals.
    pub decimal: char,
}

impl Default for ValueFormat {
    fn default() -> Self {
        Self { list_separator: "|".to_owned(), date: None, datetime: None, decimal: '.' }
    }
}

/// A column of the exported file.
#[derive(Clone, Debug)]
pub(crate) struct ColumnEntry {
    pub header: String,
    pub source: ColumnSource,
}

/// The content of a column.
#[derive(Clone, Debug)]
pub(crate) enum ColumnSource {
    Property(PropertySchema),
    ProfileId,
    /// When the profile was created.
    Created,
    /// When the profile last changed.
    Modified,
    /// Those of these segments that the profile is in.
    Segments(Vec<String>),
    /// The stage of each lifecycle that the profile is in, as `lifecycle:stage`.
    Lifecycles,
    Text(String),
}

/// Which events are exported beside the profiles.
#[derive(Clone, Debug)]
pub(crate) struct ExportedEvents {
    /// In the order of the schema.
    pub types: Vec<String>,
    /// From this moment on.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
}

/// `None` after a problem that leaves no goal.
pub(crate) fn read(schema: &Schema, limits: Limits, goal: &Section<'_>) -> Option<ExportGoal> {
    let name = name(goal);
    let segment = goal.text("segment").map(str::to_owned);
    if let (Some(name), Some(entry)) = (&segment, goal.get("segment")) {
        known_segment(&entry, name, schema);
    }
    let (csv, values, list_escape) = csv(goal);
    let columns: Vec<ColumnEntry> =
        goal.sections("columns").iter().filter_map(|section| column(section, schema)).collect();
    if columns.is_empty() {
        goal.problem("the goal needs at least one [[export_profiles.columns]]");
    }
    for (place, column) in columns.iter().enumerate() {
        if columns.iter().take(place).any(|other| other.header == column.header) {
            goal.problem(format!("two columns have the header `{}`", column.header));
        }
    }
    let processors = goal.sections("processors");
    let timezone = timezone(goal);
    let names = [("none", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)];
    let mut read = ExportGoal {
        name,
        enabled: goal.flag("enabled", true),
        segment,
        directory: directory(goal),
        file: file(goal),
        replace: goal.flag("replace", false),
        changed_only: goal.flag("changed_only", true),
        compression: goal.choice("compression", &names, Compression::None),
        when_empty: goal.choice(
            "when_empty",
            &[("file", WhenEmpty::File), ("skip", WhenEmpty::Skip)],
            WhenEmpty::File,
        ),
        events: goal.section("events").map(|section| events(&section, schema, &timezone)),
        timezone,
        csv: CsvFormat { formula_guard: goal.flag("formula_guard", false), ..csv },
        values,
        list_escape,
        processors: processors.iter().map(|section| processor(limits, &[], section)).collect(),
        columns,
        settings: Json::Null,
    };
    goal.finish();
    read.settings = settings(&read, schema);
    Some(read)
}

/// All settings that affect the content of the files, except the processors.
fn settings(goal: &ExportGoal, schema: &Schema) -> Json {
    let segment =
        |name: &String| schema.segment(name).map(|Segment { expression, .. }| json!([name, expression]));
    let columns = goal.columns.iter().map(|column| match &column.source {
        ColumnSource::Property(property) => json!([column.header, "property", property_settings(property)]),
        ColumnSource::ProfileId => json!([column.header, "profile_id"]),
        ColumnSource::Created => json!([column.header, "created"]),
        ColumnSource::Modified => json!([column.header, "modified"]),
        ColumnSource::Segments(names) => {
            json!([column.header, "segments", names.iter().map(segment).collect::<Vec<_>>()])
        }
        ColumnSource::Lifecycles => {
            let stages = schema.lifecycles.iter().map(|lifecycle| {
                let stages = lifecycle.stages.iter().map(|(name, of)| json!([name, segment(of)]));
                json!([lifecycle.name, stages.collect::<Vec<_>>()])
            });
            json!([column.header, "lifecycles", stages.collect::<Vec<_>>()])
        }
        ColumnSource::Text(text) => json!([column.header, "text", text]),
    });
    let events = goal.events.as_ref().map(|events| {
        let moment = |moment: &Option<Timestamp>| moment.map(|moment| moment.to_string());
        json!([events.types, moment(&events.since), moment(&events.until)])
    });
    let mut settings = json!({
        "segment": goal.segment.as_ref().map(segment),
        "columns": columns.collect::<Vec<_>>(),
        "events": events,
        "csv": format!("{:?} {:?}", goal.csv, goal.values),
        "timezone": goal.timezone.iana_name(),
        "compression": format!("{:?}", goal.compression),
        "directory": goal.directory,
    });
    // The settings of goals without the key must not change.
    if goal.list_escape != Some(LIST_ESCAPE)
        && let Some(settings) = settings.as_object_mut()
    {
        settings.insert("list_escape".to_owned(), json!(goal.list_escape));
    }
    settings
}

fn file(goal: &Section<'_>) -> String {
    let file = goal.required("file");
    let Some(entry) = goal.get("file") else { return file.to_owned() };
    stays_inside(&entry, file);
    if file.contains('/') {
        entry.problem("`file` is a name; set the folder in `directory`");
    }
    let mut rest = file;
    while let Some((_, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        if !PLACEHOLDERS.contains(&name) {
            let hint = nearest(name, PLACEHOLDERS).map_or_else(
                || format!("; there are: {}", PLACEHOLDERS.join(", ")),
                |near| format!("; did you mean `{{{near}}}`?"),
            );
            entry.problem(format!("`file`: there is no `{{{name}}}`{hint}"));
        }
        rest = after;
    }
    file.to_owned()
}

/// The placeholders of a file's name.
pub(crate) const PLACEHOLDERS: [&str; 5] = ["date", "time", "run", "goal", "connection"];

fn csv(goal: &Section<'_>) -> (CsvFormat, ValueFormat, Option<char>) {
    let (mut format, mut values) = (CsvFormat::default(), ValueFormat::default());
    let Some(csv) = goal.section("csv") else { return (format, values, Some(LIST_ESCAPE)) };
    if let Some(delimiter) = character(&csv, "delimiter", false) {
        format.delimiter = delimiter.unwrap_or(format.delimiter);
    }
    format.quote = ascii(&csv, "quote", Some(format.quote)).unwrap_or_else(|| {
        csv.problem("`quote`: an export needs a quote character");
        format.quote
    });
    format.quote_all = csv.choice("quoting", &[("minimal", false), ("all", true)], false);
    format.header = csv.flag("header", format.header);
    format.bom = csv.flag("bom", format.bom);
    format.line_end =
        csv.choice("line_end", &[("lf", LineEnd::Lf), ("crlf", LineEnd::CrLf)], format.line_end);
    if let Some(entry) = csv.get("encoding")
        && let Some(name) = entry.text()
    {
        match Encoding::named(name) {
            Some(encoding) => format.encoding = encoding,
            None => entry.problem(format!(
                "`encoding`: there is no encoding `{name}`; expected utf-8, windows-1252 or another name of the WHATWG encoding standard"
            )),
        }
    }
    if let Some(separator) = csv.text("list_separator") {
        values.list_separator = separator.to_owned();
    }
    let list_escape = character(&csv, "list_escape", true).unwrap_or(Some(LIST_ESCAPE));
    if list_escape.is_some_and(|escape| values.list_separator.starts_with(escape)) {
        csv.problem("`list_separator` and `list_escape` must differ");
    }
    values.date = time_format(&csv, "date_format", ValueType::Date);
    values.datetime = time_format(&csv, "datetime_format", ValueType::DateTime);
    if let Some(decimal) = character(&csv, "decimal", false).flatten() {
        values.decimal = decimal;
    }
    if char::from(format.quote) == format.delimiter || "\r\n".contains(format.delimiter) {
        csv.problem("`delimiter` and `quote` must differ, and cannot be a line end");
    }
    csv.finish();
    (format, values, list_escape)
}

fn time_format(csv: &Section<'_>, key: &'static str, value_type: ValueType) -> Option<String> {
    let format = csv.text(key)?;
    if let (Some(error), Some(entry)) = (time_format_error(format, value_type), csv.get(key)) {
        entry.problem(format!("`{key}`: {error}"));
    }
    Some(format.to_owned())
}

fn column(section: &Section<'_>, schema: &Schema) -> Option<ColumnEntry> {
    let header = section.text("header").map(str::to_owned);
    let property = section.get("property");
    let segments = section.get("segments");
    let flags = ["profile_id", "lifecycles", "viewed_interactions", "permission_level"]
        .map(|key| section.flag(key, false).then_some(key));
    let text = section.get("text");
    section.finish();
    let mut sources: Vec<(&str, Option<ColumnSource>)> = Vec::new();
    if let Some(entry) = property {
        sources.push((entry.text()?, own_property(&entry, schema)));
    }
    if let Some(entry) = segments {
        sources.push((
            "segments",
            Some(ColumnSource::Segments(names_or_all(
                entry,
                "segment",
                schema.segments.iter().map(|segment| &segment.name),
            ))),
        ));
    }
    if let Some(entry) = text {
        sources.push(("text", Some(ColumnSource::Text(entry.text()?.to_owned()))));
    }
    for key in flags.into_iter().flatten() {
        sources.push((
            key,
            match key {
                "profile_id" => Some(ColumnSource::ProfileId),
                "lifecycles" => Some(ColumnSource::Lifecycles),
                system => schema.property(system).cloned().map(ColumnSource::Property),
            },
        ));
    }
    let several = sources.len() > 1;
    let first = sources.into_iter().next();
    match first {
        Some((name, source)) if !several => {
            Some(ColumnEntry { header: header.unwrap_or_else(|| name.to_owned()), source: source? })
        }
        _ => {
            section.problem(
                "a column needs one of `property`, `profile_id`, `segments`, `lifecycles`, `viewed_interactions`, \
                 `permission_level` and `text`",
            );
            None
        }
    }
}

fn own_property(entry: &Entry<'_>, schema: &Schema) -> Option<ColumnSource> {
    match entry.text()? {
        "created" => Some(ColumnSource::Created),
        "modified" => Some(ColumnSource::Modified),
        name => known_property(entry, name, &schema.properties).cloned().map(ColumnSource::Property),
    }
}

/// The listed names, or all known ones for `"all"`.
fn names_or_all<'s>(entry: Entry<'_>, kind: &str, known: impl Iterator<Item = &'s String>) -> Vec<String> {
    let known: Vec<&str> = known.map(String::as_str).collect();
    match entry.value() {
        DeValue::String(text) if text == "all" => known.into_iter().map(str::to_owned).collect(),
        DeValue::Array(_) => {
            let mut names = Vec::new();
            for entry in entry.array() {
                let Some(name) = entry.text() else { continue };
                if !known.contains(&name) {
                    entry.problem_with(|| unknown(kind, name, known.iter().copied()));
                }
                names.push(name.to_owned());
            }
            names
        }
        _ => {
            entry.problem(format!("`{}`: expected \"all\" or an array of names", entry.key()));
            Vec::new()
        }
    }
}

fn events(section: &Section<'_>, schema: &Schema, timezone: &TimeZone) -> ExportedEvents {
    let known = || schema.events.iter().map(|event| &event.name);
    let types = match section.get("types") {
        None => known().cloned().collect(),
        Some(entry) => names_or_all(entry, "event", known()),
    };
    let (since, until) = (moment(section, "since", timezone), moment(section, "until", timezone));
    section.finish();
    ExportedEvents { types, since, until }
}

/// A moment in RFC 3339, or the midnight that begins a date, as a text or a TOML datetime. What has no zone is in `timezone`.
fn moment(section: &Section<'_>, key: &'static str, timezone: &TimeZone) -> Option<Timestamp> {
    let entry = section.get(key)?;
    let text = match entry.value() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Datetime(moment) => Some(moment.to_string()),
        _ => None,
    };
    let local = |text: &str| timezone.to_timestamp(text.parse::<DateTime>().ok()?).ok();
    let moment = text.and_then(|text| text.parse().ok().or_else(|| local(&text)));
    if moment.is_none() {
        entry.problem(format!(
            "`{key}`: expected a date such as \"2026-01-01\", or a date and time such as \"2026-01-01T00:00:00Z\""
        ));
    }
    moment
}
