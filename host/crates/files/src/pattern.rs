use std::collections::HashMap;

use regex::{Regex, RegexBuilder};
use sluicebox_model::OrNever;

/// Which files of a folder a goal imports.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// How many folders below the goal's own the pattern reaches into.
    pub depth: usize,
    /// The pattern as people see it, with the values of the root file in place.
    pub shown: String,
    literal_start: String,
    is_wildcard: bool,
}

/// A pattern that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PatternError {
    /// The wildcard is not well formed.
    #[error("the wildcard has {0}")]
    Wildcard(&'static str),
    /// The regular expression is not well formed.
    #[error("{0}")]
    Regex(#[from] regex::Error),
}

/// The parts of a file's name that the wildcards, or the named groups, of a pattern matched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WildcardValues {
    by_number: Vec<String>,
    by_name: HashMap<String, String>,
}

impl Pattern {
    /// Reads a wildcard: `*` any characters but `/`, `?` one, `[…]` a set, `{a,b}` alternatives.
    ///
    /// # Errors
    /// If a bracket is not closed.
    pub fn wildcard(wildcard: &str) -> Result<Self, PatternError> {
        Self::of_wildcard(wildcard, &WildcardValues::default())
    }

    fn of_wildcard(wildcard: &str, values: &WildcardValues) -> Result<Self, PatternError> {
        let (expression, shown) = Translation { values, ..Translation::default() }.translate(wildcard)?;
        let end = wildcard.find(['*', '?', '[', '{']).unwrap_or(wildcard.len());
        Ok(Self {
            regex: compile(&expression)?,
            depth: wildcard.matches('/').count(),
            shown,
            literal_start: wildcard.get(..end).or_never("the literal start").to_owned(),
            is_wildcard: true,
        })
    }

    /// Reads a regular expression, which must match the whole name.
    ///
    /// # Errors
    /// If it is not well formed.
    pub fn regex(expression: &str) -> Result<Self, PatternError> {
        Regex::new(expression)?;
        Ok(Self {
            regex: compile(expression)?,
            depth: expression.matches('/').count(),
            shown: expression.to_owned(),
            literal_start: String::new(),
            is_wildcard: false,
        })
    }

    /// Whether the pattern matches a name. A name that ends in `.done` never matches.
    pub fn matches(&self, name: &str) -> bool {
        !name.ends_with(".done") && self.regex.is_match(name)
    }

    /// The text that every matching name begins with, as far as the pattern shows it.
    pub(crate) fn literal_start(&self) -> &str {
        &self.literal_start
    }

    /// The named groups of a regular expression.
    pub fn group_names(&self) -> impl Iterator<Item = &str> {
        self.regex.capture_names().flatten()
    }

    /// What its wildcards, or named groups, match in a name; empty if the name does not match.
    pub fn wildcard_values(&self, name: &str) -> WildcardValues {
        let Some(captures) = self.regex.captures(name) else { return WildcardValues::default() };
        let text = |group: Option<regex::Match<'_>>| group.map_or("", |group| group.as_str()).to_owned();
        let by_number = match self.is_wildcard {
            true => captures.iter().skip(1).map(text).collect(),
            false => Vec::new(),
        };
        let by_name =
            self.group_names().map(|group| (group.to_owned(), text(captures.name(group)))).collect();
        WildcardValues { by_number, by_name }
    }
}

/// Which files belong to a root file: a pattern that takes over the values of the root's wildcards.
#[derive(Clone, Debug)]
pub struct LinkedPattern {
    text: String,
    regex: bool,
}

impl LinkedPattern {
    /// Reads a wildcard. The n-th wildcard takes the value of the root's n-th; `{name}` takes the value of the root's group.
    ///
    /// # Errors
    /// If a bracket is not closed.
    pub fn wildcard(text: &str) -> Result<Self, PatternError> {
        Pattern::wildcard(text).map(|_| Self { text: text.to_owned(), regex: false })
    }

    /// Reads a regular expression, in which `{name}` takes the value of the root's group.
    ///
    /// # Errors
    /// If it is not well formed.
    pub fn regex(text: &str) -> Result<Self, PatternError> {
        let linked = Self { text: text.to_owned(), regex: true };
        Pattern::regex(&linked.substitute(|_| Some(".*".to_owned()))).map(|_| linked)
    }

    /// The pattern of the files that belong to a root file; `values` come from the root file's name.
    ///
    /// # Errors
    /// If the result is not well formed. The constructors rule that out.
    pub fn for_root(&self, values: &WildcardValues) -> Result<Pattern, PatternError> {
        match self.regex {
            true => Pattern::regex(
                &self.substitute(|name| values.by_name.get(name).map(|value| regex::escape(value))),
            ),
            false => Pattern::of_wildcard(&self.text, values),
        }
    }

