//! `sluicebox plugin install`.

use std::fs;
use std::path::{Path, PathBuf};

use super::{describe, runtime};
use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::plugins::{is_wasm, sha256};

/// Copies a plugin into the plugin folder, once it is known to be one.
///
/// # Errors
/// If it is no plugin, or its name is not one that goals can give.
pub(super) fn run(folder: &Path, source: &Path, name: Option<&str>) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let file = file(source)?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
        return Err(Error::Usage(format!("`{name}` is no name for a plugin")));
    }
    let bytes = fs::read(&file).map_err(|error| Error::io(&file, error))?;
    let (_, description) = describe(&runtime(Some(&config))?, &name, &bytes)?;
    let plugins = &config.settings.plugins;
    fs::create_dir_all(plugins).map_err(|error| Error::io(plugins, error))?;
    let place = plugins.join(format!("{name}.wasm"));
    // Whole or not at all: a run may be about to read it.
    let temporary = plugins.join(format!(".{name}.{}", std::process::id()));
    fs::write(&temporary, &bytes)
        .and_then(|()| fs::rename(&temporary, &place))
        .map_err(|error| Error::io(&place, error))?;
    print(format!(
        "{}: {} {}, sha256 {}",
        place.display(),
        description.name,
        description.version,
        sha256(&bytes)
    ))?;
    Ok(0)
}

/// The component at a place: the file, or the only one in a folder.
fn file(source: &Path) -> Result<PathBuf, Error> {
    if !source.is_dir() {
        return Ok(source.to_owned());
    }
    let entries = fs::read_dir(source).map_err(|error| Error::io(source, error))?;
    let mut wasm = entries.flatten().map(|entry| entry.path()).filter(|path| is_wasm(path));
    match (wasm.next(), wasm.next()) {
        (Some(file), None) => Ok(file),
        (None, _) => Err(Error::Usage(format!(
            "{} has no .wasm; `sluicebox plugin build` makes one",
            source.display()
        ))),
        (Some(_), Some(_)) => {
            Err(Error::Usage(format!("{} has several .wasm files; name one", source.display())))
        }
    }
}
