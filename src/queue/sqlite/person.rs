//! What a person asks for: retry and cancel.

use rusqlite::params;

use super::depend;
use super::engine::Session;
use super::row::get;
use super::sql::Sql;
use super::stage;
use crate::job::{JobName, JobState};
use crate::queue::{QueueError, Selection};

/// ?1 batch, ?2 JSON array of names: the first that is no job.
const UNKNOWN: &str = "
SELECT e.value AS name FROM json_each(?2) e
WHERE NOT EXISTS (SELECT 1 FROM job j WHERE j.batch = ?1 AND j.name = e.value) LIMIT 1";

/// ?1 batch, ?2 JSON array of names, ?3 JSON array of states. A job that succeeded is made again
/// only when it is named: it is paid again.
const RETRY: &str = "
UPDATE job SET ready = 1, available_at = 0, transient = 0, no_image = 0, lost = 0, lost_alone = 0, spared = 0, cancel = NULL,
    needs = (SELECT count(*) FROM dependency d CROSS JOIN job n
             WHERE d.job = job.job AND n.job = d.needs AND n.state <> 'succeeded'),
    state = iif(EXISTS (SELECT 1 FROM dependency d CROSS JOIN job n
                        WHERE d.job = job.job AND n.job = d.needs AND n.state <> 'succeeded'), 'waiting', 'pending')
WHERE batch = ?1 AND state NOT IN ('waiting', 'pending', 'running') AND (
    job IN (SELECT j.job FROM json_each(?2) e CROSS JOIN job j WHERE j.batch = ?1 AND j.name = e.value)
    OR (state <> 'succeeded' AND state IN (SELECT value FROM json_each(?3))))";

/// As [`RETRY`]. A person's cancellation holds over one by the manifest.
const CANCEL: &str = "
UPDATE job SET cancel = 'person', state = iif(state = 'running', state, 'cancelled')
WHERE batch = ?1 AND state <> 'succeeded' AND NOT (state IN ('running', 'cancelled') AND cancel IS 'person') AND (
    job IN (SELECT j.job FROM json_each(?2) e CROSS JOIN job j WHERE j.batch = ?1 AND j.name = e.value)
    OR state IN (SELECT value FROM json_each(?3)))
RETURNING job";

pub(super) fn retry(session: &Session, selection: &Selection) -> Result<u64, QueueError> {
    let (names, states) = check(session, selection)?;
    let retried = session.conn.run("retrying jobs", RETRY, params![session.batch, names, states])?;
    Ok(retried as u64)
}

pub(super) fn cancel(session: &Session, selection: &Selection) -> Result<u64, QueueError> {
    let (names, states) = check(session, selection)?;
    let jobs: Vec<i64> =
        session.conn.values("cancelling jobs", CANCEL, params![session.batch, names, states])?;
    depend::skip(session, &jobs)?;
    Ok(jobs.len() as u64)
}

/// The selection as JSON arrays, once every name in it is known.
fn check(session: &Session, selection: &Selection) -> Result<(String, String), QueueError> {
    let names: Vec<&str> = selection.names.iter().map(JobName::as_str).collect();
    let names = stage::text("job.name", &names)?;
    let unknown: Option<String> =
        session.conn.row_or_none("looking for jobs", UNKNOWN, params![session.batch, names], |row| {
            get(row, "name")
        })?;
    match unknown {
        Some(name) => Err(QueueError::NoSuchJob(name)),
        None => Ok((names, states(&selection.states)?)),
    }
}

pub(super) fn states(states: &[JobState]) -> Result<String, QueueError> {
    stage::text("job.state", &states.iter().map(|state| state.as_str()).collect::<Vec<_>>())
}
