use std::io::{self, Write};

use crate::CsvOptions;

/// Writes rows in the dialect of a goal's files, so that the same goal can read them again.
#[derive(Debug)]
pub struct RowWriter<W> {
    out: W,
    delimiter: String,
    quote: Option<char>,
    escape: Option<char>,
}

impl<W: Write> RowWriter<W> {
    /// A writer of rows in UTF-8.
    pub fn new(out: W, options: &CsvOptions) -> Self {
        let delimiter = options.delimiter.to_string();
        Self { out, delimiter, quote: options.quote.map(char::from), escape: options.escape.map(char::from) }
    }

    /// Writes one row.
    pub fn write<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) -> io::Result<()> {
        let mut row = String::new();
        for (place, cell) in cells.into_iter().enumerate() {
            if place > 0 {
                row.push_str(&self.delimiter);
            }
            self.append(cell.as_ref(), &mut row);
        }
        row.push('\n');
        self.out.write_all(row.as_bytes())
    }

    /// The inner writer.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    fn append_unquoted(&self, cell: &str, row: &mut String) {
        let Some(escape) = self.escape else { return row.push_str(cell) };
        for (place, character) in cell.char_indices() {
            let is_delimiter = cell.get(place..).is_some_and(|rest| rest.starts_with(&self.delimiter));
            if is_delimiter || character == escape || matches!(character, '\n' | '\r') {
                row.push(escape);
            }
            row.push(character);
        }
    }

    fn append(&self, cell: &str, row: &mut String) {
        let Some(quote) = self.quote else { return self.append_unquoted(cell, row) };
        // A row of one empty cell would be a blank line, which readers skip.
        let needs_quotes = cell.contains(&self.delimiter)
            || cell.contains([quote, '\n', '\r'])
            || self.escape.is_some_and(|escape| cell.contains(escape))
            || cell.trim().len() != cell.len()
            || (cell.is_empty() && row.is_empty());
        if !needs_quotes {
            return row.push_str(cell);
        }
        row.push(quote);
        for character in cell.chars() {
            if character == quote {
                row.push(quote);
            } else if Some(character) == self.escape {
                row.push(character);
            }
            row.push(character);
        }
        row.push(quote);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_needs_it_without_quotes() {
        let options = CsvOptions { quote: None, escape: Some(b'\\'), ..CsvOptions::default() };
        let mut writer = RowWriter::new(Vec::new(), &options);
        writer.write(["a,b", "c\\d", "\"e\""]).unwrap();
        assert_eq!(writer.get_mut(), b"a\\,b,c\\\\d,\"e\"\n");
    }

    #[test]
    fn quotes_what_needs_it() {
        let options = CsvOptions { delimiter: ';', escape: Some(b'\\'), ..CsvOptions::default() };
        let mut writer = RowWriter::new(Vec::new(), &options);
        writer.write(["", "a;b", "\"\\\"", "c,d", " e"]).unwrap();
        let text = String::from_utf8(writer.get_mut().clone()).unwrap();
        assert_eq!(text, "\"\";\"a;b\";\"\"\"\\\\\"\"\";c,d;\" e\"\n");
    }
}
