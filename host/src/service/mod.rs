//! `sluicebox serve`: runs connections on schedule, and answers the API and the page.
//!
//! - `queue`: runs that wait, the current run, and what of them outlives the process;
//! - `clock`: the thread that queues runs when they are due;
//! - `worker`: the threads that run connections; `current_runs`: their runs, which are shown and stopped;
//! - `working_folder`: the current configuration, and changes of its files;
//! - `edit`: changes of a connection's file that keep its comments;
//! - `notify`: mail and webhooks; `egress`: which addresses a webhook may go to;
//! - `server`: the HTTP server with its limits;
//! - `api`: queries and changes as JSON; `page` shows the same to people;
//! - `lookup_cache`: history entries and descriptions of plugins;
//! - `access`: who may use the service; `audit`: who changed what;
//! - `metrics`: numbers for Prometheus; `traces`: spans for OpenTelemetry.

mod access;
mod api;
mod audit;
mod clock;
mod current_runs;
mod edit;
mod egress;
mod lookup_cache;
mod metrics;
mod notify;
mod page;
mod queue;
mod server;
pub(crate) mod traces;
mod worker;
mod working_folder;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sluicebox_processors::stop_compiling;
use sluicebox_store::Store;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use crate::error::Error;
use crate::output::print;
use crate::runs;
use crate::runs::rejected;
use crate::runs::turns::MergeTurns;
use access::Access;
use audit::Audit;
use current_runs::CurrentRuns;
use lookup_cache::LookupCache;
use metrics::Metrics;
use notify::Notifier;
use queue::Queue;
use working_folder::WorkingFolder;

/// How long requests may go on after the signal to stop.
const SHUTDOWN_TIME: Duration = Duration::from_secs(5);
/// Niceness of requests: the import does not wait for them.
const NICENESS: i32 = 10;
/// Requests that read the store or files at a time; further ones wait.
const MAX_BLOCKING: usize = 8;
/// Requests that open files of connections at a time: a location that does not answer leaves threads to all others.
const MAX_LOOKS: usize = 4;

/// What the parts of the service share.
pub(crate) struct Service {
    folder: WorkingFolder,
    store: Store,
    queue: Queue,
    current_runs: CurrentRuns,
    /// The turns in which runs merge into the store.
    turns: MergeTurns,
    /// Permits of requests that open files of connections.
    looks: Arc<Semaphore>,
    notifier: Notifier,
    access: Access,
    audit: Audit,
    metrics: Metrics,
    lookup_cache: LookupCache,
}

/// Runs until SIGTERM or Ctrl-C. The batches in flight are finished then; their runs continue at the next start.
///
/// # Errors
/// If the configuration is wrong, the store is in use, or the address is taken.
pub(crate) fn serve(root: &Path, address: Option<SocketAddr>) -> Result<u8, Error> {
    let folder = WorkingFolder::open(root)?;
    let config = folder.config();
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let mut server_settings = config.settings.server.clone();
    if let Some(address) = address {
        server_settings.address = address;
    }
    let address = server_settings.address;
    server::raise_descriptor_limit();
    let access = Access::new(&config, &server_settings)?;
    let store = Store::open(&config.settings.store)?;
    runs::recover(&config, &store, false)?;
    let io = |error| Error::io("the service".as_ref(), error);
    let lower_priority = || {
        // A system that refuses runs requests as fast as imports.
        let _ = rustix::process::nice(NICENESS);
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime =
        runtime.worker_threads(2).max_blocking_threads(MAX_BLOCKING).on_thread_start(lower_priority);
    let runtime = runtime.enable_all().build().map_err(io)?;
    let listener = runtime
        .block_on(TcpListener::bind(address))
        .map_err(|error| Error::io(address.to_string().as_ref(), error))?;
    let queue = Queue::restore(&config, &store)?;
    let corrected = queue.list().into_iter().filter_map(|queued| queued.planned.corrected);
    rejected::remove_corrected_except(&config, &corrected.map(|rows| rows.folder(&config)).collect())?;
    let service = Arc::new(Service {
        queue,
        audit: Audit::open(config.data())?,
        notifier: Notifier::new(runtime.handle().clone()),
        metrics: Metrics::new(),
        lookup_cache: LookupCache::default(),
        current_runs: CurrentRuns::new(),
        turns: MergeTurns::new(),
        looks: Arc::new(Semaphore::new(MAX_LOOKS)),
        folder,
        store,
        access,
    });
    let workers = (0..server_settings.runs).map(|_| spawn("worker", &service, Service::work).map_err(io));
    let workers = workers.collect::<Result<Vec<_>, _>>()?;
    let handle = runtime.handle().clone();
    let clock = spawn("clock", &service, move |service| service.queue_due_runs(&handle)).map_err(io)?;
    let served = listen(&runtime, &service, listener);
    service.stop();
    let ended = |thread: JoinHandle<()>, name: &str| {
        thread.join().map_err(|_| Error::Failed(format!("internal error: the {name} panicked")))
    };
    let workers_ended = workers.into_iter().map(|worker| ended(worker, "worker")).fold(Ok(()), Result::and);
    let ended = workers_ended.and(ended(clock, "clock"));
    runtime.block_on(service.notifier.finish());
    runtime.shutdown_timeout(SHUTDOWN_TIME);
    served.and(ended).map(|()| 0)
}

/// Starts a thread. Its end, also by a panic, stops the service: it would run nothing any more.
fn spawn(
    name: &str,
    service: &Arc<Service>,
    work: impl FnOnce(&Service) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let service = Arc::clone(service);
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let guard = StopsService(&service);
        work(guard.0);
    })
}

struct StopsService<'s>(&'s Service);

impl Drop for StopsService<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Service {
    fn stop(&self) {
        self.current_runs.stop_all();
        stop_compiling();
        self.queue.close();
    }
}

fn listen(runtime: &Runtime, service: &Arc<Service>, listener: TcpListener) -> Result<(), Error> {
    runtime.block_on(async {
        let failed = |error| Error::io("the service".as_ref(), error);
        let mut signals = Signals::new().map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        // Programs that start the service wait for this line.
        print(format!("listening on http://{bound}"))?;
        // Without systemd there is nothing to notify.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let app = page::router(Arc::clone(service));
        let mut served = std::pin::pin!(server::serve(listener, app, service.current_runs.watch_stop()));
        tokio::select! {
            () = &mut served => return Ok(()),
            () = stopped(service.current_runs.watch_stop()) => {}
            () = signals.next() => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                tracing::info!("stopping: the batches in flight are finished first");
                service.stop();
                tokio::spawn(async move {
                    signals.next().await;
                    std::process::exit(130);
                });
            }
        }
        if tokio::time::timeout(SHUTDOWN_TIME, served).await.is_err() {
            tracing::warn!("some requests did not end in time");
        }
        Ok(())
    })
}

/// Waits until the service stops.
async fn stopped(mut stopping: watch::Receiver<bool>) {
    // The sender lives as long as the service.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
