//! The merge semantics, through the crate's public API and without a store: one [`check`], and tables of cases.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use jiff::tz::TimeZone;
use sluicebox_matching::{
    Applied, Buffers, ChunkRows, Context, FieldPlan, IdentifierPlan, LoadedRecords, NoEvents, OnAmbiguous,
    Plan, Workers, prepare,
};
use sluicebox_model::packed::{packed_text, packed_values};
use sluicebox_model::{
    CellFormat, Header, Identifier, IdentifierHash, IdentifierHasher, MergeRule, NumberFormat, Property,
    PropertyId, PropertySchema, Provenance, Record, RecordBatch, RecordId, Setter, SpaceId, TimeFormat,
    Value, ValueType,
};

/// Name, type, whether it is unique, whether it is multiple. The place is the property's id.
const SCHEMA: [(&str, ValueType, bool, bool); 15] = [
    ("email", ValueType::Text, true, false),
    ("phone", ValueType::Text, true, false),
    ("aliases", ValueType::Text, true, true),
    ("text", ValueType::Text, false, false),
    ("texts", ValueType::Text, false, true),
    ("number", ValueType::Number, false, false),
    ("numbers", ValueType::Number, false, true),
    ("boolean", ValueType::Boolean, false, false),
    ("booleans", ValueType::Boolean, false, true),
    ("date", ValueType::Date, false, false),
    ("dates", ValueType::Date, false, true),
    ("datetime", ValueType::DateTime, false, false),
    ("datetimes", ValueType::DateTime, false, true),
    ("consented", ValueType::Text, false, true),
    ("refused", ValueType::Text, false, true),
];
const SPACE: SpaceId = SpaceId(1);

fn property(name: &str) -> (PropertyId, PropertySchema) {
    let place = SCHEMA.iter().position(|(known, ..)| *known == name);
    let place = place.unwrap_or_else(|| panic!("no property {name}"));
    let (name, value_type, unique, multiple) = SCHEMA[place];
    let schema =
        PropertySchema { name: name.to_owned(), value_type, unique, multiple, ..PropertySchema::default() };
    (PropertyId(place as u32), schema)
}

fn format(value_type: ValueType) -> CellFormat {
    let (number, time) = (NumberFormat::default(), TimeFormat::Standard);
    CellFormat { value_type, number, time, timezone: TimeZone::UTC }
}

fn hasher() -> IdentifierHasher {
    IdentifierHasher::new(&[7; 16])
}

/// The id of the n-th stored record, from 1.
fn stored_id(number: u8) -> RecordId {
    RecordId([0, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, 0, number])
}

/// Reads a plan such as `by email phone; text set; texts add; no create; ambiguous merge; consent ads`. The columns of a
/// file are named like their properties; `id` is the record's own id. Lists are separated by `|`.
fn plan(text: &str, columns: &[String]) -> Plan {
    let column = |name: &str| columns.iter().position(|column| column == name).unwrap_or(columns.len());
    let mut plan = Plan {
        space: SPACE,
        hasher: hasher(),
        identifiers: Vec::new(),
        fields: Vec::new(),
        events: Vec::new(),
        create: true,
        on_ambiguous: OnAmbiguous::Reject,
        merge_limit: 20,
        objectives: Vec::new(),
        consented: property("consented").0,
        refused: property("refused").0,
        unique: (0..3).map(PropertyId).collect(),
    };
    for clause in text.split("; ") {
        match clause.split(' ').collect::<Vec<_>>()[..] {
            ["by", ref names @ ..] => {
                plan.identifiers.extend(names.iter().map(|name| {
                    let found = (*name != "id").then(|| property(name));
                    let (value_type, multiple) =
                        found.as_ref().map_or((ValueType::Text, false), |(_, p)| (p.value_type, p.multiple));
                    let property = found.map(|(id, _)| id);
                    IdentifierPlan { column: column(name), property, multiple, format: format(value_type) }
                }));
            }
            ["no", "create"] => plan.create = false,
            ["ambiguous", name] => {
                plan.on_ambiguous = OnAmbiguous::NAMES.iter().find(|(known, _)| *known == name).unwrap().1;
            }
            ["merge", "limit", limit] => plan.merge_limit = limit.parse().unwrap(),
            ["consent", ref objectives @ ..] => {
                plan.objectives = objectives.iter().map(|name| Value::Text((*name).into())).collect();
            }
            [name, rule] => {
                let rule = MergeRule::NAMES.iter().find(|(known, _)| *known == rule).unwrap().1;
                let (id, schema) = property(name);
                assert_eq!(rule.problem(&schema), None, "{clause}");
                plan.fields.push(FieldPlan {
                    column: column(name),
                    property: id,
                    rule,
                    separator: schema.multiple.then(|| "|".to_owned()),
                    separator_escape: None,
                    multiple: schema.multiple,
                    unique: schema.unique,
                    format: format(schema.value_type),
                });
            }
            _ => panic!("no clause {clause}"),
        }
    }
    plan.fields.sort_by_key(|field| field.property);
    plan
}

