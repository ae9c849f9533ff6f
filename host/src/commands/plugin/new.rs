//! `sluicebox plugin new`. This binary holds everything that it writes.

use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::output::print;

/// A programming language of plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Language {
    Rust,
    Python,
    Javascript,
}

type Files = &'static [(&'static str, &'static str)];

/// The SDK and the contract of this version.
const SDK: Files = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));
const WIT: &str = include_str!("../../../../wit/processor.wit");
/// The lines for Cargo.toml with the crates that the macros of the SDK need.
const SCHEMARS: &str = include_str!(concat!(env!("OUT_DIR"), "/schemars.txt"));
const SERDE: &str = include_str!(concat!(env!("OUT_DIR"), "/serde.txt"));

macro_rules! template {
    ($language:literal: $($file:literal $(as $name:literal)?),* $(,)?) => {
        &[$((template!(@ $file $($name)?), include_str!(concat!("../../../templates/", $language, "/", $file)))),*]
    };
    (@ $file:literal) => { $file };
    (@ $file:literal $name:literal) => { $name };
}

const RUST: Files = template!("rust":
    "Cargo.toml", "src/lib.rs", "examples/native.rs", "README.md", "gitignore" as ".gitignore",
    "samples/basic.csv", "samples/basic.toml", "samples/basic.expected.csv", "samples/basic.rejected.csv",
);
const PYTHON: Files = template!("python":
    "app.py", "processor.py", "README.md", "gitignore" as ".gitignore",
    "samples/basic.csv", "samples/basic.toml", "samples/basic.expected.csv", "samples/basic.rejected.csv",
);
const JAVASCRIPT: Files = template!("javascript":
    "app.js", "package.json", "README.md", "gitignore" as ".gitignore",
    "samples/basic.csv", "samples/basic.toml", "samples/basic.expected.csv", "samples/basic.rejected.csv",
);

/// Creates the folder `name` with a plugin.
///
/// # Errors
/// If the name has other characters, or the folder is not empty.
pub(super) fn run(folder: &Path, name: &str, language: Language) -> Result<u8, Error> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if !starts || name.len() > 64 || !name.bytes().all(fits) || name.ends_with('-') {
        return Err(Error::Usage(format!(
            "`{name}` cannot be the name of a plugin: use lower-case letters, digits and `-`, at most 64, a letter first"
        )));
    }
    let place = folder.join(name);
    if place.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || place.is_file() {
        return Err(Error::Usage(format!("{} exists already", place.display())));
    }
    let (files, sdk) = match language {
        Language::Rust => (RUST, SDK),
        Language::Python => (PYTHON, &[][..]),
        Language::Javascript => (JAVASCRIPT, &[][..]),
    };
    for (file, text) in files {
        let text = text
            .replace("{{name}}", name)
            .replace("{{library}}", &name.replace('-', "_"))
            .replace("{{schemars}}", SCHEMARS)
            .replace("{{serde}}", SERDE);
        write(&place.join(file), &text)?;
    }
    for (file, text) in sdk {
        write(&place.join("sdk").join(file), text)?;
    }
    write(&place.join("wit/processor.wit"), WIT)?;
    print(format!("created {}", place.display()))?;
    print(format!("next: sluicebox plugin test {}", place.display()))?;
    Ok(0)
}

fn write(place: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    }
    fs::write(place, text).map_err(|error| Error::io(place, error))
}
