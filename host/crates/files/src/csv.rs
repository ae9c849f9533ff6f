use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memchr::{memchr, memchr2, memchr2_iter, memchr3};
use sluicebox_model::{
    Column, Header, OrNever, RecordBatch, RejectedRow, RejectedScope, RejectionCode, append, never,
};
use wide::u8x16;

use crate::FileError;

/// What happens to a row with fewer or more cells than the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ragged {
    /// The row is rejected.
    #[default]
    Reject,
    /// Missing cells are empty and surplus empty cells are dropped; surplus values reject the row.
    Pad,
}

/// The dialect of a CSV file. The fields are the keys of `csv` in a goal.
#[derive(Clone, Debug, PartialEq)]
pub struct CsvOptions {
    /// Separates cells.
    pub delimiter: char,
    /// Encloses cells: an ASCII byte, or `None` where quotes have no meaning.
    pub quote: Option<u8>,
    /// Makes the next character literal, inside quotes and outside: an ASCII byte. Outside quotes the cell `\N`, where `\` is
    /// the escape, stays unchanged: databases write it for "no value".
    pub escape: Option<u8>,
    /// Whether the first row names the columns. Without it they are `1`, `2`, ….
    pub header: bool,
    /// Physical lines before the header to skip.
    pub skip_rows: u64,
    /// Whether white space around cells is removed.
    pub trim: bool,
    /// Texts that mean "no value".
    pub null_values: Vec<String>,
    /// What happens to ragged rows.
    pub ragged: Ragged,
    /// The longest cell, in bytes.
    pub max_cell: usize,
    /// The longest row, in bytes of the decoded file.
    pub max_row: usize,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            delimiter: ',',
            quote: Some(b'"'),
            escape: None,
            header: true,
            skip_rows: 0,
            trim: true,
            null_values: vec![String::new()],
            ragged: Ragged::Reject,
            max_cell: 1 << 20,
            max_row: 16 << 20,
        }
    }
}

const INITIAL_BUFFER_BYTES: usize = 256 << 10;
const MAX_COLUMNS: usize = 100_000;
/// The longest name of a column: it is repeated in messages, reports and files of rejected rows.
const MAX_NAME_BYTES: usize = 4096;
/// A batch ends at this many bytes even if it could have more rows.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Cuts the text of a file into batches of rows.
///
/// Its memory is bounded by `max_row` and the size of a batch.
pub struct Reader {
    input: Box<dyn Read + Send>,
    bytes_read: Arc<AtomicU64>,
    scanner: Scanner,
    options: CsvOptions,
    batch_rows: usize,
    header: Arc<Header>,
    /// `buffer[from..to]` is read but not yet parsed.
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    /// The buffer up to here is known to be UTF-8 without a NUL byte. Rows beyond are checked one by one.
    clean_until: usize,
    ended: bool,
    /// The physical line at `from`, from 1.
    line: u64,
    /// The number of the next row.
    number: u64,
    /// An error that ends the file. Callers get the rows before it first.
    failure: Option<FileError>,
    /// The buffer for the text of a batch, reused.
    text: Vec<u8>,
    /// The number of rows of the last batch.
    last_rows: usize,
}

/// A parsed row. Its cells are the last ones of the ends.
struct Row {
    /// In bytes of the buffer.
    length: usize,
    /// How many cells it has, those without a column included.
    cells: usize,
    surplus: Surplus,
    line: u64,
    problem: Option<RejectionCode>,
}

impl Reader {
    /// Reads the header. `None` if the file holds no row at all, not even a header.
    /// Batches report `bytes_read` as progress.
    pub fn open(
        input: Box<dyn Read + Send>,
        bytes_read: Arc<AtomicU64>,
        options: CsvOptions,
        batch_rows: usize,
    ) -> Result<Option<Self>, FileError> {
        let scanner = Scanner::new(&options);
        let header =
            Header { columns: Vec::new(), trim: options.trim, null_values: options.null_values.clone() };
        let mut reader = Self {
            input,
            bytes_read,
            scanner,
            batch_rows,
            header: Arc::new(header),
            buffer: vec![0; INITIAL_BUFFER_BYTES],
            from: 0,
            to: 0,
            clean_until: 0,
            ended: false,
            line: 1,
            number: 0,
            failure: None,
            text: Vec::new(),
            last_rows: 0,
            options,
        };
        reader.fill()?;
        for _ in 0..reader.options.skip_rows {
            reader.skip_line()?;
        }
        let columns = reader.read_header()?;
        Ok(columns.map(|columns| {
            let header = Header {
                columns,
                trim: reader.options.trim,
                null_values: reader.options.null_values.clone(),
            };
            reader.header = Arc::new(header);
            reader
        }))
    }

    /// The columns.
    pub fn header(&self) -> &Arc<Header> {
        &self.header
    }

    /// How many physical lines are before the row that has `wanted` as a cell, if that is one of the next rows and the
    /// header is a title: a row of one cell. `skip_rows` can then be that number.
    pub fn lines_before_header(&self, wanted: &str) -> Option<u64> {
        const MAX_TITLE_ROWS: usize = 20;
        if !self.options.header || self.header.columns.iter().filter(|name| !name.is_empty()).count() > 1 {
            return None;
        }
        let (mut from, mut line) = (self.from, self.line);
        for _ in 0..MAX_TITLE_ROWS {
            let bytes = self.buffer.get(from..self.to).or_never("the unparsed text");
            let (mut text, mut ends) = (Vec::new(), Vec::new());
            let scanned = self.scanner.scan(bytes, true, MAX_COLUMNS, &mut text, &mut ends);
            let Scan::Complete { length, .. } = scanned else { return None };
            if length == 0 {
                return None;
            }
            let row = cells(&text, &ends);
            if row.len() > 1 && row.iter().any(|cell| cell.trim() == wanted) {
                return Some(line - 1);
            }
            from += length;
            line += physical_lines(bytes.get(..length).or_never("the parsed row"));
        }
        None
    }