/// Reads a record such as `email=a@x texts=a|b @5`, which was modified at 5.
fn record(text: &str) -> Record {
    let mut record = Record::new(SPACE, 0);
    for word in text.split(' ') {
        if let Some(modified) = word.strip_prefix('@') {
            record.modified = modified.parse().unwrap();
            continue;
        }
        let (name, values) = word.split_once('=').unwrap_or_else(|| panic!("no value in {word}"));
        let (id, schema) = property(name);
        let value = |text: &str| format(schema.value_type).parse(text).unwrap();
        let held = match schema.multiple {
            true => Property::Many(values.split('|').map(value).collect()),
            false => Property::One(value(values)),
        };
        record.set(id, &held);
    }
    record
}

fn shown(record: &Record) -> String {
    let mut words = Vec::new();
    for (place, (name, ..)) in SCHEMA.iter().enumerate() {
        if let Some(held) = record.get_packed(PropertyId(place as u32)) {
            let values: Vec<_> = packed_values(held).map(packed_text).collect();
            words.push(format!("{name}={}", values.join("|")));
        }
    }
    words.join(" ")
}

/// A store in memory.
#[derive(Clone, Default)]
struct Store {
    records: BTreeMap<RecordId, Record>,
    index: HashMap<IdentifierHash, RecordId>,
    merged: BTreeMap<RecordId, RecordId>,
}

impl Store {
    fn new(stored: &[&str]) -> Self {
        let mut store = Self::default();
        for (number, text) in (1..).zip(stored) {
            let (id, record) = (stored_id(number), record(text));
            for unique in (0..3).map(PropertyId) {
                for value in record.values(unique) {
                    let identifier = Identifier::new(SPACE, unique, &value);
                    let before = store.index.insert(hasher().hash(&identifier.0), id);
                    assert_eq!(before, None, "two records hold {value}");
                }
            }
            store.records.insert(id, record);
        }
        store
    }

    fn load(&self, ids: &[RecordId]) -> LoadedRecords {
        ids.iter().map(|id| self.records.get(id).map(|record| (*id, record.clone()))).collect()
    }

    /// The index has exactly the unique values of the records.
    fn verify(&self) {
        let mut expected = HashMap::new();
        for (id, record) in &self.records {
            for unique in (0..3).map(PropertyId) {
                for value in record.values(unique) {
                    let identifier = Identifier::new(SPACE, unique, &value);
                    let before = expected.insert(hasher().hash(&identifier.0), *id);
                    assert_eq!(before, None, "two records hold one value");
                }
            }
        }
        assert_eq!(self.index, expected, "the index and the records disagree");
    }

    fn commit(&mut self, applied: &Applied, records: &[(RecordId, Record)], chunk: &ChunkRows) {
        self.records.extend(records.iter().cloned());
        for (from, into) in &applied.merged {
            self.records.remove(from);
            self.merged.insert(*from, *into);
        }
        for (hash, id) in applied.identifiers(chunk) {
            match id {
                Some(id) => self.index.insert(hash, id),
                None => self.index.remove(&hash),
            };
        }
    }

    /// Each stored record, each new one, then what was counted, where that is not zero.
    fn report(&self, stored: usize, applied: &Applied) -> Vec<String> {
        let place = |id: RecordId| id.0[15];
        let mut lines = Vec::new();
        let is_stored = |id: &RecordId| (1..=stored).any(|number| stored_id(number as u8) == *id);
        for id in (1..=stored).map(|number| stored_id(number as u8)) {
            lines.push(match self.merged.get(&id) {
                Some(into) => format!("merged into {}", place(*into)),
                None => shown(&self.records[&id]),
            });
        }
        lines.extend(self.records.iter().filter(|(id, _)| !is_stored(id)).map(|(_, record)| shown(record)));
        let counts = &applied.counts;
        let counted = [
            (counts.merged as i64, "merged"),
            (counts.excluded as i64, "excluded"),
            (counts.rejected as i64, "rejected"),
            (
                counts.cells_rejected as i64,
                if counts.cells_rejected == 1 { "cell rejected" } else { "cells rejected" },
            ),
            (counts.created, "created"),
            (counts.updated, "updated"),
            (counts.unchanged, "unchanged"),
        ];
        let counted = counted.iter().filter(|(count, _)| *count != 0);
        lines.push(counted.map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", "));
        lines
    }
}

