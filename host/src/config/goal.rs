use std::time::Duration;

use jiff::tz::TimeZone;
use sluicebox_files::{CsvOptions, Encoding, Pattern, Ragged};
use sluicebox_matching::OnAmbiguous;
use sluicebox_model::{
    MergeRule, NumberFormat, PropertySchema, READ_ONLY_PROPERTIES, Schema, ValueType, property,
    time_format_error,
};
use sluicebox_processors::{Grants, Limits};
use sluicebox_store::Owner;
use toml::de::DeValue;

use super::events::{self, EventEntry};
use super::linked::{self, LinkedEntry};
use super::reader::{Entry, Section, unknown};
use super::settings::read_limits;
use super::value::{Sealed, size, span, stays_inside};

/// What happens to a file after its import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterImport {
    /// It stays.
    Keep,
    /// `.done` is added to its name.
    DoneSuffix,
    /// It is deleted.
    Delete,
}

/// How many rows may be rejected before the goal fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum MaxRejected {
    /// Any number.
    Unlimited,
    /// At most this many.
    Rows(u64),
    /// At most this share of the rows read, from 0 to 1.
    Share(f64),
}

impl MaxRejected {
    /// Whether `rejected` of `all` rows are more than it allows.
    pub(crate) fn is_exceeded(self, rejected: u64, all: u64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a share of rows needs no more")]
        match self {
            Self::Unlimited => false,
            Self::Rows(most) => rejected > most,
            Self::Share(share) => rejected as f64 > share * all as f64,
        }
    }
}

/// How many excluded rows of a goal run are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordExcluded {
    /// At most this many.
    Rows(u64),
    All,
}

impl Default for RecordExcluded {
    fn default() -> Self {
        Self::Rows(10_000)
    }
}

/// What a goal imports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Groups,
    Profiles,
}

impl Kind {
    /// The key of such goals in a connection's file, and their kind in reports.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Groups => "import_groups",
            Self::Profiles => "import_profiles",
        }
    }
}

/// Whose records a goal writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Profiles of a domain group.
    Profiles(String),
    /// Groups of a type.
    Groups(String),
}

impl Target {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Profiles(_) => Kind::Profiles,
            Self::Groups(_) => Kind::Groups,
        }
    }

    /// The properties that its records may have.
    pub(crate) fn properties<'s>(&self, schema: &'s Schema) -> &'s [PropertySchema] {
        match self {
            Self::Profiles(_) => &schema.properties,
            Self::Groups(group) => schema.group(group).map_or(&[], |group| &group.properties),
        }
    }

    /// The owner of those properties.
    pub(crate) fn owner(&self) -> Owner<'_> {
        match self {
            Self::Profiles(_) => Owner::Profile,
            Self::Groups(group) => Owner::Group(group),
        }
    }
}

/// An import goal.
#[derive(Debug)]
pub(crate) struct ImportGoal {
    pub name: String,
    pub enabled: bool,
    pub target: Target,
    /// The folder inside the location.
    pub directory: String,
    pub files: Pattern,
    /// The pattern in the configuration.
    pub pattern: String,
    pub after_import: AfterImport,
    /// How long a file must stand still before it is imported; `None` = the default, which depends on who runs the goal.
    pub settle: Option<Duration>,
    pub create: bool,
    /// Whether a row may create an erased profile again.
    pub restore_erased: bool,
    pub on_ambiguous: OnAmbiguous,
    pub max_rejected: MaxRejected,
    /// The same for cells of rows that are merged.
    pub max_rejected_cells: MaxRejected,
    pub record_excluded: RecordExcluded,
    pub timezone: TimeZone,
    pub csv: CsvOptions,
    pub encoding: Encoding,
    pub number: NumberFormat,
    /// Files joined to the root file.
    pub linked: Vec<LinkedEntry>,
    pub processors: Vec<ProcessorEntry>,
    pub identifiers: Vec<IdentifierEntry>,
    pub fields: Vec<FieldEntry>,
    pub all_fields: Option<AllFields>,
    pub events: Vec<EventEntry>,
    /// The settings that affect the result, in a form that later versions must not change.
    pub settings: serde_json::Value,
}

/// A processor of a goal.
#[derive(Debug)]
pub(crate) struct ProcessorEntry {
    pub plugin: String,
    /// The linked file whose rows it processes; `None` = the root file.
    pub file: Option<usize>,
    pub config: Sealed,
    pub limits: Limits,
    /// The SHA-256 of the file, if it is pinned.
    pub sha256: Option<String>,
    /// File and line, for errors.
    pub place: String,
}

