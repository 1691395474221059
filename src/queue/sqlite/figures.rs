//! The batch in figures: from the counters where there is no scope, else from what is in it.

use sqlx::SqliteConnection;

use super::fault::{Doing, count, count_or_none, get, parsed, signed};
use crate::job::{Micros, Timestamp, Usage};
use crate::queue::{Left, ModelLeft, QueueError, Scope, Tally};

const JOBS: &str = "SELECT state, n FROM job_count WHERE batch = $1 AND n > 0";
const ATTEMPTS: &str = "
SELECT outcome, n, prompt_tokens, candidates_tokens, image_tokens, thoughts_tokens, total_tokens, cost, cost_at_most
FROM attempt_count";
const IMAGES: &str = "SELECT coalesce((SELECT n FROM output_count WHERE status = 'published'), 0)";

/// $1 batch, $2 now.
const LEFT: &str = "
SELECT coalesce(sum(CASE WHEN state = 'pending' THEN n END), 0) AS pending,
       coalesce(sum(CASE WHEN state = 'waiting' THEN n END), 0) AS waiting,
       coalesce(sum(CASE WHEN state = 'running' THEN n END), 0) AS running,
       coalesce(sum(CASE WHEN state = 'held' THEN n END), 0) AS held,
       (SELECT count(*) FROM job WHERE state = 'pending' AND ready = 0 AND available_at > $2 AND snoozed_at <= $2) AS snoozed
FROM job_count WHERE batch = $1";
/// $3 first (-1: all), $4 glob.
const LEFT_IN_SCOPE: &str = "
SELECT coalesce(sum(state = 'pending'), 0) AS pending,
       coalesce(sum(state = 'waiting'), 0) AS waiting,
       coalesce(sum(state = 'running'), 0) AS running,
       coalesce(sum(state = 'held'), 0) AS held,
       coalesce(sum(state = 'pending' AND ready = 0 AND available_at > $2 AND snoozed_at <= $2), 0) AS snoozed
FROM job WHERE batch = $1 AND ($3 < 0 OR (in_manifest = 1 AND ordinal < $3)) AND ($4 IS NULL OR name GLOB $4)";

/// Jumps from one model to the next in the index of ready jobs, whatever their number.
const MODELS: &str = "
WITH RECURSIVE ready (model) AS (
    SELECT min(model) FROM job WHERE batch = $1 AND state = 'pending' AND ready = 1
    UNION ALL
    SELECT (SELECT min(j.model) FROM job j WHERE j.batch = $1 AND j.state = 'pending' AND j.ready = 1
                                             AND j.model > ready.model)
    FROM ready WHERE ready.model IS NOT NULL)
SELECT model FROM ready WHERE model IS NOT NULL
UNION SELECT model FROM job WHERE batch = $1 AND state = 'pending' AND ready = 0
UNION SELECT model FROM job WHERE batch = $1 AND state IN ('waiting', 'running') AND state NOT IN ('succeeded', 'pending')";
const MODELS_IN_SCOPE: &str = "
SELECT DISTINCT model FROM job
WHERE batch = $1 AND state IN ('waiting', 'pending', 'running')
  AND ($2 < 0 OR (in_manifest = 1 AND ordinal < $2)) AND ($3 IS NULL OR name GLOB $3)";

const STAND_INS: &str = "SELECT model, fallback FROM stand_in WHERE batch = $1 ORDER BY model, fallback";

const NEXT_DUE: &str = "
SELECT min(available_at) FROM job
WHERE batch = $1 AND state = 'pending' AND ready = 0
  AND ($2 < 0 OR (in_manifest = 1 AND ordinal < $2)) AND ($3 IS NULL OR name GLOB $3)";
const NEXT_DUE_OF_ALL: &str = "SELECT min(available_at) FROM job WHERE state = 'pending' AND ready = 0";

fn is_empty(scope: &Scope) -> bool {
    scope.first.is_none() && scope.glob.is_none()
}

fn first(scope: &Scope) -> i64 {
    scope.first.map_or(-1, signed)
}

