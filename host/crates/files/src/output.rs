//! Writes an exported file: compresses, encrypts, and gives the file its name when it is complete.

use std::io::{self, PipeWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use flate2::write::GzEncoder;

use crate::location::{Destination, Upload};
use crate::{FileError, PublicKey, pgp};

/// How an exported file is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// No compression.
    #[default]
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Compression {
    /// The suffix that a file's name gets.
    fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }
}

/// How the text of an exported file becomes its bytes.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    /// Applied first.
    pub compression: Compression,
    /// Encrypts the compressed text.
    pub key: Option<PublicKey>,
}

impl Packing {
    /// The name of a file with the suffixes of its compression and encryption, unless it already has them.
    pub fn name(&self, name: &str) -> String {
        let mut name = name.to_owned();
        let encrypted = if self.key.is_some() { ".pgp" } else { "" };
        let suffixes = [self.compression.suffix(), encrypted].concat();
        if !name.ends_with(&suffixes) {
            if !name.ends_with(self.compression.suffix()) {
                name.push_str(self.compression.suffix());
            }
            name.push_str(encrypted);
        }
        name
    }
}

/// A file that is being written. It gets its name in [`Output::finish`]; dropped before that, it is removed.
pub struct Output(Box<dyn Sink>);

/// One stage of writing a file.
pub(crate) trait Sink: Write + Send {
    /// Ends the file and returns the name that it got.
    fn finish(self: Box<Self>) -> Result<String, FileError>;
}

impl Output {
    /// Begins a file. Its name has the suffixes of [`Packing::name`] already.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(to: Destination<'_>, packing: &Packing) -> Result<Self, FileError> {
        let mut sink: Box<dyn Sink> = Box::new(Upload::create(to)?);
        if let Some(key) = &packing.key {
            sink = Box::new(EncryptingWriter::new(sink, key.clone())?);
        }
        Ok(Self(match packing.compression {
            Compression::None => sink,
            Compression::Gzip => Box::new(GzEncoder::new(sink, flate2::Compression::new(6))),
            Compression::Zstd => Box::new(zstd::Encoder::new(sink, 3)?),
        }))
    }

    /// Ends the file, gives it its name and returns that: another one than it began with if a file that must not be replaced
    /// got it meanwhile.
    ///
    /// # Errors
    /// If that fails. No file has the name then.
    pub fn finish(mut self) -> Result<String, FileError> {
        self.0.flush()?;
        self.0.finish()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for Upload {
    fn finish(self: Box<Self>) -> Result<String, FileError> {
        self.complete()
    }
}

impl Sink for GzEncoder<Box<dyn Sink>> {
    fn finish(self: Box<Self>) -> Result<String, FileError> {
        GzEncoder::finish(*self)?.finish()
    }
}

impl Sink for zstd::Encoder<'static, Box<dyn Sink>> {
    fn finish(self: Box<Self>) -> Result<String, FileError> {
        zstd::Encoder::finish(*self)?.finish()
    }
}

/// Encrypts on a thread of its own, because the OpenPGP crate reads its text from a reader.
struct EncryptingWriter {
    text: Option<PipeWriter>,
    /// Set when the text is complete.
    complete: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<String, FileError>>>,
}

impl EncryptingWriter {
    fn new(mut sink: Box<dyn Sink>, key: PublicKey) -> Result<Self, FileError> {
        let (read, text) = io::pipe()?;
        let complete = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&complete);
        let work = move || {
            pgp::encrypt(read, &key, &mut sink)?;
            if ended.load(Ordering::Acquire) { sink.finish() } else { Err(FileError::Truncated) }
        };
        let thread = thread::Builder::new().name("encrypt".to_owned()).spawn(work)?;
        Ok(Self { text: Some(text), complete, thread: Some(thread) })
    }

    fn join(&mut self) -> Result<String, FileError> {
        self.text = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(done)) => done,
            _ => Err(FileError::Io(io::Error::other("the encryption failed"))),
        }
    }
}

