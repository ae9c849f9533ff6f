use std::fmt::Write;
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine, WasmBacktrace, WasmBacktraceDetails};

use crate::bindings::{World, WorldPre};
use crate::cache::Cache;
use crate::error::shown;
use crate::limits::State;
use crate::session::{Call, Instance};
use crate::{Fault, Limits, PluginError, Session};

/// How often running calls are asked whether their time is up.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Python's and JavaScript's components, which carry their interpreter, are the largest.
const LARGEST_COMPONENT: usize = 64 << 20;
const COMPILE_TIME: Duration = Duration::from_secs(60);
const STACK: usize = 512 << 10;
/// How many of a plugin's functions a trap's message names.
const FRAMES: usize = 40;
const INTERFACE: &str = "sluicebox:processor/processor";
/// The contract's version that this host speaks, and with it every older one of the same major number.
const VERSION: &str = "1.0.0";

/// The engine that compiles and runs plugins. One a process.
pub struct Runtime {
    engine: Engine,
    linker: Linker<State>,
    cache: Option<Cache>,
}

/// A plugin, compiled and ready to work.
#[derive(Clone)]
pub struct Plugin {
    name: Arc<str>,
    digest: [u8; 32],
    limits: Limits,
    imports: Arc<[String]>,
    pre: WorldPre<State>,
}

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it does, in one line.
    pub summary: String,
    /// The JSON Schema of its configuration.
    pub config_schema: String,
}

impl Runtime {
    /// An engine. `cache` is the folder for compiled plugins; if it cannot be used they are compiled each time.
    ///
    /// # Errors
    /// If this machine cannot run WebAssembly.
    pub fn new(cache: Option<&Path>) -> Result<Self, Fault> {
        let host = |error: wasmtime::Error| Fault::Host(format!("WebAssembly is not available: {error}"));
        let engine = Engine::new(&config()).map_err(host)?;
        let mut linker = Linker::new(&engine);
        World::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut State| state).map_err(host)?;
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker).map_err(host)?;
        let ticks = engine.weak();
        let ticker = thread::Builder::new().name("plugin-clock".to_owned());
        let ticker = ticker.spawn(move || {
            while let Some(engine) = ticks.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(TICK);
            }
        });
        ticker.map_err(|error| Fault::Host(format!("no thread can be started: {error}")))?;
        let cache = cache.and_then(|folder| match Cache::open(folder) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "compiled plugins are not kept");
                None
            }
        });
        Ok(Self { engine, linker, cache })
    }

    /// Compiles a plugin and checks that it asks for nothing that it does not get. None of its code is run.
    ///
    /// # Errors
    /// [`Fault::NotAComponent`], [`Fault::World`], [`Fault::Imports`] and their like.
    pub fn load(&self, name: &str, bytes: &[u8], limits: Limits) -> Result<Plugin, PluginError> {
        let failed = |fault| PluginError { plugin: name.to_owned(), fault };
        let digest = blake3::hash(bytes).into();
        let component = self.component(bytes, &digest).map_err(failed)?;
        let imports = self.check_world(&component).map_err(failed)?;
        let pre = self.linker.instantiate_pre(&component).and_then(WorldPre::new);
        let pre = pre.map_err(|error| {
            failed(Fault::World { expected: format!("{INTERFACE}@{VERSION}"), found: chain(&error) })
        })?;
        Ok(Plugin { name: name.into(), digest, limits, imports: imports.into(), pre })
    }

    fn component(&self, bytes: &[u8], digest: &[u8; 32]) -> Result<Component, Fault> {
        if bytes.len() > LARGEST_COMPONENT {
            return Err(Fault::TooLarge { size: bytes.len(), limit: LARGEST_COMPONENT });
        }
        if bytes.starts_with(b"\0asm\x01\0\0\0") {
            return Err(Fault::CoreModule);
        }
        if !bytes.starts_with(b"\0asm") {
            return Err(Fault::NotAComponent("it does not begin as one".to_owned()));
        }
        if let Some(component) = self.cache.as_ref().and_then(|cache| cache.get(&self.engine, digest)) {
            return Ok(component);
        }
        let component = self.compile(bytes)?;
        if let Some(cache) = &self.cache {
            cache.put(&self.engine, digest, &component);
        }
        Ok(component)
    }

    /// The compiler cannot be stopped: it works on a thread of its own, which is left behind when it takes too long.
    fn compile(&self, bytes: &[u8]) -> Result<Component, Fault> {
        let (send, receive) = mpsc::sync_channel(1);
        let (engine, bytes) = (self.engine.clone(), bytes.to_owned());
        let compiler = thread::Builder::new().name("plugin-compiler".to_owned());
        let compile = move || {
            // Nobody listens any more once the time is up.
            let _ = send.send(Component::from_binary(&engine, &bytes));
        };
        compiler.spawn(compile).map_err(|error| Fault::Host(format!("no thread can be started: {error}")))?;
        match receive.recv_timeout(COMPILE_TIME) {
            Ok(component) => component.map_err(|error| Fault::NotAComponent(chain(&error))),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(Fault::CompileTime(COMPILE_TIME)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(Fault::NotAComponent("the compiler failed on it".to_owned()))
            }
        }
    }

    /// Answers with the names of what the component imports.
    fn check_world(&self, component: &Component) -> Result<Vec<String>, Fault> {
        let world = component.component_type();
        let exports: Vec<String> = world.exports(&self.engine).map(|(name, _)| shown(name)).collect();
        let version = exports.iter().find_map(|name| name.strip_prefix(INTERFACE)?.strip_prefix('@'));
        if version.is_some_and(|version| !runs(version)) {
            let found = version.unwrap_or_default().to_owned();
            return Err(Fault::Version { found, supported: VERSION });
        }
        if version.is_none() {
            let found = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
            return Err(Fault::World { expected: format!("{INTERFACE}@{VERSION}"), found });
        }
        let imports: Vec<String> = world.imports(&self.engine).map(|(name, _)| shown(name)).collect();
        let foreign: Vec<&str> =
            imports.iter().map(String::as_str).filter(|name| !is_offered(name)).collect();
        if foreign.is_empty() { Ok(imports) } else { Err(Fault::Imports(foreign.join(", "))) }
    }
}

