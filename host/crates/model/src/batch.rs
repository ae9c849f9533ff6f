use std::sync::Arc;

use crate::{Expected, OrNever, ValueType};

/// The columns of a file and how its cells are read.
#[derive(Debug)]
pub struct Header {
    /// The names of the columns, after `trim`.
    pub columns: Vec<String>,
    /// Whether white space around a cell is removed.
    pub trim: bool,
    /// The texts, besides the empty one, that stand for no value.
    pub null_values: Vec<String>,
}

impl Header {
    /// The value of a cell; empty = no value.
    #[inline]
    fn clean<'a>(&self, cell: &'a str) -> &'a str {
        let trimmed = !self.trim || has_plain_ends(cell.as_bytes());
        let cell = if trimmed { cell } else { cell.trim() };
        if self.is_null(cell.as_bytes()) { "" } else { cell }
    }

    /// Whether the cell is its own value, as nearly all are.
    #[inline]
    fn is_clean(&self, cell: &[u8]) -> bool {
        (!self.trim || has_plain_ends(cell)) && !self.is_null(cell)
    }

    #[inline]
    fn is_null(&self, cell: &[u8]) -> bool {
        self.null_values.iter().any(|null| null.len() == cell.len() && null.as_bytes() == cell)
    }
}

/// Whether a cell starts and ends with ASCII that is not white space. `false` where that takes a closer look.
#[inline]
fn has_plain_ends(cell: &[u8]) -> bool {
    let plain = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_graphic);
    plain(cell.first()) && plain(cell.last())
}

/// Appends a cell. Cells of 4 to 32 bytes are copied as two pieces of fixed size, which may overlap: that is faster than one copy
/// of variable length.
#[inline]
pub fn append(cell: &[u8], out: &mut Vec<u8>) {
    match cell.len() {
        4..8 => in_two::<4>(cell, out),
        8..=16 => in_two::<8>(cell, out),
        17..=32 => in_two::<16>(cell, out),
        _ => out.extend_from_slice(cell),
    }
}

#[inline]
fn in_two<const PIECE: usize>(cell: &[u8], out: &mut Vec<u8>) {
    if let (Some(first), Some(last)) = (cell.first_chunk::<PIECE>(), cell.last_chunk::<PIECE>()) {
        let end = out.len() + cell.len();
        out.extend_from_slice(first);
        out.truncate(end - PIECE);
        out.extend_from_slice(last);
    }
}

/// A column that a processor changed or added: one cell a row, empty = no value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    data: String,
    ends: Vec<u32>,
}

impl Column {
    /// A column of `ends.len()` cells; cell *n* ends at byte `ends[n]` of `data`. `None` if the ends are not in order, are
    /// inside a character or do not cover `data`.
    pub fn new(data: String, ends: Vec<u32>) -> Option<Self> {
        let mut from = 0;
        for end in &ends {
            let end = *end as usize;
            if end < from || !data.is_char_boundary(end) {
                return None;
            }
            from = end;
        }
        (from == data.len()).then_some(Self { data, ends })
    }

    /// A column with room for `cells` cells of `bytes` bytes in all.
    pub fn with_capacity(bytes: usize, cells: usize) -> Self {
        Self { data: String::with_capacity(bytes), ends: Vec::with_capacity(cells) }
    }

    /// Adds a cell.
    pub fn push(&mut self, cell: &str) {
        self.data.push_str(cell);
        self.ends.push(u32::try_from(self.data.len()).or_never("the end of a cell in 32 bits"));
    }

    /// The number of cells.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// The bytes that its text and the places of its cells take.
    pub fn memory(&self) -> usize {
        self.data.len() + self.ends.len() * size_of::<u32>()
    }

    /// The text of all cells, one after the other, and where each ends.
    pub fn parts(&self) -> (&str, &[u32]) {
        (&self.data, &self.ends)
    }

