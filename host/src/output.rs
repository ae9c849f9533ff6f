//! What the commands print: results on stdout, errors on stderr.

use std::error::Error as _;
use std::fmt;
use std::io::{self, Write};

use crate::error::Error;

/// Writes an error and its hint to stderr; with `--verbose` the causes that its message leaves out, too.
pub(crate) fn print_error(error: &Error) {
    let mut stderr = io::stderr().lock();
    // There is nowhere left to report that stderr is gone.
    let _ = writeln!(stderr, "error: {error}");
    if tracing::enabled!(tracing::Level::INFO) {
        for cause in causes(error) {
            let _ = writeln!(stderr, "caused by: {cause}");
        }
    }
    if let Some(hint) = error.hint() {
        let _ = writeln!(stderr, "hint: {hint}");
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

/// Writes a line of results to stdout. Ends the process quietly where the reader has closed the pipe.
pub(crate) fn print(line: impl fmt::Display) -> Result<(), Error> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|error| Error::io("stdout".as_ref(), error)),
    }
}

/// Writes a remark for people to stderr.
pub(crate) fn note(line: impl fmt::Display) {
    // There is nowhere left to report that stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{line}");
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
    fn one_is_singular() {
        assert_eq!([counted(0, "row"), counted(1, "row"), counted(2, "row")], ["0 rows", "1 row", "2 rows"]);
    }
}
