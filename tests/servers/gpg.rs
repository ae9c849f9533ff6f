//! GnuPG with a home folder of its own.

use std::io::Write;
use std::process::{Command, Stdio};

use tempfile::TempDir;

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
        let output = child.wait_with_output().unwrap();
        // Who has heard enough closes its input.
        let _ = feed.join().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Makes a key and gives its private form, armored. `kind` is an algorithm of GnuPG's.
    pub(crate) fn key(&self, user: &str, kind: &str, passphrase: &str) -> Vec<u8> {
        self.run(&["--passphrase", passphrase, "--quick-generate-key", user, kind, "default", "never"], b"");
        self.run(&["--passphrase", passphrase, "--armor", "--export-secret-keys", user], b"")
    }

    /// Encrypts for some users.
    pub(crate) fn encrypt(&self, users: &[&str], options: &[&str], text: &[u8]) -> Vec<u8> {
        let mut arguments = options.to_vec();
        for user in users {
            arguments.extend(["--recipient", user]);
        }
        arguments.push("--encrypt");
        self.run(&arguments, text)
    }

    /// The public form of a key, armored.
    pub(crate) fn public_key(&self, user: &str) -> Vec<u8> {
        self.run(&["--armor", "--export", user], b"")
    }

    /// The text of a message, which one of its keys must open.
    pub(crate) fn decrypt(&self, passphrase: &str, message: &[u8]) -> Vec<u8> {
        self.run(&["--passphrase", passphrase, "--decrypt"], message)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let mut end = Command::new("gpgconf");
        let _ = end.arg("--homedir").arg(self.home.path()).args(["--kill", "gpg-agent"]).status();
    }
}
