use sluicebox_model::{OrNever, RecordBatch};

use crate::bindings::Batch;

/// Copies columns of a batch into a `batch` of `wit/processor.wit`.
pub(crate) fn fill(batch: &RecordBatch, columns: &[usize], input: &mut Batch) {
    input.data.clear();
    input.offsets.clear();
    input.validity.clear();
    let rows = batch.rows();
    input.rows = u32::try_from(rows).or_never("the number of rows as 32 bits");
    for column in columns {
        // A batch of 4 GiB is larger than any memory: the session refuses it.
        let start = u32::try_from(input.data.len()).unwrap_or(u32::MAX);
        input.offsets.reserve(rows + 1);
        input.offsets.push(start);
        if let Some((data, ends)) = batch.changed(*column) {
            input.data.extend_from_slice(data.as_bytes());
            input.offsets.extend(ends.iter().map(|end| start.saturating_add(*end)));
        } else {
            batch.copy_unchanged(*column, &mut input.data, &mut input.offsets);
        }
    }
    // A cell has a value if it is not empty. Where every cell has one, `validity` stays empty.
    let cells =
        || input.offsets.chunks_exact(rows + 1).map(|ends| ends.array_windows().map(|[from, to]| from != to));
    if cells().flatten().all(|value| value) {
        return;
    }
    let mut validity = Vec::with_capacity(columns.len() * rows.div_ceil(8));
    for mut column in cells() {
        for _ in 0..rows.div_ceil(8) {
            let eight = column.by_ref().take(8).enumerate();
            validity.push(eight.fold(0, |byte, (place, value)| byte | u8::from(value) << place));
        }
    }
    input.validity = validity;
}