    /// The pattern of all files that may belong to any root file of this pattern.
    ///
    /// # Errors
    /// As [`LinkedPattern::for_root`].
    pub fn for_any_root(&self, root: &Pattern) -> Result<Pattern, PatternError> {
        let text = self.substitute(|name| {
            let group = root.group_names().any(|group| group == name);
            group.then(|| if self.regex { ".*".to_owned() } else { "*".to_owned() })
        });
        if self.regex { Pattern::regex(&text) } else { Pattern::wildcard(&text) }
    }

    /// The names in braces: groups of the root, or, in a wildcard, a set of one alternative.
    pub fn placeholders(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.substitute(|name| {
            names.push(name.to_owned());
            None
        });
        names
    }

    /// The text with `{name}` replaced by `value(name)`, where that is `Some`.
    fn substitute(&self, mut value: impl FnMut(&str) -> Option<String>) -> String {
        let (mut out, mut rest) = (String::new(), self.text.as_str());
        while let Some((before, after)) = rest.split_once('{') {
            out.push_str(before);
            rest = after;
            if let Some((name, after)) = placeholder(after)
                && let Some(value) = value(name)
            {
                out.push_str(&value);
                rest = after;
            } else {
                out.push('{');
            }
        }
        out + rest
    }
}

/// The name before the closing brace, and the text after it.
fn placeholder(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.split_once('}')?;
    let fits = name.starts_with(|first: char| first.is_alphabetic() || first == '_')
        && name.chars().all(|character| character.is_alphanumeric() || character == '_');
    fits.then_some((name, after))
}

fn compile(expression: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{expression})$")).dot_matches_new_line(true).size_limit(4 << 20).build()
}

/// Turns a wildcard pattern into a regular expression that has one group for each wildcard, in the order in which they open.
struct Translation<'t> {
    values: &'t WildcardValues,
    regex: String,
    shown: String,
    /// How many wildcards have opened.
    wildcards: usize,
    open_braces: usize,
}

impl Default for Translation<'static> {
    fn default() -> Self {
        static NOTHING: std::sync::LazyLock<WildcardValues> =
            std::sync::LazyLock::new(WildcardValues::default);
        Self { values: &NOTHING, regex: String::new(), shown: String::new(), wildcards: 0, open_braces: 0 }
    }
}

impl<'t> Translation<'t> {
    /// The regular expression, and the pattern with the values in place.
    fn translate(mut self, wildcard: &str) -> Result<(String, String), PatternError> {
        let mut rest = wildcard;
        while let Some(character) = rest.chars().next() {
            let after = rest.get(character.len_utf8()..).or_never("the rest of the wildcard");
            rest = match character {
                '*' => self.wild(after, "*", "([^/]*)"),
                '?' => self.wild(after, "?", "([^/])"),
                '[' => self.set(after)?,
                '{' => self.braces(after),
                '}' if self.open_braces > 0 => {
                    self.open_braces -= 1;
                    self.push("}", "))");
                    after
                }
                ',' if self.open_braces > 0 => {
                    self.push(",", ")|(?:");
                    after
                }
                other => {
                    self.literal(other.encode_utf8(&mut [0; 4]));
                    after
                }
            };
        }
        if self.open_braces > 0 {
            return Err(PatternError::Wildcard("a `{` without `}`"));
        }
        Ok((self.regex, self.shown))
    }

    fn push(&mut self, shown: &str, regex: &str) {
        self.shown.push_str(shown);
        self.regex.push_str(regex);
    }

    fn literal(&mut self, text: &str) {
        self.push(text, &regex::escape(text));
    }

