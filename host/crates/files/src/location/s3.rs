//! A bucket of Amazon S3, or of another object store with the same protocol.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::Credentials;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use sluicebox_model::OrNever;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;

use super::answer::{BoundedAnswers, MAX_ANSWER_BYTES};
use super::object::Object;
use super::{FoundFile, Listing, Origin};
use crate::kind::is_system_file;
use crate::{FileError, Pattern};

/// How often a request is sent that is throttled, fails in the server or loses its connection.
const MAX_ATTEMPTS: u32 = 8;
const MAX_BACKOFF: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time until a response begins.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many pages of a listing are read: ten million objects. A store that does not end a listing is not asked for ever.
const MAX_PAGES: usize = 10_000;
/// How many folders of a folder are listed.
const MAX_FOLDERS: usize = 100_000;
/// How long who only looks waits for requests.
const ASK_TIME: Duration = Duration::from_secs(60);
/// How often a wait looks whether it is to stop.
const STOP_CHECK: Duration = Duration::from_millis(100);
/// How long the requests that are under way may take when they are to stop.
const STOP_TIME: Duration = Duration::from_secs(1);
/// The region for object stores that have none.
const DEFAULT_REGION: &str = "us-east-1";

/// How a bucket is reached.
#[derive(Clone, Default)]
pub struct S3Options {
    /// The name of the bucket.
    pub bucket: String,
    /// Its region; `None` = the region of the environment.
    pub region: Option<String>,
    /// The address of an object store that is not Amazon's.
    pub endpoint: Option<String>,
    /// Whether the bucket's name is part of the path instead of the host name.
    pub path_style: bool,
    /// Key, secret and session token; `None` = the SDK's default credential chain.
    pub keys: Option<(String, String, Option<String>)>,
}

/// How long requests are waited for.
#[derive(Clone, Debug, Default)]
pub struct Patience {
    /// Set to wait no longer.
    pub stop: Option<Arc<AtomicBool>>,
    /// The end of the wait.
    pub until: Option<Instant>,
}

impl Patience {
    /// Waits until requests are waited for no longer, and answers why.
    async fn ended(&self) -> S3Problem {
        loop {
            if self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                tokio::time::sleep(STOP_TIME).await;
                return S3Problem::Stopped;
            }
            if self.until.is_some_and(|until| until <= Instant::now()) {
                return S3Problem::Network("no answer in time".to_owned());
            }
            tokio::time::sleep(STOP_CHECK).await;
        }
    }
}

/// A bucket. Clones share connections.
#[derive(Clone)]
pub struct S3(Arc<Inner>);

struct Inner {
    client: Client,
    bucket: String,
    region: Option<String>,
    endpoint: String,
    answers: BoundedAnswers,
    handle: Handle,
    patience: OnceLock<Patience>,
    /// `None` after the drop.
    runtime: Option<Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The last reference may belong to a request that runs on this runtime and must not wait for itself.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("bucket", &self.0.bucket).finish_non_exhaustive()
    }
}

/// A permission that a goal needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Listing the files of the bucket.
    ListBucket,
    /// Reading files.
    GetObject,
    /// Writing files, and their copies with `.done`.
    PutObject,
    /// Deleting files.
    DeleteObject,
    /// Asking for the bucket's region.
    GetBucketLocation,
    /// Listing the buckets.
    ListAllMyBuckets,
}

impl Permission {
    /// The name in a policy.
    pub fn name(self) -> &'static str {
        match self {
            Self::ListBucket => "s3:ListBucket",
            Self::GetObject => "s3:GetObject",
            Self::PutObject => "s3:PutObject",
            Self::DeleteObject => "s3:DeleteObject",
            Self::GetBucketLocation => "s3:GetBucketLocation",
            Self::ListAllMyBuckets => "s3:ListAllMyBuckets",
        }
    }
}

/// A request that the object store refused, or that did not reach it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("s3://{bucket}/{key}: {problem}")]
pub struct S3Error {
    /// The bucket.
    pub bucket: String,
    /// The key, or the folder that was listed.
    pub key: String,
    /// What is wrong, and what to do about it.
    pub problem: S3Problem,
}

