//! What any backend must do: a suite that runs against each of them. A backend has a [`Fixture`], and a line at the end.

use std::collections::BTreeMap;
use std::ops::Range;

use jiff::{SignedDuration, Timestamp};
use sluicebox_model::{
    Event, EventKey, EventOrigin, EventTouch, EventTypeId, Identifier, IdentifierHash, Property, PropertyId,
    Provenance, Record, RecordId, Setter, SpaceId, Value,
};

use crate::*;

/// A place for stores of a backend, each of its own.
trait Fixture {
    fn new() -> Self;
    /// Where the store is; nothing is there at first.
    fn location(&self) -> StoreLocation;
    /// Leaves what a process leaves that dies at the moment when a large commit of these records and identifiers is decided,
    /// before the rest of its work is done.
    fn die_in_commit(
        &self,
        store: Store,
        records: &[(RecordId, Record)],
        identifiers: &[(IdentifierHash, Option<RecordId>)],
    );

    fn open(&self) -> Store {
        Store::open(&self.location()).unwrap()
    }
}

const SPACE: SpaceId = SpaceId(1);
const NAME: PropertyId = PropertyId(1);
const EMAIL: PropertyId = PropertyId(2);
const ORDER: EventTypeId = EventTypeId(1);
/// Enough records for a commit that backends write in another way than small ones.
const MANY: u32 = 25_000;

fn id(number: u32) -> RecordId {
    let mut id = [1; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    RecordId(id)
}

fn email(number: u32) -> Value {
    Value::Text(format!("c{number}@example.com").into())
}

fn identifier(number: u32) -> Identifier {
    Identifier::new(SPACE, EMAIL, &email(number))
}

fn hash(store: &Store, number: u32) -> IdentifierHash {
    store.hasher().hash(&identifier(number).0)
}

fn sorted(store: &Store, numbers: Range<u32>) -> Vec<IdentifierHash> {
    let mut hashes: Vec<IdentifierHash> = numbers.map(|number| hash(store, number)).collect();
    hashes.sort_unstable();
    hashes
}

/// A record with an email address and a name, last changed at a time.
fn record(number: u32, name: &str, modified: i64) -> Record {
    let mut record = Record::new(SPACE, modified);
    record.set(NAME, &Property::One(Value::Text(name.into())));
    record.set(EMAIL, &Property::One(email(number)));
    record
}

/// Records and their identifiers.
fn filled<'l>(store: &Store, numbers: Range<u32>, name: &str, modified: i64) -> Commit<'l> {
    Commit {
        records: numbers.clone().map(|number| (id(number), record(number, name, modified))).collect(),
        identifiers: numbers.map(|number| (hash(store, number), Some(id(number)))).collect(),
        ..Commit::default()
    }
}

fn begin(store: &Store, clock: i64) -> GoalRunLease {
    store.begin_goal_run(clock, |number| format!("begun {number}").into_bytes()).unwrap()
}

fn end(store: &Store, lease: &GoalRunLease) {
    let report = Some(b"ended".to_vec());
    store.commit(Commit { lease: Some(lease), report, ends_goal_run: true, ..Commit::default() }).unwrap();
}

/// A goal run that commits once; its time, and its number.
fn run<'c>(store: &Store, clock: i64, commit: impl FnOnce(i64, u64) -> Commit<'c>) -> (i64, u64) {
    let lease = begin(store, clock);
    let changed = Some(Changed { file: "in/a.csv", keep: true });
    let commit = commit(lease.time(), lease.number());
    store.commit(Commit { lease: Some(&lease), changed, ..commit }).unwrap();
    end(store, &lease);
    (lease.time(), lease.number())
}

fn name_of(store: &Store, number: u32) -> Option<String> {
    store.load(id(number)).unwrap().map(|(_, record)| record.values(NAME)[0].to_string())
}

fn order(number: u32, order: &str, second: i64, goal_run: u64) -> (EventKey, Event) {
    let key = EventKey { record: id(number), event_type: ORDER, id: order.into() };
    let event = Event {
        time: Timestamp::from_second(second).unwrap().into(),
        properties: Vec::new(),
        nested: Vec::new(),
        product_store: false,
        touch: EventTouch { goal_run, ..EventTouch::default() },
        origin: EventOrigin::default(),
    };
    (key, event)
}

/// A record's sum of fingerprints with these events.
fn with_events(mut record: Record, events: &[(EventKey, Event)]) -> Record {
    record.events = events.iter().fold(0, |sum, (key, event)| sum.wrapping_add(event.fingerprint(key)));
    record
}

fn is_whole(store: &Store) -> Verification {
    let found = store.verify(&[EMAIL]).unwrap();
    assert_eq!((found.problems, &found.described), (0, &Vec::new()));
    found
}

fn names_have_numbers_for_ever(fixture: &impl Fixture) {
    let store = fixture.open();
    assert_eq!(store.known_property(Owner::Profile, "email"), None);
    let email = store.property(Owner::Profile, "email").unwrap();
    let of_group = store.property(Owner::Group("home"), "email").unwrap();
    let space = store.domain_group("default").unwrap();
    let nested = store.nested_type("order", "lines").unwrap();
    assert_ne!(email, of_group);
    assert_eq!(store.property(Owner::Profile, "email").unwrap(), email);
    drop(store);
    let store = fixture.open();
    assert_eq!(store.known_property(Owner::Profile, "email"), Some(email));
    assert_eq!(store.known_nested_type("order", "lines"), Some(nested));
    let other = store.property(Owner::Profile, "name").unwrap();
    assert!(![email, of_group].contains(&other) && ![space.0, nested.0].contains(&other.0));
    let names = store.names();
    assert_eq!(names.profile_properties.len(), 2);
    assert_eq!(names.group_properties[&("home".to_owned(), "email".to_owned())], of_group);
    assert_eq!(names.domain_groups[&space], "default");
}

fn identifiers_find_their_records(fixture: &impl Fixture) {
    let store = fixture.open();
    assert_eq!(store.find(&identifier(1)).unwrap(), None);
    store.commit(filled(&store, 0..100, "Ann", 1)).unwrap();
    let found = store.find_sorted(&sorted(&store, 0..101)).unwrap();
    assert_eq!(found.iter().flatten().count(), 100);
    // One is removed, one moves to another record.
    let identifiers = vec![(hash(&store, 1), None), (hash(&store, 2), Some(id(3)))];
    store.commit(Commit { identifiers, ..Commit::default() }).unwrap();
    let found = |store: &Store| [1, 2, 3].map(|number| store.find(&identifier(number)).unwrap());
    assert_eq!(found(&store), [None, Some(id(3)), Some(id(3))]);
    let other_space = Identifier::new(SpaceId(2), EMAIL, &email(3));
    assert_eq!(store.find(&other_space).unwrap(), None);
    drop(store);
    assert_eq!(found(&fixture.open()), [None, Some(id(3)), Some(id(3))]);
}

