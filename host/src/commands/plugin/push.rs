//! `sluicebox plugin push`.

use std::path::Path;

use super::{describe, install, runtime};
use crate::cli::print;
use crate::error::Error;
use crate::plugins::sha256;
use crate::registry::Place;

/// Puts a plugin into a registry, once it is known to be one.
///
/// # Errors
/// If it is no plugin, or the registry cannot be reached or refuses.
pub(super) fn run(source: &Path, target: &str) -> Result<u8, Error> {
    let Some(place) = Place::parse(target)? else {
        return Err(Error::Usage(format!("{target}: expected oci://REGISTRY/NAME:TAG")));
    };
    let (bytes, name) = install::read(&install::file(source)?)?;
    let (_, description) = describe(&runtime(None)?, &name, &bytes)?;
    let sha256 = sha256(&bytes);
    place.push(bytes)?;
    print(format!("{target}: {} {}, sha256 {sha256}", description.name, description.version))?;
    Ok(0)
}
