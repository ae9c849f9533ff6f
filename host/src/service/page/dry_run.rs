//! What a run would change.

use askama::Template;

use super::Frame;
use crate::runs::report::Report;
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::Failure;

#[derive(Template)]
#[template(path = "dry_run.html")]
pub(super) struct DryRunPage {
    frame: Frame,
    connection: String,
    name: String,
    reports: Vec<Report>,
}

impl DryRunPage {
    /// Shows what goals did on a copy of the store.
    pub(super) fn of(
        service: &Service,
        caller: &Caller,
        connection: &str,
        reports: Vec<Report>,
    ) -> Result<Self, Failure> {
        let state = service.connection(connection)?;
        let frame = Frame::new(service, Some(caller), format!("Dry run – {}", state.name), "connections");
        Ok(Self { frame, connection: state.connection, name: state.name, reports })
    }
}

/// Runs goals on a copy of the store, and shows what they did there.
pub(super) fn page_of(
    service: &Service,
    caller: &Caller,
    connection: &str,
    goals: &[String],
) -> Result<DryRunPage, Failure> {
    let reports = service.dry_run(connection, goals, false)?;
    DryRunPage::of(service, caller, connection, reports)
}
