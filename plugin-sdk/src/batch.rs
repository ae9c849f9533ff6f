use crate::bindings::sluicebox::processor::types;
use crate::columns::ColumnId;

/// Consecutive rows of the columns that a processor reads. Reading a cell allocates nothing.
#[derive(Debug)]
pub struct Batch {
    rows: usize,
    data: String,
    offsets: Vec<u32>,
}

impl Batch {
    pub(crate) fn new(inner: types::Batch) -> Self {
        #[expect(unsafe_code, reason = "the host passes only UTF-8: wit/processor.wit")]
        // SAFETY: the bytes come from a `String`: the host's batch, or a test's cells.
        let data = unsafe { String::from_utf8_unchecked(inner.data) };
        Self { rows: inner.rows as usize, data, offsets: inner.offsets }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The cells of a column, one a row; empty = no value. A column that the processor adds has no cells here.
    pub fn column(&self, column: ColumnId) -> Column<'_> {
        let ColumnId::Wanted(place) = column else { return Column { data: "", offsets: &[] } };
        let from = place as usize * (self.rows() + 1);
        let offsets = self.offsets.get(from..=from + self.rows()).unwrap_or_default();
        Column { data: &self.data, offsets }
    }
}

/// The cells of a column, one a row.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    data: &'a str,
    offsets: &'a [u32],
}

impl<'a> Column<'a> {
    /// The cell of a row, counted from 0; empty = no value. Beyond the last row, cells are empty.
    #[inline]
    pub fn cell(&self, row: usize) -> &'a str {
        match self.offsets.get(row..) {
            Some([from, to, ..]) => text(self.data, *from, *to),
            _ => "",
        }
    }

    /// The cells in order.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a str> + use<'a> {
        let first = self.offsets.first().copied().unwrap_or_default();
        let mut rest = self.data.get(first as usize..).unwrap_or_default();
        let mut from = first;
        // Each cell begins where the one before it ends.
        self.offsets.get(1..).unwrap_or_default().iter().map(move |to| {
            let Some((cell, after)) = rest.split_at_checked(to.wrapping_sub(from) as usize) else {
                return "";
            };
            (rest, from) = (after, *to);
            cell
        })
    }
}

impl<'a> IntoIterator for Column<'a> {
    type Item = &'a str;
    type IntoIter = Box<dyn ExactSizeIterator<Item = &'a str> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

#[inline]
fn text(data: &str, from: u32, to: u32) -> &str {
    data.get(from as usize..to as usize).unwrap_or_default()
}