    fn read_header(&mut self) -> Result<Option<Vec<String>>, FileError> {
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        let Some(row) = self.next_row(MAX_COLUMNS, &mut text, &mut ends)? else { return Ok(None) };
        let problem = |problem| Err(FileError::Header { line: row.line, problem });
        if row.cells > MAX_COLUMNS {
            return problem("has more than 100000 columns");
        }
        if !self.options.header {
            // The first row is data: it is still in the buffer and is parsed again.
            self.from -= row.length;
            self.line = row.line;
            return Ok(Some((1..=row.cells).map(|number| number.to_string()).collect()));
        }
        match row.problem {
            Some(RejectionCode::Encoding) => {
                return problem(
                    "holds bytes that are invalid in the file's encoding; a likely one is encoding = \"windows-1252\" in the goal's csv",
                );
            }
            Some(RejectionCode::Nul) => return problem("holds a NUL byte"),
            Some(_) => return problem("has text after a closing quote or a name that is too long"),
            None => {}
        }
        let names = cells(&text, &ends);
        if names.iter().any(|name| name.len() > MAX_NAME_BYTES) {
            return problem("has a name of more than 4096 bytes");
        }
        let names = names.into_iter();
        let trim = self.options.trim;
        Ok(Some(names.map(|name| if trim { name.trim().to_owned() } else { name }).collect()))
    }

