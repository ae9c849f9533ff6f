use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{FoundFile, Listing, Origin};
use crate::kind::is_system_file;
use crate::{FileError, Pattern};

/// A folder with partners' files.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The folder of the location. No file outside it is ever read.
    pub root: PathBuf,
}

/// Properties of a file that change when it is written to or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) size: u64,
    modified: Option<SystemTime>,
    inode: u64,
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { size: metadata.len(), modified: metadata.modified().ok(), inode: metadata.ino() }
    }
}

impl Directory {
    /// The files in `directory` that one of `patterns` matches.
    ///
    /// # Errors
    /// If the folder is missing.
    pub(super) fn list(&self, directory: &str, patterns: &[&Pattern]) -> Result<Listing, FileError> {
        let root = self.root.canonicalize()?;
        let base = root.join(directory);
        let depth = patterns.iter().map(|pattern| pattern.depth).max().unwrap_or_default();
        let mut walk = DirectoryWalk { root: &root, patterns, depth, listing: Listing::default() };
        walk.visit(&base, "", directory.trim_matches('/'), 0)?;
        Ok(walk.listing)
    }
}

struct DirectoryWalk<'a> {
    root: &'a Path,
    patterns: &'a [&'a Pattern],
    depth: usize,
    listing: Listing,
}

impl DirectoryWalk<'_> {
    fn visit(&mut self, folder: &Path, inside: &str, prefix: &str, depth: usize) -> Result<(), FileError> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(own_name) = entry.file_name().into_string() else { continue };
            let below = if inside.is_empty() { own_name } else { format!("{inside}/{own_name}") };
            // This follows symbolic links. A loop of links is an error here, and not a file.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if is_system_file(&below) {
                continue;
            }
            if metadata.is_dir() && depth < self.depth {
                self.visit(&entry.path(), &below, prefix, depth + 1)?;
            } else if !metadata.is_dir() && self.patterns.iter().any(|pattern| pattern.matches(&below)) {
                let name = match prefix {
                    "" | "." => below.clone(),
                    prefix => format!("{prefix}/{below}"),
                };
                self.add(entry.path(), name, below, &metadata)?;
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        path: PathBuf,
        name: String,
        below: String,
        metadata: &Metadata,
    ) -> Result<(), FileError> {
        if !metadata.is_file() {
            self.listing.warnings.push(format!("{name} is not a regular file and is skipped"));
        } else if !path.canonicalize()?.starts_with(self.root) {
            self.listing.warnings.push(format!("{name} leads out of the location and is skipped"));
        } else {
            let origin = Origin::Path(path);
            let (size, modified) = (metadata.len(), metadata.modified().ok());
            self.listing.files.push(FoundFile { name, below, size, modified, origin });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Location;

    #[test]
    fn direct_children_are_listed_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("exchange");
        fs::create_dir_all(root.join("in/deeper")).unwrap();
        fs::create_dir(root.join("in/__MACOSX")).unwrap();
        for name in [
            "b.csv",
            "a.csv",
            "a.csv.done",
            "._a.csv",
            "deeper/c.csv",
            "deeper/._c.csv",
            "__MACOSX/d.csv",
            "note.txt",
        ] {
            fs::write(root.join("in").join(name), "x").unwrap();
        }
        fs::write(folder.path().join("outside.csv"), "x").unwrap();
        std::os::unix::fs::symlink(folder.path().join("outside.csv"), root.join("in/link.csv")).unwrap();
        std::os::unix::fs::symlink(root.join("in/loop.csv"), root.join("in/loop.csv")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("in/socket.csv")).unwrap();
        let location = Location::Directory(Directory { root });
        let check = |wildcard: &str, names: &[&str], warnings: usize| {
            let listing = location.list("in", &[&Pattern::wildcard(wildcard).unwrap()]).unwrap();
            assert_eq!(listing.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), names);
            assert_eq!(listing.warnings.len(), warnings, "{:?}", listing.warnings);
        };
        check("*.csv", &["in/a.csv", "in/b.csv"], 2);
        check("*/*.csv", &["in/deeper/c.csv"], 0);
    }

    #[test]
    fn a_done_file_replaces_none() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Directory(Directory { root: folder.path().to_owned() });
        let done = |content: &str, run: &str| {
            fs::write(folder.path().join("a.csv"), content).unwrap();
            let listing = location.list("", &[&Pattern::wildcard("a.csv").unwrap()]).unwrap();
            listing.files[0].mark_done(run, false)
        };
        done("1", "r1").unwrap();
        done("2", "r2").unwrap();
        done("3", "r3").unwrap();
        assert!(done("4", "r3").is_err());
        let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let names = ["a.csv.done", "a.csv.r2.done", "a.csv.r3.done", "a.csv"];
        assert_eq!(names.map(text), ["1", "2", "3", "4"]);
    }

    #[test]
    fn a_change_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.csv"), "x").unwrap();
        let location = Location::Directory(Directory { root: folder.path().to_owned() });
        let listing = location.list("", &[&Pattern::wildcard("a.csv").unwrap()]).unwrap();
        let source = listing.files[0].open().unwrap();
        let unchanged = source.unchanged();
        assert!(unchanged().is_ok());
        fs::write(folder.path().join("a.csv"), "longer").unwrap();
        assert!(matches!(unchanged(), Err(FileError::Changed)));
    }
}
