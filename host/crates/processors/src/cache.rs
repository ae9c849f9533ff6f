use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::Engine;
use wasmtime::component::Component;

const MAC: usize = 32;

/// Compiled components, in a folder that only its owner may enter.
///
/// Loading an entry trusts its bytes as machine code. Each entry therefore carries a keyed hash, whose key lies beside it and is
/// readable only by the owner. An entry that was changed without the key is compiled again.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    key: [u8; 32],
}

impl Cache {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        check_owner(&fs::metadata(folder)?)?;
        let place = folder.join("key");
        let mut key = [0; 32];
        let read = File::open(&place).and_then(|mut file| file.read_exact(&mut key));
        if read.is_err() {
            getrandom::fill(&mut key).map_err(io::Error::other)?;
            write_whole(&place, |file| file.write_all(&key))?;
            // Another process may have been first.
            File::open(&place)?.read_exact(&mut key)?;
        }
        Ok(Self { folder: folder.to_owned(), key })
    }

    /// The file of a compiled component. Another engine or another version has another file.
    fn place(&self, engine: &Engine, digest: &[u8; 32]) -> PathBuf {
        use std::hash::{Hash, Hasher};
        struct Compatibility(blake3::Hasher);
        impl Hasher for Compatibility {
            fn write(&mut self, bytes: &[u8]) {
                self.0.update(bytes);
            }
            fn finish(&self) -> u64 {
                0
            }
        }
        let mut hasher = Compatibility(blake3::Hasher::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.0.update(env!("CARGO_PKG_VERSION").as_bytes());
        // The hash comes last.
        hasher.0.update(b"2");
        hasher.0.update(digest);
        self.folder.join(format!("{}.cwasm", hasher.0.finalize().to_hex()))
    }

    pub(crate) fn get(&self, engine: &Engine, digest: &[u8; 32]) -> Option<Component> {
        let place = self.place(engine, digest);
        let mut file = File::open(&place).ok()?;
        let length = file.metadata().ok()?.len().checked_sub(MAC as u64)?;
        let mut mac = [0; MAC];
        file.seek(SeekFrom::Start(length)).and_then(|_| file.read_exact(&mut mac)).ok()?;
        file.rewind().ok()?;
        if self.mac(&place, (&file).take(length)).ok()? != mac {
            tracing::warn!(file = %place.display(), "the compiled plugin was changed; it is compiled again");
            return None;
        }
        map(engine, &file)
    }

    /// Keeps what the compiler wrote.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub(crate) fn put(&self, engine: &Engine, digest: &[u8; 32], compiled: &mut File) -> io::Result<()> {
        let place = self.place(engine, digest);
        let mac = self.mac(&place, &*compiled)?;
        compiled.rewind()?;
        write_whole(&place, |file| {
            io::copy(compiled, file)?;
            file.write_all(mac.as_bytes())
        })
    }

    /// The file name is part of the hash, so that no entry can replace another.
    fn mac(&self, place: &Path, compiled: impl Read) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(place.file_name().unwrap_or_default().as_encoded_bytes());
        hasher.update_reader(compiled)?;
        Ok(hasher.finalize())
    }
}

/// Refuses a folder of compiled plugins that others may write to: they would decide which machine code runs.
fn check_owner(folder: &Metadata) -> io::Result<()> {
    let (owner, mode, own) = (folder.uid(), folder.mode() & 0o777, rustix::process::geteuid().as_raw());
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if owner != own {
        return refuse(format!(
            "it belongs to user {owner}, and this is user {own}; compiled plugins are machine code: remove the folder"
        ));
    }
    if mode & 0o022 != 0 {
        return refuse(format!(
            "others may write to it (mode {mode:o}); compiled plugins are machine code: remove the folder"
        ));
    }
    Ok(())
}

/// A compiled component, mapped: its code takes memory only where it runs, and the system can take that back.
///
/// The file must be one that the compiler wrote, in this process or in one that it started, or an entry of the cache whose hash is
/// right. No one may change it while the component lives: this program replaces its files, and writes into none of them.
pub(crate) fn map(engine: &Engine, file: &File) -> Option<Component> {
    let place = format!("/proc/self/fd/{}", file.as_raw_fd());
    #[expect(
        unsafe_code,
        reason = "the compiler wrote these bytes: its process wrote them into a file that only it and this one \
                                    have, or the hash shows that a process with the key had them from its compiler"
    )]
    let mapped = unsafe { Component::deserialize_file(engine, place) };
    mapped.ok().or_else(|| read(engine, file))
}

/// A compiled component in memory, from a file system whose files may not be mapped as code.
fn read(engine: &Engine, mut file: &File) -> Option<Component> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).ok()?;
    #[expect(unsafe_code, reason = "as in `map`")]
    let component = unsafe { Component::deserialize(engine, &bytes) };
    component.ok()
}

/// Tells apart the temporary files of this process.
static TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// Writes a file by renaming a complete one.
fn write_whole(place: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let number = TEMPORARY.fetch_add(1, Ordering::Relaxed);
    let temporary = place.with_extension(format!("{}.{number}.tmp", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    let written = write(&mut file).and_then(|()| fs::rename(&temporary, place));
    if written.is_err() {
        // The error says more than one about this file would.
        let _ = fs::remove_file(&temporary);
    }
    written
}