    /// The next rows, or `None` after the last.
    ///
    /// # Errors
    /// If the rest of the file cannot be read. Callers get the rows before that place first.
    pub fn next_batch(&mut self) -> Result<Option<RecordBatch>, FileError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let columns = self.header.columns.len();
        // Batches are about equal in size: reserve a little more than the last one had.
        let room = self.last_rows + self.last_rows / 8;
        let (mut text, mut ends) = (std::mem::take(&mut self.text), Vec::with_capacity(room * columns));
        let (mut places, mut rejected) = (Vec::with_capacity(room), Vec::new());
        text.clear();
        let mut rejected_bytes = 0;
        while places.len() + rejected.len() < self.batch_rows
            // Cells that are padded count like others.
            && rejected_bytes + text.len() + ends.len() * size_of::<u32>() < MAX_BATCH_BYTES
        {
            let (text_before, ends_before) = (text.len(), ends.len());
            let row = match self.next_row(columns, &mut text, &mut ends) {
                Ok(Some(row)) => row,
                Ok(None) => break,
                // The rows before the failure are complete.
                Err(error) => {
                    text.truncate(text_before);
                    ends.truncate(ends_before);
                    self.failure = Some(error);
                    break;
                }
            };
            let number = self.number;
            self.number += 1;
            let problem = match &row.problem {
                Some(code) => Some((code.clone(), reason(code, &self.options))),
                None if self.repeats_header(&row, &text, text_before, &ends, ends_before) => {
                    let code = RejectionCode::HeaderAgain;
                    let reason = reason(&code, &self.options);
                    Some((code, reason))
                }
                None => self.fit(&row, columns, &mut text, &mut ends),
            };
            match problem {
                None => places.push((number, row.line)),
                Some((code, reason)) => {
                    let own = ends.get(ends_before..).or_never("the row");
                    let cells = Arc::new(readable_cells(&text, text_before, own));
                    text.truncate(text_before);
                    ends.truncate(ends_before);
                    let raw = Some(without_line_end(self.raw(&row)).into());
                    let (line, scope) = (row.line, RejectedScope::Row);
                    let row = RejectedRow { number, line, code, reason, scope, cells, raw };
                    rejected_bytes += row.memory();
                    rejected.push(row);
                }
            }
        }
        if places.is_empty() && rejected.is_empty() {
            return self.failure.take().map_or(Ok(None), Err);
        }
        self.last_rows = places.len();
        // Each row was valid by itself. The check stays because it costs next to nothing.
        let cells = simdutf8::basic::from_utf8(&text).map_err(|_| inconsistent())?.to_owned();
        self.text = text;
        let batch = RecordBatch::new(Arc::clone(&self.header), cells, ends, places, rejected, self.number);
        let mut batch = batch.ok_or_else(inconsistent)?;
        batch.bytes_read = self.bytes_read.load(Ordering::Relaxed);
        Ok(Some(batch))
    }

    /// The bytes of the row that was read last, with its line end.
    fn raw(&self, row: &Row) -> &[u8] {
        let start = self.from.checked_sub(row.length);
        start.and_then(|start| self.buffer.get(start..self.from)).or_never("the bytes of a row")
    }

    /// Whether a row has the names of the columns as its cells, as where files were put one behind the other. A byte-order
    /// mark may be before them.
    fn repeats_header(&self, row: &Row, text: &[u8], from: usize, ends: &[u32], first: usize) -> bool {
        if !self.options.header {
            return false;
        }
        let columns = &self.header.columns;
        let raw = self.raw(row);
        if let Some(unmarked) = raw.strip_prefix(MARK) {
            let (mut text, mut ends) = (Vec::new(), Vec::new());
            let scanned = self.scanner.scan(unmarked, true, columns.len(), &mut text, &mut ends);
            return matches!(scanned, Scan::Complete { after_quote: false, .. })
                && self.are_names(&text, 0, &ends);
        }
        let first_byte = |name: &[u8]| name.first().copied();
        let byte = first_byte(text.get(from..).or_never("the text of a row"));
        // Nearly all rows differ in their first byte. One beyond visible ASCII may be white space.
        let may_be = byte.is_none_or(|byte| !byte.is_ascii_graphic())
            || columns.first().is_none_or(|name| name.is_empty() || first_byte(name.as_bytes()) == byte);
        may_be
            && row.cells == columns.len()
            && self.are_names(text, from, ends.get(first..).or_never("the cells of a row"))
    }

    fn are_names(&self, text: &[u8], mut from: usize, ends: &[u32]) -> bool {
        let columns = &self.header.columns;
        columns.len() == ends.len()
            && columns.iter().zip(ends).all(|(name, end)| {
                let cell = text.get(from..*end as usize).or_never("a cell");
                from = *end as usize;
                cell.len() >= name.len()
                    && match self.options.trim {
                        true => std::str::from_utf8(cell).is_ok_and(|cell| cell.trim() == name),
                        false => cell == name.as_bytes(),
                    }
            })
    }

    /// Makes a row as wide as the header, or says why it is rejected.
    fn fit(
        &self,
        row: &Row,
        columns: usize,
        text: &mut Vec<u8>,
        ends: &mut Vec<u32>,
    ) -> Option<(RejectionCode, String)> {
        let found = row.cells;
        if found == columns {
            return None;
        }
        match self.options.ragged {
            Ragged::Pad if found < columns => {
                let end = u32::try_from(text.len()).or_never("the end of a cell");
                ends.extend(std::iter::repeat_n(end, columns - found));
                None
            }
            Ragged::Pad if !row.surplus.has_value => {
                // The surplus cells are one.
                ends.pop();
                text.truncate(ends.last().map_or(0, |end| *end as usize));
                None
            }
            Ragged::Pad | Ragged::Reject => {
                Some((RejectionCode::Ragged, format!("expected {columns} cells, found {found}")))
            }
        }
    }

    /// Appends the cells of the next row that is not blank, and as one cell those beyond `columns`.
    fn next_row(
        &mut self,
        columns: usize,
        text: &mut Vec<u8>,
        ends: &mut Vec<u32>,
    ) -> Result<Option<Row>, FileError> {
        let (text_before, ends_before) = (text.len(), ends.len());
        loop {
            let bytes = self.buffer.get(self.from..self.to).or_never("the unparsed text");
            if bytes.is_empty() && self.ended {
                return Ok(None);
            }
            match self.scanner.scan(bytes, self.ended, columns, text, ends) {
                Scan::Incomplete { in_quotes } => {
                    text.truncate(text_before);
                    ends.truncate(ends_before);
                    if self.ended {
                        return Err(FileError::UnclosedQuote { line: self.line });
                    }
                    if bytes.len() >= self.options.max_row {
                        return Err(self.too_long(in_quotes));
                    }
                    self.fill()?;
                }
                Scan::Complete { length, quoted, after_quote, surplus } => {
                    let line = self.line;
                    if length > self.options.max_row {
                        return Err(self.too_long(false));
                    }
                    let raw = bytes.get(..length).or_never("the parsed row");
                    let own = ends.len() - ends_before - usize::from(surplus.cells > 0);
                    let cells = own + surplus.cells;
                    let blank = cells == 1
                        && !quoted
                        && self.is_blank(text.get(text_before..).or_never("the only cell"));
                    let may_span_lines = quoted || self.options.escape.is_some();
                    self.line += if may_span_lines { physical_lines(raw).max(1) } else { 1 };
                    let own = ends.get(ends_before..ends_before + own).or_never("the cells of a row");
                    let problem = self.problem(raw, after_quote, text_before, own, surplus);
                    self.from += length;
                    if !blank {
                        return Ok(Some(Row { length, cells, surplus, line, problem }));
                    }
                    text.truncate(text_before);
                    ends.truncate(ends_before);
                }
            }
        }
    }

    fn too_long(&self, in_quotes: bool) -> FileError {
        let (line, limit) = (self.line, self.options.max_row as u64);
        if in_quotes {
            FileError::UnclosedQuoteWithin { line, limit }
        } else {
            FileError::RowTooLong { line, limit }
        }
    }

    fn is_blank(&self, cell: &[u8]) -> bool {
        cell.is_empty() || (self.options.trim && cell.iter().all(|byte| matches!(byte, b' ' | b'\t')))
    }

    fn problem(
        &self,
        raw: &[u8],
        after_quote: bool,
        from: usize,
        ends: &[u32],
        surplus: Surplus,
    ) -> Option<RejectionCode> {
        let seen = self.from + raw.len() <= self.clean_until;
        if !seen && memchr(0, raw).is_some() {
            return Some(RejectionCode::Nul);
        }
        if !seen && simdutf8::basic::from_utf8(raw).is_err() {
            return Some(RejectionCode::Encoding);
        }
        if after_quote {
            return Some(RejectionCode::Quote);
        }
        if raw.len() > self.options.max_cell {
            let mut from = from;
            for end in ends {
                if *end as usize - from > self.options.max_cell {
                    return Some(RejectionCode::CellTooLong);
                }
                from = *end as usize;
            }
            if surplus.longest > self.options.max_cell {
                return Some(RejectionCode::CellTooLong);
            }
        }
        None
    }

    /// Moves the unparsed text to the front and fills the buffer, which grows if it was more than half full.
    /// A long row is parsed again after each fill, so only full buffers keep that work linear.
    fn fill(&mut self) -> Result<(), FileError> {
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.from = 0;
        if self.to > self.buffer.len() / 2 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        while let Some(room) = self.buffer.get_mut(self.to..).filter(|room| !room.is_empty()) {
            match self.input.read(room) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(length) => self.to += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.clean_until = clean_prefix(self.buffer.get(..self.to).or_never("the text that was read"));
        Ok(())
    }

    fn skip_line(&mut self) -> Result<(), FileError> {
        loop {
            let bytes = self.buffer.get(self.from..self.to).or_never("the unparsed text");
            match memchr2(b'\n', b'\r', bytes) {
                Some(end) if end + 1 < bytes.len() || self.ended => {
                    let pair = bytes.get(end..end + 2) == Some(b"\r\n");
                    self.from += end + 1 + usize::from(pair);
                    self.line += 1;
                    return Ok(());
                }
                None if self.ended => {
                    self.from = self.to;
                    return Ok(());
                }
                None if bytes.len() > self.options.max_row => return Err(self.too_long(false)),
                _ => self.fill()?,
            }
        }
    }
}

