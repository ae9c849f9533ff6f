use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_stream::Stream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use super::{Asked, Failure, blocking};
use crate::progress::Live;
use crate::report::Trigger;
use crate::service::Service;
use crate::service::audit;

/// A page is told of progress no more often than this.
const BETWEEN_EVENTS: Duration = Duration::from_millis(200);

/// What the service does now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct ServiceStatus {
    /// The run under way, then those that wait.
    pub queue: Vec<QueuedRun>,
    /// How far the goal under way is.
    pub live: Live,
    /// What is wrong with the working folder's files; what was read before counts meanwhile.
    pub wrong: Option<String>,
}

/// A run that waits or is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct QueuedRun {
    pub run: String,
    /// The connection's file, without `.toml`.
    pub connection: String,
    pub trigger: Trigger,
    pub running: bool,
}

/// A run that is to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Upcoming {
    /// RFC 3339.
    pub at: String,
    /// The connection's file, without `.toml`.
    pub connection: String,
}

/// How much of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Count {
    /// At most so many.
    #[param(minimum = 1, maximum = 1000)]
    count: Option<usize>,
}

impl Count {
    fn or(&self, default: usize) -> Result<usize, Failure> {
        match self.count.unwrap_or(default) {
            count @ 1..=1000 => Ok(count),
            _ => Err(Failure::new(axum::http::StatusCode::BAD_REQUEST, "`count`: expected 1 to 1000")),
        }
    }
}

impl Service {
    /// The run under way, then those that wait.
    pub(in crate::service) fn queued(&self) -> Vec<QueuedRun> {
        let queue = self.queue.list().into_iter().map(|queued| QueuedRun {
            run: queued.wanted.run,
            connection: queued.connection,
            trigger: queued.wanted.trigger,
            running: queued.running,
        });
        queue.collect()
    }

    /// What it does now.
    pub(in crate::service) fn status(&self) -> ServiceStatus {
        ServiceStatus { queue: self.queued(), live: self.live.borrow().clone(), wrong: self.folder.wrong() }
    }

    /// The next runs of all connections that are on.
    pub(in crate::service) fn upcoming(&self, count: usize) -> Vec<Upcoming> {
        crate::commands::schedule::upcoming(&self.folder.config().connections, Timestamp::now(), count)
            .into_iter()
            .map(|(at, connection)| Upcoming { at: at.to_string(), connection: connection.stem.clone() })
            .collect()
    }
}

/// What the service does now.
#[utoipa::path(get, path = "/status", responses(
    (status = 200, body = ServiceStatus),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_status(State(service): State<Arc<Service>>) -> Result<Json<ServiceStatus>, Failure> {
    blocking(service, |service| Ok(Json(service.status()))).await
}

/// The next runs, the first first.
#[utoipa::path(get, path = "/schedule", params(Count), responses(
    (status = 200, body = Vec<Upcoming>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_schedule(
    State(service): State<Arc<Service>>,
    Asked(count): Asked<Count>,
) -> Result<Json<Vec<Upcoming>>, Failure> {
    let count = count.or(10)?;
    blocking(service, move |service| Ok(Json(service.upcoming(count)))).await
}

/// Who changed what, the last change first.
#[utoipa::path(get, path = "/audit", params(Count), responses(
    (status = 200, body = Vec<audit::Entry>),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn get_audit(
    State(service): State<Arc<Service>>,
    Asked(count): Asked<Count>,
) -> Result<Json<Vec<audit::Entry>>, Failure> {
    let count = count.or(100)?;
    blocking(service, move |service| Ok(Json(service.audit.last(count)?))).await
}

/// What the service does, as server-sent events: a `status` now, and at every change.
#[utoipa::path(get, path = "/events", responses(
    (status = 200, description = "Events named `status`; the data of each is a ServiceStatus.", body = String, content_type = "text/event-stream"),
    (status = "default", body = Failure, content_type = "application/problem+json"),
))]
pub(super) async fn watch(
    State(service): State<Arc<Service>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    // Whoever does not read is not waited for: there is one event on its way.
    let (events, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut queue = service.queue.watch();
        let mut live = service.live.subscribe();
        let mut stopping = service.stopping.subscribe();
        loop {
            queue.mark_unchanged();
            live.mark_unchanged();
            let status = service.status();
            let Ok(event) = Event::default().event("status").json_data(&status) else { return };
            if events.send(event).await.is_err() {
                return;
            }
            tokio::time::sleep(BETWEEN_EVENTS).await;
            tokio::select! {
                changed = queue.changed() => if changed.is_err() { return },
                changed = live.changed() => if changed.is_err() { return },
                _ = stopping.wait_for(|stopping| *stopping) => return,
                () = events.closed() => return,
            }
        }
    });
    Sse::new(ReceiverStream::new(receiver).map(Ok)).keep_alive(KeepAlive::default())
}
