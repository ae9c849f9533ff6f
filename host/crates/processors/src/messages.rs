use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::bindings::{Batch, log};
use crate::redact::{Secrets, said};

/// Bytes of all messages of a plugin while it works on one file.
const MAX_BYTES: usize = 256 << 10;
/// Bytes of a line of standard output or error; a longer line becomes several messages.
const MAX_LINE: usize = 4000;

/// The messages of a plugin while it works on one file: those of the log, and the lines of its standard output and error.
#[derive(Clone)]
pub(crate) struct Messages(Arc<Mutex<Inner>>);

struct Inner {
    plugin: String,
    /// The goal; empty outside of a goal.
    goal: String,
    /// What no message may show.
    secrets: Secrets,
    /// The number of the batch that it works on, from 1; 0 before the first.
    batch: u64,
    /// That batch, whose cells no message may show.
    cells: Option<Arc<Batch>>,
    max_lines: u32,
    lines: u32,
    bytes: usize,
    is_silenced: bool,
}

impl Messages {
    pub(crate) fn new(plugin: &str, goal: &str, secrets: Secrets, max_lines: u32) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            plugin: plugin.to_owned(),
            goal: goal.to_owned(),
            secrets,
            batch: 0,
            cells: None,
            max_lines,
            lines: 0,
            bytes: 0,
            is_silenced: false,
        })))
    }

    /// Ends a batch and begins the next: later messages carry its number.
    pub(crate) fn next_batch(&self) {
        let mut inner = self.inner();
        inner.batch += 1;
        inner.cells = None;
    }

    /// The batch that has begun.
    pub(crate) fn hide(&self, cells: Arc<Batch>) {
        self.inner().cells = Some(cells);
    }

    /// Words of the plugin without what they may not show.
    pub(crate) fn safe(&self, words: &str) -> String {
        let inner = self.inner();
        said(words, &inner.secrets, inner.cells.as_deref())
    }

    /// What no word of the plugin may tell.
    pub(crate) fn secrets(&self) -> Secrets {
        self.inner().secrets.clone()
    }

    /// Logs a message, or drops it beyond the limits.
    pub(crate) fn write(&self, level: log::Level, message: &str) {
        let mut inner = self.inner();
        inner.lines = inner.lines.saturating_add(1);
        inner.bytes = inner.bytes.saturating_add(message.len());
        let is_beyond = inner.lines > inner.max_lines || inner.bytes > MAX_BYTES;
        let was_silenced = std::mem::replace(&mut inner.is_silenced, is_beyond);
        let Inner { plugin, goal, secrets, batch, cells, .. } = &*inner;
        if is_beyond {
            if !was_silenced {
                tracing::warn!(goal, plugin, batch, "further messages of the plugin are not shown");
            }
            return;
        }
        // What no one reads needs no search.
        let is_read = match level {
            log::Level::Trace => tracing::enabled!(tracing::Level::TRACE),
            log::Level::Debug => tracing::enabled!(tracing::Level::DEBUG),
            log::Level::Info => tracing::enabled!(tracing::Level::INFO),
            log::Level::Warn => tracing::enabled!(tracing::Level::WARN),
            log::Level::Error => tracing::enabled!(tracing::Level::ERROR),
        };
        if !is_read {
            return;
        }
        let message = said(message, secrets, cells.as_deref());
        match level {
            log::Level::Trace => tracing::trace!(goal, plugin, batch, "{message}"),
            log::Level::Debug => tracing::debug!(goal, plugin, batch, "{message}"),
            log::Level::Info => tracing::info!(goal, plugin, batch, "{message}"),
            log::Level::Warn => tracing::warn!(goal, plugin, batch, "{message}"),
            log::Level::Error => tracing::error!(goal, plugin, batch, "{message}"),
        }
    }

    /// A stream of WASI whose lines become messages.
    pub(crate) fn stream(&self, level: log::Level) -> Lines {
        Lines(Arc::new(Mutex::new(Line { messages: self.clone(), level, text: Vec::new() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Standard output or error of a plugin. All streams that it opens share the line.
#[derive(Clone)]
pub(crate) struct Lines(Arc<Mutex<Line>>);

/// The line that is not complete yet. It is logged when the plugin ends.
struct Line {
    messages: Messages,
    level: log::Level,
    text: Vec<u8>,
}

impl Line {
    fn append(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(MAX_LINE) {
                if self.text.len() + part.len() > MAX_LINE {
                    self.end();
                }
                self.text.extend_from_slice(part);
            }
            if self.text.ends_with(b"\n") {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        let text = std::mem::take(&mut self.text);
        let text = String::from_utf8_lossy(&text);
        let line = text.trim_end();
        if !line.is_empty() {
            self.messages.write(self.level, line);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end();
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Lines {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    /// Only WASI 0.3 asks for it, which no plugin may import.
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::empty())
    }
}
