//! Every folder of `tests/cases` is a working folder with a file `commands` and a file `expected`: what each command
//! prints, and its exit code. A line that begins with `!` is for the shell. Run with `BLESS=1` to write `expected`
//! anew, and read the difference.
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod workspace;

use std::fs;
use std::path::Path;

use workspace::Workspace;

fn run_case(case: &Path) -> String {
    let workspace = Workspace::copy_of(case);
    let commands = fs::read_to_string(case.join("commands")).unwrap();
    let mut transcript = String::new();
    for command in commands.lines() {
        transcript.push_str(&format!("$ {command}\n"));
        let output = match command.strip_prefix('!') {
            Some(shell) => workspace.shell(shell),
            None => workspace.sluicebox(&command.split(' ').collect::<Vec<_>>()),
        };
        transcript.push_str(&output.stdout);
        for line in output.stderr.lines() {
            transcript.push_str(&format!("stderr: {line}\n"));
        }
        transcript.push_str(&format!("exit {}\n\n", output.code));
    }
    workspace.without_what_varies(&transcript)
}

#[test]
fn every_case_does_what_it_says() {
    let folder = Workspace::repository().join("tests/cases");
    let mut wrong = Vec::new();
    let mut cases: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    for case in cases {
        let (found, place) = (run_case(&case), case.join("expected"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&place, &found).unwrap();
        }
        let expected = fs::read_to_string(&place).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{}:\nexpected:\n{expected}\nfound:\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}
