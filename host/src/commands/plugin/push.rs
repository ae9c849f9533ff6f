//! `sluicebox plugin push`.

use std::path::Path;

use super::{describe, install, runtime};
use crate::error::Error;
use crate::output::print;
use crate::plugins::registry::Place;
use crate::plugins::sha256;

/// Uploads a plugin to a registry, after checking that it is one.
///
/// # Errors
/// If it is not a plugin, or the registry cannot be reached or refuses.
pub(super) fn run(source: &Path, target: &str) -> Result<u8, Error> {
    let Some(place) = Place::parse(target)? else {
        return Err(Error::Usage(format!("{target}: expected oci://REGISTRY/NAME:TAG")));
    };
    let (bytes, name) = install::read(&install::file(source)?)?;
    let (_, description) = describe(&runtime(None)?, &name, &bytes)?;
    if let Some(version) = place.version() {
        install::warn_of_version(target, version, &description.version);
    }
    let sha256 = sha256(&bytes);
    place.push(bytes)?;
    print(format!("{target}: {} {}, sha256 {sha256}", description.name, description.version))?;
    Ok(0)
}
