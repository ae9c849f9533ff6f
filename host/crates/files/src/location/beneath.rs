//! Files and folders below the folder of a location, to which others write.
//!
//! Between two looks, a file or a folder can become a link to any place, a FIFO or a device. So the kernel looks up each name below
//! an open folder in one step, and says if that leads out (`openat2` with `RESOLVE_BENEATH`); and what is opened is checked before
//! it is read.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::FileError;

/// How often a name is looked up again while others rename folders on its path.
const MAX_LOOKUPS: usize = 64;
/// An exported file: its owner writes it, and its group reads it, whatever the process's mask: it is for others.
const EXPORT_MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

/// An open folder. It stays the same one, whatever gets its name.
#[derive(Debug)]
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// The folder of a location. The configuration names it: links on the way to it are followed.
    pub(super) fn of_location(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(fs::open(root, flags, Mode::empty())?))
    }

    /// Opens what a name leads to. A link is followed if it stays below this folder.
    fn open(&self, name: &str, flags: OFlags) -> Result<OwnedFd, FileError> {
        let name = if name.is_empty() { "." } else { name };
        let flags = flags | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..MAX_LOOKUPS {
            match fs::openat2(&self.0, name, flags, Mode::empty(), resolve) {
                Ok(found) => return Ok(found),
                Err(Errno::AGAIN) => {}
                Err(Errno::XDEV) => return Err(FileError::LeadsOut),
                // Linux before 5.6, or a container that forbids what it does not know.
                Err(Errno::NOSYS | Errno::PERM) => return self.open_stepwise(name, flags),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Err(FileError::Io(Errno::AGAIN.into()))
    }

    /// The same where the kernel has no `openat2`: folder after folder. No link is followed.
    fn open_stepwise(&self, name: &str, flags: OFlags) -> Result<OwnedFd, FileError> {
        let parts = || name.split('/').filter(|part| !matches!(*part, "" | "."));
        if name.starts_with('/') || parts().any(|part| part == "..") {
            return Err(FileError::LeadsOut);
        }
        let mut folder = None;
        let mut rest = parts().peekable();
        while let Some(part) = rest.next() {
            let from = folder.as_ref().unwrap_or(&self.0);
            let flags = match rest.peek() {
                Some(_) => OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                None => flags,
            };
            let found = fs::openat(from, part, flags | OFlags::NOFOLLOW, Mode::empty());
            let is_link = |error: Errno| {
                let found = fs::statat(from, part, AtFlags::SYMLINK_NOFOLLOW);
                matches!(error, Errno::LOOP | Errno::NOTDIR)
                    && found.is_ok_and(|found| fs::FileType::from_raw_mode(found.st_mode).is_symlink())
            };
            folder = Some(match found {
                Ok(found) => found,
                Err(error) if is_link(error) => return Err(FileError::LinkNotFollowed),
                Err(error) => return Err(io::Error::from(error).into()),
            });
        }
        match folder {
            Some(found) => Ok(found),
            None => Ok(fs::openat(&self.0, ".", flags, Mode::empty()).map_err(io::Error::from)?),
        }
    }

    /// A folder below this one.
    ///
    /// # Errors
    /// If there is none, or its path leads out.
    pub(super) fn folder(&self, name: &str) -> Result<Self, FileError> {
        Ok(Self(self.open(name, OFlags::PATH | OFlags::DIRECTORY)?))
    }

    /// A folder below this one, created with those around it if it is missing.
    ///
    /// # Errors
    /// If it cannot be created, or its path leads out.
    pub(super) fn folder_or_new(&self, name: &str) -> Result<Self, FileError> {
        match self.folder(name) {
            Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let name = name.trim_end_matches('/');
        let (around, own) = name.rsplit_once('/').unwrap_or(("", name));
        let created = fs::mkdirat(self.folder_or_new(around)?.0, own, Mode::from_raw_mode(0o777));
        match created {
            Ok(()) | Err(Errno::EXIST) => self.folder(name),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Whether this is the same folder as another, under whatever name.
    pub(super) fn is(&self, other: &Self) -> io::Result<bool> {
        let (own, other) = (fs::fstat(&self.0)?, fs::fstat(&other.0)?);
        Ok((own.st_dev, own.st_ino) == (other.st_dev, other.st_ino))
    }

    /// What a name leads to, without opening it.
    ///
    /// # Errors
    /// If there is nothing, or it leads out.
    pub(super) fn metadata(&self, name: &str) -> Result<Metadata, FileError> {
        Ok(File::from(self.open(name, OFlags::PATH)?).metadata()?)
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// If there is none, it is something else, or it leads out.
    pub(super) fn file(&self, name: &str) -> Result<File, FileError> {
        // Opening a device may do something by itself.
        regular(&self.metadata(name)?)?;
        // It may be something else by now. Opening a FIFO would wait for who writes to it.
        let file = File::from(self.open(name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        regular(&file.metadata()?)?;
        fs::fcntl_setfl(&file, OFlags::empty()).map_err(io::Error::from)?;
        Ok(file)
    }

    /// The names in this folder that are text.
    pub(super) fn names(&self) -> io::Result<impl Iterator<Item = io::Result<(String, fs::FileType)>>> {
        let entries = Dir::new(self.readable()?)?;
        let named = |entry: Result<fs::DirEntry, Errno>| match entry {
            Ok(entry) => match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => None,
                Ok(name) => Some(Ok((name.to_owned(), self.kind(name, entry.file_type())))),
            },
            Err(error) => Some(Err(error.into())),
        };
        Ok(entries.filter_map(named))
    }

    /// The kind of an entry. Some file systems do not list it.
    fn kind(&self, own_name: &str, listed: fs::FileType) -> fs::FileType {
        let found = || fs::statat(&self.0, own_name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let looked_up = Some(()).filter(|()| listed == fs::FileType::Unknown).and_then(|()| found());
        looked_up.map_or(listed, |found| fs::FileType::from_raw_mode(found.st_mode))
    }

    /// Creates a file in this folder for writing. Nothing has its name yet.
    pub(super) fn create(&self, own_name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.0, own_name, flags, EXPORT_MODE)?;
        // Not every file system has permissions.
        let _ = fs::fchmod(&file, EXPORT_MODE);
        Ok(File::from(file))
    }

    /// Opens a file of this folder to lock it. No link is followed, and nothing waited for.
    pub(super) fn open_to_lock(&self, own_name: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(&self.0, own_name, flags, Mode::empty())?))
    }

    /// Whether there is something of this name in this folder.
    pub(super) fn has(&self, own_name: &str) -> bool {
        fs::statat(&self.0, own_name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Whether the name in this folder is that of an open file.
    pub(super) fn is_name_of(&self, own_name: &str, file: &File) -> io::Result<bool> {
        let named = fs::statat(&self.0, own_name, AtFlags::SYMLINK_NOFOLLOW)?;
        let file = file.metadata()?;
        Ok((named.st_dev, named.st_ino) == (file.dev(), file.ino()))
    }

    /// Removes a file of this folder; a link itself.
    pub(super) fn remove(&self, own_name: &str) -> io::Result<()> {
        Ok(fs::unlinkat(&self.0, own_name, AtFlags::empty())?)
    }

    /// Renames a file of this folder, and replaces what has the name.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// Renames a file of this folder in one step; an error of the kind `AlreadyExists` if another file has the name.
    pub(super) fn rename_to_new(&self, from: &str, to: &str) -> io::Result<()> {
        match fs::renameat_with(&self.0, from, &self.0, to, RenameFlags::NOREPLACE) {
            // The file system has no such renames, but it may have links.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            renamed => return Ok(renamed?),
        }
        match fs::linkat(&self.0, from, &self.0, to, AtFlags::empty()) {
            Ok(()) => self.remove(from),
            Err(Errno::EXIST) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) if self.has(to) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => self.rename(from, to),
        }
    }

    /// Returns when the names in this folder are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::from(self.readable()?).sync_all()
    }

    /// This folder, open for reading its names.
    fn readable(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(fs::openat(&self.0, ".", flags, Mode::empty())?)
    }
}

/// Opens a regular file of this machine for reading. A FIFO would make the program wait for who writes to it.
///
/// # Errors
/// If it cannot be opened, or is something else.
pub fn open_regular(path: &Path) -> Result<File, FileError> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    regular(&std::fs::metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// The bytes of a regular file of this machine.
///
/// # Errors
/// As [`open_regular`], or if it cannot be read.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open_regular(path).map_err(|error| match error {
        FileError::Io(error) => error,
        error => io::Error::other(error),
    })?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn regular(metadata: &Metadata) -> Result<(), FileError> {
    let kind = metadata.file_type();
    let known = [
        (kind.is_dir(), "a folder"),
        (kind.is_fifo(), "a FIFO"),
        (kind.is_socket(), "a socket"),
        (kind.is_symlink(), "a link"),
    ];
    let shown = known.into_iter().find(|(is, _)| *is).map_or("a device", |(_, shown)| shown);
    if kind.is_file() { Ok(()) } else { Err(FileError::NotRegular(shown)) }
}

/// Splits a name into that of the folder and its own.
pub(super) fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// What a name leads to below a folder, with and without `openat2`.
    #[test]
    fn nothing_leads_out_of_a_location() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret.csv"), "x").unwrap();
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("in/deeper")).unwrap();
        fs::write(root.path().join("in/a.csv"), "x").unwrap();
        let link = |to: &str, name: &str| symlink(to, root.path().join(name)).unwrap();
        link("in/a.csv", "inside");
        link("../in/a.csv", "in/up-and-down");
        link(&outside.path().join("secret.csv").display().to_string(), "absolute");
        link(&root.path().join("in/a.csv").display().to_string(), "absolute-inside");
        link(&format!("../{}/secret.csv", outside.path().display()), "up");
        link(&outside.path().display().to_string(), "folder");
        link("in", "inside-folder");
        link("loop", "loop");
        link("/proc/self/root", "magic");
        rustix::fs::mkfifoat(rustix::fs::CWD, root.path().join("fifo"), Mode::RUSR).unwrap();
        let folder = Folder::of_location(root.path()).unwrap();
        let check = |name: &str, expected: &str, stepwise: &str| {
            let shown = |opened: Result<OwnedFd, FileError>| match opened {
                Ok(_) => "opens",
                Err(FileError::LeadsOut) => "leads out",
                Err(FileError::LinkNotFollowed) => "link",
                Err(FileError::Io(_)) => "io",
                Err(_) => "other",
            };
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            assert_eq!(shown(folder.open(name, flags)), expected, "{name}");
            assert_eq!(shown(folder.open_stepwise(name, flags)), stepwise, "{name}, stepwise");
        };
        check("", "opens", "opens");
        check("in/./a.csv", "opens", "opens");
        check("inside", "opens", "link");
        check("in/up-and-down", "opens", "link");
        check("inside-folder/a.csv", "opens", "link");
        check("absolute", "leads out", "link");
        check("absolute-inside", "leads out", "link");
        check("up", "leads out", "link");
        check("folder/secret.csv", "leads out", "link");
        check("magic", "leads out", "link");
        check("..", "leads out", "leads out");
        check("/etc/passwd", "leads out", "leads out");
        check("loop", "io", "link");
        check("in/none", "io", "io");
        check("in/a.csv/none", "io", "io");
        assert!(matches!(folder.file("fifo"), Err(FileError::NotRegular("a FIFO"))));
        assert!(matches!(folder.file("in"), Err(FileError::NotRegular("a folder"))));
        assert!(read_regular(&root.path().join("fifo")).is_err());
        assert!(folder.folder_or_new("folder/new").is_err());
        assert!(!outside.path().join("new").exists());
        assert!(folder.folder_or_new("in/new/newer/").is_ok());
    }
}