/// The rows, in batches of `size`.
fn chunk(plan: &Plan, columns: &[String], rows: &[Vec<String>], size: usize) -> ChunkRows {
    let header =
        Arc::new(Header { columns: columns.to_vec(), trim: true, null_values: vec!["NULL".to_owned()] });
    let mut buffers = Buffers::default();
    let batches = rows.chunks(size).enumerate().map(|(number, rows)| {
        let (mut text, mut ends) = (String::new(), Vec::new());
        for cell in rows.iter().flatten() {
            text.push_str(cell);
            ends.push(text.len() as u32);
        }
        let from = (number * size) as u64;
        let end = from + rows.len() as u64;
        let places = (from..end).map(|row| (row, row + 2)).collect();
        let batch = RecordBatch::new(header.clone(), text, ends, places, Vec::new(), end);
        prepare(plan, batch.unwrap(), &[], 0, &mut buffers)
    });
    ChunkRows::new(batches.collect())
}

/// Threads for all cases.
static WORKERS: LazyLock<Workers> = LazyLock::new(|| Workers::new(2));

/// Applies rows to stored records, and answers with the records and counts after that. The rows are applied in batches of all
/// sizes and, where the plan allows it, in partitions; all must give the same.
fn merge(plan_text: &str, stored: &[&str], lines: &[&str]) -> Vec<String> {
    let columns: Vec<String> = lines[0].split(',').map(str::to_owned).collect();
    let cell = |text: &str| match text.strip_prefix('#') {
        Some(number) => stored_id(number.parse().unwrap()).to_string(),
        None => text.to_owned(),
    };
    let rows: Vec<Vec<String>> = lines[1..].iter().map(|line| line.split(',').map(cell).collect()).collect();
    let plan = plan(plan_text, &columns);
    let context = Context {
        goal_run: 9,
        now: 100,
        merges_since: 9,
        file: 0,
        from: 0,
        rejections_left: u64::MAX,
        records_excluded: true,
    };
    let store = Store::new(stored);
    let mut reports = Vec::new();
    for size in 1..=rows.len() {
        let chunk = chunk(&plan, &columns, &rows, size);
        let resolved: Vec<_> = chunk.hashes().iter().map(|hash| store.index.get(hash).copied()).collect();
        let ids = chunk.records(&resolved);
        let mut whole = store.clone();
        let applied = chunk.apply(&plan, context, &resolved, &[], (&ids, store.load(&ids)), &mut NoEvents);
        whole.commit(&applied, &applied.records, &chunk);
        whole.verify();
        reports.push(whole.report(stored.len(), &applied));
        if !chunk.can_be_partitioned(&plan, &context) {
            continue;
        }
        let mut partitions = chunk.partition(&resolved, &WORKERS).unwrap();
        let applied = (0..4).find_map(|_| {
            let mut records = Vec::new();
            let take = |partition: Vec<_>, _| {
                records.extend(partition);
                Ok::<_, ()>(())
            };
            let applied = partitions.apply(
                &plan,
                context,
                &[],
                |ids, _| Ok(store.load(ids)),
                |partition| partition,
                take,
            );
            Some((applied.unwrap()?, records))
        });
        if let Some((applied, records)) = applied {
            let mut partitioned = store.clone();
            partitioned.commit(&applied, &records, &chunk);
            partitioned.verify();
            reports.push(partitioned.report(stored.len(), &applied));
        }
    }
    for report in &reports {
        assert_eq!(report, &reports[0], "batches or partitions change the result of {plan_text}, {lines:?}");
    }
    reports.swap_remove(0)
}

/// Merges `rows`, of which the first is the header, into the `stored` records. Expected are the records after that, stored ones
/// first, then the counts.
#[track_caller]
fn check(plan: &str, stored: &[&str], rows: &[&str], expected: &[&str]) {
    assert_eq!(merge(plan, stored, rows), expected, "{plan}, {stored:?}, {rows:?}");
}

#[test]
fn set_overwrites() {
    let plan = "by email; text set; number set; texts set";
    for (stored, row, after, counts) in [
        ("email=a", "a,x,,", "email=a text=x", "1 merged, 1 updated"),
        ("email=a text=x", "a,x,,", "email=a text=x", "1 merged, 1 unchanged"),
        ("email=a text=x", "a,y,,", "email=a text=y", "1 merged, 1 updated"),
        ("email=a text=x", "a,,,", "email=a text=x", "1 merged, 1 unchanged"),
        ("email=a text=x", "a,NULL,,", "email=a text=x", "1 merged, 1 unchanged"),
        ("email=a number=1", "a,,2.50,", "email=a number=2.5", "1 merged, 1 updated"),
        ("email=a number=2.5", "a,,2.50,", "email=a number=2.5", "1 merged, 1 unchanged"),
        ("email=a number=1", "a,,many,", "email=a number=1", "1 merged, 1 cell rejected, 1 unchanged"),
        ("email=a", "a,x,many,", "email=a text=x", "1 merged, 1 cell rejected, 1 updated"),
        ("email=a texts=x|y", "a,,,z|x|z", "email=a texts=z|x", "1 merged, 1 updated"),
        ("email=a texts=x|y", "a,,,|", "email=a texts=x|y", "1 merged, 1 unchanged"),
    ] {
        check(plan, &[stored], &["email,text,number,texts", row], &[after, counts]);
    }
}