impl Write for EncryptingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.text {
            Some(text) => text.write(bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for EncryptingWriter {
    fn finish(mut self: Box<Self>) -> Result<String, FileError> {
        self.complete.store(true, Ordering::Release);
        self.join()
    }
}

impl Drop for EncryptingWriter {
    fn drop(&mut self) {
        // The thread sees that the text is incomplete, and drops the file.
        let _ = self.join();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::{Directory, Location};

    #[test]
    fn files_of_one_name_that_end_at_the_same_time_are_both_there() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Directory(Directory { root: folder.path().to_owned() });
        let begin = |run: &str, replace: bool| {
            let name = location.free_name("out", "all.csv", &[], replace);
            let to = Destination { location: &location, directory: "out", name, replace, tag: "a", run };
            let mut output = Output::create(to, &Packing::default()).unwrap();
            output.write_all(run.as_bytes()).unwrap();
            output
        };
        let (first, second, third) = (begin("1", false), begin("2", false), begin("3", true));
        // What is being written is not taken for the remainder of a killed process, whose lock is gone.
        fs::write(folder.path().join("out/.sluicebox-a-0"), "").unwrap();
        location.clear("out", "a").unwrap();
        assert!(!folder.path().join("out/.sluicebox-a-0").exists());
        assert_eq!(second.finish().unwrap(), "all.csv");
        assert_eq!(first.finish().unwrap(), "all_2.csv");
        assert_eq!(begin("4", false).finish().unwrap(), "all_3.csv");
        let text = |name: &str| fs::read_to_string(folder.path().join("out").join(name)).unwrap();
        assert_eq!(
            (text("all.csv"), text("all_2.csv"), text("all_3.csv")),
            ("2".into(), "1".into(), "4".into())
        );
        assert_eq!((third.finish().unwrap(), text("all.csv")), ("all.csv".into(), "3".into()));
        assert_eq!(fs::read_dir(folder.path().join("out")).unwrap().count(), 3);
        assert_eq!(
            location.free_name("out", "new.csv", &["new.csv".to_owned()], true).to_string(),
            "new_2.csv"
        );
    }

    /// Writes a file; `meanwhile` gets the location, a folder outside of it, and the name of the unfinished file.
    fn written_while(
        replace: bool,
        meanwhile: impl Fn(&Path, &Path, &str),
    ) -> (Result<String, FileError>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (root, outside) = (folder.path().join("exchange"), folder.path().join("outside"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&outside).unwrap();
        let location = Location::Directory(Directory { root: root.clone() });
        let name = location.free_name("out", "all.csv", &[], replace);
        let to = Destination { location: &location, directory: "out", name, replace, tag: "a", run: "r" };
        let mut output = Output::create(to, &Packing::default()).unwrap();
        output.write_all(b"x").unwrap();
        let temporary = fs::read_dir(root.join("out")).unwrap().next().unwrap().unwrap().file_name();
        meanwhile(&root, &outside, temporary.to_str().unwrap());
        (output.finish(), folder)
    }

    #[test]
    fn nothing_is_written_outside_of_a_location() {
        let check = |meanwhile: &dyn Fn(&Path, &Path, &str)| {
            for replace in [false, true] {
                let (finished, folder) = written_while(replace, meanwhile);
                assert!(matches!(finished, Err(FileError::Moved)));
                assert_eq!(fs::read_dir(folder.path().join("outside")).unwrap().count(), 0);
                assert!(!folder.path().join("exchange/out/all.csv").exists());
            }
        };
        check(&|root, outside, _| {
            fs::rename(root.join("out"), root.join("old")).unwrap();
            symlink(outside, root.join("out")).unwrap();
        });
        check(&|root, _, _| fs::rename(root.join("out"), root.join("old")).unwrap());
        check(&|root, outside, temporary| {
            fs::remove_file(root.join("out").join(temporary)).unwrap();
            symlink(outside.join("new"), root.join("out").join(temporary)).unwrap();
        });
        // A link with the name of the file is not followed: it is another's file, or replaced.
        let link = |root: &Path, outside: &Path, _: &str| {
            symlink(outside.join("new"), root.join("out/all.csv")).unwrap();
        };
        for (replace, name) in [(false, "all_2.csv"), (true, "all.csv")] {
            let (finished, folder) = written_while(replace, link);
            assert_eq!(finished.unwrap(), name);
            let metadata = folder.path().join("exchange/out").join(name).symlink_metadata().unwrap();
            assert!(metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o640);
            assert!(!folder.path().join("outside/new").exists());
        }
    }

    #[test]
    fn names_of_unfinished_files_are_random_and_what_others_put_there_is_no_hindrance() {
        let name_of = || {
            let name = std::cell::RefCell::new(String::new());
            let (finished, folder) = written_while(false, |root, outside, temporary| {
                name.replace(temporary.to_owned());
                for (number, kind) in ["link", "folder", "fifo"].into_iter().enumerate() {
                    let place = root.join("out").join(format!(".sluicebox-a-{number}"));
                    match kind {
                        "link" => symlink(outside, place).unwrap(),
                        "folder" => fs::create_dir(place).unwrap(),
                        _ => rustix::fs::mkfifoat(rustix::fs::CWD, place, rustix::fs::Mode::RUSR).unwrap(),
                    }
                }
                let location = Location::Directory(Directory { root: root.to_owned() });
                location.clear("out", "a").unwrap();
                assert!(root.join("out").join(temporary).exists(), "it is being written");
            });
            assert_eq!(finished.unwrap(), "all.csv");
            let left = fs::read_dir(folder.path().join("exchange/out")).unwrap();
            assert_eq!(left.count(), 2, "the file, and the folder of another");
            name.into_inner()
        };
        assert_ne!(name_of(), name_of());
    }

    #[test]
    fn names_say_how_a_file_is_packed() {
        let check = |compression, name: &str, expected: &str| {
            assert_eq!(Packing { compression, key: None }.name(name), expected);
        };
        check(Compression::None, "a.csv", "a.csv");
        check(Compression::Gzip, "a.csv", "a.csv.gz");
        check(Compression::Gzip, "a.csv.gz", "a.csv.gz");
        check(Compression::Zstd, "a.csv", "a.csv.zst");
    }
}
