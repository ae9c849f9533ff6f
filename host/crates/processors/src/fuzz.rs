//! The fuzz targets in `host/fuzz` call these functions. Each accepts any bytes and must never panic. The tests run the corpus.

use std::collections::BTreeSet;
use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use sluicebox_model::{Column, Header, RecordBatch, Verdict};

use crate::arena;
use crate::bindings::{Batch, Outcome, Rejection};
use crate::outcome::validate;

const MAX_ROWS: usize = 40;

/// An answer to a batch: an answer that passes is one that the contract allows, by a second, naive implementation.
pub fn outcome(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok((rows, columns, outcome)) = any_outcome(&mut input) else { return };
    let (verdicts, changed) = (outcome.verdicts.clone(), outcome.changed.clone());
    let values = outcome.values.clone();
    let Ok(valid) = validate(outcome, rows, &names(columns)) else { return };
    for (row, verdict) in &valid.verdicts {
        let answered = verdicts.get(*row).copied();
        assert!(matches!((answered, verdict), (Some(1), Verdict::Drop) | (Some(2), Verdict::Reject { .. })));
    }
    let judged: BTreeSet<usize> = valid.verdicts.iter().map(|(row, _)| *row).collect();
    assert_eq!(judged.len(), valid.verdicts.len(), "a row has two verdicts");
    assert_eq!(judged.len(), verdicts.iter().filter(|verdict| **verdict != 0).count(), "a verdict is lost");
    let places: Vec<usize> = changed.iter().map(|column| *column as usize).collect();
    assert_eq!(valid.columns.iter().map(|(place, _)| *place).collect::<Vec<_>>(), places);
    assert!(places.iter().all(|place| *place < columns));
    for (place, (_, column)) in valid.columns.iter().enumerate() {
        check_column(values.as_ref(), place, rows, column);
    }
}

/// Checks the cells of a changed column against its offsets and bits.
fn check_column(values: Option<&Batch>, place: usize, rows: usize, column: &Column) {
    assert_eq!(column.rows(), rows);
    let Some(values) = values else { unreachable!("a column without values") };
    for row in 0..rows {
        assert_eq!(column.cell(row), naive_cell(values, place, row));
    }
}

/// A cell according to the comments of the contract.
fn naive_cell(batch: &Batch, column: usize, row: usize) -> &str {
    let rows = batch.rows as usize;
    let bit = column * rows.div_ceil(8) * 8 + row;
    let valid = batch.validity.is_empty() || batch.validity[bit / 8] >> (bit % 8) & 1 == 1;
    let at = column * (rows + 1) + row;
    let bytes = &batch.data[batch.offsets[at] as usize..batch.offsets[at + 1] as usize];
    if valid { std::str::from_utf8(bytes).expect("a text") } else { "" }
}

/// A batch for a plugin: the plugin reads the same cells as the host, and the host reads the same cells from an echo.
pub fn batch(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok((batch, wanted)) = any_batch(&mut input) else { return };
    let mut arena = Batch { rows: 9, data: vec![1], offsets: vec![2], validity: vec![3] };
    arena::fill(&batch, &wanted, &mut arena);
    assert_eq!(arena.offsets.len(), wanted.len() * (batch.rows() + 1));
    for (place, column) in wanted.iter().enumerate() {
        for row in 0..batch.rows() {
            assert_eq!(naive_cell(&arena, place, row), batch.cell(row, *column));
        }
    }
    let changed: Vec<u32> = (0..wanted.len()).map(|place| place as u32).collect();
    let values = (!changed.is_empty()).then_some(arena);
    let echo = Outcome { verdicts: vec![], rejections: vec![], changed, values };
    let valid = validate(echo, batch.rows(), &names(wanted.len())).expect("an echo is a valid answer");
    for ((_, cells), column) in valid.columns.iter().zip(&wanted) {
        assert!((0..batch.rows()).all(|row| cells.cell(row) == batch.cell(row, *column)));
    }
}

/// The names of some columns.
fn names(columns: usize) -> Vec<String> {
    (0..columns).map(|column| column.to_string()).collect()
}