/// A column that identifies records.
#[derive(Debug)]
pub(crate) struct IdentifierEntry {
    pub column: String,
    /// `None` = the profile's id.
    pub property: Option<PropertySchema>,
}

/// A column that sets a property.
#[derive(Debug)]
pub(crate) struct FieldEntry {
    pub column: String,
    pub property: PropertySchema,
    pub rule: MergeRule,
    pub separator: Option<String>,
    /// Makes a separator after it literal.
    pub separator_escape: Option<char>,
    pub format: Option<String>,
}

/// A column that sets a property of an event or of a nested row.
#[derive(Clone, Debug)]
pub(crate) struct ValueEntry {
    pub column: String,
    pub property: PropertySchema,
    pub separator: Option<String>,
    /// Makes a separator after it literal.
    pub separator_escape: Option<char>,
    pub format: Option<String>,
}

/// The bulk mapping.
#[derive(Debug)]
pub(crate) struct AllFields {
    pub rule: MergeRule,
    pub prefix: String,
}

/// `None` after a problem with `files`.
pub(crate) fn read(schema: &Schema, limits: Limits, kind: Kind, goal: &Section<'_>) -> Option<ImportGoal> {
    let name = name(goal);
    let target = match kind {
        Kind::Groups => Target::Groups(group(goal, schema)),
        Kind::Profiles => Target::Profiles(domain_group(goal, schema)),
    };
    let properties = target.properties(schema);
    let files = files(goal);
    let (csv, encoding, number) = csv(goal);
    let linked = linked::read(goal, files.as_ref().map(|(pattern, _)| pattern));
    let identifiers = identifiers(goal, kind, properties);
    let fields = fields(goal, properties);
    let events = match kind {
        Kind::Groups => Vec::new(),
        Kind::Profiles => {
            let sections = goal.sections("events");
            sections.iter().filter_map(|section| events::read(schema, &linked, section)).collect()
        }
    };
    let names = [
        ("keep", AfterImport::Keep),
        ("done-suffix", AfterImport::DoneSuffix),
        ("delete", AfterImport::Delete),
    ];
    let after_import = goal.choice("after_import", &names, AfterImport::Keep);
    let settle = span(goal, "settle");
    let enabled = goal.flag("enabled", true);
    let directory = directory(goal);
    let create = goal.flag("create", true);
    let restore_erased = goal.flag("restore_erased", false);
    let on_ambiguous = goal.choice("on_ambiguous", &OnAmbiguous::NAMES, OnAmbiguous::default());
    let max_rejected_cells = max_rejected(goal, "max_rejected_cells", "cells");
    let max_rejected = max_rejected(goal, "max_rejected", "rows");
    let record_excluded = record_excluded(goal);
    let (timezone, all_fields) = (timezone(goal), all_fields(goal));
    let processors = goal.sections("processors");
    let processors = processors.iter().map(|section| processor(limits, &linked, section)).collect();
    goal.finish();
    let (files, pattern) = files?;
    let mut read = ImportGoal {
        name,
        enabled,
        target,
        directory,
        files,
        pattern,
        after_import,
        settle,
        create,
        restore_erased,
        on_ambiguous,
        max_rejected,
        max_rejected_cells,
        record_excluded,
        timezone,
        csv,
        encoding,
        number,
        linked,
        processors,
        identifiers,
        fields,
        all_fields,
        events,
        settings: serde_json::Value::Null,
    };
    read.settings = settings(&read, schema, goal);
    Some(read)
}

/// The name of a goal.
pub(crate) fn name(goal: &Section<'_>) -> String {
    let name = goal.required("name");
    let fits = |character: char| character.is_ascii_alphanumeric() || " _.-".contains(character);
    if !name.chars().all(fits) || name.trim() != name || name.starts_with('.') {
        goal.problem("the name of a goal may hold A-Z, a-z, 0-9, space, `_`, `.` and `-`");
    }
    name.to_owned()
}

/// The settings of a property that affect how a cell becomes a value.
pub(crate) fn property_settings(property: &PropertySchema) -> serde_json::Value {
    serde_json::json!([property.name, property.value_type.name(), property.unique, property.multiple])
}

