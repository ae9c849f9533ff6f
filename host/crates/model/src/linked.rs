use crate::Column;

/// A linked row: a row of a linked file that belongs to a row of the parent file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkedRow {
    /// The cells that the goal uses, in the order of its columns.
    pub cells: Column,
    /// The rows of further linked files that belong to this row.
    pub below: Vec<LinkedRows>,
}

/// The rows of one linked file that belong to one row of its parent file, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedRows {
    /// The place of the file among the goal's linked files.
    pub file: usize,
    /// The rows.
    pub rows: Vec<LinkedRow>,
}

/// The rows at the end of a path of linked files, each file linked to the one before.
pub fn at_path<'r>(linked: &'r [LinkedRows], path: &[usize]) -> Vec<&'r LinkedRow> {
    let Some((file, rest)) = path.split_first() else { return Vec::new() };
    let rows = linked.iter().filter(|rows| rows.file == *file).flat_map(|rows| &rows.rows);
    match rest {
        [] => rows.collect(),
        rest => rows.flat_map(|row| at_path(&row.below, rest)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_rows_in_order() {
        let row = |cell: &str, below| LinkedRow { cells: [cell].into_iter().collect(), below };
        let lines = |cells: &[&str]| {
            vec![LinkedRows { file: 1, rows: cells.iter().map(|cell| row(cell, vec![])).collect() }]
        };
        let orders = vec![LinkedRows {
            file: 0,
            rows: vec![row("a", lines(&["a1", "a2"])), row("b", lines(&["b1"]))],
        }];
        let cells = |path: &[usize]| -> Vec<&str> {
            at_path(&orders, path).into_iter().map(|row| row.cells.cell(0)).collect()
        };
        assert_eq!(cells(&[0]), ["a", "b"]);
        assert_eq!(cells(&[0, 1]), ["a1", "a2", "b1"]);
        assert_eq!(cells(&[1]), [""; 0]);
        assert_eq!(cells(&[]), [""; 0]);
    }
}
