//! Takes secrets and cells out of what a plugin says, before anything shows or stores it.
//!
//! A plugin quotes them by mistake, in the message of an error or of its log. One that means to tell them can write them in other
//! letters; no host can find that.

use std::sync::Arc;

use crate::bindings::{Batch, Rejection};
use crate::error::{MAX_CHARACTERS, shown};

/// What stands for a secret, and for a cell.
const SECRET: &str = "[secret]";
const CELL: &str = "[cell]";
/// What stands for the code of a rejection that holds a secret.
const HIDDEN: &str = "hidden";
/// Cells of fewer characters are parts of any text.
const MIN_CELL: usize = 4;
/// The lines of a secret of fewer characters are not looked for: a file of keys has short lines that say nothing.
const MIN_LINE: usize = 8;
/// Characters of a secret or cell that are compared. The text ends where one of more begins.
const MAX_COMPARED: usize = 64;

/// The configuration of a session: JSON, and the secrets in it.
#[derive(Clone, Default)]
pub struct Configuration {
    json: String,
    secrets: Secrets,
}

impl Configuration {
    /// A configuration as JSON that holds some secrets.
    pub fn new(json: String, secrets: &[String]) -> Self {
        Self { json, secrets: Secrets::new(secrets) }
    }

    /// The JSON, with its secrets: never to be shown.
    pub fn json(&self) -> &str {
        &self.json
    }

    pub(crate) fn secrets(&self) -> &Secrets {
        &self.secrets
    }
}

impl std::fmt::Debug for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Configuration")
    }
}

/// Secrets in every form in which a message may quote them.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Arc<[String]>);

impl Secrets {
    fn new(secrets: &[String]) -> Self {
        let mut forms = Vec::new();
        for secret in secrets {
            let lines = secret.lines().map(str::trim).filter(|line| line.chars().count() >= MIN_LINE);
            for form in [secret.as_str(), secret.trim()].into_iter().chain(lines) {
                forms.push(form.to_owned());
                // As Rust and JSON quote it.
                forms.push(form.escape_debug().to_string());
                forms.push(in_json(form));
            }
        }
        forms.retain(|form| !form.is_empty());
        forms.sort_unstable();
        forms.dedup();
        Self(forms.into())
    }

    /// Whether a name holds a secret. Very short ones, such as a separator, are parts of any name.
    pub(crate) fn are_in(&self, name: &str) -> bool {
        self.0.iter().any(|secret| secret.len() >= MIN_CELL && name.contains(secret.as_str()))
    }

    /// Whether words that may quote a row hold a secret.
    fn quoted_in(&self, words: &str) -> bool {
        self.0.iter().any(|secret| words.contains(secret.as_str()))
    }

    /// Takes the secrets out of what is said of rows: cells may stay, because it stays with the row.
    pub(crate) fn hide_in(&self, rejections: &mut [Rejection]) {
        if self.0.is_empty() {
            return;
        }
        for rejection in rejections {
            if self.quoted_in(&rejection.reason) {
                rejection.reason = said(&rejection.reason, self, None);
            }
            if self.are_in(&rejection.code) {
                HIDDEN.clone_into(&mut rejection.code);
            }
        }
    }
}

/// The text between the quotes of a JSON string.
fn in_json(text: &str) -> String {
    let mut json = String::new();
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            other => json.push(other),
        }
    }
    json
}

/// Words of a plugin in a form that is safe to show: without secrets, without the cells of `batch`, escaped and shortened.
pub(crate) fn said(words: &str, secrets: &Secrets, batch: Option<&Batch>) -> String {
    // A part of a secret at the end would not be found: what begins in the shown part is looked at as a whole.
    let end = |characters| words.char_indices().nth(characters).map_or(words.len(), |(place, _)| place);
    let shown_end = end(MAX_CHARACTERS);
    let window = words.get(..end(MAX_CHARACTERS + MAX_COMPARED)).unwrap_or(words);
    let mut found: Vec<(usize, usize, &'static str)> = Vec::new();
    let mut find = |hidden: &str, with: &'static str| {
        let compared = hidden.char_indices().nth(MAX_COMPARED).map_or(hidden.len(), |(place, _)| place);
        let part = hidden.get(..compared).unwrap_or(hidden);
        for (place, _) in window.match_indices(part) {
            let to = if compared < hidden.len() { usize::MAX } else { place + part.len() };
            found.push((place, to, with));
        }
    };
    secrets.0.iter().for_each(|secret| find(secret, SECRET));
    if let Some(batch) = batch {
        let starts = Starts::of(window);
        cells(batch).filter(|cell| starts.may_hold(cell)).for_each(|cell| find(cell, CELL));
    }
    if found.is_empty() {
        return shown(words);
    }
    // Of those that begin at one place, the longest.
    found.sort_unstable_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
    let (mut safe, mut at) = (String::new(), 0);
    for (from, to, with) in found {
        if from >= shown_end {
            break;
        }
        if from >= at {
            safe.push_str(window.get(at..from).unwrap_or_default());
            safe.push_str(with);
        }
        at = at.max(to);
    }
    safe.push_str(window.get(at..shown_end).unwrap_or_default());
    if shown_end < words.len() && at < shown_end {
        safe.push('…');
    }
    shown(&safe)
}

