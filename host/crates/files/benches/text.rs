//! Parsing and encoding: `cargo bench --package sluicebox-files`.
#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sluicebox_files::{CsvFormat, CsvOptions, Reader, RowEncoder};

const ROWS: u64 = 10_000;

fn text() -> Vec<u8> {
    let mut text = String::from("id,email,name,city,country,spent,updated_at\n");
    for row in 0..ROWS {
        text.push_str(&format!(
            "{row},Ann.{row}@Example{}.com,Ann,\"Utrecht, {}\",NL,{}.50,2026-01-02T03:04:05Z\n",
            row % 97,
            row % 200,
            row % 5000
        ));
    }
    text.into_bytes()
}

fn parse(criterion: &mut Criterion) {
    let text = text();
    let mut group = criterion.benchmark_group("csv");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("parse", |bench| {
        bench.iter_batched(
            || Box::new(Cursor::new(text.clone())),
            |input| {
                let reader = Reader::open(input, Arc::new(AtomicU64::new(0)), CsvOptions::default(), 1024);
                let mut reader = reader.unwrap().unwrap();
                let mut rows = 0;
                while let Some(batch) = reader.next_batch().unwrap() {
                    rows += batch.rows();
                }
                rows
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function("encode", |bench| {
        let cells = ["17", "ann.17@example.com", "Ann", "Utrecht, 12", "NL", "12.50", "2026-01-02T03:04:05Z"];
        let mut out = Vec::new();
        bench.iter(|| {
            out.clear();
            let mut encoder = RowEncoder::new(&CsvFormat::default());
            (0..ROWS).for_each(|_| encoder.row(cells, &mut out).unwrap());
            out.len()
        });
    });
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
