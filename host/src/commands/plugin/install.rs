//! `sluicebox plugin install`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{describe, runtime};
use crate::config::Config;
use crate::error::Error;
use crate::output::print;
use crate::plugins::registry::Place;
use crate::plugins::{BUNDLED, is_wasm, sha256};

/// Copies a plugin into the plugin folder, after checking that it is one.
///
/// # Errors
/// If it is not a plugin, its component is older than its sources, or goals cannot refer to its name.
pub(super) fn run(folder: &Path, source: &str, name: Option<&str>) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let place = Place::parse(source)?;
    let (bytes, own_name) = match &place {
        Some(place) => (place.pull()?, place.name().to_owned()),
        None => read(&file(&folder.join(source))?)?,
    };
    let name = name.map_or(own_name, str::to_owned);
    check_name(&name).map_err(Error::Usage)?;
    let (_, description) = describe(&runtime(Some(&config))?, &name, &bytes)?;
    if let Some(version) = place.as_ref().and_then(Place::version) {
        warn_of_version(source, version, &description.version);
    }
    let plugins = &config.settings.plugins;
    fs::create_dir_all(plugins).map_err(|error| Error::io(plugins, error))?;
    let place = plugins.join(format!("{name}.wasm"));
    // A run that reads it meanwhile finds the whole file, old or new. The name is random: no link can be there before.
    let temporary = plugins.join(format!(".{name}.{}", uuid::Uuid::now_v7().simple()));
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

/// Warns if a plugin has another version than its tag in a registry.
pub(super) fn warn_of_version(place: &str, tagged: &str, own: &str) {
    if tagged != own {
        tracing::warn!("{place}: the tag says version {tagged}, the plugin says {own}");
    }
}

/// Says why a name cannot be that of an installed plugin, if it cannot.
fn check_name(name: &str) -> Result<(), String> {
    let is_odd = |character: char| {
        character.is_whitespace() || character.is_control() || matches!(character, '/' | '\\')
    };
    if name.is_empty() || name.starts_with('.') || name.ends_with(".wasm") || name.contains(is_odd) {
        return Err(format!(
            "`{}` cannot be the name of a plugin: it may hold no spaces, slashes or control characters, begin with no dot \
             and not end in .wasm",
            name.escape_debug()
        ));
    }
    if BUNDLED.iter().any(|(bundled, _)| *bundled == name) {
        return Err(format!("`{name}` is the name of a bundled plugin; --name gives it another name"));
    }
    Ok(())
}

/// A component and the name of its file.
pub(super) fn read(file: &Path) -> Result<(Vec<u8>, String), Error> {
    let bytes = fs::read(file).map_err(|error| Error::io(file, error))?;
    Ok((bytes, file.file_stem().unwrap_or_default().to_string_lossy().into_owned()))
}

/// The component at a place: the file, or the only one in a folder.
///
/// # Errors
/// If there is none, or several, or if a source in the folder is newer: installing runs no code of the folder, so it does not
/// build it either.
pub(super) fn file(source: &Path) -> Result<PathBuf, Error> {
    if !source.is_dir() {
        return Ok(source.to_owned());
    }
    let entries = fs::read_dir(source).map_err(|error| Error::io(source, error))?;
    let mut wasm = entries.flatten().map(|entry| entry.path()).filter(|path| is_wasm(path));
    match (wasm.next(), wasm.next()) {
        (Some(file), None) => match newest_source(source) {
            Some((newest, changed)) if modified(&file).is_some_and(|built| built < changed) => {
                Err(Error::Usage(format!(
                    "{} is older than {}; `sluicebox plugin build {}` builds it",
                    file.display(),
                    newest.display(),
                    source.display()
                )))
            }
            _ => Ok(file),
        },
        (None, _) => Err(Error::Usage(format!(
            "{} has no .wasm; `sluicebox plugin build {}` builds it",
            source.display(),
            source.display()
        ))),
        (Some(_), Some(_)) => {
            Err(Error::Usage(format!("{} has several .wasm files; name one of them", source.display())))
        }
    }
}

/// The source in a folder that was changed last, and when. Links are not followed.
fn newest_source(folder: &Path) -> Option<(PathBuf, SystemTime)> {
    const SOURCES: [&str; 13] =
        ["rs", "toml", "py", "js", "mjs", "cjs", "ts", "json", "wit", "c", "h", "go", "zig"];
    // Folders of build tools and of sample rows.
    const OTHERS: [&str; 6] = ["target", "node_modules", "samples", "tests", "examples", "__pycache__"];
    let mut newest: Option<(PathBuf, SystemTime)> = None;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            let name = name.to_string_lossy();
            if kind.is_dir() && !name.starts_with('.') && !OTHERS.contains(&name.as_ref()) {
                folders.push(path);
            } else if kind.is_file()
                && path.extension().is_some_and(|extension| SOURCES.iter().any(|source| extension == *source))
                && let Some(changed) = modified(&path)
                && newest.as_ref().is_none_or(|(_, latest)| *latest < changed)
            {
                newest = Some((path, changed));
            }
        }
    }
    newest
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_goals_can_refer_to() {
        for name in ["shout", "Shout_2", "näme", "my.plugin"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "a b", "a\u{a0}b", "a/b", "..", ".a", "a\nb", "a.wasm"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