#[test]
fn set_if_empty_writes_only_where_there_is_no_value() {
    let plan = "by email; text set-if-empty; number set-if-empty; texts set-if-empty";
    for (stored, row, after, counts) in [
        ("email=a", "a,x,1,p|q", "email=a text=x texts=p|q number=1", "1 merged, 1 updated"),
        ("email=a text=x", "a,y,,", "email=a text=x", "1 merged, 1 unchanged"),
        ("email=a texts=x", "a,,,y", "email=a texts=x", "1 merged, 1 unchanged"),
        ("email=a text=x", "a,,,", "email=a text=x", "1 merged, 1 unchanged"),
        ("email=a", "a,,many,", "email=a", "1 merged, 1 cell rejected, 1 unchanged"),
        ("email=a number=1", "a,,many,", "email=a number=1", "1 merged, 1 cell rejected, 1 unchanged"),
    ] {
        check(plan, &[stored], &["email,text,number,texts", row], &[after, counts]);
    }
}

#[test]
fn set_or_clear_clears_on_an_empty_cell() {
    let plan = "by email; text set-or-clear; number set-or-clear; texts set-or-clear";
    for (stored, row, after, counts) in [
        ("email=a text=x", "a,y,,", "email=a text=y", "1 merged, 1 updated"),
        ("email=a text=x", "a,,,", "email=a", "1 merged, 1 updated"),
        ("email=a text=x", "a,NULL,,", "email=a", "1 merged, 1 updated"),
        ("email=a", "a,,,", "email=a", "1 merged, 1 unchanged"),
        ("email=a texts=x|y", "a,,,", "email=a", "1 merged, 1 updated"),
        ("email=a texts=x|y", "a,,,|", "email=a", "1 merged, 1 updated"),
        // A rejected cell clears nothing.
        ("email=a number=1", "a,,many,", "email=a number=1", "1 merged, 1 cell rejected, 1 unchanged"),
    ] {
        check(plan, &[stored], &["email,text,number,texts", row], &[after, counts]);
    }
}

#[test]
fn add_appends_new_values_in_order() {
    let plan = "by email; texts add; numbers add";
    for (stored, row, after, counts) in [
        ("email=a", "a,x|y,", "email=a texts=x|y", "1 merged, 1 updated"),
        ("email=a texts=x|y", "a,z|y|w|z,", "email=a texts=x|y|z|w", "1 merged, 1 updated"),
        ("email=a texts=x|y", "a,y|x,", "email=a texts=x|y", "1 merged, 1 unchanged"),
        ("email=a texts=x", "a, y | | z ,", "email=a texts=x|y|z", "1 merged, 1 updated"),
        ("email=a texts=x", "a,||,", "email=a texts=x", "1 merged, 1 unchanged"),
        ("email=a numbers=1", "a,,1.0|2", "email=a numbers=1|2", "1 merged, 1 updated"),
        // The bad part of a cell is dropped, and the cell counts once.
        ("email=a numbers=1", "a,,x|2|y", "email=a numbers=1|2", "1 merged, 1 cell rejected, 1 updated"),
        ("email=a", "a,,x|y", "email=a", "1 merged, 1 cell rejected, 1 unchanged"),
    ] {
        check(plan, &[stored], &["email,texts,numbers", row], &[after, counts]);
    }
}

#[test]
fn sum_adds_exact_decimals() {
    for (stored, row, after, counts) in [
        ("email=a", "a,2.50", "email=a number=2.5", "1 merged, 1 updated"),
        ("email=a number=0.1", "a,0.2", "email=a number=0.3", "1 merged, 1 updated"),
        ("email=a number=1", "a,-1", "email=a number=0", "1 merged, 1 updated"),
        ("email=a number=1", "a,0", "email=a number=1", "1 merged, 1 unchanged"),
        ("email=a number=1", "a,", "email=a number=1", "1 merged, 1 unchanged"),
        ("email=a number=1", "a,1e3", "email=a number=1", "1 merged, 1 cell rejected, 1 unchanged"),
        (
            "email=a number=9999999999999999999999999999",
            "a,1",
            "email=a number=9999999999999999999999999999",
            "1 merged, 1 cell rejected, 1 unchanged",
        ),
    ] {
        check("by email; number sum", &[stored], &["email,number", row], &[after, counts]);
    }
}

#[test]
fn rows_of_one_file_apply_in_file_order() {
    check(
        "by email; text set; number sum; texts add",
        &["email=a number=1"],
        &["email,text,number,texts", "b,x,1,p", "a,y,2,q", "b,z,3,r|p", "b,,4,", "a,,5,s"],
        &[
            "email=a text=y texts=q|s number=8",
            "email=b text=z texts=p|r number=8",
            "5 merged, 1 created, 1 updated",
        ],
    );
    // The first row's record has its phone when the second row comes, and lost it when the fourth comes.
    check(
        "by email phone; phone set; text set",
        &[],
        &["email,phone,text", "a,1,x", ",1,y", "a,2,", ",1,z"],
        &["email=a phone=2 text=y", "phone=1 text=z", "4 merged, 2 created"],
    );
    // A change and its reversal in one goal run leave the record unchanged.
    check(
        "by email; text set",
        &["email=a text=x"],
        &["email,text", "a,y", "a,x"],
        &["email=a text=x", "2 merged, 1 unchanged"],
    );
}

