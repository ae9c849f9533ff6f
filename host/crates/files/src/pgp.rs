//! Decrypts files of OpenPGP ([RFC 9580](https://www.rfc-editor.org/rfc/rfc9580)), as they stream by.
//!
//! The text must not be trusted before its end, where the integrity check is. [`verify`](crate::verify) reads a file to
//! its end first, so that no row of a file that was tampered with is used, without keeping the text anywhere.
//!
//! A partner decides what a message is made of. So each layer of its compression is counted against the [`ExpansionLimit`], and
//! packets without text are passed over only up to [`MAX_SILENT_BYTES`].

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pgp::composed::{
    CompressedDataReader, DecryptionOptions, Deserializable, Esk, Message, MessageBuilder, MessageReader,
    SignedPublicKey, SignedSecretKey, TheRing,
};
use pgp::crypto::sym::SymmetricKeyAlgorithm;
use pgp::packet::{PacketParser, PublicKey as PrimaryKey, PublicSubkey, Signature, SignatureType};
use pgp::types::{EcdhPublicParams, KeyDetails, Password, PublicParams, Seipdv1ReadMode, Tag, Timestamp};
use sluicebox_model::OrNever;

use crate::decode::Expansion;
use crate::{ExpansionLimit, FileError};

/// The most layers of signatures and compression. A message with more is built to exhaust memory.
const MAX_LAYERS: usize = 8;

/// How many bytes of a message, in all its layers, may pass without a byte of text: session keys, signatures, padding, and a
/// chunk of an AEAD mode, of which GnuPG makes 4 MiB at most. The parser keeps what it reads of those.
const MAX_SILENT_BYTES: u64 = 8 << 20;

/// Why a file cannot be decrypted. No message holds key material, a passphrase or text.
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
    /// The file with the public key holds a private one.
    #[error("the key is a private key; public_key needs the partner's public one")]
    PrivateKey,
    /// The public key cannot be used for encryption.
    #[error(
        "the public key cannot be used for encryption: it has expired, was revoked or is for signatures only; ask the partner for a new one"
    )]
    Unusable,
    /// The passphrase does not open the private key.
    #[error("the passphrase does not open the private key; check pgp.passphrase")]
    WrongPassphrase,
    /// The file is encrypted for another key.
    #[error(
        "the file is not encrypted for this private key; ask the partner to encrypt it for the key in pgp.private_key"
    )]
    WrongKey,
    /// The file has no integrity protection.
    #[error(
        "the file has no integrity protection, so it could have been changed on the way; ask the partner for a newer OpenPGP program"
    )]
    NoIntegrity,
    /// The file is truncated.
    #[error("the encrypted file is truncated")]
    Truncated,
    /// The integrity check fails.
    #[error("the encrypted file was damaged or tampered with: its integrity check fails")]
    Tampered,
    /// The file is no OpenPGP message.
    #[error("the file is not encrypted with OpenPGP, but the connection has a [pgp] with a private_key")]
    NotEncrypted,
    /// The file is an OpenPGP message, and the connection has no key.
    #[error("the file is encrypted with OpenPGP; the connection needs a [pgp] with a private_key")]
    NoKey,
    /// A key whose algorithm is not supported.
    #[error(
        "the algorithm of the key is not supported; use an RSA key, or one of Curve25519, Curve448 or a NIST curve"
    )]
    UnsupportedKey,
    /// The message has too many bytes that are no text.
    #[error(
        "the encrypted file has more than {} MiB of OpenPGP packets that hold no data; ask the partner to encrypt it again",
        MAX_SILENT_BYTES >> 20
    )]
    Silent,
    /// The message uses a feature of OpenPGP that is not supported.
    #[error("the encrypted file uses a feature of OpenPGP that is not supported")]
    Unsupported,
}

/// A private key that opens files. It is unlocked each time it is used.
#[derive(Clone)]
pub struct PrivateKey(Arc<Key>);