/// The length of the longest prefix that is UTF-8 without a NUL byte. One check of a whole buffer is much faster than one
/// of each row.
fn clean_prefix(bytes: &[u8]) -> usize {
    let text = simdutf8::compat::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let before = bytes.get(..text).and_then(|text| memchr(0, text));
    before.unwrap_or(text)
}

fn inconsistent() -> FileError {
    never!(true, "the cells of a batch are inconsistent");
    FileError::Io(io::Error::new(
        io::ErrorKind::InvalidData,
        "internal error: the cells of a batch are inconsistent",
    ))
}

fn reason(code: &RejectionCode, options: &CsvOptions) -> String {
    match code {
        RejectionCode::Nul => "the row holds a NUL byte".into(),
        RejectionCode::Encoding => "the row holds bytes that are invalid in the file's encoding".into(),
        RejectionCode::Quote => "a cell has text after its closing quote".into(),
        RejectionCode::HeaderAgain => "the row repeats the header".into(),
        RejectionCode::CellTooLong => format!("a cell is longer than {} bytes (max_cell)", options.max_cell),
        other => other.as_str().to_owned(),
    }
}

fn cells(text: &[u8], ends: &[u32]) -> Vec<String> {
    let mut from = 0;
    let mut cells = Vec::with_capacity(ends.len());
    for end in ends {
        let cell = text.get(from..*end as usize).or_never("a cell");
        cells.push(String::from_utf8_lossy(cell).into_owned());
        from = *end as usize;
    }
    cells
}

/// The cells that begin at `from`; bytes that are no text become U+FFFD.
fn readable_cells(text: &[u8], mut from: usize, ends: &[u32]) -> Column {
    let mut cells = Column::with_capacity(text.len() - from, ends.len());
    for end in ends {
        cells.push(&String::from_utf8_lossy(text.get(from..*end as usize).or_never("a cell")));
        from = *end as usize;
    }
    cells
}

/// The cells of a row that could not be taken, as [`RejectedRow`] has them, joined to as many as there are columns. `raw` has the
/// row's bytes.
pub fn cells_of_row(raw: &[u8], columns: usize, options: &CsvOptions) -> Vec<String> {
    let (mut text, mut ends) = (Vec::new(), Vec::new());
    Scanner::new(options).scan(raw, true, columns, &mut text, &mut ends);
    let mut cells = cells(&text, &ends);
    if cells.len() > columns
        && let Some(surplus) = cells.pop()
        && let Some(last) = cells.last_mut()
    {
        last.push(',');
        last.push_str(&surplus);
    }
    cells.resize(columns, String::new());
    cells
}

/// U+FEFF in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

fn without_line_end(row: &[u8]) -> &[u8] {
    let row = row.strip_suffix(b"\n").unwrap_or(row);
    row.strip_suffix(b"\r").unwrap_or(row)
}

fn physical_lines(raw: &[u8]) -> u64 {
    let pair = |at: usize| at.checked_sub(1).is_some_and(|before| raw.get(before..=at) == Some(b"\r\n"));
    memchr2_iter(b'\n', b'\r', raw).filter(|at| !pair(*at)).count() as u64
}

struct Scanner {
    delimiter: Vec<u8>,
    quote: Option<u8>,
    escape: Option<u8>,
    trim: bool,
    null_values: Vec<String>,
}

/// What a row has beyond its columns. A partner decides how much that is: it is kept as one cell, joined by the delimiter.
#[derive(Clone, Copy, Default)]
struct Surplus {
    cells: usize,
    /// The bytes of the longest of them.
    longest: usize,
    /// Whether one of them holds a value.
    has_value: bool,
}

enum Scan {
    /// The row does not end in these bytes.
    Incomplete { in_quotes: bool },
    /// The row, with its line end, has `length` bytes.
    Complete { length: usize, quoted: bool, after_quote: bool, surplus: Surplus },
}

/// What ends a cell.
enum CellEnd {
    Cell(usize),
    Row(usize),
    Missing,
}

impl Scanner {
    fn new(options: &CsvOptions) -> Self {
        let mut delimiter = [0; 4];
        Self {
            delimiter: options.delimiter.encode_utf8(&mut delimiter).as_bytes().to_vec(),
            quote: options.quote,
            escape: options.escape,
            trim: options.trim,
            null_values: options.null_values.clone(),
        }
    }

