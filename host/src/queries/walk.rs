//! Walks through the records of the store: one thread reads pages of them, others work on the pages, and the results come in the
//! order of the records' ids.

use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sluicebox_model::{Record, RecordId};
use sluicebox_store::{ChangeCursor, Store, StoreError, StoredRecords};

use crate::error::Error;

/// Records of a page: as many as a processor gets at a time.
const PAGE_RECORDS: usize = 1024;
/// Records that are loaded at a time, and bytes of records after which no more are taken into a page.
const LOADED_RECORDS: usize = 16;
const MAX_PAGE_BYTES: usize = 2 << 20;
/// Pages that wait for each worker.
const PAGES_PER_WORKER: usize = 4;

/// The records of a walk.
pub(crate) enum Selection {
    /// All records; with a cursor only those that changed after it.
    All(Option<ChangeCursor>),
    /// The records that changed after a cursor.
    Changed(Vec<RecordId>),
}

/// Works on pages of records, on a thread of its own.
pub(crate) trait Worker: Send {
    /// The result of a page.
    type Done: Send;

    /// Works on a page, for which `records_read` records were read.
    ///
    /// # Errors
    /// If the store fails.
    fn work(&mut self, records: &[(RecordId, Record)], records_read: usize)
    -> Result<Self::Done, StoreError>;
}

/// The records of a page, before they are loaded or decoded.
enum Page {
    Stored(StoredRecords),
    Ids(Vec<RecordId>),
}

/// A page, and where its results go: several where its records are large. Each says whether it is the last.
type Job<T> = (Page, SyncSender<Result<(T, bool), StoreError>>);

/// Calls `take` with the results of the selected records in order, until it answers `false`; answers with the workers.
///
/// # Errors
/// If the store or `take` fails.
pub(crate) fn walk<W: Worker>(
    store: &Store,
    selection: &Selection,
    workers: Vec<W>,
    mut take: impl FnMut(W::Done) -> Result<bool, Error>,
) -> Result<Vec<W>, Error> {
    let queue = PAGES_PER_WORKER * workers.len();
    let (send_job, jobs) = mpsc::sync_channel::<Job<W::Done>>(queue);
    let (send_result, results) = mpsc::sync_channel(queue);
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        let read = move || {
            for page in pages(store, selection) {
                let (send, result) = mpsc::sync_channel(1);
                let (job, result) = match page {
                    Ok(page) => (Some((page, send)), Ok(result)),
                    Err(error) => (None, Err(error)),
                };
                // A receiver that is gone has failed, and says why.
                if send_result.send(result).is_err() || job.is_none_or(|job| send_job.send(job).is_err()) {
                    break;
                }
            }
        };
        let failed = |error: io::Error| Error::failed("no thread can be started", error);
        thread::Builder::new().name("read".to_owned()).spawn_scoped(scope, read).map_err(failed)?;
        let mut working = Vec::new();
        for mut worker in workers {
            let jobs = &jobs;
            let work = move || {
                work(store, jobs, &mut worker);
                worker
            };
            let thread = thread::Builder::new().name("work".to_owned()).spawn_scoped(scope, work);
            working.push(thread.map_err(failed)?);
        }
        'pages: for result in results {
            let done: Receiver<Result<(W::Done, bool), StoreError>> = result?;
            loop {
                let (done, is_last) = done.recv().map_err(|_| StoreError::Damaged("a record"))??;
                if !take(done)? {
                    break 'pages;
                }
                if is_last {
                    break;
                }
            }
        }
        Ok(working.into_iter().filter_map(|thread| thread.join().ok()).collect())
    })
}

fn pages<'s>(
    store: &'s Store,
    selection: &'s Selection,
) -> Box<dyn Iterator<Item = Result<Page, StoreError>> + 's> {
    match selection {
        Selection::Changed(ids) => Box::new(ids.chunks(PAGE_RECORDS).map(|ids| Ok(Page::Ids(ids.to_vec())))),
        Selection::All(since) => match store.all_records(PAGE_RECORDS, *since) {
            Ok(records) => Box::new(records.map(|records| records.map(Page::Stored))),
            Err(error) => Box::new(std::iter::once(Err(error))),
        },
    }
}

/// Works on pages until there are no more.
fn work<W: Worker>(store: &Store, jobs: &Mutex<Receiver<Job<W::Done>>>, worker: &mut W) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((page, result)) = job else { return };
        // The receiver is gone only where the walk has ended.
        let _ = match page {
            Page::Stored(records) => {
                let read = records.count();
                let done = records.decode().and_then(|records| worker.work(&records, read));
                result.send(done.map(|done| (done, true)))
            }
            Page::Ids(ids) => load(store, &ids, |records, read, is_last| {
                result.send(worker.work(records, read).map(|done| (done, is_last))).is_ok()
            })
            .or_else(|error| result.send(Err(error))),
        };
    }
}

/// Loads records and calls `take` with as many of them as a page may have bytes, how many ids they were loaded for, and whether
/// they are the last, until it answers `false`.
fn load(
    store: &Store,
    ids: &[RecordId],
    mut take: impl FnMut(&[(RecordId, Record)], usize, bool) -> bool,
) -> Result<(), StoreError> {
    let (mut records, mut read, mut bytes, mut left) = (Vec::new(), 0, 0, ids.len());
    for ids in ids.chunks(LOADED_RECORDS) {
        let found = store.load_sorted(ids)?;
        left -= ids.len();
        read += ids.len();
        // An id that leads to another record was merged into it, which has an id of its own here.
        let found = ids.iter().zip(found);
        let found = found.filter_map(|(asked, found)| found.filter(|(id, _)| id == asked));
        for (id, record) in found {
            bytes += record.packed().len();
            records.push((id, record));
        }
        if left == 0 || bytes >= MAX_PAGE_BYTES {
            if !take(&records, read, left == 0) {
                return Ok(());
            }
            records.clear();
            (read, bytes) = (0, 0);
        }
    }
    Ok(())
}
