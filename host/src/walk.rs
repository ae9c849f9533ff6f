//! Walks through the records of the store: one thread reads, others work, and what they make comes out in the order of
//! the records' ids.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use sluicebox_model::{Record, RecordId};
use sluicebox_store::{Store, StoreError, StoredRecords};

use crate::error::Error;

/// Records of a page: as many as a processor sees at a time.
const PAGE: usize = 1024;
/// Pages that are under way for each worker.
const AHEAD: usize = 4;

/// What a walk looks at.
pub(crate) enum Selection {
    /// Every record; with a time only those that changed after it.
    All(Option<i64>),
    /// The records that changed after a time.
    Changed(Vec<RecordId>, i64),
}

impl Selection {
    /// The time after which records must have changed.
    pub(crate) fn since(&self) -> Option<i64> {
        match self {
            Self::All(since) => *since,
            Self::Changed(_, since) => Some(*since),
        }
    }
}

/// Makes something of pages of records, on a thread of its own.
pub(crate) trait Worker: Send {
    /// What it makes of a page.
    type Done: Send;

    /// Makes it.
    ///
    /// # Errors
    /// If the store fails.
    fn work(&mut self, records: &[(RecordId, Record)]) -> Result<Self::Done, StoreError>;
}

/// A page's worth of records, before they are read or decoded.
enum Chunk {
    Stored(StoredRecords),
    Ids(Vec<RecordId>),
}

type Job<T> = (Chunk, SyncSender<Result<T, StoreError>>);

/// Hands what the workers make of the selected records to `take`, for as long as it says that the walk goes on; answers
/// with the workers.
///
/// # Errors
/// If the store fails, or with what `take` says.
pub(crate) fn walk<W: Worker>(
    store: &Store,
    selection: &Selection,
    workers: Vec<W>,
    mut take: impl FnMut(W::Done) -> Result<bool, Error>,
) -> Result<Vec<W>, Error> {
    let ahead = AHEAD * workers.len();
    let (send_job, jobs) = mpsc::sync_channel::<Job<W::Done>>(ahead);
    let (send_page, pages) = mpsc::sync_channel(ahead);
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        let read = move || {
            for chunk in chunks(store, selection) {
                let (answer, wait) = mpsc::sync_channel(1);
                let (job, page) = match chunk {
                    Ok(chunk) => (Some((chunk, answer)), Ok(wait)),
                    Err(error) => (None, Err(error)),
                };
                // Whoever is no longer listened to stops: the receiver has failed and says why.
                if send_page.send(page).is_err() || job.is_none_or(|job| send_job.send(job).is_err()) {
                    break;
                }
            }
        };
        let failed = |error| Error::io("threads".as_ref(), error);
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
        for page in pages {
            let done: Receiver<Result<W::Done, StoreError>> = page?;
            if !take(done.recv().map_err(|_| StoreError::Damaged("a record"))??)? {
                break;
            }
        }
        Ok(working.into_iter().filter_map(|thread| thread.join().ok()).collect())
    })
}

fn chunks<'s>(
    store: &'s Store,
    selection: &'s Selection,
) -> Box<dyn Iterator<Item = Result<Chunk, StoreError>> + 's> {
    match selection {
        Selection::Changed(ids, _) => Box::new(ids.chunks(PAGE).map(|ids| Ok(Chunk::Ids(ids.to_vec())))),
        Selection::All(_) => match store.all_records(PAGE) {
            Ok(records) => Box::new(records.map(|records| records.map(Chunk::Stored))),
            Err(error) => Box::new(std::iter::once(Err(error))),
        },
    }
}

/// Works on what comes, until nothing comes any more.
fn work<W: Worker>(store: &Store, jobs: &Mutex<Receiver<Job<W::Done>>>, worker: &mut W) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((chunk, answer)) = job else { return };
        let records = match chunk {
            Chunk::Stored(records) => records.decode(),
            Chunk::Ids(ids) => store.load_sorted(&ids).map(|found| {
                // One that was merged into another is there as that one.
                let found = ids.into_iter().zip(found);
                found.filter_map(|(asked, found)| found.filter(|(id, _)| *id == asked)).collect()
            }),
        };
        // Nobody waits for it any more only where the walk has ended.
        let _ = answer.send(records.and_then(|records| worker.work(&records)));
    }
}