fn records_are_loaded_and_merged_ones_lead_to_the_one_that_stayed(fixture: &impl Fixture) {
    let store = fixture.open();
    store.commit(filled(&store, 0..10, "Ann", 1)).unwrap();
    store.commit(Commit { merged: vec![(id(1), id(2))], ..Commit::default() }).unwrap();
    store.commit(Commit { merged: vec![(id(2), id(3))], ..Commit::default() }).unwrap();
    let found = |number| store.load(id(number)).unwrap().map(|(id, _)| id);
    assert_eq!([0, 1, 2, 3, 10].map(found), [Some(id(0)), Some(id(3)), Some(id(3)), Some(id(3)), None]);
    let ids = [0, 1, 5, 10].map(id);
    for loaded in [store.load_sorted(&ids).unwrap(), store.load_part(&ids, 1_000_000).unwrap()] {
        let loaded: Vec<_> = loaded.into_iter().map(|found| found.map(|(id, _)| id)).collect();
        assert_eq!(loaded, [Some(id(0)), Some(id(3)), Some(id(5)), None]);
    }
    let all: Vec<RecordId> = store.records().unwrap().map(|entry| entry.unwrap().0).collect();
    assert_eq!(all, [0, 3, 4, 5, 6, 7, 8, 9].map(id));
    let pages: Vec<StoredRecords> = store.all_records(4, None).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(pages.iter().all(|page| page.count() <= 4));
    let decoded = pages.iter().flat_map(|page| page.decode().unwrap()).map(|(id, _)| id);
    assert_eq!(decoded.collect::<Vec<_>>(), all);
}

fn a_large_commit_reads_as_a_small_one_and_a_later_one_wins(fixture: &impl Fixture) {
    let store = fixture.open();
    store.commit(filled(&store, 0..MANY, "Ann", 1)).unwrap();
    store.commit(filled(&store, 10_000..10_000 + MANY, "Bea", 2)).unwrap();
    store.commit(filled(&store, 9_998..9_999, "Cid", 3)).unwrap();
    let seen = |store: &Store| {
        let found = |number| store.find(&identifier(number)).unwrap().map(|found| found == id(number));
        let named = [0, 9_998, 9_999, 10_000, 34_999].map(|number| name_of(store, number).unwrap());
        (named, [0, 34_999, 35_000].map(found), store.records().unwrap().count())
    };
    let expected =
        (["Ann", "Cid", "Ann", "Bea", "Bea"].map(str::to_owned), [Some(true), Some(true), None], 35_000);
    assert_eq!(seen(&store), expected);
    drop(store);
    assert_eq!(seen(&fixture.open()), expected);
}

fn what_a_writer_holds_is_in_the_store_once_it_is_committed(fixture: &impl Fixture) {
    let store = fixture.open();
    store.commit(filled(&store, 0..MANY, "Ann", 1)).unwrap();
    let packer = store.packer();
    let pack = |numbers: Range<u32>| {
        let records: Vec<_> = numbers.map(|number| (id(number), record(number, "Bea", 2))).collect();
        packer.pack(&records, 2)
    };
    let write = || {
        let mut writer = store.writer(WriterHints::default()).unwrap();
        writer.put(&pack(50_000..50_002), None).unwrap();
        // Records that come after greater ones, and greater ones than announced.
        for from in (0..20).rev() {
            let records = pack(from * 5000 + 100_000..from * 5000 + 105_000);
            writer.put(&records, Some(id(60_000))).unwrap();
        }
        writer.put(&pack(10..11), None).unwrap();
        writer.put(&pack(60_000..60_001), None).unwrap();
        let removed = sorted(&store, 10_000..20_000);
        writer.put_identifiers(removed.into_iter().map(|hash| (hash, None)));
        for numbers in [100_000..101_000, 101_000..101_001, 101_001..103_000] {
            let hashes = sorted(&store, numbers.clone());
            assert!(!writer.contains_any(&hashes));
            writer.put_identifiers(hashes.into_iter().map(|hash| (hash, Some(id(numbers.start)))));
        }
        let contains = |numbers| writer.contains_any(&sorted(&store, numbers));
        assert!(contains(10_000..10_001) && contains(101_000..101_001) && contains(102_999..104_000));
        assert!(!contains(0..10_000) && !contains(103_000..104_000));
        assert!(writer.memory() >= 13_000 * 16);
        writer
    };
    // A writer that is dropped leaves nothing.
    drop(write());
    assert_eq!((name_of(&store, 50_000), store.find(&identifier(101_000)).unwrap()), (None, None));
    let before = begin(&store, 1);
    let since = store.change_cursor(&before);
    end(&store, &before);
    let lease = begin(&store, 2);
    assert_eq!(lease.time(), 2);
    let changed = Some(Changed { file: "in/a.csv", keep: false });
    write().commit(Commit { lease: Some(&lease), changed, ..Commit::default() }).unwrap();
    let check = |store: &Store| {
        let named = [9, 10, 50_001, 60_000, 100_000, 199_999, 200_000].map(|number| name_of(store, number));
        let expected = [Some("Ann"), Some("Bea"), Some("Bea"), Some("Bea"), Some("Bea"), Some("Bea"), None];
        assert_eq!(named.each_ref().map(Option::as_deref), expected);
        let found = |number| store.find(&identifier(number)).unwrap();
        assert_eq!([9_999, 10_000, 19_999].map(found), [Some(id(9_999)), None, None]);
        assert_eq!([100_999, 101_000, 102_999].map(found), [100_000, 101_000, 101_001].map(id).map(Some));
        assert_eq!(store.changed_since(since).unwrap().map(|ids| ids.len()), Some(100_004));
    };
    check(&store);
    drop(store);
    check(&fixture.open());
}

fn a_commit_that_met_another_writer_writes_nothing(fixture: &impl Fixture) {
    let store = fixture.open();
    store.commit(filled(&store, 0..2, "Ann", 1)).unwrap();
    let lease = begin(&store, 10);
    let read_point = Some(store.read_point());
    let own = |numbers, read_point, file| Commit {
        lease: Some(&lease),
        read_point,
        file: Some((file, FileState { position: 7, complete: false })),
        ..filled(&store, numbers, "Own", 10)
    };
    // What the same goal run wrote is no conflict.
    store.commit(own(5..6, read_point, [1; 32])).unwrap();
    store.commit(own(5..7, read_point, [1; 32])).unwrap();
    // Another writer changes a record that was read.
    store.commit(filled(&store, 0..1, "Other", 11)).unwrap();
    let refused = store.commit(own(0..1, read_point, [2; 32]));
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict))), "{refused:?}");
    let mut writer = store.writer(WriterHints::default()).unwrap();
    writer.put_identifiers([(hash(&store, 0), Some(id(9)))].into_iter());
    let refused = writer.commit(Commit { lease: Some(&lease), read_point, ..Commit::default() });
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict))), "{refused:?}");
    assert_eq!(name_of(&store, 0).as_deref(), Some("Other"));
    assert_eq!(
        (store.find(&identifier(0)).unwrap(), store.file_state(&[2; 32]).unwrap()),
        (Some(id(0)), None)
    );
    // Read again and applied again, it is committed.
    store.commit(own(0..1, Some(store.read_point()), [2; 32])).unwrap();
    assert_eq!(name_of(&store, 0).as_deref(), Some("Own"));
    // So is a commit that says nothing of what it read.
    store.commit(filled(&store, 0..1, "Other", 12)).unwrap();
    store.commit(own(0..1, None, [2; 32])).unwrap();
    // An erasure is a write too.
    let read_point = Some(store.read_point());
    assert!(store.erase(id(1), &[EMAIL], &[7; 32], 5).unwrap());
    let refused = store.commit(own(1..2, read_point, [2; 32]));
    assert!(matches!(refused, Err(StoreError::Conflict(Conflict))), "{refused:?}");
    assert_eq!(name_of(&store, 1), None);
}