    /// Whether a surplus cell holds a value.
    fn has_value(&self, cell: &[u8]) -> bool {
        let cell = String::from_utf8_lossy(cell);
        let cell = if self.trim { cell.trim() } else { &*cell };
        !cell.is_empty() && !self.null_values.iter().any(|null| null == cell)
    }

    /// Appends the cells of the row at the start of `bytes`, and as one cell those beyond `columns`. `ended`: no bytes
    /// follow.
    fn scan(
        &self,
        bytes: &[u8],
        ended: bool,
        columns: usize,
        text: &mut Vec<u8>,
        ends: &mut Vec<u32>,
    ) -> Scan {
        let (mut at, mut quoted, mut after_quote) = (0, false, false);
        let (most_ends, mut surplus) = (ends.len() + columns, Surplus::default());
        let mut separators = Separators::new(bytes, self.delimiter.first().copied().unwrap_or(b','));
        loop {
            if surplus.cells > 0 {
                text.extend_from_slice(&self.delimiter);
            }
            let (mut closed, cell) = (false, text.len());
            let start = if self.trim { self.skip_space(bytes, at) } else { at };
            if self.quote.is_some() && bytes.get(start).copied() == self.quote {
                quoted = true;
                match self.quoted_cell(bytes, start + 1, ended, text) {
                    Some(end) => at = if self.trim { self.skip_space(bytes, end) } else { end },
                    None => return Scan::Incomplete { in_quotes: true },
                }
                closed = true;
            }
            let end = match self.escape {
                Some(escape) if !closed => self.escaped_cell(&mut separators, &mut at, escape, ended, text),
                _ => self.cell_end(&mut separators, at, ended),
            };
            let (CellEnd::Cell(to) | CellEnd::Row(to)) = end else {
                return Scan::Incomplete { in_quotes: false };
            };
            after_quote |= closed && to > at;
            append(bytes.get(at..to).or_never("a cell"), text);
            if ends.len() < most_ends {
                ends.push(u32::try_from(text.len()).or_never("the end of a cell"));
            } else {
                let cell = text.get(cell..).or_never("a surplus cell");
                surplus.cells += 1;
                surplus.longest = surplus.longest.max(cell.len());
                surplus.has_value = surplus.has_value || self.has_value(cell);
            }
            match end {
                CellEnd::Cell(_) => at = to + self.delimiter.len(),
                _ => {
                    let line_end = match bytes.get(to..) {
                        Some([b'\r', b'\n', ..]) => 2,
                        Some([_, ..]) => 1,
                        _ => 0,
                    };
                    if surplus.cells > 0 {
                        ends.push(u32::try_from(text.len()).or_never("the end of a cell"));
                    }
                    return Scan::Complete { length: to + line_end, quoted, after_quote, surplus };
                }
            }
        }
    }

    fn skip_space(&self, bytes: &[u8], mut at: usize) -> usize {
        while let Some(b' ' | b'\t') = bytes.get(at) {
            if bytes.get(at..).is_some_and(|rest| rest.starts_with(&self.delimiter)) {
                break;
            }
            at += 1;
        }
        at
    }

    /// Finds the end of the unquoted text that begins at `at`.
    #[inline]
    fn cell_end(&self, separators: &mut Separators<'_>, at: usize, ended: bool) -> CellEnd {
        let Separators { bytes, delimiter, .. } = *separators;
        let mut from = at;
        loop {
            let Some(place) = separators.first_from(from) else {
                return if ended { CellEnd::Row(bytes.len()) } else { CellEnd::Missing };
            };
            match bytes.get(place) {
                Some(b'\r') if place + 1 == bytes.len() && !ended => return CellEnd::Missing,
                Some(b'\n' | b'\r') if !matches!(delimiter, b'\n' | b'\r') => return CellEnd::Row(place),
                _ if self.delimiter.len() == 1
                    || bytes.get(place..).is_some_and(|rest| rest.starts_with(&self.delimiter)) =>
                {
                    return CellEnd::Cell(place);
                }
                _ => from = place + 1,
            }
        }
    }

    /// Appends the unquoted text that begins at `at` up to its last escape, moves `at` behind that, and finds the end.
    fn escaped_cell(
        &self,
        separators: &mut Separators<'_>,
        at: &mut usize,
        escape: u8,
        ended: bool,
        text: &mut Vec<u8>,
    ) -> CellEnd {
        let (bytes, start) = (separators.bytes, *at);
        loop {
            let end = self.cell_end(separators, *at, ended);
            let to = match end {
                CellEnd::Cell(to) | CellEnd::Row(to) => to,
                CellEnd::Missing => return CellEnd::Missing,
            };
            let cell = bytes.get(*at..to).or_never("a cell");
            let Some(place) = memchr(escape, cell).map(|place| *at + place) else { return end };
            // Databases write `\N` for "no value".
            if place == start && to == start + 2 && bytes.get(start + 1) == Some(&b'N') {
                return end;
            }
            // The escape may make a separator literal, and then the cell does not end there. Both bytes of a line end do.
            let literal = match bytes.get(place + 1..).or_never("the bytes after an escape") {
                [b'\r'] | [] if !ended => return CellEnd::Missing,
                [b'\r', b'\n', ..] => 2,
                [] => return end,
                _ => 1,
            };
            text.extend_from_slice(bytes.get(*at..place).or_never("the text before an escape"));
            text.extend_from_slice(
                bytes.get(place + 1..place + 1 + literal).or_never("an escaped character"),
            );
            *at = place + 1 + literal;
        }
    }