    /// The cell of a row; empty after the last row.
    pub fn cell(&self, row: usize) -> &str {
        let from = match row.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or_default(),
            None => 0,
        };
        let to = self.ends.get(row).copied().unwrap_or(from);
        self.data.get(from as usize..to as usize).unwrap_or_default()
    }
}

impl<'a> FromIterator<&'a str> for Column {
    fn from_iter<I: IntoIterator<Item = &'a str>>(cells: I) -> Self {
        let mut column = Self::default();
        cells.into_iter().for_each(|cell| column.push(cell));
        column
    }
}

/// Why a row was rejected: the `_code` in the file of rejected rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectionCode {
    /// The row has fewer or more cells than the header.
    Ragged,
    /// The row has bytes that are invalid in the file's encoding.
    Encoding,
    /// The row has a NUL byte.
    Nul,
    /// A cell is longer than `max_cell`.
    CellTooLong,
    /// Text follows a closing quote.
    Quote,
    /// The row repeats the header.
    HeaderAgain,
    /// The identifiers find several profiles.
    Ambiguous,
    /// No identifier of the row has a value.
    NoIdentifier,
    /// The identifiers find no profile, and the goal creates none.
    NoMatch,
    /// The person has not consented to an objective of the connection.
    NoConsent,
    /// The person was erased.
    Erased,
    /// The linking value of a linked row is empty, or in no row of its parent file.
    Orphaned,
    /// A cell does not fit the type of its property.
    Type(ValueType),
    /// A cell is no profile id.
    ProfileId,
    /// The time of an event is empty or no moment, so that there is no event.
    EventTime,
    /// Another profile holds the value of a unique property.
    Taken,
    /// The sum has more digits than a number can have.
    SumTooLong,
    /// The row would merge more profiles into one than `merge_limit` allows in a run.
    MergeLimit,
    /// A processor's own code.
    Processor(String),
}

impl RejectionCode {
    /// The text of `_code`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Ragged => "ragged",
            Self::Encoding => "encoding",
            Self::Nul => "nul",
            Self::CellTooLong => "cell-too-long",
            Self::Quote => "quote",
            Self::HeaderAgain => "header-again",
            Self::Ambiguous => "ambiguous",
            Self::NoIdentifier => "no-identifier",
            Self::NoMatch => "no-match",
            Self::NoConsent => "no-consent",
            Self::Erased => "erased",
            Self::Orphaned => "orphaned",
            Self::Type(ValueType::Text) => "not-text",
            Self::Type(ValueType::Number) => "not-a-number",
            Self::Type(ValueType::Boolean) => "not-a-boolean",
            Self::Type(ValueType::Date) => "not-a-date",
            Self::Type(ValueType::DateTime) => "not-a-datetime",
            Self::ProfileId => "not-a-profile-id",
            Self::EventTime => "no-event-time",
            Self::Taken => "taken",
            Self::SumTooLong => "sum-too-long",
            Self::MergeLimit => "merge-limit",
            Self::Processor(code) => code,
        }
    }

    /// What is wrong with a cell, after the name of its column; the code where a whole row is rejected.
    pub fn of_cell(&self) -> &str {
        match self {
            Self::Type(ValueType::Text) => "is no text",
            Self::Type(ValueType::Number) => "is not a number",
            Self::Type(ValueType::Boolean) => "is not true or false",
            Self::Type(ValueType::Date) => "is not a date",
            Self::Type(ValueType::DateTime) => "is not a date and time",
            Self::ProfileId => "is not a profile id",
            Self::EventTime => "is not a date and time, so that the row has no event",
            Self::Taken => "holds a value of another profile",
            Self::SumTooLong => "makes the sum longer than 28 digits",
            other => other.as_str(),
        }
    }
}

/// A cell that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedCell {
    /// The place of its column among those of the file and those that processors add.
    pub column: usize,
    /// Why it was not taken.
    pub code: RejectionCode,
}

/// How much of a row was not taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RejectedScope {
    /// All of it: the row is rejected.
    #[default]
    Row,
    /// These cells; the others were merged.
    Cells(Vec<RejectedCell>),
    /// All of it: the row is excluded.
    Excluded,
}