fn goal_runs_have_growing_numbers_and_times(fixture: &impl Fixture) {
    let store = fixture.open();
    let first = begin(&store, 1000);
    end(&store, &first);
    // The clock was set back.
    let second = begin(&store, 10);
    assert!(second.number() > first.number() && second.time() > first.time());
    assert_eq!(first.time(), 1000);
    let history = |store: &Store| store.history().collect::<Result<Vec<_>, _>>().unwrap();
    let begun = format!("begun {}", second.number()).into_bytes().into_boxed_slice();
    let expected = [(second.number(), begun), (first.number(), b"ended"[..].into())];
    assert_eq!(history(&store), expected);
    end(&store, &second);
    drop(store);
    let store = fixture.open();
    assert!(store.interrupted().unwrap().is_empty());
    let third = begin(&store, 0);
    assert!(third.number() > second.number() && third.time() > second.time());
}

fn a_goal_run_that_has_ended_or_was_taken_over_commits_nothing(fixture: &impl Fixture) {
    let store = fixture.open();
    let ended = begin(&store, 1);
    end(&store, &ended);
    let refused = |store: &Store, lease: &GoalRunLease| {
        let commit = Commit { lease: Some(lease), ..filled(store, 0..1, "Late", 1) };
        let found = store.commit(commit);
        let number = lease.number();
        assert!(matches!(found, Err(StoreError::LeaseLost { goal_run }) if goal_run == number), "{found:?}");
        let report = Commit { lease: Some(lease), report: Some(b"late".to_vec()), ..Commit::default() };
        assert!(matches!(store.commit(report), Err(StoreError::LeaseLost { .. })));
        assert!(matches!(store.undo((1, 1), lease, &[]), Err(StoreError::LeaseLost { .. })));
    };
    refused(&store, &ended);
    // A goal run whose lease is in use is not interrupted; one that dropped it is taken over.
    let lost = begin(&store, 2);
    let other = begin(&store, 3);
    assert!(store.interrupted().unwrap().is_empty());
    end(&store, &other);
    let (number, time) = (lost.number(), lost.time());
    drop(lost);
    let (taken, report) = store.interrupted().unwrap().pop().unwrap();
    assert!(taken.number() == number && taken.time() >= time);
    assert_eq!(report, format!("begun {number}").into_bytes());
    assert_eq!(store.records().unwrap().count(), 0);
    store.commit(Commit { lease: Some(&taken), ..filled(&store, 0..1, "Ann", 2) }).unwrap();
    end(&store, &taken);
    refused(&store, &taken);
    assert!(store.interrupted().unwrap().is_empty());
    assert_eq!(name_of(&store, 0).as_deref(), Some("Ann"));
    let reports: Vec<_> = store.history().map(|entry| entry.unwrap().1).collect();
    assert!(reports.iter().all(|report| **report == b"ended"[..]), "{reports:?}");
}

fn goal_runs_at_a_time_change_records_in_the_order_of_their_times(fixture: &impl Fixture) {
    let store = fixture.open();
    let changed = Some(Changed { file: "in/a.csv", keep: true });
    let write = |lease: &GoalRunLease, numbers: Range<u32>, name: &str| {
        let commit = filled(&store, numbers, name, lease.time());
        store.commit(Commit { lease: Some(lease), changed, ..commit }).unwrap();
    };
    let (mut one, mut other) = (begin(&store, 10), begin(&store, 11));
    assert!(!store.advance(&mut other, 12).unwrap());
    write(&other, 1..2, "Other");
    let begun = one.time();
    assert!(store.advance(&mut one, 0).unwrap() && one.time() > other.time());
    let first = one.time();
    write(&one, 2..3, "One");
    // An export begins: what is committed from now on is after its cursor.
    let export = begin(&store, 13);
    let cursor = store.change_cursor(&export);
    assert_eq!(store.changed_since(cursor).unwrap(), Some(Vec::new()));
    assert!(store.advance(&mut one, 20).unwrap() && one.time() == 20);
    write(&one, 1..4, "One");
    assert_eq!(store.changed_since(cursor).unwrap(), Some(vec![id(1), id(2), id(3)]));
    [&one, &other, &export].iter().for_each(|lease| end(&store, lease));
    assert_eq!([begun, first, 20].map(|time| store.can_undo(time).unwrap()), [false, true, true]);
    // What the other changed was changed since, until that is undone.
    let undo = begin(&store, 30);
    let undone = |time, lease: &GoalRunLease| {
        let report = store.undo((time, lease.number()), &undo, &[EMAIL]).unwrap();
        (report.restored, report.removed, report.not_restored.len())
    };
    assert_eq!(undone(other.time(), &other), (0, 0, 1));
    assert_eq!(undone(20, &one), (1, 1, 0));
    assert_eq!(name_of(&store, 1).as_deref(), Some("Other"));
    assert_eq!(undone(first, &one), (0, 1, 0));
    assert_eq!(undone(other.time(), &other), (0, 1, 0));
    assert_eq!(store.records().unwrap().count(), 0);
}

fn the_ledger_remembers_files(fixture: &impl Fixture) {
    let store = fixture.open();
    let (file, set) = ([1; 32], [2; 32]);
    assert_eq!(store.file_state(&file).unwrap(), None);
    for (position, complete) in [(5, false), (9, true)] {
        let state = FileState { position, complete };
        store.commit(Commit { file: Some((file, state)), ..Commit::default() }).unwrap();
        assert_eq!(store.file_state(&file).unwrap(), Some(state));
    }
    let unfinished = |rest: &[u8]| Commit { unfinished: Some((set, rest.to_vec())), ..Commit::default() };
    store.commit(unfinished(b"rename a.csv")).unwrap();
    assert_eq!(store.unfinished().unwrap(), [(set, b"rename a.csv"[..].into())]);
    store.remember_digest("etag-1", [3; 32]).unwrap();
    store.note_imports(&[(file, b"first".to_vec()), ([4; 32], b"other".to_vec())]).unwrap();
    store.commit(Commit { import_notes: vec![(file, b"second".to_vec())], ..Commit::default() }).unwrap();
    drop(store);
    let store = fixture.open();
    assert_eq!(store.file_state(&file).unwrap(), Some(FileState { position: 9, complete: true }));
    assert_eq!(store.file_state(&set).unwrap(), None);
    assert_eq!((store.digest("etag-1").unwrap(), store.digest("etag-2").unwrap()), (Some([3; 32]), None));
    let notes = [file, [4; 32], set].map(|key| store.import_note(&key).unwrap());
    assert_eq!(notes, [Some(b"second".to_vec()), Some(b"other".to_vec()), None]);
    store.commit(unfinished(b"")).unwrap();
    assert_eq!(store.unfinished().unwrap(), []);
}

