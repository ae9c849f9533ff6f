//! The columns of files: where they are, and which of them a goal uses of its linked files.

use std::borrow::Cow;
use std::collections::HashSet;

use sluicebox_files::{looks_like_data, missing_column_hint};
use sluicebox_model::{OrNever, PropertySchema};

use crate::config::{ValueEntry, nearest};
use crate::error::Error;
use crate::import::plan::Resolver;

/// The message about a missing column lists at most this many others.
const MAX_LISTED: usize = 20;

/// Columns that are skipped are named up to this number; the others are counted. A file may have a hundred thousand.
pub(crate) const MAX_SKIPPED: usize = 100;

/// What is missing where a linked file lacks a column that its own plan names.
const PLACE: &str = "the place of a linked file's column";

/// A linked file below another file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The place of the linked file in the goal.
    pub file: usize,
    /// The place of the parent file's column that holds the linking value.
    pub column: usize,
}

/// The columns of a linked file that a goal uses, in the order in which its rows are stored during the import.
#[derive(Default)]
pub(crate) struct LinkedColumns {
    /// Each column's name, and whether the file must have it.
    columns: Vec<(String, bool)>,
    /// Whether a bulk mapping takes columns of the file.
    has_bulk: bool,
    /// The place of the linking value among the columns.
    pub link: usize,
    /// The linked files below this one.
    pub links: Vec<Link>,
    /// Whether the line of each row follows its columns, as events that gather rows need it.
    has_lines: bool,
}

impl LinkedColumns {
    /// The places of these columns in a file; `None` for a missing one that only a bulk mapping would take.
    ///
    /// # Errors
    /// If the file lacks a column, or has one twice that the goal uses.
    pub(crate) fn places(&self, file: &str, columns: &[String]) -> Result<Vec<Option<usize>>, Error> {
        let places =
            self.columns.iter().map(|(name, is_required)| match columns.contains(name) || *is_required {
                true => find_column(file, columns, name).map(Some),
                false => Ok(None),
            });
        places.collect()
    }

    /// The columns of a file for which its bulk mappings find no property.
    pub(crate) fn skipped<'c>(&self, columns: &'c [String]) -> impl Iterator<Item = &'c String> {
        columns.iter().filter(move |name| self.has_bulk && !name.is_empty() && !self.has(name))
    }

    /// The place of the cell that says where a row is from. It is the last one.
    pub(crate) fn hidden(&self) -> usize {
        self.columns.len() + usize::from(self.has_lines)
    }

    /// Whether a column is among these.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|(column, _)| column == name)
    }

    /// The place of a column among these.
    pub(crate) fn place(&self, name: &str) -> usize {
        self.columns.iter().position(|(column, _)| column == name).or_never(PLACE)
    }

    /// The place of a row's line, if there is one.
    pub(crate) fn line(&self) -> Option<usize> {
        self.has_lines.then_some(self.columns.len())
    }

    fn need(&mut self, name: &str, is_required: bool) {
        match self.columns.iter_mut().find(|(column, _)| column == name) {
            Some((_, required)) => *required |= is_required,
            None => self.columns.push((name.to_owned(), is_required)),
        }
    }

    fn need_values(&mut self, fields: &[ValueEntry], bulk: Option<&[PropertySchema]>, named: &HashSet<&str>) {
        fields.iter().for_each(|field| self.need(&field.column, true));
        self.has_bulk |= bulk.is_some();
        let bulk = bulk.unwrap_or_default().iter().filter(|property| !named.contains(property.name.as_str()));
        bulk.for_each(|property| self.need(&property.name, false));
    }
}

