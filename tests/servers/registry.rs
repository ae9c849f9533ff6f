//! The registry of the Distribution project, which Docker's own is, for one test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

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
        let mut log = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
        let port = log.find_map(|line| {
            let (_, after) = line.split_once("listening on 127.0.0.1:")?;
            after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
        });
        std::thread::spawn(move || log.for_each(drop));
        Self { port: port.unwrap(), _folder: folder, server }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
