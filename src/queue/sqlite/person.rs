//! What a person asks for: retry and cancel.

use super::depend;
use super::engine::Session;
use super::fault::{Doing, get};
use super::stage;
use crate::job::{JobName, JobState};
use crate::queue::{QueueError, Selection};

/// $1 batch, $2 JSON array of names: the first that is no job.
const UNKNOWN: &str = "
SELECT e.value AS name FROM json_each($2) e
WHERE NOT EXISTS (SELECT 1 FROM job j WHERE j.batch = $1 AND j.name = e.value) LIMIT 1";

/// $1 batch, $2 JSON array of names, $3 JSON array of states. A job that succeeded is made again
/// only when it is named: it is paid again.
const RETRY: &str = "
UPDATE job SET ready = 1, available_at = 0, transient = 0, no_image = 0, lost = 0, lost_alone = 0, cancel = NULL,
    needs = (SELECT count(*) FROM dependency d CROSS JOIN job n
             WHERE d.job = job.job AND n.job = d.needs AND n.state <> 'succeeded'),
    state = iif(EXISTS (SELECT 1 FROM dependency d CROSS JOIN job n
                        WHERE d.job = job.job AND n.job = d.needs AND n.state <> 'succeeded'), 'waiting', 'pending')
WHERE batch = $1 AND state NOT IN ('waiting', 'pending', 'running') AND (
    job IN (SELECT j.job FROM json_each($2) e CROSS JOIN job j WHERE j.batch = $1 AND j.name = e.value)
    OR (state <> 'succeeded' AND state IN (SELECT value FROM json_each($3))))";

/// As [`RETRY`]. A person's cancellation holds over one by the manifest.
const CANCEL: &str = "
UPDATE job SET cancel = 'person', state = iif(state = 'running', state, 'cancelled')
WHERE batch = $1 AND state <> 'succeeded' AND NOT (state IN ('running', 'cancelled') AND cancel IS 'person') AND (
    job IN (SELECT j.job FROM json_each($2) e CROSS JOIN job j WHERE j.batch = $1 AND j.name = e.value)
    OR state IN (SELECT value FROM json_each($3)))
RETURNING job";

pub(super) async fn retry(session: &mut Session, selection: Selection) -> Result<u64, QueueError> {
    let (names, states) = check(session, selection).await?;
    let retry = sqlx::query(RETRY).bind(session.batch).bind(names).bind(states);
    retry.execute(&mut session.conn).await.doing("retrying jobs").map(|done| done.rows_affected())
}

pub(super) async fn cancel(session: &mut Session, selection: Selection) -> Result<u64, QueueError> {
    let (names, states) = check(session, selection).await?;
    let cancel = sqlx::query(CANCEL).bind(session.batch).bind(names).bind(states);
    if !depend::any(session).await? {
        let done = cancel.execute(&mut session.conn).await.doing("cancelling jobs")?;
        return Ok(done.rows_affected());
    }
    let rows = cancel.fetch_all(&mut session.conn).await.doing("cancelling jobs")?;
    let jobs = rows.iter().map(|row| get(row, "job")).collect::<Result<Vec<i64>, _>>()?;
    depend::skip(session, &jobs).await?;
    Ok(jobs.len() as u64)
}

/// The selection as JSON arrays, once every name in it is known.
async fn check(session: &mut Session, selection: Selection) -> Result<(String, String), QueueError> {
    let names: Vec<&str> = selection.names.iter().map(JobName::as_str).collect();
    let names = stage::text("job.name", &names)?;
    let unknown: Option<String> = sqlx::query_scalar(UNKNOWN)
        .bind(session.batch)
        .bind(names.clone())
        .fetch_optional(&mut session.conn)
        .await
        .doing("looking for jobs")?;
    match unknown {
        Some(name) => Err(QueueError::NoSuchJob(name)),
        None => Ok((names, states(&selection.states)?)),
    }
}

pub(super) fn states(states: &[JobState]) -> Result<String, QueueError> {
    stage::text("job.state", &states.iter().map(|state| state.as_str()).collect::<Vec<_>>())
}
