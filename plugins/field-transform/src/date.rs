use std::borrow::Cow;

use jiff::fmt::strtime::BrokenDownTime;
use schemars::JsonSchema;
use serde::Deserialize;

/// How a date is written, and how to write it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DateForm {
    /// How it is written: `strptime` directives. `%Y` takes four digits, `%y` two, `%z` takes `+01:00`, `+0100` and `Z`.
    from: String,
    /// How to write it: `strftime` directives.
    to: String,
}

/// A compiled [`DateForm`].
pub(crate) struct Rewrite {
    from: String,
    to: String,
    /// The directives that take less, or more, than `strptime` does, in order.
    strict: Vec<Strict>,
}

struct Strict {
    /// The place of the directive in `from`, in bytes.
    place: usize,
    kind: Kind,
}

enum Kind {
    /// A year of exactly this number of digits.
    Year(usize),
    /// An offset from UTC.
    Offset,
}

impl DateForm {
    pub(crate) fn compile(self) -> Rewrite {
        // Both hold a year: the directive for it is the one to check.
        let from = replace_directive(&self.from, 'F', "%Y-%m-%d");
        let from = replace_directive(&from, 'D', "%m/%d/%y");
        let strict = directives(&from).filter_map(|(place, directive)| {
            let kind = match directive {
                'Y' => Kind::Year(4),
                'y' => Kind::Year(2),
                'z' => Kind::Offset,
                _ => return None,
            };
            Some(Strict { place, kind })
        });
        Rewrite { strict: strict.collect(), from, to: self.to }
    }
}

impl Rewrite {
    /// The date in its new form; `None` if the cell is not a date of the old one.
    pub(crate) fn apply(&self, cell: &str) -> Option<String> {
        let mut cell = Cow::Borrowed(cell);
        for strict in &self.strict {
            let before = self.from.get(..strict.place)?;
            let (_, from) = BrokenDownTime::parse_prefix(before, cell.as_bytes()).ok()?;
            let rest = cell.get(from..)?;
            match strict.kind {
                Kind::Year(digits) => {
                    rest.as_bytes().get(..digits).filter(|year| year.iter().all(u8::is_ascii_digit))?;
                }
                Kind::Offset => {
                    if let Some((offset, length)) = basic_offset(rest) {
                        let mut changed = cell.into_owned();
                        changed.replace_range(from..from + length, &offset);
                        cell = Cow::Owned(changed);
                    }
                }
            }
        }
        BrokenDownTime::parse(&self.from, cell.as_bytes()).and_then(|time| time.to_string(&self.to)).ok()
    }
}

/// An offset that `%z` of `strptime` does not take, in the form that it takes, `+0100`; and the length of what it replaces.
fn basic_offset(text: &str) -> Option<(String, usize)> {
    if text.starts_with('Z') {
        return Some(("+0000".to_owned(), 1));
    }
    match text.as_bytes() {
        [b'+' | b'-', a, b, b':', c, d, ..] if [a, b, c, d].iter().all(|byte| byte.is_ascii_digit()) => {
            Some((text.get(..6)?.replace(':', ""), 6))
        }
        _ => None,
    }
}

/// The places of the directives of a format, each of the form `%Y`.
fn directives(format: &str) -> impl Iterator<Item = (usize, char)> {
    let mut characters = format.char_indices();
    std::iter::from_fn(move || {
        let (place, _) = characters.find(|(_, character)| *character == '%')?;
        characters.next().map(|(_, directive)| (place, directive))
    })
}

/// The format with other text in place of a directive.
fn replace_directive(format: &str, directive: char, with: &str) -> String {
    let mut replaced = String::with_capacity(format.len());
    let mut from = 0;
    for (place, found) in directives(format) {
        if found == directive {
            replaced.push_str(format.get(from..place).unwrap_or_default());
            replaced.push_str(with);
            from = place + '%'.len_utf8() + directive.len_utf8();
        }
    }
    replaced.push_str(format.get(from..).unwrap_or_default());
    replaced
}
