//! `sluicebox check`.

use std::path::Path;

use crate::config::{Config, Connection};
use crate::error::Error;
use crate::output::{print, print_error};
use crate::queries::check::{Finding, check};

/// Validates the configuration, then checks the plugins, the location, the permissions and the next file of each goal.
///
/// # Errors
/// If the configuration is wrong. Problems of goals are shown, each by itself.
pub(crate) fn run(folder: &Path, names: &[String]) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    for warning in &config.warnings {
        print(format!("warning: {warning}"))?;
    }
    let connections: Vec<&Connection> = match names {
        [] => config.connections.iter().collect(),
        names => names.iter().map(|name| config.connection(name)).collect::<Result<_, _>>()?,
    };
    if connections.is_empty() {
        print("warning: there are no connections")?;
    }
    let mut is_failing = false;
    check(&config, &connections, &mut |finding| match finding {
        Finding::Warning(warning) => print(format!("warning: {warning}")),
        Finding::Ready { goal, what } => print(format!("ok: {goal}: {what}")),
        Finding::Failing { goal, error } => {
            is_failing = true;
            print(format!("error: {goal}"))?;
            print_error(&error);
            Ok(())
        }
    })?;
    Ok(if is_failing { 2 } else { 0 })
}
