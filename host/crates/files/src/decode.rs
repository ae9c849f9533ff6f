use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use encoding_rs::{Decoder, DecoderResult};
use sluicebox_model::OrNever;

use crate::kind::{self, is_system_file};
use crate::location::ReadSeek;
use crate::{FileError, PgpError, PrivateKey, Source, pgp};

/// The character encoding of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Encoding {
    /// UTF-8, or UTF-16 where a byte-order mark says so.
    #[default]
    Auto,
    /// A named encoding.
    Named(&'static encoding_rs::Encoding),
}

impl Encoding {
    /// The encoding with a name of the WHATWG Encoding Standard, or `auto`.
    pub fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "latin-1" => Some(Self::Named(encoding_rs::WINDOWS_1252)),
            label => encoding_rs::Encoding::for_label_no_replacement(label.as_bytes()).map(Self::Named),
        }
    }
}

/// How far a compressed file may expand.
#[derive(Clone, Copy, Debug)]
pub struct ExpansionLimit {
    /// Text of up to this many bytes is always allowed.
    pub free_bytes: u64,
    /// Beyond that, the text may be this many times as large as the file.
    pub max_ratio: u64,
}

impl Default for ExpansionLimit {
    fn default() -> Self {
        Self { free_bytes: 64 << 20, max_ratio: 250 }
    }
}

/// How the bytes of a goal's files become text.
#[derive(Clone, Debug, Default)]
pub struct Decoding {
    /// The encoding of the decrypted and decompressed text.
    pub encoding: Encoding,
    /// How far compressed files may expand.
    pub expansion: ExpansionLimit,
    /// The key that opens the files. With a key every file must be an OpenPGP message.
    pub key: Option<PrivateKey>,
}

/// The text of a file, in UTF-8: decrypted if there is a key, then decompressed as its first bytes say (gzip, zstd, xz,
/// bzip2, zip). Bytes that are invalid in the file's encoding become an invalid byte of UTF-8, so that the parser rejects
/// the row. The counter shows how many bytes of the file itself have been read.
///
/// # Errors
/// If the file's first bytes cannot be read, decrypted or decompressed, or are those of another kind of file.
pub fn decode(
    mut source: Source,
    decoding: &Decoding,
) -> Result<(Box<dyn Read + Send>, Arc<AtomicU64>), FileError> {
    let bytes_read = Arc::new(AtomicU64::new(0));
    let counted = |inner| CountingReader { inner, bytes_read: Arc::clone(&bytes_read) };
    let guarded = |inner| ExpansionGuard::boxed(inner, &bytes_read, decoding.expansion);
    let (packing, text) = match &decoding.key {
        Some(key) => {
            let message = pgp::decrypt(counted(source.bytes), key, &bytes_read, decoding.expansion)?;
            let (start, text) = peek(guarded(message))?;
            (Packing::of(&start), text)
        }
        None => {
            let mut start = [0; SNIFFED_BYTES];
            let length = read_up_to(&mut source.bytes, &mut start)?;
            source.bytes.rewind()?;
            let start = start.get(..length).or_never("the first bytes");
            if pgp::is_message(start) {
                return Err(PgpError::NoKey.into());
            }
            match Packing::of(start) {
                Some(Packing::Zip) => {
                    let entry = zip_entry(&mut source.bytes)?;
                    source.bytes.seek(SeekFrom::Start(entry.start))?;
                    let text = peek(guarded(entry.reader(counted(source.bytes))))?;
                    return finish(Some(Packing::Zip), text, decoding.encoding)
                        .map(|text| (text, bytes_read));
                }
                packing => (packing, Box::new(counted(source.bytes)) as Box<dyn Read + Send>),
            }
        }
    };
    let text: Box<dyn Read + Send> = match packing {
        None => text,
        Some(Packing::Zip) => return Err(FileError::EncryptedZip),
        Some(packing) => guarded(packing.reader(text)?),
    };
    let text = peek(text)?;
    finish(packing, text, decoding.encoding).map(|text| (text, bytes_read))
}

/// Checks that the unpacked bytes are text, and turns them into UTF-8.
fn finish(
    outer: Option<Packing>,
    (start, text): (Vec<u8>, Box<dyn Read + Send>),
    encoding: Encoding,
) -> Result<Box<dyn Read + Send>, FileError> {
    if let (Some(outer), Some(inner)) = (outer, Packing::of(&start)) {
        return Err(FileError::CompressedTwice { outer: outer.name(), inner: inner.name() });
    }
    if let Some((kind, remedy)) = kind::other_kind(&start) {
        return Err(FileError::OtherKind { kind, remedy });
    }
    if let (Encoding::Auto, Some(name)) = (encoding, kind::utf_16_without_mark(&start)) {
        return Err(FileError::Utf16WithoutMark { name });
    }
    to_utf8(text, encoding)
}

