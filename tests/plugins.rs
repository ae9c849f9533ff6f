//! What an author of plugins does, from the folder that `plugin new` makes to a component that the host runs; and the
//! plugins that must run for ever.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails says where")]

#[path = "servers/registry.rs"]
mod registry;
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

/// What an author does in a folder, with the languages' tools at hand.
fn author(workspace: &Workspace, arguments: &[&str]) -> workspace::Output {
    let tools = std::env::var("SLUICEBOX_COMPONENTIZE").unwrap_or_default();
    let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicebox"));
    command.args(arguments).current_dir(workspace.path()).env("PATH", &path);
    finish(command.env_remove("CARGO_TARGET_DIR").env("CARGO_NET_OFFLINE", "true"))
}

/// Makes a plugin, builds it with the language's own tools, runs its samples, and imports through it.
fn check(language: &str) {
    let workspace = Workspace::empty();
    let sluicebox = |arguments: &[&str]| author(&workspace, arguments);
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

/// The line of a file where a text first stands, from 1.
fn line_of(workspace: &Workspace, file: &str, text: &str) -> usize {
    let content = fs::read_to_string(workspace.path().join(file)).unwrap();
    content.lines().position(|line| line.contains(text)).unwrap() + 1
}

#[test]
fn a_trap_names_the_line_of_its_source() {
    let workspace = Workspace::empty();
    assert_eq!(author(&workspace, &["plugin", "new", "shout"]).code, 0);
    let source = workspace.path().join("shout/src/lib.rs");
    let code = fs::read_to_string(&source).unwrap();
    let begin =
        code.find("fn process").unwrap() + code[code.find("fn process").unwrap()..].find('{').unwrap() + 1;
    let code =
        format!("{}\n        assert!(batch.rows() > 1000, \"few rows\");{}", &code[..begin], &code[begin..]);
    fs::write(&source, code).unwrap();
    let tested = author(&workspace, &["plugin", "test", "shout"]);
    assert_eq!(tested.code, 1, "{}{}", tested.stdout, tested.stderr);
    let place = format!("src/lib.rs:{}", line_of(&workspace, "shout/src/lib.rs", "few rows"));
    let said = format!("{}{}", tested.stdout, tested.stderr);
    assert!(
        said.contains("it broke off in `process`: wasm trap") && said.contains(&place),
        "{place}: {said}"
    );
}

#[test]
fn a_python_program_reaches_no_file_network_or_environment() {
    let workspace = Workspace::empty();
    assert_eq!(author(&workspace, &["plugin", "new", "reach", "--language", "python"]).code, 0);
    // Each attempt is tried on a row of its own; what it reached stands in the row, or the name of the error.
    let attempts = r#"
import os, socket, time

def attempt(name):
    try:
        if name == "read": return open("/etc/passwd").read()
        if name == "write": return str(open("/tmp/sluicebox", "w"))
        if name == "list": return str(os.listdir("/"))
        if name == "environment": return str(dict(os.environ))
        if name == "connect": return str(socket.create_connection(("127.0.0.1", 9), timeout=1))
        if name == "resolve": return str(socket.getaddrinfo("localhost", 80))
        if name == "listen":
            server = socket.socket(); server.bind(("127.0.0.1", 0)); return str(server)
        if name == "time": return str(int(time.time()))
        if name == "random": return os.urandom(4).hex()
    except Exception as error:
        return "refused: " + type(error).__name__
"#;
    let source = workspace.path().join("reach/processor.py");
    let code = fs::read_to_string(&source).unwrap();
    let code = code.replace("class Session", &format!("{attempts}\n\nclass Session")).replace(
        "column_of([cell.upper() for cell in cells])",
        "column_of([str(attempt(cell)) for cell in cells])",
    );
    fs::write(&source, code).unwrap();
    workspace.write(
        "reach/samples/basic.csv",
        "name\nread\nwrite\nlist\nenvironment\nconnect\nresolve\nlisten\ntime\nrandom\n",
    );
    let blessed = author(&workspace, &["plugin", "test", "reach", "--bless"]);
    assert_eq!(blessed.code, 0, "{}{}", blessed.stdout, blessed.stderr);
    let reached = fs::read_to_string(workspace.path().join("reach/samples/basic.expected.csv")).unwrap();
    let reached: Vec<&str> = reached.lines().skip(1).collect();
    let (refused, fixed) = reached.split_at(7);
    for (attempt, found) in
        ["read", "write", "list", "environment", "connect", "resolve", "listen"].iter().zip(refused)
    {
        assert!(found.starts_with("refused: ") || *found == "{}", "{attempt}: {found}");
    }
    assert_eq!(fixed.first(), Some(&"0"), "the time stands still");
    let again = author(&workspace, &["plugin", "test", "reach", "--component", "reach/reach.wasm"]);
    assert_eq!(again.code, 0, "random numbers are the same in every run: {}{}", again.stdout, again.stderr);
}

#[test]
fn a_plugin_goes_through_a_registry() {
    let registry = registry::Registry::start();
    let workspace = Workspace::empty();
    workspace.write("schema.toml", "");
    let sluicebox = |arguments: &[&str]| workspace.sluicebox(arguments);
    let built = Workspace::repository().join("plugins/built/email-normalizer.wasm");
    let place = format!("oci://127.0.0.1:{}/team/mail:1.0.0", registry.port);
    let pushed = sluicebox(&["plugin", "push", &built.display().to_string(), &place]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    let installed = sluicebox(&["plugin", "install", &place]);
    assert_eq!(installed.code, 0, "{}", installed.stderr);
    assert_eq!(fs::read(workspace.path().join("plugins/mail.wasm")).unwrap(), fs::read(&built).unwrap());

    let missing = sluicebox(&["plugin", "install", &place.replace("1.0.0", "2.0.0")]);
    assert_eq!(missing.code, 1, "{}", missing.stdout);
    assert!(
        missing.stderr.contains("team/mail:2.0.0: ") && missing.stderr.contains("anifest"),
        "{}",
        missing.stderr
    );
    workspace.write("no.wasm", "no plugin");
    let refused = sluicebox(&["plugin", "push", "no.wasm", &place]);
    assert!(refused.stderr.contains("not a WebAssembly component"), "{}", refused.stderr);
    let nobody = sluicebox(&["plugin", "install", "oci://127.0.0.1:1/team/mail:1.0.0"]);
    assert_eq!(nobody.code, 1, "{}", nobody.stdout);
    assert_eq!(sluicebox(&["plugin", "install", "oci://"]).code, 2);
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
