//! The batch in figures: from the counters where there is no scope, else from what is in it.

use sqlx::postgres::PgRow;

use super::fault::{Doing, count, count_or_none, get, parsed, signed};
use super::glob;
use super::session::Session;
use crate::job::{Micros, Timestamp, Usage};
use crate::queue::{Left, ModelLeft, QueueError, Scope, Tally};

/// $1 batch.
const JOBS: &str = "
SELECT state, sum(n)::bigint AS n FROM job_count WHERE batch = $1 GROUP BY state HAVING sum(n) > 0";
const ATTEMPTS: &str = "
SELECT outcome, sum(n)::bigint AS n, sum(prompt_tokens)::bigint AS prompt_tokens,
       sum(candidates_tokens)::bigint AS candidates_tokens, sum(image_tokens)::bigint AS image_tokens,
       sum(thoughts_tokens)::bigint AS thoughts_tokens, sum(total_tokens)::bigint AS total_tokens,
       sum(cost)::bigint AS cost, sum(cost_at_most)::bigint AS cost_at_most
FROM attempt_count WHERE batch = $1 GROUP BY outcome";
const IMAGES: &str =
    "SELECT coalesce(sum(n), 0)::bigint FROM output_count WHERE batch = $1 AND status = 'published'";

/// $1 batch, $2 now.
const LEFT: &str = "
SELECT coalesce(sum(n) FILTER (WHERE state = 'pending'), 0)::bigint AS pending,
       coalesce(sum(n) FILTER (WHERE state = 'waiting'), 0)::bigint AS waiting,
       coalesce(sum(n) FILTER (WHERE state = 'running'), 0)::bigint AS running,
       coalesce(sum(n) FILTER (WHERE state = 'held'), 0)::bigint AS held,
       (SELECT count(*) FROM job, now_ms($2) t WHERE batch = $1 AND state = 'pending' AND NOT ready
                                                AND available_at > t AND snoozed_at <= t) AS snoozed
FROM job_count WHERE batch = $1";
/// $3 first, $4 pattern.
const LEFT_IN_SCOPE: &str = "
SELECT count(*) FILTER (WHERE state = 'pending') AS pending,
       count(*) FILTER (WHERE state = 'waiting') AS waiting,
       count(*) FILTER (WHERE state = 'running') AS running,
       count(*) FILTER (WHERE state = 'held') AS held,
       count(*) FILTER (WHERE state = 'pending' AND NOT ready AND available_at > t AND snoozed_at <= t) AS snoozed
FROM job, now_ms($2) t
WHERE batch = $1 AND ($3::bigint IS NULL OR (in_manifest AND ordinal < $3)) AND ($4::text IS NULL OR name ~ $4)";

/// Jumps from one model to the next in the index of ready jobs, whatever their number. $1 batch.
const MODELS: &str = "
WITH RECURSIVE next_ready (model) AS (
    (SELECT model FROM job WHERE batch = $1 AND state = 'pending' AND ready ORDER BY model LIMIT 1)
    UNION ALL
    SELECT (SELECT j.model FROM job j WHERE j.batch = $1 AND j.state = 'pending' AND j.ready
                AND j.model > next_ready.model ORDER BY j.model LIMIT 1)
    FROM next_ready WHERE next_ready.model IS NOT NULL)
SELECT model FROM next_ready WHERE model IS NOT NULL
UNION SELECT model FROM job WHERE batch = $1 AND state = 'pending' AND NOT ready
UNION SELECT model FROM job WHERE batch = $1 AND state IN ('waiting', 'running') AND state NOT IN ('succeeded', 'pending')";
/// $1 batch, $2 first, $3 pattern, as in the rest.
const MODELS_IN_SCOPE: &str = "
SELECT DISTINCT model FROM job
WHERE batch = $1 AND state IN ('waiting', 'pending', 'running')
  AND ($2::bigint IS NULL OR (in_manifest AND ordinal < $2)) AND ($3::text IS NULL OR name ~ $3)";
const STAND_INS: &str = "SELECT model, fallback FROM stand_in WHERE batch = $1 ORDER BY model, fallback";

const NEXT_DUE: &str = "
SELECT min(available_at) FROM job
WHERE batch = $1 AND state = 'pending' AND NOT ready
  AND ($2::bigint IS NULL OR (in_manifest AND ordinal < $2)) AND ($3::text IS NULL OR name ~ $3)";

const UNPRICED: &str = "
SELECT count(*) FROM job WHERE batch = $1 AND state = 'pending' AND reservation IS NULL
  AND ($2::bigint IS NULL OR (in_manifest AND ordinal < $2)) AND ($3::text IS NULL OR name ~ $3)";

fn is_empty(scope: &Scope) -> bool {
    scope.first.is_none() && scope.glob.is_none()
}

fn first(scope: &Scope) -> Option<i64> {
    scope.first.map(signed)
}

