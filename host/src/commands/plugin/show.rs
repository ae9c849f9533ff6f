//! `sluicebox plugin list` and `sluicebox plugin inspect`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use super::{describe, runtime};
use crate::config::Config;
use crate::error::Error;
use crate::output::{print, print_error, print_lines};
use crate::plugins::{BUNDLED, in_plugin_folder, read, sha256};

pub(super) fn list(folder: &Path, json: bool) -> Result<u8, Error> {
    let config = match Config::load(folder) {
        Err(Error::NoWorkingFolder(_)) => None,
        config => Some(config?),
    };
    let runtime = runtime(config.as_ref())?;
    let bundled =
        BUNDLED.iter().map(|(name, bytes)| ((*name).to_owned(), Ok(bytes.to_vec()), "bundled".to_owned()));
    let in_folder = config.iter().flat_map(in_plugin_folder);
    let in_folder = in_folder.map(|(name, path)| (name, read(&path), path.display().to_string()));
    let mut wrong = false;
    for (name, bytes, place) in bundled.chain(in_folder) {
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(reason) => {
                wrong = true;
                print_error(&Error::Failed(reason));
                continue;
            }
        };
        match describe(&runtime, &name, &bytes) {
            Ok((_, description)) if json => print(json!({
                "name": name, "version": description.version, "summary": description.summary,
                "sha256": sha256(&bytes), "place": place,
            }))?,
            Ok((_, description)) => {
                print(format!("{name} {} ({place}): {}", description.version, description.summary))?;
            }
            Err(error) => {
                wrong = true;
                print_error(&error);
            }
        }
    }
    Ok(u8::from(wrong) * 2)
}

pub(super) fn inspect(folder: &Path, file: &str, json: bool) -> Result<u8, Error> {
    let path = PathBuf::from(file);
    let (name, bytes) = match BUNDLED.iter().find(|(name, _)| *name == file) {
        Some((name, bytes)) if !path.exists() => ((*name).to_owned(), bytes.to_vec()),
        _ => {
            let named = Config::load(folder).ok();
            let in_folder = named.iter().flat_map(in_plugin_folder).find(|(name, _)| name == file);
            let path = in_folder.map_or(path, |(_, path)| path);
            if !path.is_file() {
                let known = BUNDLED.iter().map(|(name, _)| (*name).to_owned()).collect();
                return Err(Error::Unknown { kind: "plugin", name: file.to_owned(), known });
            }
            let bytes = fs::read(&path).map_err(|error| Error::io(&path, error))?;
            (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), bytes)
        }
    };
    // Without the cache, so that it measures the time to compile.
    let runtime = runtime(None)?;
    let begun = Instant::now();
    let (plugin, description) = describe(&runtime, &name, &bytes)?;
    let compile_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let schema: serde_json::Value = serde_json::from_str(&description.config_schema).unwrap_or_default();
    let shown = json!({
        "name": description.name,
        "version": description.version,
        "summary": description.summary,
        "sha256": sha256(&bytes),
        "size": bytes.len(),
        "imports": plugin.imports(),
        "compile_ms": compile_ms,
        "config_schema": schema,
    });
    if json {
        print(shown)?;
    } else {
        for (key, value) in shown.as_object().into_iter().flatten().filter(|(key, _)| *key != "config_schema")
        {
            print(format!("{key}: {}", value.as_str().map_or(value.to_string(), str::to_owned)))?;
        }
        print_lines(format!("config_schema: {schema:#}"))?;
    }
    Ok(0)
}