/// The settings of a field, with the key `separator_escape` only where it is set: the settings of older goals must not change.
pub(crate) fn with_escape(
    mut settings: serde_json::Value,
    separator_escape: Option<char>,
) -> serde_json::Value {
    if let (Some(escape), Some(parts)) = (separator_escape, settings.as_array_mut()) {
        parts.push(serde_json::json!({ "separator_escape": escape }));
    }
    settings
}

/// All settings of a goal that affect its result, except its processors. Files are imported again after a change.
fn settings(goal: &ImportGoal, schema: &Schema, section: &Section<'_>) -> serde_json::Value {
    let property = property_settings;
    let (target, name) = match &goal.target {
        Target::Profiles(name) => ("domain_group", name),
        Target::Groups(name) => ("group", name),
    };
    let rule =
        |rule: MergeRule| MergeRule::NAMES.iter().find(|(_, named)| *named == rule).map(|(name, _)| *name);
    let ambiguous =
        OnAmbiguous::NAMES.iter().find(|(_, named)| *named == goal.on_ambiguous).map(|(name, _)| *name);
    let encoding = section.section("csv").and_then(|csv| csv.text("encoding")).unwrap_or("auto");
    let csv = &goal.csv;
    serde_json::json!({
        target: name,
        "create": goal.create,
        "on_ambiguous": ambiguous,
        "timezone": section.text("timezone").unwrap_or("UTC"),
        "csv": {
            "delimiter": csv.delimiter,
            "quote": csv.quote,
            "escape": csv.escape,
            "encoding": encoding.to_lowercase(),
            "header": csv.header,
            "skip_rows": csv.skip_rows,
            "trim": csv.trim,
            "null_values": csv.null_values,
            "pad": csv.ragged == Ragged::Pad,
            "max_cell": csv.max_cell,
            "max_row": csv.max_row,
            "decimal": goal.number.decimal,
            "thousands": goal.number.thousands,
        },
        "identifiers": goal.identifiers.iter()
            .map(|entry| serde_json::json!([entry.column, entry.property.as_ref().map(property)]))
            .collect::<Vec<_>>(),
        "fields": goal.fields.iter()
            .map(|field| with_escape(
                serde_json::json!([
                    field.column, property(&field.property), rule(field.rule), field.separator, field.format
                ]),
                field.separator_escape,
            ))
            .collect::<Vec<_>>(),
        "all_fields": goal.all_fields.as_ref().map(|all| serde_json::json!([rule(all.rule), all.prefix])),
        "linked": goal.linked.iter().map(LinkedEntry::settings).collect::<Vec<_>>(),
        "events": goal.events.iter().map(|event| event.settings(schema)).collect::<Vec<_>>(),
    })
}

fn files(goal: &Section<'_>) -> Option<(Pattern, String)> {
    let (entry, text, regex) = pattern_text(goal)?;
    let pattern = if regex { Pattern::regex(text) } else { Pattern::wildcard(text) };
    let pattern = pattern.map_err(|error| entry.problem(format!("`{}`: {error}", entry.key())));
    Some((pattern.ok()?, text.to_owned()))
}

/// The text of `files`, and whether it is a regular expression.
pub(crate) fn pattern_text<'d>(section: &Section<'d>) -> Option<(Entry<'d>, &'d str, bool)> {
    let Some(entry) = section.get("files") else {
        section.problem("`files` is missing");
        return None;
    };
    let (entry, regex) = match entry.value() {
        DeValue::Table(_) => {
            let table = entry.section()?;
            let Some(entry) = table.get("regex") else {
                table.problem("`files`: expected a wildcard, or { regex = '…' }");
                return None;
            };
            table.finish();
            (entry, true)
        }
        _ => (entry, false),
    };
    let text = entry.text()?;
    if text.is_empty() {
        entry.problem("`files` is empty");
    }
    if !regex {
        stays_inside(&entry, text);
    }
    Some((entry, text, regex))
}

pub(crate) fn directory(goal: &Section<'_>) -> String {
    let Some(entry) = goal.get("directory") else { return String::new() };
    let directory = entry.text().unwrap_or_default();
    stays_inside(&entry, directory);
    directory.trim_matches('/').to_owned()
}

fn domain_group(goal: &Section<'_>, schema: &Schema) -> String {
    let Some(entry) = goal.get("domain_group") else { return "default".to_owned() };
    let name = entry.text().unwrap_or("default");
    if !schema.domain_groups.iter().any(|known| known == name) {
        entry.problem(unknown("domain group", name, schema.domain_groups.iter().map(String::as_str)));
    }
    name.to_owned()
}

