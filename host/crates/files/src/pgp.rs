//! Decrypts files of OpenPGP ([RFC 9580](https://www.rfc-editor.org/rfc/rfc9580)), as they stream by.
//!
//! What comes out is not to be trusted before the end: the check of integrity stands there. [`verify`](crate::verify)
//! reads a file to its end first, so that no row of a file that was tampered with is used, and neither its text nor a
//! copy of it lies anywhere meanwhile.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use pgp::composed::{
    DecryptionOptions, Deserializable, Message, MessageBuilder, SignedPublicKey, SignedSecretKey, TheRing,
};
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::{PublicKey as PrimaryKey, PublicSubkey, Signature, SignatureType};
use pgp::types::{KeyDetails, Password, Seipdv1ReadMode, Tag, Timestamp};

use crate::FileError;

/// Layers of signature and compression that are taken off; a message of more is built to exhaust.
const MOST_LAYERS: usize = 8;

/// Why a file cannot be decrypted. No key material, passphrase or text is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PgpError {
    /// The private key cannot be read.
    #[error("the private key cannot be read; expected an OpenPGP private key, armored or binary")]
    NoPrivateKey,
    /// The file with the private key holds a public one.
    #[error("the key is a public key; private_key needs the private one")]
    PublicKey,
    /// The private key is locked.
    #[error("the private key is protected by a passphrase; set pgp.passphrase")]
    NoPassphrase,
    /// The public key cannot be read.
    #[error("the public key cannot be read; expected an OpenPGP public key, armored or binary")]
    NoPublicKey,
    /// A private key where a public one belongs.
    #[error("the key is a private key; public_key needs the partner's public one")]
    PrivateKey,
    /// The public key is of no use for encryption.
    #[error(
        "the public key cannot be encrypted for: it has expired, was revoked or is for signatures alone; ask the partner for a new one"
    )]
    Unusable,
    /// The passphrase does not open the private key.
    #[error("the passphrase does not open the private key; check pgp.passphrase")]
    WrongPassphrase,
    /// The file is not for this key.
    #[error(
        "the file is not encrypted for this private key; ask the partner to encrypt it for the key in pgp.private_key"
    )]
    WrongKey,
    /// Nothing protects the file from being changed.
    #[error(
        "the file has no integrity protection, so it could have been changed on the way; ask the partner for a newer OpenPGP program"
    )]
    NoIntegrity,
    /// The file ends too early.
    #[error("the encrypted file is truncated")]
    Truncated,
    /// The file was changed.
    #[error("the encrypted file was damaged or tampered with: its integrity check fails")]
    Tampered,
    /// The file is no OpenPGP message.
    #[error("the file is not encrypted with OpenPGP, as the connection's [pgp] says it is")]
    NotEncrypted,
    /// The file is one, and there is no key.
    #[error("the file is encrypted with OpenPGP; the connection needs a [pgp] with a private_key")]
    NoKey,
    /// The message is made of something that is not supported.
    #[error("the encrypted file is of a kind that is not supported")]
    Unsupported,
}

/// A private key that files are decrypted with, unlocked when it is needed.
#[derive(Clone)]
pub struct PrivateKey(Arc<Key>);

struct Key {
    keys: Vec<SignedSecretKey>,
    passphrase: Password,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl PrivateKey {
    /// Reads one or more private keys, armored or binary, and tries the passphrase on them.
    ///
    /// # Errors
    /// If there is no private key, or the passphrase does not open any.
    pub fn read(bytes: &[u8], passphrase: Option<&str>) -> Result<Self, PgpError> {
        let public = bytes.windows(31).any(|window| window == b"-----BEGIN PGP PUBLIC KEY BLOCK");
        let unreadable = || if public { PgpError::PublicKey } else { PgpError::NoPrivateKey };
        let (found, _) = SignedSecretKey::from_reader_many(bytes).map_err(|_| unreadable())?;
        let keys: Vec<SignedSecretKey> = found.flatten().collect();
        if keys.is_empty() {
            return Err(unreadable());
        }
        let password = passphrase.map_or_else(Password::empty, Password::from);
        let opens = |key: &SignedSecretKey| {
            let done = |_: &_, _: &_| Ok(());
            key.secret_subkeys.iter().any(|subkey| matches!(subkey.key.unlock(&password, done), Ok(Ok(()))))
                || matches!(key.primary_key.unlock(&password, done), Ok(Ok(())))
        };
        match (keys.iter().any(opens), passphrase) {
            (true, _) => Ok(Self(Arc::new(Key { keys, passphrase: password }))),
            (false, None | Some("")) => Err(PgpError::NoPassphrase),
            (false, Some(_)) => Err(PgpError::WrongPassphrase),
        }
    }
}

/// The public keys of whoever is to read an exported file.
#[derive(Clone)]
pub struct PublicKey(Arc<Vec<Recipient>>);

enum Recipient {
    Primary(PrimaryKey),
    Subkey(PublicSubkey),
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey")
    }
}

