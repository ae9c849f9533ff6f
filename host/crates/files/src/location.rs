use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::{FileError, Pattern};

/// A folder that partners put files into.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The folder of the location; nothing outside it is ever read.
    pub root: PathBuf,
}

/// A file that a goal takes.
#[derive(Clone, Debug)]
pub struct FoundFile {
    /// Its path inside the location, with `/`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    path: PathBuf,
}

/// An open file, with what is needed to know that it did not change while it was read.
#[derive(Debug)]
pub struct Source {
    pub(crate) file: File,
    path: PathBuf,
    identity: (u64, Option<SystemTime>),
}

fn identity(metadata: &Metadata) -> (u64, Option<SystemTime>) {
    (metadata.len(), metadata.modified().ok())
}

impl Directory {
    /// The files in `directory` that `pattern` takes, in the order of their names' bytes, and a warning
    /// for each match that is no regular file or leads out of the location. A folder that is not there
    /// is an error.
    pub fn list(&self, directory: &str, pattern: &Pattern) -> io::Result<(Vec<FoundFile>, Vec<String>)> {
        let root = self.root.canonicalize()?;
        let base = root.join(directory);
        let mut found = Found { root: &root, files: Vec::new(), warnings: Vec::new() };
        found.visit(&base, "", directory.trim_matches('/'), pattern, 0)?;
        found.files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok((found.files, found.warnings))
    }
}

struct Found<'a> {
    root: &'a Path,
    files: Vec<FoundFile>,
    warnings: Vec<String>,
}

impl Found<'_> {
    fn visit(
        &mut self,
        folder: &Path,
        inside: &str,
        prefix: &str,
        pattern: &Pattern,
        depth: usize,
    ) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(own_name) = entry.file_name().into_string() else { continue };
            let below = if inside.is_empty() { own_name } else { format!("{inside}/{own_name}") };
            let name = match prefix {
                "" | "." => below.clone(),
                prefix => format!("{prefix}/{below}"),
            };
            // Follows links; a loop of links is an error here and is no file.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if metadata.is_dir() && depth < pattern.depth {
                self.visit(&entry.path(), &below, prefix, pattern, depth + 1)?;
            } else if !metadata.is_dir() && pattern.matches(&below) {
                self.take(entry.path(), name, &metadata)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, path: PathBuf, name: String, metadata: &Metadata) -> io::Result<()> {
        if !metadata.is_file() {
            self.warnings.push(format!("{name} is not a regular file and is not read"));
        } else if !path.canonicalize()?.starts_with(self.root) {
            self.warnings.push(format!("{name} leads out of the location and is not read"));
        } else {
            self.files.push(FoundFile { name, size: metadata.len(), path });
        }
        Ok(())
    }
}

impl FoundFile {
    /// Opens the file.
    pub fn open(&self) -> io::Result<Source> {
        let file = File::open(&self.path)?;
        let identity = identity(&file.metadata()?);
        Ok(Source { file, path: self.path.clone(), identity })
    }

    /// Deletes the file.
    pub fn delete(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// Gives the file the name that marks it as imported. The renaming is one step, so no copy is needed.
    pub fn mark_done(&self) -> io::Result<()> {
        let mut done = self.path.clone().into_os_string();
        done.push(".done");
        fs::rename(&self.path, done)
    }
}

impl Source {
    /// The size in bytes, as it is on disk.
    pub fn size(&self) -> u64 {
        self.identity.0
    }

    /// The BLAKE3 hash of the content. The next read starts at the beginning.
    pub fn digest(&mut self) -> io::Result<[u8; 32]> {
        use io::Seek;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        self.file.rewind()?;
        loop {
            let length = self.file.read(&mut buffer)?;
            match buffer.get(..length) {
                Some(bytes) if length > 0 => hasher.update(bytes),
                _ => break,
            };
        }
        self.file.rewind()?;
        Ok(hasher.finalize().into())
    }

    /// A check, for later, that the file is still what was opened.
    pub fn unchanged(&self) -> io::Result<impl Fn() -> Result<(), FileError> + Send + use<>> {
        let file = self.file.try_clone()?;
        let (path, opened) = (self.path.clone(), self.identity);
        Ok(move || {
            // The open file shows what is written to it, the path whether it was replaced.
            let same = |metadata: io::Result<Metadata>| metadata.is_ok_and(|now| identity(&now) == opened);
            if same(file.metadata()) && same(fs::metadata(&path)) { Ok(()) } else { Err(FileError::Changed) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_direct_children_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("exchange");
        fs::create_dir_all(root.join("in/deeper")).unwrap();
        for name in ["b.csv", "a.csv", "a.csv.done", "deeper/c.csv", "note.txt"] {
            fs::write(root.join("in").join(name), "x").unwrap();
        }
        fs::write(folder.path().join("outside.csv"), "x").unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside.csv"), root.join("in/link.csv")).unwrap();
        std::os::unix::fs::symlink(root.join("in/loop.csv"), root.join("in/loop.csv")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("in/socket.csv")).unwrap();
        let location = Directory { root };
        let check = |wildcard: &str, names: &[&str], warnings: usize| {
            let (files, warned) = location.list("in", &Pattern::wildcard(wildcard).unwrap()).unwrap();
            assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), names);
            assert_eq!(warned.len(), warnings, "{warned:?}");
        };
        check("*.csv", &["in/a.csv", "in/b.csv"], 2);
        check("*/*.csv", &["in/deeper/c.csv"], 0);
    }

    #[test]
    fn notices_a_change() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.csv"), "x").unwrap();
        let location = Directory { root: folder.path().to_owned() };
        let (files, _) = location.list("", &Pattern::wildcard("a.csv").unwrap()).unwrap();
        let source = files[0].open().unwrap();
        let unchanged = source.unchanged().unwrap();
        assert!(unchanged().is_ok());
        fs::write(folder.path().join("a.csv"), "longer").unwrap();
        assert!(matches!(unchanged(), Err(FileError::Changed)));
    }
}
