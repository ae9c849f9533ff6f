//! `sluicebox schedule`.

use std::path::Path;

use jiff::{Timestamp, ZonedDateTime};
use serde_json::json;

use crate::config::{Config, Connection, in_words};
use crate::error::Error;
use crate::output::print;
use crate::queries::schedule::upcoming;

/// Shows the next runs of the enabled connections, in order.
///
/// # Errors
/// If the configuration is wrong, or there is no such connection.
pub(crate) fn run(folder: &Path, names: &[String], count: usize, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let connections: Vec<&Connection> = match names {
        [] => config.connections.iter().collect(),
        names => names.iter().map(|name| config.connection(name)).collect::<Result<_, _>>()?,
    };
    let upcoming = upcoming(connections.iter().copied(), Timestamp::now(), count);
    for (at, connection) in &upcoming {
        let Some(schedule) = &connection.schedule else { continue };
        let local =
            ZonedDateTime::new(*at, schedule.timezone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string();
        print(match json {
            true => json!({ "at": at.to_string(), "local": local, "connection": connection.name, "schedule": in_words(schedule) })
                .to_string(),
            false => format!("{at}  {local}  {}: {}", connection.name, in_words(schedule)),
        })?;
    }
    if upcoming.is_empty() && !json {
        print("no enabled connection has a [schedule]")?;
    }
    Ok(0)
}
