//! One version of an object: reads it in parts that are fetched ahead, copies it, deletes it.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::s3::{S3, S3Error, S3Problem};
use crate::FileError;

/// The bytes of one request.
const PART_BYTES: u64 = 4 << 20;
/// How many parts are requested ahead of the reader.
const PARTS_AHEAD: usize = 4;
/// How often a part is requested whose body is cut. The SDK retries failures before the body.
const MAX_ATTEMPTS: u32 = 6;
/// Larger objects are copied in parts, because [CopyObject] refuses them.
///
/// [CopyObject]: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
const MAX_COPY_BYTES: u64 = 5 << 30;
const COPY_PART_BYTES: u64 = 512 << 20;

/// An object as it was listed.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) s3: S3,
    pub(super) key: String,
    pub(super) size: u64,
    /// With its quotes, as the object store sends it.
    pub(super) etag: Option<String>,
}

impl Object {
    /// The MD5 hash of the content, where the ETag is one: the object was uploaded in one part and is not encrypted with a
    /// KMS key. Such an ETag looks the same, so the response headers decide.
    pub(super) fn md5(&self) -> Option<[u8; 16]> {
        let md5 = hex(self.etag.as_deref()?.trim_matches('"'))?;
        let plain = self
            .s3
            .block_on(async {
                let head = self.s3.client().head_object().bucket(self.s3.bucket()).key(&self.key);
                head.send().await.is_ok_and(|head| {
                    use aws_sdk_s3::types::ServerSideEncryption::Aes256;
                    let managed = head.server_side_encryption().is_none_or(|kind| *kind == Aes256);
                    managed && head.sse_customer_algorithm().is_none() && head.e_tag() == self.etag.as_deref()
                })
            })
            .unwrap_or_default();
        plain.then_some(md5)
    }

    pub(super) fn version(&self) -> Option<String> {
        let etag = self.etag.as_deref()?;
        Some(format!("{}\n{}\n{}\n{etag}\n{}", self.s3.endpoint(), self.s3.bucket(), self.key, self.size))
    }

    pub(super) fn reader(&self) -> ObjectReader {
        ObjectReader {
            object: self.clone(),
            position: 0,
            part: Bytes::new(),
            ahead: VecDeque::new(),
            requested: 0,
        }
    }

    /// Copies this version to another key. A copy that fails leaves nothing under that key.
    pub(super) fn copy_to(&self, key: &str) -> Result<(), FileError> {
        self.s3.block_on(async {
            if self.size > MAX_COPY_BYTES {
                self.copy_in_parts(key).await
            } else {
                self.copy_whole(key).await
            }
        })?
    }

    /// Whether the object of these headers has the content of this version, as far as they tell.
    pub(super) fn is_copied_as(&self, headers: &HeadObjectOutput) -> bool {
        let size = headers.content_length().and_then(|size| u64::try_from(size).ok());
        headers.e_tag() == self.etag.as_deref() && size == Some(self.size)
    }

    fn copy_source(&self) -> String {
        format!("{}/{}", self.s3.bucket(), encoded(&self.key))
    }