struct Key {
    keys: Vec<SignedSecretKey>,
    passphrase: Password,
    /// Whether a key or subkey could not be read because of its algorithm or version.
    has_unsupported_parts: bool,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl PrivateKey {
    /// Reads one or more private keys, armored or binary, and tries the passphrase.
    ///
    /// # Errors
    /// If there is no private key, or the passphrase opens none of them.
    pub fn read(bytes: &[u8], passphrase: Option<&str>) -> Result<Self, PgpError> {
        let mut keys = Vec::new();
        for block in armored_blocks(bytes, PRIVATE_KEY) {
            let Ok((found, _)) = SignedSecretKey::from_reader_many(block) else { continue };
            keys.extend(found.flatten());
        }
        if keys.is_empty() {
            return Err(match (contains(bytes, PRIVATE_KEY), contains(bytes, PUBLIC_KEY)) {
                (false, true) => PgpError::PublicKey,
                (true, _) if has_unsupported_parts(bytes) => PgpError::UnsupportedKey,
                _ => PgpError::NoPrivateKey,
            });
        }
        let has_unsupported_parts = has_unsupported_parts(bytes);
        let has_supported = |key: &SignedSecretKey| {
            is_supported(key.primary_key.public_key())
                || key.secret_subkeys.iter().any(|subkey| is_supported(subkey.key.public_key()))
        };
        if !keys.iter().any(has_supported) {
            return Err(PgpError::UnsupportedKey);
        }
        let password = passphrase.map_or_else(Password::empty, Password::from);
        let opens = |key: &SignedSecretKey| {
            let done = |_: &_, _: &_| Ok(());
            key.secret_subkeys.iter().any(|subkey| matches!(subkey.key.unlock(&password, done), Ok(Ok(()))))
                || matches!(key.primary_key.unlock(&password, done), Ok(Ok(())))
        };
        match (keys.iter().any(opens), passphrase) {
            (true, _) => Ok(Self(Arc::new(Key { keys, passphrase: password, has_unsupported_parts }))),
            (false, None | Some("")) => Err(PgpError::NoPassphrase),
            (false, Some(_)) => Err(PgpError::WrongPassphrase),
        }
    }
}

/// The public keys that exported files are encrypted for.
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
    /// If there is no public key, or one of them cannot be used for encryption.
    pub fn read(bytes: &[u8]) -> Result<Self, PgpError> {
        if contains(bytes, PRIVATE_KEY) {
            return Err(PgpError::PrivateKey);
        }
        let mut recipients = Vec::new();
        for block in armored_blocks(bytes, PUBLIC_KEY) {
            let (found, _) = SignedPublicKey::from_reader_many(block).map_err(|_| PgpError::NoPublicKey)?;
            for key in found {
                let found = recipient(&key.map_err(|_| PgpError::NoPublicKey)?);
                recipients.push(found.map_err(|error| match error {
                    PgpError::Unusable if has_unsupported_parts(block) => PgpError::UnsupportedKey,
                    error => error,
                })?);
            }
        }
        if recipients.is_empty() { Err(PgpError::NoPublicKey) } else { Ok(Self(Arc::new(recipients))) }
    }
}

/// The newest part of a key that can be used for encryption: its signatures are valid, and it has neither expired nor been
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
    match usable.max_by_key(|subkey| (is_supported(&subkey.key), subkey.key.created_at())) {
        Some(subkey) if !is_supported(&subkey.key) => Err(PgpError::UnsupportedKey),
        Some(subkey) => Ok(Recipient::Subkey(subkey.key.clone())),
        None if for_encryption(&certificate) && !is_supported(primary) => Err(PgpError::UnsupportedKey),
        None if for_encryption(&certificate) => Ok(Recipient::Primary(primary.clone())),
        None => Err(PgpError::Unusable),
    }
}

/// Encrypts a text, as it streams by, with AES-256 and the integrity protection that every OpenPGP program supports.
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

const PRIVATE_KEY: &[u8] = b"-----BEGIN PGP PRIVATE KEY BLOCK";
const PUBLIC_KEY: &[u8] = b"-----BEGIN PGP PUBLIC KEY BLOCK";

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    memchr::memmem::find(bytes, text).is_some()
}

/// The armored blocks with this first line; bytes without any are one binary block.
fn armored_blocks<'b>(bytes: &'b [u8], first_line: &[u8]) -> Vec<&'b [u8]> {
    const ANY: &[u8] = b"-----BEGIN PGP ";
    let begins: Vec<usize> = memchr::memmem::find_iter(bytes, ANY).collect();
    if begins.is_empty() {
        return vec![bytes];
    }
    let ends = begins.iter().skip(1).copied().chain([bytes.len()]);
    let blocks =
        begins.iter().zip(ends).map(|(begin, end)| bytes.get(*begin..end).or_never("an armored block"));
    blocks.filter(|block| block.starts_with(first_line)).collect()
}

/// Whether the keys have parts that cannot be read because of their algorithms or versions.
fn has_unsupported_parts(bytes: &[u8]) -> bool {
    [PRIVATE_KEY, PUBLIC_KEY].into_iter().flat_map(|line| armored_blocks(bytes, line)).any(|block| {
        let packets: Box<dyn BufRead> = match block.starts_with(b"-----") {
            true => Box::new(BufReader::new(pgp::armor::Dearmor::new(block))),
            false => Box::new(block),
        };
        PacketParser::new(packets).any(|packet| {
            use pgp::errors::Error::{EllipticCurve, Unimplemented, Unsupported};
            matches!(packet, Err(Unsupported { .. } | Unimplemented { .. } | EllipticCurve { .. }))
        })
    })
}

