//! `sluicebox serve`: runs connections when they are due, and answers whoever looks in.
//!
//! - `queue`: what is to run, what runs, and what of it outlives the process;
//! - `clock`: asks each connection's schedule when it is due;
//! - `worker`: the thread that runs connections, one after the other;
//! - `working_folder`: the configuration as its files are now, and changes to them;
//! - `notify`: mail and webhooks;
//! - `edit`: changes of a connection's file that keep its comments;
//! - `api`: what can be asked and done, as JSON; `page` shows the same to people;
//! - `known`: what need not be found out again at each look;
//! - `access`: who may; `audit`: who did;
//! - `metrics`: numbers for Prometheus; `traces`: spans for OpenTelemetry.

mod access;
mod api;
mod audit;
mod clock;
mod edit;
mod known;
mod metrics;
mod notify;
mod page;
mod queue;
pub(crate) mod traces;
mod worker;
mod working_folder;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sluicebox_store::Store;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::cli::print;
use crate::error::Error;
use crate::progress::Live;
use crate::runs;
use access::Access;
use audit::Audit;
use known::Known;
use metrics::Metrics;
use notify::Notifier;
use queue::Queue;
use working_folder::WorkingFolder;

/// Whoever has not been answered this long after the service was told to stop is cut off: a page that waits for
/// progress would wait for ever.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How much less urgent answers are than a run, as `nice` has it.
const POLITENESS: i32 = 10;
/// Requests that are worked on at a time; the others wait.
const MOST_LOOKING: usize = 8;

/// What the parts of the service share.
pub(crate) struct Service {
    folder: WorkingFolder,
    store: Store,
    queue: Queue,
    /// How far the goal under way is.
    live: watch::Sender<Live>,
    /// Set once, when the service stops.
    stopping: watch::Sender<bool>,
    /// Set to stop the run under way at its next batch.
    stop_run: AtomicBool,
    notifier: Notifier,
    access: Access,
    audit: Audit,
    metrics: Metrics,
    /// What was found out of history and plugins, which stays so.
    known: Known,
}

/// Runs until SIGTERM or Ctrl-C. The batch in flight is finished then, and the run goes on at the next start.
///
/// # Errors
/// If the configuration is wrong, the store is in use, or the address is taken.
pub(crate) fn serve(root: &Path, address: Option<SocketAddr>) -> Result<u8, Error> {
    let folder = WorkingFolder::open(root)?;
    let config = folder.config();
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let mut server = config.settings.server.clone();
    if let Some(address) = address {
        server.address = address;
    }
    let access = Access::new(&config, &server)?;
    let store = Store::open(&config.settings.store)?;
    runs::recover(&config, &store, false)?;
    let io = |error| Error::io("the service".as_ref(), error);
    // Who looks in waits for the import, not the import for who looks in.
    let politely = || {
        let _ = rustix::process::nice(POLITENESS);
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(MOST_LOOKING).on_thread_start(politely);
    let runtime = runtime.enable_all().build().map_err(io)?;
    let service = Arc::new(Service {
        queue: Queue::restore(&config, &store)?,
        audit: Audit::open(config.data())?,
        notifier: Notifier::new(runtime.handle().clone()),
        metrics: Metrics::new(),
        known: Known::default(),
        live: watch::Sender::new(Live::default()),
        stopping: watch::Sender::new(false),
        stop_run: AtomicBool::new(false),
        folder,
        store,
        access,
    });
    let working = Arc::clone(&service);
    let worker = thread::Builder::new().name("worker".to_owned());
    let worker = worker.spawn(move || {
        // A service that runs nothing any more is none, whatever it was that ended its worker.
        let _ends = EndsService(&working);
        working.work();
    });
    let worker = worker.map_err(io)?;
    let served = listen(&runtime, &service, server.address);
    service.stop();
    let worked = worker.join().map_err(|_| Error::Failed("the worker broke off".to_owned()));
    runtime.block_on(service.notifier.finish());
    runtime.shutdown_timeout(LAST_ANSWERS);
    served.and(worked).map(|()| 0)
}

struct EndsService<'s>(&'s Service);

impl Drop for EndsService<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Service {
    fn stop(&self) {
        self.stopping.send_replace(true);
        self.stop_run.store(true, Ordering::Relaxed);
        self.queue.close();
    }
}

fn listen(runtime: &Runtime, service: &Arc<Service>, address: SocketAddr) -> Result<(), Error> {
    runtime.block_on(async {
        let failed = |error| Error::io(address.to_string().as_ref(), error);
        let mut signals = Signals::new().map_err(failed)?;
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        // Programs that start the service wait for this line.
        print(format!("listening on http://{bound}"))?;
        // Whether systemd hears it is systemd's affair.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let clock = tokio::spawn(clock::run(Arc::clone(service)));
        let (service, stopping) = (Arc::clone(service), service.stopping.subscribe());
        let app = page::router(Arc::clone(&service)).into_make_service_with_connect_info::<SocketAddr>();
        let answered = axum::serve(listener, app).with_graceful_shutdown(stopped(stopping));
        let mut answered = std::pin::pin!(answered.into_future());
        let done = tokio::select! {
            done = &mut answered => done,
            () = stopped(service.stopping.subscribe()) => {
                tokio::time::timeout(LAST_ANSWERS, answered).await.unwrap_or(Ok(()))
            }
            () = signals.next() => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                tracing::info!("stopping: the batch in flight is finished first");
                service.stop();
                tokio::spawn(async move {
                    signals.next().await;
                    std::process::exit(130);
                });
                tokio::time::timeout(LAST_ANSWERS, answered).await.unwrap_or(Ok(()))
            }
        };
        clock.abort();
        done.map_err(failed)
    })
}

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
