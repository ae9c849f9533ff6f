//! One test per folder of `tests/cases`. A case is a working folder with a file `commands`, and a file `expected` with
//! what each command prints and its exit code. A line of `commands` has the arguments of `sluicebox`; a line that begins
//! with `!` is for the shell. The argument `RUN` stands for the id of the first run that has rejected rows.
//!
//! `cargo test --release --workspace --test cases -- NAME` runs the cases whose names contain NAME. With `BLESS=1`, each
//! case that runs writes its `expected` anew: read the difference.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that fails says where")]

mod workspace;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use similar::TextDiff;
use workspace::Workspace;

/// Files of a case that are not part of its working folder.
const OF_THE_CASE: [&str; 2] = ["commands", "expected"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let folder = Workspace::repository().join("tests/cases");
    match cases(&folder) {
        Ok(cases) => {
            let trials = cases.into_iter().map(|(name, case)| Trial::test(name, move || check(&case)));
            libtest_mimic::run(&arguments, trials.collect()).exit_code()
        }
        Err(problems) => {
            // Even if other cases are meant to run: a case that cannot run must not go unnoticed.
            eprintln!("{}", problems.join("\n"));
            ExitCode::FAILURE
        }
    }
}

/// Every case with its name, or what is wrong with the folder.
fn cases(folder: &Path) -> Result<Vec<(String, PathBuf)>, Vec<String>> {
    let (mut cases, mut problems) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).unwrap() {
        let case = entry.unwrap().path();
        match name(&case) {
            Ok(name) => cases.push((name, case)),
            Err(problem) => problems.push(format!("{}: {problem}", case.display())),
        }
    }
    if cases.is_empty() {
        problems.push(format!("{}: there are no cases", folder.display()));
    }
    cases.sort();
    if problems.is_empty() { Ok(cases) } else { Err(problems) }
}

/// The name of a case that can run.
fn name(case: &Path) -> Result<String, &'static str> {
    let name = case.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_word = |word: &str| {
        !word.is_empty() && word.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
    };
    if !case.is_dir() {
        return Err("not a folder");
    }
    if !name.split('-').all(is_word) {
        return Err("the name of a case consists of a-z, 0-9 and single `-` between words");
    }
    match fs::read_to_string(case.join("commands")) {
        Ok(commands) if commands.trim().is_empty() => Err("the file `commands` is empty"),
        Ok(_) => Ok(name.to_owned()),
        Err(_) => Err("there is no file `commands`"),
    }
}

/// Runs a case and compares what it prints with `expected`.
fn check(case: &Path) -> Result<(), Failed> {
    let (found, file) = (transcript(case), case.join("expected"));
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, &found).unwrap();
        return Ok(());
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    if found == expected {
        return Ok(());
    }
    let difference = TextDiff::from_lines(&expected, &found);
    let difference = difference.unified_diff().context_radius(3).header("expected", "found").to_string();
    Err(format!("{}\n{difference}", case.display()).into())
}

/// The first run that has rejected rows. Ids of runs begin with their time.
fn first_run(workspace: &Workspace) -> String {
    let folders = fs::read_dir(workspace.path().join("data/rejected")).unwrap();
    folders.map(|folder| folder.unwrap().file_name().into_string().unwrap()).min().unwrap()
}

/// The commands of a case, with what each prints.
fn transcript(case: &Path) -> String {
    let workspace = Workspace::copy_of(case, &OF_THE_CASE);
    let commands = fs::read_to_string(case.join("commands")).unwrap();
    let mut transcript = String::new();
    for command in commands.lines() {
        transcript.push_str(&format!("$ {command}\n"));
        let output = match command.strip_prefix('!') {
            Some(script) => workspace.shell(script),
            None => {
                let run = if command.contains("RUN") { first_run(&workspace) } else { String::new() };
                let words = command.split(' ').map(|word| if word == "RUN" { run.as_str() } else { word });
                workspace.sluicebox(&words.collect::<Vec<_>>())
            }
        };
        transcript.push_str(&output.stdout);
        for line in output.stderr.lines() {
            transcript.push_str(&format!("stderr: {line}\n"));
        }
        transcript.push_str(&format!("exit {}\n\n", output.code));
    }
    workspace.normalized(&transcript)
}
