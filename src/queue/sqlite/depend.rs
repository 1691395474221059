//! Jobs that need other jobs: promoted when all they need has succeeded, skipped when one of them
//! never will. Called in the transaction that brings a job to its end.

use rusqlite::params;

use super::engine::Session;
use super::sql::Sql;
use crate::queue::QueueError;

/// Jobs whose end is worked off at a time; a chain of dependants is followed level by level.
const LEVELS_MAX: usize = 10_000;

/// ?1 JSON array of jobs that succeeded. What a dependant still needs is counted anew: a job that
/// succeeds twice (made again) must not count twice.
const PROMOTE: [&str; 2] = [
    "
UPDATE job SET needs = (SELECT count(*) FROM dependency d CROSS JOIN job n
                        WHERE d.job = job.job AND n.job = d.needs AND n.state <> 'succeeded')
WHERE job IN (SELECT d.job FROM json_each(?1) e CROSS JOIN dependency d WHERE d.needs = e.value)",
    "
UPDATE job SET state = 'pending', ready = 1, available_at = 0
WHERE state = 'waiting' AND needs = 0
  AND job IN (SELECT d.job FROM json_each(?1) e CROSS JOIN dependency d WHERE d.needs = e.value)",
];

/// ?1 JSON array of jobs that ended; those that succeeded do not count.
const SKIP: &str = "
UPDATE job SET state = 'skipped'
WHERE state = 'waiting'
  AND job IN (SELECT d.job FROM json_each(?1) e CROSS JOIN job n CROSS JOIN dependency d
              WHERE n.job = e.value AND n.state IN ('failed', 'refused', 'skipped', 'cancelled') AND d.needs = n.job)
RETURNING job";

const ANY: &str = "SELECT EXISTS (SELECT 1 FROM dependency)";

pub(super) fn promote(session: &Session, succeeded: &[i64]) -> Result<(), QueueError> {
    session.conn.run_all("promoting dependants", &PROMOTE, params![list(succeeded)])
}

pub(super) fn skip(session: &Session, ended: &[i64]) -> Result<(), QueueError> {
    if ended.is_empty() || !any(session)? {
        return Ok(());
    }
    let mut ended = ended.to_vec();
    for _ in 0..LEVELS_MAX {
        if ended.is_empty() {
            break;
        }
        ended = session.conn.values("skipping dependants", SKIP, params![list(&ended)])?;
    }
    Ok(())
}

/// Whether any job needs another one; most queues have none.
pub(super) fn any(session: &Session) -> Result<bool, QueueError> {
    session.conn.value("looking for dependants", ANY, &[])
}

/// Numbers as a JSON array, to be taken apart by `json_each`.
pub(super) fn list(numbers: &[i64]) -> String {
    serde_json::Value::from(numbers).to_string()
}
