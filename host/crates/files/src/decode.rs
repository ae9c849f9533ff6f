use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use encoding_rs::{Decoder, DecoderResult};

use crate::location::Bytes;
use crate::{FileError, PgpError, PrivateKey, Source, pgp};

/// How the bytes of a file stand for characters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Encoding {
    /// UTF-8, or UTF-16 where a byte-order mark says so.
    #[default]
    Auto,
    /// A named encoding.
    Named(&'static encoding_rs::Encoding),
}

impl Encoding {
    /// The encoding of a name from the WHATWG Encoding Standard, or `auto`.
    pub fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "latin-1" => Some(Self::Named(encoding_rs::WINDOWS_1252)),
            label => encoding_rs::Encoding::for_label_no_replacement(label.as_bytes()).map(Self::Named),
        }
    }
}

/// How far compressed files may expand.
#[derive(Clone, Copy, Debug)]
pub struct Expansion {
    /// Output of up to so many bytes is always allowed.
    pub free: u64,
    /// Beyond that, the output may be so many times the input.
    pub times: u64,
}

impl Default for Expansion {
    fn default() -> Self {
        Self { free: 64 << 20, times: 250 }
    }
}

/// How the bytes of a goal's files become text.
#[derive(Clone, Debug, Default)]
pub struct Decoding {
    /// Of the text, after all else.
    pub encoding: Encoding,
    /// Of what is compressed.
    pub expansion: Expansion,
    /// With it every file must be an OpenPGP message.
    pub key: Option<PrivateKey>,
}

/// The text of a file, in UTF-8: decrypted if there is a key, then decompressed as its first bytes say (gzip, zstd,
/// zip). Where the bytes are invalid in the encoding the text holds an invalid byte too, for the parser to reject the
/// row. The counter shows how many bytes of the file itself have been read.
///
/// # Errors
/// If the file's first bytes cannot be read, decrypted or decompressed.
pub fn decode(
    mut source: Source,
    decoding: &Decoding,
) -> Result<(Box<dyn Read + Send>, Arc<AtomicU64>), FileError> {
    let read = Arc::new(AtomicU64::new(0));
    let counted = |inner| Counted { inner, read: Arc::clone(&read) };
    let plain = match &decoding.key {
        Some(key) => {
            let text = pgp::decrypt(counted(source.bytes), key)?;
            decompress_stream(text, &read, decoding.expansion)?
        }
        None => {
            let mut start = [0; 64];
            let length = read_up_to(&mut source.bytes, &mut start)?;
            source.bytes.rewind()?;
            let start = start.get(..length).unwrap_or_default();
            if pgp::is_armored(start) {
                return Err(PgpError::NoKey.into());
            }
            if matches!(start, [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..]) {
                decompress_zip(source.bytes, &read, decoding.expansion)?
            } else {
                decompress_stream(Box::new(counted(source.bytes)), &read, decoding.expansion)?
            }
        }
    };
    Ok((to_utf8(plain, decoding.encoding)?, read))
}

/// Reads an encrypted file to its end, where its integrity is checked. A file that is not encrypted needs none.
///
/// # Errors
/// If it cannot be decrypted, was changed or ends too early.
pub fn verify(open: impl Fn() -> Result<Source, FileError>, decoding: &Decoding) -> Result<(), FileError> {
    let Some(key) = &decoding.key else { return Ok(()) };
    let read = pgp::decrypt(open()?.bytes, key)
        .and_then(|mut text| io::copy(&mut text, &mut io::sink()).map_err(FileError::from));
    match read {
        // What was cut off fails its check as well.
        Err(FileError::Pgp(PgpError::Tampered)) if !pgp::is_whole(open()?.bytes) => {
            Err(PgpError::Truncated.into())
        }
        read => read.map(|_| ()),
    }
}

