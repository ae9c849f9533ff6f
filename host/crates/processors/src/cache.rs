use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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
        let place = folder.join("key");
        let mut key = [0; 32];
        let read = fs::File::open(&place).and_then(|mut file| file.read_exact(&mut key));
        if read.is_err() {
            getrandom::fill(&mut key).map_err(io::Error::other)?;
            write_whole(&place, &[&key])?;
            // Another process may have been first.
            fs::File::open(&place)?.read_exact(&mut key)?;
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
        hasher.0.update(digest);
        self.folder.join(format!("{}.cwasm", hasher.0.finalize().to_hex()))
    }

    pub(crate) fn get(&self, engine: &Engine, digest: &[u8; 32]) -> Option<Component> {
        let place = self.place(engine, digest);
        let bytes = fs::read(&place).ok()?;
        let (mac, compiled) = bytes.split_at_checked(MAC)?;
        if self.mac(&place, compiled) != <[u8; MAC]>::try_from(mac).ok()? {
            tracing::warn!(file = %place.display(), "the compiled plugin was changed; it is compiled again");
            return None;
        }
        #[expect(
            unsafe_code,
            reason = "the hash shows that `serialize` wrote these bytes, in a process that had the key"
        )]
        let component = unsafe { Component::deserialize(engine, compiled) };
        component.ok()
    }

    /// Keeps a component. A cache that cannot be written to only costs time.
    pub(crate) fn put(&self, engine: &Engine, digest: &[u8; 32], component: &Component) {
        let place = self.place(engine, digest);
        let written = component
            .serialize()
            .map_err(io::Error::other)
            .and_then(|compiled| write_whole(&place, &[self.mac(&place, &compiled).as_bytes(), &compiled]));
        if let Err(error) = written {
            tracing::debug!(file = %place.display(), %error, "the compiled plugin was not kept");
        }
    }

    /// The file name is part of the hash, so that no entry can replace another.
    fn mac(&self, place: &Path, compiled: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(place.file_name().unwrap_or_default().as_encoded_bytes());
        hasher.update(compiled);
        hasher.finalize()
    }
}

/// Writes a file by renaming a complete one.
fn write_whole(place: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let temporary = place.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    for part in parts {
        file.write_all(part)?;
    }
    fs::rename(&temporary, place)
}
