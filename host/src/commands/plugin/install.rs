//! `sluicebox plugin install`.

use std::fs;
use std::path::{Path, PathBuf};

use super::{describe, runtime};
use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::plugins::{is_wasm, sha256};
use crate::registry::Place;

/// Copies a plugin into the plugin folder, once it is known to be one.
///
/// # Errors
/// If it is no plugin, or its name is not one that goals can give.
pub(super) fn run(folder: &Path, source: &str, name: Option<&str>) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let (bytes, own_name) = match Place::parse(source)? {
        Some(place) => (place.pull()?, place.name().to_owned()),
        None => read(&file(&folder.join(source))?)?,
    };
    let name = name.map_or(own_name, str::to_owned);
    if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
        return Err(Error::Usage(format!("`{name}` is no name for a plugin")));
    }
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

/// A component and the name of its file.
pub(super) fn read(file: &Path) -> Result<(Vec<u8>, String), Error> {
    let bytes = fs::read(file).map_err(|error| Error::io(file, error))?;
    Ok((bytes, file.file_stem().unwrap_or_default().to_string_lossy().into_owned()))
}

/// The component at a place: the file, or the only one in a folder.
pub(super) fn file(source: &Path) -> Result<PathBuf, Error> {
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