/// Whether files can be encrypted for a key and decrypted with it.
fn is_supported(key: &impl KeyDetails) -> bool {
    match key.public_params() {
        PublicParams::RSA(_) | PublicParams::X25519(_) | PublicParams::X448(_) => true,
        PublicParams::ECDH(params) => matches!(
            params,
            EcdhPublicParams::Curve25519Legacy { .. }
                | EcdhPublicParams::P256 { .. }
                | EcdhPublicParams::P384 { .. }
                | EcdhPublicParams::P521 { .. }
        ),
        _ => false,
    }
}

/// Whether a file with these first bytes is an OpenPGP message that is encrypted for a key.
pub(crate) fn is_message(start: &[u8]) -> bool {
    // The packet of a session key, version 3: no text begins with these bytes.
    let binary = matches!(
        start,
        [0x84, _, 3, ..] | [0x85, _, _, 3, ..] | [0xc1, 0..=191, 3, ..] | [0xc1, 192..=223, _, 3, ..]
    );
    binary || is_armored(start)
}

/// Whether a file with these first bytes is an armored OpenPGP message.
fn is_armored(start: &[u8]) -> bool {
    start.trim_ascii_start().starts_with(b"-----BEGIN PGP MESSAGE-")
}

/// The text of an encrypted message, as it streams by. Read errors are `io::Error`s that wrap a [`FileError`]. `bytes_read` counts
/// what is read of the file.
pub(crate) fn decrypt(
    input: impl Read + Send + 'static,
    key: &PrivateKey,
    bytes_read: &Arc<AtomicU64>,
    limit: ExpansionLimit,
) -> Result<Box<dyn Read + Send>, FileError> {
    let (failure, silent, bytes_read) = (IoFailure::default(), Arc::default(), Arc::clone(bytes_read));
    let meter = Meter { failure, silent, bytes_read, limit };
    match message(input, key, &meter) {
        Ok(message) => Ok(Box::new(DecryptedReader { message, meter })),
        Err(error) => Err(meter.failure.take().map_or(error.into(), FileError::from)),
    }
}

fn message(
    input: impl Read + Send + 'static,
    key: &PrivateKey,
    meter: &Meter,
) -> Result<Message<'static>, PgpError> {
    let mut input = NotingReader { inner: BufReader::with_capacity(128 << 10, input), meter: meter.clone() };
    let start = input.fill_buf().map_err(|_| PgpError::Truncated)?.to_vec();
    let looks_encrypted = match start.first() {
        None => return Err(PgpError::Truncated),
        // A message begins with its session key: packet 1 or 3, with an old or a new header.
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
    let without_key = without_session_key(&message, &key.0);
    let (mut message, _) = message.decrypt_the_ring(ring, true).map_err(|error| match error {
        pgp::errors::Error::MissingKey => without_key,
        pgp::errors::Error::Unimplemented { .. } | pgp::errors::Error::Unsupported { .. } => {
            PgpError::Unsupported
        }
        _ => PgpError::Tampered,
    })?;
    for _ in 0..MAX_LAYERS {
        match message {
            Message::Compressed { reader, .. } => {
                let packets = reader.decompress().map_err(|_| PgpError::Tampered)?;
                let expansion = Expansion::new(&meter.bytes_read, meter.limit);
                let layer = Layer { packets, expansion, meter: meter.clone(), ended: false };
                message = Message::from_bytes(BufReader::new(layer)).map_err(|_| PgpError::Tampered)?;
            }
            Message::Literal { .. } => return Ok(message),
            Message::Signed { ref reader, .. }
                if reader.num_signatures() <= MAX_LAYERS
                    && matches!(reader.get_ref(), Message::Literal { .. }) =>
            {
                return Ok(message);
            }
            Message::Signed { .. } | Message::Encrypted { .. } => break,
        }
    }
    Err(PgpError::Unsupported)
}

