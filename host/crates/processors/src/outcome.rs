use std::collections::HashSet;

use sluicebox_model::{Column, OrNever, Verdict};

use crate::bindings::{Batch, Outcome, Rejection};
use crate::error::shown;

/// How a processor's answer breaks the contract (`wit/processor.wit`). Rows and columns are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutcomeError {
    /// Neither no verdict nor one verdict a row.
    #[error("verdicts: {found} for {rows} rows")]
    VerdictCount {
        /// The number of verdicts.
        found: usize,
        /// The number of rows.
        rows: usize,
    },
    /// A verdict that does not exist.
    #[error("verdict {verdict} of row {row}, expected 0, 1 or 2")]
    Verdict {
        /// The row.
        row: usize,
        /// The verdict.
        verdict: u8,
    },
    /// More or fewer rejections than rejected rows.
    #[error("rejections: {found} for {rejected} rows with verdict 2")]
    RejectionCount {
        /// The number of rejections.
        found: usize,
        /// The number of rows with verdict 2.
        rejected: usize,
    },
    /// A rejection of a row that is not rejected, or a second one.
    #[error("a rejection of row {0}, which does not exist, is not rejected, or is rejected twice")]
    RejectionRow(u32),
    /// A rejection for a column that is not the session's.
    #[error("a rejection of row {row} for column {column}; the columns of the session: {columns}")]
    RejectionColumn {
        /// The row.
        row: usize,
        /// The column.
        column: u32,
        /// The number of the session's columns.
        columns: usize,
    },
    /// A code that programs cannot rely on.
    #[error("the code of the rejection of row {0} is not [a-z0-9-] of 1 to 64 bytes")]
    Code(usize),
    /// A changed column that is not the session's.
    #[error("changed column {column}; the columns of the session: {columns}")]
    Changed {
        /// The column.
        column: u32,
        /// The number of the session's columns.
        columns: usize,
    },
    /// A column that is changed twice.
    #[error("column `{0}` is changed twice")]
    ChangedTwice(String),
    /// Changed columns without values, or values without changed columns.
    #[error("changed columns without values, or values without changed columns")]
    Values,
    /// Values of more or fewer rows.
    #[error("rows of the values: {found}, expected {rows}")]
    Rows {
        /// The rows of the values.
        found: u32,
        /// The rows of the input.
        rows: usize,
    },
    /// Not `columns × (rows + 1)` offsets.
    #[error("offsets: {found}, expected {expected}")]
    OffsetCount {
        /// The number of offsets.
        found: usize,
        /// The right number.
        expected: usize,
    },
    /// An offset that falls, lies beyond the data or inside a character, or columns that overlap.
    #[error(
        "the offsets of column `{0}` fall, overlap those of another column, or lie beyond the data or inside a character"
    )]
    Offsets(String),
    /// Not UTF-8.
    #[error("the values{} are not UTF-8 (byte {byte})", of_column(.column))]
    Utf8 {
        /// The column, if the offsets lead to one.
        column: Option<String>,
        /// The place in `data`.
        byte: usize,
    },
    /// Neither no validity nor one bit a cell.
    #[error("bytes of validity: {found}, expected {expected}")]
    Validity {
        /// The number of bytes.
        found: usize,
        /// The right number.
        expected: usize,
    },
}

fn of_column(column: &Option<String>) -> String {
    column.as_ref().map_or_else(String::new, |column| format!(" of column `{column}`"))
}

/// An answer that is safe to use.
#[derive(Debug, Default)]
pub(crate) struct Valid {
    /// The rows that do not go on.
    pub verdicts: Vec<(usize, Verdict)>,
    /// Changed columns by their place among the session's.
    pub columns: Vec<(usize, Column)>,
}

/// Checks an answer to a batch of `rows` rows in a session of the columns `columns`.
pub(crate) fn validate(outcome: Outcome, rows: usize, columns: &[String]) -> Result<Valid, OutcomeError> {
    let verdicts = verdicts(&outcome.verdicts, outcome.rejections, rows, columns.len())?;
    let mut seen = HashSet::new();
    for column in &outcome.changed {
        if *column as usize >= columns.len() {
            return Err(OutcomeError::Changed { column: *column, columns: columns.len() });
        }
        if !seen.insert(*column) {
            return Err(OutcomeError::ChangedTwice(name_of(*column, columns)));
        }
    }
    match outcome.values {
        Some(values) if !outcome.changed.is_empty() => {
            Ok(Valid { verdicts, columns: changed(&outcome.changed, values, rows, columns)? })
        }
        None if outcome.changed.is_empty() => Ok(Valid { verdicts, columns: Vec::new() }),
        _ => Err(OutcomeError::Values),
    }
}

/// The name of a column of the session.
fn name_of(column: u32, columns: &[String]) -> String {
    columns.get(column as usize).map(String::as_str).map(shown).or_never("the name of a column")
}

