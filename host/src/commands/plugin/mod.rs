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

use sluicebox_processors::{CompileLimits, Description, Limits, Plugin, Runtime};

use crate::config::Config;
use crate::error::Error;
use crate::plugins;

/// The commands for plugins.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Shows the bundled plugins and those in the plugin folder.
    List {
        /// Prints one JSON object a plugin.
        #[arg(long)]
        json: bool,
    },
    /// Shows a plugin: a file, or a name as in goals.
    Inspect {
        /// The .wasm file or the name.
        file: String,
        /// Prints one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Creates a folder with a working plugin, its test and sample rows.
    New {
        /// Its name: lower-case letters, digits and `-`.
        name: String,
        /// Its programming language.
        #[arg(long, value_enum, default_value = "rust")]
        language: new::Language,
    },
    /// Builds the component of a plugin.
    Build {
        /// The folder of the plugin.
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Runs the samples of a plugin through the host and compares the results.
    Test {
        /// The folder of the plugin.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Uses this component and does not build the folder.
        #[arg(long)]
        component: Option<PathBuf>,
        /// Writes the results as the expected ones.
        #[arg(long)]
        bless: bool,
    },
    /// Measures a plugin per row and per call, and where possible the same code without the sandbox.
    Bench {
        /// The folder of the plugin.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Uses this component and does not build the folder.
        #[arg(long)]
        component: Option<PathBuf>,
        /// Prints one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Writes plugins.lock. `run` then refuses a plugin that differs.
    Lock,
    /// Copies a plugin into the plugin folder.
    Install {
        /// A .wasm file, the folder of a built plugin, or a reference to a registry: oci://REGISTRY/NAME:TAG.
        source: String,
        /// Its name in goals; by default, the name of the file.
        #[arg(long)]
        name: Option<String>,
    },
    /// Uploads a plugin to a registry, for `install`.
    Push {
        /// A .wasm file, or the folder of a built plugin.
        source: PathBuf,
        /// The reference: oci://REGISTRY/NAME:TAG.
        target: String,
    },
}

/// Runs a command for plugins. Code of plugins runs under the default limits.
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
        None => plugins::runtime_with(None, CompileLimits::default()),
    }
}

/// The plugin in a file, with the name of the file, outside of a working folder.
fn read(place: &Path) -> Result<(Vec<u8>, Plugin, Description), Error> {
    let bytes = fs::read(place).map_err(|error| Error::io(place, error))?;
    let name = place.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (plugin, description) = describe(&runtime(None)?, &name, &bytes)?;
    Ok((bytes, plugin, description))
}

/// A plugin under the default limits, and its description.
fn describe(runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<(Plugin, Description), Error> {
    let failed = |error: sluicebox_processors::PluginError| Error::Plugin {
        place: format!("{name}.wasm"),
        reason: error.to_string(),
    };
    let plugin = runtime.load(name, bytes, Limits::default()).map_err(failed)?;
    let description = plugin.describe().map_err(failed)?;
    Ok((plugin, description))
}
