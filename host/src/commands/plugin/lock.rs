//! `sluicebox plugin lock`.

use std::path::Path;

use crate::config::Config;
use crate::error::Error;
use crate::output::print;
use crate::plugins::Lock;

/// Writes the digests of the plugins in goals to plugins.lock.
///
/// # Errors
/// If a plugin is missing.
pub(super) fn run(folder: &Path) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let lock = Lock::of(&config)?;
    lock.write(&config.root)?;
    for (plugin, digest) in &lock.plugins {
        print(format!("{plugin} {digest}"))?;
    }
    Ok(0)
}
