//! Floor 7: the queue as reports: `usage.csv` (a row a job), `attempts.csv` (a row a request) and
//! `summary.json` (the run in figures).
//!
//! The bytes are a function of the queue alone: delete the files, and [`write_reports`] brings the
//! same ones back. It reads page by page, so memory does not grow with the number of jobs. What
//! it does *not* do: decide anything, or read the pictures.

mod attempts;
mod cell;
mod rows;
mod summary;
mod usage;

use self::rows::Rows;
use crate::output::Results;
use crate::queue::{AttemptRow, Queue};

pub use attempts::last_reported_attempt;
pub use rows::ReportError;
pub use summary::{Money, RunFigures, Summary, Tokens};

/// Jobs or attempts read from the queue at once.
const PAGE_ROWS: u32 = 500;

/// The reports by their names.
pub const REPORTS: [&str; 3] = [USAGE, ATTEMPTS, SUMMARY];

const USAGE: &str = "usage.csv";
/// The ledger, whose last row tells how much the queue knew.
const ATTEMPTS: &str = "attempts.csv";
const SUMMARY: &str = "summary.json";

/// How often reports are written over by one call, since the queue went on.
const WRITINGS_MAX: u32 = 3;

/// Writes all reports, each of which takes the old one's place when it is complete. Not cancel-safe in that a
/// dropped future may leave a temporary file behind, which the next call writes over, or parts of an upload.
pub async fn write_reports(queue: &dyn Queue, results: &Results) -> Result<(), ReportError> {
    // Two processes that refresh the same reports take turns.
    let _turn = results.take_turn().await;
    write(queue, results, &Summary::read(queue).await?).await
}

/// As [`write_reports`], so that the last of several workers leaves the last word: where nobody can take turns,
/// reports are written again when the queue went on meanwhile.
pub async fn write_last_reports(queue: &dyn Queue, results: &Results) -> Result<(), ReportError> {
    let _turn = results.take_turn().await;
    let mut summary = Summary::read(queue).await?;
    for _ in 0..WRITINGS_MAX {
        write(queue, results, &summary).await?;
        let now = Summary::read(queue).await?;
        if !results.are_shared() || now == summary {
            break;
        }
        summary = now;
    }
    Ok(())
}

async fn write(queue: &dyn Queue, results: &Results, summary: &Summary) -> Result<(), ReportError> {
    let mut rows = Rows::begin(results, USAGE).await?;
    let written = usage::write(queue, &mut rows).await;
    rows.end(written).await?;
    let mut rows = Rows::begin(results, ATTEMPTS).await?;
    let written = attempts::write(queue, &mut rows).await;
    rows.end(written).await?;
    let mut report = results.report(SUMMARY).await?;
    report.write(&summary.to_json()).await?;
    Ok(report.finish().await?)
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