/// A row that was not taken, or not wholly, as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// The row's number in the file, from 0, counting rejected rows.
    pub number: u64,
    /// The physical line where the row begins, from 1.
    pub line: u64,
    /// The reason, for programs.
    pub code: RejectionCode,
    /// The reason, for people. It never quotes a cell. Empty where cells were rejected: their codes say it.
    pub reason: String,
    /// What of the row was not taken.
    pub scope: RejectedScope,
    /// The cells as the file has them. Columns after the last cell are empty; one cell more than there are columns holds the
    /// surplus cells, joined by the delimiter. No cells where they must not be recorded. Clones share them, because a partner
    /// decides how long they are.
    pub cells: Arc<Column>,
    /// The bytes of a row that could not be split into cells or decoded, without its line end: of the file, or, where it is
    /// not UTF-8, of its text in UTF-8.
    pub raw: Option<Arc<[u8]>>,
}

impl RejectedRow {
    /// About how many bytes of memory it takes.
    pub fn memory(&self) -> usize {
        let raw = self.raw.as_ref().map_or(0, |raw| raw.len());
        let cells = match &self.scope {
            RejectedScope::Cells(cells) => cells.len() * size_of::<RejectedCell>(),
            RejectedScope::Row | RejectedScope::Excluded => 0,
        };
        self.cells.memory() + self.reason.len() + raw + cells + 256
    }
}

/// A processor's verdict on a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// The row goes on.
    #[default]
    Keep,
    /// The row is left out on purpose.
    Drop,
    /// The row is wrong.
    Reject {
        /// The processor's code.
        code: String,
        /// The processor's reason.
        reason: String,
    },
}

/// Consecutive rows of a file: about 1,000, so that a batch stays in the CPU's cache on its way into and out of the
/// sandbox.
#[derive(Debug)]
pub struct RecordBatch {
    header: Arc<Header>,
    /// The cells as the file has them, row after row.
    text: String,
    /// The end of each cell in `text`, `columns × rows` of them.
    ends: Vec<u32>,
    /// Each row's number in the file and its first line.
    places: Vec<(u64, u64)>,
    /// The rows of this part of the file that were rejected while reading.
    pub rejected: Vec<RejectedRow>,
    /// The columns that processors changed, as far as the last of those; columns that they added follow those of the header.
    overlays: Vec<Option<Box<Column>>>,
    /// The processors' verdicts; empty = keep all.
    verdicts: Vec<Verdict>,
    /// The number of rows of the file up to the end of this batch.
    pub end: u64,
    /// How many bytes of the file had been read when the batch was complete.
    pub bytes_read: u64,
}

impl RecordBatch {
    /// A batch of `places.len()` rows; cell *n* in row-major order ends at byte `ends[n]` of `text`. `None` if the counts
    /// disagree or the ends are not in order.
    pub fn new(
        header: Arc<Header>,
        text: String,
        ends: Vec<u32>,
        places: Vec<(u64, u64)>,
        rejected: Vec<RejectedRow>,
        end: u64,
    ) -> Option<Self> {
        let whole = ends.len() == header.columns.len() * places.len();
        let ordered = ends.is_sorted() && ends.last().is_none_or(|end| *end as usize == text.len());
        (whole && ordered).then(|| Self {
            overlays: Vec::new(),
            verdicts: Vec::new(),
            bytes_read: 0,
            header,
            text,
            ends,
            places,
            rejected,
            end,
        })
    }

    /// The columns of the file.
    pub fn header(&self) -> &Arc<Header> {
        &self.header
    }

    /// The number of rows, including those that processors dropped or rejected.
    pub fn rows(&self) -> usize {
        self.places.len()
    }

