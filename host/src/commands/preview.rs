//! `sluicebox preview`.

use std::path::Path;

use sluicebox_model::OrNever;

use crate::config::Config;
use crate::error::Error;
use crate::output::{counted, print};
use crate::queries::preview::{PreviewRow, preview};
use crate::queries::{find_goal, store_or_empty};

/// Shows the first rows of a goal's next file before and after the processors. The store does not change.
///
/// # Errors
/// If the configuration is wrong, or the file or a processor fails. Rows before a failure of the file are shown.
pub(crate) fn run(folder: &Path, connection: &str, goal: &str, rows: usize, json: bool) -> Result<u8, Error> {
    let config = Config::load(folder)?;
    let connection = config.connection(connection)?;
    let goal = find_goal(connection, goal)?;
    let store = store_or_empty(&config)?;
    let preview = preview(&config, connection, goal, &store, rows, false)?;
    preview.warning.iter().chain(&preview.remark).for_each(|warning| tracing::warn!("{warning}"));
    if json {
        print(serde_json::to_string(&preview).or_never("the JSON of a preview"))?;
    } else if let Some(file) = preview.file.filter(|_| preview.warning.is_none()) {
        print(format!("{file}, first {}", counted(preview.rows.len() as u64, "row")))?;
        preview.rows.iter().try_for_each(text)?;
    }
    preview.failure.map_or(Ok(0), Err)
}

/// A row as text. Cells that changed show both values.
fn text(row: &PreviewRow) -> Result<(), Error> {
    let line = row.line;
    match row.verdict {
        "keep" => print(format!("line {line}"))?,
        "drop" => print(format!("line {line}: dropped"))?,
        _ => print(format!(
            "line {line}: rejected: {} ({})",
            row.reason.as_deref().unwrap_or_default(),
            row.code.as_deref().unwrap_or_default()
        ))?,
    }
    let before = row.before.as_object();
    for (name, cell) in row.after.as_object().or(before).into_iter().flatten() {
        match before.and_then(|before| before.get(name)) {
            Some(old) if old != cell => print(format!("  {name}: {old} → {cell}"))?,
            Some(_) => print(format!("  {name}: {cell}"))?,
            None => print(format!("  {name}: (added) {cell}"))?,
        }
    }
    Ok(())
}
