//! How far a goal is: a bar on a terminal, or what the service shows.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::watch::Sender;
use utoipa::ToSchema;

fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// Who is shown how far a goal is.
#[derive(Clone, Copy)]
pub(crate) enum Watch<'a> {
    /// Whoever sits at a terminal.
    Terminal,
    /// Whoever looks at the service.
    Service(&'a Sender<Live>),
    /// Nobody.
    Nobody,
}

/// How far a goal is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Live {
    /// The file that is worked on.
    pub file: String,
    /// Bytes of it that are read; of an export, profiles that were looked at.
    pub done: u64,
    /// Of so many.
    pub of: u64,
    /// Rows of it that are read.
    pub rows: u64,
}

/// How far the work on a file is.
pub(crate) enum Progress<'a> {
    Bar(ProgressBar, u64),
    Service(&'a Sender<Live>),
    Nobody,
}

impl<'a> Progress<'a> {
    /// Begins with a file of so many bytes. Nothing is shown where stderr is no terminal.
    pub(crate) fn of_file(watch: Watch<'a>, name: &str, bytes: u64) -> Self {
        match watch {
            Watch::Service(live) => {
                live.send_replace(Live { file: name.to_owned(), of: bytes, ..Live::default() });
                Self::Service(live)
            }
            Watch::Terminal if io::stderr().is_terminal() => {
                let bar = bars().add(ProgressBar::new(bytes));
                let template = "{prefix} {wide_bar} {percent}% {msg}, {eta} left";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.set_prefix(name.to_owned());
                Self::Bar(bar, 0)
            }
            Watch::Terminal | Watch::Nobody => Self::Nobody,
        }
    }

    /// So many bytes of the file are read, and so many rows more.
    pub(crate) fn advance(&mut self, bytes: u64, more: u64) {
        match self {
            Self::Bar(bar, rows) => {
                *rows += more;
                bar.set_position(bytes);
                let seconds = bar.elapsed().as_secs().max(1);
                bar.set_message(format!("{rows} rows, {} rows/s", *rows / seconds));
            }
            Self::Service(live) => live.send_modify(|live| {
                live.done = bytes;
                live.rows += more;
            }),
            Self::Nobody => {}
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

/// Where the log goes: stderr, around the progress bar.
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bars().suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
