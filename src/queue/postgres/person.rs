//! What a person asks for: retry and cancel.

use super::depend;
use super::fault::{Doing, get};
use super::news;
use super::session::Session;
use crate::job::{JobName, JobState};
use crate::queue::{QueueError, Selection};

/// $1 batch, $2 names: the first that is no job.
const UNKNOWN: &str = "
SELECT e.name FROM unnest($2::text[]) AS e (name)
WHERE NOT EXISTS (SELECT 1 FROM job j WHERE j.batch = $1 AND j.name = e.name) LIMIT 1";

/// $1 batch, $2 names, $3 states. A job that succeeded is made again only when it is named: it is paid again.
const RETRY: &str = "
UPDATE job SET ready = true, available_at = 0, transient = 0, no_image = 0, lost = 0, lost_alone = 0, spared = false, cancel = NULL,
    needs = (SELECT count(*) FROM dependency d JOIN job n ON n.job = d.needs
             WHERE d.job = job.job AND n.state <> 'succeeded'),
    state = CASE WHEN EXISTS (SELECT 1 FROM dependency d JOIN job n ON n.job = d.needs
                              WHERE d.job = job.job AND n.state <> 'succeeded') THEN 'waiting' ELSE 'pending' END
WHERE batch = $1 AND state NOT IN ('waiting', 'pending', 'running')
  AND (name = ANY($2) OR (state <> 'succeeded' AND state = ANY($3)))
RETURNING job";

/// As [`RETRY`]. A person's cancellation holds over one by the manifest.
const CANCEL: &str = "
UPDATE job SET cancel = 'person', state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END
WHERE batch = $1 AND state <> 'succeeded'
  AND NOT (state IN ('running', 'cancelled') AND cancel IS NOT DISTINCT FROM 'person')
  AND (name = ANY($2) OR state = ANY($3))
RETURNING job";

/// A selection may be of the whole batch.
const BEGIN: &str =
    "SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL statement_timeout = '30min';
    SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL join_collapse_limit = 8";

pub(super) async fn retry(session: &mut Session, selection: &Selection) -> Result<u64, QueueError> {
    change(session, selection, RETRY).await.map(|jobs| jobs.len() as u64)
}

pub(super) async fn cancel(session: &mut Session, selection: &Selection) -> Result<u64, QueueError> {
    let jobs = change(session, selection, CANCEL).await?;
    if depend::any(session).await? {
        depend::skip(session, &jobs).await?;
    }
    Ok(jobs.len() as u64)
}

/// Changes what is selected, once every name in it is known.
async fn change(
    session: &mut Session,
    selection: &Selection,
    sql: &'static str,
) -> Result<Vec<i64>, QueueError> {
    let what = "changing jobs";
    session.run(what, BEGIN).await?;
    let names: Vec<&str> = selection.names.iter().map(JobName::as_str).collect();
    let states: Vec<&str> = selection.states.iter().map(|state: &JobState| state.as_str()).collect();
    let unknown = sqlx::query_scalar(UNKNOWN).bind(session.batch).bind(&names);
    let unknown: Option<String> = unknown.fetch_optional(&mut session.conn).await.doing(what)?;
    if let Some(name) = unknown {
        return Err(QueueError::NoSuchJob(name));
    }
    let rows =
        sqlx::query(sql).bind(session.batch).bind(&names).bind(&states).fetch_all(&mut session.conn).await;
    let jobs = rows.doing(what)?.iter().map(|row| get(row, "job")).collect::<Result<Vec<i64>, _>>()?;
    news::tell(session).await?;
    Ok(jobs)
}
