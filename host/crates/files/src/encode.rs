use crate::Encoding;

/// The dialect of an exported CSV file.
#[derive(Clone, Debug, PartialEq)]
pub struct CsvFormat {
    /// Separates cells.
    pub delimiter: char,
    /// Encloses cells that need it, and is doubled inside them ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180), 2.7):
    /// an ASCII byte.
    pub quote: u8,
    /// Whether every cell is quoted.
    pub quote_all: bool,
    /// Whether the first row names the columns.
    pub header: bool,
    /// Whether the file begins with a byte-order mark.
    pub bom: bool,
    /// The end of each row.
    pub line_end: LineEnd,
    /// The character encoding; `Auto` means UTF-8.
    pub encoding: Encoding,
    /// Whether a cell that a spreadsheet would take for a formula gets a leading `'`. Numbers do not.
    pub formula_guard: bool,
}

impl Default for CsvFormat {
    fn default() -> Self {
        Self {
            delimiter: ',',
            quote: b'"',
            quote_all: false,
            header: true,
            bom: false,
            line_end: LineEnd::Lf,
            encoding: Encoding::Auto,
            formula_guard: false,
        }
    }
}

/// The end of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    /// `\n`
    Lf,
    /// `\r\n`
    CrLf,
}

/// Writes rows in a [`CsvFormat`].
#[derive(Debug)]
pub struct RowEncoder {
    format: CsvFormat,
    delimiter: String,
    quote: char,
    row: String,
}

/// The place in the row of a cell that the encoding cannot represent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unencodable(pub usize);

impl RowEncoder {
    /// A writer of rows.
    pub fn new(format: &CsvFormat) -> Self {
        Self {
            delimiter: format.delimiter.to_string(),
            quote: char::from(format.quote),
            format: format.clone(),
            row: String::new(),
        }
    }

    /// Appends what comes before the first row: the byte-order mark and the header.
    ///
    /// # Errors
    /// If the encoding cannot represent a name.
    pub fn begin<'a>(
        &mut self,
        header: impl IntoIterator<Item = &'a str>,
        out: &mut Vec<u8>,
    ) -> Result<(), Unencodable> {
        if self.format.bom {
            self.row.clear();
            self.row.push('\u{feff}');
            // An encoding that cannot represent the mark needs none.
            let _ = self.encode(out);
        }
        if self.format.header { self.write(header, false, out) } else { Ok(()) }
    }

    /// Appends a row.
    ///
    /// # Errors
    /// If the encoding cannot represent a cell. Nothing is appended then.
    pub fn row<'a>(
        &mut self,
        cells: impl IntoIterator<Item = &'a str>,
        out: &mut Vec<u8>,
    ) -> Result<(), Unencodable> {
        self.write(cells, self.format.formula_guard, out)
    }

    fn write<'a>(
        &mut self,
        cells: impl IntoIterator<Item = &'a str>,
        guarded: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Unencodable> {
        self.row.clear();
        let mut ends = 0;
        for (place, cell) in cells.into_iter().enumerate() {
            if place > 0 {
                self.row.push_str(&self.delimiter);
            }
            self.append(cell, guarded && is_formula(cell));
            ends = place + 1;
        }
        if ends == 1 && self.row.is_empty() {
            // Readers skip a blank line.
            self.row.push(self.quote);
            self.row.push(self.quote);
        }
        self.row.push_str(match self.format.line_end {
            LineEnd::Lf => "\n",
            LineEnd::CrLf => "\r\n",
        });
        if self.encode(out) { Ok(()) } else { Err(Unencodable(self.unencodable())) }
    }

    fn append(&mut self, cell: &str, guard: bool) {
        let special = |byte: &u8| {
            matches!(byte, b'\n' | b'\r') || *byte == self.format.quote || !(b'!'..=b'~').contains(byte)
        };
        // Nearly all cells pass this fast check.
        let plain = !guard && !self.format.quote_all && !cell.as_bytes().iter().any(special);
        let quoted = if plain {
            cell.contains(self.format.delimiter)
        } else {
            self.format.quote_all
                || cell.contains([self.quote, '\n', '\r', self.format.delimiter])
                || cell.trim().len() != cell.len()
        };
        if !quoted {
            if guard {
                self.row.push('\'');
            }
            return self.row.push_str(cell);
        }
        self.row.push(self.quote);
        if guard {
            self.row.push('\'');
        }
        for (place, part) in cell.split(self.quote).enumerate() {
            if place > 0 {
                self.row.push(self.quote);
                self.row.push(self.quote);
            }
            self.row.push_str(part);
        }
        self.row.push(self.quote);
    }

    /// Appends the row's bytes. Appends nothing and returns `false` if the encoding cannot represent them.
    fn encode(&self, out: &mut Vec<u8>) -> bool {
        let Encoding::Named(encoding) = self.format.encoding else {
            out.extend_from_slice(self.row.as_bytes());
            return true;
        };
        if encoding == encoding_rs::UTF_8 {
            out.extend_from_slice(self.row.as_bytes());
        } else if encoding == encoding_rs::UTF_16LE {
            self.row.encode_utf16().for_each(|unit| out.extend_from_slice(&unit.to_le_bytes()));
        } else if encoding == encoding_rs::UTF_16BE {
            self.row.encode_utf16().for_each(|unit| out.extend_from_slice(&unit.to_be_bytes()));
        } else {
            let (bytes, _, unmappable) = encoding.encode(&self.row);
            if unmappable {
                return false;
            }
            out.extend_from_slice(&bytes);
        }
        true
    }

    /// The place of the first cell of the row that the encoding cannot represent.
    fn unencodable(&self) -> usize {
        let Encoding::Named(encoding) = self.format.encoding else { return 0 };
        let (mut place, mut quoted) = (0, false);
        for character in self.row.chars() {
            if character == self.quote {
                quoted = !quoted;
            } else if character == self.format.delimiter && !quoted {
                place += 1;
            } else if encoding.encode(character.encode_utf8(&mut [0; 4])).2 {
                return place;
            }
        }
        place
    }
}

