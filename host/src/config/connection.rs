use std::path::{Path, PathBuf};

use sluicebox_files::{Decoding, Directory, Location, PrivateKey, PublicKey, S3, S3Options};
use sluicebox_model::Schema;
use sluicebox_processors::Limits;

use super::export::{self, EXPORT_PROFILES, ExportGoal};
use super::goal::{self, ImportGoal, ProcessorEntry};
use super::reader::{Section, unknown};
use super::schedule;
use super::service::{self, Notify};
use super::settings::Settings;
use super::value::Secret;
use crate::error::Error;
use crate::schedule::Schedule;

/// A partner's location and the goals that work on it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The name of its file without `.toml`.
    pub stem: String,
    /// The name that people see.
    pub name: String,
    /// Whether its goals run.
    pub enabled: bool,
    /// A profile is processed only if it consented to one of these; empty = all are.
    pub objectives: Vec<String>,
    /// Where the files are.
    pub location: LocationEntry,
    /// When the service runs it by itself.
    pub schedule: Option<Schedule>,
    /// Who is told of its runs.
    pub notify: Option<Notify>,
    /// How they are encrypted.
    pub pgp: Option<PgpEntry>,
    /// In the order in which they run: imports of groups, then of profiles.
    pub goals: Vec<ImportGoal>,
    /// In the order in which they run, after the imports.
    pub exports: Vec<ExportGoal>,
}

/// A goal of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal<'c> {
    /// It takes files.
    Import(&'c ImportGoal),
    /// It makes files.
    Export(&'c ExportGoal),
}

impl<'c> Goal<'c> {
    /// Its name.
    pub(crate) fn name(&self) -> &'c str {
        match self {
            Self::Import(goal) => &goal.name,
            Self::Export(goal) => &goal.name,
        }
    }

    /// Whether it runs.
    pub(crate) fn enabled(&self) -> bool {
        match self {
            Self::Import(goal) => goal.enabled,
            Self::Export(goal) => goal.enabled,
        }
    }

    /// The key of such goals in a connection's file.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Import(goal) => goal.target.kind().key(),
            Self::Export(_) => EXPORT_PROFILES,
        }
    }

    /// Its processors, in their order.
    pub(crate) fn processors(&self) -> &'c [ProcessorEntry] {
        match self {
            Self::Import(goal) => &goal.processors,
            Self::Export(goal) => &goal.processors,
        }
    }
}

/// Where a connection's files are.
#[derive(Debug)]
pub(crate) enum LocationEntry {
    /// A folder.
    Directory(PathBuf),
    /// A bucket.
    S3(Box<BucketEntry>),
}

/// A bucket, and how it is reached.
#[derive(Debug)]
pub(crate) struct BucketEntry {
    bucket: String,
    region: Option<String>,
    endpoint: Option<String>,
    path_style: bool,
    /// Key and secret, and the token of a session.
    keys: Option<(Secret, Secret, Option<Secret>)>,
}

/// The keys of a connection whose files are encrypted.
#[derive(Debug)]
pub(crate) struct PgpEntry {
    private_key: Option<Secret>,
    passphrase: Option<Secret>,
    public_key: Option<Secret>,
}

/// The way to a connection's files.
pub(crate) struct Opened {
    pub location: Location,
    key: Option<PrivateKey>,
    /// What exported files are encrypted for.
    pub public_key: Option<PublicKey>,
}

impl Opened {
    /// How the bytes of a goal's files become text.
    pub(crate) fn decoding(&self, settings: &Settings, goal: &ImportGoal) -> Decoding {
        Decoding { encoding: goal.encoding, expansion: settings.expansion, key: self.key.clone() }
    }
}

impl Connection {
    /// The names of its goals.
    pub(crate) fn goal_names(&self) -> Vec<String> {
        self.all_goals().map(|goal| goal.name().to_owned()).collect()
    }

