//! The plugins, with their limits and costs.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::format::{bytes, count, grouped, span};
use super::{Frame, respond};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::plugins::{PluginState, PluginUse};
use crate::service::lookup_cache::wait_for_descriptions;

#[derive(Template)]
#[template(path = "plugins.html")]
struct PluginsPage {
    frame: Frame,
    plugins: Vec<PluginState>,
}

impl PluginState {
    fn file_size(&self) -> String {
        bytes(self.size)
    }

    /// What it did in the last runs, and what it cost.
    fn cost(&self) -> String {
        let mut parts = vec![count(self.rows, "row", "rows")];
        parts.extend(self.nanoseconds_a_row.map(|time| format!("{} ns a row", grouped(time))));
        if self.peak_memory > 0 {
            parts.push(format!("up to {} of memory", bytes(self.peak_memory)));
        }
        parts.push(count(self.traps, "trap", "traps"));
        parts.join(", ")
    }
}

impl PluginUse {
    fn limits(&self) -> String {
        format!(
            "{} of memory, {} a batch, {} to open, {}",
            bytes(self.memory),
            span(self.batch_time),
            span(self.open_time),
            count(u64::from(self.log_lines), "log line", "log lines")
        )
    }
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    wait_for_descriptions(&service).await;
    respond(service, caller, "plugins", |service, caller| {
        let frame = Frame::new(service, Some(caller), "Plugins", "plugins");
        Ok(PluginsPage { frame, plugins: service.plugins()? })
    })
    .await
}