#[test]
fn rows_without_a_record_create_one_or_are_excluded() {
    let rows = &["email,phone,text", "a,1,x", ",,y", "c,,z"];
    check(
        "by email phone; text set",
        &["phone=1"],
        rows,
        &["phone=1 text=x", "email=c text=z", "2 merged, 1 excluded, 1 created, 1 updated"],
    );
    check(
        "by email phone; text set; no create",
        &["phone=1"],
        rows,
        &["phone=1 text=x", "1 merged, 2 excluded, 1 updated"],
    );
    // An id never creates, and a cell that is no id is rejected; here the row has no other identifier.
    check(
        "by id; text set",
        &["text=x"],
        &["id,text", "#1,y", "#7,z", "no-id,z"],
        &["text=y", "1 merged, 2 excluded, 1 updated"],
    );
    check(
        "by id email; text set",
        &["email=a"],
        &["id,email,text", "#7,b,x", "no-id,a,y"],
        &["email=a text=y", "email=b text=x", "2 merged, 1 cell rejected, 1 created, 1 updated"],
    );
}

#[test]
fn a_match_writes_identifiers_only_where_a_field_maps_them() {
    check(
        "by email phone; text set",
        &["email=a"],
        &["email,phone,text", "a,1,x"],
        &["email=a text=x", "1 merged, 1 updated"],
    );
    check(
        "by email phone; phone set",
        &["email=a phone=1"],
        &["email,phone", "a,2"],
        &["email=a phone=2", "1 merged, 1 updated"],
    );
    check(
        "by email; phone set-or-clear",
        &["email=a phone=1"],
        &["email,phone", "a,"],
        &["email=a", "1 merged, 1 updated"],
    );
    check(
        "by aliases; text set",
        &["aliases=a|b"],
        &["aliases,text", "b,x", "c,y"],
        &["aliases=a|b text=x", "aliases=c text=y", "2 merged, 1 created, 1 updated"],
    );
}

#[test]
fn a_value_that_another_record_holds_is_rejected() {
    check(
        "by email; phone set; text set",
        &["email=a phone=1", "email=b"],
        &["email,phone,text", "b,1,x"],
        &["email=a phone=1", "email=b text=x", "1 merged, 1 cell rejected, 1 updated"],
    );
    // Its own value is free, and so is one that its owner gave up in an earlier row.
    check(
        "by email; phone set-or-clear",
        &["email=a phone=1", "email=b"],
        &["email,phone", "a,1", "a,", "b,1"],
        &["email=a", "email=b phone=1", "3 merged, 2 updated"],
    );
    check(
        "by email; aliases add",
        &["email=a aliases=x", "email=b aliases=y"],
        &["email,aliases", "b,x|z|y"],
        &["email=a aliases=x", "email=b aliases=y|z", "1 merged, 1 cell rejected, 1 updated"],
    );
    check(
        "by email; phone set",
        &[],
        &["email,phone", "a,1", "b,1"],
        &["email=a phone=1", "email=b", "2 merged, 1 cell rejected, 2 created"],
    );
}

#[test]
fn identifiers_of_several_records_are_ambiguous() {
    let stored = &["email=a text=x texts=p @5", "phone=1 text=y texts=q|p number=1 @7"];
    let rows = &["email,phone,text", "a,1,z"];
    let by = |choice: &str| format!("by email phone; text set; ambiguous {choice}");
    let [first, second] =
        ["email=a text=x texts=p".to_owned(), "phone=1 text=y texts=q|p number=1".to_owned()];
    check(&by("reject"), stored, rows, &[&first, &second, "1 rejected"]);
    check(&by("first"), stored, rows, &["email=a text=z texts=p", &second, "1 merged, 1 updated"]);
    check(&by("newest"), stored, rows, &[&first, "phone=1 text=z texts=q|p number=1", "1 merged, 1 updated"]);
    check(
        &by("merge"),
        stored,
        rows,
        &["email=a phone=1 text=z texts=p|q number=1", "merged into 1", "1 merged, 1 updated"],
    );
    // The first identifier decides: on a tie, and about which record stays.
    check(
        "by phone email; text set; ambiguous newest",
        &["email=a @5", "phone=1 @5"],
        rows,
        &["email=a", "phone=1 text=z", "1 merged, 1 updated"],
    );
    check(
        "by phone email; ambiguous merge",
        stored,
        rows,
        &["merged into 2", "email=a phone=1 text=y texts=q|p number=1", "1 merged, 1 updated"],
    );
    // Two identifiers of one record are not ambiguous.
    check(
        "by email phone; text set",
        &["email=a phone=1"],
        rows,
        &["email=a phone=1 text=z", "1 merged, 1 updated"],
    );
}

