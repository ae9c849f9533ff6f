use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::setup::{component, guest_cargo};
use crate::shell::{root, run};

/// Builds every bundled plugin as a component, into plugins/built, from where the host takes them up.
pub(crate) fn build() -> anyhow::Result<()> {
    build_from(&root().join("plugins"))
}

/// Builds the plugins that attack the host, for its tests.
pub(crate) fn build_hostile() -> anyhow::Result<()> {
    build_from(&root().join("tests/hostile"))
}

/// Builds each crate in a folder, into `built` in it.
fn build_from(folder: &Path) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    // One by one: built together, each would get the features that any of them asks for, and take longer to compile.
    for name in &names {
        run(guest_cargo()?.args(["--package", name]))?;
    }
    let built = folder.join("built");
    fs::create_dir_all(&built)?;
    for name in &names {
        let (from, to) = (component(name)?, built.join(format!("{name}.wasm")));
        let component = fs::read(&from).with_context(|| from.display().to_string())?;
        // The host is built again only if a plugin changed.
        if fs::read(&to).ok().as_ref() != Some(&component) {
            fs::write(&to, &component)?;
        }
        println!("{name}.wasm: {} KiB", component.len() / 1024);
    }
    Ok(())
}
