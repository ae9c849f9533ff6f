//! A file that is being written. It gets its name when it is complete.

use std::fs::{File, TryLockError};
use std::io::{self, BufWriter, Write};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use sluicebox_model::never;
use tokio::task::JoinHandle;

use super::beneath::Folder;
use super::s3::{S3, S3Problem};
use super::{Directory, FileName, Location};
use crate::FileError;

/// The names of unfinished files begin with this.
const TEMPORARY_PREFIX: &str = ".sluicebox-";
/// How many names of unfinished files are tried: two are never the same by accident.
const MAX_NAMES: usize = 8;
/// The size of the first parts. Amazon accepts 10,000 parts of at least 5 MiB: parts grow by this size every thousand.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const PART_BYTES: usize = 8 << 20;
/// How many parts are sent while the next is filled.
const MAX_PARTS_IN_FLIGHT: usize = 3;
/// The metadata of an object that holds the mark of its upload.
const MARK: &str = "sluicebox-upload";

/// Where an exported file goes.
#[derive(Clone, Debug)]
pub struct Destination<'a> {
    /// The folder or bucket.
    pub location: &'a Location,
    /// Inside the location.
    pub directory: &'a str,
    /// The file's name.
    pub name: FileName,
    /// Whether a file of that name is replaced. Otherwise the new one gets the next name that no file has.
    pub replace: bool,
    /// Marks the unfinished files of a goal, for [`Location::clear`].
    pub tag: &'a str,
    /// The id of the run, which tells its files from those of others.
    pub run: &'a str,
}

impl Destination<'_> {
    /// Tells the upload from any other.
    fn mark(&self) -> String {
        let parts = [self.run, self.directory, &self.name.to_string()].join("\n");
        let hash = blake3::hash(parts.as_bytes()).to_hex();
        format!("{}-{}", self.tag, hash.chars().take(16).collect::<String>())
    }
}

/// A file that is being written into a folder or a bucket.
pub(crate) struct Upload(Inner);

enum Inner {
    Path(PathUpload),
    Object(ObjectUpload),
}

impl Upload {
    /// Begins a file. A missing folder is created.
    pub(crate) fn create(to: Destination<'_>) -> Result<Self, FileError> {
        let mark = to.mark();
        match to.location {
            Location::Directory(location) => Ok(Self(Inner::Path(PathUpload::create(location, to)?))),
            Location::S3(s3) => Ok(Self(Inner::Object(ObjectUpload {
                s3: s3.clone(),
                directory: to.directory.to_owned(),
                name: to.name,
                is_conditional: !to.replace,
                mark,
                part: Vec::new(),
                upload: None,
                sent: Vec::new(),
                completed: 0,
            }))),
        }
    }

    /// Gives the complete file its name and returns that.
    pub(crate) fn complete(self) -> Result<String, FileError> {
        match self.0 {
            Inner::Path(upload) => upload.complete(),
            Inner::Object(upload) => upload.complete(),
        }
    }
}

impl Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Path(upload) => upload.file()?.write(bytes),
            Inner::Object(upload) => upload.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Path(upload) => upload.file()?.flush(),
            Inner::Object(_) => Ok(()),
        }
    }
}