fn any_outcome(input: &mut Unstructured<'_>) -> Result<(usize, usize, Outcome)> {
    let (rows, columns) = (input.int_in_range(0..=MAX_ROWS)?, input.int_in_range(0..=6)?);
    let verdicts: Vec<u8> = match input.ratio(1, 3)? {
        true => input.arbitrary()?,
        false => (0..rows).map(|_| input.int_in_range(0..=2)).collect::<Result<_>>()?,
    };
    let rejected = verdicts.iter().enumerate().filter(|(_, verdict)| **verdict == 2);
    let mut rejections = Vec::new();
    for (row, _) in rejected {
        let row = if input.ratio(1, 20)? { input.arbitrary()? } else { row as u32 };
        let code = if input.ratio(1, 20)? { input.arbitrary()? } else { "late".to_owned() };
        rejections.push(Rejection { row, column: input.arbitrary()?, code, reason: input.arbitrary()? });
    }
    let changed: Vec<u32> = match input.ratio(1, 10)? {
        true => input.arbitrary()?,
        false => (0..input.int_in_range(0..=columns)?).map(|column| column as u32).collect(),
    };
    let values = match input.ratio(1, 10)? {
        true => Some(Batch {
            rows: input.arbitrary()?,
            data: input.arbitrary()?,
            offsets: input.arbitrary()?,
            validity: input.arbitrary()?,
        }),
        false => any_values(input, rows, changed.len())?,
    };
    Ok((rows, columns, Outcome { verdicts, rejections, changed, values }))
}

/// Values that are almost valid: rising offsets into text.
fn any_values(input: &mut Unstructured<'_>, rows: usize, columns: usize) -> Result<Option<Batch>> {
    if columns == 0 {
        return Ok(None);
    }
    let (mut data, mut offsets) = (Vec::new(), Vec::new());
    for _ in 0..columns {
        offsets.push(data.len() as u32);
        for _ in 0..rows {
            data.extend_from_slice(input.arbitrary::<&str>()?.as_bytes());
            offsets.push(data.len() as u32);
        }
    }
    if input.ratio(1, 4)? && !offsets.is_empty() {
        let place = input.choose_index(offsets.len())?;
        offsets[place] = input.arbitrary()?;
    }
    let validity = match input.arbitrary()? {
        true => (0..columns * rows.div_ceil(8)).map(|_| input.arbitrary()).collect::<Result<_>>()?,
        false => Vec::new(),
    };
    Ok(Some(Batch { rows: rows as u32, data, offsets, validity }))
}

fn any_batch(input: &mut Unstructured<'_>) -> Result<(RecordBatch, Vec<usize>)> {
    let (rows, columns) = (input.int_in_range(0..=MAX_ROWS)?, input.int_in_range(1..=6)?);
    let header =
        Header { columns: names(columns), trim: input.arbitrary()?, null_values: input.arbitrary()? };
    let (mut text, mut ends) = (String::new(), Vec::new());
    for _ in 0..rows * columns {
        text.push_str(input.arbitrary()?);
        ends.push(text.len() as u32);
    }
    let places = (0..rows as u64).map(|row| (row, row + 2)).collect();
    let batch = RecordBatch::new(Arc::new(header), text, ends, places, vec![], rows as u64);
    let mut batch = batch.expect("the counts agree");
    // A column that an earlier processor changed or added.
    if input.arbitrary()? {
        let cells = (0..rows).map(|_| input.arbitrary::<&str>()).collect::<Result<Vec<_>>>()?;
        batch.put_column(input.int_in_range(0..=columns)?, cells.into_iter().collect());
    }
    let wanted = (0..=columns).filter(|_| input.arbitrary().unwrap_or(false)).collect();
    Ok((batch, wanted))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Runs every input that once reached new code.
    fn check(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let mut inputs = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            run(&fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 20, "{} holds {inputs} inputs", folder.display());
    }

    #[test]
    fn answers_of_the_corpus() {
        check("outcome", super::outcome);
    }

    #[test]
    fn batches_of_the_corpus() {
        check("batch", super::batch);
    }
}