fn group(goal: &Section<'_>, schema: &Schema) -> String {
    let name = goal.required("group");
    if let Some(entry) = goal.get("group")
        && schema.group(name).is_none()
    {
        entry.problem(unknown("group", name, schema.groups.iter().map(|group| group.name.as_str())));
    }
    name.to_owned()
}

fn max_rejected(goal: &Section<'_>, key: &'static str, what: &str) -> MaxRejected {
    let Some(entry) = goal.get(key) else { return MaxRejected::Unlimited };
    let read = match entry.value() {
        DeValue::Integer(_) => entry.whole().map(MaxRejected::Rows),
        DeValue::String(text) => match text.strip_suffix('%') {
            Some(share) => share
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|share| (0.0..=100.0).contains(share))
                .map(|share| MaxRejected::Share(share / 100.0)),
            None => text.parse().ok().map(MaxRejected::Rows),
        },
        _ => None,
    };
    read.unwrap_or_else(|| {
        entry.problem(format!("`{key}`: expected a number of {what}, or a share such as \"10%\""));
        MaxRejected::Unlimited
    })
}

fn record_excluded(goal: &Section<'_>) -> RecordExcluded {
    let Some(entry) = goal.get("record_excluded") else { return RecordExcluded::default() };
    let read = match entry.value() {
        DeValue::Integer(_) => entry.whole().map(RecordExcluded::Rows),
        DeValue::String(text) => match text.as_ref() {
            "all" => Some(RecordExcluded::All),
            "none" => Some(RecordExcluded::Rows(0)),
            text => text.parse().ok().map(RecordExcluded::Rows),
        },
        _ => None,
    };
    read.unwrap_or_else(|| {
        entry.problem("`record_excluded`: expected a number of rows, \"all\" or \"none\"");
        RecordExcluded::default()
    })
}

pub(crate) fn timezone(goal: &Section<'_>) -> TimeZone {
    let Some(entry) = goal.get("timezone") else { return TimeZone::UTC };
    let Some(name) = entry.text() else { return TimeZone::UTC };
    TimeZone::get(name).unwrap_or_else(|_| {
        entry.problem(format!(
            "`timezone`: there is no time zone `{name}`; expected a name such as Europe/Amsterdam"
        ));
        TimeZone::UTC
    })
}

fn csv(goal: &Section<'_>) -> (CsvOptions, Encoding, NumberFormat) {
    let (mut options, mut number) = (CsvOptions::default(), NumberFormat::default());
    let auto = Encoding::default();
    let Some(csv) = goal.section("csv") else { return (options, auto, number) };
    if let Some(delimiter) = character(&csv, "delimiter", false) {
        options.delimiter = delimiter.unwrap_or(options.delimiter);
    }
    options.quote = ascii(&csv, "quote", options.quote);
    options.escape = ascii(&csv, "escape", options.escape);
    let encoding = csv.get("encoding").and_then(|entry| {
        let name = entry.text()?;
        let encoding = Encoding::named(name);
        if encoding.is_none() {
            entry.problem(format!("`encoding`: there is no encoding `{name}`; expected auto, utf-8, windows-1252 or another name of the WHATWG encoding standard"));
        }
        encoding
    });
    options.header = csv.flag("header", options.header);
    options.skip_rows = csv.get("skip_rows").and_then(|entry| entry.whole()).unwrap_or(options.skip_rows);
    options.trim = csv.flag("trim", options.trim);
    if let Some(entry) = csv.get("null_values") {
        options.null_values =
            entry.array().iter().filter_map(|entry| entry.text().map(str::to_owned)).collect();
    }
    if let Some(decimal) = character(&csv, "decimal", false).flatten() {
        number.decimal = decimal;
    }
    if let Some(thousands) = character(&csv, "thousands", true) {
        number.thousands = thousands;
    }
    if number.thousands == Some(number.decimal) {
        csv.problem("`decimal` and `thousands` are the same character");
    }
    options.ragged =
        csv.choice("ragged", &[("reject", Ragged::Reject), ("pad", Ragged::Pad)], options.ragged);
    let usize_of = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    options.max_cell = usize_of(size(&csv, "max_cell", options.max_cell as u64));
    options.max_row = usize_of(size(&csv, "max_row", options.max_row as u64));
    if options.max_row > 1 << 30 {
        csv.problem("`max_row`: expected at most 1GiB");
    }
    let special = [Some(options.delimiter), options.quote.map(char::from), options.escape.map(char::from)];
    let special: Vec<char> = special.into_iter().flatten().collect();
    let quote_is_escape = options.quote.is_some() && options.quote == options.escape;
    if special.contains(&'\n') || special.contains(&'\r') {
        csv.problem("`delimiter`, `quote` and `escape` cannot be a line end");
    }
    if special.iter().skip(1).any(|character| *character == options.delimiter) || quote_is_escape {
        csv.problem("`delimiter`, `quote` and `escape` must differ");
    }
    csv.finish();
    (options, encoding.unwrap_or(auto), number)
}