/// Removes the unfinished files of this tag that no process writes.
pub(super) fn clear_path(location: &Directory, directory: &str, tag: &str) -> Result<(), FileError> {
    let folder = match location.folder(directory) {
        Ok(folder) => folder,
        Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let begin = format!("{TEMPORARY_PREFIX}{tag}-");
    for entry in folder.names()? {
        let (name, kind) = entry?;
        // Others may have put what has such a name here: it must not keep the export from being written.
        if !name.starts_with(&begin) || kind.is_dir() {
            continue;
        }
        if kind.is_file() {
            match folder.open_to_lock(&name) {
                Ok(file) if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) => continue,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                _ => {}
            }
        }
        match folder.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

struct PathUpload {
    file: Option<BufWriter<File>>,
    location: Directory,
    directory: String,
    /// The folder in which the file was created.
    folder: Folder,
    temporary: String,
    name: FileName,
    replace: bool,
}

impl PathUpload {
    fn create(location: &Directory, to: Destination<'_>) -> Result<Self, FileError> {
        let folder = location.folder("")?.folder_or_new(to.directory)?;
        let mut attempts = 0..MAX_NAMES;
        let (temporary, file) = loop {
            // Random: who writes to the folder cannot know it before.
            let temporary = format!("{TEMPORARY_PREFIX}{}-{:016x}", to.tag, rand::random::<u64>());
            match folder.create(&temporary) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts.next().is_some() => {}
                created => break (temporary, created?),
            }
        };
        // Shows others that the file is being written. Without locks, `clear` takes it for a remainder.
        let _ = file.try_lock();
        let file = Some(BufWriter::with_capacity(256 << 10, file));
        let (name, replace, directory) = (to.name, to.replace, to.directory.to_owned());
        Ok(Self { file, location: location.clone(), directory, folder, temporary, name, replace })
    }

    fn file(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or(io::ErrorKind::BrokenPipe.into())
    }

    fn complete(mut self) -> Result<String, FileError> {
        let file = self.file()?;
        file.flush()?;
        file.get_ref().sync_all()?;
        self.check_place()?;
        loop {
            let to = self.name.to_string();
            if self.replace {
                self.folder.rename(&self.temporary, &to)?;
                break;
            }
            match self.folder.rename_to_new(&self.temporary, &to) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.name = self.name.next(|name| self.folder.has(name));
                }
                renamed => break renamed?,
            }
        }
        self.file = None;
        self.folder.sync()?;
        Ok(self.name.to_string())
    }

    /// Whether the folder and the file in it still have their names.
    fn check_place(&self) -> Result<(), FileError> {
        let moved = |error: FileError| match error {
            FileError::Io(error)
                if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                FileError::Io(error)
            }
            _ => FileError::Moved,
        };
        let now = self.location.folder(&self.directory).map_err(moved)?;
        let is_there = match &self.file {
            Some(file) => {
                now.is_name_of(&self.temporary, file.get_ref()).map_err(|error| moved(error.into()))?
            }
            None => false,
        };
        if now.is(&self.folder)? && is_there { Ok(()) } else { Err(FileError::Moved) }
    }
}

impl Drop for PathUpload {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // The goal's next run removes a file that stays.
            let _ = self.folder.remove(&self.temporary);
        }
    }
}

struct ObjectUpload {
    s3: S3,
    directory: String,
    name: FileName,
    /// Whether an object of that name must not be replaced, and the object store can be asked for that.
    is_conditional: bool,
    /// Stored with the object: tells whether a write whose response was lost took place.
    mark: String,
    /// The bytes of the next part.
    part: Vec<u8>,
    /// The id of the multipart upload, from the first full part on.
    upload: Option<String>,
    sent: Vec<Part>,
    /// How many of the sent parts are completed.
    completed: usize,
}

enum Part {
    InFlight(JoinHandle<Result<CompletedPart, FileError>>),
    Completed(Box<CompletedPart>),
}