pub(super) async fn tally(conn: &mut SqliteConnection, batch: i64) -> Result<Tally, QueueError> {
    let what = "reading the figures";
    let mut tally = Tally::default();
    for row in &sqlx::query(JOBS).bind(batch).fetch_all(&mut *conn).await.doing(what)? {
        tally.jobs.insert(parsed(row, "state")?, count(row, "n")?);
    }
    for row in &sqlx::query(ATTEMPTS).fetch_all(&mut *conn).await.doing(what)? {
        let n = count(row, "n")?;
        if n > 0 {
            tally.attempts.insert(parsed(row, "outcome")?, n);
        }
        add(&mut tally.usage, usage(row)?);
        tally.cost += Micros(get(row, "cost")?);
        tally.cost_at_most += Micros(get(row, "cost_at_most")?);
    }
    let images: i64 = sqlx::query_scalar(IMAGES).fetch_one(&mut *conn).await.doing(what)?;
    tally.images = u64::try_from(images).unwrap_or(0);
    Ok(tally)
}

/// Reads the five figures of a row.
pub(super) fn usage(row: &sqlx::sqlite::SqliteRow) -> Result<Usage, QueueError> {
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

/// $1 batch, $2 first (-1: all), $3 glob.
const UNPRICED: &str = "
SELECT count(*) FROM job WHERE batch = $1 AND state = 'pending' AND reservation IS NULL
  AND ($2 < 0 OR (in_manifest = 1 AND ordinal < $2)) AND ($3 IS NULL OR name GLOB $3)";

pub(super) async fn unpriced(
    conn: &mut SqliteConnection,
    batch: i64,
    scope: &Scope,
) -> Result<u64, QueueError> {
    let query = sqlx::query_scalar(UNPRICED).bind(batch).bind(first(scope)).bind(scope.glob.clone());
    let unpriced: i64 = query.fetch_one(conn).await.doing("counting jobs without a price")?;
    Ok(u64::try_from(unpriced).unwrap_or(0))
}

pub(super) async fn left(
    conn: &mut SqliteConnection,
    batch: i64,
    now: i64,
    scope: &Scope,
) -> Result<Left, QueueError> {
    let query = if is_empty(scope) {
        sqlx::query(LEFT).bind(batch).bind(now)
    } else {
        sqlx::query(LEFT_IN_SCOPE).bind(batch).bind(now).bind(first(scope)).bind(scope.glob.clone())
    };
    let row = query.fetch_one(conn).await.doing("counting what is left")?;
    let snoozed = count(&row, "snoozed")?;
    Ok(Left {
        ready: count(&row, "pending")?.saturating_sub(snoozed),
        snoozed,
        waiting: count(&row, "waiting")?,
        running: count(&row, "running")?,
        held: count(&row, "held")?,
    })
}

pub(super) async fn models_left(
    conn: &mut SqliteConnection,
    batch: i64,
    scope: &Scope,
) -> Result<Vec<ModelLeft>, QueueError> {
    let what = "listing models";
    let query = if is_empty(scope) {
        sqlx::query_scalar(MODELS).bind(batch)
    } else {
        sqlx::query_scalar(MODELS_IN_SCOPE).bind(batch).bind(first(scope)).bind(scope.glob.clone())
    };
    let models: Vec<String> = query.fetch_all(&mut *conn).await.doing(what)?;
    let rows = sqlx::query(STAND_INS).bind(batch).fetch_all(conn).await.doing(what)?;
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

pub(super) async fn next_due(
    conn: &mut SqliteConnection,
    batch: i64,
    scope: &Scope,
) -> Result<Option<Timestamp>, QueueError> {
    let query = if is_empty(scope) {
        sqlx::query_scalar(NEXT_DUE_OF_ALL)
    } else {
        sqlx::query_scalar(NEXT_DUE).bind(batch).bind(first(scope)).bind(scope.glob.clone())
    };
    let due: Option<i64> = query.fetch_one(conn).await.doing("looking for the next due job")?;
    Ok(due.map(Timestamp::from_ms))
}
