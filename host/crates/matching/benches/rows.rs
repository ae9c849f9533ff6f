//! Prepares, matches and merges rows without a store: `cargo bench --package sluicebox-matching`.
#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jiff::tz::TimeZone;
use sluicebox_matching::{
    Buffers, ChunkRows, Context, FieldPlan, IdentifierPlan, OnAmbiguous, Plan, Prepared, Workers, prepare,
};
use sluicebox_model::{
    CellFormat, Header, IdentifierHasher, MergeRule, NumberFormat, PropertyId, Record, RecordBatch, RecordId,
    SpaceId, TimeFormat, ValueType,
};

const ROWS: u32 = 8192;

fn format(value_type: ValueType) -> CellFormat {
    let number = NumberFormat::default();
    CellFormat { value_type, number, time: TimeFormat::Standard, timezone: TimeZone::UTC }
}

fn plan() -> Plan {
    let field = |column: usize, value_type, rule| FieldPlan {
        column,
        property: PropertyId(u32::try_from(column).unwrap() + 10),
        rule,
        separator: None,
        separator_escape: None,
        multiple: false,
        unique: column == 0,
        format: format(value_type),
    };
    Plan {
        space: SpaceId(1),
        hasher: IdentifierHasher::new(&[7; 16]),
        identifiers: vec![IdentifierPlan {
            column: 0,
            property: Some(PropertyId(10)),
            multiple: false,
            format: format(ValueType::Text),
        }],
        fields: vec![
            field(1, ValueType::Text, MergeRule::Set),
            field(2, ValueType::Text, MergeRule::SetIfEmpty),
            field(3, ValueType::Number, MergeRule::Sum),
            field(4, ValueType::Date, MergeRule::Set),
        ],
        events: Vec::new(),
        create: true,
        on_ambiguous: OnAmbiguous::Reject,
        merge_limit: 20,
        objectives: Vec::new(),
        consented: PropertyId(1),
        refused: PropertyId(2),
        unique: vec![PropertyId(10)],
    }
}

fn batch() -> RecordBatch {
    let columns = ["email", "name", "city", "spent", "born"].map(str::to_owned).to_vec();
    let header = Arc::new(Header { columns, trim: true, null_values: vec![String::new()] });
    let (mut text, mut ends) = (String::new(), Vec::new());
    for row in 0..ROWS {
        let cells = [
            format!("ann.{row}@example{}.com", row % 97),
            "Ann".to_owned(),
            "Utrecht".to_owned(),
            format!("{}.50", row % 5000),
            format!("19{:02}-{:02}-17", 40 + row % 60, 1 + row % 12),
        ];
        for cell in cells {
            text.push_str(&cell);
            ends.push(u32::try_from(text.len()).unwrap());
        }
    }
    let places = (0..u64::from(ROWS)).map(|row| (row, row + 2)).collect();
    RecordBatch::new(header, text, ends, places, Vec::new(), u64::from(ROWS)).unwrap()
}

fn prepared(plan: &Plan) -> Prepared {
    prepare(plan, batch(), &[], 0, &mut Buffers::default())
}

fn rows(criterion: &mut Criterion) {
    let plan = plan();
    let context = Context {
        goal_run: 1,
        now: 1,
        merges_since: 1,
        file: 0,
        from: 0,
        rejections_left: u64::MAX,
        records_excluded: true,
    };
    let mut group = criterion.benchmark_group("rows");
    group.throughput(Throughput::Elements(u64::from(ROWS)));
    group.bench_function("prepare", |bench| {
        let mut buffers = Buffers::default();
        bench.iter_batched(batch, |batch| prepare(&plan, batch, &[], 0, &mut buffers), BatchSize::LargeInput);
    });
    group.bench_function("match: sort identifiers", |bench| {
        bench.iter_batched(|| vec![prepared(&plan)], ChunkRows::new, BatchSize::LargeInput);
    });
    let chunk = ChunkRows::new(vec![prepared(&plan)]);
    let unclaimed = vec![None; chunk.len()];
    // In partitions, as an import does, but on one thread.
    let workers = Workers::new(1);
    let merge = |resolved: &[Option<RecordId>], context, held: &[(RecordId, Record)]| {
        let mut records: Vec<(RecordId, Record)> = Vec::new();
        let load = |ids: &[RecordId], _| {
            let held = |id: &RecordId| {
                let place = held.binary_search_by_key(id, |(id, _)| *id).ok()?;
                held.get(place).cloned()
            };
            Ok::<_, ()>(ids.iter().map(held).collect())
        };
        let take = |partition, _| {
            records.extend::<Vec<_>>(partition);
            Ok(())
        };
        let applied = chunk.partition(resolved, &workers).unwrap().apply(
            &plan,
            context,
            &[],
            load,
            |records| records,
            take,
        );
        (applied.unwrap().unwrap(), records)
    };
    group.bench_function("merge: create", |bench| bench.iter(|| merge(&unclaimed, context, &[]).1.len()));
    let (applied, mut held) = merge(&unclaimed, context, &[]);
    held.sort_unstable_by_key(|(id, _)| *id);
    let resolved: Vec<Option<RecordId>> = {
        let by_hash: std::collections::HashMap<_, _> = applied.identifiers(&chunk).collect();
        chunk.hashes().iter().map(|hash| by_hash.get(hash).copied().flatten()).collect()
    };
    let later = Context { goal_run: 2, now: 2, ..context };
    group.bench_function("merge: update", |bench| bench.iter(|| merge(&resolved, later, &held).1.len()));
    group.finish();
}

criterion_group!(benches, rows);
criterion_main!(benches);
