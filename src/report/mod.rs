//! Floor 7: the queue as reports: `usage.csv` (a row a job), `attempts.csv` (a row a request) and
//! `summary.json` (the run in figures).
//!
//! The bytes are a function of the queue alone: delete the files, and [`write_reports`] brings the
//! same ones back. It reads page by page, so memory does not grow with the number of jobs. What
//! it does *not* do: decide anything, or read the pictures.

mod attempts;
mod cell;
mod file;
mod summary;
mod usage;

use crate::output::RunFolder;
use crate::queue::{AttemptRow, Queue};

pub use attempts::last_reported_attempt;
pub use file::ReportError;
pub use summary::{Money, RunFigures, Summary, Tokens};

/// Jobs or attempts read from the queue at once.
const PAGE_ROWS: u32 = 500;

/// Writes all reports of a run folder, each to a temporary file that takes the old one's place
/// when it is complete. Not cancel-safe in that a dropped future may leave a temporary file
/// behind; the next call writes over it.
pub async fn write_reports(queue: &dyn Queue, folder: &RunFolder) -> Result<(), ReportError> {
    // Two processes that refresh the same reports take turns.
    let _turn = file::take_turn(folder.path()).await;
    usage::write(queue, &folder.usage_csv()).await?;
    attempts::write(queue, &folder.attempts_csv()).await?;
    let summary = Summary::read(queue).await?;
    file::write_whole(&folder.summary_json(), &summary.to_json()).await
}

/// What went wrong with an attempt as `code: message`; empty when nothing did.
pub fn error_line(attempt: &AttemptRow) -> String {
    match (&attempt.error_code, &attempt.error) {
        (Some(code), Some(error)) => format!("{code}: {error}"),
        (Some(text), None) | (None, Some(text)) => text.clone(),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests;