fn verdicts(
    verdicts: &[u8],
    rejections: Vec<Rejection>,
    rows: usize,
    columns: usize,
) -> Result<Vec<(usize, Verdict)>, OutcomeError> {
    if !verdicts.is_empty() && verdicts.len() != rows {
        return Err(OutcomeError::VerdictCount { found: verdicts.len(), rows });
    }
    if let Some((row, verdict)) = verdicts.iter().enumerate().find(|(_, verdict)| **verdict > 2) {
        return Err(OutcomeError::Verdict { row, verdict: *verdict });
    }
    let rejected = verdicts.iter().filter(|verdict| **verdict == 2).count();
    if rejections.len() != rejected {
        return Err(OutcomeError::RejectionCount { found: rejections.len(), rejected });
    }
    let dropped = verdicts.iter().enumerate().filter(|(_, verdict)| **verdict == 1);
    let mut judged: Vec<(usize, Verdict)> = dropped.map(|(row, _)| (row, Verdict::Drop)).collect();
    let mut seen = HashSet::with_capacity(rejected);
    for rejection in rejections {
        let row = rejection.row as usize;
        if verdicts.get(row) != Some(&2) || !seen.insert(row) {
            return Err(OutcomeError::RejectionRow(rejection.row));
        }
        if let Some(column) = rejection.column.filter(|column| *column as usize >= columns) {
            return Err(OutcomeError::RejectionColumn { row, column, columns });
        }
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=64).contains(&rejection.code.len()) || !rejection.code.bytes().all(fits) {
            return Err(OutcomeError::Code(row));
        }
        judged.push((row, Verdict::Reject { code: rejection.code, reason: shown(&rejection.reason) }));
    }
    Ok(judged)
}

fn changed(
    changed: &[u32],
    values: Batch,
    rows: usize,
    names: &[String],
) -> Result<Vec<(usize, Column)>, OutcomeError> {
    if values.rows as usize != rows {
        return Err(OutcomeError::Rows { found: values.rows, rows });
    }
    let expected = changed.len() * (rows + 1);
    if values.offsets.len() != expected {
        return Err(OutcomeError::OffsetCount { found: values.offsets.len(), expected });
    }
    let column_bytes = rows.div_ceil(8);
    if !values.validity.is_empty() && values.validity.len() != changed.len() * column_bytes {
        let expected = changed.len() * column_bytes;
        return Err(OutcomeError::Validity { found: values.validity.len(), expected });
    }
    let mut data = String::from_utf8(values.data).map_err(|error| {
        let byte = error.utf8_error().valid_up_to();
        let holds_it = |offsets: &[u32]| match (offsets.first(), offsets.last()) {
            (Some(first), Some(last)) => (*first as usize..*last as usize).contains(&byte),
            _ => false,
        };
        let place = values.offsets.chunks_exact(rows + 1).position(holds_it);
        let column = place.and_then(|place| changed.get(place)).map(|column| name_of(*column, names));
        OutcomeError::Utf8 { column, byte }
    })?;
    let mut columns = Vec::with_capacity(changed.len());
    // Together, the columns take no more bytes than the data: a byte cannot become many cells.
    let mut left = data.len();
    for (place, column) in changed.iter().enumerate() {
        let wrong = || OutcomeError::Offsets(name_of(*column, names));
        let offsets = values.offsets.get(place * (rows + 1)..(place + 1) * (rows + 1)).ok_or_else(wrong)?;
        let (first, last) = offsets.first().zip(offsets.last()).ok_or_else(wrong)?;
        let text = data.get(*first as usize..*last as usize).ok_or_else(wrong)?;
        left = left.checked_sub(text.len()).ok_or_else(wrong)?;
        // An offset below the first wraps around, and then lies beyond the text.
        let ends = offsets.iter().skip(1).map(|end| end.wrapping_sub(*first)).collect();
        // The text of a single column needs no copy.
        let whole = changed.len() == 1 && text.len() == data.len();
        let text = if whole { std::mem::take(&mut data) } else { text.to_owned() };
        let cells = Column::new(text, ends).ok_or_else(wrong)?;
        let valid = values.validity.get(place * column_bytes..(place + 1) * column_bytes);
        columns.push((*column as usize, with_validity(cells, valid.unwrap_or_default())));
    }
    Ok(columns)
}