    async fn copy_whole(&self, key: &str) -> Result<(), FileError> {
        let copy = self.s3.client().copy_object().bucket(self.s3.bucket()).key(key);
        let copy = copy.copy_source(self.copy_source()).set_copy_source_if_match(self.etag.clone());
        match copy.send().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed("s3:PutObject", &error)),
        }
    }

    async fn copy_in_parts(&self, key: &str) -> Result<(), FileError> {
        let (client, bucket) = (self.s3.client(), self.s3.bucket());
        let failed = |error: S3Error| FileError::from(error);
        let begun = client.create_multipart_upload().bucket(bucket).key(key).send().await;
        let begun = begun.map_err(|error| self.failed("s3:PutObject", &error))?;
        let upload =
            begun.upload_id().ok_or_else(|| failed(self.s3.error(&self.key, S3Problem::BadResponse)))?;
        let copied = async {
            let mut parts = Vec::new();
            for (number, from) in
                (1..).zip((0..self.size).step_by(usize::try_from(COPY_PART_BYTES).unwrap_or(usize::MAX)))
            {
                let to = (from + COPY_PART_BYTES).min(self.size) - 1;
                let part =
                    client.upload_part_copy().bucket(bucket).key(key).upload_id(upload).part_number(number);
                let part =
                    part.copy_source(self.copy_source()).copy_source_range(format!("bytes={from}-{to}"));
                let part = part.set_copy_source_if_match(self.etag.clone()).send().await;
                let part = part.map_err(|error| self.failed("s3:PutObject", &error))?;
                let etag = part.copy_part_result().and_then(|result| result.e_tag()).map(str::to_owned);
                parts.push(CompletedPart::builder().part_number(number).set_e_tag(etag).build());
            }
            let whole = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
            let end = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(upload);
            let end = end.multipart_upload(whole).send().await;
            end.map(|_| ()).map_err(|error| self.failed("s3:PutObject", &error))
        };
        let copied = copied.await;
        if copied.is_err() {
            // The remaining parts are invisible, and a lifecycle rule of the bucket removes them.
            let _ = client.abort_multipart_upload().bucket(bucket).key(key).upload_id(upload).send().await;
        }
        copied
    }

    /// Deletes the object if it is still this version. A replaced object stays for the next run.
    pub(super) fn delete(&self) -> Result<(), FileError> {
        self.s3.block_on(async {
            let (client, bucket) = (self.s3.client(), self.s3.bucket());
            let now = client.head_object().bucket(bucket).key(&self.key).send().await;
            if now.is_ok_and(|now| now.e_tag() != self.etag.as_deref()) {
                return Ok(());
            }
            match client.delete_object().bucket(bucket).key(&self.key).send().await {
                Ok(_) => Ok(()),
                Err(error) => Err(self.failed("s3:DeleteObject", &error)),
            }
        })?
    }

    fn failed<E: ProvideErrorMetadata>(
        &self,
        action: &'static str,
        error: &SdkError<E, HttpResponse>,
    ) -> FileError {
        match S3Problem::of(action, error) {
            S3Problem::Changed => FileError::Changed,
            problem => self.s3.error(&self.key, problem).into(),
        }
    }

    /// Bytes `from..to` of this version.
    async fn part(self, from: u64, to: u64) -> Result<Bytes, FileError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let get = self.s3.client().get_object().bucket(self.s3.bucket()).key(&self.key);
            let get = get.range(format!("bytes={from}-{}", to - 1)).set_if_match(self.etag.clone());
            let answer = get.send().await.map_err(|error| self.failed("s3:GetObject", &error))?;
            let problem = match whole(answer.body).await {
                Ok(bytes) if bytes.len() as u64 == to - from => return Ok(bytes),
                Ok(bytes) if bytes.len() as u64 > to - from => {
                    return Err(self.s3.error(&self.key, S3Problem::LongObject).into());
                }
                Ok(_) => S3Problem::BadResponse,
                Err(problem) => S3Problem::Network(problem),
            };
            if attempt == MAX_ATTEMPTS {
                return Err(self.s3.error(&self.key, problem).into());
            }
            tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
        }
    }
}

async fn whole(body: ByteStream) -> Result<Bytes, String> {
    body.collect().await.map(|body| body.into_bytes()).map_err(|_| "the connection was cut".to_owned())
}

fn hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(place * 2..place * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// A key for the header of a copy request, percent-encoded.
fn encoded(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(char::from(byte))
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// Reads an object from front to back and fetches parts ahead. A seek out of the current part starts again from there.
pub(super) struct ObjectReader {
    object: Object,
    /// Where the next read begins.
    position: u64,
    /// The bytes from `position` on that are here.
    part: Bytes,
    ahead: VecDeque<JoinHandle<Result<Bytes, FileError>>>,
    /// The end of the last requested part.
    requested: u64,
}

impl ObjectReader {
    fn next_part(&mut self) -> io::Result<Bytes> {
        while self.ahead.len() < PARTS_AHEAD && self.requested < self.object.size {
            let to = (self.requested + PART_BYTES).min(self.object.size);
            let part = self.object.clone().part(self.requested, to);
            self.ahead.push_back(self.object.s3.spawn(part));
            self.requested = to;
        }
        let Some(part) = self.ahead.pop_front() else { return Ok(Bytes::new()) };
        let part = self.object.s3.block_on(part).map_err(io::Error::other)?.map_err(io::Error::other)?;
        part.map_err(io::Error::other)
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.part.is_empty() {
            self.part = self.next_part()?;
        }
        let length = buffer.len().min(self.part.len());
        let bytes = self.part.split_to(length);
        if let Some(place) = buffer.get_mut(..length) {
            place.copy_from_slice(&bytes);
        }
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::End(offset) => self.object.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let place = place.ok_or(io::ErrorKind::InvalidInput)?;
        let skipped = place.checked_sub(self.position).and_then(|skipped| usize::try_from(skipped).ok());
        match skipped {
            Some(skipped) if skipped <= self.part.len() => drop(self.part.split_to(skipped)),
            _ => {
                self.ahead.drain(..).for_each(|part| part.abort());
                self.part = Bytes::new();
                self.requested = place;
            }
        }
        self.position = place;
        Ok(place)
    }
}

impl Drop for ObjectReader {
    fn drop(&mut self) {
        self.ahead.drain(..).for_each(|part| part.abort());
    }
}