/// Reads an encrypted file to its end, where its integrity check is. Does nothing without a key.
///
/// # Errors
/// If it cannot be decrypted, was tampered with or is truncated.
pub fn verify(open: impl Fn() -> Result<Source, FileError>, decoding: &Decoding) -> Result<(), FileError> {
    let Some(key) = &decoding.key else { return Ok(()) };
    let bytes_read = Arc::new(AtomicU64::new(0));
    let input = CountingReader { inner: open()?.bytes, bytes_read: Arc::clone(&bytes_read) };
    let read = pgp::decrypt(input, key, &bytes_read, decoding.expansion).and_then(|text| {
        let mut text = ExpansionGuard::boxed(text, &bytes_read, decoding.expansion);
        io::copy(&mut text, &mut io::sink()).map_err(FileError::from)
    });
    match read {
        // A truncated file fails its integrity check, too.
        Err(FileError::Pgp(PgpError::Tampered)) if !pgp::is_whole(open()?.bytes) => {
            Err(PgpError::Truncated.into())
        }
        read => read.map(|_| ()),
    }
}

/// The first bytes of a file that decide what it is. The mark of a tar archive is at byte 257.
const SNIFFED_BYTES: usize = 512;
const BUFFER_BYTES: usize = 128 << 10;

/// The first bytes of the input, and the whole input.
fn peek(mut input: Box<dyn Read + Send>) -> io::Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut start = vec![0; SNIFFED_BYTES];
    let length = read_up_to(&mut input, &mut start)?;
    start.truncate(length);
    let whole = io::Cursor::new(start.clone()).chain(input);
    Ok((start, Box::new(whole)))
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
    Zip,
}

impl Packing {
    /// The compression of a file with these first bytes.
    fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            // A skippable frame may come first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // A block, or the end of an empty file.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => Some(Self::Bzip2),
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Self::Zip),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Zip => "zip",
        }
    }

    /// The decompressed bytes of a stream.
    fn reader(self, input: Box<dyn Read + Send>) -> Result<Box<dyn Read + Send>, FileError> {
        let input = BufReader::with_capacity(BUFFER_BYTES, input);
        Ok(match self {
            Self::Gzip => Box::new(GzipReader::new(input)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(27)?;
                Box::new(decoder)
            }
            Self::Xz => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(MAX_XZ_MEMORY, flags);
                let stream = stream.map_err(io::Error::from)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Self::Zip => return Err(FileError::EncryptedZip),
        })
    }
}

/// The memory of an xz decoder. `xz -9` needs 65 MiB.
const MAX_XZ_MEMORY: u64 = 140 << 20;

/// Reads all members of a gzip file. Zeros after a member are padding.
struct GzipReader<R> {
    /// `None` after the end.
    member: Option<flate2::bufread::GzDecoder<R>>,
}

impl<R: BufRead> GzipReader<R> {
    fn new(input: R) -> Self {
        Self { member: Some(flate2::bufread::GzDecoder::new(input)) }
    }

    /// Goes to the next member after the end of one.
    fn next_member(&mut self) -> io::Result<()> {
        let Some(member) = self.member.take() else { return Ok(()) };
        let mut input = member.into_inner();
        loop {
            let bytes = input.fill_buf()?;
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            match bytes.get(zeros) {
                Some(0x1f) => {
                    input.consume(zeros);
                    self.member = Some(flate2::bufread::GzDecoder::new(input));
                    return Ok(());
                }
                Some(_) => {
                    let message = "the file has other bytes after its gzip data";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
                None if zeros == 0 => return Ok(()),
                None => input.consume(zeros),
            }
        }
    }
}

impl<R: BufRead> Read for GzipReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            match member.read(buffer)? {
                0 if !buffer.is_empty() => self.next_member()?,
                length => return Ok(length),
            }
        }
        Ok(0)
    }
}