/// `Some(None)` is `none`, where that is allowed.
pub(crate) fn character(section: &Section<'_>, key: &'static str, or_none: bool) -> Option<Option<char>> {
    let entry = section.get(key)?;
    let text = entry.text()?;
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(character), None) => Some(Some(character)),
        _ if or_none && text == "none" => Some(None),
        _ => {
            let none = if or_none { " or \"none\"" } else { "" };
            entry.problem(format!("`{key}`: expected one character{none}"));
            None
        }
    }
}

pub(crate) fn ascii(section: &Section<'_>, key: &'static str, default: Option<u8>) -> Option<u8> {
    match character(section, key, true) {
        None => default,
        Some(None) => None,
        Some(Some(character)) if character.is_ascii() => u8::try_from(character).ok(),
        Some(Some(_)) => {
            section.problem(format!("`{key}`: expected an ASCII character"));
            default
        }
    }
}

pub(crate) fn processor(limits: Limits, linked: &[LinkedEntry], section: &Section<'_>) -> ProcessorEntry {
    let file = section.get("file").and_then(|entry| linked::file(linked, &entry)).flatten();
    let limits = match section.section("limits") {
        Some(own) => {
            let limits = read_limits(&own, limits);
            own.finish();
            limits
        }
        None => limits,
    };
    let plugin = section.required("plugin").to_owned();
    let place = section.get("plugin").map(|entry| entry.place()).unwrap_or_default();
    let sha256 = section.get("sha256").and_then(|entry| {
        let digest = entry.text()?.to_lowercase();
        let whole = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !whole {
            entry.problem("`sha256`: expected 64 hexadecimal digits");
        }
        whole.then_some(digest)
    });
    let read = ProcessorEntry {
        plugin,
        file,
        config: section.section("config").map(|config| Sealed::read(&config)).unwrap_or_default(),
        limits: Limits { grants: grants(section), ..read_limits(section, limits) },
        sha256,
        place,
    };
    section.finish();
    read
}

/// The capabilities of a processor besides its rows.
fn grants(section: &Section<'_>) -> Grants {
    let (mut grants, none) = (Grants::default(), Grants::default());
    let names = [("clock", Grants { clock: true, ..none }), ("random", Grants { random: true, ..none })];
    for entry in section.get("grants").map(|entry| entry.array()).unwrap_or_default() {
        let named = entry.text().and_then(|name| entry.choose(name, &names)).unwrap_or_default();
        grants = Grants { clock: grants.clock | named.clock, random: grants.random | named.random };
    }
    grants
}

fn identifiers(goal: &Section<'_>, kind: Kind, properties: &[PropertySchema]) -> Vec<IdentifierEntry> {
    let sections = goal.sections("identifiers");
    if sections.is_empty() {
        goal.problem(format!("the goal needs at least one [[{}.identifiers]]", kind.key()));
    }
    let read = |section: &Section<'_>| {
        let column = section.required("column").to_owned();
        let profile_id = section.flag("profile_id", false);
        let entry = section.get("property");
        section.finish();
        let Some(entry) = entry else {
            if !profile_id {
                section.problem("an identifier needs a `property`, or `profile_id = true`");
            }
            return Some(IdentifierEntry { column, property: None });
        };
        if profile_id {
            entry.problem("an identifier has either a `property` or `profile_id = true`, not both");
        }
        let property = known_property(&entry, entry.text()?, properties)?;
        if !property.unique {
            entry.problem(format!(
                "`{}` cannot be an identifier: set `unique = true` for it in schema.toml",
                property.name
            ));
        }
        Some(IdentifierEntry { column, property: Some(property.clone()) })
    };
    sections.iter().filter_map(read).collect()
}

