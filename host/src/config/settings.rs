use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sluicebox_files::ExpansionLimit;
use sluicebox_processors::{CompileLimits, Limits};
use sluicebox_store::StoreLocation;

use super::goal::ProcessorEntry;
use super::reader::Section;
use super::service::{self, Server, Smtp};
use super::value::{count, duration, size};
use crate::plugins::{is_bundled, memory_of};

/// What `sluicebox.toml` says.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where the store is.
    pub store: StoreLocation,
    /// The folder of rejected rows, compiled plugins and the like.
    pub data: PathBuf,
    /// The folder of the plugins.
    pub plugins: PathBuf,
    /// The limits of a processor that sets none of its own.
    pub limits: Limits,
    /// What compiling a plugin may take.
    pub compile: CompileLimits,
    /// How far compressed files may expand.
    pub expansion: ExpansionLimit,
    /// How imports work.
    pub tuning: Tuning,
    /// How many other profiles may be merged into one in a run.
    pub merge_limit: u32,
    /// How long overwritten values are retained for `undo`; `None` = not at all.
    pub undo: Option<Duration>,
    /// Where the service listens.
    pub server: Server,
    /// How the service sends mail, if it does.
    pub smtp: Option<Smtp>,
}

/// How imports use the machine. No setting changes a result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// With 1, reading, processing and merging take turns; with more they run at the same time.
    pub threads: usize,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// The most rows of a chunk.
    pub commit_rows: usize,
    /// Bytes for the rows in the pipeline and the records that they find.
    pub rows_bytes: usize,
    /// The most bytes of linked rows for one batch.
    pub joined_bytes: usize,
    /// The most bytes of linked rows in memory; more are written to the disk.
    pub linked_bytes: usize,
}

/// The memory of a run unless `memory` sets it, in bytes.
const DEFAULT_MEMORY: u64 = 512 << 20;
/// The least that the store's buffers, plugins and files need, in bytes.
const MIN_MEMORY: u64 = 384 << 20;

/// The least that rows get, in bytes, whatever processors may take.
pub(super) const MIN_ROWS: usize = 64 << 20;

impl Tuning {
    /// The division beside processors that may take `processors` bytes.
    pub(crate) fn beside(self, processors: usize) -> Self {
        let rows_bytes = self.rows_bytes.saturating_sub(processors).max(MIN_ROWS.min(self.rows_bytes));
        let mut tuning = Self { rows_bytes, ..self };
        tuning.divide_rows();
        tuning
    }

    /// Divides the memory. The program, bundled processors and the store's buffers and caches take about 150 MiB; the rest is for
    /// other processors and rows in the pipeline. See host/PERFORMANCE.md for the measurements.
    fn divide(&mut self, memory: u64) {
        self.rows_bytes = usize::try_from(memory.saturating_sub(150 << 20)).unwrap_or(usize::MAX);
        self.divide_rows();
    }

    fn divide_rows(&mut self) {
        self.joined_bytes = self.rows_bytes / 4;
        self.linked_bytes = self.rows_bytes / 3 * 2;
    }

    /// Leaves a run its share of what runs at the same time may take together.
    pub(crate) fn share(&mut self, runs: usize) {
        self.rows_bytes /= runs.max(1);
        self.divide_rows();
    }
}

/// Says that the processors of a goal may take more than `memory` has for them, if they may.
pub(super) fn warning_of_memory(settings: &Settings, processors: &[ProcessorEntry]) -> Option<String> {
    let strangers = processors.iter().filter(|entry| !is_bundled(&entry.plugin));
    let taken = memory_of(strangers.map(|entry| (entry.file, entry.limits.memory)));
    let rows = settings.tuning.rows_bytes;
    let lacking = taken.saturating_add(MIN_ROWS.min(rows)).saturating_sub(rows);
    let mebibytes = |bytes: usize| bytes.div_ceil(1 << 20);
    (taken > 0 && lacking > 0).then(|| {
        format!(
            "with their answers, its processors may take {} MiB, {} MiB more than `memory` has for them; raise `memory` in sluicebox.toml \
             by that, or lower their `memory` in `limits`",
            mebibytes(taken),
            mebibytes(lacking)
        )
    })
}

