use std::collections::HashMap;
use std::fmt::Write;
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine, WasmBacktrace, WasmBacktraceDetails};

use crate::bindings::{World, WorldPre};
use crate::cache::{self, Cache};
use crate::compile::Compiler;
use crate::error::shown;
use crate::limits::State;
use crate::redact::{Configuration, Secrets};
use crate::session::{Call, Instance};
use crate::{Fault, Limits, PluginError, Session, wait};

/// How often running calls check whether their time is up.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// Bytes of a component. Those of Python and JavaScript, with their interpreter, are the largest.
pub const MAX_COMPONENT: usize = 64 << 20;
/// Bytes of the JSON Schema of a configuration.
const MAX_SCHEMA: usize = 256 << 10;
/// Bytes.
const MAX_STACK: usize = 512 << 10;
/// Functions of a plugin that a backtrace holds.
const MAX_FRAMES: usize = 40;
const INTERFACE: &str = "sluicebox:processor/processor";
/// The version of the contract that this host supports, with all older ones of the same major version.
const VERSION: &str = "1.0.0";

/// The engine that compiles and runs plugins. A process has one.
pub struct Runtime {
    engine: Engine,
    linker: Linker<State>,
    compiler: Compiler,
    cache: Option<Cache>,
    /// Compiled components by their digests: processors with the same plugin share it.
    loaded: Mutex<HashMap<[u8; 32], Component>>,
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

/// The description of a plugin, by the plugin.
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
    /// An engine. `cache` is the folder for compiled plugins; if it cannot be used, each load compiles the plugin.
    ///
    /// # Errors
    /// If this machine cannot run WebAssembly.
    pub fn new(cache: Option<&Path>, compiler: Compiler) -> Result<Self, Fault> {
        let host = |error: wasmtime::Error| Fault::Host(format!("WebAssembly is not available: {error}"));
        let engine = engine().map_err(host)?;
        let mut linker = Linker::new(&engine);
        World::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut State| state).map_err(host)?;
        wasmtime_wasi::p2::add_to_linker_sync(&mut linker).map_err(host)?;
        wait::add_to_linker(&mut linker).map_err(host)?;
        let ticks = engine.weak();
        let ticker = thread::Builder::new().name("plugin-clock".to_owned());
        let ticker = ticker.spawn(move || {
            while let Some(engine) = ticks.upgrade() {
                engine.increment_epoch();
                drop(engine);
                thread::sleep(TICK);
            }
        });
        ticker.map_err(|error| Fault::Host(format!("cannot start a thread: {error}")))?;
        let cache = cache.and_then(|folder| match Cache::open(folder) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "compiled plugins are not cached");
                None
            }
        });
        Ok(Self { engine, linker, compiler, cache, loaded: Mutex::default() })
    }

    /// Compiles a plugin and checks its imports and exports. None of its code runs.
    ///
    /// # Errors
    /// [`Fault::NotAComponent`], [`Fault::World`], [`Fault::Imports`] and similar.
    pub fn load(&self, name: &str, bytes: &[u8], limits: Limits) -> Result<Plugin, PluginError> {
        let failed = |fault| PluginError { plugin: name.to_owned(), fault };
        let digest = blake3::hash(bytes).into();
        let component = self.component(bytes, &digest).map_err(failed)?;
        let imports = self.check_world(&component).map_err(failed)?;
        let pre = self.linker.instantiate_pre(&component);
        let pre = pre.map_err(|error| failed(Fault::Imports(chain(&error))))?;
        let types = |error| failed(Fault::Types { expected: contract(), found: chain(&error) });
        let pre = WorldPre::new(pre).map_err(types)?;
        Ok(Plugin { name: name.into(), digest, limits, imports: imports.into(), pre })
    }

    fn component(&self, bytes: &[u8], digest: &[u8; 32]) -> Result<Component, Fault> {
        if bytes.len() > MAX_COMPONENT {
            return Err(Fault::TooLarge { size: bytes.len(), limit: MAX_COMPONENT });
        }
        if bytes.starts_with(b"\0asm\x01\0\0\0") {
            return Err(Fault::CoreModule);
        }
        if !bytes.starts_with(b"\0asm") {
            return Err(Fault::NotAComponent("it does not begin as one".to_owned()));
        }
        let known = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned();
        let component = match known {
            Some(component) => return Ok(component),
            None => self.compiled(bytes, digest)?,
        };
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.insert(*digest, component.clone());
        Ok(component)
    }

    /// A component from the cache, or from the compiler.
    fn compiled(&self, bytes: &[u8], digest: &[u8; 32]) -> Result<Component, Fault> {
        let kept = || self.cache.as_ref().and_then(|cache| cache.get(&self.engine, digest));
        if let Some(component) = kept() {
            return Ok(component);
        }
        let mut compiled = self.compiler.compile(&self.engine, bytes, digest)?;
        let put = self.cache.as_ref().map(|cache| cache.put(&self.engine, digest, &mut compiled));
        if let Some(Err(error)) = &put {
            // A cache that cannot be written to only costs time.
            tracing::debug!(%error, "the compiled plugin was not kept");
        }
        // The entry of the cache is a file of the disk, whose pages the system can take back.
        let component = put.and_then(Result::ok).and_then(|()| kept());
        let component = component.or_else(|| cache::map(&self.engine, &compiled));
        component.ok_or_else(|| Fault::Host("the compiled plugin cannot be loaded".to_owned()))
    }

    /// Checks what the component imports and exports; answers with the names of its imports.
    fn check_world(&self, component: &Component) -> Result<Vec<String>, Fault> {
        let world = component.component_type();
        let exports: Vec<String> = world.exports(&self.engine).map(|(name, _)| shown(name)).collect();
        let version = exports.iter().find_map(|name| name.strip_prefix(INTERFACE)?.strip_prefix('@'));
        if version.is_some_and(|version| !runs(version)) {
            let found = version.unwrap_or_default().to_owned();
            return Err(Fault::Version { found, supported: VERSION });
        }
        if version.is_none() {
            let found = if exports.is_empty() { "nothing".to_owned() } else { listed(&exports) };
            return Err(Fault::World { expected: contract(), found });
        }
        let imports: Vec<String> = world.imports(&self.engine).map(|(name, _)| shown(name)).collect();
        let foreign: Vec<&String> = imports.iter().filter(|name| !is_offered(name)).collect();
        if foreign.is_empty() { Ok(imports) } else { Err(Fault::Imports(listed(&foreign))) }
    }
}

