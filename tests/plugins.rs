//! The work of a plugin's author, from the folder that `plugin new` creates to a component that the host runs; and the
//! plugins that every later version must run.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that fails says where")]

#[path = "servers/registry.rs"]
mod registry;
mod workspace;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, SystemTime};

use workspace::wait::wait_for;
use workspace::{Workspace, finish};

/// Runs the samples of a built plugin.
fn samples(folder: &str, component: &str) {
    let workspace = Workspace::empty();
    let place = |path: &str| Workspace::repository().join(path).display().to_string();
    let tested = workspace.sluicebox(&["plugin", "test", &place(folder), "--component", &place(component)]);
    assert_eq!(tested.code, 0, "{folder}: {}{}", tested.stdout, tested.stderr);
    assert!(tested.stdout.starts_with("ok: samples/"), "{}", tested.stdout);
}

#[test]
fn bundled_plugins_pass_their_samples() {
    for name in ["email-normalizer", "field-transform", "phone-normalizer", "pseudonymizer", "row-filter"] {
        samples(&format!("plugins/{name}"), &format!("plugins/built/{name}.wasm"));
    }
}

#[test]
fn plugins_of_every_version_of_the_contract_still_run() {
    samples("tests/frozen/1.0.0", "tests/frozen/1.0.0/processor.wasm");
}

/// Runs a command of an author, with the tools of the languages in reach.
fn author(workspace: &Workspace, arguments: &[&str]) -> workspace::Output {
    let tools = std::env::var("SLUICEBOX_COMPONENTIZE").unwrap_or_default();
    let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicebox"));
    command.args(arguments).current_dir(workspace.path()).env("PATH", &path);
    finish(command.env_remove("CARGO_TARGET_DIR").env("CARGO_NET_OFFLINE", "true"))
}

/// Creates a plugin, builds it with the tools of its language, runs its samples, and imports with it.
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
    let printed = format!("{}{}", tested.stdout, tested.stderr);
    assert!(
        printed.contains("it crashed in `process`: wasm trap") && printed.contains(&place),
        "{place}: {printed}"
    );
}

#[test]
fn a_python_program_reaches_no_file_network_or_environment() {
    let workspace = Workspace::empty();
    assert_eq!(author(&workspace, &["plugin", "new", "reach", "--language", "python"]).code, 0);
    // Each attempt has a row of its own. The row then holds what the attempt reached, or the name of the error.
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

    assert!(!installed.stderr.contains("the tag says"), "{}", installed.stderr);

    let other = place.replace("1.0.0", "v1.1.0");
    let pushed = sluicebox(&["plugin", "push", &built.display().to_string(), &other]);
    assert!(pushed.stderr.contains("the tag says version 1.1.0, the plugin says 1.0.0"), "{}", pushed.stderr);
    let installed = sluicebox(&["plugin", "install", &other]);
    assert_eq!(installed.code, 0, "{}", installed.stderr);
    assert!(
        installed.stderr.contains("the tag says version 1.1.0, the plugin says 1.0.0"),
        "{}",
        installed.stderr
    );
    let latest = place.replace("1.0.0", "latest");
    let pushed = sluicebox(&["plugin", "push", &built.display().to_string(), &latest]);
    assert_eq!((pushed.code, pushed.stderr.contains("the tag says")), (0, false), "{}", pushed.stderr);

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
    let unreachable = sluicebox(&["plugin", "install", "oci://127.0.0.1:1/team/mail:1.0.0"]);
    assert_eq!(unreachable.code, 1, "{}", unreachable.stdout);
    assert_eq!(sluicebox(&["plugin", "install", "oci://"]).code, 2);
}

#[test]
fn a_registry_that_refuses_leads_to_docker_login() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            BufReader::new(&connection).lines().map_while(Result::ok).find(String::is_empty);
            let _ = connection
                .write_all(b"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let workspace = Workspace::empty();
    workspace.write("schema.toml", "");
    let refused =
        workspace.sluicebox(&["plugin", "install", &format!("oci://127.0.0.1:{port}/team/mail:1.0.0")]);
    assert_eq!(refused.code, 1, "{}", refused.stdout);
    let expected = format!("no credentials are saved for it; `docker login 127.0.0.1:{port}` saves some");
    assert!(refused.stderr.contains(&expected), "{}", refused.stderr);
}