/// The property with that name; reports a problem if there is none.
pub(crate) fn known_property<'s>(
    entry: &Entry<'_>,
    name: &str,
    properties: &'s [PropertySchema],
) -> Option<&'s PropertySchema> {
    if READ_ONLY_PROPERTIES.contains(&name) && !properties.iter().any(|property| property.name == name) {
        entry.problem(format!("only Sluicebox writes `{name}`"));
        return None;
    }
    let found = property(properties, name);
    if found.is_none() {
        let known = || properties.iter().map(|property| property.name.as_str());
        entry.problem_with(|| unknown("property", name, known()));
    }
    found
}

fn fields(goal: &Section<'_>, properties: &[PropertySchema]) -> Vec<FieldEntry> {
    let mut fields: Vec<FieldEntry> = Vec::new();
    for section in &goal.sections("fields") {
        let Some(field) = field(section, properties) else { continue };
        check_source(section, &fields, &field);
        fields.push(field);
    }
    fields
}

/// Whether a column with this rule may write a property after another column that writes it by the rule `earlier`.
pub(crate) fn may_follow(rule: MergeRule, earlier: MergeRule) -> bool {
    let accumulates = |rule| matches!(rule, MergeRule::Add | MergeRule::Sum);
    rule == MergeRule::SetIfEmpty || (accumulates(rule) && accumulates(earlier))
}

/// Reports a field that would replace the value that another column gives to its property.
fn check_source(section: &Section<'_>, before: &[FieldEntry], field: &FieldEntry) {
    let mut others = before.iter().filter(|other| other.property.name == field.property.name);
    if let Some(other) =
        others.find(|other| other.column != field.column && !may_follow(field.rule, other.rule))
    {
        section.problem(format!(
            "property `{}` already takes its value from column `{}`; a second column needs `rule = \"set-if-empty\"`, or \
             `add` or `sum` for both",
            field.property.name, other.column
        ));
    }
}

fn field(section: &Section<'_>, properties: &[PropertySchema]) -> Option<FieldEntry> {
    let rule = section.choice("rule", &MergeRule::NAMES, MergeRule::Set);
    let ValueEntry { column, property, separator, separator_escape, format } = value(section, properties)?;
    if let Some(misfit) = rule.problem(&property) {
        section.problem(format!("property `{}`: {misfit}", property.name));
    }
    Some(FieldEntry { column, property, rule, separator, separator_escape, format })
}

/// A column that sets a property. The caller must read other keys of the section before.
pub(crate) fn value(section: &Section<'_>, properties: &[PropertySchema]) -> Option<ValueEntry> {
    let column = section.required("column").to_owned();
    let separator = section.text("separator").map(str::to_owned);
    let separator_escape = character(section, "separator_escape", true).flatten();
    if separator_escape.is_some() && separator.is_none() {
        section.problem("`separator_escape` needs a `separator`");
    }
    if separator_escape.is_some_and(|escape| separator.as_ref().is_some_and(|text| text.starts_with(escape)))
    {
        section.problem("`separator` and `separator_escape` must differ");
    }
    let format = section.text("format").map(str::to_owned);
    let named = section.get("property").or_else(|| section.get("column"));
    section.finish();
    let entry = named?;
    let property = known_property(&entry, entry.text()?, properties)?;
    if separator.is_some() && !property.multiple {
        section.problem(format!(
            "`separator` needs a property with `multiple = true`, which `{}` lacks",
            property.name
        ));
    }
    if let Some(format) = &format {
        match property.value_type {
            ValueType::Date | ValueType::DateTime => {
                if let Some(error) = time_format_error(format, property.value_type) {
                    section.problem(format!("`format`: {error}"));
                }
            }
            other => section.problem(format!(
                "`format` is for dates and datetimes; `{}` is a {}",
                property.name,
                other.name()
            )),
        }
    }
    Some(ValueEntry { column, property: property.clone(), separator, separator_escape, format })
}

fn all_fields(goal: &Section<'_>) -> Option<AllFields> {
    let entry = goal.get("all_fields")?;
    if let DeValue::Boolean(wanted) = entry.value() {
        return wanted.then(|| AllFields { rule: MergeRule::Set, prefix: String::new() });
    }
    let section = entry.section()?;
    let rule = section.choice("rule", &MergeRule::NAMES, MergeRule::Set);
    let prefix = section.get("prefix").and_then(|entry| entry.text()).unwrap_or_default().to_owned();
    section.finish();
    Some(AllFields { rule, prefix })
}