/// Empties each cell whose bit says that it has no value.
fn with_validity(cells: Column, validity: &[u8]) -> Column {
    let has_value = |row: usize| validity.get(row / 8).is_none_or(|byte| byte >> (row % 8) & 1 == 1);
    if (0..cells.rows()).all(|row| has_value(row) || cells.cell(row).is_empty()) {
        return cells;
    }
    (0..cells.rows()).map(|row| if has_value(row) { cells.cell(row) } else { "" }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(count: usize) -> Vec<String> {
        ["name", "email"].into_iter().take(count).map(str::to_owned).collect()
    }

    fn values(rows: u32, data: &str, offsets: &[u32]) -> Option<Batch> {
        Some(Batch { rows, data: data.into(), offsets: offsets.into(), validity: vec![] })
    }

    fn outcome(verdicts: &[u8], rejected: &[u32], changed: &[u32], values: Option<Batch>) -> Outcome {
        let rejections = rejected.iter().map(|row| Rejection {
            row: *row,
            column: None,
            code: "late".into(),
            reason: "too \u{1b}[31mlate".into(),
        });
        Outcome {
            verdicts: verdicts.into(),
            rejections: rejections.collect(),
            changed: changed.into(),
            values,
        }
    }

    #[test]
    fn accepts_answers_that_follow_the_contract() {
        let valid =
            validate(outcome(&[0, 1, 2], &[2], &[1], values(3, "aéb", &[0, 1, 3, 4])), 3, &columns(2))
                .unwrap();
        assert_eq!(valid.columns, [(1, ["a", "é", "b"].into_iter().collect())]);
        let reason = "too \\u{1b}[31mlate".to_owned();
        let rejected = Verdict::Reject { code: "late".into(), reason };
        assert_eq!(valid.verdicts, [(1, Verdict::Drop), (2, rejected)]);
        let empty = validate(outcome(&[], &[], &[], None), 3, &columns(2)).unwrap();
        assert!(empty.columns.is_empty() && empty.verdicts.is_empty());
    }

    #[test]
    fn empties_cells_without_a_value() {
        let mut answer = outcome(&[], &[], &[0], values(2, "ab", &[0, 1, 2]));
        answer.values.as_mut().unwrap().validity = vec![0b10];
        let valid = validate(answer, 2, &columns(1)).unwrap();
        assert_eq!(valid.columns, [(0, ["", "b"].into_iter().collect())]);
    }

    #[test]
    fn refuses_answers_that_break_the_contract() {
        let check = |answer: Outcome, expected: OutcomeError| {
            assert_eq!(validate(answer, 2, &columns(2)).unwrap_err(), expected);
        };
        let offsets = |column: &str| OutcomeError::Offsets(column.to_owned());
        let plain = |values| outcome(&[], &[], &[0], values);
        check(outcome(&[0], &[], &[], None), OutcomeError::VerdictCount { found: 1, rows: 2 });
        check(outcome(&[0, 7], &[], &[], None), OutcomeError::Verdict { row: 1, verdict: 7 });
        check(outcome(&[0, 2], &[], &[], None), OutcomeError::RejectionCount { found: 0, rejected: 1 });
        check(outcome(&[], &[0], &[], None), OutcomeError::RejectionCount { found: 1, rejected: 0 });
        check(outcome(&[0, 2], &[0], &[], None), OutcomeError::RejectionRow(0));
        check(outcome(&[0, 2], &[9], &[], None), OutcomeError::RejectionRow(9));
        check(outcome(&[2, 2], &[1, 1], &[], None), OutcomeError::RejectionRow(1));
        check(outcome(&[], &[], &[2], None), OutcomeError::Changed { column: 2, columns: 2 });
        check(outcome(&[], &[], &[1, 1], None), OutcomeError::ChangedTwice("email".to_owned()));
        check(plain(None), OutcomeError::Values);
        check(outcome(&[], &[], &[], values(2, "", &[0, 0, 0])), OutcomeError::Values);
        check(plain(values(1, "", &[0, 0])), OutcomeError::Rows { found: 1, rows: 2 });
        check(plain(values(2, "", &[0, 0])), OutcomeError::OffsetCount { found: 2, expected: 3 });
        check(plain(values(2, "ab", &[0, 2, 1])), offsets("name"));
        check(plain(values(2, "ab", &[0, 1, 3])), offsets("name"));
        check(plain(values(2, "é", &[0, 1, 2])), offsets("name"));
        check(plain(values(2, "ab", &[1, 0, 2])), offsets("name"));
        check(plain(values(2, "ab", &[u32::MAX; 3])), offsets("name"));
        let twice = outcome(&[], &[], &[0, 1], values(2, "ab", &[0, 1, 2, 0, 1, 2]));
        check(twice, offsets("email"));
        let mut latin = plain(values(2, "ab", &[0, 1, 2]));
        latin.values.as_mut().unwrap().data = vec![b'a', 0xff];
        check(latin, OutcomeError::Utf8 { column: Some("name".to_owned()), byte: 1 });
        let mut validity = plain(values(2, "ab", &[0, 1, 2]));
        validity.values.as_mut().unwrap().validity = vec![3, 3];
        check(validity, OutcomeError::Validity { found: 2, expected: 1 });
        let mut code = outcome(&[2, 0], &[0], &[], None);
        code.rejections[0].code = "No code".into();
        check(code, OutcomeError::Code(0));
        let mut column = outcome(&[2, 0], &[0], &[], None);
        column.rejections[0].column = Some(2);
        check(column, OutcomeError::RejectionColumn { row: 0, column: 2, columns: 2 });
    }
}
