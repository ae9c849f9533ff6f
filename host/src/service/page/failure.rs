//! What to do after a goal run failed.

use crate::error::FailureCode;
use crate::runs::report::Report;

/// What to look at next. A goal run of an earlier version has no code, and gets no advice.
pub(super) fn advice(report: &Report) -> Option<&'static str> {
    match report.failure? {
        FailureCode::MaxRejected | FailureCode::AllRejected => {
            Some("Look at the rejected rows below: each says why. A corrected file is imported as a new one.")
        }
        FailureCode::Columns => {
            Some("Compare the file's columns with the goal's mapping: scan the goal to see both.")
        }
        FailureCode::Stopped | FailureCode::Interrupted => {
            Some("Nothing is lost: the next run continues from the last commit.")
        }
        _ => None,
    }
}