    /// Appends the quoted text that begins at `at` and returns the place after the closing quote.
    fn quoted_cell(&self, bytes: &[u8], mut at: usize, ended: bool, text: &mut Vec<u8>) -> Option<usize> {
        let quote = self.quote?;
        loop {
            let rest = bytes.get(at..)?;
            let found = at + memchr2(quote, self.escape.unwrap_or(quote), rest)?;
            text.extend_from_slice(bytes.get(at..found)?);
            let next = bytes.get(found + 1).copied();
            if next.is_none() && !ended {
                return None;
            }
            let special = bytes.get(found).copied();
            if special == self.escape && special != Some(quote) {
                text.push(next?);
                at = found + 2;
            } else if next == Some(quote) {
                text.push(quote);
                at = found + 2;
            } else {
                return Some(found + 1);
            }
        }
    }
}

/// Finds delimiters and line ends, a block of bytes at a time, because cells are short.
struct Separators<'b> {
    bytes: &'b [u8],
    delimiter: u8,
    /// Where the current block begins.
    block: usize,
    /// A bit for each byte of the block: whether it is a separator.
    found: u64,
}

/// The bytes of a block, one for each bit of `found`.
const BLOCK: usize = 64;

impl<'b> Separators<'b> {
    fn new(bytes: &'b [u8], delimiter: u8) -> Self {
        let mut separators = Self { bytes, delimiter, block: 0, found: 0 };
        separators.load(0);
        separators
    }

    /// The first separator at `from` or after it. `from` never decreases.
    #[inline]
    fn first_from(&mut self, from: usize) -> Option<usize> {
        match from.saturating_sub(self.block) {
            passed @ ..BLOCK => self.found &= u64::MAX << passed,
            _ => self.load(from),
        }
        if self.found == 0 {
            self.load(self.block + BLOCK);
        }
        if self.found == 0 {
            // An unusually long cell.
            let from = self.block + BLOCK;
            let rest = self.bytes.get(from..)?;
            self.load(from + memchr3(self.delimiter, b'\n', b'\r', rest)?);
        }
        Some(self.block + self.found.trailing_zeros() as usize)
    }

    /// Finds the separators of the block that begins at `block`.
    #[inline]
    fn load(&mut self, block: usize) {
        self.block = block;
        let bytes = self.bytes.get(block..).unwrap_or_default();
        let targets = [self.delimiter, b'\n', b'\r'];
        self.found = match bytes.first_chunk::<BLOCK>() {
            Some(bytes) => {
                let targets = targets.map(u8x16::splat);
                let (pieces, _) = bytes.as_chunks();
                (0..).zip(pieces).fold(0, |separators, (place, piece)| {
                    let piece = u8x16::new(*piece);
                    let [delimiters, feeds, returns] = targets.map(|byte| piece.simd_eq(byte));
                    let found = (delimiters | feeds | returns).to_bitmask();
                    separators | u64::from(found) << (place * 16)
                })
            }
            // The last bytes of the buffer.
            None => (0..)
                .zip(bytes)
                .fold(0, |separators, (place, byte)| separators | u64::from(targets.contains(byte)) << place),
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8], options: &CsvOptions, batch_rows: usize) -> Result<String, String> {
        let input = Box::new(io::Cursor::new(text.to_vec()));
        let reader = Reader::open(input, Arc::default(), options.clone(), batch_rows);
        let Some(mut reader) = reader.map_err(|error| error.to_string())? else {
            return Ok("nothing".into());
        };
        let mut shown = vec![reader.header().columns.join("|")];
        while let Some(batch) = reader.next_batch().map_err(|error| error.to_string())? {
            let mut rows = Vec::new();
            for row in 0..batch.rows() {
                let cells: Vec<&str> =
                    (0..batch.header().columns.len()).map(|column| batch.cell(row, column)).collect();
                rows.push((batch.place(row).0, format!("{}: {}", batch.place(row).1, cells.join("|"))));
            }
            for row in &batch.rejected {
                let cells: Vec<&str> = (0..row.cells.rows()).map(|place| row.cells.cell(place)).collect();
                rows.push((row.number, format!("{}! {} {}", row.line, row.code.as_str(), cells.join("|"))));
            }
            rows.sort();
            shown.extend(rows.into_iter().map(|(_, row)| row));
        }
        Ok(shown.join("\n").replace('\0', "NUL"))
    }

    #[track_caller]
    fn check(change: impl Fn(&mut CsvOptions), text: &[u8], expected: &str) {
        let mut options = CsvOptions::default();
        change(&mut options);
        for batch_rows in [1, 2, 1024] {
            let found = read(text, &options, batch_rows).unwrap_or_else(|error| error);
            assert_eq!(found, expected, "batches of {batch_rows}");
        }
    }

    proptest! {
        #[test]
        fn separators_are_found_one_after_the_other(
            bytes in prop::collection::vec(prop_oneof![1 => Just(b','), 1 => Just(b'\n'), 9 => any::<u8>(), 9 => Just(b'a')], 0..400),
            delimiter: u8,
            steps in prop::collection::vec(prop_oneof![9 => 0_usize..3, 1 => 0_usize..200], 0..60),
        ) {
            let mut separators = Separators::new(&bytes, delimiter);
            let mut from = 0;
            for step in steps {
                from += step;
                let rest = bytes.get(from..).unwrap_or_default();
                let first = memchr3(delimiter, b'\n', b'\r', rest).map(|place| from + place);
                prop_assert_eq!(separators.first_from(from), first);
                from = first.unwrap_or(from);
            }
        }
    }