fn decompress_stream(
    mut input: Box<dyn Read + Send>,
    read: &Arc<AtomicU64>,
    expansion: Expansion,
) -> Result<Box<dyn Read + Send>, FileError> {
    let mut magic = [0; 4];
    let length = read_up_to(&mut input, &mut magic)?;
    let magic = magic.get(..length).unwrap_or_default().to_vec();
    let whole = io::Cursor::new(magic.clone()).chain(input);
    let limited =
        |inner: Box<dyn Read + Send>| Limited { inner, read: Arc::clone(read), written: 0, expansion };
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => {
            let input = BufReader::with_capacity(128 << 10, whole);
            Box::new(limited(Box::new(flate2::bufread::MultiGzDecoder::new(input))))
        }
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder =
                zstd::stream::read::Decoder::with_buffer(BufReader::with_capacity(128 << 10, whole))?;
            decoder.window_log_max(27)?;
            Box::new(limited(Box::new(decoder)))
        }
        [b'P', b'K', 3, 4] | [b'P', b'K', 5, 6] => return Err(FileError::EncryptedZip),
        _ => Box::new(whole),
    })
}

fn decompress_zip(
    mut bytes: Box<dyn Bytes>,
    read: &Arc<AtomicU64>,
    expansion: Expansion,
) -> Result<Box<dyn Read + Send>, FileError> {
    let entry = zip_entry(&mut bytes)?;
    bytes.seek(SeekFrom::Start(entry.start))?;
    let counted = Counted { inner: bytes, read: Arc::clone(read) };
    let input = BufReader::with_capacity(128 << 10, counted.take(entry.compressed));
    let inner: Box<dyn Read + Send> = match entry.deflated {
        true => Box::new(flate2::bufread::DeflateDecoder::new(input)),
        false => Box::new(input),
    };
    let checked = Checked { inner, crc: flate2::Crc::new(), expected: entry.crc };
    Ok(Box::new(Limited { inner: Box::new(checked), read: Arc::clone(read), written: 0, expansion }))
}

fn to_utf8(mut input: Box<dyn Read + Send>, encoding: Encoding) -> io::Result<Box<dyn Read + Send>> {
    let mut start = [0; 3];
    let length = read_up_to(&mut input, &mut start)?;
    let start = start.get(..length).unwrap_or_default();
    let marked = encoding_rs::Encoding::for_bom(start);
    let (encoding, mark) = match (encoding, marked) {
        (Encoding::Auto, Some((encoding, mark))) => (encoding, mark),
        (Encoding::Auto, None) => (encoding_rs::UTF_8, 0),
        (Encoding::Named(named), Some((encoding, mark))) if named == encoding => (named, mark),
        (Encoding::Named(named), _) => (named, 0),
    };
    let rest = io::Cursor::new(start.get(mark..).unwrap_or_default().to_vec()).chain(input);
    if encoding == encoding_rs::UTF_8 {
        return Ok(Box::new(rest));
    }
    Ok(Box::new(Transcoded {
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

fn zip_entry(bytes: &mut Box<dyn Bytes>) -> Result<ZipEntry, FileError> {
    let unreadable = |error: zip::result::ZipError| match error {
        zip::result::ZipError::Io(error) => error.into(),
        error => FileError::Zip(error.to_string()),
    };
    let mut archive = zip::ZipArchive::new(BufReader::new(bytes)).map_err(unreadable)?;
    let mut files = Vec::new();
    for place in 0..archive.len() {
        if archive.by_index_raw(place).map_err(unreadable)?.is_file() {
            files.push(place);
        }
    }
    let [place] = files.as_slice() else { return Err(FileError::ZipEntries(files.len())) };
    // Decompression itself is done here, on the file's own bytes: the crate's reader borrows the archive.
    let entry = archive.by_index_raw(*place).map_err(unreadable)?;
    if entry.encrypted() {
        return Err(FileError::Zip("it is encrypted".into()));
    }
    let deflated = match entry.compression() {
        zip::CompressionMethod::Stored => false,
        zip::CompressionMethod::Deflated => true,
        other => return Err(FileError::Zip(format!("its compression {other} is not supported"))),
    };
    let start = entry.data_start().ok_or_else(|| FileError::Zip("its entry has no data".into()))?;
    Ok(ZipEntry { start, compressed: entry.compressed_size(), crc: entry.crc32(), deflated })
}

struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Fails once the output is out of proportion to the input.
struct Limited {
    inner: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
    written: u64,
    expansion: Expansion,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.written += length as u64;
        let allowed = self.read.load(Ordering::Relaxed).saturating_mul(self.expansion.times);
        if self.written > self.expansion.free.max(allowed) {
            return Err(io::Error::other(FileError::Expansion { times: self.expansion.times }));
        }
        Ok(length)
    }
}

/// Fails at the end if the checksum is not the one that the archive names.
struct Checked {
    inner: Box<dyn Read + Send>,
    crc: flate2::Crc,
    expected: u32,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.crc.update(buffer.get(..length).unwrap_or_default());
        if length == 0 && !buffer.is_empty() && self.crc.sum() != self.expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the zip archive's checksum is wrong"));
        }
        Ok(length)
    }
}

/// Turns another encoding into UTF-8; a byte 0xFF, which UTF-8 never holds, stands for what is invalid.
struct Transcoded<R> {
    inner: R,
    decoder: Decoder,
    input: Vec<u8>,
    from: usize,
    to: usize,
    ended: bool,
    finished: bool,
    pending: Vec<u8>,
}

impl<R: Read> Read for Transcoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.pending.is_empty() {
            let length = buffer.len().min(self.pending.len());
            let taken: Vec<u8> = self.pending.drain(..length).collect();
            if let Some(place) = buffer.get_mut(..length) {
                place.copy_from_slice(&taken);
            }
            return Ok(length);
        }
        // The decoder may want room for one character more than a small buffer has.
        if buffer.len() < 16 {
            let mut room = [0; 64];
            let length = self.fill(&mut room)?;
            self.pending.extend_from_slice(room.get(..length).unwrap_or_default());
            return if length == 0 { Ok(0) } else { self.read(buffer) };
        }
        self.fill(buffer)
    }
}