#[test]
fn a_component_older_than_its_sources_is_not_installed() {
    let workspace = Workspace::empty();
    workspace.write("schema.toml", "");
    let built = Workspace::repository().join("plugins/built/email-normalizer.wasm");
    workspace.write("mail/mail.wasm", fs::read(built).unwrap());
    workspace.write("mail/src/lib.rs", "");
    let changed = |file: &str, time: SystemTime| {
        fs::File::options()
            .write(true)
            .open(workspace.path().join(file))
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    let now = SystemTime::now();
    changed("mail/src/lib.rs", now);
    changed("mail/mail.wasm", now - Duration::from_secs(1));
    for arguments in
        [&["plugin", "install", "mail"][..], &["plugin", "push", "mail", "oci://127.0.0.1:1/mail:1"]]
    {
        let stale = workspace.sluicebox(arguments);
        assert_eq!(stale.code, 2, "{}", stale.stdout);
        let older = "mail.wasm is older than ";
        assert!(
            stale.stderr.contains(older) && stale.stderr.contains("`sluicebox plugin build "),
            "{}",
            stale.stderr
        );
    }
    changed("mail/mail.wasm", now);
    workspace.write("mail/samples/new.toml", "");
    let fresh = workspace.sluicebox(&["plugin", "install", "mail"]);
    assert_eq!(fresh.code, 0, "{}", fresh.stderr);
}

#[test]
fn an_installed_plugin_has_a_name_of_its_own() {
    let workspace = Workspace::empty();
    workspace.write("schema.toml", "");
    let built = Workspace::repository().join("plugins/built/email-normalizer.wasm").display().to_string();
    let install = |name: &[&str]| workspace.sluicebox(&[&["plugin", "install", &built], name].concat());
    for name in ["row-filter", "my plugin", "a/b", ""] {
        let refused = install(&["--name", name]);
        assert_eq!(refused.code, 2, "{name}: {}", refused.stdout);
    }
    let bundled = install(&[]);
    let expected = "`email-normalizer` is the name of a bundled plugin; --name gives it another name";
    assert!(bundled.stderr.contains(expected), "{}", bundled.stderr);
    assert!(!workspace.path().join("plugins").exists());
    assert_eq!(install(&["--name", "mail_2"]).code, 0);
}

#[test]
fn a_sample_that_fails_does_not_end_the_others() {
    let workspace = Workspace::empty();
    workspace.write("samples/a.csv", "email\nA@X.EXAMPLE\n");
    workspace.write("samples/b.csv", "email\nb@x.example\n");
    workspace.write("samples/b.toml", "columns = ['mail']");
    let rows: Vec<String> = (0..30_000).map(|row| format!("{row}@x.example\n")).collect();
    workspace.write("samples/c.csv", format!("email\n{}", rows.concat()));
    workspace.write("samples/c.toml", "columns = ['email']");
    workspace.write("samples/c.expected.csv", format!("email\n{}{}", rows[..7].concat(), rows[8..].concat()));
    workspace.write("samples/d.csv", "email\nd@x.example\n");
    workspace.write("samples/d.toml", "columns = ['email']");
    workspace.write("samples/d.expected.csv", "email\nd@x.example\n");
    let built = Workspace::repository().join("plugins/built/email-normalizer.wasm").display().to_string();
    let tested = workspace.sluicebox(&["plugin", "test", ".", "--component", &built]);
    assert_eq!(tested.code, 1, "{}", tested.stderr);
    let lines: Vec<&str> = tested.stdout.lines().collect();
    let expected = [
        "failed: samples/a.csv",
        "samples/a.toml: No such file",
        "failed: samples/b.csv",
        "there is no column `mail`; found `email`",
        "differs: samples/c.csv",
        "c.expected.csv, an unexpected row before row 8: [\"7@x.example\"]",
        "ok: samples/d.csv",
    ];
    assert_eq!(lines.len(), expected.len(), "{}", tested.stdout);
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.contains(expected), "{expected}: {}", tested.stdout);
    }
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

/// The most memory that an import takes with three processors, each a plugin in another file.
fn import_with_three(workspace: &Workspace) -> u64 {
    let mut process = workspace.silent(&["run"]);
    let mut peak = 0;
    let status = wait_for("the run to end", || {
        let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
        let now = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = now.map_or(peak, |kilobytes| kilobytes.parse::<u64>().unwrap() * 1024);
        process.try_wait().unwrap()
    });
    assert!(status.success(), "{status}");
    peak
}

#[test]
fn three_interpreters_stay_within_the_memory_of_a_run() {
    let workspace = Workspace::empty();
    assert_eq!(author(&workspace, &["plugin", "new", "shout", "--language", "python"]).code, 0);
    assert_eq!(author(&workspace, &["plugin", "build", "shout"]).code, 0);
    let component = fs::read(workspace.path().join("shout/shout.wasm")).unwrap();
    let mut processors = String::new();
    for number in 0..3 {
        // A section that nothing reads makes another plugin of it.
        let other = [&component[..], &[0, 2, 1, b'0' + number]].concat();
        workspace.write(&format!("plugins/shout{number}.wasm"), other);
        processors.push_str(&format!(
            "[[import_profiles.processors]]\nplugin = 'shout{number}'\nconfig = {{ column = 'name' }}\n\
             limits = {{ batch_time = '60s', open_time = '60s' }}\n"
        ));
    }
    workspace.write("sluicebox.toml", "[limits]\ncompile_time = '300s'\n");
    workspace.write("schema.toml", "[properties.name]\nunique = true\n");
    workspace.write(
        "connections/shop.toml",
        format!(
            "[location]\nkind = 'directory'\npath = '.'\n[[import_profiles]]\nname = 'names'\nfiles = 'in.csv'\n{processors}\
             [[import_profiles.identifiers]]\ncolumn = 'name'\nproperty = 'name'\n"
        ),
    );
    let rows: String = (0..200_000).map(|row| format!("a name of some length of person {row}\n")).collect();
    workspace.write("in.csv", format!("name\n{rows}"));
    for state in ["cold", "compiled"] {
        let peak = import_with_three(&workspace);
        assert!(peak < (512 + 100) << 20, "{state}: {peak} bytes");
        fs::remove_dir_all(workspace.path().join("data/profiles")).unwrap();
    }
}
