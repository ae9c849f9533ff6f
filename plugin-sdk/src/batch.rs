use crate::bindings::sluicebox::processor::types;
use crate::columns::ColumnId;

/// Some consecutive rows of the columns that a processor wanted. Reading a cell allocates nothing.
#[derive(Debug)]
pub struct Batch {
    rows: usize,
    data: String,
    offsets: Vec<u32>,
}

impl Batch {
    /// The host hands over nothing but UTF-8, which is checked once for all cells.
    pub(crate) fn new(inner: types::Batch) -> Self {
        let data = String::from_utf8(inner.data).unwrap_or_default();
        Self { rows: inner.rows as usize, data, offsets: inner.offsets }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The cells of a wanted column, one a row; empty = no value. A column that the processor adds has none.
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
    /// The cell of a row; empty = no value, and beyond the last row.
    pub fn cell(&self, row: usize) -> &'a str {
        match self.offsets.get(row..) {
            Some([from, to, ..]) => text(self.data, *from, *to),
            _ => "",
        }
    }

    /// The cells in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a str> + use<'a> {
        let data = self.data;
        self.offsets.windows(2).map(move |ends| match ends {
            [from, to] => text(data, *from, *to),
            _ => "",
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

fn text(data: &str, from: u32, to: u32) -> &str {
    data.get(from as usize..to as usize).unwrap_or_default()
}
