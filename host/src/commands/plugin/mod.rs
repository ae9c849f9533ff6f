//! `sluicebox plugin`.

mod bench;
mod build;
mod install;
mod lock;
mod new;
mod push;
mod sample;
mod show;
mod test;

use std::fs;
use std::path::{Path, PathBuf};

use sluicebox_processors::{Description, Limits, Plugin, Runtime};

use crate::config::Config;
use crate::error::Error;
use crate::plugins;

/// What to do with plugins.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows the bundled plugins and those in the plugin folder.
    List {
        /// One JSON object a plugin.
        #[arg(long)]
        json: bool,
    },
    /// Shows what a plugin is: a file, or a name as goals give it.
    Inspect {
        /// The .wasm file or the name.
        file: String,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Makes a folder with a plugin that works, its test and sample rows.
    New {
        /// Its name: small letters, digits and `-`.
        name: String,
        /// The language that it is written in.
        #[arg(long, value_enum, default_value = "rust")]
        language: new::Language,
    },
    /// Makes a component of a plugin's folder.
    Build {
        /// The folder.
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Runs a plugin's samples through the host and compares what comes out.
    Test {
        /// The plugin's folder.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// This component, instead of building the folder.
        #[arg(long)]
        component: Option<PathBuf>,
        /// Writes what comes out as what is expected.
        #[arg(long)]
        bless: bool,
    },
    /// Measures what a plugin costs per row and per call, beside the same code without the sandbox where that is there.
    Bench {
        /// The plugin's folder.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// This component, instead of building the folder.
        #[arg(long)]
        component: Option<PathBuf>,
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Writes plugins.lock: from then on `run` refuses a plugin that differs.
    Lock,
    /// Puts a plugin into the plugin folder.
    Install {
        /// A .wasm file, the folder of a plugin that was built, or a place in a registry: oci://REGISTRY/NAME:TAG.
        source: String,
        /// The name that goals give it; else that of the file.
        #[arg(long)]
        name: Option<String>,
    },
    /// Puts a plugin into a registry, from where `install` gets it.
    Push {
        /// A .wasm file, or the folder of a plugin that was built.
        source: PathBuf,
        /// Where: oci://REGISTRY/NAME:TAG.
        target: String,
    },
}

/// Does something with plugins. Their code is run under the usual limits.
///
/// # Errors
/// If a plugin cannot be used.
pub(crate) fn run(folder: &Path, command: &Command) -> Result<u8, Error> {
    match command {
        Command::List { json } => show::list(folder, *json),
        Command::Inspect { file, json } => show::inspect(folder, file, *json),
        Command::New { name, language } => new::run(folder, name, *language),
        Command::Build { dir } => build::run(&folder.join(dir)),
        Command::Test { dir, component, bless } => {
            test::run(&folder.join(dir), component.as_ref().map(|file| folder.join(file)).as_deref(), *bless)
        }
        Command::Bench { dir, component, json } => {
            bench::run(&folder.join(dir), component.as_ref().map(|file| folder.join(file)).as_deref(), *json)
        }
        Command::Lock => lock::run(folder),
        Command::Install { source, name } => install::run(folder, source, name.as_deref()),
        Command::Push { source, target } => push::run(&folder.join(source), target),
    }
}

fn runtime(config: Option<&Config>) -> Result<Runtime, Error> {
    match config {
        Some(config) => plugins::runtime(config, false),
        None => Runtime::new(None).map_err(|fault| Error::Usage(fault.to_string())),
    }
}

/// The plugin in a file, named as the file is, outside of a working folder.
fn read(place: &Path) -> Result<(Vec<u8>, Plugin, Description), Error> {
    let bytes = fs::read(place).map_err(|error| Error::io(place, error))?;
    let name = place.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (plugin, description) = describe(&runtime(None)?, &name, &bytes)?;
    Ok((bytes, plugin, description))
}

/// A plugin under the default limits, and what it says of itself.
fn describe(runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<(Plugin, Description), Error> {
    let failed = |error: sluicebox_processors::PluginError| Error::Plugin {
        place: format!("{name}.wasm"),
        reason: error.to_string(),
    };
    let plugin = runtime.load(name, bytes, Limits::default()).map_err(failed)?;
    let description = plugin.describe().map_err(failed)?;
    Ok((plugin, description))
}
