use std::collections::BTreeMap;

use crate::bindings::sluicebox::processor::types;
use crate::columns::ColumnId;

/// The cells of a changed or added column, one a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cells {
    data: String,
    /// 0, then the end of each cell.
    offsets: Vec<u32>,
}

impl Default for Cells {
    fn default() -> Self {
        Self::for_rows(0)
    }
}

impl Cells {
    /// No cells yet, with room for `rows`.
    pub fn for_rows(rows: usize) -> Self {
        let mut offsets = Vec::with_capacity(rows + 1);
        offsets.push(0);
        Self { data: String::with_capacity(rows * 32), offsets }
    }

    /// Appends a cell; empty = no value.
    #[inline]
    pub fn push(&mut self, cell: &str) {
        self.data.push_str(cell);
        self.end();
    }

    /// Appends a cell that `write` appends to the text, without a string of its own.
    #[inline]
    pub fn push_with(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.data);
        self.end();
    }

    #[inline]
    fn end(&mut self) {
        self.offsets.push(u32::try_from(self.data.len()).unwrap_or(u32::MAX));
    }

    /// The number of cells so far.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no cell yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> FromIterator<&'a str> for Cells {
    fn from_iter<I: IntoIterator<Item = &'a str>>(cells: I) -> Self {
        let mut all = Self::default();
        cells.into_iter().for_each(|cell| all.push(cell));
        all
    }
}

/// The result of a batch. By default, every row is kept unchanged.
#[derive(Debug)]
pub struct Output {
    rows: usize,
    verdicts: Vec<u8>,
    rejections: Vec<(usize, Option<ColumnId>, String, String)>,
    columns: BTreeMap<ColumnId, Cells>,
}

const DROP: u8 = 1;
const REJECT: u8 = 2;

impl Output {
    pub(crate) fn new(rows: usize) -> Self {
        Self { rows, verdicts: Vec::new(), rejections: Vec::new(), columns: BTreeMap::new() }
    }

    fn judge(&mut self, row: usize, verdict: u8) -> bool {
        self.verdicts.resize(self.rows, 0);
        match self.verdicts.get_mut(row) {
            Some(current) if *current == 0 => {
                *current = verdict;
                true
            }
            _ => false,
        }
    }

    /// Drops a row on purpose: nothing after this processor sees it. The first verdict on a row counts.
    pub fn drop(&mut self, row: usize) {
        self.judge(row, DROP);
    }

    /// Rejects a row that is wrong: it goes to the rejected rows. `code` is for programs (`[a-z0-9-]`, at most
    /// 64 bytes), `reason` for people; it must not quote the cell. The first verdict on a row counts.
    pub fn reject(&mut self, row: usize, column: Option<ColumnId>, code: &str, reason: impl Into<String>) {
        if self.judge(row, REJECT) {
            self.rejections.push((row, column, code.to_owned(), reason.into()));
        }
    }

    /// Replaces the cells of a column. There must be one for each row, also for rejected and dropped rows.
    pub fn change(&mut self, column: ColumnId, cells: Cells) {
        self.columns.insert(column, cells);
    }

    pub(crate) fn into_outcome(self, wanted: u32) -> types::Outcome {
        let place = |column: ColumnId| match column {
            ColumnId::Wanted(place) => place,
            ColumnId::Added(place) => wanted + place,
        };
        let rows = u32::try_from(self.rows).unwrap_or(u32::MAX);
        let mut values = types::Batch { rows, data: Vec::new(), offsets: Vec::new(), validity: Vec::new() };
        let mut changed = Vec::with_capacity(self.columns.len());
        for (column, cells) in self.columns {
            changed.push(place(column));
            // The first column is passed on without a copy.
            if values.offsets.is_empty() {
                values.data = cells.data.into_bytes();
                values.offsets = cells.offsets;
                continue;
            }
            let base = u32::try_from(values.data.len()).unwrap_or(u32::MAX);
            values.offsets.extend(cells.offsets.iter().map(|offset| base.saturating_add(*offset)));
            values.data.extend_from_slice(cells.data.as_bytes());
        }
        let rejections = self.rejections.into_iter().map(|(row, column, code, reason)| types::Rejection {
            row: u32::try_from(row).unwrap_or(u32::MAX),
            column: column.map(place),
            code,
            reason,
        });
        types::Outcome {
            verdicts: self.verdicts,
            rejections: rejections.collect(),
            values: (!changed.is_empty()).then_some(values),
            changed,
        }
    }
}
