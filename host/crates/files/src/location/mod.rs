//! Where files are: in a folder, or in a bucket. Both list, open, mark and delete files in the same way.

mod answer;
mod beneath;
mod directory;
mod file_name;
mod object;
mod s3;
mod settle;
mod upload;

use std::fmt;
use std::io::{self, Read, Seek};
use std::time::SystemTime;

pub use beneath::{open_regular, read_regular};
pub use directory::Directory;
pub use file_name::FileName;
pub use s3::{Patience, Permission, S3, S3Error, S3Options, S3Problem};
pub use settle::Settle;
pub use upload::Destination;
pub(crate) use upload::Upload;

use sluicebox_model::OrNever;

use crate::{FileError, Pattern};
use beneath::split;
use directory::Identity;
use object::Object;

/// ReadSeek that are hashed together, on all cores.
const HASH_BLOCK_BYTES: usize = 1 << 20;

/// The most files that a listing has, and the most bytes of their names: each takes memory until the goal ends.
const MAX_FILES: usize = 200_000;
const MAX_NAME_BYTES: usize = 32 << 20;
/// The most warnings that a listing has.
const MAX_WARNINGS: usize = 100;

/// Where a connection's files are.
#[derive(Clone, Debug)]
pub enum Location {
    /// A folder of this machine.
    Directory(Directory),
    /// A bucket of Amazon S3, or of another object store with the same protocol.
    S3(S3),
}

impl Location {
    /// The files in `directory` (inside the location; empty = its root) that one of `patterns` matches, sorted by the bytes
    /// of their names.
    ///
    /// # Errors
    /// If the folder or bucket is missing or cannot be listed.
    pub fn list(&self, directory: &str, patterns: &[&Pattern]) -> Result<Listing, FileError> {
        let mut listing = match self {
            Self::Directory(location) => location.list(directory, patterns)?,
            Self::S3(location) => location.list(directory, patterns)?,
        };
        listing.files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(listing)
    }

    /// Sets how long requests of the location are waited for, once; without it, each is waited for a minute. A folder of this
    /// machine answers at once.
    pub fn wait_with(&self, patience: Patience) {
        match self {
            Self::Directory(_) => {}
            Self::S3(location) => location.wait_with(patience),
        }
    }

    /// The name `name`, or the next one that neither a file of the location has (unless it may be replaced) nor `own` holds.
    pub fn free_name(&self, directory: &str, name: &str, own: &[String], replace: bool) -> FileName {
        let is_own = |name: &str| own.iter().any(|own| own == name);
        let folder = match self {
            Self::Directory(location) => location.folder(directory).ok(),
            Self::S3(_) => None,
        };
        // No file has the name as well where reading is not allowed.
        let exists = |name: &str| match (self, &folder) {
            (Self::Directory(_), folder) => folder.as_ref().is_some_and(|folder| folder.has(name)),
            (Self::S3(location), _) => location.exists(&S3::key(directory, name)),
        };
        FileName::new(name).free(|name| is_own(name) || (!replace && exists(name)))
    }

    /// Removes the unfinished files that killed processes left under this tag. In a bucket such files are invisible, and a
    /// lifecycle rule removes them.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub fn clear(&self, directory: &str, tag: &str) -> Result<(), FileError> {
        match self {
            Self::Directory(location) => upload::clear_path(location, directory, tag),
            Self::S3(_) => Ok(()),
        }
    }
}

/// A path or an `s3://` address.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(location) => write!(f, "{}", location.root.display()),
            Self::S3(location) => write!(f, "s3://{}", location.bucket()),
        }
    }
}

/// The files of a folder.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Sorted by the bytes of their names.
    pub files: Vec<FoundFile>,
    /// One for each match that is not a regular file or leads out of the location, as far as there is room.
    pub warnings: Vec<String>,
    /// Bytes of the files' names.
    name_bytes: usize,
}

impl Listing {
    /// Adds a file.
    ///
    /// # Errors
    /// If there are too many.
    fn add(&mut self, file: FoundFile) -> Result<(), FileError> {
        self.name_bytes += file.name.len();
        if self.files.len() >= MAX_FILES || self.name_bytes > MAX_NAME_BYTES {
            return Err(FileError::TooManyFiles { files: MAX_FILES, name_bytes: MAX_NAME_BYTES as u64 });
        }
        self.files.push(file);
        Ok(())
    }

    /// Adds a warning.
    fn warn(&mut self, warning: String) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings.push(warning);
        } else if self.warnings.len() == MAX_WARNINGS {
            self.warnings.push("more files are skipped for such reasons".to_owned());
        }
    }
}

/// A listed file.
#[derive(Clone, Debug)]
pub struct FoundFile {
    /// Its path inside the location, separated by `/`.
    pub name: String,
    /// Its path inside the goal's directory. Patterns match this path.
    pub below: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written to; `None` where that is not known, and in buckets.
    pub modified: Option<SystemTime>,
    origin: Origin,
}

#[derive(Clone, Debug)]
enum Origin {
    /// The file's name below the folder of this location.
    Path(Directory),
    Object(Object),
}

/// A file that can be read and rewound.
pub(crate) trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// An open file that can tell whether it changed while it was being read.
pub struct Source {
    pub(crate) bytes: Box<dyn ReadSeek>,
    size: u64,
    version: Version,
}

