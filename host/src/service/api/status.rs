use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_stream::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use super::{Failure, QueryParams, blocking};
use crate::runs::progress::Live;
use crate::runs::report::Trigger;
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::audit;

/// Pause between two events.
const EVENT_PAUSE: Duration = Duration::from_millis(200);
/// How often an event stream checks that its session lasts.
const SESSION_CHECK: Duration = Duration::from_secs(30);

/// The state of the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ServiceStatus {
    /// The current runs, then those that wait.
    pub queue: Vec<QueuedRun>,
    /// Progress of the first current run.
    pub live: Live,
    /// What is wrong with the configuration. Runs are paused meanwhile; everything else uses the last valid configuration.
    pub wrong: Option<String>,
}

/// A run that waits or is current.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct QueuedRun {
    pub run: String,
    /// The name of the connection's file without `.toml`.
    pub connection: String,
    pub trigger: Trigger,
    /// Whether it is current.
    pub running: bool,
    /// Progress of a current run in its goal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
}

/// A scheduled run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct UpcomingRun {
    /// RFC 3339.
    pub at: String,
    /// The name of the connection's file without `.toml`.
    pub connection: String,
}

/// The length of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CountQuery {
    /// Entries at most.
    #[param(minimum = 1, maximum = 1000)]
    count: Option<usize>,
}

impl CountQuery {
    fn or(&self, default: usize) -> Result<usize, Failure> {
        match self.count.unwrap_or(default) {
            count @ 1..=1000 => Ok(count),
            _ => Err(Failure::new(axum::http::StatusCode::BAD_REQUEST, "`count`: expected 1 to 1000")),
        }
    }
}

impl Service {
    /// The current runs, then those that wait.
    pub(in crate::service) fn queued(&self) -> Vec<QueuedRun> {
        let queue = self.queue.list().into_iter().map(|queued| QueuedRun {
            live: self.current_runs.live_of(&queued.planned.run),
            run: queued.planned.run,
            connection: queued.connection,
            trigger: queued.planned.trigger,
            running: queued.running,
        });
        queue.collect()
    }

    /// The state of the service.
    pub(in crate::service) fn status(&self) -> ServiceStatus {
        let queue = self.queued();
        let live = queue.iter().find_map(|queued| queued.live.clone()).unwrap_or_default();
        ServiceStatus { queue, live, wrong: self.folder.error() }
    }

    /// The next scheduled runs of all connections that are on.
    pub(in crate::service) fn upcoming(&self, count: usize) -> Vec<UpcomingRun> {
        crate::queries::schedule::upcoming(&self.folder.config().connections, Timestamp::now(), count)
            .into_iter()
            .map(|(at, connection)| UpcomingRun { at: at.to_string(), connection: connection.stem.clone() })
            .collect()
    }
}

/// The state of the service.
#[utoipa::path(get, path = "/status", responses(
    (status = 200, body = ServiceStatus),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_status(State(service): State<Arc<Service>>) -> Result<Json<ServiceStatus>, Failure> {
    blocking(service, |service| Ok(Json(service.status()))).await
}

/// The next scheduled runs, the first first.
#[utoipa::path(get, path = "/schedule", params(CountQuery), responses(
    (status = 200, body = Vec<UpcomingRun>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_schedule(
    State(service): State<Arc<Service>>,
    QueryParams(count): QueryParams<CountQuery>,
) -> Result<Json<Vec<UpcomingRun>>, Failure> {
    let count = count.or(10)?;
    blocking(service, move |service| Ok(Json(service.upcoming(count)))).await
}

/// The audit log, the latest change first.
#[utoipa::path(get, path = "/audit", params(CountQuery), responses(
    (status = 200, body = Vec<audit::Entry>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_audit(
    State(service): State<Arc<Service>>,
    QueryParams(count): QueryParams<CountQuery>,
) -> Result<Json<Vec<audit::Entry>>, Failure> {
    let count = count.or(100)?;
    blocking(service, move |service| Ok(Json(service.audit.last(count)?))).await
}

/// The state of the service as server-sent events: a `status` now, and after every change. The stream ends with the session.
#[utoipa::path(get, path = "/events", responses(
    (status = 200, description = "Events named `status`; the data of each is a ServiceStatus.", body = String, content_type = "text/event-stream"),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn watch(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // A client that does not read gets no further event.
    let (events, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut queue = service.queue.watch();
        let mut live = service.current_runs.live().subscribe();
        let mut stopping = service.current_runs.watch_stop();
        let mut sessions = service.access.watch_sessions();
        loop {
            if !service.access.is_signed_in(&caller) {
                return;
            }
            queue.mark_unchanged();
            live.mark_unchanged();
            let status = service.status();
            let Ok(event) = Event::default().event("status").json_data(&status) else { return };
            if events.send(event).await.is_err() {
                return;
            }
            tokio::time::sleep(EVENT_PAUSE).await;
            loop {
                tokio::select! {
                    changed = queue.changed() => if changed.is_err() { return } else { break },
                    changed = live.changed() => if changed.is_err() { return } else { break },
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                    () = events.closed() => return,
                    _ = sessions.changed() => {}
                    () = tokio::time::sleep(SESSION_CHECK) => {}
                }
                if !service.access.is_signed_in(&caller) {
                    return;
                }
            }
        }
    });
    Sse::new(ReceiverStream::new(receiver).map(Ok)).keep_alive(KeepAlive::default())
}
