//! The threads of an import: one reads batches, one processes them, one prepares and consumes them, and the caller's takes what
//! comes of that. Bounded queues lie between them: they hold few batches, and few bytes where rows are long.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::Duration;

use sluicebox_files::{FoundFile, Reader};
use sluicebox_matching::Buffers;
use sluicebox_model::RecordBatch;
use sluicebox_processors::Session;

use crate::error::Error;
use crate::import::Import;
use crate::import::reader::OpenFile;
use crate::import::stage_times::{StageTimes, timed};

/// Batches that wait between two threads.
pub(crate) const QUEUE: usize = 4;
/// How long the caller waits for an output before it looks whether there is something else to do.
const IDLE_TIME: Duration = Duration::from_millis(100);

/// Bytes of the batches that wait between threads. A row has up to `max_row` bytes, and a batch at least one row.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// Counts the bytes of batches between the thread that reads them and the one that consumes them.
#[derive(Default)]
struct Flow {
    bytes: Mutex<usize>,
    less: Condvar,
}

/// A batch between threads. Its bytes are counted until it is dropped.
struct Flowing<'f, T> {
    batch: T,
    passage: Passage<'f>,
}

struct Passage<'f> {
    flow: &'f Flow,
    bytes: usize,
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        *self.flow.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes;
        self.flow.less.notify_one();
    }
}

impl Flow {
    /// Waits until a batch has room, or no other is on its way.
    fn admit(&self, batch: RecordBatch) -> Flowing<'_, RecordBatch> {
        let bytes = batch.memory();
        let mut waiting = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *waiting > 0 && *waiting + bytes > MAX_WAITING_BYTES {
            waiting = self.less.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        *waiting += bytes;
        Flowing { batch, passage: Passage { flow: self, bytes } }
    }
}

impl<'f, T> Flowing<'f, T> {
    fn map<U, E>(self, change: impl FnOnce(T) -> Result<U, E>) -> Result<Flowing<'f, U>, E> {
        let Self { batch, passage } = self;
        Ok(Flowing { batch: change(batch)?, passage })
    }
}

/// Consumes the batches of a file, on a thread of its own.
pub(crate) trait BatchConsumer: Send {
    /// A batch, prepared as far as that is possible without the batches before it.
    type Input: Send;
    /// The result of one or several batches.
    type Output: Send;

    /// How many outputs may wait to be taken.
    fn queue(&self) -> usize;

    /// Consumes the next batch; an output is complete now, or none is.
    ///
    /// # Errors
    /// If the batch cannot be consumed.
    fn accept(&mut self, input: Self::Input) -> Result<Option<Self::Output>, Error>;

    /// The output of the batches since the last one, when there are no more.
    fn finish(&mut self) -> Option<Self::Output> {
        None
    }
}

impl Import<'_> {
    /// Reads a file and processes its batches. `prepare` prepares each for the consumer, `take` takes its outputs in order, and
    /// `None` now and then while the next one is not there. Reading, processing and consuming run ahead on other threads.
    ///
    /// # Errors
    /// If the file cannot be read on, a processor fails, `take` fails, or the run is to stop.
    pub(crate) fn stream<C: BatchConsumer>(
        &self,
        file: &FoundFile,
        open: &mut OpenFile,
        times: &StageTimes,
        prepare: impl Fn(RecordBatch, &mut Buffers) -> Result<C::Input, Error> + Sync,
        consumer: &mut C,
        take: impl FnMut(Option<C::Output>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let OpenFile { reader, sessions, places, .. } = open;
        let read = ReadStage { file, reader, times };
        let process = ProcessStage { file, sessions, times, batches: 0 };
        let is_stopped = || self.stop.load(Ordering::Relaxed);
        let result = match self.config.settings.tuning.threads {
            1 => in_turn(read, process, prepare, consumer, take, is_stopped),
            _ => on_threads(read, process, &prepare, consumer, take, is_stopped),
        };
        times.add_usage(places.iter().copied().zip(sessions.iter().map(Session::usage)));
        result
    }
}

/// Reads the batches of a file.
struct ReadStage<'a> {
    file: &'a FoundFile,
    reader: &'a mut Reader,
    times: &'a StageTimes,
}

impl Iterator for ReadStage<'_> {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = timed(&self.times.parse, || self.reader.next_batch());
        batch.map_err(|error| Error::File { name: self.file.name.clone(), error }).transpose()
    }
}

/// Passes batches through the processors of a file.
struct ProcessStage<'a> {
    file: &'a FoundFile,
    sessions: &'a mut [Session],
    times: &'a StageTimes,
    batches: u64,
}

impl ProcessStage<'_> {
    fn process(&mut self, mut batch: RecordBatch) -> Result<RecordBatch, Error> {
        self.batches += 1;
        let processed = timed(&self.times.processors, || {
            self.sessions.iter_mut().try_for_each(|session| session.process(&mut batch))
        });
        let failed =
            |error| Error::Processor { file: self.file.name.clone(), batch: Some(self.batches), error };
        processed.map(|()| batch).map_err(failed)
    }
}

