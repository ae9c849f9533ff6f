//! Measures a batch on its way through the sandbox: `cargo bench --package sluicebox-processors`, after `cargo xtask build-plugins`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sluicebox_model::{Header, RecordBatch};
use sluicebox_processors::{Compiler, Configuration, Limits, Runtime};

const ROWS: u32 = 1024;

fn batch() -> RecordBatch {
    let columns = vec!["email".to_owned(), "name".to_owned()];
    let header = Arc::new(Header { columns, trim: true, null_values: vec![String::new()] });
    let (mut text, mut ends) = (String::new(), Vec::new());
    for row in 0..ROWS {
        for cell in [format!("Ann.{row}@Example{}.com", row % 97), "Ann".to_owned()] {
            text.push_str(&cell);
            ends.push(u32::try_from(text.len()).unwrap());
        }
    }
    let places = (0..u64::from(ROWS)).map(|row| (row, row + 2)).collect();
    RecordBatch::new(header, text, ends, places, Vec::new(), u64::from(ROWS)).unwrap()
}

fn boundary(criterion: &mut Criterion) {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../plugins/built/email-normalizer.wasm");
    let component = std::fs::read(place).expect("`cargo xtask build-plugins` builds it");
    let runtime = Runtime::new(None, Compiler::Here).unwrap();
    let plugin = runtime.load("email-normalizer", &component, Limits::default()).unwrap();
    let header = ["email".to_owned(), "name".to_owned()];
    let config = Configuration::new(r#"{"columns":["email"],"lowercase_local":true}"#.to_owned(), &[]);
    let mut session = plugin.open("bench", &config, &header).unwrap();
    let mut group = criterion.benchmark_group("boundary");
    group.throughput(Throughput::Elements(u64::from(ROWS)));
    group.bench_function("email-normalizer, one column of 1024 rows", |bench| {
        bench.iter_batched_ref(batch, |batch| session.process(batch).unwrap(), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, boundary);
criterion_main!(benches);