fn the_count_is_that_of_a_walk_whatever_happens(fixture: &impl Fixture) {
    let other = SpaceId(2);
    let moved = |now| Record::new(other, now);
    let mut store = fixture.open();
    let check = |store: &Store, expected: [u64; 2]| {
        let mut walked = BTreeMap::from([(SPACE, 0), (other, 0)]);
        for entry in store.records().unwrap() {
            *walked.entry(entry.unwrap().1.space).or_default() += 1;
        }
        let counted = [SPACE, other].map(|space| store.count(space).unwrap());
        assert_eq!((counted, [walked[&SPACE], walked[&other]]), (expected, expected));
        assert_eq!(store.count(SpaceId(9)).unwrap(), 0);
    };
    check(&store, [0, 0]);
    // Created; some of them again, beside new ones; in another space.
    run(&store, 10, |now, _| filled(&store, 0..5, "Ann", now));
    let (at, number) = run(&store, 20, |now, _| filled(&store, 3..8, "Bea", now));
    run(&store, 30, |now, _| Commit { records: vec![(id(900_000), moved(now))], ..Commit::default() });
    check(&store, [8, 1]);
    // Merged, also one that was never there, and one that is written in the same commit.
    run(&store, 40, |now, _| Commit {
        merged: vec![(id(0), id(1)), (id(70), id(1))],
        ..filled(&store, 1..2, "Both", now)
    });
    check(&store, [7, 1]);
    // Undone: records of the goal run are removed, but for those that others have changed.
    let lease = begin(&store, 50);
    assert_eq!(store.undo((at, number), &lease, &[EMAIL]).unwrap().removed, 3);
    end(&store, &lease);
    check(&store, [4, 1]);
    assert!(store.erase(id(0), &[EMAIL], &[7; 32], 60).unwrap(), "by way of the record that was merged");
    assert!(!store.erase(id(1), &[EMAIL], &[7; 32], 60).unwrap());
    check(&store, [3, 1]);
    drop(store);
    store = fixture.open();
    check(&store, [3, 1]);
    // Large commits, whose writer says how many are new, or does not.
    store.commit(filled(&store, 2..MANY, "Cid", 70)).unwrap();
    check(&store, [u64::from(MANY) - 2, 1]);
    let packer = store.packer();
    let mut next = MANY;
    let mut write = |grown: Option<Grown>| {
        let mut writer = store.writer(WriterHints::default()).unwrap();
        let records: Vec<_> =
            (next - 10..next + 10).map(|number| (id(number), record(number, "Dan", 80))).collect();
        writer.put(&packer.pack(&records, 80), None).unwrap();
        next += 10;
        writer.commit(Commit { grown, ..Commit::default() }).unwrap();
    };
    write(Some(vec![(SPACE, 12), (SPACE, -2), (other, 0)]));
    check(&store, [u64::from(MANY) + 8, 1]);
    write(None);
    check(&store, [u64::from(MANY) + 18, 1]);
    store.commit(filled(&store, 0..1, "Eve", 90)).unwrap();
    check(&store, [u64::from(MANY) + 19, 1]);
    is_counted(&store);
    drop(store);
    // What is not known is counted once.
    store = fixture.open();
    check(&store, [u64::from(MANY) + 19, 1]);
    store.commit(Commit { merged: vec![(id(900_000), id(2))], ..filled(&store, 0..2, "Eve", 91) }).unwrap();
    check(&store, [u64::from(MANY) + 20, 0]);
    check(&Store::open_read_only(&fixture.location()).unwrap().unwrap(), [u64::from(MANY) + 20, 0]);
    is_counted(&store);
}

/// The store's own check finds no other number of records than it keeps.
fn is_counted(store: &Store) {
    let found = store.verify(&[]).unwrap();
    assert!(!found.described.concat().contains("are counted"), "{:?}", found.described);
}

fn events_are_written_over_and_removed(fixture: &impl Fixture) {
    let store = fixture.open();
    // Some ids are so long that keys hold their hashes.
    let name =
        |number: u32| format!("o{number}{}", "x".repeat(if number.is_multiple_of(7) { 80 } else { 0 }));
    for (count, removed) in [(30_000, 3), (20, 2)] {
        let event = |number: u32, second| order(number, &name(number), second, 1);
        let written = |second| (0..count).rev().map(move |number| event(number, second));
        let events = written(1).map(|(key, event)| (key, Some(event))).collect();
        store.commit(Commit { events, ..Commit::default() }).unwrap();
        let gone = |key: &EventKey| u32::from(key.record.0[3]).is_multiple_of(removed);
        let events = written(2).map(|(key, event)| {
            let event = (!gone(&key)).then_some(event);
            (key, event)
        });
        store.commit(Commit { events: events.collect(), ..Commit::default() }).unwrap();
        for number in [0, 1, 2, 7, count - 1] {
            let found = store.events_of(id(number)).unwrap();
            let key = event(number, 0).0;
            let at = |events: Vec<(EventKey, Event)>| {
                events.into_iter().map(|(key, event)| (key, event.time.as_second())).collect::<Vec<_>>()
            };
            let expected = if gone(&key) { Vec::new() } else { vec![(key.clone(), 2)] };
            assert_eq!(at(found), expected, "{number}");
            let loaded = store.load_events_sorted(std::slice::from_ref(&key)).unwrap();
            assert_eq!(loaded[0].is_some(), !expected.is_empty());
        }
    }
    let keys: Vec<EventKey> = store.events().unwrap().map(|entry| entry.unwrap().0).collect();
    assert!(keys.is_sorted_by_key(|key| (key.record, key.event_type)));
    assert_eq!(keys.first().map(|key| key.record), Some(id(1)));
}

