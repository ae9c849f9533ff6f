//! Reads TOML. Every problem has its place, and an unknown key the nearest known one. No message quotes a value, which may be
//! a secret, unless it is a name.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::output::counted;

/// A problem in a file of the working folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The file, relative to the working folder.
    pub file: String,
    /// Line and column, from 1, in characters; `None` for the whole file.
    pub place: Option<(usize, usize)>,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

/// Problems of a file that are shown, and warnings. The others are counted: a file, or a request that changes one, may have
/// hundreds of thousands.
const MAX_SHOWN: usize = 100;

/// The problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    errors: RefCell<Vec<Problem>>,
    /// How many each file has.
    counts: RefCell<BTreeMap<String, usize>>,
    warnings: RefCell<Vec<String>>,
    /// Files that could not be parsed. Problems with keys that they lack are not reported.
    broken: RefCell<BTreeSet<String>>,
}

impl Problems {
    /// A problem of a file as a whole.
    pub(crate) fn file(&self, file: &str, message: String) {
        self.errors.borrow_mut().push(Problem { file: file.to_owned(), place: None, message });
    }

    /// Counts a problem of a file, which is made only where it is shown.
    fn add(&self, file: &str, problem: impl FnOnce() -> Problem) {
        if self.broken.borrow().contains(file) {
            return;
        }
        let mut counts = self.counts.borrow_mut();
        let count = match counts.get_mut(file) {
            Some(count) => count,
            None => counts.entry(file.to_owned()).or_default(),
        };
        *count += 1;
        if *count <= MAX_SHOWN {
            self.errors.borrow_mut().push(problem());
        }
    }

    /// Adds a warning: a setting that is valid but probably not intended.
    pub(crate) fn warn(&self, message: String) {
        let mut warnings = self.warnings.borrow_mut();
        match warnings.len() {
            0..MAX_SHOWN => warnings.push(message),
            MAX_SHOWN => warnings.push("there are more such settings".to_owned()),
            _ => {}
        }
    }

    /// Errors, sorted by file and line, and warnings.
    pub(crate) fn into_parts(self) -> (Vec<Problem>, Vec<String>) {
        let mut errors = self.errors.into_inner();
        errors.sort_by(|a, b| (&a.file, a.place).cmp(&(&b.file, b.place)));
        errors.dedup();
        for (file, count) in self.counts.into_inner() {
            if let Some(more @ 1..) = count.checked_sub(MAX_SHOWN) {
                let message = format!("and {}", counted(more as u64, "more problem"));
                errors.push(Problem { file, place: None, message });
            }
        }
        (errors, self.warnings.into_inner())
    }
}

/// A parsed file.
pub(crate) struct Document<'a> {
    file: &'a str,
    text: &'a str,
    root: Spanned<DeTable<'a>>,
    /// Where each line begins, once that is needed.
    lines: OnceCell<Vec<usize>>,
}

impl<'a> Document<'a> {
    /// Parses a file. A file that cannot be parsed is reported as a problem and treated as empty.
    pub(crate) fn parse(file: &'a str, text: &'a str, problems: &Problems) -> Self {
        let document = |root| Self { file, text, root, lines: OnceCell::new() };
        match DeTable::parse(text) {
            Ok(root) => document(root),
            Err(error) => {
                let document = document(Spanned::new(0..0, DeTable::new()));
                let place = error.span().map(|span| document.position(span.start));
                // The parser's message says what it expected, and quotes no value.
                let message = error.message().lines().collect::<Vec<_>>().join(", ");
                problems.add(file, || Problem { file: file.to_owned(), place, message });
                problems.broken.borrow_mut().insert(file.to_owned());
                document
            }
        }
    }

    /// The line of a place, from 1, and where it begins.
    fn line(&self, offset: usize) -> (usize, usize) {
        let lines = self.lines.get_or_init(|| {
            let ends = self.text.match_indices('\n').map(|(end, _)| end + 1);
            std::iter::once(0).chain(ends).collect()
        });
        let line = lines.partition_point(|start| *start <= offset);
        (line, line.checked_sub(1).and_then(|before| lines.get(before)).copied().unwrap_or_default())
    }

    /// Line and column of a place, from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let (line, start) = self.line(offset);
        let before = self.text.get(start..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }

    /// Reports a problem at a place.
    fn problem(&self, problems: &Problems, offset: usize, message: impl FnOnce() -> String) {
        problems.add(self.file, || Problem {
            file: self.file.to_owned(),
            place: Some(self.position(offset)),
            message: message(),
        });
    }

    /// The file's keys.
    pub(crate) fn root<'d>(&'d self, problems: &'d Problems) -> Section<'d> {
        Section {
            document: self,
            problems,
            table: self.root.get_ref(),
            span: 0..0,
            known: RefCell::default(),
        }
    }
}

