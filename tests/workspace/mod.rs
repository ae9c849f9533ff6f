//! A working folder of its own for each test, and the binary that works in it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use regex::Regex;
use tempfile::TempDir;

pub(crate) struct Workspace {
    folder: TempDir,
}

pub(crate) struct Output {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

#[cfg_attr(test, expect(dead_code, reason = "not every test needs every way to work"))]
impl Workspace {
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn copy_of(case: &Path) -> Self {
        let workspace = Self::empty();
        copy(case, workspace.path());
        workspace
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicebox"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null()).env_clear();
        command
    }

    pub(crate) fn sluicebox(&self, arguments: &[&str]) -> Output {
        finish(&mut self.command(arguments))
    }

    /// Bytes that a command reads and writes until it ends: how far a process has come, on a machine of any speed.
    pub(crate) fn moved_by(&self, arguments: &[&str]) -> u64 {
        let mut child = self.silent(arguments);
        let mut moved = 0;
        let status = loop {
            moved = moved.max(moved_so_far(&child));
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None => std::thread::yield_now(),
            }
        };
        assert!(status.success(), "{arguments:?}: {status}");
        moved
    }

    /// Kills a command when it has read and written so many bytes; whether it was cut short.
    pub(crate) fn killed_at(&self, arguments: &[&str], bytes: u64) -> bool {
        self.killed_when(arguments, |child| moved_so_far(child) >= bytes)
    }

    /// Kills a command when it is so; whether it was cut short.
    pub(crate) fn killed_when(&self, arguments: &[&str], is_so: impl Fn(&Child) -> bool) -> bool {
        kill_when(&mut self.silent(arguments), is_so)
    }

    fn silent(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// What a process printed that was started with a pipe.
    pub(crate) fn finish(child: Child) -> Output {
        output(child.wait_with_output().unwrap())
    }

    /// The root of the repository that cargo runs the tests for.
    pub(crate) fn repository() -> PathBuf {
        Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..")
    }

    pub(crate) fn shell(&self, script: &str) -> Output {
        let mut shell = Command::new("sh");
        finish(shell.args(["-c", script]).current_dir(self.path()).stdin(Stdio::null()).env("LC_ALL", "C"))
    }

    /// The transcript with times, durations, ids of runs and paths replaced by what they are, and profiles' ids
    /// by numbers in the order of their appearance.
    pub(crate) fn without_what_varies(&self, transcript: &str) -> String {
        let mut text = transcript.replace(&self.path().display().to_string(), "DIR");
        for (pattern, with) in [
            (r#""(created|modified|started)":"[^"]*""#, r#""$1":"TIME""#),
            (r"(created|modified): 2[^\n]*", "$1: TIME"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", "TIME"),
            (r"\d{8}-\d{6}-[0-9a-f]{4}", "RUN"),
            (r"sha256 is [0-9a-f]{64}", "sha256 is SHA256"),
            (r#""duration_ms":\d+"#, r#""duration_ms":0"#),
            (r#""time_ms":\d+,"peak_memory":\d+"#, r#""time_ms":0,"peak_memory":0"#),
            (r#","stages_ms":\{[^}]*\}"#, ""),
        ] {
            text = Regex::new(pattern).unwrap().replace_all(&text, with).into_owned();
        }
        let ids = Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap();
        let mut seen = HashMap::new();
        ids.replace_all(&text, |id: &regex::Captures<'_>| {
            let next = seen.len() + 1;
            format!("ID{}", seen.entry(id[0].to_owned()).or_insert(next))
        })
        .into_owned()
    }
}

/// Kills a process when it is so; whether it was cut short.
pub(crate) fn kill_when(process: &mut Child, is_so: impl Fn(&Child) -> bool) -> bool {
    while process.try_wait().unwrap().is_none() && !is_so(process) {
        std::thread::yield_now();
    }
    process.kill().unwrap();
    !process.wait().unwrap().success()
}

/// What the process has read and written by now (proc(5), `/proc/PID/io`): 0 when there is nothing left of it.
pub(crate) fn moved_so_far(process: &Child) -> u64 {
    let account = fs::read_to_string(format!("/proc/{}/io", process.id())).unwrap_or_default();
    let moved =
        account.lines().filter_map(|line| line.strip_prefix("rchar: ").or(line.strip_prefix("wchar: ")));
    moved.map(|bytes| bytes.parse::<u64>().unwrap()).sum()
}

pub(crate) fn finish(command: &mut Command) -> Output {
    output(command.output().unwrap())
}

fn output(output: std::process::Output) -> Output {
    Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target: PathBuf = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else if !["commands", "expected"].contains(&entry.file_name().to_str().unwrap()) {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
