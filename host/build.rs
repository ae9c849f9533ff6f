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
    fs::write(Path::new(&out).join("bundled.rs"), code)
}