fn to_utf8(mut input: Box<dyn Read + Send>, encoding: Encoding) -> Result<Box<dyn Read + Send>, FileError> {
    // Two of the longest marks.
    let mut start = [0; 6];
    let length = read_up_to(&mut input, &mut start)?;
    let start = start.get(..length).or_never("the first bytes");
    let marked = encoding_rs::Encoding::for_bom(start);
    let (encoding, mark) = match (encoding, marked) {
        (Encoding::Auto, Some((encoding, mark))) => (encoding, mark),
        (Encoding::Auto, None) => (encoding_rs::UTF_8, 0),
        (Encoding::Named(named), Some((encoding, mark))) if named == encoding => (named, mark),
        (Encoding::Named(named), _) => (named, 0),
    };
    let (first, rest) = start.split_at_checked(mark).or_never("the bytes after the mark");
    if mark > 0 && rest.starts_with(first) {
        return Err(FileError::TwoMarks);
    }
    let rest = io::Cursor::new(rest.to_vec()).chain(input);
    if encoding == encoding_rs::UTF_8 {
        return Ok(Box::new(rest));
    }
    Ok(Box::new(Transcoder {
        inner: rest,
        decoder: encoding.new_decoder_without_bom_handling(),
        input: vec![0; 64 << 10],
        from: 0,
        to: 0,
        ended: false,
        finished: false,
        pending: Vec::new(),
    }))
}

fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

struct ZipEntry {
    start: u64,
    compressed: u64,
    crc: u32,
    deflated: bool,
}

impl ZipEntry {
    /// The decompressed bytes of the entry. `archive` is at its start.
    fn reader(&self, archive: impl Read + Send + 'static) -> Box<dyn Read + Send> {
        let input = BufReader::with_capacity(BUFFER_BYTES, archive.take(self.compressed));
        let inner: Box<dyn Read + Send> = match self.deflated {
            true => Box::new(flate2::bufread::DeflateDecoder::new(input)),
            false => Box::new(input),
        };
        Box::new(CrcReader { inner, crc: flate2::Crc::new(), expected: self.crc })
    }
}

/// Finds the only file of a zip archive, besides the files that operating systems add.
fn zip_entry(bytes: &mut Box<dyn ReadSeek>) -> Result<ZipEntry, FileError> {
    let unreadable = |error: zip::result::ZipError| match error {
        zip::result::ZipError::Io(error) => error.into(),
        error => FileError::Zip(error.to_string()),
    };
    let mut archive = zip::ZipArchive::new(BufReader::new(bytes)).map_err(unreadable)?;
    let (mut files, mut names) = (Vec::new(), Vec::new());
    for place in 0..archive.len() {
        let entry = archive.by_index_raw(place).map_err(unreadable)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        if entry.is_file() && !is_system_file(&name) {
            files.push(place);
        }
        names.push(name);
    }
    if let Some((kind, remedy)) = kind::office_document(names.iter().map(String::as_str)) {
        return Err(FileError::OtherKind { kind, remedy });
    }
    let [place] = files.as_slice() else { return Err(FileError::ZipEntries(files.len())) };
    // The crate's own reader borrows the archive, so the entry is decompressed here.
    let entry = archive.by_index_raw(*place).map_err(unreadable)?;
    if entry.encrypted() {
        return Err(FileError::Zip("it is encrypted".into()));
    }
    let deflated = match entry.compression() {
        zip::CompressionMethod::Stored => false,
        zip::CompressionMethod::Deflated => true,
        other => return Err(FileError::Zip(format!("compression {other} is not supported"))),
    };
    let start = entry.data_start().ok_or_else(|| FileError::Zip("its entry has no data".into()))?;
    Ok(ZipEntry { start, compressed: entry.compressed_size(), crc: entry.crc32(), deflated })
}

struct CountingReader<R> {
    inner: R,
    bytes_read: Arc<AtomicU64>,
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.bytes_read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Counts what one layer of a file's compression gives, against the [`ExpansionLimit`].
pub(crate) struct Expansion {
    /// Bytes of the file.
    bytes_read: Arc<AtomicU64>,
    written: u64,
    limit: ExpansionLimit,
}

impl Expansion {
    pub(crate) fn new(bytes_read: &Arc<AtomicU64>, limit: ExpansionLimit) -> Self {
        Self { bytes_read: Arc::clone(bytes_read), written: 0, limit }
    }

    /// Counts more bytes.
    ///
    /// # Errors
    /// If that is more than allowed.
    pub(crate) fn add(&mut self, bytes: usize) -> io::Result<()> {
        self.written += bytes as u64;
        let allowed = self.bytes_read.load(Ordering::Relaxed).saturating_mul(self.limit.max_ratio);
        if self.written > self.limit.free_bytes.max(allowed) {
            return Err(io::Error::other(FileError::Expansion { ratio: self.limit.max_ratio }));
        }
        Ok(())
    }
}

/// Fails when the text grows beyond the [`ExpansionLimit`].
struct ExpansionGuard {
    inner: Box<dyn Read + Send>,
    expansion: Expansion,
}

impl ExpansionGuard {
    fn boxed(
        inner: Box<dyn Read + Send>,
        bytes_read: &Arc<AtomicU64>,
        limit: ExpansionLimit,
    ) -> Box<dyn Read + Send> {
        Box::new(Self { inner, expansion: Expansion::new(bytes_read, limit) })
    }
}

impl Read for ExpansionGuard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.expansion.add(length)?;
        Ok(length)
    }
}

