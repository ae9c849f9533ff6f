use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::setup::{component, guest_cargo};
use crate::shell::{root, run};

/// Builds the bundled plugins as components in plugins/built, where the build of the host finds them.
pub(crate) fn build() -> anyhow::Result<()> {
    build_from(&root().join("plugins"))
}

/// Builds the plugins that attack the host, for its tests.
pub(crate) fn build_hostile() -> anyhow::Result<()> {
    build_from(&root().join("tests/hostile"))
}

/// Builds each crate in a folder; the components go to its subfolder `built`.
fn build_from(folder: &Path) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    // One by one: in one build, each crate would get the features that any of them needs, and compile longer.
    for name in &names {
        run(guest_cargo()?.args(["--package", name]))?;
    }
    let built = folder.join("built");
    fs::create_dir_all(&built)?;
    for name in &names {
        let (from, to) = (component(name)?, built.join(format!("{name}.wasm")));
        let component = fs::read(&from).with_context(|| from.display().to_string())?;
        // A file that is written again causes a new build of the host.
        if fs::read(&to).ok().as_ref() != Some(&component) {
            fs::write(&to, &component)?;
        }
        println!("{name}.wasm: {} KiB", component.len() / 1024);
    }
    Ok(())
}