impl PublicKey {
    /// Reads one or more public keys, armored or binary. A file is encrypted for each of them.
    ///
    /// # Errors
    /// If there is no public key, or one of them is not for encryption any more.
    pub fn read(bytes: &[u8]) -> Result<Self, PgpError> {
        if bytes.windows(32).any(|window| window == b"-----BEGIN PGP PRIVATE KEY BLOCK") {
            return Err(PgpError::PrivateKey);
        }
        let (found, _) = SignedPublicKey::from_reader_many(bytes).map_err(|_| PgpError::NoPublicKey)?;
        let mut recipients = Vec::new();
        for key in found {
            recipients.push(recipient(&key.map_err(|_| PgpError::NoPublicKey)?)?);
        }
        if recipients.is_empty() { Err(PgpError::NoPublicKey) } else { Ok(Self(Arc::new(recipients))) }
    }
}

/// The newest part of a key that is for encryption, whose signatures hold, and that has neither expired nor been
/// revoked. (RFC 9580, 5.2.3.13 and 5.2.3.29.)
fn recipient(key: &SignedPublicKey) -> Result<Recipient, PgpError> {
    let primary = &key.primary_key;
    let expired = |created: Timestamp, signature: &Signature| {
        signature.key_expiration_time().is_some_and(|time| {
            let end = u64::from(created.as_secs()) + u64::from(time.as_secs());
            time.as_secs() > 0 && end < u64::from(Timestamp::now().as_secs())
        })
    };
    let newest =
        |signatures: &[Signature]| signatures.iter().max_by_key(|signature| signature.created()).cloned();
    let own: Vec<Signature> = key
        .details
        .users
        .iter()
        .flat_map(|user| {
            user.signatures
                .iter()
                .filter(|signature| signature.verify_certification(primary, Tag::UserId, &user.id).is_ok())
        })
        .chain(&key.details.direct_signatures)
        .cloned()
        .collect();
    let Some(certificate) = newest(&own) else { return Err(PgpError::Unusable) };
    if !key.details.revocation_signatures.is_empty() || expired(primary.created_at(), &certificate) {
        return Err(PgpError::Unusable);
    }
    let for_encryption = |signature: &Signature| {
        let flags = signature.key_flags();
        flags.encrypt_comms() || flags.encrypt_storage()
    };
    let usable = key.public_subkeys.iter().filter(|subkey| {
        let revoked = |signature: &Signature| signature.typ() == Some(SignatureType::SubkeyRevocation);
        let binding = newest(&subkey.signatures);
        subkey.verify_bindings(primary).is_ok()
            && !subkey.signatures.iter().any(revoked)
            && binding.is_some_and(|binding| {
                for_encryption(&binding) && !expired(subkey.key.created_at(), &binding)
            })
    });
    match usable.max_by_key(|subkey| subkey.key.created_at()) {
        Some(subkey) => Ok(Recipient::Subkey(subkey.key.clone())),
        None if for_encryption(&certificate) => Ok(Recipient::Primary(primary.clone())),
        None => Err(PgpError::Unusable),
    }
}

/// Encrypts a text, as it streams by, with AES-256 and integrity protection that every OpenPGP program reads.
pub(crate) fn encrypt(text: impl Read, key: &PublicKey, out: &mut impl Write) -> Result<(), FileError> {
    let mut random = rand::rngs::OsRng;
    let mut message =
        MessageBuilder::from_reader("", text).seipd_v1(&mut random, SymmetricKeyAlgorithm::AES256);
    for recipient in key.0.iter() {
        let added = match recipient {
            Recipient::Primary(key) => message.encrypt_to_key(&mut random, key).map(|_| ()),
            Recipient::Subkey(key) => message.encrypt_to_key(&mut random, key).map(|_| ()),
        };
        added.map_err(|_| PgpError::Unusable)?;
    }
    message.to_writer(random, out).map_err(|error| match error {
        pgp::errors::Error::IO { source, .. } => FileError::Io(source),
        _ => FileError::Io(io::Error::other("the encryption failed")),
    })
}

/// Whether a file that begins so is an armored OpenPGP message, which nothing else looks like.
pub(crate) fn is_armored(start: &[u8]) -> bool {
    start.trim_ascii_start().starts_with(b"-----BEGIN PGP MESSAGE-")
}

/// The text of an encrypted message, as it streams by. What is wrong with it comes out as an `io::Error` that carries
/// a [`FileError`].
pub(crate) fn decrypt(
    input: impl Read + Send + 'static,
    key: &PrivateKey,
) -> Result<Box<dyn Read + Send>, FileError> {
    let failure = Failure::default();
    match message(input, key, &failure) {
        Ok(message) => Ok(Box::new(Plain { message, failure })),
        Err(error) => Err(failure.take().map_or(error.into(), FileError::from)),
    }
}