/// What is wrong with a request, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum S3Problem {
    /// The identity lacks a permission.
    Denied(&'static str),
    /// The bucket does not exist.
    NoBucket,
    /// The object does not exist.
    NoObject,
    /// The object was replaced since it was listed.
    Changed,
    /// The bucket is in another region: this one, if the object store named it.
    Region(Option<String>),
    /// The session token, or the key, has expired.
    Expired,
    /// The object store does not know the key.
    UnknownKey,
    /// The secret does not belong to the key.
    WrongSecret,
    /// There are no credentials.
    NoCredentials,
    /// This machine's clock is wrong.
    Clock,
    /// The object store keeps asking for fewer requests.
    SlowDown,
    /// The object store cannot be reached.
    Network(String),
    /// The wait for an answer was stopped.
    Stopped,
    /// The response is not one of S3.
    BadResponse,
    /// The response is longer than any of S3 is.
    LongAnswer,
    /// The object is longer than it was listed.
    LongObject,
    /// The listing has too many pages.
    LongListing,
    /// Another code and status.
    Other(String),
}

impl fmt::Display for S3Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(action) => {
                write!(f, "access is denied; the policy of this identity needs {action}")
            }
            Self::NoBucket => f.write_str("there is no such bucket; check location.bucket and location.endpoint"),
            Self::NoObject => f.write_str("the object is gone; it was there when the folder was listed"),
            Self::Changed => f.write_str("the object was replaced while it was read"),
            Self::Region(Some(region)) => {
                write!(f, "the bucket is in another region; set location.region to \"{region}\"")
            }
            Self::Region(None) => {
                f.write_str("the bucket is in another region; set location.region to the one that it is in")
            }
            Self::Expired => f.write_str(
                "the credentials have expired; renew session_token and its keys, or use keys that last",
            ),
            Self::UnknownKey => f.write_str("the access key is not known to the store; check access_key_id"),
            Self::WrongSecret => {
                f.write_str("the signature is wrong; check that secret_access_key belongs to access_key_id")
            }
            Self::NoCredentials => f.write_str(
                "there are no credentials; set access_key_id and secret_access_key, or set them in the environment",
            ),
            Self::Clock => f.write_str(
                "the clock of this machine differs too much from the store's; set it by NTP and run again",
            ),
            Self::SlowDown => f.write_str(
                "the store keeps asking for fewer requests (503 SlowDown); run again later",
            ),
            Self::Network(reason) => {
                write!(f, "the store cannot be reached: {reason}; check location.endpoint and the network, and run again")
            }
            Self::Stopped => f.write_str("the wait for the store was stopped"),
            Self::BadResponse => f.write_str("the store sent an unexpected response; check location.endpoint"),
            Self::LongAnswer => write!(
                f,
                "the store sent a response of more than {} MiB, which S3 never does; check location.endpoint",
                MAX_ANSWER_BYTES >> 20
            ),
            Self::LongObject => f.write_str("the store sent more bytes than the object had when it was listed"),
            Self::LongListing => write!(
                f,
                "the listing has more than {MAX_PAGES} pages; give the goal's files a directory of their own, and check \
                 location.endpoint"
            ),
            Self::Other(code) => write!(f, "the store answered {code}"),
        }
    }
}

impl S3Problem {
    /// What an error of the SDK means for a request that needs the permission `action`. The codes are in
    /// [Amazon's list](https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html).
    pub(super) fn of<E: ProvideErrorMetadata>(
        action: &'static str,
        error: &SdkError<E, HttpResponse>,
    ) -> Self {
        let answer = match error {
            SdkError::ServiceError(service) => service.raw(),
            SdkError::ConstructionFailure(_) => return Self::NoCredentials,
            SdkError::TimeoutError(_) => return Self::Network("no answer in time".to_owned()),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                return Self::Network("no answer in time".to_owned());
            }
            SdkError::DispatchFailure(failure) if failure.is_io() => {
                return Self::Network("the connection was refused or cut".to_owned());
            }
            SdkError::DispatchFailure(_) => return Self::NoCredentials,
            _ => return Self::BadResponse,
        };
        if answer.status().is_success() && is_cut(answer) {
            return Self::LongAnswer;
        }
        let region = answer.headers().get("x-amz-bucket-region").map(str::to_owned);
        // A response to HEAD has no body, hence no code: the status decides.
        match (error.code().unwrap_or_default(), answer.status().as_u16()) {
            ("AccessDenied" | "AllAccessDisabled", _) => Self::Denied(action),
            ("NoSuchBucket", _) => Self::NoBucket,
            ("NoSuchKey" | "NotFound", _) => Self::NoObject,
            ("PreconditionFailed", _) | (_, 412) => Self::Changed,
            ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired", _) => Self::Expired,
            ("InvalidAccessKeyId" | "InvalidToken" | "InvalidClientTokenId", _) => Self::UnknownKey,
            ("SignatureDoesNotMatch", _) => Self::WrongSecret,
            ("RequestTimeTooSkewed" | "RequestExpired", _) => Self::Clock,
            (
                "PermanentRedirect"
                | "TemporaryRedirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException",
                _,
            )
            | (_, 301 | 307) => Self::Region(region),
            (
                "SlowDown"
                | "Throttling"
                | "ThrottlingException"
                | "RequestLimitExceeded"
                | "ServiceUnavailable",
                _,
            )
            | (_, 503 | 429) => Self::SlowDown,
            (_, 403) => Self::Denied(action),
            (_, 404) => Self::NoObject,
            ("", status) => Self::Other(format!("with status {status}")),
            // The code comes from the object store: it is only shown if it looks like one.
            (code, status) if code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Self::Other(format!("{code} (status {status})"))
            }
            (_, status) => Self::Other(format!("with status {status}")),
        }
    }
}