    /// About how many bytes of memory it takes.
    pub fn memory(&self) -> usize {
        let overlays: usize = self.overlays.iter().flatten().map(|column| column.memory()).sum();
        let overlays = overlays + self.overlays.len() * size_of::<Option<Box<Column>>>();
        let rejected: usize = self.rejected.iter().map(RejectedRow::memory).sum();
        self.text.len() + self.ends.len() * 4 + self.places.len() * 16 + overlays + rejected
    }

    /// A row's number in the file, from 0, and the line where it begins, from 1.
    pub fn place(&self, row: usize) -> (u64, u64) {
        self.places.get(row).copied().or_never("the place of a row")
    }

    /// Gives rows the lines of another file, by their numbers in this one.
    pub fn set_lines(&mut self, line_of: impl Fn(u64) -> Option<u64>) {
        let places = self.places.iter_mut().map(|(number, line)| (*number, line));
        let rejected = self.rejected.iter_mut().map(|row| (row.number, &mut row.line));
        for (number, line) in places.chain(rejected) {
            *line = line_of(number).unwrap_or(*line);
        }
    }

    /// The row with a number in the file, if the batch has it.
    pub fn row_of(&self, number: u64) -> Option<usize> {
        self.places.binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    /// The cell as the file has it.
    #[inline]
    pub fn raw(&self, row: usize, column: usize) -> &str {
        let cell = row * self.header.columns.len() + column;
        let from = match cell.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or_default(),
            None => 0,
        };
        let to = self.ends.get(cell).copied().expected("the end of a cell").unwrap_or(from);
        self.text.get(from as usize..to as usize).or_never("the text of a cell")
    }

    /// The value of a cell after the processors so far; empty = no value.
    #[inline]
    pub fn cell(&self, row: usize, column: usize) -> &str {
        match self.overlays.get(column) {
            Some(Some(changed)) => changed.cell(row),
            _ if column < self.header.columns.len() => self.header.clean(self.raw(row, column)),
            _ => "",
        }
    }

    /// The cells of a column that a processor changed or added: their text, and where each ends.
    pub fn changed(&self, column: usize) -> Option<(&str, &[u32])> {
        self.overlays.get(column)?.as_ref().map(|column| column.parts())
    }

    /// Appends the values of a column that no processor changed, and where each ends in `data`.
    pub fn copy_unchanged(&self, column: usize, data: &mut Vec<u8>, ends: &mut Vec<u32>) {
        let columns = self.header.columns.len();
        let (text, mut row_from) = (self.text.as_bytes(), 0);
        for row in self.ends.chunks_exact(columns.max(1)) {
            let before = column.checked_sub(1).and_then(|before| row.get(before).copied());
            let from = before.unwrap_or(row_from);
            // The cells of a column that the batch lacks are empty.
            let to = row.get(column).copied().unwrap_or(from);
            row_from = row.last().copied().unwrap_or_default();
            let cell = text.get(from as usize..to as usize).or_never("the text of a cell");
            match self.header.is_clean(cell) {
                true => append(cell, data),
                false => {
                    let cell = self.text.get(from as usize..to as usize).or_never("the text of a cell");
                    data.extend_from_slice(self.header.clean(cell).as_bytes());
                }
            }
            ends.push(u32::try_from(data.len()).or_never("the end of a cell in 32 bits"));
        }
    }

    /// Replaces a column, or adds one after the last.
    pub fn put_column(&mut self, place: usize, column: Column) {
        if self.overlays.len() <= place {
            self.overlays.resize(place + 1, None);
        }
        if let Some(overlay) = self.overlays.get_mut(place) {
            *overlay = Some(Box::new(column));
        }
    }

    /// The verdict of the processors so far.
    pub fn verdict(&self, row: usize) -> &Verdict {
        self.verdicts.get(row).unwrap_or(&Verdict::Keep)
    }

    /// Sets the verdict on a row. The first verdict that is not `Keep` stands.
    pub fn judge(&mut self, row: usize, verdict: Verdict) {
        if self.verdicts.len() < self.rows() {
            self.verdicts.resize(self.rows(), Verdict::Keep);
        }
        if let Some(held @ Verdict::Keep) = self.verdicts.get_mut(row) {
            *held = verdict;
        }
    }