impl<R: Read> Transcoded<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.finished {
            if self.from == self.to && !self.ended {
                self.from = 0;
                self.to = self.inner.read(&mut self.input)?;
                self.ended = self.to == 0;
            }
            let room = buffer.len() - 1;
            let (input, output) = (self.input.get(self.from..self.to), buffer.get_mut(..room));
            let (Some(input), Some(output)) = (input, output) else { return Ok(0) };
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
        assert!(Encoding::named("klingon").is_none() && Encoding::named("replacement").is_none());
    }

    #[test]
    fn compressions() {
        let mut twice = gzip(b"a,b\n");
        twice.extend(gzip(b"1,2\n"));
        check(&twice, "auto", b"a,b\n1,2\n");
        check(&zstd::encode_all(&b"a,b\n"[..], 3).unwrap(), "auto", b"a,b\n");
        let truncated = gzip(&b"some text, some more".repeat(100));
        assert!(read(&truncated[..truncated.len() - 9], "auto").is_err());
    }

    #[test]
    fn zip_archives() {
        let archive = |names: &[&str]| {
            let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
            for name in names {
                writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
                writer.write_all(b"a,b\n1,2\n").unwrap();
            }
            writer.finish().unwrap().into_inner()
        };
        check(&archive(&["a.csv"]), "auto", b"a,b\n1,2\n");
        assert!(read(&archive(&["a.csv", "b.csv"]), "auto").unwrap_err().contains("holds 2 files"));
        assert!(read(&archive(&[]), "auto").unwrap_err().contains("holds 0 files"));
        assert!(read(b"PK\x03\x04 no archive", "auto").is_err());
    }

    #[test]
    fn bombs_are_stopped() {
        let bomb = gzip(&vec![b'a'; 80 << 20]);
        assert!(read(&bomb, "auto").unwrap_err().contains("expands to more than 250 times"));
    }
}