    /// Its goals in the order in which they run.
    pub(crate) fn all_goals(&self) -> impl Iterator<Item = Goal<'_>> {
        self.goals.iter().map(Goal::Import).chain(self.exports.iter().map(Goal::Export))
    }

    /// The processors of all its goals.
    pub(crate) fn processors(&self) -> impl Iterator<Item = &ProcessorEntry> {
        self.all_goals().flat_map(|goal| goal.processors())
    }

    /// Where its files are, for people: the address of a bucket has no secret in it.
    pub(crate) fn place(&self) -> String {
        match &self.location {
            LocationEntry::Directory(path) => path.display().to_string(),
            LocationEntry::S3(entry) => format!("s3://{}", entry.bucket),
        }
    }

    /// The secrets that its file has or may have, by table and key, and whether it has them.
    pub(crate) fn secrets(&self) -> Vec<(&'static str, bool)> {
        let mut secrets = Vec::new();
        // Without keys the default credential chain counts; key and secret go together, and one secret is set at a time.
        if let LocationEntry::S3(entry) = &self.location
            && let Some((_, _, token)) = &entry.keys
        {
            secrets.push(("location.access_key_id", true));
            secrets.push(("location.secret_access_key", true));
            secrets.push(("location.session_token", token.is_some()));
        }
        let pgp = self.pgp.as_ref();
        secrets.push(("pgp.private_key", pgp.is_some_and(|pgp| pgp.private_key.is_some())));
        secrets.push(("pgp.passphrase", pgp.is_some_and(|pgp| pgp.passphrase.is_some())));
        secrets.push(("pgp.public_key", pgp.is_some_and(|pgp| pgp.public_key.is_some())));
        let webhook = self.notify.as_ref().and_then(|notify| notify.webhook.as_ref());
        secrets.push(("notify.webhook", webhook.is_some()));
        secrets.push(("notify.webhook_secret", webhook.is_some_and(|webhook| webhook.secret.is_some())));
        secrets
    }

    /// Whose permissions count, for messages; the key itself may be a secret.
    pub(crate) fn identity(&self) -> String {
        let keys = match &self.location {
            LocationEntry::S3(entry) => entry.keys.as_ref(),
            LocationEntry::Directory(_) => None,
        };
        match keys {
            Some((key, ..)) => format!("the identity of access_key_id ({})", key.place()),
            None => "the identity of the default credential chain".to_owned(),
        }
    }

    /// The way to its files, and the key that they are decrypted with, if they are encrypted.
    ///
    /// # Errors
    /// If a secret is not where it should be, or is no key.
    pub(crate) fn open(&self, root: &Path) -> Result<Opened, Error> {
        let public_key = self.open_public_key(root)?;
        Ok(Opened { location: self.open_location(root)?, key: self.open_key(root)?, public_key })
    }

    fn open_location(&self, root: &Path) -> Result<Location, Error> {
        let entry = match &self.location {
            LocationEntry::Directory(path) => {
                return Ok(Location::Directory(Directory { root: path.clone() }));
            }
            LocationEntry::S3(entry) => entry,
        };
        let keys = entry.keys.as_ref().map(|(key, secret, token)| {
            let token = token.as_ref().map(|token| token.text(root)).transpose()?;
            Ok::<_, Error>((key.text(root)?, secret.text(root)?, token))
        });
        let options = S3Options {
            bucket: entry.bucket.clone(),
            region: entry.region.clone(),
            endpoint: entry.endpoint.clone(),
            path_style: entry.path_style,
            keys: keys.transpose()?,
        };
        let bucket = S3::new(options).map_err(|error| Error::Location { place: self.name.clone(), error })?;
        Ok(Location::S3(bucket))
    }

    fn open_key(&self, root: &Path) -> Result<Option<PrivateKey>, Error> {
        let Some(pgp) = &self.pgp else { return Ok(None) };
        let Some(secret) = &pgp.private_key else { return Ok(None) };
        let passphrase = pgp.passphrase.as_ref().map(|passphrase| passphrase.text(root)).transpose()?;
        let key = PrivateKey::read(&secret.bytes(root)?, passphrase.as_deref());
        let key = key
            .map_err(|error| Error::Secret { place: secret.place().to_owned(), reason: error.to_string() });
        key.map(Some)
    }

    fn open_public_key(&self, root: &Path) -> Result<Option<PublicKey>, Error> {
        let Some(secret) = self.pgp.as_ref().and_then(|pgp| pgp.public_key.as_ref()) else { return Ok(None) };
        let key = PublicKey::read(&secret.bytes(root)?);
        let key = key
            .map_err(|error| Error::Secret { place: secret.place().to_owned(), reason: error.to_string() });
        key.map(Some)
    }
}