/// Whether a spreadsheet takes a cell for a formula
/// ([OWASP, CSV Injection](https://owasp.org/www-community/attacks/CSV_Injection)), unless it is a number.
fn is_formula(cell: &str) -> bool {
    match cell.as_bytes() {
        [b'=' | b'@' | b'\t' | b'\r', ..] => true,
        [b'+' | b'-', rest @ ..] => {
            let number = !rest.is_empty()
                && rest.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b','))
                && rest.iter().filter(|byte| !byte.is_ascii_digit()).count() <= 1;
            !number
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(format: &CsvFormat, cells: &[&str], expected: &str) {
        let mut out = Vec::new();
        RowEncoder::new(format).row(cells.iter().copied(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn cells_are_quoted_where_needed() {
        let plain = CsvFormat::default();
        check(&plain, &["a", "", "b c"], "a,,b c\n");
        check(
            &plain,
            &["a,b", "say \"hi\"", "two\nlines", " x", "é"],
            "\"a,b\",\"say \"\"hi\"\"\",\"two\nlines\",\" x\",é\n",
        );
        check(&plain, &[""], "\"\"\n");
        let other = CsvFormat { delimiter: ';', quote_all: true, line_end: LineEnd::CrLf, ..plain };
        check(&other, &["a;b", "1"], "\"a;b\";\"1\"\r\n");
    }

    #[test]
    fn formulas_are_guarded_and_numbers_are_not() {
        let guarded = CsvFormat { formula_guard: true, ..CsvFormat::default() };
        for (cell, expected) in [
            ("=1+1", "'=1+1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("+31612345678", "+31612345678"),
            ("-12.50", "-12.50"),
            ("-12,50", "\"-12,50\""),
            ("-1-1", "'-1-1"),
            ("+", "'+"),
            ("=\"a\"", "\"'=\"\"a\"\"\""),
            ("a=b", "a=b"),
        ] {
            check(&guarded, &[cell], &format!("{expected}\n"));
        }
    }

    #[test]
    fn cells_that_an_encoding_cannot_represent_are_found() {
        let format =
            |name: &str| CsvFormat { encoding: Encoding::named(name).unwrap(), ..CsvFormat::default() };
        let encoded = |name: &str, cells: &[&str]| {
            let mut out = Vec::new();
            RowEncoder::new(&format(name)).row(cells.iter().copied(), &mut out).map(|()| out)
        };
        assert_eq!(encoded("windows-1252", &["é", "€"]), Ok(b"\xe9,\x80\n".to_vec()));
        assert_eq!(encoded("windows-1252", &["a", "\"x,\"", "日"]), Err(Unencodable(2)));
        assert_eq!(encoded("utf-16le", &["é"]), Ok(b"\xe9\0\n\0".to_vec()));
        let marked = CsvFormat { bom: true, header: false, ..format("utf-16be") };
        let mut out = Vec::new();
        RowEncoder::new(&marked).begin([], &mut out).unwrap();
        assert_eq!(out, b"\xfe\xff");
    }

    proptest! {
        #[test]
        fn rows_are_read_back_cell_for_cell(
            rows in prop::collection::vec(prop::collection::vec("[a\"',;\r\n é=+-]{0,6}", 3), 1..5),
            quote_all: bool,
            crlf: bool,
        ) {
            let line_end = if crlf { LineEnd::CrLf } else { LineEnd::Lf };
            let format = CsvFormat { quote_all, line_end, ..CsvFormat::default() };
            let (mut encoder, mut out) = (RowEncoder::new(&format), Vec::new());
            for row in &rows {
                encoder.row(row.iter().map(String::as_str), &mut out).unwrap();
            }
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(out.as_slice());
            let read: Vec<Vec<String>> =
                reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect();
            prop_assert_eq!(read, rows);
        }
    }
}
