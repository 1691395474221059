//! Jobs that need other jobs: promoted when all they need has succeeded, skipped when one of them never
//! will. Called in the transaction that brings a job to its end.

use super::fault::{Doing, get};
use super::session::Session;
use crate::queue::QueueError;

/// Jobs whose end is worked off at a time; a chain of dependants is followed level by level.
const LEVELS_MAX: usize = 10_000;

/// $1 jobs that succeeded. What a dependant still needs is counted anew: a job that succeeds twice (made
/// again) must not count twice. Dependants are locked first, so that two needs that are met at once do not
/// both miss the other.
const LOCK: &str = "
SELECT j.job FROM job j WHERE j.job IN (SELECT d.job FROM dependency d WHERE d.needs = ANY($1))
ORDER BY j.job FOR UPDATE";
const PROMOTE: &str = "
UPDATE job SET needs = left_over.n,
    state = CASE WHEN job.state = 'waiting' AND left_over.n = 0 THEN 'pending' ELSE job.state END,
    ready = job.ready OR (job.state = 'waiting' AND left_over.n = 0),
    available_at = CASE WHEN job.state = 'waiting' AND left_over.n = 0 THEN 0 ELSE job.available_at END
FROM (SELECT o.job, (SELECT count(*) FROM dependency d JOIN job n ON n.job = d.needs
                     WHERE d.job = o.job AND n.state <> 'succeeded') AS n
      FROM (SELECT DISTINCT job FROM dependency WHERE needs = ANY($1)) o) left_over
WHERE job.job = left_over.job";

/// $1 jobs that ended; those that succeeded do not count.
const SKIP: &str = "
UPDATE job SET state = 'skipped'
WHERE state = 'waiting'
  AND job IN (SELECT d.job FROM dependency d JOIN job n ON n.job = d.needs
              WHERE d.needs = ANY($1) AND n.state IN ('failed', 'refused', 'skipped', 'cancelled'))
RETURNING job";

const ANY: &str = "SELECT EXISTS (SELECT 1 FROM dependency)";

pub(super) async fn promote(session: &mut Session, succeeded: &[i64]) -> Result<(), QueueError> {
    let what = "promoting dependants";
    sqlx::query(LOCK).bind(succeeded).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(PROMOTE).bind(succeeded).execute(&mut session.conn).await.doing(what).map(drop)
}

/// Skips what waited for jobs that ended without success.
pub(super) async fn skip(session: &mut Session, ended: &[i64]) -> Result<(), QueueError> {
    let mut ended = ended.to_vec();
    for _ in 0..LEVELS_MAX {
        if ended.is_empty() {
            break;
        }
        let rows = sqlx::query(SKIP).bind(&ended).fetch_all(&mut session.conn).await;
        let rows = rows.doing("skipping dependants")?;
        ended = rows.iter().map(|row| get(row, "job")).collect::<Result<_, _>>()?;
    }
    Ok(())
}

/// Whether any job needs another one; most queues have none.
pub(super) async fn any(session: &mut Session) -> Result<bool, QueueError> {
    sqlx::query_scalar(ANY).fetch_one(&mut session.conn).await.doing("looking for dependants")
}