/// Runs the stages one after the other for each batch.
fn in_turn<C: BatchConsumer>(
    read: ReadStage<'_>,
    mut process: ProcessStage<'_>,
    prepare: impl Fn(RecordBatch, &mut Buffers) -> Result<C::Input, Error>,
    consumer: &mut C,
    mut take: impl FnMut(Option<C::Output>) -> Result<(), Error>,
    is_stopped: impl Fn() -> bool,
) -> Result<(), Error> {
    let mut take = |output| take(Some(output));
    let mut buffers = Buffers::default();
    for batch in read {
        let batch = process.process(batch?)?;
        if is_stopped() {
            return Err(Error::Interrupted);
        }
        consumer.accept(prepare(batch, &mut buffers)?)?.map_or(Ok(()), &mut take)?;
    }
    consumer.finish().map_or(Ok(()), take)
}

/// Runs each stage on a thread of its own.
fn on_threads<C: BatchConsumer>(
    read: ReadStage<'_>,
    mut process: ProcessStage<'_>,
    prepare: &(impl Fn(RecordBatch, &mut Buffers) -> Result<C::Input, Error> + Sync),
    consumer: &mut C,
    mut take: impl FnMut(Option<C::Output>) -> Result<(), Error>,
    is_stopped: impl Fn() -> bool,
) -> Result<(), Error> {
    let flow = Flow::default();
    let flow = &flow;
    thread::scope(|scope| {
        let (send_batch, batches) = mpsc::sync_channel(QUEUE);
        let (send_processed, processed) = mpsc::sync_channel(QUEUE);
        let (send_output, outputs) = mpsc::sync_channel(consumer.queue());
        let admitted = read.map(|batch| batch.map(|batch| flow.admit(batch)));
        spawn(scope, "read", move || forward(admitted, &send_batch, Ok))?;
        spawn(scope, "process", move || {
            let mut buffers = Buffers::default();
            let processed = batches.into_iter().map(|batch: Result<Flowing<'_, RecordBatch>, _>| {
                batch?.map(|batch| process.process(batch).map(Processed::Raw))
            });
            // While the consumer is behind, this thread prepares batches for it.
            forward(processed, &send_processed, |batch| {
                batch.map(|batch| batch.prepare(prepare, &mut buffers).map(Processed::Prepared))
            });
        })?;
        spawn(scope, "consume", move || consume(&processed, consumer, prepare, &send_output))?;
        loop {
            let output = match outputs.recv_timeout(IDLE_TIME) {
                Ok(output) => Some(output?),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            if is_stopped() {
                return Err(Error::Interrupted);
            }
            take(output)?;
        }
    })
}

fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() + Send + 'scope,
) -> Result<(), Error> {
    let spawned = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work);
    spawned.map(drop).map_err(|error: io::Error| Error::failed("no thread can be started", error))
}

/// Sends batches until one of them is a failure, or the receiver is gone: it failed then, and says why. Where the queue is full,
/// `meanwhile` works on a batch before it is sent.
fn forward<B>(
    batches: impl Iterator<Item = Result<B, Error>>,
    to: &SyncSender<Result<B, Error>>,
    mut meanwhile: impl FnMut(B) -> Result<B, Error>,
) {
    for batch in batches {
        let mut is_last = batch.is_err();
        let is_sent = match to.try_send(batch) {
            Err(TrySendError::Full(batch)) => {
                let batch = batch.and_then(&mut meanwhile);
                is_last |= batch.is_err();
                to.send(batch).is_ok()
            }
            sent => sent.is_ok(),
        };
        if is_last || !is_sent {
            break;
        }
    }
}

/// A batch that went through the processors.
enum Processed<I> {
    Raw(RecordBatch),
    /// It is prepared for the consumer, too.
    Prepared(I),
}

impl<I> Processed<I> {
    fn prepare(
        self,
        prepare: &impl Fn(RecordBatch, &mut Buffers) -> Result<I, Error>,
        buffers: &mut Buffers,
    ) -> Result<I, Error> {
        match self {
            Self::Raw(batch) => prepare(batch, buffers),
            Self::Prepared(input) => Ok(input),
        }
    }
}

/// Consumes batches and sends the outputs. A failure is the last of them.
fn consume<C: BatchConsumer>(
    processed: &Receiver<Result<Flowing<'_, Processed<C::Input>>, Error>>,
    consumer: &mut C,
    prepare: &impl Fn(RecordBatch, &mut Buffers) -> Result<C::Input, Error>,
    to: &SyncSender<Result<C::Output, Error>>,
) {
    let mut buffers = Buffers::default();
    for batch in processed {
        // What the consumer holds on to is counted by it.
        let output = batch.and_then(|Flowing { batch, passage }| {
            let output = batch.prepare(prepare, &mut buffers).and_then(|input| consumer.accept(input));
            drop(passage);
            output
        });
        let output = output.transpose();
        let is_last = output.as_ref().is_some_and(Result::is_err);
        let is_sent = output.is_none_or(|output| to.send(output).is_ok());
        if is_last || !is_sent {
            return;
        }
    }
    if let Some(output) = consumer.finish() {
        // The receiver is gone only if it failed, and says why.
        let _ = to.send(Ok(output));
    }
}