#[derive(Clone, Debug)]
enum Version {
    /// The size and time of the file that has the name now show whether it was written to or replaced.
    Path { location: Directory, name: String, identity: Identity },
    /// Every read asks for this version.
    Object(Object),
}

impl FoundFile {
    /// Opens the file. An object is pinned to the version that was listed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(&self) -> Result<Source, FileError> {
        match &self.origin {
            Origin::Path(location) => {
                let file = location.folder("")?.file(&self.name)?;
                let identity = Identity::of(&file.metadata()?);
                let version = Version::Path { location: location.clone(), name: self.name.clone(), identity };
                Ok(Source { size: identity.size, bytes: Box::new(file), version })
            }
            Origin::Object(object) => Ok(Source {
                bytes: Box::new(object.reader()),
                size: object.size,
                version: Version::Object(object.clone()),
            }),
        }
    }

    /// Whether the file is an object of a bucket.
    fn is_object(&self) -> bool {
        matches!(self.origin, Origin::Object(_))
    }

    /// Deletes the file, unless it was replaced since it was listed.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub fn delete(&self) -> Result<(), FileError> {
        match &self.origin {
            Origin::Path(location) => {
                let (folder, own_name) = split(&self.name);
                Ok(location.folder(folder)?.remove(own_name)?)
            }
            Origin::Object(object) => object.delete(),
        }
    }

    /// Marks the file as imported: adds `.done` to its name or, where an earlier file has that name, `.RUN.done`. A folder
    /// renames it in one step; in a bucket it is copied, then the original is deleted. `is_interrupted`: this may have begun
    /// before, and a copy may be there.
    ///
    /// # Errors
    /// If that fails. The file has one of the two names, or, in a bucket, both.
    pub fn mark_done(&self, run: &str, is_interrupted: bool) -> Result<(), FileError> {
        let suffixes = [".done", &format!(".{run}.done")];
        let taken =
            || io::Error::new(io::ErrorKind::AlreadyExists, "a file with the suffix .done exists already");
        match &self.origin {
            Origin::Path(location) => {
                let (folder, own_name) = split(&self.name);
                let folder = location.folder(folder)?;
                for suffix in suffixes {
                    match folder.rename_to_new(own_name, &format!("{own_name}{suffix}")) {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        renamed => return Ok(renamed?),
                    }
                }
            }
            Origin::Object(object) => {
                for suffix in suffixes {
                    let done = format!("{}{suffix}", object.key);
                    match object.s3.head(&done)? {
                        None => return object.copy_to(&done).and_then(|()| object.delete()),
                        Some(copy) if is_interrupted && object.is_copied_as(&copy) => return object.delete(),
                        Some(_) => {}
                    }
                }
            }
        }
        Err(taken().into())
    }

    /// A key under which the result of [`Source::digest`] can be cached. `None` where computing the digest again costs
    /// little.
    pub fn version(&self) -> Option<String> {
        match &self.origin {
            Origin::Path(_) => None,
            Origin::Object(object) => object.version(),
        }
    }
}

impl Source {
    /// The size of the stored file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of the content. In a folder it is the BLAKE3 hash; in a bucket it is made of the MD5 hash, which the object
    /// store already knows for an object that was uploaded in one part.
    /// The next read starts at the beginning.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn digest(&mut self) -> Result<[u8; 32], FileError> {
        if let Version::Object(object) = &self.version {
            let md5 = match object.md5() {
                Some(md5) => md5,
                None => {
                    use md5::Digest;
                    let mut hasher = md5::Md5::new();
                    self.each_block(|block| hasher.update(block))?;
                    hasher.finalize().into()
                }
            };
            return Ok(blake3::Hasher::new().update(b"md5").update(&md5).finalize().into());
        }
        let mut hasher = blake3::Hasher::new();
        self.each_block(|block| {
            hasher.update_rayon(block);
        })?;
        Ok(hasher.finalize().into())
    }

    /// Calls `on_block` with each block of the file while the next block is read.
    fn each_block(&mut self, mut on_block: impl FnMut(&[u8]) + Send) -> io::Result<()> {
        let (mut block, mut next) = (vec![0; HASH_BLOCK_BYTES], vec![0; HASH_BLOCK_BYTES]);
        self.bytes.rewind()?;
        let mut length = self.bytes.read(&mut block)?;
        while length > 0 {
            let read = block.get(..length).or_never("the block that was read");
            let ((), next_length) = rayon::join(|| on_block(read), || self.bytes.read(&mut next));
            length = next_length?;
            std::mem::swap(&mut block, &mut next);
        }
        self.bytes.rewind()
    }

    /// A function that checks whether the file is still the one that was opened.
    pub fn unchanged(&self) -> impl Fn() -> Result<(), FileError> + Send + use<> {
        let version = self.version.clone();
        move || match &version {
            Version::Path { location, name, identity } => {
                match location.folder("").and_then(|folder| folder.metadata(name)) {
                    Ok(now) if Identity::of(&now) == *identity => Ok(()),
                    Ok(_) => Err(FileError::Changed),
                    Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                        Err(FileError::Changed)
                    }
                    Err(error) => Err(error),
                }
            }
            Version::Object(_) => Ok(()),
        }
    }
}
