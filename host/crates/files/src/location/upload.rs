//! A file that is being written. It gets its name when it is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use sluicebox_model::never;
use tokio::task::JoinHandle;

use super::s3::{S3, S3Problem};
use crate::FileError;

/// The names of unfinished files begin with this.
const TEMPORARY_PREFIX: &str = ".sluicebox-";
/// The size of the first parts. Amazon accepts 10,000 parts of at least 5 MiB: parts grow by this size every thousand.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
const PART_BYTES: usize = 8 << 20;
/// How many parts are sent while the next is filled.
const MAX_PARTS_IN_FLIGHT: usize = 3;

/// A file that is being written into a folder or a bucket.
pub(crate) struct Upload(Inner);

enum Inner {
    Path(PathUpload),
    Object(ObjectUpload),
}

impl Upload {
    /// A file in a folder of a location. A missing folder is created.
    pub(super) fn to_path(root: &Path, directory: &str, name: &str, tag: &str) -> Result<Self, FileError> {
        let root = root.canonicalize()?;
        let folder = root.join(directory);
        fs::create_dir_all(&folder)?;
        if !folder.canonicalize()?.starts_with(&root) {
            return Err(FileError::Io(io::Error::other("the directory leads out of the location")));
        }
        let temporary = folder.join(format!("{TEMPORARY_PREFIX}{tag}-{name}"));
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
        let file = BufWriter::with_capacity(256 << 10, file);
        Ok(Self(Inner::Path(PathUpload { file: Some(file), temporary, to: folder.join(name), folder })))
    }

    /// An object of a bucket.
    pub(super) fn to_object(s3: &S3, directory: &str, name: &str) -> Self {
        let key = S3::key(directory, name);
        let (part, sent) = (Vec::new(), Vec::new());
        Self(Inner::Object(ObjectUpload {
            s3: s3.clone(),
            key,
            part,
            upload: None,
            sent,
            size: 0,
            completed: 0,
        }))
    }

    /// Gives the complete file its name and returns its size in bytes.
    pub(crate) fn complete(self) -> Result<u64, FileError> {
        match self.0 {
            Inner::Path(upload) => Ok(upload.complete()?),
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

/// Removes the unfinished files of this tag.
pub(super) fn clear_path(root: &Path, directory: &str, tag: &str) -> io::Result<()> {
    let entries = match fs::read_dir(root.join(directory)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let begin = format!("{TEMPORARY_PREFIX}{tag}-");
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&begin)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

struct PathUpload {
    file: Option<BufWriter<File>>,
    temporary: PathBuf,
    to: PathBuf,
    folder: PathBuf,
}

impl PathUpload {
    fn file(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or(io::ErrorKind::BrokenPipe.into())
    }

    fn complete(mut self) -> io::Result<u64> {
        let file = self.file()?;
        file.flush()?;
        file.get_ref().sync_all()?;
        let size = file.get_ref().metadata()?.len();
        fs::rename(&self.temporary, &self.to)?;
        self.file = None;
        File::open(&self.folder)?.sync_all()?;
        Ok(size)
    }
}

impl Drop for PathUpload {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // The goal's next run removes a file that stays.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

struct ObjectUpload {
    s3: S3,
    key: String,
    /// The bytes of the next part.
    part: Vec<u8>,
    /// The id of the multipart upload, from the first full part on.
    upload: Option<String>,
    sent: Vec<Part>,
    size: u64,
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
        self.size += bytes.len() as u64;
        if self.part.len() >= PART_BYTES * (1 + self.sent.len() / 1000) {
            self.send().map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn send(&mut self) -> Result<(), FileError> {
        let failed = |problem| FileError::from(self.s3.error(&self.key, problem));
        let upload = match &self.upload {
            Some(upload) => upload.clone(),
            None => {
                let begin =
                    self.s3.client().create_multipart_upload().bucket(self.s3.bucket()).key(&self.key);
                let begun = self.s3.block_on(begin.send());
                let begun = begun.map_err(|error| failed(S3Problem::of("s3:PutObject", &error)))?;
                let upload = begun.upload_id().ok_or_else(|| failed(S3Problem::BadResponse))?;
                self.upload.insert(upload.to_owned()).clone()
            }
        };
        let number = i32::try_from(self.sent.len() + 1).map_err(|_| failed(S3Problem::BadResponse))?;
        let (s3, key, bytes) =
            (self.s3.clone(), self.key.clone(), Bytes::from(std::mem::take(&mut self.part)));
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
            let part_sent = self.s3.block_on(sending).map_err(io::Error::other)??;
            *part = Part::Completed(Box::new(part_sent));
        }
        self.completed += 1;
        Ok(())
    }

    fn complete(mut self) -> Result<u64, FileError> {
        if self.upload.is_some() && !self.part.is_empty() {
            self.send()?;
        }
        while self.completed < self.sent.len() {
            self.complete_oldest()?;
        }
        let (client, bucket) = (self.s3.client(), self.s3.bucket());
        let failed = |problem| FileError::from(self.s3.error(&self.key, problem));
        match &self.upload {
            None => {
                let body = Bytes::from(std::mem::take(&mut self.part)).into();
                let put = client.put_object().bucket(bucket).key(&self.key).body(body);
                let put = self.s3.block_on(put.send());
                put.map_err(|error| failed(S3Problem::of("s3:PutObject", &error)))?;
            }
            Some(upload) => {
                let parts = self.sent.drain(..).filter_map(|part| match part {
                    Part::Completed(part) => Some(*part),
                    Part::InFlight(_) => {
                        never!(true, "a part is in flight at the end of an upload");
                        None
                    }
                });
                let whole = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
                let end = client.complete_multipart_upload().bucket(bucket).key(&self.key).upload_id(upload);
                let end = self.s3.block_on(end.multipart_upload(whole).send());
                end.map_err(|error| failed(S3Problem::of("s3:PutObject", &error)))?;
            }
        }
        self.upload = None;
        Ok(self.size)
    }
}

impl Drop for ObjectUpload {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        for part in self.sent.drain(..) {
            if let Part::InFlight(sending) = part {
                sending.abort();
            }
        }
        let (client, bucket) = (self.s3.client(), self.s3.bucket());
        let abort = client.abort_multipart_upload().bucket(bucket).key(&self.key).upload_id(upload);
        // The remaining parts are invisible, and a lifecycle rule of the bucket removes them.
        let _ = self.s3.block_on(abort.send());
    }
}
