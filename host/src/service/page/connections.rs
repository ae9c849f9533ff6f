//! All connections, the queue, and the next scheduled runs.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::format::moment;
use super::runs::status_word;
use super::{Frame, respond};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::connections::{ConnectionState, GoalState};
use crate::service::api::status::{QueuedRun, UpcomingRun};

/// Scheduled runs in the list.
const MAX_UPCOMING: usize = 10;

#[derive(Template)]
#[template(path = "connections.html")]
struct ConnectionsPage {
    frame: Frame,
    connections: Vec<ConnectionState>,
    upcoming: Vec<UpcomingRun>,
    queue: Vec<QueuedRun>,
}

impl ConnectionState {
    pub(super) fn next_run(&self) -> String {
        self.next.as_deref().map_or("–".to_owned(), moment)
    }

    /// The worst of how its goals ended last.
    fn last(&self) -> &'static str {
        let last =
            |goal: &GoalState| goal.last_status.map(|status| status_word(status, goal.last_interrupted));
        let words: Vec<&str> = self.goals.iter().filter_map(last).collect();
        let order = ["failed", "running", "stopped", "succeeded"];
        order.into_iter().find(|word| words.contains(word)).unwrap_or("never ran")
    }

    /// The latest run of one of its goals.
    fn last_run(&self) -> Option<&str> {
        self.goals.iter().filter_map(|goal| goal.last_run.as_deref()).max()
    }
}

impl UpcomingRun {
    fn when(&self) -> String {
        moment(&self.at)
    }
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    respond(service, caller, "connections", |service, caller| {
        Ok(ConnectionsPage {
            frame: Frame::new(service, Some(caller), "Connections", "connections"),
            connections: service.connections()?,
            upcoming: service.upcoming(MAX_UPCOMING),
            queue: service.queued(),
        })
    })
    .await
}
