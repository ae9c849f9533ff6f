//! Compiles components in a process of its own.
//!
//! The compiler's memory and time depend on a stranger's bytes, and nothing inside a process can take memory back from a library or
//! stop its threads. The system can do both to a process.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::num::NonZero;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use wasmtime::Engine;

use crate::Fault;
use crate::debug::without_large_debug;
use crate::runtime::{MAX_COMPONENT, chain, engine};

/// What compiling a plugin may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Bytes.
    pub memory: u64,
    /// Time of processors. By the clock on the wall it may take three times as long, because other work may need them.
    pub time: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { memory: 1 << 30, time: Duration::from_secs(60) }
    }
}

/// Where plugins are compiled.
#[derive(Clone, Copy, Debug)]
pub enum Compiler {
    /// In this process, without limits: for tests and measurements without the program.
    Here,
    /// In a process of the program, under limits.
    Process {
        /// The program and its arguments. The bytes and milliseconds of the limits and the number of this
        /// process follow them. It calls [`compile_for_parent`].
        command: &'static [&'static str],
        /// What it may take.
        limits: CompileLimits,
    },
}

/// How many times longer than the time of processors it may take.
const SLOWER: u32 = 3;
/// Bytes of a compiled plugin.
const MAX_COMPILED: u64 = 512 << 20;
/// Threads of the compiler: each takes memory of its own.
const MAX_THREADS: usize = 8;
/// How often a wait looks whether the compiler has ended.
const PAUSE: Duration = Duration::from_millis(2);
/// Bytes of the compiler's words that are read.
const MAX_WORDS: u64 = 16 << 10;
/// How long it is remembered that compiling a plugin took too much.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What the compiler's process answers with besides 0.
const REFUSED: u8 = 2;
const OUT_OF_MEMORY: u8 = 3;

impl Compiler {
    /// Compiles the component with this digest into a file that is not in any folder.
    pub(crate) fn compile(&self, engine: &Engine, bytes: &[u8], digest: &[u8; 32]) -> Result<File, Fault> {
        let (command, limits) = match self {
            Self::Here => {
                let compiled = compile(engine, bytes).map_err(|error| Fault::NotAComponent(chain(&error)))?;
                return unnamed(&compiled).map_err(|error| failed(&error));
            }
            Self::Process { command, limits } => (command, *limits),
        };
        let _turn = TURNS.take(|| STOPPING.load(Ordering::Relaxed)).ok_or(Fault::Stopped)?;
        if let Some(fault) = known_fault(digest, limits) {
            return Err(fault);
        }
        let compiled = in_process(command, limits, bytes);
        if let Err(fault @ (Fault::CompileTime(_) | Fault::CompileMemory { .. })) = &compiled {
            let mut known = TOO_LARGE.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, reached| reached.at.elapsed() < REMEMBERED);
            known.insert(*digest, Reached { at: Instant::now(), limits, fault: fault.clone() });
        }
        compiled
    }
}

fn compile(engine: &Engine, bytes: &[u8]) -> wasmtime::Result<Vec<u8>> {
    let stripped = without_large_debug(bytes);
    engine.precompile_component(stripped.as_deref().unwrap_or(bytes))
}

fn in_process(command: &[&str], limits: CompileLimits, bytes: &[u8]) -> Result<File, Fault> {
    let mut started = Running::start(command, limits, bytes).map_err(|error| failed(&error))?;
    let status = started.wait(limits)?;
    let (mut compiled, mut words) = (&started.compiled, &started.words);
    let mut said = Vec::new();
    let read = words.rewind().and_then(|()| words.take(MAX_WORDS).read_to_end(&mut said));
    read.and_then(|_| compiled.rewind()).map_err(|error| failed(&error))?;
    if status.success() {
        return compiled.try_clone().map_err(|error| failed(&error));
    }
    Err(fault(status, String::from_utf8_lossy(&said).trim(), limits))
}

/// Why the compiler's process failed.
fn fault(status: ExitStatus, said: &str, limits: CompileLimits) -> Fault {
    let memory = Fault::CompileMemory { limit: limits.memory };
    // What Rust says before it aborts; where a thread cannot be started, it says the others.
    const MEMORY: [&str; 3] =
        ["memory allocation of", "Resource temporarily unavailable", "Cannot allocate memory"];
    let signal = status.signal().and_then(Signal::from_named_raw);
    match status.code() {
        Some(code) if code == i32::from(REFUSED) => Fault::NotAComponent(said.to_owned()),
        Some(code) if code == i32::from(OUT_OF_MEMORY) => memory,
        _ if signal == Some(Signal::XCPU) => Fault::CompileTime(limits.time),
        _ if signal == Some(Signal::XFSZ) || MEMORY.iter().any(|words| said.contains(words)) => memory,
        _ if signal == Some(Signal::KILL) => Fault::CompileKilled,
        _ => Fault::NotAComponent("the compiler failed on it".to_owned()),
    }
}

fn failed(error: &io::Error) -> Fault {
    Fault::Host(format!("the compiler cannot be started: {error}"))
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS)
}

