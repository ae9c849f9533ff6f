//! The progress bar of an import, on a terminal.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(MultiProgress::new)
}

/// How far the import of a file is. Nothing is shown where stderr is no terminal.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    rows: u64,
}

impl Progress {
    /// Begins with a file of so many bytes.
    pub(crate) fn of_file(name: &str, bytes: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bar: None, rows: 0 };
        }
        let bar = bars().add(ProgressBar::new(bytes));
        let template = "{prefix} {wide_bar} {percent}% {msg}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(name.to_owned());
        Self { bar: Some(bar), rows: 0 }
    }

    /// So many bytes of the file are read, and so many rows more.
    pub(crate) fn advance(&mut self, bytes: u64, rows: u64) {
        self.rows += rows;
        let Some(bar) = &self.bar else { return };
        bar.set_position(bytes);
        let seconds = bar.elapsed().as_secs().max(1);
        bar.set_message(format!("{} rows, {} rows/s", self.rows, self.rows / seconds));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
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