impl Plugin {
    /// Its name in the goal.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The BLAKE3 hash of the file.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The names of the interfaces that it imports.
    pub fn imports(&self) -> &[String] {
        &self.imports
    }

    /// Calls `describe`.
    ///
    /// # Errors
    /// If the plugin crashes or reaches a limit.
    pub fn describe(&self) -> Result<Description, PluginError> {
        let failed = |fault| PluginError { plugin: self.name().to_owned(), fault };
        let mut instance =
            Instance::start(&self.pre, &self.name, "", &Secrets::default(), self.limits).map_err(failed)?;
        let description =
            instance.call(Call::Describe, |guest, store| guest.call_describe(store)).map_err(failed)?;
        let size = description.config_schema.len();
        if size > MAX_SCHEMA {
            return Err(failed(Fault::Schema { size, limit: MAX_SCHEMA }));
        }
        Ok(Description {
            name: shown(&description.name),
            version: shown(&description.version),
            summary: shown(&description.summary),
            config_schema: description.config_schema,
        })
    }

    /// Begins a file with the columns `header`. Log messages name `goal`.
    ///
    /// # Errors
    /// If the plugin refuses its configuration, crashes, or reaches a limit.
    pub fn open(
        &self,
        goal: &str,
        config: &Configuration,
        header: &[String],
    ) -> Result<Session, PluginError> {
        let opened = Instance::start(&self.pre, &self.name, goal, config.secrets(), self.limits)
            .and_then(|instance| Session::open(instance, self.limits, config, header));
        match opened {
            Ok(session) => Ok(session),
            Err(fault) => Err(PluginError { plugin: self.name().to_owned(), fault }),
        }
    }
}

