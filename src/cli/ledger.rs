//! Whether a run folder's queue still tells of all that its reports and pictures tell of. A queue
//! that was lost, emptied or restored from an older copy would have all of it paid again.

use anyhow::{Result, bail};

use super::text;
use crate::job::{AttemptId, printable};
use crate::output::Results;
use crate::queue::{Queue, QueueError};
use crate::report::last_reported_attempt;

/// Fails where the run folder or bucket tells of requests or results that `queue` does not know; `None` is a
/// queue that does not exist.
pub(super) async fn check(queue: Option<&dyn Queue>, results: &Results) -> Result<()> {
    let known = requests(queue).await?;
    let reported = last_reported_attempt(results).await?;
    let at = printable(&results.to_string()).to_string();
    let found = if reported > 0 && !knows(queue, reported).await? {
        format!("attempts.csv tells of {}", text::count(reported, "request"))
    // Once more, now that there are files: another process may have begun meanwhile.
    } else if known == 0 && results.hold_images().await? && requests(queue).await? == 0 {
        "there are files in images/".to_owned()
    } else {
        return Ok(());
    };
    if queue.is_some_and(Queue::spans_machines) {
        bail!(
            "{at} tells of another batch, or this one has lost requests: {found}, but the batch in the database knows \
             of {known} only. What was made would be paid again. Choose its batch with --batch, or another folder \
             with -o; or move attempts.csv and images/ away"
        );
    }
    let instead = if known == 0 {
        "queue.db is missing or empty".to_owned()
    } else {
        format!("queue.db knows of {known} only")
    };
    bail!(
        "{at} has lost its queue, or a part of it: {found}, but {instead}. What was made would be paid again. Put the \
         right queue.db back (with queue.db-wal, where there is one); or, to begin anew, use another folder with -o, \
         or move attempts.csv and images/ away"
    )
}

/// How many requests the queue knows of.
async fn requests(queue: Option<&dyn Queue>) -> Result<u64, QueueError> {
    let Some(queue) = queue else { return Ok(0) };
    Ok(queue.tally().await?.attempts.values().sum())
}

/// Whether the queue has the request with this number, or a later one. In a database the numbers are those of
/// all batches together.
async fn knows(queue: Option<&dyn Queue>, attempt: u64) -> Result<bool, QueueError> {
    let Some(queue) = queue else { return Ok(false) };
    let before = AttemptId(i64::try_from(attempt).unwrap_or(i64::MAX).saturating_sub(1));
    Ok(!queue.attempts(None, Some(before), 1).await?.is_empty())
}
