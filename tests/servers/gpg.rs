//! GnuPG with its own home folder.

use std::io::Write;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::workspace::finish;
use crate::workspace::wait::{PATIENCE, wait_with_output};

pub(crate) struct Gpg {
    home: TempDir,
}

#[expect(dead_code, reason = "not every test needs every way to work")]
impl Gpg {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child = Command::new("gpg")
            .arg("--homedir")
            .arg(self.home.path())
            .args([
                "--batch",
                "--yes",
                "--quiet",
                "--no-tty",
                "--trust-model",
                "always",
                "--pinentry-mode",
                "loopback",
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feed = std::thread::spawn(move || stdin.write_all(&input));
        let output = wait_with_output(child, &format!("gpg {arguments:?}"), PATIENCE);
        // A program may close its input early.
        let _ = feed.join().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Makes a key and returns its private form, armored. `kind` is an algorithm of GnuPG.
    pub(crate) fn key(&self, user: &str, kind: &str, passphrase: &str) -> Vec<u8> {
        self.run(&["--passphrase", passphrase, "--quick-generate-key", user, kind, "default", "never"], b"");
        self.run(&["--passphrase", passphrase, "--armor", "--export-secret-keys", user], b"")
    }

    /// Adds a key for encryption to that of a user, which has no passphrase, and returns the private form of both, armored.
    pub(crate) fn encryption_key(&self, user: &str, kind: &str) -> Vec<u8> {
        let listed = String::from_utf8(self.run(&["--with-colons", "--list-keys", user], b"")).unwrap();
        let fingerprint = listed.lines().find_map(|line| line.strip_prefix("fpr:")).unwrap();
        let fingerprint = fingerprint.trim_matches(':');
        self.run(&["--passphrase", "", "--quick-add-key", fingerprint, kind, "encr", "never"], b"");
        self.run(&["--passphrase", "", "--armor", "--export-secret-keys", user], b"")
    }

    /// Encrypts a text for some users.
    pub(crate) fn encrypt(&self, users: &[&str], options: &[&str], text: &[u8]) -> Vec<u8> {
        let mut arguments = options.to_vec();
        for user in users {
            arguments.extend(["--recipient", user]);
        }
        arguments.push("--encrypt");
        self.run(&arguments, text)
    }

    /// The public key of a user, armored.
    pub(crate) fn public_key(&self, user: &str) -> Vec<u8> {
        self.run(&["--armor", "--export", user], b"")
    }

    /// Decrypts a message with one of the keys.
    pub(crate) fn decrypt(&self, passphrase: &str, message: &[u8]) -> Vec<u8> {
        self.run(&["--passphrase", passphrase, "--decrypt"], message)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // A test that fails already must not panic once more: the agent then ends when it misses its folder.
        if !std::thread::panicking() {
            let mut end = Command::new("gpgconf");
            finish(end.arg("--homedir").arg(self.home.path()).args(["--kill", "gpg-agent"]));
        }
    }
}