/// Names of a plugin, the first of them if they are many.
fn listed(names: &[impl AsRef<str>]) -> String {
    const MAX_NAMES: usize = 20;
    let mut list: Vec<&str> = names.iter().take(MAX_NAMES).map(AsRef::as_ref).collect();
    let more = format!("and {} more", names.len().saturating_sub(MAX_NAMES));
    if names.len() > MAX_NAMES {
        list.push(&more);
    }
    list.join(", ")
}

/// The interface that a plugin exports, with its version.
pub(crate) fn contract() -> String {
    format!("{INTERFACE}@{VERSION}")
}

/// Whether a processor may import this: the log, and those interfaces of WASI 0.2 that programs expect. Here, they offer nothing.
fn is_offered(import: &str) -> bool {
    const WASI: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
    let wasi = import.strip_prefix("wasi:").and_then(|name| name.split_once('/'));
    match wasi {
        Some((package, interface)) => WASI.contains(&package) && interface.contains("@0.2."),
        None => import.starts_with("sluicebox:processor/"),
    }
}

/// Whether a plugin of this version of the contract runs here: the same major version, and no newer minor version.
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

/// The engine of every process that compiles or runs plugins: what one compiles, the others run.
pub(crate) fn engine() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// Features that a processor does not need are off: that leaves less code that could have a fault.
fn config() -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    config.max_wasm_stack(MAX_STACK);
    config.wasm_component_model(true);
    config.wasm_relaxed_simd(false);
    config.wasm_memory64(false);
    config.wasm_multi_memory(false);
    config.wasm_tail_call(false);
    config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config.wasm_backtrace_max_frames(NonZero::new(MAX_FRAMES));
    config
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error.chain().map(|cause| cause.to_string().replace('\n', " ")).collect();
    shown(&causes.join(": "))
}

/// Why a plugin crashed, and in which functions, innermost first, without those of Rust's own panics.
pub(crate) fn trap(error: &wasmtime::Error) -> String {
    let mut text = error.root_cause().to_string();
    let frames: Vec<String> = error
        .downcast_ref::<WasmBacktrace>()
        .iter()
        .flat_map(|trace| trace.frames())
        .flat_map(|frame| {
            // A function that was inlined has a symbol, and no frame of its own.
            let inlined =
                frame.symbols().iter().map(|symbol| (symbol.name(), symbol.file().zip(symbol.line())));
            let whole = frame.symbols().is_empty().then_some((None, None));
            inlined.chain(whole).take(MAX_FRAMES).map(move |(name, place)| {
                let name = name.or(frame.func_name()).unwrap_or("a function");
                let mut shown = format!("{:#}", rustc_demangle::demangle(name));
                if let Some((file, line)) = place {
                    // Writing to a String does not fail.
                    let _ = write!(shown, " ({file}:{line})");
                }
                shown
            })
        })
        .collect();
    let of_panic = |frame: &&String| PANIC.iter().any(|start| frame.starts_with(start));
    let from = frames.iter().take_while(of_panic).count();
    let own = frames.get(from..).filter(|own| !own.is_empty()).unwrap_or(&frames);
    own.iter().take(MAX_SHOWN_FRAMES).for_each(|frame| {
        let _ = write!(text, "; in {frame}");
    });
    shown(&text)
}

/// Prefixes of the functions in which a panic of Rust ends.
const PANIC: [&str; 6] = ["__rustc::", "std::", "core::", "<core::", "<std::", "rust_"];
/// Frames in a message.
const MAX_SHOWN_FRAMES: usize = 8;