    #[test]
    fn rows_and_lines() {
        check(|_| (), b"a,b\n1,2\r\n3,4\r5,6", "a|b\n2: 1|2\n3: 3|4\n4: 5|6");
        check(|_| (), b"\n\r\na,b\n\n1,2\n\n", "a|b\n5: 1|2");
        check(|_| (), b"a\n \n1\n", "a\n3: 1");
        check(|_| (), b"a\n\"\"\n", "a\n2: ");
        check(|_| (), b"", "nothing");
        check(|_| (), b"\n\n", "nothing");
        check(|_| (), b"a,b", "a|b");
    }

    #[test]
    fn quotes() {
        check(|_| (), b"a,b\n\"1,\"\"x\"\"\n2\",3\n4,5\n", "a|b\n2: 1,\"x\"\n2|3\n4: 4|5");
        check(|_| (), b"a,b\n1\"2,x\"y\"\n", "a|b\n2: 1\"2|x\"y\"");
        check(|_| (), b"a,b\n \"1\" , \"2\"\t\n", "a|b\n2: 1|2");
        check(|_| (), b"a,b\n\"1\"x,2\n3,4\n", "a|b\n2! quote 1x|2\n3: 3|4");
        check(|o| o.trim = false, b"a,b\n \"1\",\" 2 \"\n", "a|b\n2:  \"1\"| 2 ");
        check(|o| o.quote = None, b"a,b\n\"1,2\"\n", "a|b\n2: \"1|2\"");
        check(|o| o.escape = Some(b'\\'), b"a,b\n\"1\\\"x\\\\\",2\\\n", "a|b\n2: 1\"x\\|2");
        check(
            |_| (),
            b"a\n\"1\n2\n",
            "line 2: the quoted cell that begins in this row is not closed before the file ends",
        );
    }

    #[test]
    fn a_title_before_the_header_is_found() {
        let check = |text: &str, expected: Option<u64>| {
            let input = Box::new(io::Cursor::new(text.as_bytes().to_vec()));
            let reader = Reader::open(input, Arc::default(), CsvOptions::default(), 9).unwrap().unwrap();
            assert_eq!(reader.lines_before_header("email"), expected);
        };
        check("Customers of today\n\nid,email\n1,a@x\n", Some(2));
        check("\"Customers\nof today\",,\nid,email\n", Some(2));
        check("Customers\nid,name\n", None);
        check("id,name\n1,email\n", None);
        check("Customers\n", None);
    }

    #[test]
    fn escapes_outside_quotes() {
        let escaped = |o: &mut CsvOptions| o.escape = Some(b'\\');
        check(escaped, b"a,b\n1,x\\,y\n2,5\\\" pipe\n", "a|b\n2: 1|x,y\n3: 2|5\" pipe");
        check(escaped, b"a,b\n\\\\,\\a\n", "a|b\n2: \\|a");
        check(escaped, b"a,b\n1,x\\\ny\n2,x\\\r\ny\n3,4\n", "a|b\n2: 1|x\ny\n4: 2|x\r\ny\n6: 3|4");
        check(escaped, b"a,b\n\\N,\\Nx\n", "a|b\n2: \\N|Nx");
        check(escaped, b"a,b\n1,2\\", "a|b\n2: 1|2\\");
        check(escaped, "a,b\n1,\\é\n".as_bytes(), "a|b\n2: 1|é");
        let wide = |o: &mut CsvOptions| (o.delimiter, o.escape) = ('¦', Some(b'\\'));
        check(wide, "a¦b\n1¦x\\¦y\n".as_bytes(), "a|b\n2: 1|x¦y");
    }

    #[test]
    fn a_repeated_header_is_rejected() {
        check(|_| (), b"a,b\n1,2\na,b\n3,4\n", "a|b\n2: 1|2\n3! header-again a|b\n4: 3|4");
        check(|_| (), b"a,b\n a ,\"b\"\na,B\n", "a|b\n2! header-again  a |b\n3: a|B");
        check(|o| o.trim = false, b"a,b\n a,b\n", "a|b\n2:  a|b");
        check(|o| o.header = false, b"a,b\na,b\n", "1|2\n1: a|b\n2: a|b");
        check(|_| (), b"\"a\",b\n\xef\xbb\xbf\"a\",b\n", "a|b\n2! header-again \u{feff}\"a\"|b");
        check(|_| (), b"a,b,a\na,b\n", "a|b|a\n2! ragged a|b");
    }

    #[test]
    fn rows_that_cannot_be_split_or_decoded_keep_their_bytes() {
        let check = |row: &[u8], expected: Option<&[u8]>| {
            let text = [b"a,b\n", row, b"\r\n1,2\n"].concat();
            let options = CsvOptions { max_cell: 9, ..CsvOptions::default() };
            let mut reader =
                Reader::open(Box::new(io::Cursor::new(text)), Arc::default(), options, 9).unwrap().unwrap();
            let batch = reader.next_batch().unwrap().unwrap();
            assert_eq!(batch.rejected[0].raw.as_deref(), expected);
        };
        check(b"1,\"5\" screen", Some(b"1,\"5\" screen"));
        check(b"\xff,2", Some(b"\xff,2"));
        check(b"\0,2", Some(b"\0,2"));
        check(b"1,0123456789", Some(b"1,0123456789"));
        check(b"1,2,3", Some(b"1,2,3"));
        check(b"a,b", Some(b"a,b"));
    }

