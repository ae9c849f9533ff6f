use sluicebox_model::RecordBatch;

use crate::bindings::Batch;

/// Copies columns of a batch into the form in which they cross the boundary: `batch` in `wit/processor.wit`.
pub(crate) fn fill(batch: &RecordBatch, columns: &[usize], input: &mut Batch) {
    input.data.clear();
    input.offsets.clear();
    input.validity.clear();
    let rows = batch.rows();
    input.rows = u32::try_from(rows).unwrap_or(u32::MAX);
    let end = |data: &Vec<u8>| u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut every_cell_has_a_value = true;
    for column in columns {
        input.offsets.push(end(&input.data));
        let mut byte = 0;
        for row in 0..rows {
            let cell = batch.cell(row, *column);
            input.data.extend_from_slice(cell.as_bytes());
            input.offsets.push(end(&input.data));
            every_cell_has_a_value &= !cell.is_empty();
            byte |= u8::from(!cell.is_empty()) << (row % 8);
            if row % 8 == 7 || row + 1 == rows {
                input.validity.push(byte);
                byte = 0;
            }
        }
    }
    if every_cell_has_a_value {
        input.validity.clear();
    }
}
