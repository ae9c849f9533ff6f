use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sluicebox_files::Expansion;
use sluicebox_processors::Limits;

use super::reader::Section;
use super::service::{self, Server, Smtp};
use super::value::{duration, size};

/// What `sluicebox.toml` says.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The folder of the store.
    pub store: PathBuf,
    /// The folder of the plugins.
    pub plugins: PathBuf,
    /// What a processor may use unless its entry says otherwise.
    pub limits: Limits,
    /// How far compressed files may expand.
    pub expansion: Expansion,
    /// How imports work.
    pub tuning: Tuning,
    /// How long it is kept what runs overwrite, so that they can be undone; absent = not at all.
    pub undo: Option<Duration>,
    /// How the service is reached.
    pub server: Server,
    /// How it sends mail, if it does.
    pub smtp: Option<Smtp>,
}

/// How imports work. Nothing of it changes a result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// 1 = reading, processing and merging take turns; more = they run at the same time.
    pub threads: usize,
    /// Rows that a processor sees at a time.
    pub batch_rows: usize,
    /// Rows that are merged and committed at a time.
    pub commit_rows: usize,
    /// Bytes for rows on their way and the records that they find.
    pub rows_bytes: usize,
    /// Linked rows of a batch may take so many bytes.
    pub joined_bytes: usize,
    /// Rows of linked files may take so many bytes before they go to the disk.
    pub linked_bytes: usize,
}

/// What all of a run may take unless `memory` says otherwise.
const MEMORY: u64 = 512 << 20;
/// Less is not enough for the store's buffers, plugins and files.
const LEAST_MEMORY: u64 = 384 << 20;

impl Tuning {
    /// Shares memory out. About 150 MiB are the program's, the processors', and the store's buffers and caches; the rest is
    /// for rows on their way, as measured: host/PERFORMANCE.md.
    fn share(&mut self, memory: u64) {
        self.rows_bytes = usize::try_from(memory.saturating_sub(150 << 20)).unwrap_or(usize::MAX);
        self.joined_bytes = self.rows_bytes / 4;
        self.linked_bytes = self.rows_bytes / 3 * 2;
    }
}

pub(crate) fn read(root: &Path, file: Section<'_>) -> Settings {
    let mut settings = Settings {
        store: root.join("data/profiles"),
        plugins: root.join("plugins"),
        limits: Limits::default(),
        expansion: Expansion::default(),
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
    settings.tuning.share(memory(&file));
    if let Some(store) = file.section("store") {
        store.choice("kind", &[("rocksdb", ())], ());
        if let Some(path) = store.text("path") {
            settings.store = root.join(path);
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
        if let Some(times) = limits.get("expansion").and_then(|entry| entry.whole()) {
            settings.expansion.times = times.max(1);
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

/// Limits of processors, those that are not named as in `base`.
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
    let memory = size(file, "memory", MEMORY);
    if memory < LEAST_MEMORY
        && let Some(entry) = file.get("memory")
    {
        entry.problem("`memory`: expected at least \"384MiB\"");
    }
    memory
}

fn count(section: &Section<'_>, key: &'static str, default: usize, most: usize) -> usize {
    let Some(entry) = section.get(key) else { return default };
    match entry.whole().and_then(|count| usize::try_from(count).ok()) {
        Some(count) if (1..=most).contains(&count) => count,
        Some(_) => {
            entry.problem(format!("`{key}`: expected 1 to {most}"));
            default
        }
        None => default,
    }
}