#[test]
fn merged_records_are_found_by_all_their_identifiers() {
    // The phone of the removed record is given up, because the one that stays has its own.
    check(
        "by email phone; text set; ambiguous merge",
        &["email=a phone=1", "email=b phone=2"],
        &["email,phone,text", "a,2,x", "b,,y", ",1,z"],
        &["email=a phone=1 text=z", "merged into 1", "email=b text=y", "3 merged, 1 created, 1 updated"],
    );
    check(
        "by email phone aliases; text set; ambiguous merge",
        &["email=a", "phone=1", "aliases=p|q"],
        &["email,phone,aliases,text", "a,1,p,x", ",1,,y", ",,q,z"],
        &["email=a phone=1 aliases=p|q text=z", "merged into 1", "merged into 1", "3 merged, 1 updated"],
    );
}

#[test]
fn merges_of_one_record_are_limited() {
    let plan = |limit: u32| format!("by email phone; text set; ambiguous merge; merge limit {limit}");
    let stored = ["email=a", "email=b", "phone=1", "email=c"];
    // Each row makes one of two; the last one would make one of all four.
    let rows = ["email,phone,text", "a,1,x", "b,1,y", "c,1,z"];
    let (three, two) = (plan(3), plan(2));
    check(
        &three,
        &stored,
        &rows,
        &["merged into 4", "merged into 4", "merged into 4", "email=c phone=1 text=z", "3 merged, 1 updated"],
    );
    check(
        &two,
        &stored,
        &rows,
        &[
            "merged into 2",
            "email=b phone=1 text=y",
            "merged into 2",
            "email=c",
            "2 merged, 1 rejected, 1 updated",
        ],
    );
    check(&plan(0), &stored[..3], &rows[..2], &["email=a", "email=b", "phone=1", "1 rejected"]);
}

#[test]
fn merges_of_a_run_count_over_its_commits_and_interruptions() {
    let text = "by email phone; ambiguous merge; merge limit 1";
    let columns = ["email", "phone"].map(str::to_owned);
    let plan = plan(text, &columns);
    let context = Context {
        goal_run: 8,
        now: 100,
        merges_since: 8,
        file: 0,
        from: 0,
        rejections_left: u64::MAX,
        records_excluded: true,
    };
    let mut store = Store::new(&["email=a", "phone=1", "email=b"]);
    let mut apply = |context: Context, row: [&str; 2]| {
        let rows = [row.map(str::to_owned).to_vec()];
        let chunk = chunk(&plan, &columns, &rows, 1);
        let resolved: Vec<_> = chunk.hashes().iter().map(|hash| store.index.get(hash).copied()).collect();
        let ids = chunk.records(&resolved);
        let applied = chunk.apply(&plan, context, &resolved, &[], (&ids, store.load(&ids)), &mut NoEvents);
        store.commit(&applied, &applied.records, &chunk);
        let codes = applied.rejected.iter().map(|row| row.code.as_str().to_owned());
        (applied.merged.len(), codes.collect::<Vec<_>>())
    };
    let rejected = (0, vec!["merge-limit".to_owned()]);
    assert_eq!(apply(context, ["a", "1"]), (1, Vec::new()));
    assert_eq!(apply(context, ["b", "1"]), rejected);
    // A goal run that goes on with the same file.
    let continued = Context { goal_run: 9, ..context };
    assert_eq!(apply(continued, ["a", ""]), (0, Vec::new()));
    assert_eq!(apply(continued, ["b", "1"]), rejected);
    // The next one counts anew.
    assert_eq!(apply(Context { goal_run: 10, merges_since: 10, ..context }, ["b", "1"]), (1, Vec::new()));
}

#[test]
fn a_value_that_moves_keeps_what_set_it() {
    let text = "by email phone; text set; texts add; ambiguous merge";
    let columns = ["email", "phone", "text", "texts"].map(str::to_owned);
    let plan = plan(text, &columns);
    let mut store = Store::new(&["email=a texts=p", "phone=1 text=x texts=p|q", "email=c texts=p|q"]);
    for (id, record) in &mut store.records {
        record.provenance = Provenance::of(Setter { goal_run: u64::from(id.0[15]), file: 7 });
    }
    let rows = [["a", "1", "", ""], ["c", "", "", "q"]].map(|row| row.map(str::to_owned).to_vec());
    let chunk = chunk(&plan, &columns, &rows, 1);
    let resolved: Vec<_> = chunk.hashes().iter().map(|hash| store.index.get(hash).copied()).collect();
    let ids = chunk.records(&resolved);
    let context = Context {
        goal_run: 9,
        now: 100,
        merges_since: 9,
        file: 2,
        from: 0,
        rejections_left: u64::MAX,
        records_excluded: true,
    };
    let applied = chunk.apply(&plan, context, &resolved, &[], (&ids, store.load(&ids)), &mut NoEvents);
    store.commit(&applied, &applied.records, &chunk);
    let by = |number, name: &str| {
        let setter = store.records[&stored_id(number)].provenance.get(property(name).0);
        (setter.goal_run, setter.file)
    };
    assert_eq!(["email", "phone", "text", "texts"].map(|name| by(1, name)), [(1, 7), (2, 7), (2, 7), (9, 2)]);
    // A value that the record holds already is not set again.
    assert_eq!(by(3, "texts"), (3, 7));
}