/// Whether only the beginning of a response was read.
fn is_cut(answer: &HttpResponse) -> bool {
    answer.body().bytes().is_some_and(|body| body.len() >= MAX_ANSWER_BYTES)
}

impl S3 {
    /// Prepares the client of a bucket. No request is sent yet.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn new(options: S3Options) -> Result<Self, FileError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3")
            .enable_all()
            .build()?;
        let S3Options { bucket, region, endpoint, path_style, keys } = options;
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts =
            TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(RESPONSE_TIMEOUT).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .retry_config(
                RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS).with_max_backoff(MAX_BACKOFF),
            )
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled().grace_period(RESPONSE_TIMEOUT).build(),
            )
            .timeout_config(timeouts);
        if let Some(region) = &region {
            loader = loader.region(Region::new(region.clone()));
        } else if endpoint.is_some() {
            loader = loader.region(Region::new(DEFAULT_REGION));
        }
        if let Some(endpoint) = &endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some((key, secret, token)) = keys {
            loader = loader.credentials_provider(Credentials::new(key, secret, token, None, "configuration"));
        }
        let shared = runtime.block_on(loader.load());
        let region = region.or_else(|| shared.region().map(|region| region.as_ref().to_owned()));
        let answers = BoundedAnswers::default();
        let config = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(path_style)
            .interceptor(answers.clone())
            // Other object stores may not support checksums in trailers.
            .request_checksum_calculation(aws_sdk_s3::config::RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(aws_sdk_s3::config::ResponseChecksumValidation::WhenRequired);
        let config = match &region {
            Some(_) => config,
            None => config.region(Region::new(DEFAULT_REGION)),
        };
        let client = Client::from_conf(config.build());
        let (endpoint, handle) = (endpoint.unwrap_or_default(), runtime.handle().clone());
        Ok(Self(Arc::new(Inner {
            client,
            bucket,
            region,
            endpoint,
            answers,
            handle,
            patience: OnceLock::new(),
            runtime: Some(runtime),
        })))
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.0.bucket
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    pub(super) fn client(&self) -> &Client {
        &self.0.client
    }

    /// Sets how long requests are waited for, once.
    pub(super) fn wait_with(&self, patience: Patience) {
        // Only the first one counts: that of the run, or of the look.
        let _ = self.0.patience.set(patience);
    }

    /// Waits for requests.
    ///
    /// # Errors
    /// If nothing waits for them any more.
    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T, S3Error> {
        let unset = || Patience { stop: None, until: Some(Instant::now() + ASK_TIME) };
        let patience = self.0.patience.get().cloned().unwrap_or_else(unset);
        self.0.handle.block_on(async {
            tokio::select! {
                done = work => Ok(done),
                problem = patience.ended() => Err(self.error("", problem)),
            }
        })
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.0.handle.spawn(work)
    }

    pub(super) fn error(&self, key: &str, problem: S3Problem) -> S3Error {
        S3Error { bucket: self.0.bucket.clone(), key: key.to_owned(), problem }
    }

    fn failed<E: ProvideErrorMetadata>(
        &self,
        key: &str,
        permission: Permission,
        error: &SdkError<E, HttpResponse>,
    ) -> S3Error {
        self.error(key, S3Problem::of(permission.name(), error))
    }

    /// The key of a file in a folder of the bucket.
    pub(super) fn key(directory: &str, name: &str) -> String {
        match directory.trim_matches('/') {
            "" => name.to_owned(),
            directory => format!("{directory}/{name}"),
        }
    }

    /// Whether an object has this key. `false` as well where reading is not allowed.
    pub(super) fn exists(&self, key: &str) -> bool {
        self.head(key).is_ok_and(|found| found.is_some())
    }

    /// The headers of the object with this key; `None` if there is none, or if reading is not allowed.
    pub(super) fn head(&self, key: &str) -> Result<Option<HeadObjectOutput>, FileError> {
        let head = self.client().head_object().bucket(self.bucket()).key(key);
        match self.block_on(head.send())? {
            Ok(found) => Ok(Some(found)),
            Err(error) => match S3Problem::of(Permission::GetObject.name(), &error) {
                S3Problem::NoObject | S3Problem::Denied(_) => Ok(None),
                problem => Err(self.error(key, problem).into()),
            },
        }
    }

    /// The files in a folder of the bucket that one of `patterns` matches.
    pub(super) fn list(&self, directory: &str, patterns: &[&Pattern]) -> Result<Listing, FileError> {
        let directory = directory.trim_matches('/');
        let folder = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let prefix = format!("{folder}{}", common_start(patterns));
        let flat = patterns.iter().all(|pattern| pattern.depth == 0);
        self.block_on(async {
            let mut listing = Listing::default();
            let list = self.client().list_objects_v2().bucket(self.bucket()).prefix(&prefix);
            let list = list.set_delimiter(flat.then(|| "/".to_owned()));
            let (mut pages, mut count) = (list.into_paginator().send(), 0);
            let cut = self.0.answers.cut();
            while let Some(page) = pages.next().await {
                count += 1;
                let page =
                    page.map_err(|error| match S3Problem::of(Permission::ListBucket.name(), &error) {
                        S3Problem::NoObject => self.error(&folder, S3Problem::NoBucket),
                        problem => self.error(&folder, problem),
                    })?;
                self.check_page(&folder, count, cut)?;
                for object in page.contents() {
                    let Some(key) = object.key() else { continue };
                    let Some(below) = key.strip_prefix(&folder) else { continue };
                    if is_system_file(below) || !patterns.iter().any(|pattern| pattern.matches(below)) {
                        continue;
                    }
                    let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
                    let etag = object.e_tag().map(str::to_owned);
                    let origin = Object { s3: self.clone(), key: key.to_owned(), size, etag };
                    listing.add(FoundFile {
                        name: key.to_owned(),
                        below: below.to_owned(),
                        size,
                        modified: None,
                        origin: Origin::Object(origin),
                    })?;
                }
            }
            Ok(listing)
        })?
    }

    /// Refuses a page of a listing that comes after too many, or was cut. `cut` is how many answers were cut before the listing.
    fn check_page(&self, folder: &str, count: usize, cut: u64) -> Result<(), S3Error> {
        let problem = match (count > MAX_PAGES, self.0.answers.cut() > cut) {
            (_, true) => S3Problem::LongAnswer,
            (true, false) => S3Problem::LongListing,
            (false, false) => return Ok(()),
        };
        Err(self.error(folder, problem))
    }

    /// The buckets that the identity may list.
    ///
    /// # Errors
    /// If it may not list them.
    pub fn buckets(&self) -> Result<Vec<String>, S3Error> {
        self.block_on(async {
            let listed = self.client().list_buckets().send().await;
            let listed = listed.map_err(|error| self.failed("", Permission::ListAllMyBuckets, &error))?;
            Ok(listed.buckets().iter().filter_map(|bucket| bucket.name().map(str::to_owned)).collect())
        })?
    }

    /// The folders and the number of files at the top of a folder of the bucket.
    ///
    /// # Errors
    /// If it may not be listed.
    pub fn folders(&self, directory: &str) -> Result<(Vec<String>, u64), S3Error> {
        let directory = directory.trim_matches('/');
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        self.block_on(async {
            let (mut folders, mut files) = (Vec::new(), 0);
            let list = self.client().list_objects_v2().bucket(self.bucket()).prefix(&prefix).delimiter("/");
            let (mut pages, mut count) = (list.into_paginator().send(), 0);
            let cut = self.0.answers.cut();
            while let Some(page) = pages.next().await {
                count += 1;
                if folders.len() > MAX_FOLDERS {
                    return Err(self.error(&prefix, S3Problem::LongListing));
                }
                let page = page.map_err(|error| self.failed(&prefix, Permission::ListBucket, &error))?;
                self.check_page(&prefix, count, cut)?;
                folders.extend(
                    page.common_prefixes().iter().filter_map(|folder| folder.prefix().map(str::to_owned)),
                );
                files += page.contents().len() as u64;
            }
            Ok((folders, files))
        })?
    }

    /// That the bucket does not exist, where the identity may know that.
    pub fn missing(&self) -> Option<S3Error> {
        let answer = self.block_on(self.client().head_bucket().bucket(self.bucket()).send()).ok()?;
        let status = answer.err()?.raw_response()?.status().as_u16();
        (status == 404).then(|| self.error("", S3Problem::NoBucket))
    }

    /// Tries a permission in a folder of the bucket without changing the files in it. The write permission is tried with a
    /// file of its own name, which is deleted again where that is allowed.
    ///
    /// # Errors
    /// [`S3Problem::Denied`] if the permission is missing; another problem if the request fails.
    pub fn probe(&self, permission: Permission, directory: &str) -> Result<(), S3Error> {
        let folder = directory.trim_matches('/');
        let own = match folder {
            "" => ".sluicebox-permission-check".to_owned(),
            folder => format!("{folder}/.sluicebox-permission-check"),
        };
        let (client, bucket) = (self.client(), self.bucket());
        self.block_on(async {
            match permission {
                Permission::ListBucket => {
                    let list =
                        client.list_objects_v2().bucket(bucket).prefix(folder).max_keys(1).send().await;
                    list.map(|_| ()).map_err(|error| match self.failed(folder, permission, &error) {
                        S3Error { problem: S3Problem::NoObject, .. } => {
                            self.error(folder, S3Problem::NoBucket)
                        }
                        error => error,
                    })
                }
                Permission::GetObject => {
                    match client.get_object().bucket(bucket).key(&own).send().await {
                        Ok(_) => Ok(()),
                        Err(error) => match self.failed(&own, permission, &error) {
                            // Only an identity that may read learns that an object does not exist.
                            S3Error { problem: S3Problem::NoObject, .. } => Ok(()),
                            error => Err(error),
                        },
                    }
                }
                Permission::PutObject => {
                    let put = client.put_object().bucket(bucket).key(&own).body(Vec::new().into());
                    let put = put.send().await;
                    put.map_err(|error| self.failed(&own, permission, &error))?;
                    // `DeleteObject` is tried by itself.
                    let _ = client.delete_object().bucket(bucket).key(&own).send().await;
                    Ok(())
                }
                Permission::DeleteObject => {
                    let delete = client.delete_object().bucket(bucket).key(&own).send().await;
                    delete.map(|_| ()).map_err(|error| self.failed(&own, permission, &error))
                }
                Permission::GetBucketLocation => {
                    let location = client.get_bucket_location().bucket(bucket).send().await;
                    let location = location.map_err(|error| self.failed("", permission, &error))?;
                    let held = location.location_constraint().map(|region| region.as_str().to_owned());
                    match (held, &self.0.region) {
                        (Some(held), Some(region))
                            if !held.is_empty() && held != *region && self.0.endpoint.is_empty() =>
                        {
                            Err(self.error("", S3Problem::Region(Some(held))))
                        }
                        _ => Ok(()),
                    }
                }
                Permission::ListAllMyBuckets => {
                    let listed = client.list_buckets().send().await;
                    listed.map(|_| ()).map_err(|error| self.failed("", permission, &error))
                }
            }
        })?
    }
}

/// The text that every name begins with that one of the patterns matches.
fn common_start(patterns: &[&Pattern]) -> String {
    let mut starts = patterns.iter().map(|pattern| pattern.literal_start());
    let Some(first) = starts.next() else { return String::new() };
    let common = starts.fold(first, |common, start| {
        let length = common.char_indices().zip(start.chars()).take_while(|((_, a), b)| a == b).count();
        common
            .char_indices()
            .nth(length)
            .map_or(common, |(end, _)| common.get(..end).or_never("the common start"))
    });
    common.to_owned()
}
