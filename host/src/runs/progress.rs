//! The progress of a goal: a bar on a terminal, or numbers that the service shows.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::watch::Sender;
use utoipa::ToSchema;

use crate::output::plain;

fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// Where the progress of a goal is shown.
#[derive(Clone, Copy)]
pub(crate) enum Watch<'a> {
    /// On the terminal, if stderr is one.
    Terminal,
    /// By the service, as that of a run.
    Service(&'a Sender<LiveRuns>, &'a str),
    /// Nowhere.
    Nowhere,
}

/// The progress of a goal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Live {
    /// The file that is read or written.
    pub file: String,
    /// Bytes of the file that are read; of an export, profiles that are read.
    pub done: u64,
    /// All bytes of the file; of an export, about all profiles.
    pub of: u64,
    /// Rows of the file that are read or written.
    pub rows: u64,
}

/// The progress of runs, by their ids.
pub(crate) type LiveRuns = BTreeMap<String, Live>;

/// The progress of a file.
pub(crate) enum Progress<'a> {
    /// The bar, and the rows so far.
    Bar(ProgressBar, u64),
    Service(&'a Sender<LiveRuns>, &'a str),
    Nowhere,
}

impl<'a> Progress<'a> {
    /// Begins with a file of `bytes` bytes.
    pub(crate) fn of_file(watch: Watch<'a>, name: &str, bytes: u64) -> Self {
        match watch {
            Watch::Service(live, run) => {
                let begun = Live { file: name.to_owned(), of: bytes, ..Live::default() };
                live.send_modify(|live| drop(live.insert(run.to_owned(), begun)));
                Self::Service(live, run)
            }
            Watch::Terminal if io::stderr().is_terminal() => {
                let bar = bars().add(ProgressBar::new(bytes));
                let template = "{prefix} {wide_bar} {percent}% {msg}, {eta} left";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.set_prefix(plain(name).into_owned());
                Self::Bar(bar, 0)
            }
            Watch::Terminal | Watch::Nowhere => Self::Nowhere,
        }
    }

    /// `bytes` bytes of the file are read now, and `more` more rows.
    pub(crate) fn advance(&mut self, bytes: u64, more: u64) {
        match self {
            Self::Bar(bar, rows) => {
                *rows += more;
                bar.set_position(bytes);
                let seconds = bar.elapsed().as_secs().max(1);
                bar.set_message(format!("{rows} rows, {} rows/s", *rows / seconds));
            }
            Self::Service(live, run) => live.send_modify(|live| {
                if let Some(live) = live.get_mut(*run) {
                    live.done = bytes;
                    live.rows += more;
                }
            }),
            Self::Nowhere => {}
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Self::Bar(bar, _) = self {
            bar.finish_and_clear();
            bars().remove(bar);
        }
    }
}

/// Writes the log to stderr, above the progress bars.
pub(crate) struct LogWriter;

/// Writes the log as JSON to stderr.
pub(crate) struct JsonLogWriter;

impl Write for JsonLogWriter {
    /// `bytes` is a line.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        let line = plain(line.trim_end_matches('\n'));
        LogWriter.write_all(format!("{line}\n").as_bytes()).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        LogWriter.flush()
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bars().suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
