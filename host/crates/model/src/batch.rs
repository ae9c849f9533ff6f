use std::sync::Arc;

/// The columns of a file and how its cells are read.
#[derive(Debug)]
pub struct Header {
    /// The names of the columns, after `trim`.
    pub columns: Vec<String>,
    /// Whether white space around a cell is no part of it.
    pub trim: bool,
    /// The texts, besides the empty one, that mean "no value".
    pub null_values: Vec<String>,
}

impl Header {
    /// What a cell holds as a value; empty = no value.
    #[inline]
    fn clean<'a>(&self, cell: &'a str) -> &'a str {
        let trimmed = !self.trim || has_plain_ends(cell.as_bytes());
        let cell = if trimmed { cell } else { cell.trim() };
        if self.is_null(cell.as_bytes()) { "" } else { cell }
    }

    /// Whether the cell is the value, as nearly all are.
    #[inline]
    fn is_clean(&self, cell: &[u8]) -> bool {
        (!self.trim || has_plain_ends(cell)) && !self.is_null(cell)
    }

    #[inline]
    fn is_null(&self, cell: &[u8]) -> bool {
        self.null_values.iter().any(|null| null.len() == cell.len() && null.as_bytes() == cell)
    }
}

/// Whether there is no white space around a cell, as one look at its ends tells; `false` if they are beyond ASCII, too.
#[inline]
fn has_plain_ends(cell: &[u8]) -> bool {
    let plain = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_graphic);
    plain(cell.first()) && plain(cell.last())
}

/// Appends a cell; one of usual length in two pieces that may overlap, which is faster than a copy of any length.
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
    /// A column of `ends.len()` cells; cell *n* ends at byte `ends[n]` of `data`. `None` if the ends fall,
    /// lie inside a character or do not cover `data`.
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

    /// The number of cells.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// The cells' text, one after the other, and where each ends.
    pub fn parts(&self) -> (&str, &[u32]) {
        (&self.data, &self.ends)
    }

    /// The cell of a row; empty beyond the last.
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
        for cell in cells {
            column.data.push_str(cell);
            column.ends.push(u32::try_from(column.data.len()).unwrap_or(u32::MAX));
        }
        column
    }
}

/// Why a row was rejected; the text is what `_code` of the rejected-rows file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectionCode {
    /// Fewer or more cells than the header.
    Ragged,
    /// Bytes that are invalid in the file's encoding.
    Encoding,
    /// A NUL byte.
    Nul,
    /// A cell longer than `max_cell`.
    CellTooLong,
    /// Text after a closing quote.
    Quote,
    /// The identifiers find several profiles.
    Ambiguous,
    /// A processor's own code.
    Processor(String),
}

impl RejectionCode {
    /// What `_code` says.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Ragged => "ragged",
            Self::Encoding => "encoding",
            Self::Nul => "nul",
            Self::CellTooLong => "cell-too-long",
            Self::Quote => "quote",
            Self::Ambiguous => "ambiguous",
            Self::Processor(code) => code,
        }
    }
}

/// A row that is not merged, as it stood in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedRow {
    /// The record's place in the file, from 0, rejected ones counted.
    pub number: u64,
    /// The physical line where it begins, from 1.
    pub line: u64,
    /// Why, for programs.
    pub code: RejectionCode,
    /// Why, for people. It never quotes a cell.
    pub reason: String,
    /// The cells as the file has them; surplus cells are joined in the last one.
    pub cells: Vec<String>,
}

impl RejectedRow {
    /// About how many bytes of memory it takes.
    pub fn memory(&self) -> usize {
        self.cells.iter().map(|cell| cell.len() + 24).sum::<usize>() + 96
    }
}

/// What a processor says of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    #[default]
    Keep,
    /// It goes no further, by intention.
    Drop,
    /// It is wrong.
    Reject {
        /// The processor's code.
        code: String,
        /// The processor's reason.
        reason: String,
    },
}

/// Some consecutive rows of a file: about a thousand, so that a batch stays in the processor's cache on its
/// way into and out of the sandbox.
#[derive(Debug)]
pub struct RecordBatch {
    header: Arc<Header>,
    /// The cells as the file has them, row after row.
    text: String,
    /// The end of each cell in `text`, `columns × rows` of them.
    ends: Vec<u32>,
    /// Each row's place in the file and its first line.
    places: Vec<(u64, u64)>,
    /// The rows of this stretch of the file that were rejected while reading.
    pub rejected: Vec<RejectedRow>,
    /// Cells that a processor changed, by column; those it added follow the header's.
    overlays: Vec<Option<Column>>,
    /// A processor's verdicts; empty = keep all.
    verdicts: Vec<Verdict>,
    /// How many records of the file precede the one after this batch.
    pub end: u64,
    /// How many bytes of the file had been read when the batch was complete.
    pub bytes_read: u64,
}