fn pattern(scope: &Scope) -> Option<String> {
    scope.glob.as_deref().map(glob::pattern)
}

pub(super) async fn tally(session: &mut Session) -> Result<Tally, QueueError> {
    let what = "reading the figures";
    let batch = session.batch;
    let mut tally = Tally::default();
    for row in &sqlx::query(JOBS).bind(batch).fetch_all(&mut session.conn).await.doing(what)? {
        tally.jobs.insert(parsed(row, "state")?, count(row, "n")?);
    }
    for row in &sqlx::query(ATTEMPTS).bind(batch).fetch_all(&mut session.conn).await.doing(what)? {
        let n = count(row, "n")?;
        if n > 0 {
            tally.attempts.insert(parsed(row, "outcome")?, n);
        }
        add(&mut tally.usage, usage(row)?);
        tally.cost += Micros(get(row, "cost")?);
        tally.cost_at_most += Micros(get(row, "cost_at_most")?);
    }
    let images: i64 =
        sqlx::query_scalar(IMAGES).bind(batch).fetch_one(&mut session.conn).await.doing(what)?;
    tally.images = u64::try_from(images).unwrap_or(0);
    Ok(tally)
}

/// Reads the five figures of a row.
pub(super) fn usage(row: &PgRow) -> Result<Usage, QueueError> {
    Ok(Usage {
        prompt: count_or_none(row, "prompt_tokens")?,
        candidates: count_or_none(row, "candidates_tokens")?,
        image: count_or_none(row, "image_tokens")?,
        thoughts: count_or_none(row, "thoughts_tokens")?,
        total: count_or_none(row, "total_tokens")?,
    })
}

/// Adds figures; what nobody reported stays unknown.
fn add(sum: &mut Usage, more: Usage) {
    let plus = |sum: &mut Option<u64>, more: Option<u64>| {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or(0).saturating_add(more));
        }
    };
    plus(&mut sum.prompt, more.prompt);
    plus(&mut sum.candidates, more.candidates);
    plus(&mut sum.image, more.image);
    plus(&mut sum.thoughts, more.thoughts);
    plus(&mut sum.total, more.total);
}

pub(super) async fn unpriced(session: &mut Session, scope: &Scope) -> Result<u64, QueueError> {
    let query = sqlx::query_scalar(UNPRICED).bind(session.batch).bind(first(scope)).bind(pattern(scope));
    let unpriced: i64 = query.fetch_one(&mut session.conn).await.doing("counting jobs without a price")?;
    Ok(u64::try_from(unpriced).unwrap_or(0))
}

pub(super) async fn left(session: &mut Session, scope: &Scope) -> Result<Left, QueueError> {
    let (batch, now) = (session.batch, session.now());
    let query = if is_empty(scope) {
        sqlx::query(LEFT).bind(batch).bind(now)
    } else {
        sqlx::query(LEFT_IN_SCOPE).bind(batch).bind(now).bind(first(scope)).bind(pattern(scope))
    };
    let row = query.fetch_one(&mut session.conn).await.doing("counting what is left")?;
    let snoozed = count(&row, "snoozed")?;
    Ok(Left {
        ready: count(&row, "pending")?.saturating_sub(snoozed),
        snoozed,
        waiting: count(&row, "waiting")?,
        running: count(&row, "running")?,
        held: count(&row, "held")?,
    })
}

pub(super) async fn models_left(session: &mut Session, scope: &Scope) -> Result<Vec<ModelLeft>, QueueError> {
    let what = "listing models";
    let query = if is_empty(scope) {
        sqlx::query_scalar(MODELS).bind(session.batch)
    } else {
        sqlx::query_scalar(MODELS_IN_SCOPE).bind(session.batch).bind(first(scope)).bind(pattern(scope))
    };
    let models: Vec<String> = query.fetch_all(&mut session.conn).await.doing(what)?;
    let rows = sqlx::query(STAND_INS).bind(session.batch).fetch_all(&mut session.conn).await.doing(what)?;
    let mut left: Vec<ModelLeft> =
        models.into_iter().map(|model| ModelLeft { model, fallbacks: vec![] }).collect();
    for row in &rows {
        let model: &str = get(row, "model")?;
        if let Some(left) = left.iter_mut().find(|left| left.model == model) {
            left.fallbacks.push(get(row, "fallback")?);
        }
    }
    Ok(left)
}

pub(super) async fn next_due(session: &mut Session, scope: &Scope) -> Result<Option<Timestamp>, QueueError> {
    let query = sqlx::query_scalar(NEXT_DUE).bind(session.batch).bind(first(scope)).bind(pattern(scope));
    let due: Option<i64> = query.fetch_one(&mut session.conn).await.doing("looking for the next due job")?;
    Ok(due.map(Timestamp::from_ms))
}