/// A file with these bytes that is not in any folder, to be read from its start.
fn unnamed(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("sluicebox-plugin", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// A compiler's process, with what it writes. It ends with this value.
struct Running {
    process: Child,
    compiled: File,
    words: File,
}

impl Running {
    fn start(command: &[&str], limits: CompileLimits, bytes: &[u8]) -> io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(io::ErrorKind::NotFound)?;
        // Files, not pipes: nothing here waits for the other process to read or write.
        let (compiled, words) = (unnamed(&[])?, unnamed(&[])?);
        let process = Command::new(program)
            .args(arguments)
            .args([limits.memory.to_string(), limits.time.as_millis().to_string()])
            .arg(std::process::id().to_string())
            .env_clear()
            .env("RAYON_NUM_THREADS", threads().to_string())
            // The allocator's own reserve would count as memory that is used.
            .env("MIMALLOC_ARENA_RESERVE", "32MiB")
            .current_dir("/")
            // Ctrl-C stops this program, which stops the compiler.
            .process_group(0)
            .stdin(unnamed(bytes)?)
            .stdout(compiled.try_clone()?)
            .stderr(words.try_clone()?)
            .spawn()?;
        Ok(Self { process, compiled, words })
    }

    fn wait(&mut self, limits: CompileLimits) -> Result<ExitStatus, Fault> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().map_err(|error| failed(&error))? {
                return Ok(status);
            }
            if begun.elapsed() >= limits.time.saturating_mul(SLOWER) {
                return Err(Fault::CompileTime(limits.time));
            }
            if STOPPING.load(Ordering::Relaxed) {
                return Err(Fault::Stopped);
            }
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Set once, when the program stops.
static STOPPING: AtomicBool = AtomicBool::new(false);
static TURNS: Turns = Turns { is_taken: Mutex::new(false), changed: Condvar::new() };

/// Ends all compilers of this process: the program stops. Plugins that are being compiled fail.
pub fn stop_compiling() {
    STOPPING.store(true, Ordering::Relaxed);
}

/// The components that reached a limit, by their digests: each further attempt would take as long.
static TOO_LARGE: LazyLock<Mutex<HashMap<[u8; 32], Reached>>> = LazyLock::new(Mutex::default);

struct Reached {
    at: Instant,
    limits: CompileLimits,
    fault: Fault,
}

fn known_fault(digest: &[u8; 32], limits: CompileLimits) -> Option<Fault> {
    let known = TOO_LARGE.lock().unwrap_or_else(PoisonError::into_inner);
    let reached = known.get(digest)?;
    (reached.limits == limits && reached.at.elapsed() < REMEMBERED).then(|| reached.fault.clone())
}

/// Lets one thread in at a time: a compiler uses all cores.
struct Turns {
    is_taken: Mutex<bool>,
    changed: Condvar,
}

struct Turn<'t>(&'t Turns);

impl Turns {
    /// Waits for a turn; `None` if `stops` first.
    fn take(&self, stops: impl Fn() -> bool) -> Option<Turn<'_>> {
        const LOOK: Duration = Duration::from_millis(100);
        let mut is_taken = self.is_taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *is_taken {
            is_taken = self.changed.wait_timeout(is_taken, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            if stops() {
                return None;
            }
        }
        *is_taken = true;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.is_taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.changed.notify_one();
    }
}

/// The work of a compiler's process: reads a component from standard input and writes what it compiles to standard output, within
/// limits that the system keeps, and no longer than its parent lives. Answers with the exit code; why it is not 0 stands on standard
/// error.
pub fn compile_for_parent(limits: CompileLimits, parent: u32) -> u8 {
    match try_compile(limits, parent) {
        Ok(()) => 0,
        Err(CompileError::Io(error)) if error.kind() != io::ErrorKind::OutOfMemory => {
            say(&format!("{error}"));
            1
        }
        Err(CompileError::Io(_)) => OUT_OF_MEMORY,
        Err(CompileError::Refused(error)) => {
            let words = chain(&error);
            if words.contains("annot allocate memory") || words.contains("out of memory") {
                return OUT_OF_MEMORY;
            }
            say(&words);
            REFUSED
        }
    }
}

fn say(words: &str) {
    // The parent is gone, then.
    let _ = writeln!(io::stderr(), "{words}");
}

enum CompileError {
    Io(io::Error),
    Refused(wasmtime::Error),
}

impl From<io::Error> for CompileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Errno> for CompileError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

fn try_compile(limits: CompileLimits, parent: u32) -> Result<(), CompileError> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before.
    if std::os::unix::process::parent_id() != parent {
        return Err(io::Error::other("the program that wanted it has ended").into());
    }
    // What the program maps by itself does not count.
    let status = std::fs::read_to_string("/proc/self/status")?;
    let own = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB"));
    let own = own.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024);
    let seconds = u64::try_from(limits.time.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
    for (resource, current, maximum) in [
        (Resource::As, own.saturating_add(limits.memory), own.saturating_add(limits.memory)),
        // The first ends it by a signal of its own, which tells the parent why.
        (Resource::Cpu, seconds, seconds.saturating_add(1)),
        (Resource::Fsize, MAX_COMPILED, MAX_COMPILED),
        (Resource::Core, 0, 0),
    ] {
        setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })?;
    }
    // Where memory is short, the system ends this process first. It may refuse to know.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let mut bytes = Vec::new();
    io::stdin().take(MAX_COMPONENT as u64 + 1).read_to_end(&mut bytes)?;
    let compiled = engine().and_then(|engine| compile(&engine, &bytes)).map_err(CompileError::Refused)?;
    io::stdout().write_all(&compiled)?;
    Ok(io::stdout().flush()?)
}
