//! The audit log.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::format::moment;
use super::{Frame, respond};
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::audit::Entry;

/// Entries in the table.
const MAX_ENTRIES: usize = 200;

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    entries: Vec<Entry>,
}

impl Entry {
    fn when(&self) -> String {
        moment(&self.at)
    }
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    respond(service, caller, "audit", |service, caller| {
        let entries = service.audit.last(MAX_ENTRIES)?;
        Ok(AuditPage { frame: Frame::new(service, Some(caller), "Audit log", "audit"), entries })
    })
    .await
}
