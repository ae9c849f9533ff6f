//! What a file is, if it is not a CSV file of a partner.

/// What a file is, and what to do about it.
pub(crate) type OtherKind = (&'static str, &'static str);

const SAVE_AS_CSV: &str = "ask the partner to save it as CSV";
const SEND_CSV: &str =
    "ask the partner to send the CSV file itself, or to compress it with gzip, zstd, xz, bzip2 or zip";

/// The kind of a file with these first bytes, if it is not text.
pub(crate) fn other_kind(start: &[u8]) -> Option<OtherKind> {
    let marks: [(&[u8], OtherKind); 9] = [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ("an old Excel workbook (.xls)", SAVE_AS_CSV)),
        (b"7z\xbc\xaf\x27\x1c", ("a 7z archive", SEND_CSV)),
        (b"Rar!\x1a\x07", ("a RAR archive", SEND_CSV)),
        (b"\x04\x22\x4d\x18", ("compressed with lz4", SEND_CSV)),
        (b"%PDF-", ("a PDF document", SAVE_AS_CSV)),
        (b"PAR1", ("a Parquet file", SAVE_AS_CSV)),
        (b"Obj\x01", ("an Avro file", SAVE_AS_CSV)),
        (b"SQLite format 3\0", ("an SQLite database", SAVE_AS_CSV)),
        (b"{\\rtf", ("an RTF document", SAVE_AS_CSV)),
    ];
    if let Some((_, kind)) = marks.into_iter().find(|(mark, _)| start.starts_with(mark)) {
        return Some(kind);
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive", SEND_CSV));
    }
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let begins = |tag: &[u8]| text.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag));
    if begins(b"<!doctype html") || begins(b"<html") {
        return Some(("an HTML page", "open it in a browser: it may be an error or a sign-in page"));
    }
    begins(b"<?xml").then_some(("an XML document", SAVE_AS_CSV))
}

/// The kind of an office document, which is a zip archive with files of these names.
pub(crate) fn office_document<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<OtherKind> {
    let (mut office, mut workbook, mut open_document) = (false, false, false);
    for name in names {
        office |= name == "[Content_Types].xml";
        workbook |= name.starts_with("xl/");
        open_document |= name == "META-INF/manifest.xml";
    }
    match (workbook, office, open_document) {
        (true, ..) => Some(("an Excel workbook (.xlsx)", SAVE_AS_CSV)),
        (_, true, _) => Some(("an office document", SAVE_AS_CSV)),
        (_, _, true) => Some(("an OpenDocument file", SAVE_AS_CSV)),
        _ => None,
    }
}

/// The name of the encoding if the first bytes look like UTF-16 without a byte-order mark: every second byte is zero.
pub(crate) fn utf_16_without_mark(start: &[u8]) -> Option<&'static str> {
    const PAIRS: usize = 32;
    if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
        return None;
    }
    let (pairs, _) = start.as_chunks::<2>();
    let pairs = pairs.get(..PAIRS).unwrap_or(pairs);
    let count = |is_so: fn(&[u8; 2]) -> bool| pairs.iter().filter(|pair| is_so(pair)).count();
    let (little, big) =
        (count(|[low, high]| *low != 0 && *high == 0), count(|[high, low]| *high == 0 && *low != 0));
    let both = count(|pair| *pair == [0, 0]);
    // Letters beyond Latin have no zero byte.
    let nearly_all = |found: usize| pairs.len() >= 2 && found * 4 >= pairs.len() * 3;
    match (nearly_all(little), nearly_all(big)) {
        (true, _) if big + both == 0 => Some("utf-16le"),
        (_, true) if little + both == 0 => Some("utf-16be"),
        _ => None,
    }
}

/// Whether an operating system or a file manager made the file, and not a partner: `._*`, `.DS_Store`, `Thumbs.db`, files
/// in `__MACOSX/`, and the placeholders of folders in buckets. `path` is separated by `/`.
pub(crate) fn is_system_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.is_empty()
        || name.starts_with("._")
        || matches!(name, ".DS_Store" | "Thumbs.db")
        || path.split('/').any(|part| part == "__MACOSX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_files_are_known_by_their_names() {
        for name in [
            "._a.csv",
            "in/._a.csv",
            ".DS_Store",
            "in/.DS_Store",
            "__MACOSX/a.csv",
            "in/__MACOSX/b/a.csv",
            "Thumbs.db",
            "in/",
            "",
        ] {
            assert!(is_system_file(name), "{name}");
        }
        for name in ["a.csv", ".a.csv", "in/a._b.csv", "MACOSX/a.csv", "thumbs.csv"] {
            assert!(!is_system_file(name), "{name}");
        }
    }

    #[test]
    fn text_is_no_other_kind() {
        for text in [
            &b"id,name\n1,Ann\n"[..],
            b"",
            b"PARTNER,id\n",
            b"BZh,id\n",
            b"<id>,name\n",
            b"a\0,b\n",
            b"7z,a\n",
            b"\xff\xfea\0,\0b\0\n\0",
            b"\xfe\xff\0a\0,\0b\0\n",
        ] {
            assert_eq!((other_kind(text), utf_16_without_mark(text)), (None, None));
        }
    }
}