/// The keys of one table. A key becomes known when it is read; `finish` reports the other keys.
pub(crate) struct Section<'d> {
    document: &'d Document<'d>,
    problems: &'d Problems,
    table: &'d DeTable<'d>,
    span: Range<usize>,
    known: RefCell<BTreeSet<&'static str>>,
}

/// A value with its key and place.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'d> {
    document: &'d Document<'d>,
    problems: &'d Problems,
    key: &'d str,
    value: &'d Spanned<DeValue<'d>>,
}

impl<'d> Section<'d> {
    /// The value of a key, of any type.
    pub(crate) fn get(&self, key: &'static str) -> Option<Entry<'d>> {
        self.known.borrow_mut().insert(key);
        let (key, value) = self.table.get_key_value(key)?;
        Some(Entry { document: self.document, problems: self.problems, key: key.get_ref(), value })
    }

    /// Reports a problem of the table itself, such as a missing key.
    pub(crate) fn problem(&self, message: impl Into<String>) {
        self.document.problem(self.problems, self.span.start, || message.into());
    }

    /// A text. Reports an empty one as a problem.
    pub(crate) fn text(&self, key: &'static str) -> Option<&'d str> {
        let entry = self.get(key)?;
        let text = entry.text()?;
        if text.is_empty() {
            entry.problem(format!("`{key}` is empty"));
            return None;
        }
        Some(text)
    }

    /// A required text. Reports a missing or empty one as a problem, and returns an empty text.
    pub(crate) fn required(&self, key: &'static str) -> &'d str {
        match self.table.contains_key(key) {
            true => self.text(key).unwrap_or_default(),
            false => {
                self.known.borrow_mut().insert(key);
                self.problem(format!("`{key}` is missing"));
                ""
            }
        }
    }

    /// True or false.
    pub(crate) fn flag(&self, key: &'static str, default: bool) -> bool {
        let Some(entry) = self.get(key) else { return default };
        match entry.value.get_ref() {
            DeValue::Boolean(flag) => *flag,
            _ => {
                entry.expected("true or false");
                default
            }
        }
    }

    /// One of some names.
    pub(crate) fn choice<T: Copy>(&self, key: &'static str, names: &[(&'static str, T)], default: T) -> T {
        let Some(entry) = self.get(key) else { return default };
        let Some(text) = entry.text() else { return default };
        entry.choose(text, names).unwrap_or(default)
    }

    /// The table under a key.
    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'d>> {
        self.get(key)?.section()
    }

    /// The tables of an array of tables.
    pub(crate) fn sections(&self, key: &'static str) -> Vec<Section<'d>> {
        let Some(entry) = self.get(key) else { return Vec::new() };
        entry.array().into_iter().filter_map(Entry::section).collect()
    }

    /// The tables under a key, with their names, which are free.
    pub(crate) fn named(&self, key: &'static str) -> Vec<(&'d str, Section<'d>)> {
        let Some(section) = self.section(key) else { return Vec::new() };
        let named = section.entries().filter_map(|entry| Some((entry.key, entry.section()?)));
        let proper = |(name, section): &(&str, Section<'d>)| {
            let proper = !name.is_empty() && !name.contains(char::is_control);
            if !proper {
                section.problem("a name cannot be empty or have control characters");
            }
            proper
        };
        named.filter(proper).collect()
    }

    /// Every key of the table, known or not.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'d>> + use<'d> {
        let (document, problems) = (self.document, self.problems);
        self.table.iter().map(move |(key, value)| Entry { document, problems, key: key.get_ref(), value })
    }

    /// Whether the key is present. It becomes known.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// Reports the keys that were not read.
    pub(crate) fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table {
            if known.contains(key.get_ref().as_ref()) {
                continue;
            }
            self.document.problem(self.problems, key.span().start, || {
                let near = nearest(key.get_ref(), known.iter().copied());
                let hint = match near {
                    Some(near) => format!("; did you mean `{near}`?"),
                    None => {
                        format!("; known here: {}", known.iter().copied().collect::<Vec<_>>().join(", "))
                    }
                };
                format!("unknown key `{}`{hint}", key.get_ref())
            });
        }
    }
}