impl Plugin {
    /// The name that the goal gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The BLAKE3 hash of the file.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// What it imports, by the names of the interfaces.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// Asks the plugin what it is.
    ///
    /// # Errors
    /// If it breaks off or reaches a limit.
    pub fn describe(&self) -> Result<Description, PluginError> {
        let failed = |fault| PluginError { plugin: self.name().to_owned(), fault };
        let mut instance = Instance::start(&self.pre, &self.name, "", self.limits).map_err(failed)?;
        let said =
            instance.call(Call::Describe, |guest, store| guest.call_describe(store)).map_err(failed)?;
        Ok(Description {
            name: shown(&said.name),
            version: shown(&said.version),
            summary: shown(&said.summary),
            config_schema: said.config_schema,
        })
    }

    /// Begins a file with the columns `header`, for a goal that its messages name. `config` is JSON.
    ///
    /// # Errors
    /// If the plugin refuses its configuration, breaks off, or reaches a limit.
    pub fn open(&self, goal: &str, config: &str, header: &[String]) -> Result<Session, PluginError> {
        let opened = Instance::start(&self.pre, &self.name, goal, self.limits)
            .and_then(|instance| Session::open(instance, self.limits, config, header));
        match opened {
            Ok(session) => Ok(session),
            Err(fault) => Err(PluginError { plugin: self.name().to_owned(), fault }),
        }
    }
}

/// Whether a processor may import this: the log, and of WASI 0.2 what every program expects, which is empty here.
fn is_offered(import: &str) -> bool {
    const WASI: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
    let wasi = import.strip_prefix("wasi:").and_then(|name| name.split_once('/'));
    match wasi {
        Some((package, interface)) => WASI.contains(&package) && interface.contains("@0.2."),
        None => import.starts_with("sluicebox:processor/"),
    }
}

/// Whether a plugin of this version of the contract runs here: the same major number, and no newer minor one.
fn runs(version: &str) -> bool {
    let numbers = |version: &str| {
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??))
    };
    match (numbers(version), numbers(VERSION)) {
        (Some((major, minor)), Some((own_major, own_minor))) => major == own_major && minor <= own_minor,
        _ => false,
    }
}

/// What a processor does not need is off: less code that could be wrong stands between it and the host.
fn config() -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.max_wasm_stack(STACK);
    config.wasm_component_model(true);
    config.wasm_relaxed_simd(false);
    config.wasm_memory64(false);
    config.wasm_multi_memory(false);
    config.wasm_tail_call(false);
    config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config.wasm_backtrace_max_frames(NonZero::new(FRAMES));
    config
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error.chain().map(|cause| cause.to_string().replace('\n', " ")).collect();
    shown(&causes.join(": "))
}

/// Why a plugin broke off, and the functions in which it did, innermost first; those of Rust's own panics are left out.
pub(crate) fn trap(error: &wasmtime::Error) -> String {
    let mut text = error.root_cause().to_string();
    let frames: Vec<String> = error
        .downcast_ref::<WasmBacktrace>()
        .iter()
        .flat_map(|trace| trace.frames())
        .map(|frame| {
            let symbol = frame.symbols().first();
            let name = symbol.and_then(|symbol| symbol.name()).or(frame.func_name()).unwrap_or("a function");
            let mut shown = format!("{:#}", rustc_demangle::demangle(name));
            if let Some((file, line)) = symbol.and_then(|symbol| symbol.file().zip(symbol.line())) {
                // Writing to a String does not fail.
                let _ = write!(shown, " ({file}:{line})");
            }
            shown
        })
        .collect();
    let of_panic = |frame: &&String| PANIC.iter().any(|start| frame.starts_with(start));
    let from = frames.iter().take_while(of_panic).count();
    let own = frames.get(from..).filter(|own| !own.is_empty()).unwrap_or(&frames);
    own.iter().take(SHOWN_FRAMES).for_each(|frame| {
        let _ = write!(text, "; in {frame}");
    });
    shown(&text)
}

/// How the names of functions begin in which a panic of Rust ends.
const PANIC: [&str; 6] = ["__rustc::", "std::", "core::", "<core::", "<std::", "rust_"];
/// Frames that a message has.
const SHOWN_FRAMES: usize = 8;
