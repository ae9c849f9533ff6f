//! Puts the bundled plugins, as `cargo xtask build-plugins` left them in `plugins/built`, into the binary.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let manifest = env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?;
    let built = Path::new(&manifest).join("../plugins/built");
    println!("cargo::rerun-if-changed={}", built.display());
    let mut components = Vec::new();
    if built.is_dir() {
        for entry in fs::read_dir(built.canonicalize()?)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "wasm") {
                println!("cargo::rerun-if-changed={}", path.display());
                components.push(path);
            }
        }
    }
    components.sort();
    let mut code = String::from("&[\n");
    for path in components {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        writeln!(code, "    ({name:?}, include_bytes!({:?})),", path.display().to_string())
            .map_err(io::Error::other)?;
    }
    code.push_str("]\n");
    let out = env::var("OUT_DIR").map_err(io::Error::other)?;
    fs::write(Path::new(&out).join("bundled.rs"), code)?;
    sdk(&Path::new(&manifest).join("..").canonicalize()?, Path::new(&out))
}

/// What `sluicebox plugin new` writes of the SDK: its sources, and a manifest that needs no workspace.
fn sdk(root: &Path, out: &Path) -> io::Result<()> {
    let sources = root.join("plugin-sdk/src");
    println!("cargo::rerun-if-changed={}", root.join("plugin-sdk").display());
    println!("cargo::rerun-if-changed={}", root.join("Cargo.toml").display());
    let workspace = fs::read_to_string(root.join("Cargo.toml"))?;
    let version = |name: &str| {
        let line = workspace.lines().find(|line| line.split_once(" = ").is_some_and(|(key, _)| key == name));
        line.map(str::to_owned).ok_or_else(|| io::Error::other(format!("Cargo.toml has no {name}")))
    };
    let manifest = fs::read_to_string(root.join("plugin-sdk/Cargo.toml"))?;
    let mut own = String::new();
    for line in manifest.lines() {
        let name = line.strip_suffix(" = { workspace = true }").or(line.strip_suffix(".workspace = true"));
        match name {
            Some(name) => writeln!(own, "{}", version(name)?),
            None if line == "[lints]" || line == "workspace = true" => Ok(()),
            None => writeln!(own, "{line}"),
        }
        .map_err(io::Error::other)?;
    }
    let mut files = vec![("Cargo.toml".to_owned(), own)];
    for entry in fs::read_dir(sources)? {
        let entry = entry?;
        files.push((
            format!("src/{}", entry.file_name().to_string_lossy()),
            fs::read_to_string(entry.path())?,
        ));
    }
    files.sort();
    fs::write(out.join("sdk.rs"), format!("&{files:?}"))?;
    fs::write(out.join("schemars.txt"), version("schemars")?)?;
    fs::write(out.join("serde.txt"), version("serde")?)
}