pub(crate) fn read(
    root: &Path,
    stem: &str,
    schema: &Schema,
    limits: Limits,
    file: Section<'_>,
) -> Connection {
    let name = file.text("name").unwrap_or(stem).to_owned();
    let enabled = file.flag("enabled", true);
    let objectives = objectives(&file, schema);
    let location = match file.section("location") {
        Some(section) => location(root, &section),
        None => {
            file.problem("[location] is missing");
            LocationEntry::Directory(root.to_owned())
        }
    };
    let schedule = file.section("schedule").and_then(|section| schedule::read(&section));
    let notify = file.section("notify").map(|section| service::notify(&section));
    let pgp = file.section("pgp").map(|section| pgp(&section));
    let mut goals: Vec<ImportGoal> = Vec::new();
    for kind in [goal::Kind::Groups, goal::Kind::Profiles] {
        for section in file.sections(kind.key()) {
            let Some(goal) = goal::read(schema, limits, kind, &section) else { continue };
            if goals.iter().any(|other| other.name == goal.name) {
                section.problem(format!("two goals are named `{}`", goal.name));
            }
            goals.push(goal);
        }
    }
    let mut exports: Vec<ExportGoal> = Vec::new();
    for section in file.sections(EXPORT_PROFILES) {
        let Some(goal) = export::read(schema, limits, &section) else { continue };
        let twice = exports.iter().map(|other| &other.name).chain(goals.iter().map(|other| &other.name));
        if twice.into_iter().any(|other| *other == goal.name) {
            section.problem(format!("two goals are named `{}`", goal.name));
        }
        if pgp.as_ref().is_some_and(|pgp| pgp.public_key.is_none()) {
            section.problem(
                "the connection's files are encrypted, and [pgp] has no `public_key` to encrypt an export for",
            );
        }
        exports.push(goal);
    }
    file.finish();
    Connection {
        stem: stem.to_owned(),
        name,
        enabled,
        objectives,
        location,
        schedule,
        notify,
        pgp,
        goals,
        exports,
    }
}

fn objectives(file: &Section<'_>, schema: &Schema) -> Vec<String> {
    let entries = file.get("objectives").map(|entry| entry.array()).unwrap_or_default();
    let mut names = Vec::new();
    for entry in entries {
        let Some(name) = entry.text() else { continue };
        if !schema.objectives.iter().any(|known| known == name) {
            entry.problem(unknown("objective", name, schema.objectives.iter().map(String::as_str)));
        }
        names.push(name.to_owned());
    }
    names
}

fn location(root: &Path, location: &Section<'_>) -> LocationEntry {
    location.required("kind");
    let s3 = location.choice("kind", &[("directory", false), ("s3", true)], false);
    let entry = match s3 {
        false => LocationEntry::Directory(root.join(location.required("path"))),
        true => LocationEntry::S3(Box::new(bucket(location))),
    };
    location.finish();
    entry
}

fn bucket(location: &Section<'_>) -> BucketEntry {
    let name = location.required("bucket").to_owned();
    let region = location.text("region").map(str::to_owned);
    let endpoint = location.text("endpoint").map(str::to_owned);
    if let Some(endpoint) = &endpoint
        && !endpoint.starts_with("http://")
        && !endpoint.starts_with("https://")
    {
        location.problem("`endpoint`: expected an address that begins with http:// or https://");
    }
    let key = Secret::read(location, "access_key_id");
    let secret = Secret::read(location, "secret_access_key");
    let token = Secret::read(location, "session_token");
    let keys = match (key, secret) {
        (Some(key), Some(secret)) => Some((key, secret, token)),
        (None, None) => {
            if token.is_some() {
                location.problem("`session_token` needs `access_key_id` and `secret_access_key`");
            }
            None
        }
        _ => {
            location.problem("`access_key_id` and `secret_access_key` go together");
            None
        }
    };
    BucketEntry { bucket: name, region, endpoint, path_style: location.flag("path_style", false), keys }
}

fn pgp(section: &Section<'_>) -> PgpEntry {
    let private_key = Secret::read(section, "private_key");
    let passphrase = Secret::read(section, "passphrase");
    let public_key = Secret::read(section, "public_key");
    if private_key.is_none() && public_key.is_none() {
        section.problem("[pgp] needs a `private_key` for imports or a `public_key` for exports");
    }
    if passphrase.is_some() && private_key.is_none() {
        section.problem("`passphrase` is that of the `private_key`, which is missing");
    }
    section.finish();
    PgpEntry { private_key, passphrase, public_key }
}
