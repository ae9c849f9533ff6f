//! The first rows of a file of rejected rows.

use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::format::count;
use super::{Frame, respond};
use crate::runs::rejected::own_columns;
use crate::service::Service;
use crate::service::access::Caller;
use crate::service::api::PathParams;

/// Rows in the table.
const MAX_ROWS: usize = 200;

#[derive(Template)]
#[template(path = "rejected.html")]
struct RejectedPage {
    frame: Frame,
    run: String,
    file: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl RejectedPage {
    /// What the table shows of the file.
    fn shown(&self) -> String {
        let rows = count(self.rows.len() as u64, "row", "rows");
        if self.rows.len() == MAX_ROWS { format!("The first {rows}.") } else { format!("{rows}.") }
    }
}

pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(caller): Extension<Caller>,
    PathParams((run, file)): PathParams<(String, String)>,
) -> Response {
    respond(service, caller, "runs", move |service, caller| {
        let (mut columns, mut rows) = service.rejected_rows(&run, &file, MAX_ROWS)?;
        // The reason before the row.
        let own = own_columns(&columns);
        columns.rotate_right(own);
        for row in &mut rows {
            let own = own.min(row.len());
            row.rotate_right(own);
        }
        let frame = Frame::new(service, Some(caller), format!("Rejected rows of {run}"), "runs");
        Ok(RejectedPage { frame, run, file, columns, rows })
    })
    .await
}