fn changes_are_listed_in_commit_order(fixture: &impl Fixture) {
    let store = fixture.open();
    let change = |clock: i64, numbers: &[u32]| {
        let lease = begin(&store, clock);
        let records = numbers.iter().map(|number| (id(*number), record(*number, "Ann", lease.time())));
        let changed = Some(Changed { file: "in/a.csv", keep: false });
        let commit = Commit { lease: Some(&lease), changed, records: records.collect(), ..Commit::default() };
        store.commit(commit).unwrap();
        let cursor = store.change_cursor(&lease);
        end(&store, &lease);
        cursor
    };
    let first = change(10, &[0, 1, 2]);
    change(20, &[1]);
    let last = change(30, &[1, 2, 3]);
    let since = |cursor| store.changed_since(cursor).unwrap();
    assert_eq!(since(first), Some([1, 2, 3].map(id).to_vec()));
    assert_eq!(since(last), Some(Vec::new()));
    // A cursor is kept as bytes.
    assert_eq!(ChangeCursor::from_bytes(&first.to_bytes()), Some(first));
    assert_eq!(ChangeCursor::from_bytes(&[1]), None);
    // A walk through all records finds the same.
    let walked = |cursor| {
        let pages = store.all_records(2, Some(cursor)).unwrap();
        let decoded = pages.flat_map(|page| page.unwrap().decode().unwrap());
        decoded.map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!((walked(first), walked(last)), ([1, 2, 3].map(id).to_vec(), Vec::new()));
    // Records that a commit writes without changing them are not listed.
    let lease = begin(&store, 40);
    let changed = Some(Changed { file: "in/b.csv", keep: false });
    let records = vec![(id(0), record(0, "Ann", 10))];
    store.commit(Commit { lease: Some(&lease), changed, records, ..Commit::default() }).unwrap();
    assert_eq!(since(last), Some(Vec::new()));
}

fn the_oldest_lists_of_changes_are_forgotten(fixture: &impl Fixture) {
    let store = fixture.open();
    let many: Vec<RecordId> = (0..60_000).map(|_| RecordId::create()).collect();
    let change = |clock: i64, ids: &[RecordId]| {
        let lease = begin(&store, clock);
        let changed = Some(Changed { file: "", keep: false });
        let records = ids.iter().map(|id| (*id, Record::new(SPACE, lease.time()))).collect();
        store.commit(Commit { lease: Some(&lease), changed, records, ..Commit::default() }).unwrap();
        store.change_cursor(&lease)
    };
    let first = change(10, &[id(0), id(1), id(2)]);
    let second = change(40, &many);
    change(50, &many);
    // Some backends count records that were written twice as two until then.
    store.compact().unwrap();
    store.trim_changes().unwrap();
    assert_eq!(store.changed_since(first).unwrap(), None);
    assert_eq!(store.changed_since(second).unwrap().map(|ids| ids.len()), Some(60_000));
}

fn an_export_goal_remembers_its_last_run(fixture: &impl Fixture) {
    let store = fixture.open();
    let lease = begin(&store, 10);
    let state = ExportState { until: store.change_cursor(&lease), settings: [4; 32] };
    assert_eq!(store.export_state(&[1; 32]).unwrap(), None);
    store
        .commit(Commit { lease: Some(&lease), export: Some(([1; 32], state)), ..Commit::default() })
        .unwrap();
    drop(store);
    let store = fixture.open();
    assert_eq!(store.export_state(&[1; 32]).unwrap(), Some(state));
    assert_eq!(store.export_state(&[2; 32]).unwrap(), None);
}

/// Each byte of a sketch is a set of eight profiles.
fn union(one: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    Some(one.iter().zip(other).map(|(one, other)| one | other).collect())
}

fn sketches_of_two_writers_are_merged(fixture: &impl Fixture) {
    let store = fixture.open();
    let write = |base: &[u8], sketch: &[u8]| {
        let (base, sketch) = (base.to_vec(), sketch.to_vec());
        let exchanged = Some(SketchUpdate { key: "in shop".to_owned(), base, sketch, merge: union });
        store.commit(Commit { exchanged, ..Commit::default() }).unwrap();
        store.exchanged("in shop").unwrap().unwrap()
    };
    assert_eq!(store.exchanged("in shop").unwrap(), None);
    assert_eq!(write(&[], &[0b0001]), [0b0001]);
    assert_eq!(write(&[0b0001], &[0b0011]), [0b0011]);
    // Two that began with the same sketch.
    assert_eq!(write(&[0b0011], &[0b0111]), [0b0111]);
    assert_eq!(write(&[0b0011], &[0b1011]), [0b1111]);
    assert_eq!(store.exchanged("out shop").unwrap(), None);
}

fn a_goal_run_is_undone_but_for_what_changed_since(fixture: &impl Fixture) {
    let store = fixture.open();
    // Two records, each with an order.
    let first = run(&store, 10, |now, goal_run| {
        let events: Vec<_> = [0, 1].map(|number| order(number, "o1", 1, goal_run)).into();
        let of = |number: u32| vec![events[number as usize].clone()];
        let records = [0, 1].map(|number| (id(number), with_events(record(number, "Ann", now), &of(number))));
        let identifiers = [0, 1].map(|number| (hash(&store, number), Some(id(number))));
        let events = events.into_iter().map(|(key, event)| (key, Some(event))).collect();
        Commit { records: records.into(), identifiers: identifiers.into(), events, ..Commit::default() }
    });
    // Both get another name, the first another email and a later order; a third is created.
    let (at, number) = run(&store, 20, |now, goal_run| {
        let later = order(0, "o1", 2, goal_run);
        let mut changed = with_events(record(50, "Bea", now), std::slice::from_ref(&later));
        changed.created = first.0;
        let mut second = store.load(id(1)).unwrap().unwrap().1;
        second.set(NAME, &Property::One(Value::Text("Bea".into())));
        second.modified = now;
        Commit {
            records: vec![(id(0), changed), (id(1), second), (id(2), record(2, "New", now))],
            identifiers: vec![
                (hash(&store, 0), None),
                (hash(&store, 50), Some(id(0))),
                (hash(&store, 2), Some(id(2))),
            ],
            events: vec![(later.0, Some(later.1))],
            ..Commit::default()
        }
    });
    // The second gets its name from another goal run since.
    run(&store, 30, |now, _| {
        let mut second = store.load(id(1)).unwrap().unwrap().1;
        second.set(NAME, &Property::One(Value::Text("Cid".into())));
        second.modified = now;
        Commit { records: vec![(id(1), second)], ..Commit::default() }
    });
    is_whole(&store);
    let names = |number| {
        let states = store.previous_states(id(number)).unwrap();
        states
            .into_iter()
            .map(|state| state.record.map(|record| record.values(NAME)[0].to_string()))
            .collect()
    };
    let before: Vec<Option<String>> = names(1);
    assert_eq!(before, [Some("Bea".to_owned()), Some("Ann".to_owned()), None]);

    assert!(store.can_undo(at).unwrap() && !store.can_undo(at + 1).unwrap());
    let lease = begin(&store, 40);
    let report = store.undo((at, number), &lease, &[EMAIL]).unwrap();
    end(&store, &lease);
    let left = NotRestored { record: id(1), reason: Reason::Property(NAME) };
    let expected = UndoReport { restored: 1, removed: 1, events: 1, not_restored: vec![left] };
    assert_eq!(report, expected);
    assert_eq!(
        [0, 1, 2].map(|number| name_of(&store, number)),
        [Some("Ann".to_owned()), Some("Cid".to_owned()), None]
    );
    let found = |number| store.find(&identifier(number)).unwrap();
    assert_eq!([0, 50, 2].map(found), [Some(id(0)), None, None]);
    let times: Vec<_> =
        store.events_of(id(0)).unwrap().into_iter().map(|(_, event)| event.time.as_second()).collect();
    assert_eq!(times, [1]);
    is_whole(&store);

    // An undo is undone too, and a second undo finds everything restored.
    let again = begin(&store, 50);
    let report = store.undo((lease.time(), lease.number()), &again, &[EMAIL]).unwrap();
    end(&store, &again);
    assert!(report.restored >= 1, "{report:?}");
    assert_eq!(name_of(&store, 0).as_deref(), Some("Bea"));
    is_whole(&store);
    store.forget_overwritten(at + 1).unwrap();
    assert!(!store.can_undo(at).unwrap() && store.can_undo(lease.time()).unwrap());
}

fn merged_records_are_apart_again_and_erased_ones_stay_away(fixture: &impl Fixture) {
    let store = fixture.open();
    // Three records: the first two have an order of their own and one of the same id.
    let orders = |goal_run| {
        let of = |number: u32| {
            vec![
                order(number, "both", number.into(), goal_run),
                order(number, &format!("o{number}"), 7, goal_run),
            ]
        };
        [of(0), of(1)]
    };
    let (first, _) = run(&store, 10, |now, goal_run| {
        let [zero, one] = orders(goal_run);
        let mut commit = filled(&store, 0..3, "Ann", now);
        commit.records[0].1 = with_events(record(0, "Zoe", now), &zero);
        commit.records[1].1 = with_events(record(1, "Ann", now), &one);
        let events = [zero, one].concat().into_iter().map(|(key, event)| (key, Some(event)));
        Commit { events: events.collect(), ..commit }
    });
    // The first is merged into the second, which has an email address and an order `both` already; the third changes.
    let merge = |now, goal_run: u64| {
        let [zero, one] = orders(goal_run - 1);
        let moved = order(1, "o0", 7, goal_run - 1);
        let both = with_events(record(1, "Both", now), &[one[0].clone(), one[1].clone(), moved.clone()]);
        let gone = zero.into_iter().map(|(key, _)| (key, None));
        Commit {
            records: vec![(id(1), both), (id(2), record(2, "Bea", now))],
            merged: vec![(id(0), id(1))],
            identifiers: vec![(hash(&store, 0), None)],
            events: gone.chain([(moved.0, Some(moved.1))]).collect(),
            ..Commit::default()
        }
    };
    let (at, number) = run(&store, 20, merge);
    is_whole(&store);
    assert!(store.erase(id(2), &[EMAIL], &[7; 32], 25).unwrap());
    let seen = || {
        let orders = [0, 1].map(|number| {
            let events = store.events_of(id(number)).unwrap();
            events
                .into_iter()
                .map(|(key, event)| (key.id.to_string(), event.time.as_second()))
                .collect::<Vec<_>>()
        });
        let found = [0, 1].map(|number| store.find(&identifier(number)).unwrap());
        let (loaded, _) = store.load(id(0)).unwrap().unwrap();
        ([0, 1, 2].map(|number| name_of(&store, number)), found, loaded, orders)
    };
    let merged = seen();
    let undo = |clock, of, left: &[NotRestored]| {
        let lease = begin(&store, clock);
        let report = store.undo(of, &lease, &[EMAIL]).unwrap();
        assert_eq!(report.not_restored, left);
        end(&store, &lease);
        is_whole(&store);
        ((lease.time(), lease.number()), (report.restored, report.removed))
    };
    let (undone, counts) = undo(30, (at, number), &[]);
    assert_eq!(counts, (2, 0));
    let [ann, zoe] = ["Ann", "Zoe"].map(|name| Some(name.to_owned()));
    let own = |number: u32| vec![("both".to_owned(), number.into()), (format!("o{number}"), 7)];
    let apart = ([zoe, ann, None], [0, 1].map(|number| Some(id(number))), id(0), [own(0), own(1)]);
    assert_eq!(seen(), apart);
    assert_eq!(store.load(id(0)).unwrap().unwrap().1.created, first);
    // An undo is undone: they are one again, and apart again.
    let (again, counts) = undo(40, undone, &[]);
    assert_eq!((counts, seen()), ((2, 0), merged));
    undo(50, again, &[]);
    assert_eq!(seen(), apart);

    // Merged once more, and that one into another, which a later goal run did.
    let (at, number) = run(&store, 60, |now, _| {
        let mut stays = store.load(id(1)).unwrap().unwrap();
        stays.1.modified = now;
        Commit {
            records: vec![stays],
            merged: vec![(id(0), id(1))],
            identifiers: vec![(hash(&store, 0), None)],
            events: orders(0)[0].iter().map(|(key, _)| (key.clone(), None)).collect(),
            ..Commit::default()
        }
    });
    run(&store, 70, |now, _| {
        let mut commit = filled(&store, 3..4, "Dee", now);
        commit.merged.push((id(1), id(3)));
        commit.identifiers.push((hash(&store, 1), None));
        commit.events = orders(0)[1].iter().map(|(key, _)| (key.clone(), None)).collect();
        commit
    });
    let left = [(id(0), Reason::MergedWith), (id(1), Reason::Merged)];
    let (_, counts) = undo(80, (at, number), &left.map(|(record, reason)| NotRestored { record, reason }));
    assert_eq!((counts, store.load(id(0)).unwrap().unwrap().0), ((0, 0), id(3)));
}

fn a_large_commit_retains_what_it_overwrites(fixture: &impl Fixture) {
    let store = fixture.open();
    let changed = Some(Changed { file: "in/a.csv", keep: true });
    let event = |number: u32, second, goal_run| order(number, "o1", second, goal_run);
    let with_orders = |numbers: Range<u32>, name: &str, second, now, goal_run| {
        let mut commit = filled(&store, numbers.clone(), name, now);
        for ((_, record), number) in commit.records.iter_mut().zip(numbers) {
            let event = event(number, second, goal_run);
            *record = with_events(record.clone(), std::slice::from_ref(&event));
            commit.events.push((event.0, Some(event.1)));
        }
        commit
    };
    run(&store, 10, |now, goal_run| with_orders(0..MANY, "Ann", 1, now, goal_run));
    // Half of them change, and others are new.
    let (at, number) = run(&store, 20, |now, goal_run| {
        let mut commit = with_orders(10_000..10_000 + MANY, "Bea", 2, now, goal_run);
        commit
            .records
            .iter_mut()
            .filter(|(id, _)| *id < self::id(MANY))
            .for_each(|(_, record)| record.created = 10);
        commit
    });
    // So does a writer, some of whose records come after greater ones.
    let lease = begin(&store, 30);
    let hints = WriterHints { keep_at: Some(lease.time()), ..WriterHints::default() };
    let mut writer = store.writer(hints).unwrap();
    let pack = |numbers: Range<u32>, created: Option<i64>| {
        let records = numbers.map(|number| {
            let orders = if number < 10_000 { vec![event(number, 1, 1)] } else { Vec::new() };
            let mut record = with_events(record(number, "Cid", lease.time()), &orders);
            record.created = created.unwrap_or(record.created);
            (id(number), record)
        });
        store.packer().pack(&records.collect::<Vec<_>>(), lease.time())
    };
    writer.put(&pack(100..110, Some(10)), None).unwrap();
    writer.put(&pack(50_000..50_010, None), Some(id(200))).unwrap();
    writer.put(&pack(0..10, Some(10)), None).unwrap();
    let hashes = sorted(&store, 50_000..50_010);
    writer.put_identifiers(hashes.iter().map(|hash| {
        let number = (50_000..50_010).find(|number| self::hash(&store, *number) == *hash);
        (*hash, number.map(id))
    }));
    writer.commit(Commit { lease: Some(&lease), changed, ..Commit::default() }).unwrap();
    let third = (lease.time(), lease.number());
    end(&store, &lease);
    is_whole(&store);
    let undo = |clock, of| {
        let lease = begin(&store, clock);
        let report = store.undo(of, &lease, &[EMAIL]).unwrap();
        end(&store, &lease);
        is_whole(&store);
        assert_eq!(report.not_restored, []);
        (report.restored, report.removed)
    };
    let names = || [0, 105, 12_000, 30_000, 50_005].map(|number| name_of(&store, number));
    let expected = |names: [&str; 5]| names.map(|name| Some(name.to_owned()).filter(|name| !name.is_empty()));
    assert_eq!(names(), expected(["Cid", "Cid", "Bea", "Bea", "Cid"]));
    assert_eq!(undo(40, third), (20, 10));
    assert_eq!(names(), expected(["Ann", "Ann", "Bea", "Bea", ""]));
    assert_eq!(undo(50, (at, number)), (15_000, 10_000));
    assert_eq!(names(), expected(["Ann", "Ann", "Ann", "", ""]));
    let times = [5, 12_000].map(|number| store.events_of(id(number)).unwrap()[0].1.time.as_second());
    assert_eq!(times, [1, 1]);
}

fn what_set_a_value_is_undone_with_it(fixture: &impl Fixture) {
    let store = fixture.open();
    let by = |goal_run, file| Setter { goal_run, file };
    let (_, first) = run(&store, 10, |now, goal_run| {
        let mut commit = filled(&store, 0..2, "Ann", now);
        commit.records[0].1.provenance = Provenance::of(by(goal_run, 0));
        commit
    });
    // The second record is of a version that did not remember what set its values.
    let (at, second) = run(&store, 20, |now, goal_run| {
        let changed = |number| {
            let mut record = store.load(id(number)).unwrap().unwrap().1;
            record.modified = now;
            record.set(NAME, &Property::One(Value::Text("Bea".into())));
            record.set_setters(&[(NAME, by(goal_run, 3))]);
            (id(number), record)
        };
        Commit { records: vec![changed(0), changed(1)], ..Commit::default() }
    });
    let setters = |store: &Store| {
        [0, 1].map(|number| {
            let provenance = store.load(id(number)).unwrap().unwrap().1.provenance;
            [NAME, EMAIL].map(|property| provenance.get(property))
        })
    };
    let changed = [[by(second, 3), by(first, 0)], [by(second, 3), Setter::UNKNOWN]];
    assert_eq!(setters(&store), changed);
    assert_eq!(store.report_of(second).unwrap().as_deref(), Some(&b"ended"[..]));
    assert_eq!(store.report_of(second + 1).unwrap(), None);
    let lease = begin(&store, 30);
    store.undo((at, second), &lease, &[EMAIL]).unwrap();
    end(&store, &lease);
    drop(store);
    assert_eq!(setters(&fixture.open()), [[by(first, 0); 2], [Setter::UNKNOWN; 2]]);
}

fn an_erased_record_leaves_nothing(fixture: &impl Fixture) {
    let store = fixture.open();
    let key = [7; 32];
    let wanted = identifier(1);
    assert_eq!(store.erased(&key, &[&wanted.0]).unwrap(), Vec::<bool>::new());
    run(&store, 10, |now, goal_run| {
        let event = order(1, "o1", 1, goal_run);
        let mut commit = filled(&store, 0..3, "Ann", now);
        commit.records[1].1 = with_events(record(1, "Ann", now), std::slice::from_ref(&event));
        commit.merged = vec![(id(5), id(1))];
        Commit { events: vec![(event.0, Some(event.1))], ..commit }
    });
    run(&store, 20, |now, goal_run| {
        let event = order(1, "o1", 1, goal_run);
        let changed = with_events(record(1, "Bea", now), &[order(1, "o1", 1, goal_run)]);
        Commit {
            records: vec![(id(1), changed)],
            events: vec![(event.0, Some(event.1))],
            ..Commit::default()
        }
    });
    assert!(store.erase(id(5), &[EMAIL], &key, 30).unwrap(), "by way of the record that was merged");
    assert!(!store.erase(id(1), &[EMAIL], &key, 30).unwrap());
    let check = |store: &Store| {
        assert!([1, 5].iter().all(|number| store.load(id(*number)).unwrap().is_none()));
        assert_eq!((store.find(&wanted).unwrap(), store.events_of(id(1)).unwrap()), (None, Vec::new()));
        assert_eq!(store.previous_states(id(1)).unwrap(), []);
        let asked = [&wanted.0[..], &identifier(2).0];
        assert_eq!(store.erased(&key, &asked).unwrap(), [true, false]);
        assert_eq!(store.erased(&[8; 32], &asked).unwrap(), [false, false]);
        assert_eq!(is_whole(store).records[&SPACE], 2);
    };
    check(&store);
    drop(store);
    check(&fixture.open());
}

fn old_events_expire_once_a_day(fixture: &impl Fixture) {
    let store = fixture.open();
    run(&store, 10, |now, goal_run| {
        let events = [order(0, "old", 100, goal_run), order(0, "new", 2_000_000, goal_run)];
        let records = vec![(id(0), with_events(record(0, "Ann", now), &events))];
        let events = events.into_iter().map(|(key, event)| (key, Some(event))).collect();
        let identifiers = vec![(hash(&store, 0), Some(id(0)))];
        Commit { records, identifiers, events, ..Commit::default() }
    });
    let now = Timestamp::from_second(2_000_100).unwrap();
    let from = Timestamp::from_second(1_000_000).unwrap();
    assert_eq!(store.expire(&[], now).unwrap(), 0);
    assert_eq!(store.expire(&[(EventTypeId(9), from)], now).unwrap(), 0);
    assert_eq!(store.expire(&[(ORDER, from)], now).unwrap(), 1);
    let ids = |store: &Store| {
        let events = store.events_of(id(0)).unwrap();
        events.into_iter().map(|(key, _)| key.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&store), ["new"]);
    is_whole(&store);
    let day = SignedDuration::from_hours(24);
    let later = |days: i32| (from + day * days, now + day * days);
    let soon = (from + SignedDuration::from_hours(1), now + SignedDuration::from_hours(1));
    assert_eq!(store.expire(&[(ORDER, soon.0)], soon.1).unwrap(), 0);
    let (from, now) = later(30);
    assert_eq!(store.expire(&[(ORDER, from)], now).unwrap(), 1);
    assert_eq!(ids(&store), [""; 0]);
    is_whole(&store);
}

fn a_property_identifies_unless_two_records_hold_a_value(fixture: &impl Fixture) {
    let store = fixture.open();
    let records = (0..10).map(|number| (id(number), record(number, "Ann", 1))).collect();
    store.commit(Commit { records, ..Commit::default() }).unwrap();
    store.index(&[EMAIL]).unwrap();
    assert_eq!(store.find(&identifier(3)).unwrap(), Some(id(3)));
    let refused = store.index(&[EMAIL, NAME]);
    assert!(matches!(refused, Err((NAME, StoreError::NotUnique))), "{refused:?}");
    // It no longer identifies, gets other values meanwhile, and identifies again.
    store.index(&[]).unwrap();
    store.commit(Commit { records: vec![(id(3), record(33, "Ann", 2))], ..Commit::default() }).unwrap();
    store.index(&[EMAIL]).unwrap();
    let found = |number| store.find(&identifier(number)).unwrap();
    assert_eq!([2, 3, 33].map(found), [Some(id(2)), None, Some(id(3))]);
}

fn verifying_finds_what_does_not_agree(fixture: &impl Fixture) {
    let store = fixture.open();
    run(&store, 10, |now, _| Commit { merged: vec![(id(8), id(1))], ..filled(&store, 0..5, "Ann", now) });
    let found = is_whole(&store);
    assert_eq!((found.records[&SPACE], found.merged, found.identifiers, found.events), (5, 1, 5, 0));
    let broken = [
        // An identifier finds a record that is not there, or none.
        Commit { identifiers: vec![(hash(&store, 70), Some(id(70)))], ..Commit::default() },
        Commit { identifiers: vec![(hash(&store, 0), None)], ..Commit::default() },
        // A record changed, which no list names.
        Commit { records: vec![(id(1), record(1, "Bea", 99))], ..Commit::default() },
        // Records were merged into one that is not there.
        Commit { merged: vec![(id(9), id(90))], ..Commit::default() },
        // An event is not in its record's sum, and one has no record.
        Commit {
            events: [2, 80]
                .map(|number| order(number, "o", 1, 1))
                .map(|(key, event)| (key, Some(event)))
                .into(),
            ..Commit::default()
        },
    ];
    let mut problems = 0;
    for (commit, more) in broken.into_iter().zip([1, 1, 1, 1, 2]) {
        store.commit(commit).unwrap();
        problems += more;
        let found = store.verify(&[EMAIL]).unwrap();
        assert_eq!((found.problems, found.described.len() as u64), (problems, problems), "{found:?}");
        let in_words = found.described.concat();
        assert!(!in_words.contains("example.com") && !in_words.contains("Ann"), "{in_words}");
    }
}

fn copies_and_backups_go_their_own_ways(fixture: &impl Fixture) {
    let location = fixture.location();
    let StoreLocation::Folder(path) = &location;
    assert!(!location.exists());
    assert!(Store::open_existing(&location).unwrap().is_none());
    assert!(Store::open_read_only(&location).unwrap().is_none());
    assert_eq!(Store::open_or_empty(&location).unwrap().records().unwrap().count(), 0);
    assert_eq!(Store::dry_copy_of(&location).unwrap().records().unwrap().count(), 0);
    assert!(!location.exists(), "looking creates nothing");

    let store = fixture.open();
    assert!(location.exists());
    store.commit(filled(&store, 0..MANY, "Ann", 1)).unwrap();
    store.commit(filled(&store, 0..1, "Bea", 2)).unwrap();
    let copy = store.dry_copy().unwrap();
    copy.commit(filled(&copy, 0..2, "Dry", 3)).unwrap();
    assert_eq!((name_of(&copy, 0).as_deref(), name_of(&copy, 2).as_deref()), (Some("Dry"), Some("Ann")));
    drop(copy);
    let backup = path.with_file_name("backup");
    store.back_up(&backup).unwrap();
    assert!(store.back_up(&backup).is_err(), "the folder exists");
    store.commit(filled(&store, 0..1, "Cid", 3)).unwrap();
    // A reader beside the writer sees what is committed.
    let reader = Store::open_read_only(&location).unwrap().unwrap();
    assert_eq!(name_of(&reader, 0).as_deref(), Some("Cid"));
    drop(reader);
    // So does a copy, which is another store.
    let copy = Store::dry_copy_of(&location).unwrap();
    copy.commit(filled(&copy, 0..MANY, "Dry", 4)).unwrap();
    assert_eq!((name_of(&copy, 0).as_deref(), name_of(&store, 0).as_deref()), (Some("Dry"), Some("Cid")));
    drop(copy);
    drop(store);

    let copy = Store::dry_copy_of(&location).unwrap();
    copy.commit(filled(&copy, 0..1, "Dry", 4)).unwrap();
    assert_eq!((name_of(&copy, 0).as_deref(), name_of(&copy, 24_999).as_deref()), (Some("Dry"), Some("Ann")));
    drop(copy);
    assert_eq!(name_of(&fixture.open(), 0).as_deref(), Some("Cid"));

    assert!(Store::restore(path.with_file_name("nothing").as_path(), &location).is_err());
    let before = Store::restore(&backup, &location).unwrap().unwrap();
    assert_eq!(name_of(&fixture.open(), 0).as_deref(), Some("Bea"));
    let before = Store::open(&StoreLocation::Folder(before)).unwrap();
    assert_eq!(name_of(&before, 0).as_deref(), Some("Cid"));
    // Only these are left: copies are gone.
    let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(left, 3);
}

fn what_the_service_remembers_comes_back(fixture: &impl Fixture) {
    let store = fixture.open();
    store.probe().unwrap();
    assert_eq!(store.runs_of("shop").unwrap(), None);
    store.remember_runs_of("shop", b"queued").unwrap();
    drop(store);
    let store = fixture.open();
    assert_eq!(store.runs_of("shop").unwrap().as_deref(), Some(&b"queued"[..]));
    store.commit(filled(&store, 0..MANY, "Ann", 1)).unwrap();
    store.read_ahead(1000).unwrap();
    store.prefetch_records(MANY as usize).unwrap();
    assert!(store.about_bytes().unwrap() > 100_000 && store.about_records().unwrap() >= u64::from(MANY));
    let stats = store.stats().unwrap();
    assert!(stats.layout > 0 && stats.bytes > 100_000, "{stats:?}");
    assert!(stats.families.iter().any(|(_, entries, _)| *entries >= u64::from(MANY)), "{stats:?}");
}

fn a_process_that_died_loses_nothing_that_was_committed(fixture: &impl Fixture) {
    let store = fixture.open();
    let lease = begin(&store, 10);
    let file = Some(([1; 32], FileState { position: 1, complete: false }));
    let report = Some(b"half".to_vec());
    store.commit(Commit { lease: Some(&lease), file, report, ..filled(&store, 0..1, "Ann", 10) }).unwrap();
    let mut writer = store.writer(WriterHints::default()).unwrap();
    let lost = [(id(2), record(2, "Lost", 10))];
    writer.put(&store.packer().pack(&lost, 10), None).unwrap();
    // The process dies.
    drop(writer.finish().unwrap());
    drop(store);

    let store = fixture.open();
    let (taken, report) = store.interrupted().unwrap().pop().unwrap();
    assert_eq!((taken.number(), report.as_slice()), (lease.number(), &b"half"[..]));
    assert_eq!((name_of(&store, 0).as_deref(), name_of(&store, 2)), (Some("Ann"), None));
    assert_eq!(store.file_state(&[1; 32]).unwrap(), Some(FileState { position: 1, complete: false }));
    end(&store, &taken);

    // Another dies in a large commit, which is whole for who only reads, for a copy, and for who opens the store.
    let Commit { records, identifiers, .. } = filled(&store, 100..100 + MANY, "Bea", 11);
    fixture.die_in_commit(store, &records, &identifiers);
    let whole = |store: &Store| {
        let found = |number| store.find(&identifier(number)).unwrap();
        assert_eq!([100, 100 + MANY - 1].map(found), [100, 100 + MANY - 1].map(|number| Some(id(number))));
        assert_eq!(name_of(store, 100).as_deref(), Some("Bea"));
        assert_eq!(store.records().unwrap().count(), 1 + MANY as usize);
    };
    whole(&Store::dry_copy_of(&fixture.location()).unwrap());
    whole(&Store::open_read_only(&fixture.location()).unwrap().unwrap());
    let store = fixture.open();
    whole(&store);
    assert!(store.interrupted().unwrap().is_empty());
}

/// Runs the suite against a backend.
macro_rules! conformance {
    ($backend:ident, $fixture:ty) => {
        conformance!($backend, $fixture:
            names_have_numbers_for_ever,
            identifiers_find_their_records,
            records_are_loaded_and_merged_ones_lead_to_the_one_that_stayed,
            a_large_commit_reads_as_a_small_one_and_a_later_one_wins,
            what_a_writer_holds_is_in_the_store_once_it_is_committed,
            a_commit_that_met_another_writer_writes_nothing,
            goal_runs_have_growing_numbers_and_times,
            a_goal_run_that_has_ended_or_was_taken_over_commits_nothing,
            goal_runs_at_a_time_change_records_in_the_order_of_their_times,
            the_ledger_remembers_files,
            the_count_is_that_of_a_walk_whatever_happens,
            events_are_written_over_and_removed,
            changes_are_listed_in_commit_order,
            the_oldest_lists_of_changes_are_forgotten,
            an_export_goal_remembers_its_last_run,
            sketches_of_two_writers_are_merged,
            a_goal_run_is_undone_but_for_what_changed_since,
            merged_records_are_apart_again_and_erased_ones_stay_away,
            a_large_commit_retains_what_it_overwrites,
            what_set_a_value_is_undone_with_it,
            an_erased_record_leaves_nothing,
            old_events_expire_once_a_day,
            a_property_identifies_unless_two_records_hold_a_value,
            verifying_finds_what_does_not_agree,
            copies_and_backups_go_their_own_ways,
            what_the_service_remembers_comes_back,
            a_process_that_died_loses_nothing_that_was_committed,
        );
    };
    ($backend:ident, $fixture:ty: $($test:ident,)*) => {
        mod $backend {
            use super::Fixture;

            $(
                #[test]
                fn $test() {
                    super::$test(&<$fixture>::new());
                }
            )*
        }
    };
}

/// A folder for a store on RocksDB.
struct RocksFolder(tempfile::TempDir);

impl Fixture for RocksFolder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn location(&self) -> StoreLocation {
        StoreLocation::Folder(self.0.path().join("store"))
    }

    fn die_in_commit(
        &self,
        store: Store,
        records: &[(RecordId, Record)],
        identifiers: &[(IdentifierHash, Option<RecordId>)],
    ) {
        let Store::Rocks(store) = store;
        store.die_before_tables_are_ingested(records, identifiers, &[], &[]);
    }
}

conformance!(rocks, super::RocksFolder);