pub(crate) fn read(root: &Path, file: Section<'_>) -> Settings {
    let mut settings = Settings {
        store: StoreLocation::Folder(root.join("data/profiles")),
        data: root.join("data"),
        plugins: root.join("plugins"),
        limits: Limits::default(),
        compile: CompileLimits::default(),
        expansion: ExpansionLimit::default(),
        merge_limit: 20,
        undo: None,
        server: Server::default(),
        smtp: None,
        tuning: Tuning {
            threads: thread::available_parallelism().map_or(1, NonZero::get),
            batch_rows: 1024,
            commit_rows: 1 << 20,
            rows_bytes: 0,
            joined_bytes: 0,
            linked_bytes: 0,
        },
    };
    settings.tuning.divide(memory(&file));
    if let Some(store) = file.section("store") {
        store.choice("kind", &[("rocksdb", ())], ());
        if let Some(path) = store.text("path") {
            let path = root.join(path);
            // What belongs to a store is beside it.
            settings.data = path.parent().unwrap_or(root).to_owned();
            settings.store = StoreLocation::Folder(path);
        }
        store.finish();
    }
    if let Some(plugins) = file.section("plugins") {
        if let Some(path) = plugins.text("path") {
            settings.plugins = root.join(path);
        }
        plugins.finish();
    }
    if let Some(limits) = file.section("limits") {
        settings.limits = read_limits(&limits, settings.limits);
        let CompileLimits { memory, time } = settings.compile;
        settings.compile = CompileLimits {
            memory: size(&limits, "compile_memory", memory),
            time: duration(&limits, "compile_time", time),
        };
        if let Some(ratio) = limits.get("expansion").and_then(|entry| entry.whole()) {
            settings.expansion.max_ratio = ratio.max(1);
        }
        limits.finish();
    }
    if let Some(import) = file.section("import") {
        let tuning = &mut settings.tuning;
        tuning.threads = count(&import, "threads", tuning.threads, 1024);
        tuning.batch_rows = count(&import, "batch_rows", tuning.batch_rows, 65_536);
        tuning.commit_rows = count(&import, "commit_rows", tuning.commit_rows, 10_000_000);
        import.finish();
    }
    if let Some(profiles) = file.section("profiles") {
        let limit = profiles.get("merge_limit").and_then(|entry| entry.whole());
        settings.merge_limit =
            limit.map_or(settings.merge_limit, |limit| u32::try_from(limit).unwrap_or(u32::MAX));
        profiles.finish();
    }
    if let Some(undo) = file.section("undo") {
        settings.undo = undo.has("keep").then(|| duration(&undo, "keep", Duration::ZERO));
        undo.finish();
    }
    settings.smtp = file.section("smtp").and_then(|section| service::smtp(root, &section));
    if let Some(server) = file.section("server") {
        settings.server = service::server(&server);
    }
    file.finish();
    settings
}

/// Limits of processors; `base` has those that the section does not set.
pub(crate) fn read_limits(section: &Section<'_>, base: Limits) -> Limits {
    let log_lines = match section.get("log_lines").and_then(|entry| entry.whole()) {
        Some(lines) => u32::try_from(lines).unwrap_or(u32::MAX),
        None => base.log_lines,
    };
    Limits {
        memory: usize::try_from(size(section, "memory", base.memory as u64)).unwrap_or(usize::MAX),
        batch_time: duration(section, "batch_time", base.batch_time),
        open_time: duration(section, "open_time", base.open_time),
        log_lines,
        grants: base.grants,
    }
}

fn memory(file: &Section<'_>) -> u64 {
    let memory = size(file, "memory", DEFAULT_MEMORY);
    if memory < MIN_MEMORY
        && let Some(entry) = file.get("memory")
    {
        entry.problem("`memory`: expected at least \"384MiB\"");
    }
    memory
}
