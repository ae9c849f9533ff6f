use std::fs::Metadata;
use std::path::PathBuf;
use std::time::SystemTime;

use super::beneath::Folder;
use super::{FoundFile, Listing, Origin};
use crate::kind::is_system_file;
use crate::{FileError, Pattern};

/// A folder with partners' files.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The folder of the location. No file outside it is ever read or written.
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
    /// If the folder is missing, or a link that leads out of the location.
    pub(super) fn list(&self, directory: &str, patterns: &[&Pattern]) -> Result<Listing, FileError> {
        let root = self.folder("")?;
        let depth = patterns.iter().map(|pattern| pattern.depth).max().unwrap_or_default();
        let prefix = match directory.trim_matches('/') {
            "." => "",
            prefix => prefix,
        };
        let listing = Listing::default();
        let mut walk = DirectoryWalk { location: self, root, prefix, patterns, depth, listing };
        walk.visit("", 0)?;
        Ok(walk.listing)
    }

    /// A folder of the location.
    ///
    /// # Errors
    /// If there is none, or its path leads out of the location.
    pub(super) fn folder(&self, name: &str) -> Result<Folder, FileError> {
        Folder::of_location(&self.root)?.folder(name)
    }
}

struct DirectoryWalk<'a> {
    location: &'a Directory,
    root: Folder,
    /// The goal's folder below the root.
    prefix: &'a str,
    patterns: &'a [&'a Pattern],
    depth: usize,
    listing: Listing,
}

impl DirectoryWalk<'_> {
    /// The name inside the location of what has a name below the goal's folder.
    fn name(&self, below: &str) -> String {
        let parts = [self.prefix, below];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    fn visit(&mut self, inside: &str, depth: usize) -> Result<(), FileError> {
        let folder = self.root.folder(&self.name(inside))?;
        for entry in folder.names()? {
            let (own_name, kind) = entry?;
            let below = if inside.is_empty() { own_name } else { format!("{inside}/{own_name}") };
            if is_system_file(&below) {
                continue;
            }
            let is_match = self.patterns.iter().any(|pattern| pattern.matches(&below));
            let may_be_folder = depth < self.depth && !kind.is_file();
            if !is_match && !may_be_folder {
                continue;
            }
            let name = self.name(&below);
            match self.root.metadata(&name) {
                Ok(metadata) if metadata.is_dir() => {
                    if depth < self.depth {
                        self.visit(&below, depth + 1)?;
                    }
                }
                Ok(metadata) if is_match => self.add(name, below, &metadata)?,
                Err(FileError::LeadsOut) => {
                    self.skip(&name, "leads out of the location, or is a link that begins with `/`,");
                }
                Err(FileError::LinkNotFollowed) => {
                    self.skip(&name, "is a link, which this system (Linux before 5.6) cannot follow safely,");
                }
                // A loop of links, a link to nothing, and what is gone by now are no files.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String, below: String, metadata: &Metadata) -> Result<(), FileError> {
        if !metadata.is_file() {
            self.skip(&name, "is not a regular file");
            return Ok(());
        }
        let origin = Origin::Path(self.location.clone());
        let (size, modified) = (metadata.len(), metadata.modified().ok());
        self.listing.add(FoundFile { name, below, size, modified, origin })
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.listing.warn(format!("{name} {why} and is skipped"));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

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
        symlink(folder.path().join("outside.csv"), root.join("in/link.csv")).unwrap();
        symlink("loop.csv", root.join("in/loop.csv")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("in/socket.csv")).unwrap();
        let location = Location::Directory(Directory { root });
        let check = |wildcard: &str, names: &[&str], warnings: usize| {
            let listing = location.list("in", &[&Pattern::wildcard(wildcard).unwrap()]).unwrap();
            assert_eq!(listing.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), names);
            assert_eq!(listing.warnings.len(), warnings, "{:?}", listing.warnings);
        };
        check("*.csv", &["in/a.csv", "in/b.csv"], 2);
        // The link may be one to a folder with files that match.
        check("*/*.csv", &["in/deeper/c.csv"], 1);
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

    /// A location with a file, beside a folder with another file of the same name. `swap` puts something else in the place of the
    /// first, after it was listed.
    fn swapped(swap: impl Fn(&Path, &Path)) -> (tempfile::TempDir, FoundFile) {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("exchange"), folder.path().join("outside"));
        for place in [root.join("in"), outside.clone()] {
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("a.csv"), place.display().to_string()).unwrap();
        }
        let location = Location::Directory(Directory { root: root.clone() });
        let mut listing = location.list("in", &[&Pattern::wildcard("*.csv").unwrap()]).unwrap();
        swap(&root, &outside);
        (folder, listing.files.remove(0))
    }

    #[test]
    fn what_is_swapped_after_it_was_listed_is_neither_read_nor_written() {
        let check = |swap: &dyn Fn(&Path, &Path), expected: &str| {
            let (folder, file) = swapped(swap);
            let outside = || {
                let names = fs::read_dir(folder.path().join("outside")).unwrap();
                names.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
            };
            let opened = file.open().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(opened.contains(expected), "{opened}");
            // The link itself may be renamed or removed.
            let _ = (file.mark_done("r1", false), file.delete());
            assert_eq!(outside(), ["a.csv"]);
        };
        let link_of_file = |root: &Path, outside: &Path| {
            fs::remove_file(root.join("in/a.csv")).unwrap();
            symlink(outside.join("a.csv"), root.join("in/a.csv")).unwrap();
        };
        let relative_link = |root: &Path, _: &Path| {
            fs::remove_file(root.join("in/a.csv")).unwrap();
            symlink("../../outside/a.csv", root.join("in/a.csv")).unwrap();
        };
        let link_of_folder = |root: &Path, outside: &Path| {
            fs::rename(root.join("in"), root.join("old")).unwrap();
            symlink(outside, root.join("in")).unwrap();
        };
        let fifo = |root: &Path, _: &Path| {
            fs::remove_file(root.join("in/a.csv")).unwrap();
            rustix::fs::mkfifoat(rustix::fs::CWD, root.join("in/a.csv"), rustix::fs::Mode::RUSR).unwrap();
        };
        check(&link_of_file, "leads out of the location");
        check(&relative_link, "leads out of the location");
        check(&link_of_folder, "leads out of the location");
        check(&fifo, "it is a FIFO, not a regular file");
    }

    #[test]
    fn links_that_stay_in_the_location_are_followed() {
        let (_folder, file) = swapped(|root, _| {
            fs::rename(root.join("in/a.csv"), root.join("b")).unwrap();
            symlink("../b", root.join("in/a.csv")).unwrap();
        });
        let source = file.open().unwrap();
        assert!(source.unchanged()().is_ok());
        let Origin::Path(location) = &file.origin else { return };
        let listing = location.list("in/", &[&Pattern::wildcard("*.csv").unwrap()]).unwrap();
        assert_eq!((listing.files.len(), listing.files[0].name.as_str()), (1, "in/a.csv"));
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
