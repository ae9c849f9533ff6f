//! What an author of plugins does, from the folder that `plugin new` makes to a component that the host runs; and the
//! plugins that must run for ever.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod workspace;

use std::fs;
use std::process::Command;

use workspace::{Workspace, finish};

/// Runs the samples of a plugin that is built.
fn samples(folder: &str, component: &str) {
    let workspace = Workspace::empty();
    let place = |path: &str| Workspace::repository().join(path).display().to_string();
    let tested = workspace.sluicebox(&["plugin", "test", &place(folder), "--component", &place(component)]);
    assert_eq!(tested.code, 0, "{folder}: {}{}", tested.stdout, tested.stderr);
    assert!(tested.stdout.starts_with("ok: samples/"), "{}", tested.stdout);
}

#[test]
fn the_samples_of_bundled_plugins_come_out_as_expected() {
    for name in ["email-normalizer", "field-transform", "phone-normalizer", "pseudonymizer", "row-filter"] {
        samples(&format!("plugins/{name}"), &format!("plugins/built/{name}.wasm"));
    }
}

#[test]
fn plugins_of_every_version_of_the_contract_still_run() {
    samples("tests/frozen/1.0.0", "tests/frozen/1.0.0/processor.wasm");
}

/// Makes a plugin, builds it with the language's own tools, runs its samples, and imports through it.
fn check(language: &str) {
    let workspace = Workspace::empty();
    let tools = std::env::var("SLUICEBOX_COMPONENTIZE").unwrap_or_default();
    let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
    let sluicebox = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicebox"));
        command.args(arguments).current_dir(workspace.path()).env("PATH", &path);
        finish(command.env_remove("CARGO_TARGET_DIR").env("CARGO_NET_OFFLINE", "true"))
    };
    let made = sluicebox(&["plugin", "new", "shout", "--language", language]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let tested = sluicebox(&["plugin", "test", "shout"]);
    assert_eq!((tested.code, tested.stdout.as_str()), (0, "ok: samples/basic.csv\n"), "{}", tested.stderr);

    let expected = workspace.path().join("shout/samples/basic.expected.csv");
    fs::write(&expected, fs::read_to_string(&expected).unwrap().replace("ANN", "ANNE")).unwrap();
    let component = ["plugin", "test", "shout", "--component", "shout/shout.wasm"];
    let differs = sluicebox(&component);
    assert_eq!(differs.code, 1, "{}", differs.stderr);
    assert!(differs.stdout.contains("row 1, `name`: expected \"ANNE\", found \"ANN\""), "{}", differs.stdout);

    workspace.write("schema.toml", "[properties.name]\nunique = true\n");
    workspace.write(
        "connections/shop.toml",
        "[location]\nkind = 'directory'\npath = '.'\n[[import_profiles]]\nname = 'names'\nfiles = 'in.csv'\n\
         [[import_profiles.processors]]\nplugin = 'shout'\nconfig = { column = 'name' }\n\
         [[import_profiles.identifiers]]\ncolumn = 'name'\nproperty = 'name'\n",
    );
    workspace.write("in.csv", "name\nann\n");
    let installed = sluicebox(&["plugin", "install", "shout"]);
    assert_eq!(installed.code, 0, "{}", installed.stderr);
    assert_eq!(sluicebox(&["plugin", "lock"]).code, 0);
    let run = sluicebox(&["run", "--json"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(
        run.stdout.contains("\"processors\":[{\"plugin\":\"shout\",\"read\":1,\"kept\":1,"),
        "{}",
        run.stdout
    );
    assert!(sluicebox(&["profile", "list", "--json"]).stdout.contains("{\"name\":\"ANN\"}"));

    let built = Workspace::repository().join("plugins/built/email-normalizer.wasm");
    fs::copy(built, workspace.path().join("plugins/shout.wasm")).unwrap();
    let other = sluicebox(&["run"]);
    assert_eq!(other.code, 2, "{}", other.stdout);
    assert!(other.stderr.contains("plugin shout is not the one in plugins.lock"), "{}", other.stderr);
}

#[test]
fn rust() {
    check("rust");
}

#[test]
fn python() {
    check("python");
}

#[test]
fn javascript() {
    check("javascript");
}
