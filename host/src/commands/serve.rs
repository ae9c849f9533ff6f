//! `sluicebox serve`.

use std::net::SocketAddr;
use std::path::Path;

use crate::error::Error;
use crate::service;

/// Runs connections when they are due and serves the page and the API, until it is stopped.
///
/// # Errors
/// If the configuration is wrong, the store is in use, or the address is taken.
pub(crate) fn run(folder: &Path, address: Option<SocketAddr>) -> Result<u8, Error> {
    service::serve(folder, address)
}
