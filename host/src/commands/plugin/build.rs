//! `sluicebox plugin build`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use wit_component::ComponentEncoder;

use super::read;
use crate::error::Error;
use crate::output::print;
use crate::plugins::guest::{Guest, TARGET, linkers};
use crate::plugins::{is_wasm, sha256};

/// Builds the component of a plugin, and prints its name and version.
///
/// # Errors
/// If a tool is missing, or the plugin does not build or is not a plugin.
pub(super) fn run(folder: &Path) -> Result<u8, Error> {
    let place = component(folder)?;
    let (bytes, _, description) = read(&place)?;
    print(format!(
        "{}: {} {}, {} bytes, sha256 {}",
        place.display(),
        description.name,
        description.version,
        bytes.len(),
        sha256(&bytes)
    ))?;
    Ok(0)
}

/// Builds the plugin in a folder; answers with the path of the component, in that folder.
///
/// # Errors
/// If a tool is missing or the plugin does not build.
pub(super) fn component(folder: &Path) -> Result<PathBuf, Error> {
    let has = |file: &str| folder.join(file).is_file();
    if has("Cargo.toml") {
        rust(folder)
    } else if has("app.py") {
        python(folder)
    } else if has("package.json") {
        javascript(folder)
    } else {
        Err(Error::Usage(format!(
            "{} is not the folder of a plugin: it has no Cargo.toml, app.py or package.json; `sluicebox plugin new` creates one",
            folder.display()
        )))
    }
}

fn rust(folder: &Path) -> Result<PathBuf, Error> {
    let guest = Guest::find().ok_or_else(|| {
        missing(
            folder,
            &format!("the standard library for {TARGET}"),
            "install it with `rustup target add`, or Debian's rustc-web, cargo-web and rust-web-src",
        )
    })?;
    let mut cargo = guest.cargo();
    cargo.args(["--release", "--lib", "--message-format", "json-render-diagnostics"]);
    // Debian's compiler has no linker for this target. Rustup's toolchain has one.
    let linker = linkers().map(|linkers| linkers.join("rust-lld")).filter(|linker| linker.exists());
    if let (Guest::Debian, Some(linker)) = (guest, linker) {
        cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
    }
    let messages = run_tool(folder, &mut cargo)?;
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut modules = artifacts.filter_map(|artifact| {
        let files = artifact.get("filenames")?.as_array()?.clone();
        files.into_iter().filter_map(|file| file.as_str().map(PathBuf::from)).find(|file| is_wasm(file))
    });
    let module = modules.next_back().ok_or_else(|| {
        Error::Failed(format!(
            "{}: cargo built no .wasm: Cargo.toml needs crate-type = [\"cdylib\"] under [lib]",
            folder.display()
        ))
    })?;
    let bytes = fs::read(&module).map_err(|error| Error::io(&module, error))?;
    let component = if bytes.starts_with(b"\0asm\x01\0\0\0") {
        let encoded =
            ComponentEncoder::default().module(&bytes).and_then(|encoder| encoder.validate(true).encode());
        encoded.map_err(|error| {
            Error::Failed(format!("{}: cannot make a component of it: {error:#}", module.display()))
        })?
    } else {
        bytes
    };
    let name = module.file_stem().unwrap_or_default().to_string_lossy().replace('_', "-");
    let place = folder.join(format!("{name}.wasm"));
    fs::write(&place, component).map_err(|error| Error::io(&place, error))?;
    Ok(place)
}

fn python(folder: &Path) -> Result<PathBuf, Error> {
    let place = folder.join(format!("{}.wasm", name_of(folder)));
    let mut tool = Command::new("componentize-py");
    tool.args(["-d", "wit", "-w", "plugin", "componentize", "app", "-o"]).arg(file_name(&place));
    match run_tool(folder, &mut tool) {
        Err(Error::Io { .. }) => Err(missing(folder, "componentize-py", "`pip install componentize-py`")),
        result => result.map(|_| place),
    }
}

fn javascript(folder: &Path) -> Result<PathBuf, Error> {
    let text = fs::read_to_string(folder.join("package.json"))
        .map_err(|error| Error::io(&folder.join("package.json"), error))?;
    let package: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Usage(format!("{}: {error}", folder.join("package.json").display())))?;
    let field = |key: &str| package.get(key).and_then(Value::as_str).map(str::to_owned);
    let place = folder.join(format!("{}.wasm", field("name").unwrap_or_else(|| name_of(folder))));
    let own = folder.join("node_modules/.bin/componentize-js");
    let own = own.canonicalize().ok().filter(|own| own.is_file());
    let mut tool = Command::new(own.unwrap_or_else(|| "componentize-js".into()));
    tool.arg(field("main").unwrap_or_else(|| "app.js".to_owned()));
    tool.args(["-w", "wit", "-n", "plugin", "-d", "stdio", "random", "clocks", "http", "fetch-event", "-o"]);
    tool.arg(file_name(&place));
    match run_tool(folder, &mut tool) {
        Err(Error::Io { .. }) => Err(missing(folder, "componentize-js", "`npm install`")),
        result => result.map(|_| place),
    }
}

/// Runs a tool in the folder. Its messages go to stderr.
///
/// # Errors
/// [`Error::Io`] if it is missing; [`Error::Failed`] if it fails.
fn run_tool(folder: &Path, tool: &mut Command) -> Result<String, Error> {
    let name = tool.get_program().to_string_lossy().into_owned();
    let output = tool.current_dir(folder).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| Error::io(Path::new(&name), error))?;
    if !output.status.success() {
        return Err(Error::Failed(format!("{}: {name} failed ({})", folder.display(), output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn missing(folder: &Path, what: &str, next: &str) -> Error {
    Error::Usage(format!("{} cannot be built: {what} is missing; {next}", folder.display()))
}

fn name_of(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn file_name(place: &Path) -> &Path {
    place.file_name().map_or(place, Path::new)
}