/// Fails at the end if the text does not have the checksum that the zip archive records.
struct CrcReader {
    inner: Box<dyn Read + Send>,
    crc: flate2::Crc,
    expected: u32,
}

impl Read for CrcReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.crc.update(buffer.get(..length).or_never("the bytes that were read"));
        if length == 0 && !buffer.is_empty() && self.crc.sum() != self.expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the zip archive's checksum is wrong"));
        }
        Ok(length)
    }
}

/// Turns another encoding into UTF-8. The byte 0xFF, which is never part of UTF-8, replaces invalid bytes.
struct Transcoder<R> {
    inner: R,
    decoder: Decoder,
    input: Vec<u8>,
    from: usize,
    to: usize,
    ended: bool,
    finished: bool,
    pending: Vec<u8>,
}

impl<R: Read> Read for Transcoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.pending.is_empty() {
            let length = buffer.len().min(self.pending.len());
            let taken: Vec<u8> = self.pending.drain(..length).collect();
            if let Some(place) = buffer.get_mut(..length) {
                place.copy_from_slice(&taken);
            }
            return Ok(length);
        }
        // A small buffer may lack room for a single character.
        if buffer.len() < 16 {
            let mut room = [0; 64];
            let length = self.fill(&mut room)?;
            self.pending.extend_from_slice(room.get(..length).or_never("the bytes that were decoded"));
            return if length == 0 { Ok(0) } else { self.read(buffer) };
        }
        self.fill(buffer)
    }
}

