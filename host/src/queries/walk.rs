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

/// A page, and where its result goes.
type Job<T> = (Page, SyncSender<Result<T, StoreError>>);

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
        for result in results {
            let done: Receiver<Result<W::Done, StoreError>> = result?;
            if !take(done.recv().map_err(|_| StoreError::Damaged("a record"))??)? {
                break;
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
        let records_read = match &page {
            Page::Stored(records) => records.count(),
            Page::Ids(ids) => ids.len(),
        };
        let records = match page {
            Page::Stored(records) => records.decode(),
            Page::Ids(ids) => store.load_sorted(&ids).map(|found| {
                // An id that leads to another record was merged into it, which has an id of its own here.
                let found = ids.into_iter().zip(found);
                found.filter_map(|(asked, found)| found.filter(|(id, _)| *id == asked)).collect()
            }),
        };
        // The receiver is gone only where the walk has ended.
        let _ = result.send(records.and_then(|records| worker.work(&records, records_read)));
    }
}