impl ObjectUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART_BYTES * (1 + self.sent.len() / 1000) {
            self.send().map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn send(&mut self) -> Result<(), FileError> {
        let key = self.key();
        let failed = |problem| FileError::from(self.s3.error(&key, problem));
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let begin = self.s3.client().create_multipart_upload().bucket(self.s3.bucket()).key(&key);
                let begun = self.s3.block_on(begin.metadata(MARK, &self.mark).send());
                let begun = begun?.map_err(|error| failed(S3Problem::of("s3:PutObject", &error)))?;
                let upload = begun.upload_id().ok_or_else(|| failed(S3Problem::BadResponse))?;
                self.upload.insert(upload.to_owned()).clone()
            }
        };
        let number = i32::try_from(self.sent.len() + 1).map_err(|_| failed(S3Problem::BadResponse))?;
        let (s3, bytes) = (self.s3.clone(), Bytes::from(std::mem::take(&mut self.part)));
        self.sent.push(Part::InFlight(self.s3.spawn(async move {
            let part = s3.client().upload_part().bucket(s3.bucket()).key(&key).upload_id(upload);
            let sent = part.part_number(number).body(bytes.into()).send().await;
            let sent = sent.map_err(|error| s3.error(&key, S3Problem::of("s3:PutObject", &error)))?;
            let etag = sent.e_tag().map(str::to_owned);
            Ok(CompletedPart::builder().part_number(number).set_e_tag(etag).build())
        })));
        while self.sent.len() - self.completed > MAX_PARTS_IN_FLIGHT {
            self.complete_oldest()?;
        }
        Ok(())
    }

    /// Waits for the oldest part in flight.
    fn complete_oldest(&mut self) -> Result<(), FileError> {
        if let Some(part) = self.sent.get_mut(self.completed)
            && let Part::InFlight(sending) = part
        {
            let part_sent = self.s3.block_on(sending)?.map_err(io::Error::other)??;
            *part = Part::Completed(Box::new(part_sent));
        }
        self.completed += 1;
        Ok(())
    }

    fn complete(mut self) -> Result<String, FileError> {
        if self.upload.is_some() && !self.part.is_empty() {
            self.send()?;
        }
        while self.completed < self.sent.len() {
            self.complete_oldest()?;
        }
        match self.upload.clone() {
            None => self.put()?,
            Some(upload) => self.end(&upload)?,
        }
        self.upload = None;
        Ok(self.name.to_string())
    }

    /// Writes an object in one part.
    fn put(&mut self) -> Result<(), FileError> {
        let body = Bytes::from(std::mem::take(&mut self.part));
        loop {
            let put = self.s3.client().put_object().bucket(self.s3.bucket()).key(self.key());
            let put = put.body(body.clone().into()).metadata(MARK, &self.mark);
            let put = put.set_if_none_match(self.condition());
            match self.s3.block_on(put.send())? {
                Ok(_) => return Ok(()),
                Err(error) => match self.refusal(&error)? {
                    Refusal::Written => return Ok(()),
                    Refusal::Unconditional => {}
                    Refusal::NameTaken => {
                        self.name = self.name.next(|name| self.s3.exists(&S3::key(&self.directory, name)));
                    }
                },
            }
        }
    }

    /// Ends an upload in parts. Its name cannot change any more.
    fn end(&mut self, upload: &str) -> Result<(), FileError> {
        let parts = self.sent.drain(..).filter_map(|part| match part {
            Part::Completed(part) => Some(*part),
            Part::InFlight(_) => {
                never!(true, "a part is in flight at the end of an upload");
                None
            }
        });
        let whole = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        loop {
            let end = self.s3.client().complete_multipart_upload().bucket(self.s3.bucket()).key(self.key());
            let end = end.upload_id(upload).multipart_upload(whole.clone());
            match self.s3.block_on(end.set_if_none_match(self.condition()).send())? {
                Ok(_) => return Ok(()),
                Err(error) => match self.refusal(&error)? {
                    Refusal::Written => return Ok(()),
                    Refusal::Unconditional => {}
                    Refusal::NameTaken => return Err(FileError::NameTaken),
                },
            }
        }
    }

    fn key(&self) -> String {
        S3::key(&self.directory, &self.name.to_string())
    }

    fn condition(&self) -> Option<String> {
        self.is_conditional.then(|| "*".to_owned())
    }

    /// What follows from an error of a write.
    fn refusal<E: ProvideErrorMetadata>(
        &mut self,
        error: &SdkError<E, HttpResponse>,
    ) -> Result<Refusal, FileError> {
        let problem = S3Problem::of("s3:PutObject", error);
        let code = error.code().unwrap_or_default();
        if !self.is_conditional {
            return Err(self.s3.error(&self.key(), problem).into());
        }
        if problem == S3Problem::Changed || code == "ConditionalRequestConflict" {
            let found = self.s3.head(&self.key()).ok().flatten();
            let mark = found.as_ref().and_then(|found| found.metadata()).and_then(|found| found.get(MARK));
            return Ok(if mark == Some(&self.mark) { Refusal::Written } else { Refusal::NameTaken });
        }
        if code == "NotImplemented" {
            self.is_conditional = false;
            return Ok(Refusal::Unconditional);
        }
        Err(self.s3.error(&self.key(), problem).into())
    }
}

/// Why an object store refuses a write on the condition that no object has its name.
enum Refusal {
    /// The object is there: the response to an earlier attempt was lost.
    Written,
    /// Another object has the name.
    NameTaken,
    /// The object store does not know the condition: the write is tried without.
    Unconditional,
}

impl Drop for ObjectUpload {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        let key = self.key();
        for part in self.sent.drain(..) {
            if let Part::InFlight(sending) = part {
                sending.abort();
            }
        }
        let (client, bucket) = (self.s3.client(), self.s3.bucket());
        let abort = client.abort_multipart_upload().bucket(bucket).key(key).upload_id(upload);
        // The remaining parts are invisible, and a lifecycle rule of the bucket removes them.
        let _ = self.s3.block_on(abort.send());
    }
}
