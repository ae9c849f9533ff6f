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
use crate::runs::schedule::Schedule;

/// A partner's location, and the goals that import from it or export to it.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The name of its file without `.toml`.
    pub stem: String,
    /// The name that people see.
    pub name: String,
    /// Whether its goals run.
    pub enabled: bool,
    /// A profile is processed only if it consented to one of these; empty = every profile is.
    pub objectives: Vec<String>,
    /// Where the files are.
    pub location: LocationEntry,
    /// When the service runs the connection.
    pub schedule: Option<Schedule>,
    /// Who gets notifications about its runs.
    pub notify: Option<Notify>,
    /// The keys of its encrypted files.
    pub pgp: Option<PgpEntry>,
    /// Import goals in the order in which they run: groups first, then profiles.
    pub goals: Vec<ImportGoal>,
    /// Export goals in the order in which they run, after the imports.
    pub exports: Vec<ExportGoal>,
}

/// A goal of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal<'c> {
    /// An import goal.
    Import(&'c ImportGoal),
    /// An export goal.
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
    /// Key, secret and session token.
    keys: Option<(Secret, Secret, Option<Secret>)>,
}

/// The keys of a connection whose files are encrypted.
#[derive(Debug)]
pub(crate) struct PgpEntry {
    private_key: Option<Secret>,
    passphrase: Option<Secret>,
    public_key: Option<Secret>,
}

/// A connection's location, with its keys read.
pub(crate) struct Opened {
    pub location: Location,
    key: Option<PrivateKey>,
    /// The key that exported files are encrypted for.
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

    /// Where its files are, for people. The address of a bucket holds no secret.
    pub(crate) fn place(&self) -> String {
        match &self.location {
            LocationEntry::Directory(path) => path.display().to_string(),
            LocationEntry::S3(entry) => format!("s3://{}", entry.bucket),
        }
    }

    /// The secrets that its file may have, by table and key, and whether they are set.
    pub(crate) fn secrets(&self) -> Vec<(&'static str, bool)> {
        let mut secrets = Vec::new();
        // Without keys, the default credential chain is used. The page sets one secret at a time, and key and secret must both
        // be set, so they are not offered.
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

    /// The secrets that its goals and notifications need and that cannot be read now, by table and key, and why.
    pub(crate) fn missing_secrets(&self, root: &Path) -> Vec<(String, Error)> {
        let mut known: Vec<(&str, Option<&Secret>)> = Vec::new();
        if let LocationEntry::S3(entry) = &self.location
            && let Some((key, secret, token)) = &entry.keys
        {
            known.push(("location.access_key_id", Some(key)));
            known.push(("location.secret_access_key", Some(secret)));
            known.push(("location.session_token", token.as_ref()));
        }
        if let Some(pgp) = &self.pgp {
            known.push(("pgp.private_key", pgp.private_key.as_ref()));
            known.push(("pgp.passphrase", pgp.passphrase.as_ref()));
            known.push(("pgp.public_key", pgp.public_key.as_ref()));
        }
        if let Some(webhook) = self.notify.as_ref().and_then(|notify| notify.webhook.as_ref()) {
            known.push(("notify.webhook", Some(&webhook.url)));
            known.push(("notify.webhook_secret", webhook.secret.as_ref()));
        }
        let known = known.into_iter().filter_map(|(key, secret)| {
            // A key of OpenPGP may be binary.
            Some((key.to_owned(), secret?.bytes(root).err()?))
        });
        let goals = self.all_goals().filter(|goal| goal.enabled());
        let configs = goals.flat_map(|goal| {
            let processors = goal.processors().iter();
            processors.filter_map(move |entry| {
                let key = format!("configuration of {} in goal {}", entry.plugin, goal.name());
                Some((key, entry.config.open(root).err()?))
            })
        });
        known.chain(configs).collect()
    }

    /// Whose permissions count, for messages. The key itself may be a secret.
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

    /// Opens its location and reads its keys.
    ///
    /// # Errors
    /// If a secret cannot be found, or is not a key.
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
            section.problem("[pgp] has no `public_key` to encrypt exports with");
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
            let known = || schema.objectives.iter().map(String::as_str);
            entry.problem_with(|| unknown("objective", name, known()));
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
            location.problem("set both `access_key_id` and `secret_access_key`, or neither");
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
        section.problem("`passphrase` needs a `private_key`");
    }
    section.finish();
    PgpEntry { private_key, passphrase, public_key }
}