#[test]
fn consent_is_judged_on_the_profile_as_the_row_leaves_it() {
    let plan = "by email; text set; consented add; refused add; consent ads";
    for (stored, row, after) in [
        ("email=a consented=ads", "a,x,,", &["email=a text=x consented=ads", "1 merged, 1 updated"]),
        ("email=a", "a,x,ads,", &["email=a text=x consented=ads", "1 merged, 1 updated"]),
        ("email=a", "a,x,,", &["email=a", "1 excluded"]),
        ("email=a consented=mail", "a,x,,", &["email=a consented=mail", "1 excluded"]),
        // A refusal wins, and is stored although the rest of the row is excluded.
        (
            "email=a consented=ads",
            "a,x,,ads",
            &["email=a consented=ads refused=ads", "1 excluded, 1 updated"],
        ),
        ("email=a refused=ads", "a,x,ads,", &["email=a refused=ads", "1 excluded"]),
    ] {
        check(plan, &[stored], &["email,text,consented,refused", row], after);
    }
    check(
        plan,
        &[],
        &["email,text,consented,refused", "a,x,,", "b,x,ads,", "c,x,,ads"],
        &["email=b text=x consented=ads", "email=c refused=ads", "1 merged, 2 excluded, 2 created"],
    );
}

/// For each type two values and a cell that does not fit.
const VALUES: [(&str, [&str; 2], Option<&str>); 5] = [
    ("text", ["a", "b"], None),
    ("number", ["1", "2.5"], Some("1,5")),
    ("boolean", ["true", "false"], Some("maybe")),
    ("date", ["2024-02-29", "2025-01-01"], Some("2025-02-29")),
    ("datetime", ["2026-01-02T03:04:05Z", "2026-06-07T08:09:10Z"], Some("yesterday")),
];

/// What one cell does, written down as simply as possible: the values after it, and whether the cell is rejected.
fn model(rule: &str, multiple: bool, held: &[&str], cell: &str, valid: &[&str]) -> (Vec<String>, bool) {
    let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
    let cell = if cell == "NULL" { "" } else { cell };
    let parts: Vec<&str> = match multiple {
        true => cell.split('|').filter(|part| !part.is_empty()).collect(),
        false => Some(cell).filter(|cell| !cell.is_empty()).into_iter().collect(),
    };
    if parts.is_empty() {
        return (if rule == "set-or-clear" { Vec::new() } else { owned(held) }, false);
    }
    let mut written: Vec<&str> = Vec::new();
    for part in parts.iter().filter(|part| valid.contains(part)) {
        if !written.contains(part) {
            written.push(part);
        }
    }
    let rejected = parts.iter().any(|part| !valid.contains(part));
    let after = match rule {
        _ if written.is_empty() => owned(held),
        "set-if-empty" if !held.is_empty() => owned(held),
        "add" => {
            let new = written.iter().filter(|value| !held.contains(value));
            owned(&held.iter().chain(new).copied().collect::<Vec<_>>())
        }
        "sum" => {
            let sum = held.iter().chain(&written).map(|number| number.parse::<f64>().unwrap()).sum::<f64>();
            vec![sum.to_string()]
        }
        _ => owned(&written),
    };
    (after, rejected)
}

