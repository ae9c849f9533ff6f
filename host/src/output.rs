//! What the commands print: results on stdout, errors on stderr.

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt;
use std::io::{self, Write};

use console::StyledObject;

use crate::error::Error;

/// A text in one line that no terminal obeys: control characters, line breaks and marks that turn the direction of text are
/// escaped as JSON escapes them, so that a line of JSON means the same as before. Names of files and cells are what partners wrote.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            obeyed if is_obeyed(obeyed) => shown.push_str(&format!("\\u{:04x}", u32::from(obeyed))),
            other => shown.push(other),
        }
    }
    Cow::Owned(shown)
}

/// Whether a terminal, or a program that lays out text, does something else with a character than to show it.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Writes an error and its hint to stderr; with `--verbose` the causes that its message leaves out, too.
pub(crate) fn print_error(error: &Error) {
    let mut stderr = io::stderr().lock();
    // There is nowhere left to report that stderr is gone.
    // Several problems of the configuration are several lines.
    let message = error.to_string();
    let is_list = matches!(error, Error::Config(_));
    let lines = if is_list { message.lines().map(plain).collect() } else { vec![plain(&message)] };
    let _ = writeln!(stderr, "error: {}", lines.join("\n"));
    if tracing::enabled!(tracing::Level::INFO) {
        for cause in causes(error) {
            let _ = writeln!(stderr, "caused by: {}", plain(&cause));
        }
    }
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "hint: {}", plain(&hint));
    }
}

/// The causes of an error, each only where it says more than the text before it.
fn causes(error: &Error) -> Vec<String> {
    let (mut last, mut causes) = (error.to_string(), Vec::new());
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !last.contains(&text) {
            causes.push(text.clone());
            last = text;
        }
        next = cause.source();
    }
    causes
}

/// Writes a line of results to stdout, text or JSON, as [`plain`] has it. Ends the process quietly where the reader has closed the
/// pipe.
pub(crate) fn print(line: impl fmt::Display) -> Result<(), Error> {
    write_line(&plain(&line.to_string()))
}

/// Writes lines of results to stdout. No line has line breaks of a partner's in it.
pub(crate) fn print_lines(lines: impl fmt::Display) -> Result<(), Error> {
    lines.to_string().lines().try_for_each(print)
}

/// Writes a line of results after a mark, which has a colour on a terminal.
pub(crate) fn print_marked(mark: &StyledObject<&str>, line: &str) -> Result<(), Error> {
    write_line(&format!("{mark}: {}", plain(line)))
}

fn write_line(line: &str) -> Result<(), Error> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|error| Error::io("stdout".as_ref(), error)),
    }
}

/// Writes a remark for people to stderr.
pub(crate) fn note(line: impl fmt::Display) {
    // There is nowhere left to report that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{}", plain(&line.to_string()));
}

/// `1 row`, `2 rows`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_say_what_the_message_leaves_out() {
        let inner = io::Error::other("the disk is full");
        let outer = Error::failed("no key", io::Error::other(inner));
        assert_eq!(outer.to_string(), "no key: the disk is full");
        assert!(causes(&outer).is_empty(), "the message says it already");
        #[derive(Debug, thiserror::Error)]
        #[error("the report cannot be written")]
        struct Unwritten(#[source] io::Error);
        let hidden = Error::failed("no report", Unwritten(io::Error::other("the disk is full")));
        assert_eq!(causes(&hidden), ["the disk is full"]);
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped_as_in_json() {
        let check = |text: &str, expected: &str| {
            assert_eq!(plain(text), expected);
            let json = serde_json::json!({ "name": text });
            let read: serde_json::Value = serde_json::from_str(&plain(&json.to_string())).unwrap();
            assert_eq!(read, json, "JSON means the same");
        };
        check("Ann, né 日本 → \\n", "Ann, né 日本 → \\n");
        check("\u{1b}[31mred", "\\u001b[31mred");
        check("a\nb\r\tc\0", "a\\nb\\r\\tc\\u0000");
        check("\u{7f}\u{9b}31m\u{85}", "\\u007f\\u009b31m\\u0085");
        check(
            "\u{2028}\u{2029}\u{202e}gpj\u{2066}\u{200f}\u{61c}",
            "\\u2028\\u2029\\u202egpj\\u2066\\u200f\\u061c",
        );
    }

    #[test]
    fn one_is_singular() {
        assert_eq!([counted(0, "row"), counted(1, "row"), counted(2, "row")], ["0 rows", "1 row", "2 rows"]);
    }
}