/// The cells of a batch that are long enough to be looked for.
fn cells(batch: &Batch) -> impl Iterator<Item = &str> {
    let columns = batch.offsets.chunks_exact(batch.rows as usize + 1);
    let cells = columns.flat_map(|ends| ends.array_windows());
    let cells = cells.filter_map(|[from, to]| batch.data.get(*from as usize..*to as usize));
    let cells = cells.filter_map(|cell| str::from_utf8(cell).ok()).map(str::trim);
    cells.filter(|cell| cell.chars().nth(MIN_CELL - 1).is_some())
}

/// Which groups of four bytes a text has, roughly: a batch has many cells, and few of them are in a message.
struct Starts(Vec<bool>);

impl Starts {
    fn of(text: &str) -> Self {
        let mut has = vec![false; 1 << 16];
        for four in text.as_bytes().array_windows() {
            if let Some(has) = has.get_mut(place(*four)) {
                *has = true;
            }
        }
        Self(has)
    }

    fn may_hold(&self, cell: &str) -> bool {
        cell.as_bytes().first_chunk().is_some_and(|four| self.0.get(place(*four)).copied().unwrap_or(true))
    }
}

fn place(four: [u8; 4]) -> usize {
    (u32::from_le_bytes(four).wrapping_mul(0x9e37_79b1) >> 16) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(cells: &[&str]) -> Batch {
        let mut batch = Batch {
            rows: u32::try_from(cells.len()).unwrap(),
            data: vec![],
            offsets: vec![0],
            validity: vec![],
        };
        for cell in cells {
            batch.data.extend_from_slice(cell.as_bytes());
            batch.offsets.push(u32::try_from(batch.data.len()).unwrap());
        }
        batch
    }

    fn check(words: &str, secrets: &[&str], cells: &[&str], expected: &str) {
        let secrets: Vec<String> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        assert_eq!(said(words, &Secrets::new(&secrets), Some(&batch(cells))), expected);
    }

    #[test]
    fn secrets_and_cells_are_hidden_wherever_they_are() {
        check(
            "there is no column `s3cret`; s3cret",
            &["s3cret"],
            &[],
            "there is no column `[secret]`; [secret]",
        );
        check("row of ann@x.example and Bob", &[], &["ann@x.example", "Bob", ""], "row of [cell] and Bob");
        check("annann@x.example", &["ann"], &["ann@x.example"], "[secret][cell]");
        check("no secrets, no cells", &[], &["ann@x.example"], "no secrets, no cells");
        check("a trimmed  cell", &[], &["  trimmed "], "a [cell]  cell");
    }

    #[test]
    fn secrets_are_hidden_in_quotes_and_line_by_line() {
        let secret = "first \"line\"\nsecond line\nx";
        check(
            "invalid value: string \"first \\\"line\\\"\\nsecond line\\nx\"",
            &[secret],
            &[],
            "invalid value: string \"[secret]\"",
        );
        check("second line", &[secret], &[], "[secret]");
    }

    #[test]
    fn no_part_of_a_secret_is_left_at_the_end() {
        let secret = "0123456789abcdef";
        let words = format!("{}{secret}{secret}", "-".repeat(992));
        check(&words, &[secret], &[], &format!("{}[secret]", "-".repeat(992)));
        let long = "y".repeat(1000);
        check(&format!("a {long}"), &[&long], &[], "a [secret]");
        check(&format!("a {} b", "z".repeat(70)), &[], &[&"z".repeat(500)], "a [cell]");
        check(&"-".repeat(1001), &[secret], &[], &format!("{}…", "-".repeat(1000)));
    }
}