#[test]
fn every_rule_with_every_type_every_start_and_every_cell() {
    let mut cases = 0;
    for (rule, kind, multiple) in MergeRule::NAMES.iter().flat_map(|(rule, _)| {
        VALUES.iter().flat_map(move |kind| [false, true].map(|multiple| (*rule, kind, multiple)))
    }) {
        let (kind, [one, other], bad) = *kind;
        let name = if multiple { format!("{kind}s") } else { kind.to_owned() };
        let merge_rule = MergeRule::NAMES.iter().find(|(known, _)| *known == rule).unwrap().1;
        if merge_rule.problem(&property(&name).1).is_some() {
            continue;
        }
        let (valid, bad) = (if kind == "text" { vec![one, other, "bad"] } else { vec![one, other] }, bad);
        let bad = bad.map_or("bad".to_owned(), |bad| bad.replace(',', "x"));
        let mut starts: Vec<Vec<&str>> = vec![vec![], vec![one], vec![other]];
        let mut cells = vec![String::new(), "NULL".to_owned(), one.to_owned(), other.to_owned(), bad.clone()];
        if multiple {
            starts.extend([vec![one, other], vec![other, one]]);
            cells.push("|".to_owned());
            cells.push(format!("{one}|{other}"));
            cells.push(format!("{other}|{one}|{other}"));
            cells.push(format!("{one}|{bad}"));
            cells.push(format!("{bad}|{bad}"));
        }
        for (start, cell) in starts.iter().flat_map(|start| cells.iter().map(move |cell| (start, cell))) {
            let with = |values: &[String]| match values {
                [] => "email=k".to_owned(),
                values => format!("email=k {name}={}", values.join("|")),
            };
            let start_values: Vec<String> = start.iter().map(|value| (*value).to_owned()).collect();
            let (after, rejected) = model(rule, multiple, start, cell, &valid);
            let rejected = if rejected { ", 1 cell rejected" } else { "" };
            let plan = format!("by email; {name} {rule}");
            let rows = [&format!("email,{name}") as &str, &format!("k,{cell}")];
            let class = if after == start_values { "unchanged" } else { "updated" };
            check(
                &plan,
                &[&with(&start_values)],
                &rows,
                &[&with(&after), &format!("1 merged{rejected}, 1 {class}")],
            );
            if start.is_empty() {
                // A record that the row creates holds the same.
                check(&plan, &[], &rows, &[&with(&after), &format!("1 merged{rejected}, 1 created")]);
            }
            cases += 1;
        }
    }
    assert!(cases > 400, "{cases}");
}

/// Applies rows to the stored records in chunks of `size` rows, and answers with the records after that.
fn in_chunks(plan_text: &str, columns: &[String], rows: &[Vec<String>], size: usize) -> Vec<String> {
    let (plan, mut store) = (plan(plan_text, columns), Store::default());
    for (goal_run, rows) in (1..).zip(rows.chunks(size)) {
        let context = Context {
            goal_run,
            merges_since: 1,
            file: 0,
            now: 100,
            from: 0,
            rejections_left: u64::MAX,
            records_excluded: true,
        };
        let chunk = chunk(&plan, columns, rows, size);
        let resolved: Vec<_> = chunk.hashes().iter().map(|hash| store.index.get(hash).copied()).collect();
        let ids = chunk.records(&resolved);
        let before = store.records.len() as i64;
        let applied = chunk.apply(&plan, context, &resolved, &[], (&ids, store.load(&ids)), &mut NoEvents);
        store.commit(&applied, &applied.records, &chunk);
        store.verify();
        assert_eq!(before + applied.grown, store.records.len() as i64);
    }
    let mut shown: Vec<String> = store.records.values().map(shown).collect();
    shown.sort();
    shown
}

/// Long values are taken out of their records while several rows of a chunk are applied to them: rows of their own chunks give
/// the same.
#[test]
fn long_values_are_merged_as_short_ones() {
    let columns = ["email", "phone", "aliases", "text", "texts", "number"].map(str::to_owned);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for rules in [
        "aliases add; text set; texts add; number sum",
        "aliases add; text set-if-empty; texts set-or-clear; number sum",
        "aliases set; text set-or-clear; texts set-if-empty; number sum",
    ] {
        let rows: Vec<Vec<String>> = (0..400)
            .map(|_| {
                let long = |number: u64| format!("{number}-{}", "x".repeat(200));
                let mut list = |most: u64, below: u64| {
                    (0..random(most)).map(|_| long(random(below))).collect::<Vec<_>>().join("|")
                };
                let (aliases, texts, text) = (list(3, 200), list(4, 300), list(12, 3));
                vec![
                    format!("p{}", random(3)),
                    if random(40) == 0 { format!("f{}", random(3)) } else { String::new() },
                    aliases,
                    text,
                    texts,
                    random(9).to_string(),
                ]
            })
            .collect();
        for ambiguous in ["first", "merge"] {
            let plan = format!("by email phone; ambiguous {ambiguous}; {rules}");
            let one_by_one = in_chunks(&plan, &columns, &rows, 1);
            assert!(one_by_one.concat().len() > 5000);
            for size in [7, 400] {
                assert!(in_chunks(&plan, &columns, &rows, size) == one_by_one, "{plan}, chunks of {size}");
            }
        }
    }
}

/// Each row would copy a list, and look through it: this takes minutes then.
#[test]
fn lists_of_many_rows_grow_in_linear_time() {
    const ROWS: usize = 60_000;
    let columns = ["email", "aliases", "texts", "number"].map(str::to_owned);
    let row = |number: usize| ["a@x".to_owned(), format!("a{number}"), format!("t{number}"), "1".to_owned()];
    let rows: Vec<Vec<String>> = (0..ROWS).map(|number| row(number).to_vec()).collect();
    let records = in_chunks("by email; aliases add; texts add; number sum", &columns, &rows, ROWS / 3);
    assert!(records.len() == 1 && records[0].ends_with(&format!("|t{} number={ROWS}", ROWS - 1)));
    assert_eq!(records[0].matches('|').count(), 2 * (ROWS - 1));
}