    /// The root's value for the wildcard that opens here.
    fn value(&mut self) -> Option<&'t str> {
        self.wildcards += 1;
        self.values.by_number.get(self.wildcards - 1).map(String::as_str)
    }

    fn wild<'w>(&mut self, after: &'w str, wildcard: &str, free: &str) -> &'w str {
        match self.value() {
            Some(value) => self.literal(value),
            None => self.push(wildcard, free),
        }
        after
    }

    fn set<'w>(&mut self, after: &'w str) -> Result<&'w str, PatternError> {
        let mut set = String::new();
        let mut characters = after.chars();
        let negated = after.starts_with(['!', '^']);
        if negated {
            characters.next();
        }
        loop {
            match characters.next() {
                Some(']') if !set.is_empty() => break,
                Some('-') => set.push('-'),
                Some(member) => set.push_str(&regex::escape(&member.to_string())),
                None => return Err(PatternError::Wildcard("a `[` without `]`")),
            }
        }
        let rest = characters.as_str();
        let wildcard = format!("[{}", after.strip_suffix(rest).or_never("the set"));
        let negation = if negated { "^/" } else { "" };
        Ok(self.wild(rest, &wildcard, &format!("([{negation}{set}])")))
    }

    fn braces<'w>(&mut self, after: &'w str) -> &'w str {
        if let Some((name, rest)) = placeholder(after)
            && let Some(value) = self.values.by_name.get(name)
        {
            self.literal(value);
            return rest;
        }
        let Some(value) = self.value() else {
            self.open_braces += 1;
            self.push("{", "((?:");
            return after;
        };
        self.literal(value);
        // Wildcards inside the braces count as well, as they do in the root's pattern.
        let mut depth = 1;
        for (place, character) in after.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return after.get(place + 1..).or_never("the rest of the wildcard");
            }
            self.wildcards += usize::from(matches!(character, '{' | '*' | '?' | '['));
        }
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wildcard: &str, matching: &[&str], other: &[&str]) {
        let pattern = Pattern::wildcard(wildcard).unwrap();
        for name in matching {
            assert!(pattern.matches(name), "{wildcard} matches {name}");
        }
        for name in other {
            assert!(!pattern.matches(name), "{wildcard} does not match {name}");
        }
    }

    #[test]
    fn wildcards() {
        check(
            "customers_*.csv*",
            &["customers_1.csv", "customers_.csv.gz"],
            &["customers_1.csv.done", "a/customers_1.csv", "xcustomers_1.csv"],
        );
        check("a?[0-9].{csv,txt}", &["ab1.csv", "aé9.txt"], &["ab.csv", "abx.csv", "ab1.tsv", "a/1.csv"]);
        check("[!a]+(x).csv", &["b+(x).csv"], &["a+(x).csv"]);
        check("in/*.csv", &["in/a.csv"], &["in/b/a.csv", "a.csv"]);
        check("plain.csv", &["plain.csv"], &["plainxcsv"]);
    }

    #[test]
    fn regexes_match_the_whole_name() {
        let pattern = Pattern::regex(r"a\d+|b").unwrap();
        assert!(
            pattern.matches("a12")
                && pattern.matches("b")
                && !pattern.matches("xb")
                && !pattern.matches("a1b")
        );
        assert!(
            Pattern::regex("(").is_err()
                && Pattern::wildcard("[").is_err()
                && Pattern::wildcard("{a").is_err()
        );
    }

    /// The pattern of the linked files of the root file `name`.
    #[track_caller]
    fn check_linked(root: &Pattern, name: &str, linked: &LinkedPattern, matching: &[&str], other: &[&str]) {
        assert!(root.matches(name));
        let pattern = linked.for_root(&root.wildcard_values(name)).unwrap();
        let any = linked.for_any_root(root).unwrap();
        for name in matching {
            assert!(pattern.matches(name), "{name} matches");
            assert!(any.matches(name), "{name} may match");
        }
        for name in other {
            assert!(!pattern.matches(name), "{name} does not match");
        }
    }

    #[test]
    fn linked_wildcards_take_the_values_of_the_root() {
        let check = |root: &str, name: &str, linked: &str, matching: &[&str], other: &[&str]| {
            let (root, linked) = (Pattern::wildcard(root).unwrap(), LinkedPattern::wildcard(linked).unwrap());
            check_linked(&root, name, &linked, matching, other);
        };
        check(
            "example_course_20*.csv",
            "example_course_20244.csv",
            "lines_20*.csv",
            &["lines_20244.csv"],
            &["lines_20245.csv", "lines_20.csv"],
        );
        check(
            "a_*_?.csv",
            "a_x_1.csv",
            "b_*_?_*.csv",
            &["b_x_1_.csv", "b_x_1_9.csv"],
            &["b_y_1_.csv", "b_x_2_.csv"],
        );
        check(
            "a_{x,y*}_[0-9].csv",
            "a_yes_7.csv",
            "b_{x,y*}_*_*.csv",
            &["b_yes_7_.csv", "b_yes_7_z.csv"],
            &["b_x_7_.csv", "b_yes_es_7.csv"],
        );
        check("a+*.csv", "a+(1).csv", "b*.csv", &["b(1).csv"], &["b1.csv"]);
        check("a.csv", "a.csv", "b_*.csv", &["b_1.csv", "b_2.csv"], &["b.csv"]);
    }

    #[test]
    fn linked_names_take_the_values_of_the_groups() {
        let root = Pattern::regex(r"customers_(?<day>\d+)_(?<part>[a-z])\.csv").unwrap();
        let wildcard = LinkedPattern::wildcard("orders_{day}_*.csv").unwrap();
        check_linked(
            &root,
            "customers_12_b.csv",
            &wildcard,
            &["orders_12_x.csv", "orders_12_.csv"],
            &["orders_13_x.csv"],
        );
        let regex = LinkedPattern::regex(r"orders_{part}_{day}_\d{2}\.csv").unwrap();
        check_linked(&root, "customers_12_b.csv", &regex, &["orders_b_12_34.csv"], &["orders_b_12_3.csv"]);
        assert_eq!(regex.placeholders(), ["part", "day"]);
    }
}