fn message(
    input: impl Read + Send + 'static,
    key: &PrivateKey,
    failure: &Failure,
) -> Result<Message<'static>, PgpError> {
    let mut input = Input { inner: BufReader::with_capacity(128 << 10, input), failure: failure.clone() };
    let start = input.fill_buf().map_err(|_| PgpError::Truncated)?.to_vec();
    let looks_encrypted = match start.first() {
        None => return Err(PgpError::Truncated),
        // A message begins with its session key: packet 1 or 3, with a header of the old form or the new.
        Some(0x84..=0x87 | 0x8c..=0x8f | 0xc1 | 0xc3) => true,
        _ => is_armored(&start),
    };
    let parsed = Message::from_reader(input);
    let (message, _) =
        parsed.map_err(|_| if looks_encrypted { PgpError::Truncated } else { PgpError::NotEncrypted })?;
    let Message::Encrypted { edata, .. } = &message else { return Err(PgpError::NotEncrypted) };
    if edata.tag() == Tag::SymEncryptedData {
        return Err(PgpError::NoIntegrity);
    }
    let ring = TheRing {
        secret_keys: key.0.keys.iter().collect(),
        key_passwords: vec![&key.0.passphrase],
        decrypt_options: DecryptionOptions::new()
            .enable_gnupg_aead()
            .set_seipdv1_read_mode(Seipdv1ReadMode::Streaming),
        ..TheRing::default()
    };
    let (mut message, _) = message.decrypt_the_ring(ring, true).map_err(|error| match error {
        pgp::errors::Error::MissingKey => PgpError::WrongKey,
        pgp::errors::Error::Unimplemented { .. } | pgp::errors::Error::Unsupported { .. } => {
            PgpError::Unsupported
        }
        _ => PgpError::Tampered,
    })?;
    for _ in 0..MOST_LAYERS {
        match message {
            Message::Compressed { .. } => message = message.decompress().map_err(|_| PgpError::Tampered)?,
            Message::Literal { .. } | Message::Signed { .. } => return Ok(message),
            Message::Encrypted { .. } => break,
        }
    }
    Err(PgpError::Unsupported)
}

/// Whether the packets of a message end where they say they do. Lengths are those of RFC 9580, section 4.2.
pub(crate) fn is_whole(input: impl Read) -> bool {
    let mut input = BufReader::with_capacity(128 << 10, input);
    match input.fill_buf() {
        Ok(start) if is_armored(start) => {
            let mut dearmor = pgp::armor::Dearmor::new(input);
            let read = dearmor.read_header().is_ok() && io::copy(&mut dearmor, &mut io::sink()).is_ok();
            read && dearmor.read_header().is_err()
        }
        Ok(_) => packets(&mut input).is_some(),
        Err(_) => false,
    }
}

fn packets(input: &mut impl Read) -> Option<()> {
    fn number(input: &mut impl Read, bytes: usize) -> Option<u64> {
        let mut number = 0;
        for _ in 0..bytes {
            let mut byte = [0];
            input.read_exact(&mut byte).ok()?;
            number = number << 8 | u64::from(u8::from_be_bytes(byte));
        }
        Some(number)
    }
    fn skip(input: &mut impl Read, bytes: u64) -> Option<()> {
        let skipped = io::copy(&mut input.take(bytes), &mut io::sink()).ok()?;
        (skipped == bytes).then_some(())
    }
    loop {
        let mut header = [0];
        if input.read(&mut header).ok()? == 0 {
            return Some(());
        }
        let header = u8::from_be_bytes(header);
        if header & 0x40 == 0 {
            match header & 3 {
                3 => return Some(()),
                form => {
                    let length = number(input, 1 << form)?;
                    skip(input, length)?;
                }
            }
            continue;
        }
        loop {
            let first = number(input, 1)?;
            let (length, partial) = match first {
                0..192 => (first, false),
                192..224 => ((first - 192) * 256 + number(input, 1)? + 192, false),
                255 => (number(input, 4)?, false),
                partial => (1 << (partial & 31), true),
            };
            skip(input, length)?;
            if !partial {
                break;
            }
        }
    }
}

/// Why the bytes below did not come, where that is it: the crate keeps no error as it was.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<io::Error>>>);

impl Failure {
    fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct Input<R> {
    inner: BufReader<R>,
    failure: Failure,
}

impl<R> Input<R> {
    fn note<T>(failure: &Failure, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|error| {
            let kind = error.kind();
            *failure.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            kind.into()
        })
    }
}

/// The crate wants readers that can be shown.
impl<R> fmt::Debug for Input<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Input")
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Self::note(&self.failure, self.inner.read(buffer))
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Self::note(&self.failure, self.inner.fill_buf())
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}

struct Plain {
    message: Message<'static>,
    failure: Failure,
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.message.read(buffer).map_err(|_| {
            self.failure.take().unwrap_or_else(|| io::Error::other(FileError::from(PgpError::Tampered)))
        })
    }
}