impl<'d> Entry<'d> {
    /// The key.
    pub(crate) fn key(&self) -> &'d str {
        self.key
    }

    /// The value.
    pub(crate) fn value(&self) -> &'d DeValue<'d> {
        self.value.get_ref()
    }

    /// The file and line, for later messages.
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.document.file, self.document.line(self.value.span().start).0)
    }

    /// Reports a problem with this value.
    pub(crate) fn problem(&self, message: impl Into<String>) {
        self.document.problem(self.problems, self.value.span().start, || message.into());
    }

    /// Reports a problem with one of many values: the message is made only where it is shown.
    pub(crate) fn problem_with(&self, message: impl FnOnce() -> String) {
        self.document.problem(self.problems, self.value.span().start, message);
    }

    fn expected(&self, expected: &str) {
        self.problem_with(|| {
            format!("`{}`: expected {expected}, found {}", self.key, kind(self.value.get_ref()))
        });
    }

    /// The text, or a problem.
    pub(crate) fn text(&self) -> Option<&'d str> {
        let text = self.value.get_ref().as_str();
        if text.is_none() {
            self.expected("a text in quotes");
        }
        text
    }

    /// A whole number of at least 0, or a problem.
    pub(crate) fn whole(&self) -> Option<u64> {
        let number =
            self.value.get_ref().as_integer().and_then(|number| {
                u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
            });
        if number.is_none() {
            self.expected("a whole number");
        }
        number
    }

    /// The table, or a problem.
    pub(crate) fn section(self) -> Option<Section<'d>> {
        let DeValue::Table(table) = self.value.get_ref() else {
            self.expected("a table");
            return None;
        };
        Some(Section {
            document: self.document,
            problems: self.problems,
            table,
            span: self.value.span(),
            known: RefCell::default(),
        })
    }

    /// The values of an array, or a problem.
    pub(crate) fn array(self) -> Vec<Entry<'d>> {
        let DeValue::Array(array) = self.value.get_ref() else {
            self.expected("an array");
            return Vec::new();
        };
        array.iter().map(|value| Entry { value, ..self }).collect()
    }

    /// The choice of that name, or a problem.
    pub(crate) fn choose<T: Copy>(&self, text: &str, names: &[(&'static str, T)]) -> Option<T> {
        let found = names.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        if found.is_none() {
            self.problem_with(|| {
                let all = names.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                format!("`{}`: there is no `{text}`; expected one of {all}", self.key)
            });
        }
        found
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// The message about a name that is missing in the schema.
pub(crate) fn unknown<'a>(kind: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let hint = nearest(name, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    format!("schema.toml has no {kind} `{name}`{hint}")
}

/// The known name that is most similar to an unknown one, if one is similar enough.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(&name.to_lowercase(), &known.to_lowercase());
    let scored = known.into_iter().map(|known| (likeness(known), known)).filter(|(score, _)| *score > 0.75);
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, read: impl Fn(&Section<'_>), expected: &[&str]) {
        let problems = Problems::default();
        let document = Document::parse("a.toml", text, &problems);
        let section = document.root(&problems);
        read(&section);
        section.finish();
        let (errors, _) = problems.into_parts();
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn problems_have_a_place_and_what_was_expected() {
        let read = |section: &Section<'_>| {
            section.text("name");
            section.flag("enabled", true);
            section.choice("rule", &[("set", 1), ("add", 2)], 1);
        };
        check("name = 'x'\nenabled = false\nrule = 'add'", read, &[]);
        check("nmae = 'x'", read, &["a.toml:1:1: unknown key `nmae`; did you mean `name`?"]);
        check("zzz = 'x'", read, &["a.toml:1:1: unknown key `zzz`; known here: enabled, name, rule"]);
        check("\nname = 3", read, &["a.toml:2:8: `name`: expected a text in quotes, found a number"]);
        check("enabled = 'yes'", read, &["a.toml:1:11: `enabled`: expected true or false, found a text"]);
        check("rule = 'ad'", read, &["a.toml:1:8: `rule`: there is no `ad`; expected one of set, add"]);
        check("name = ''", read, &["a.toml:1:8: `name` is empty"]);
    }

    #[test]
    fn problems_beyond_the_first_hundred_are_counted() {
        let text: String = (0..200_000).map(|number| format!("x{number} = 1\n")).collect();
        let problems = Problems::default();
        let document = Document::parse("a.toml", &text, &problems);
        document.root(&problems).finish();
        let (errors, _) = problems.into_parts();
        assert_eq!((errors.len(), errors[99].place), (101, Some((100, 1))));
        assert_eq!(errors[100].to_string(), "a.toml: and 199900 more problems");
    }

    #[test]
    fn syntax_errors_do_not_quote_the_line() {
        for text in
            ["passphrase = hunter2", "passphrase 'hunter2'", "passphrase = 'hunter2", "a = 1\na = 'hunter2'"]
        {
            let problems = Problems::default();
            let _ = Document::parse("a.toml", text, &problems);
            let (errors, _) = problems.into_parts();
            let shown = errors.iter().map(ToString::to_string).collect::<String>();
            assert!(!shown.is_empty() && !shown.contains("hunter2"), "{shown}");
        }
    }
}