    #[test]
    fn ragged_rows() {
        check(|_| (), b"a,b\n1\n1,2,3,4\n5,6\n", "a|b\n2! ragged 1\n3! ragged 1|2|3,4\n4: 5|6");
        check(|o| o.ragged = Ragged::Pad, b"a,b\n1\n1,2, ,\n1,2,3\n", "a|b\n2: 1|\n3: 1|2\n4! ragged 1|2|3");
        let padded = |o: &mut CsvOptions| (o.ragged, o.null_values) = (Ragged::Pad, vec!["-".into()]);
        check(padded, b"a,b\n1,2,\"-\", - ,,\n1,2,,x\n", "a|b\n2: 1|2\n3! ragged 1|2|,x");
        check(
            |o| o.max_cell = 3,
            b"a,b\n1,2,34,56\n1,2,3,4567\n",
            "a|b\n2! ragged 1|2|34,56\n3! cell-too-long 1|2|3,4567",
        );
    }

    #[test]
    fn rows_cost_what_their_bytes_cost() {
        // Wider than the header by a million cells, and narrower by a hundred thousand.
        let wide = [b"a,b\n".to_vec(), vec![b','; 1 << 20], b"\n1,2\n".to_vec()].concat();
        let header = (0..100_000).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
        let narrow = format!("{header}\n{}", "x\n".repeat(1000));
        let check = |text: Vec<u8>, ragged, largest: usize| {
            let options = CsvOptions { ragged, ..CsvOptions::default() };
            let mut reader = Reader::open(Box::new(io::Cursor::new(text)), Arc::default(), options, 4096)
                .unwrap()
                .unwrap();
            while let Some(batch) = reader.next_batch().unwrap() {
                assert!(batch.memory() < largest, "{}", batch.memory());
            }
        };
        check(wide.clone(), Ragged::Reject, 5 << 19);
        check(wide, Ragged::Pad, 1000);
        check(narrow.clone().into_bytes(), Ragged::Reject, 300_000);
        check(narrow.into_bytes(), Ragged::Pad, 3 << 19);
    }

    #[test]
    fn options() {
        check(|o| o.header = false, b"1,2\n3,4\n", "1|2\n1: 1|2\n2: 3|4");
        check(|o| o.skip_rows = 2, b"report \"x\nof today\na\n1\n", "a\n4: 1");
        check(|o| o.skip_rows = 9, b"a\n1\n", "nothing");
        check(|o| o.delimiter = '¦', "a¦b\n1¦é\n".as_bytes(), "a|b\n2: 1|é");
        check(|o| o.delimiter = '\t', b"a\tb\n\t2\n", "a|b\n2: |2");
        check(|o| o.null_values.push("NULL".into()), b"a,b\n\"NULL\", NULL \n", "a|b\n2: |");
        check(|o| o.trim = false, b" a ,b\n 1 ,\n", " a |b\n2:  1 |");
    }

    #[test]
    fn bad_bytes_reject_the_row() {
        check(|_| (), b"a,b\n1,\xff\n2,\0\n3,4\n", "a|b\n2! encoding 1|\u{fffd}\n3! nul 2|NUL\n4: 3|4");
        check(
            |_| (),
            b"a,\xff\n",
            "line 1: the header holds bytes that are invalid in the file's encoding; a likely one is encoding = \"windows-1252\" in the goal's csv",
        );
    }

    #[test]
    fn limits() {
        let name = "x".repeat(4097);
        check(
            |_| (),
            format!("a,{name}\n1,2\n").as_bytes(),
            "line 1: the header has a name of more than 4096 bytes",
        );
        check(|o| o.header = false, format!("{name}\n").as_bytes(), &format!("1\n1: {name}"));
        check(|o| o.max_cell = 3, b"a,b\n1234,x\n123,y\n", "a|b\n2! cell-too-long 1234|x\n3: 123|y");
        let small = |o: &mut CsvOptions| o.max_row = 1 << 20;
        let long = |start: &str| [start.as_bytes(), &vec![b'x'; 3 << 20], b"\n"].concat();
        check(
            small,
            &long("a\n"),
            "line 2: the row that begins here does not end within 1048576 bytes (max_row)",
        );
        check(
            small,
            &long("a\n\""),
            "line 2: the quoted cell that begins in this row is not closed within 1048576 bytes (max_row)",
        );
    }

    proptest! {
        /// Well-formed files read as the `csv` crate reads them.
        #[test]
        fn reads_like_the_csv_crate(rows in prop::collection::vec(prop::collection::vec("[a-c\",\n\ré ]{0,6}", 3), 0..40)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(["x", "y", "z"]).unwrap();
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let text = writer.into_inner().unwrap();
            let options = CsvOptions { trim: false, ..CsvOptions::default() };
            let mut reader = Reader::open(Box::new(io::Cursor::new(text)), Arc::default(), options, 7).unwrap().unwrap();
            let mut found = Vec::new();
            while let Some(batch) = reader.next_batch().unwrap() {
                prop_assert!(batch.rejected.is_empty());
                for row in 0..batch.rows() {
                    found.push((0..3).map(|column| batch.raw(row, column).to_owned()).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(found, rows);
        }

        /// Any bytes can be read, and the size of batches does not change the rows.
        #[test]
        fn any_bytes(text in prop::collection::vec(prop::sample::select(b"ab,\"\r\n\\ \t\xc3\xa9\0".to_vec()), 0..200)) {
            let mut options = CsvOptions { escape: Some(b'\\'), ..CsvOptions::default() };
            for header in [true, false] {
                options.header = header;
                prop_assert_eq!(read(&text, &options, 1), read(&text, &options, 1000));
            }
        }
    }
}