/// What is wrong with a message if no key gives its session key.
fn without_session_key(message: &Message<'_>, key: &Key) -> PgpError {
    let Message::Encrypted { esk, .. } = message else { return PgpError::NotEncrypted };
    let recipients = esk.iter().filter_map(|esk| match esk {
        Esk::PublicKeyEncryptedSessionKey(recipient) => Some(recipient),
        Esk::SymKeyEncryptedSessionKey(_) => None,
    });
    // A message may hide its recipients.
    let named = recipients.filter(|recipient| {
        recipient.id().is_ok_and(|id| !id.is_wildcard())
            || recipient.fingerprint().is_ok_and(|fingerprint| fingerprint.is_some())
    });
    for recipient in named {
        for key in &key.keys {
            let primary = key.primary_key.public_key();
            let subkeys = key.secret_subkeys.iter().map(|subkey| subkey.key.public_key());
            let is_primary = recipient.match_identity(primary) && !is_supported(primary);
            let mut subkeys = subkeys.filter(|subkey| recipient.match_identity(*subkey));
            if is_primary || subkeys.any(|subkey| !is_supported(subkey)) {
                return PgpError::UnsupportedKey;
            }
        }
    }
    if key.has_unsupported_parts { PgpError::UnsupportedKey } else { PgpError::WrongKey }
}

/// Whether the packets of a message have the lengths that they declare (RFC 9580, section 4.2).
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

/// The IO error of the encrypted input, if there was one. The OpenPGP crate does not pass it on.
#[derive(Clone, Default)]
struct IoFailure(Arc<Mutex<Option<io::Error>>>);

impl IoFailure {
    fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Counts what the layers of a message give.
#[derive(Clone)]
struct Meter {
    failure: IoFailure,
    /// Bytes that passed since the last byte of text.
    silent: Arc<AtomicU64>,
    /// Bytes of the file.
    bytes_read: Arc<AtomicU64>,
    limit: ExpansionLimit,
}

impl Meter {
    /// Notes a failure, which a reader of the OpenPGP crate then meets as another one.
    fn note(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        *self.failure.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        kind.into()
    }

    /// Counts bytes that are not yet text.
    fn pass(&self, bytes: usize) -> io::Result<()> {
        match self.silent.fetch_add(bytes as u64, Ordering::Relaxed) {
            before if before > MAX_SILENT_BYTES => {
                Err(self.note(io::Error::other(FileError::from(PgpError::Silent))))
            }
            _ => Ok(()),
        }
    }
}

/// The bytes of the file.
struct NotingReader<R> {
    inner: BufReader<R>,
    meter: Meter,
}

/// The crate requires `Debug` of readers.
impl<R> fmt::Debug for NotingReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NotingReader")
    }
}

impl<R: Read> Read for NotingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer).map_err(|error| self.meter.note(error))?;
        self.meter.pass(length)?;
        Ok(length)
    }
}

impl<R: Read> BufRead for NotingReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.meter.pass(0)?;
        self.inner.fill_buf().map_err(|error| self.meter.note(error))
    }

    fn consume(&mut self, amount: usize) {
        // The next read fails if that was too much.
        let _ = self.meter.pass(amount);
        self.inner.consume(amount);
    }
}

/// What a compressed packet holds: packets again. Its end is that of the file, where the integrity check is.
struct Layer {
    packets: CompressedDataReader<MessageReader<'static>>,
    expansion: Expansion,
    meter: Meter,
    ended: bool,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Layer")
    }
}

impl Layer {
    /// Reads what follows the compressed packet: padding, and the integrity check.
    fn finish(&mut self) -> io::Result<()> {
        let packet = self.packets.get_mut();
        io::copy(packet, &mut io::sink())?;
        only_padding(packet.get_mut())?;
        only_padding(packet.get_mut().get_mut())
    }
}

impl Read for Layer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let length = self.packets.read(buffer)?;
        if length == 0 {
            self.ended = true;
            // The end of a truncated file must not look like that of this layer.
            return self.finish().map(|()| 0).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        self.expansion.add(length).map_err(|error| self.meter.note(error))?;
        self.meter.pass(length)?;
        Ok(length)
    }
}

/// Reads packets that mean nothing, to the end.
fn only_padding(packets: impl BufRead) -> io::Result<()> {
    let mut packets = PacketParser::new(packets);
    while let Some(packet) = packets.next_ref() {
        let mut packet = packet.map_err(io::Error::other)?;
        match packet.packet_header().tag() {
            Tag::Padding | Tag::Marker | Tag::UnassignedNonCritical(_) | Tag::Experimental(_) => {
                io::copy(&mut packet, &mut io::sink())?;
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Ok(())
}

struct DecryptedReader {
    message: Message<'static>,
    meter: Meter,
}

impl Read for DecryptedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.message.read(buffer).map_err(|_| {
            let tampered = || io::Error::other(FileError::from(PgpError::Tampered));
            self.meter.failure.take().unwrap_or_else(tampered)
        })?;
        if read > 0 {
            self.meter.silent.store(0, Ordering::Relaxed);
        }
        Ok(read)
    }
}
