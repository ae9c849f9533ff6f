//! A registry of plugins for one test: Docker's own, of the Distribution project.

use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::workspace::Workspace;

pub(crate) struct Registry {
    pub(crate) port: u16,
    _folder: TempDir,
    server: Child,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("storage");
        let config = format!(
            "version: 0.1\nlog: {{ level: info }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\n\
             http: {{ addr: '127.0.0.1:0' }}\n",
            storage.display()
        );
        std::fs::write(folder.path().join("config.yml"), config).unwrap();
        let mut server = Command::new("docker-registry")
            .arg("serve")
            .arg(folder.path().join("config.yml"))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("`cargo xtask test` installs docker-registry");
        let mut log = Workspace::lines("the log of docker-registry", server.stderr.take().unwrap());
        let port = log.find_map(|line| {
            let (_, after) = line.split_once("listening on 127.0.0.1:")?;
            after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
        });
        let port = port.expect("docker-registry has ended");
        Self { port, _folder: folder, server }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
