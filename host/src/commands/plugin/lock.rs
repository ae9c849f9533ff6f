//! `sluicebox plugin lock`.

use std::path::Path;

use crate::cli::print;
use crate::config::Config;
use crate::error::Error;
use crate::plugins::Lock;

/// Writes down which plugins the goals use, by their digests.
///
/// # Errors
/// If one is not there.
pub(super) fn run(folder: &Path) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let lock = Lock::of(&config)?;
    lock.write(&config.root)?;
    for (plugin, digest) in &lock.plugins {
        print(format!("{plugin} {digest}"))?;
    }
    Ok(0)
}