impl<R: Read> Transcoder<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.finished {
            if self.from == self.to && !self.ended {
                self.from = 0;
                self.to = self.inner.read(&mut self.input)?;
                self.ended = self.to == 0;
            }
            let room = buffer.len() - 1;
            let (input, output) = (self.input.get(self.from..self.to), buffer.get_mut(..room));
            let (input, output) =
                (input.or_never("the undecoded bytes"), output.or_never("the room for text"));
            let (result, read, mut written) =
                self.decoder.decode_to_utf8_without_replacement(input, output, self.ended);
            self.from += read;
            match result {
                DecoderResult::Malformed(..) => {
                    if let Some(place) = buffer.get_mut(written) {
                        *place = 0xff;
                        written += 1;
                    }
                }
                DecoderResult::InputEmpty => self.finished = self.ended,
                DecoderResult::OutputFull => {}
            }
            if written > 0 {
                return Ok(written);
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{Directory, Location, Pattern};

    fn read(bytes: &[u8], encoding: &str) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), bytes).unwrap();
        let location = Location::Directory(Directory { root: folder.path().to_owned() });
        let listing = location.list("", &[&Pattern::wildcard("a").unwrap()]).unwrap();
        let source = listing.files[0].open().unwrap();
        let decoding = Decoding { encoding: Encoding::named(encoding).unwrap(), ..Decoding::default() };
        let (mut text, _) = decode(source, &decoding).map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        text.read_to_end(&mut out).map_err(|error| FileError::from(error).to_string())?;
        Ok(out)
    }

    fn check(bytes: &[u8], encoding: &str, expected: &[u8]) {
        assert_eq!(read(bytes, encoding).as_deref(), Ok(expected));
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn encodings() {
        check(b"\xef\xbb\xbfa\xc3\xa9", "auto", "aé".as_bytes());
        check(b"\xff\xfea\0\xe9\0", "auto", "aé".as_bytes());
        check(b"\xfe\xff\0a\0\xe9", "auto", "aé".as_bytes());
        check(b"\x80 \xe9", "windows-1252", "€ é".as_bytes());
        check(b"\xe9", "latin-1", "é".as_bytes());
        check(b"a\xd8", "auto", b"a\xd8");
        check(b"\xff\xfea\0\0\xd8b\0", "auto", b"a\xffb");
        check(b"", "auto", b"");
        check(b"a\0,\0b\0\n\0", "utf-16le", b"a,b\n");
        check(b"a\0,b\n", "auto", b"a\0,b\n");
        assert!(Encoding::named("klingon").is_none() && Encoding::named("replacement").is_none());
    }

    fn xz(text: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2(text: &[u8]) -> Vec<u8> {
        let mut encoder = ::bzip2::write::BzEncoder::new(Vec::new(), ::bzip2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, content) in entries {
            if name.ends_with('/') {
                writer.add_directory(*name, zip::write::SimpleFileOptions::default()).unwrap();
                continue;
            }
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    const TEXT: &[u8] = b"a,b\n1,2\n";

    #[test]
    fn compressed_files_are_read() {
        let zstd = |text: &[u8]| zstd::encode_all(text, 3).unwrap();
        for compress in [gzip, xz, bzip2, zstd as fn(&[u8]) -> Vec<u8>] {
            check(&compress(TEXT), "auto", TEXT);
            check(&compress(b""), "auto", b"");
            // Files that were put one behind the other.
            check(&[compress(b"a,b\n"), compress(b"1,2\n")].concat(), "auto", TEXT);
            let long = compress(&(0..50_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
            let error = read(&long[..long.len() - 9], "auto").unwrap_err();
            assert!(error.contains("the file is truncated"), "{error}");
        }
    }

    #[test]
    fn gzip_may_be_padded_with_zeros() {
        check(&[gzip(TEXT), vec![0; 300_000]].concat(), "auto", TEXT);
        check(&[gzip(b"a,b\n"), vec![0; 512], gzip(b"1,2\n"), vec![0]].concat(), "auto", TEXT);
        let error = read(&[gzip(TEXT), b"more".to_vec()].concat(), "auto").unwrap_err();
        assert_eq!(error, "the file has other bytes after its gzip data");
    }

    #[test]
    fn zstd_may_begin_with_a_skippable_frame() {
        let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
        check(&[&skippable[..], &zstd::encode_all(TEXT, 3).unwrap()].concat(), "auto", TEXT);
    }

    #[test]
    fn zip_archives_hold_one_file() {
        check(&zip(&[("a.csv", TEXT)]), "auto", TEXT);
        check(&zip(&[("export/", b""), ("export/sub/a.csv", TEXT)]), "auto", TEXT);
        let of_a_mac = [
            ("__MACOSX/", &b""[..]),
            ("__MACOSX/export/._a.csv", b"\0\x05\x16\x07"),
            ("export/.DS_Store", b"\0\0\0\x01Bud1"),
            ("export/._a.csv", b"\0"),
            ("Thumbs.db", b"\xd0\xcf"),
            ("export/a.csv", TEXT),
        ];
        check(&zip(&of_a_mac), "auto", TEXT);
        let error = |archive: &[u8]| read(archive, "auto").unwrap_err();
        assert!(error(&zip(&[("a.csv", TEXT), ("b.csv", TEXT)])).contains("holds 2 files"));
        assert!(error(&zip(&[])).contains("holds 0 files"));
        assert!(read(b"PK\x03\x04 no archive", "auto").is_err());
    }

    #[test]
    fn files_of_other_kinds_are_named() {
        let check = |bytes: &[u8], expected: &str| {
            let error = read(bytes, "auto").unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        let workbook = zip(&[("[Content_Types].xml", b""), ("xl/workbook.xml", b"")]);
        let xlsx = "the file is an Excel workbook (.xlsx), not CSV; ask the partner to save it as CSV";
        check(&workbook, xlsx);
        check(&gzip(&workbook), "the file is compressed twice (zip in gzip)");
        check(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (.xls)");
        check(&gzip(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an old Excel workbook (.xls)");
        check(b"7z\xbc\xaf\x27\x1c\0\x04", "a 7z archive");
        check(b"%PDF-1.4\n", "a PDF document");
        check(b"\n<!doctype HTML>\n<html>", "an HTML page");
        check(
            &gzip(&gzip(TEXT)),
            "the file is compressed twice (gzip in gzip); ask the partner to compress it once",
        );
        check(&zip(&[("a.csv.gz", &gzip(TEXT))]), "(gzip in zip)");
        check(b"\xef\xbb\xbf\xef\xbb\xbfa,b\n", "two byte-order marks");
        check(b"\xff\xfe\xff\xfea\0", "two byte-order marks");
        check(b"a\0,\0b\0\n\0", "set encoding = \"utf-16le\"");
        check(b"\0a\0,\0b\0\n", "set encoding = \"utf-16be\"");
        check(b"\x85\x01\x0c\x03\x12\x34", "encrypted with OpenPGP");
    }

    #[test]
    fn bombs_are_stopped() {
        let text = vec![b'a'; 80 << 20];
        for bomb in [gzip(&text), xz(&text), bzip2(&text), zip(&[("a.csv", &text)])] {
            assert!(read(&bomb, "auto").unwrap_err().contains("expands to more than 250 times"));
        }
    }
}