impl RecordBatch {
    /// A batch of `places.len()` rows; cell *n* in row-major order ends at byte `ends[n]` of `text`. `None` if
    /// the counts disagree or an end falls or lies inside a character.
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
            overlays: vec![None; header.columns.len()],
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

    /// The number of rows, dropped and rejected ones of the processors included.
    pub fn rows(&self) -> usize {
        self.places.len()
    }

    /// About how many bytes of memory it takes.
    pub fn memory(&self) -> usize {
        let overlays: usize =
            self.overlays.iter().flatten().map(|column| column.data.len() + column.ends.len() * 4).sum();
        let rejected: usize = self.rejected.iter().map(RejectedRow::memory).sum();
        self.text.len() + self.ends.len() * 4 + self.places.len() * 16 + overlays + rejected
    }

    /// A row's place in the file, from 0, and the line where it begins, from 1.
    pub fn place(&self, row: usize) -> (u64, u64) {
        self.places.get(row).copied().unwrap_or_default()
    }

    /// The row of that place in the file, if it is in the batch.
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
        let to = self.ends.get(cell).copied().unwrap_or(from);
        self.text.get(from as usize..to as usize).unwrap_or_default()
    }

    /// The value of a cell after the processors so far; empty = no value.
    #[inline]
    pub fn cell(&self, row: usize, column: usize) -> &str {
        match self.overlays.get(column) {
            Some(Some(changed)) => changed.cell(row),
            Some(None) => self.header.clean(self.raw(row, column)),
            None => "",
        }
    }

    /// The cells of a column that a processor changed or added: their text, and where each ends.
    pub fn changed(&self, column: usize) -> Option<(&str, &[u32])> {
        self.overlays.get(column)?.as_ref().map(Column::parts)
    }

    /// Appends the values of a column that no processor changed, and where each ends in `data`.
    pub fn copy_unchanged(&self, column: usize, data: &mut Vec<u8>, ends: &mut Vec<u32>) {
        let columns = self.header.columns.len();
        let (text, mut row_from) = (self.text.as_bytes(), 0);
        for row in self.ends.chunks_exact(columns.max(1)) {
            let before = column.checked_sub(1).and_then(|before| row.get(before).copied());
            let (from, to) = (before.unwrap_or(row_from), row.get(column).copied().unwrap_or_default());
            row_from = row.last().copied().unwrap_or_default();
            let cell = text.get(from as usize..to as usize).unwrap_or_default();
            match self.header.is_clean(cell) {
                true => append(cell, data),
                false => {
                    let cell = self.text.get(from as usize..to as usize).unwrap_or_default();
                    data.extend_from_slice(self.header.clean(cell).as_bytes());
                }
            }
            ends.push(u32::try_from(data.len()).unwrap_or(u32::MAX));
        }
    }

    /// Puts a changed column in place, or adds one after the last.
    pub fn put_column(&mut self, place: usize, column: Column) {
        if self.overlays.len() <= place {
            self.overlays.resize(place + 1, None);
        }
        if let Some(overlay) = self.overlays.get_mut(place) {
            *overlay = Some(column);
        }
    }

    /// What the processors so far say of a row.
    pub fn verdict(&self, row: usize) -> &Verdict {
        self.verdicts.get(row).unwrap_or(&Verdict::Keep)
    }

    /// Records what a processor says of a row. The first word against a row stands.
    pub fn judge(&mut self, row: usize, verdict: Verdict) {
        if self.verdicts.len() < self.rows() {
            self.verdicts.resize(self.rows(), Verdict::Keep);
        }
        if let Some(held @ Verdict::Keep) = self.verdicts.get_mut(row) {
            *held = verdict;
        }
    }

    /// The rows that no processor took out.
    pub fn kept(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows()).filter(|row| matches!(self.verdict(*row), Verdict::Keep))
    }

    /// The row as it stood in the file, rejected.
    pub fn reject(&self, row: usize, code: RejectionCode, reason: String) -> RejectedRow {
        let (number, line) = self.place(row);
        let cells = (0..self.header.columns.len()).map(|column| self.raw(row, column).to_owned());
        RejectedRow { number, line, code, reason, cells: cells.collect() }
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
    fn cells_are_cleaned_and_kept_raw() {
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
    fn the_first_word_against_a_row_stands() {
        let mut batch = batch();
        batch.judge(1, Verdict::Drop);
        batch.judge(1, Verdict::Reject { code: "late".into(), reason: String::new() });
        assert_eq!(batch.verdict(1), &Verdict::Drop);
        assert_eq!(batch.kept().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn columns_refuse_wrong_offsets() {
        assert!(Column::new("aé".into(), vec![1, 3]).is_some());
        for ends in [vec![2, 3], vec![3, 1], vec![1, 4], vec![1, 2], vec![]] {
            assert_eq!(Column::new("aé".into(), ends), None);
        }
    }
}
