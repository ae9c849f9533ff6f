//! Where files lie: a folder, or a bucket. Both list, open, mark and delete files in the same way.

mod directory;
mod object;
mod s3;
mod upload;

use std::fmt;
use std::io::{self, Read, Seek};
use std::path::PathBuf;

pub use directory::Directory;
pub use s3::{Permission, S3, S3Error, S3Options, S3Problem};
pub(crate) use upload::Upload;

use crate::{FileError, Pattern};
use directory::Identity;
use object::Object;

/// Bytes that are hashed together, on all cores.
const HASHED_AT_ONCE: usize = 1 << 20;

/// Where a connection's files lie.
#[derive(Clone, Debug)]
pub enum Location {
    /// A folder of this machine or of a mount.
    Directory(Directory),
    /// A bucket of Amazon S3, or of a store that speaks its protocol.
    S3(S3),
}

impl Location {
    /// The files in `directory` (inside the location, empty = its root) that one of `patterns` takes, in the order
    /// of their names' bytes.
    ///
    /// # Errors
    /// If the folder or bucket is not there or may not be listed.
    pub fn list(&self, directory: &str, patterns: &[&Pattern]) -> Result<Listing, FileError> {
        let mut listing = match self {
            Self::Directory(location) => location.list(directory, patterns)?,
            Self::S3(location) => location.list(directory, patterns)?,
        };
        listing.files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(listing)
    }

    /// Begins a file.
    pub(crate) fn create(&self, directory: &str, name: &str, tag: &str) -> Result<Upload, FileError> {
        match self {
            Self::Directory(location) => Upload::to_path(&location.root, directory, name, tag),
            Self::S3(location) => Ok(Upload::to_object(location, directory, name)),
        }
    }

    /// Whether there is a file of that name, as far as one may know.
    pub fn exists(&self, directory: &str, name: &str) -> bool {
        match self {
            Self::Directory(location) => location.root.join(directory).join(name).exists(),
            Self::S3(location) => location.exists(directory, name),
        }
    }

    /// Removes what a process that died left of files that were being written under this tag. In a bucket such files
    /// are invisible and a rule of its life cycle removes them.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn clear(&self, directory: &str, tag: &str) -> Result<(), FileError> {
        match self {
            Self::Directory(location) => Ok(upload::clear_path(&location.root, directory, tag)?),
            Self::S3(_) => Ok(()),
        }
    }
}

/// The location as people write it: a path or an `s3://` address.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(location) => write!(f, "{}", location.root.display()),
            Self::S3(location) => write!(f, "s3://{}", location.bucket()),
        }
    }
}

/// What a folder holds.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// In the order of their names' bytes.
    pub files: Vec<FoundFile>,
    /// One for each match that is no regular file or leads out of the location.
    pub warnings: Vec<String>,
}

/// A file that a goal may take.
#[derive(Clone, Debug)]
pub struct FoundFile {
    /// Its path inside the location, with `/`.
    pub name: String,
    /// Its path inside the goal's directory, which patterns are matched with.
    pub below: String,
    /// Its size in bytes.
    pub size: u64,
    origin: Origin,
}

#[derive(Clone, Debug)]
enum Origin {
    Path(PathBuf),
    Object(Object),
}

/// What reads a file from any place.
pub(crate) trait Bytes: Read + Seek + Send {}
impl<T: Read + Seek + Send> Bytes for T {}

/// An open file, with what is needed to know that it did not change while it was read.
pub struct Source {
    pub(crate) bytes: Box<dyn Bytes>,
    size: u64,
    version: Version,
}

#[derive(Clone, Debug)]
enum Version {
    /// The open file shows what is written to it, the path whether it was replaced.
    Path { path: PathBuf, identity: Identity },
    /// Every read asks for this version, so what was read is of one version.
    Object(Object),
}

impl FoundFile {
    /// Opens the file. An object is pinned to the version that was listed.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(&self) -> Result<Source, FileError> {
        match &self.origin {
            Origin::Path(path) => {
                let file = std::fs::File::open(path)?;
                let identity = Identity::of(&file.metadata()?);
                let version = Version::Path { path: path.clone(), identity };
                Ok(Source { size: identity.size, bytes: Box::new(file), version })
            }
            Origin::Object(object) => Ok(Source {
                bytes: Box::new(object.reader()),
                size: object.size,
                version: Version::Object(object.clone()),
            }),
        }
    }

    /// Deletes the file, unless it was replaced since it was listed.
    ///
    /// # Errors
    /// If it cannot be deleted.
    pub fn delete(&self) -> Result<(), FileError> {
        match &self.origin {
            Origin::Path(path) => Ok(std::fs::remove_file(path)?),
            Origin::Object(object) => object.delete(),
        }
    }

    /// Gives the file the name that marks it as imported: `.done` is added. A folder renames it in one step; a
    /// bucket gets a copy before the original is deleted.
    ///
    /// # Errors
    /// If that fails; the file is then there under one of both names.
    pub fn mark_done(&self) -> Result<(), FileError> {
        match &self.origin {
            Origin::Path(path) => {
                let mut done = path.clone().into_os_string();
                done.push(".done");
                Ok(std::fs::rename(path, done)?)
            }
            Origin::Object(object) => {
                object.copy_to(&format!("{}.done", object.key)).and_then(|()| object.delete())
            }
        }
    }

    /// A text that stands for this version of the file: what [`Source::digest`] found for it may be remembered by it.
    /// `None` where finding the digest again costs little.
    pub fn version(&self) -> Option<String> {
        match &self.origin {
            Origin::Path(_) => None,
            Origin::Object(object) => object.version(),
        }
    }
}

impl Source {
    /// The size in bytes, as it is stored.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What stands for the content: files of the same content have the same digest. For a folder it is the BLAKE3
    /// hash; for an object the MD5 hash, which the store knows already for what was uploaded in one part.
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

    /// Hands on the bytes of the file; the next are read meanwhile.
    fn each_block(&mut self, mut take: impl FnMut(&[u8]) + Send) -> io::Result<()> {
        let (mut block, mut next) = (vec![0; HASHED_AT_ONCE], vec![0; HASHED_AT_ONCE]);
        self.bytes.rewind()?;
        let mut length = self.bytes.read(&mut block)?;
        while length > 0 {
            let read = block.get(..length).unwrap_or_default();
            let ((), next_length) = rayon::join(|| take(read), || self.bytes.read(&mut next));
            length = next_length?;
            std::mem::swap(&mut block, &mut next);
        }
        self.bytes.rewind()
    }

    /// A check, for later, that the file is still what was opened.
    pub fn unchanged(&self) -> impl Fn() -> Result<(), FileError> + Send + use<> {
        let version = self.version.clone();
        move || match &version {
            Version::Path { path, identity } => match std::fs::metadata(path) {
                Ok(now) if Identity::of(&now) == *identity => Ok(()),
                _ => Err(FileError::Changed),
            },
            Version::Object(_) => Ok(()),
        }
    }
}
