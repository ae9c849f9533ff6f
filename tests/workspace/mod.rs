//! A working folder of its own for each test, and the program that works in it.

pub(crate) mod wait;

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use regex::Regex;
use tempfile::TempDir;
use wait::{Lines, PATIENCE, wait_for, wait_for_exit, wait_with_output};

/// A working folder. It is deleted at the end.
pub(crate) struct Workspace {
    folder: TempDir,
}

/// What a command printed, and its exit code: -1 if a signal ended it.
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

    /// A copy of a folder, without the files and folders of some names at its top.
    pub(crate) fn copy_of(folder: &Path, without: &[&str]) -> Self {
        let workspace = Self::empty();
        copy(folder, workspace.path(), without);
        workspace
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file, and makes its folder.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The program with some arguments, to be run in this folder. It has no environment: none of the tester's settings
    /// reach it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicebox"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null()).env_clear();
        command.env("SLUICEBOX_STRICT", "1");
        command
    }

    /// Runs the program with some arguments.
    pub(crate) fn sluicebox(&self, arguments: &[&str]) -> Output {
        finish(&mut self.command(arguments))
    }

    /// Runs the program with some arguments, which must succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Output {
        let output = self.sluicebox(arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {}{}", output.stdout, output.stderr);
        output
    }

    /// The bytes that a command reads and writes until it ends: a measure of its progress that doesn't depend on the
    /// speed of the machine.
    pub(crate) fn moved_by(&self, arguments: &[&str]) -> u64 {
        let mut process = self.silent(arguments);
        let mut moved = 0;
        let status = wait_for(&format!("{arguments:?} to end"), || {
            moved = moved.max(moved_so_far(&process));
            process.try_wait().unwrap()
        });
        assert!(status.success(), "{arguments:?}: {status}");
        moved
    }

    /// Kills a command once it has read and written a number of bytes. Returns whether that cut it short.
    pub(crate) fn killed_at(&self, arguments: &[&str], bytes: u64) -> bool {
        self.killed_when(arguments, |process| moved_so_far(process) >= bytes)
    }

    /// Kills a command once `condition` holds. Returns whether that cut it short.
    pub(crate) fn killed_when(&self, arguments: &[&str], condition: impl Fn(&Child) -> bool) -> bool {
        kill_when(&mut self.silent(arguments), condition)
    }

    /// Starts the program with some arguments. What it prints is lost.
    pub(crate) fn silent(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Waits for a process that was started with pipes.
    pub(crate) fn finish(process: Child) -> Output {
        output(wait_with_output(process, "the process", PATIENCE))
    }

    /// Waits until a process has ended.
    pub(crate) fn exit_of(process: &mut Child, what: &str) -> ExitStatus {
        wait_for_exit(process, what)
    }

    /// The lines of a stream. `what` names the stream for the message of a test that waits too long.
    pub(crate) fn lines(what: &'static str, stream: impl Read + Send + 'static) -> Lines {
        Lines::of(what, stream)
    }

    /// Waits until a client connects. Reads and writes of the connection have a deadline.
    pub(crate) fn accept(listener: &TcpListener, what: &str) -> TcpStream {
        wait::accept(listener, what)
    }

    /// The root of the repository.
    pub(crate) fn repository() -> PathBuf {
        Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..")
    }

    /// Runs a script of the shell in this folder.
    pub(crate) fn shell(&self, script: &str) -> Output {
        let mut shell = Command::new("sh");
        finish(shell.args(["-c", script]).current_dir(self.path()).stdin(Stdio::null()).env("LC_ALL", "C"))
    }

    /// The transcript with everything replaced that differs from run to run: times, durations, ids of runs and paths by a
    /// word, and the ids of records by numbers, in the order in which they appear.
    pub(crate) fn normalized(&self, transcript: &str) -> String {
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

/// Kills a process once `condition` holds. Returns whether that cut it short.
pub(crate) fn kill_when(process: &mut Child, condition: impl Fn(&Child) -> bool) -> bool {
    wait_for("the moment to kill the process", || {
        (process.try_wait().unwrap().is_some() || condition(process)).then_some(())
    });
    process.kill().unwrap();
    // A process that ended by itself has an exit code.
    process.wait().unwrap().code().is_none()
}

/// The bytes that a process has read and written so far (proc(5), `/proc/PID/io`); 0 if it has ended.
pub(crate) fn moved_so_far(process: &Child) -> u64 {
    let account = fs::read_to_string(format!("/proc/{}/io", process.id())).unwrap_or_default();
    let moved =
        account.lines().filter_map(|line| line.strip_prefix("rchar: ").or(line.strip_prefix("wchar: ")));
    moved.map(|bytes| bytes.parse::<u64>().unwrap()).sum()
}

/// Runs a command and waits until it has ended.
pub(crate) fn finish(command: &mut Command) -> Output {
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    output(wait_with_output(process, &format!("{command:?}"), PATIENCE))
}

fn output(output: std::process::Output) -> Output {
    Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    }
}

fn copy(from: &Path, to: &Path, without: &[&str]) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if without.contains(&entry.file_name().to_str().unwrap()) {
            continue;
        }
        if entry.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target, &[]);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