impl Resolver<'_> {
    /// The columns of a linked file that the goal uses. They depend on the configuration alone, so that several files
    /// of one pattern give rows of one shape.
    pub(crate) fn linked(&self, file: usize) -> LinkedColumns {
        let (goal, named) = (self.goal, self.named(Some(file)));
        let mut linked = LinkedColumns::default();
        if let Some(own) = goal.linked.get(file) {
            linked.need(&own.column, true);
        }
        for child in goal.linked.iter().filter(|child| child.parent == Some(file)) {
            linked.need(&child.parent_column, true);
        }
        for event in &goal.events {
            if event.file == Some(file) {
                let bulk = event.all_fields.then(|| event.properties(self.schema));
                linked.need_values(&event.fields, bulk, &named);
            }
            let nested_rows = || event.nested.iter().filter(|nested| nested.file == Some(file));
            linked.has_lines |=
                event.gathers() && (event.file == Some(file) || nested_rows().next().is_some());
            for nested in nested_rows() {
                let bulk = nested.all_fields.then(|| nested.properties(&event.event_type, self.schema));
                linked.need_values(&nested.fields, bulk, &named);
            }
        }
        for event in goal.events.iter().filter(|event| event.file == Some(file)) {
            linked.need(&event.time, true);
            event.id.iter().for_each(|id| linked.need(id, true));
        }
        linked.link = goal.linked.get(file).map(|own| linked.place(&own.column)).or_never(PLACE);
        let children = goal.linked.iter().enumerate().filter(|(_, child)| child.parent == Some(file));
        linked.links =
            children.map(|(file, child)| Link { file, column: linked.place(&child.parent_column) }).collect();
        linked
    }

    /// The columns of a file that identifiers, fields, links, and ids and times of events name.
    pub(crate) fn named(&self, file: Option<usize>) -> HashSet<&str> {
        let goal = self.goal;
        let mut named = HashSet::new();
        if file.is_none() {
            named.extend(goal.identifiers.iter().map(|entry| entry.column.as_str()));
            named.extend(goal.fields.iter().map(|entry| entry.column.as_str()));
        }
        for (place, linked) in goal.linked.iter().enumerate() {
            if Some(place) == file {
                named.insert(linked.column.as_str());
            }
            if linked.parent == file {
                named.insert(linked.parent_column.as_str());
            }
        }
        for event in goal.events.iter().filter(|event| event.file == file) {
            named.insert(event.time.as_str());
            named.extend(event.id.as_deref());
        }
        named
    }
}

/// The place of a column that a file must have, once.
///
/// # Errors
/// If the file lacks the column, or has it twice.
pub(crate) fn find_column(file: &str, columns: &[String], name: &str) -> Result<usize, Error> {
    let failed = |message, missing| Err(Error::Columns { name: file.to_owned(), message, missing });
    let mut places = columns.iter().enumerate().filter(|(_, column)| *column == name);
    match (places.next(), places.next()) {
        (Some((place, _)), None) => Ok(place),
        (Some(_), Some(_)) => failed(format!("two columns are named `{name}`"), None),
        _ => {
            let missing = Some(name.to_owned());
            if looks_like_data(columns) {
                let message = format!(
                    "the file has no column `{name}`; its first row looks like data and not like a header: ask the partner for \
                     a header, or set header = false in the goal's csv and name the columns by their numbers"
                );
                return failed(message, missing);
            }
            let listed = columns.iter().take(MAX_LISTED).map(|column| format!("`{}`", shortened(column)));
            let mut found = listed.collect::<Vec<_>>().join(", ");
            if columns.len() > MAX_LISTED {
                found.push_str(&format!(" and {} more", columns.len() - MAX_LISTED));
            }
            let near = || nearest(name, columns.iter().map(String::as_str));
            let hint = missing_column_hint(columns, name);
            let hint = hint.or_else(|| Some(format!("did you mean `{}`?", near()?)));
            let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            failed(format!("the file has no column `{name}`; found {found}{hint}"), missing)
        }
    }
}

/// The name of a column for a message: a partner decides how long it is.
pub(crate) fn shortened(name: &str) -> Cow<'_, str> {
    const MAX_BYTES: usize = 200;
    match name.len() {
        0..=MAX_BYTES => Cow::Borrowed(name),
        _ => {
            let start = name.get(..name.floor_char_boundary(MAX_BYTES)).unwrap_or_default();
            Cow::Owned(format!("{start}…"))
        }
    }
}