    /// The rows that every processor kept.
    pub fn kept(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows()).filter(|row| matches!(self.verdict(*row), Verdict::Keep))
    }

    /// The row as the file has it, rejected.
    pub fn reject(&self, row: usize, code: RejectionCode, reason: String) -> RejectedRow {
        let (number, line) = self.place(row);
        let (cells, scope) = (Arc::new(self.cells(row)), RejectedScope::Row);
        RejectedRow { number, line, code, reason, scope, cells, raw: None }
    }

    /// The cells of a row as the file has them, up to the last that is not empty.
    fn cells(&self, row: usize) -> Column {
        let columns = self.header.columns.len();
        let first = row * columns;
        let ends = self.ends.get(first..first + columns).or_never("the cells of a row");
        let from = first.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or_default();
        let to = ends.last().copied().unwrap_or(from);
        let filled = ends.partition_point(|end| *end < to) + 1;
        let data = self.text.get(from as usize..to as usize).or_never("the text of a row").to_owned();
        Column { data, ends: ends.iter().take(filled).map(|end| end - from).collect() }
    }

    /// The row as the file has it, without some cells that were not taken. `None` without such cells.
    pub fn reject_cells(&self, row: usize, cells: Vec<RejectedCell>) -> Option<RejectedRow> {
        let code = cells.first()?.code.clone();
        Some(RejectedRow { scope: RejectedScope::Cells(cells), ..self.reject(row, code, String::new()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> RecordBatch {
        let header =
            Header { columns: vec!["a".into(), "b".into()], trim: true, null_values: vec!["NULL".into()] };
        let cells = [" x ", "NULL", "é", ""];
        let mut text = String::new();
        let ends = cells.iter().map(|cell| {
            text.push_str(cell);
            text.len() as u32
        });
        let ends = ends.collect();
        RecordBatch::new(Arc::new(header), text, ends, vec![(0, 2), (1, 3)], vec![], 2).unwrap()
    }

    #[test]
    fn cells_of_any_length_are_appended() {
        let text: Vec<u8> = (b'!'..b'~').collect();
        for length in 0..text.len() {
            let mut out = b"before".to_vec();
            append(&text[..length], &mut out);
            assert_eq!(out, [b"before", &text[..length]].concat());
        }
    }

    #[test]
    fn cells_are_cleaned_and_stay_available_raw() {
        let batch = batch();
        assert_eq!(
            [batch.cell(0, 0), batch.cell(0, 1), batch.cell(1, 0), batch.cell(1, 1)],
            ["x", "", "é", ""]
        );
        assert_eq!([batch.raw(0, 0), batch.raw(0, 1)], [" x ", "NULL"]);
        assert_eq!(batch.cell(7, 7), "");
    }

    #[test]
    fn columns_are_changed_and_added() {
        let mut batch = batch();
        batch.put_column(1, ["p", " q"].into_iter().collect());
        batch.put_column(2, ["", "new"].into_iter().collect());
        assert_eq!([batch.cell(0, 1), batch.cell(1, 1), batch.cell(1, 2)], ["p", " q", "new"]);
        assert_eq!(batch.raw(0, 1), "NULL");
    }

    #[test]
    fn the_first_verdict_against_a_row_stands() {
        let mut batch = batch();
        batch.judge(1, Verdict::Drop);
        batch.judge(1, Verdict::Reject { code: "late".into(), reason: String::new() });
        assert_eq!(batch.verdict(1), &Verdict::Drop);
        assert_eq!(batch.kept().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn columns_with_wrong_ends_are_rejected() {
        assert!(Column::new("aé".into(), vec![1, 3]).is_some());
        for ends in [vec![2, 3], vec![3, 1], vec![1, 4], vec![1, 2], vec![]] {
            assert_eq!(Column::new("aé".into(), ends), None);
        }
    }
}
