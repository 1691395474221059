//! `attempts.csv`: one row a request, in the order in which they were sent: the ledger. Columns
//! only ever get appended.

use super::rows::{ReportError, Rows};
use super::{ATTEMPTS, PAGE_ROWS, cell, error_line};
use crate::output::{PublishError, Results};
use crate::queue::{AttemptRow, Queue};

const COLUMNS: [&str; 23] = [
    "attempt",
    "job",
    "revision",
    "run",
    "lane",
    "model",
    "sent_at",
    "ended_at",
    "outcome",
    "http_status",
    "error",
    "finish_reason",
    "response_id",
    "prompt_tokens",
    "candidates_tokens",
    "image_tokens",
    "thoughts_tokens",
    "total_tokens",
    "bytes",
    "first_byte_ms",
    "total_ms",
    "cost_usd_estimate",
    "cost_usd_at_most",
];

pub(super) async fn write(queue: &dyn Queue, rows: &mut Rows) -> Result<(), ReportError> {
    rows.add([COLUMNS]).await?;
    let mut after = None;
    loop {
        let page = queue.attempts(None, after, PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.attempt);
        rows.add(page.iter().map(row)).await?;
    }
    Ok(())
}

/// How much of a report's end is read for its last row.
const TAIL_BYTES: u64 = 256 * 1024;

/// The number of the last request that the `attempts.csv` there tells of; 0 without one.
pub async fn last_reported_attempt(results: &Results) -> Result<u64, PublishError> {
    let Some(tail) = results.end_of_report(ATTEMPTS, TAIL_BYTES).await? else { return Ok(0) };
    // A row is one line, and begins with its number.
    let number = |line: &[u8]| -> Option<u64> {
        let cell = line.split(|byte| *byte == b',').next()?;
        std::str::from_utf8(cell).ok()?.parse().ok()
    };
    Ok(tail.split(|byte| *byte == b'\n').rev().find_map(number).unwrap_or(0))
}

fn row(attempt: &AttemptRow) -> [String; COLUMNS.len()] {
    [
        attempt.attempt.to_string(),
        cell::text(attempt.job.as_str()),
        attempt.revision.to_string(),
        attempt.run.to_string(),
        cell::text(&attempt.lane),
        cell::text(&attempt.model),
        attempt.sent_at.to_string(),
        cell::time(attempt.ended_at),
        attempt.outcome.to_string(),
        cell::number(attempt.http_status),
        cell::foreign(&error_line(attempt)),
        cell::optional_foreign(attempt.finish_reason.as_deref()),
        cell::optional_foreign(attempt.response_id.as_deref()),
        cell::number(attempt.usage.prompt),
        cell::number(attempt.usage.candidates),
        cell::number(attempt.usage.image),
        cell::number(attempt.usage.thoughts),
        cell::number(attempt.usage.total),
        cell::number(attempt.bytes),
        cell::ms(attempt.first_byte),
        cell::ms(attempt.total),
        cell::money(attempt.cost),
        cell::money(attempt.cost_at_most),
    ]
}
