use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use encoding_rs::{Decoder, DecoderResult};

use crate::{FileError, Source};

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

/// The text of a file, in UTF-8, decompressed as its first bytes say (gzip, zstd, zip). Where the bytes are
/// invalid in the encoding the text holds an invalid byte too, for the parser to reject the row. The counter
/// shows how many bytes of the file itself have been read.
pub fn decode(
    source: Source,
    encoding: Encoding,
    expansion: Expansion,
) -> Result<(Box<dyn Read + Send>, Arc<AtomicU64>), FileError> {
    let read = Arc::new(AtomicU64::new(0));
    let mut file = source.file;
    let mut magic = [0; 4];
    let length = read_up_to(&mut file, &mut magic)?;
    file.rewind()?;
    let counted = |file: File| Counted { inner: file, read: Arc::clone(&read) };
    let limited =
        |inner: Box<dyn Read + Send>| Limited { inner, read: Arc::clone(&read), written: 0, expansion };
    let plain: Box<dyn Read + Send> = match magic.get(..length).unwrap_or_default() {
        [0x1f, 0x8b, ..] => {
            let input = BufReader::with_capacity(128 << 10, counted(file));
            Box::new(limited(Box::new(flate2::bufread::MultiGzDecoder::new(input))))
        }
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let input = BufReader::with_capacity(128 << 10, counted(file));
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(27)?;
            Box::new(limited(Box::new(decoder)))
        }
        [b'P', b'K', 3, 4] | [b'P', b'K', 5, 6] => {
            let entry = zip_entry(&file)?;
            file.seek(SeekFrom::Start(entry.start))?;
            let input = BufReader::with_capacity(128 << 10, counted(file).take(entry.compressed));
            let inner: Box<dyn Read + Send> = match entry.deflated {
                true => Box::new(flate2::bufread::DeflateDecoder::new(input)),
                false => Box::new(input),
            };
            let checked = Checked { inner, crc: flate2::Crc::new(), expected: entry.crc };
            Box::new(limited(Box::new(checked)))
        }
        _ => Box::new(counted(file)),
    };
    Ok((to_utf8(plain, encoding)?, read))
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

fn zip_entry(file: &File) -> Result<ZipEntry, FileError> {
    let unreadable = |error: zip::result::ZipError| FileError::Zip(error.to_string());
    let mut archive = zip::ZipArchive::new(BufReader::new(file.try_clone()?)).map_err(unreadable)?;
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
    use crate::{Directory, Pattern};

    fn read(bytes: &[u8], encoding: &str) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), bytes).unwrap();
        let location = Directory { root: folder.path().to_owned() };
        let (files, _) = location.list("", &Pattern::wildcard("a").unwrap()).unwrap();
        let source = files[0].open().unwrap();
        let encoding = Encoding::named(encoding).unwrap();
        let (mut text, _) =
            decode(source, encoding, Expansion::default()).map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        text.read_to_end(&mut out).map_err(|error| error.to_string())?;
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
