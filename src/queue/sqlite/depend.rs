//! Jobs that need other jobs: promoted when all they need has succeeded, skipped when one of them
//! never will. Called in the transaction that brings a job to its end.

use super::engine::Session;
use super::fault::{Doing, get};
use crate::queue::QueueError;

/// Jobs whose end is worked off at a time; a chain of dependants is followed level by level.
const LEVELS_MAX: usize = 10_000;

/// $1 JSON array of jobs that succeeded. What a dependant still needs is counted anew: a job that
/// succeeds twice (made again) must not count twice.
const PROMOTE: &str = "
UPDATE job SET needs = (SELECT count(*) FROM dependency d CROSS JOIN job n
                        WHERE d.job = job.job AND n.job = d.needs AND n.state <> 'succeeded')
WHERE job IN (SELECT d.job FROM json_each($1) e CROSS JOIN dependency d WHERE d.needs = e.value);
UPDATE job SET state = 'pending', ready = 1, available_at = 0
WHERE state = 'waiting' AND needs = 0
  AND job IN (SELECT d.job FROM json_each($1) e CROSS JOIN dependency d WHERE d.needs = e.value)";

/// $1 JSON array of jobs that ended; those that succeeded do not count.
const SKIP: &str = "
UPDATE job SET state = 'skipped'
WHERE state = 'waiting'
  AND job IN (SELECT d.job FROM json_each($1) e CROSS JOIN job n CROSS JOIN dependency d
              WHERE n.job = e.value AND n.state IN ('failed', 'refused', 'skipped', 'cancelled') AND d.needs = n.job)
RETURNING job";

const ANY: &str = "SELECT EXISTS (SELECT 1 FROM dependency)";

pub(super) async fn promote(session: &mut Session, succeeded: &[i64]) -> Result<(), QueueError> {
    sqlx::query(PROMOTE)
        .bind(list(succeeded))
        .execute(&mut session.conn)
        .await
        .doing("promoting dependants")
        .map(drop)
}

pub(super) async fn skip(session: &mut Session, ended: &[i64]) -> Result<(), QueueError> {
    if ended.is_empty() || !any(session).await? {
        return Ok(());
    }
    let mut ended = ended.to_vec();
    for _ in 0..LEVELS_MAX {
        if ended.is_empty() {
            break;
        }
        let rows = sqlx::query(SKIP)
            .bind(list(&ended))
            .fetch_all(&mut session.conn)
            .await
            .doing("skipping dependants")?;
        ended = rows.iter().map(|row| get(row, "job")).collect::<Result<_, _>>()?;
    }
    Ok(())
}

/// Whether any job needs another one; most queues have none.
pub(super) async fn any(session: &mut Session) -> Result<bool, QueueError> {
    sqlx::query_scalar(ANY).fetch_one(&mut session.conn).await.doing("looking for dependants")
}

/// Numbers as a JSON array, to be taken apart by `json_each`.
pub(super) fn list(numbers: &[i64]) -> String {
    serde_json::Value::from(numbers).to_string()
}
