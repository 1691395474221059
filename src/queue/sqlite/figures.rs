//! The batch in figures: from the counters where there is no scope, else from what is in it.

use rusqlite::{Connection, params};

use super::row::{Row, count, count_or_none, get, parsed, signed, text};
use super::sql::Sql;
use crate::job::{Micros, Timestamp, Usage};
use crate::queue::{Left, ModelLeft, QueueError, Scope, Tally};

const JOBS: &str = "SELECT state, n FROM job_count WHERE batch = ?1 AND n > 0";
const ATTEMPTS: &str = "
SELECT outcome, n, prompt_tokens, candidates_tokens, image_tokens, thoughts_tokens, total_tokens, cost, cost_at_most
FROM attempt_count";
const IMAGES: &str = "SELECT coalesce((SELECT n FROM output_count WHERE status = 'published'), 0)";

/// ?1 batch, ?2 now.
const LEFT: &str = "
SELECT coalesce(sum(CASE WHEN state = 'pending' THEN n END), 0) AS pending,
       coalesce(sum(CASE WHEN state = 'waiting' THEN n END), 0) AS waiting,
       coalesce(sum(CASE WHEN state = 'running' THEN n END), 0) AS running,
       coalesce(sum(CASE WHEN state = 'held' THEN n END), 0) AS held,
       (SELECT count(*) FROM job WHERE state = 'pending' AND ready = 0 AND available_at > ?2 AND snoozed_at <= ?2) AS snoozed
FROM job_count WHERE batch = ?1";
/// ?3 first (-1: all), ?4 glob.
const LEFT_IN_SCOPE: &str = "
SELECT coalesce(sum(state = 'pending'), 0) AS pending,
       coalesce(sum(state = 'waiting'), 0) AS waiting,
       coalesce(sum(state = 'running'), 0) AS running,
       coalesce(sum(state = 'held'), 0) AS held,
       coalesce(sum(state = 'pending' AND ready = 0 AND available_at > ?2 AND snoozed_at <= ?2), 0) AS snoozed
FROM job WHERE batch = ?1 AND (?3 < 0 OR (in_manifest = 1 AND ordinal < ?3)) AND (?4 IS NULL OR name GLOB ?4)";

/// Jumps from one model to the next in the index of ready jobs, whatever their number.
const MODELS: &str = "
WITH RECURSIVE ready (model) AS (
    SELECT min(model) FROM job WHERE batch = ?1 AND state = 'pending' AND ready = 1
    UNION ALL
    SELECT (SELECT min(j.model) FROM job j WHERE j.batch = ?1 AND j.state = 'pending' AND j.ready = 1
                                             AND j.model > ready.model)
    FROM ready WHERE ready.model IS NOT NULL)
SELECT model FROM ready WHERE model IS NOT NULL
UNION SELECT model FROM job WHERE batch = ?1 AND state = 'pending' AND ready = 0
UNION SELECT model FROM job WHERE batch = ?1 AND state IN ('waiting', 'running') AND state NOT IN ('succeeded', 'pending')";
const MODELS_IN_SCOPE: &str = "
SELECT DISTINCT model FROM job
WHERE batch = ?1 AND state IN ('waiting', 'pending', 'running')
  AND (?2 < 0 OR (in_manifest = 1 AND ordinal < ?2)) AND (?3 IS NULL OR name GLOB ?3)";

const STAND_INS: &str = "SELECT model, fallback FROM stand_in WHERE batch = ?1 ORDER BY model, fallback";

const NEXT_DUE: &str = "
SELECT min(available_at) FROM job
WHERE batch = ?1 AND state = 'pending' AND ready = 0
  AND (?2 < 0 OR (in_manifest = 1 AND ordinal < ?2)) AND (?3 IS NULL OR name GLOB ?3)";
const NEXT_DUE_OF_ALL: &str = "SELECT min(available_at) FROM job WHERE state = 'pending' AND ready = 0";

fn is_empty(scope: &Scope) -> bool {
    scope.first.is_none() && scope.glob.is_none()
}

fn first(scope: &Scope) -> i64 {
    scope.first.map_or(-1, signed)
}

pub(super) fn tally(conn: &Connection, batch: i64) -> Result<Tally, QueueError> {
    let what = "reading the figures";
    let mut tally = Tally::default();
    conn.each(what, JOBS, params![batch], |row| {
        tally.jobs.insert(parsed(row, "state")?, count(row, "n")?);
        Ok(())
    })?;
    conn.each(what, ATTEMPTS, &[], |row| {
        let n = count(row, "n")?;
        if n > 0 {
            tally.attempts.insert(parsed(row, "outcome")?, n);
        }
        add(&mut tally.usage, usage(row)?);
        tally.cost += Micros(get(row, "cost")?);
        tally.cost_at_most += Micros(get(row, "cost_at_most")?);
        Ok(())
    })?;
    let images: i64 = conn.value(what, IMAGES, &[])?;
    tally.images = u64::try_from(images).unwrap_or(0);
    Ok(tally)
}

/// Reads the five figures of a row.
pub(super) fn usage(row: &Row) -> Result<Usage, QueueError> {
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

/// ?1 batch, ?2 first (-1: all), ?3 glob.
const UNPRICED: &str = "
SELECT count(*) FROM job WHERE batch = ?1 AND state = 'pending' AND reservation IS NULL
  AND (?2 < 0 OR (in_manifest = 1 AND ordinal < ?2)) AND (?3 IS NULL OR name GLOB ?3)";

pub(super) fn unpriced(conn: &Connection, batch: i64, scope: &Scope) -> Result<u64, QueueError> {
    let values = params![batch, first(scope), scope.glob];
    let unpriced: i64 = conn.value("counting jobs without a price", UNPRICED, values)?;
    Ok(u64::try_from(unpriced).unwrap_or(0))
}

pub(super) fn left(conn: &Connection, batch: i64, now: i64, scope: &Scope) -> Result<Left, QueueError> {
    let sql = if is_empty(scope) { LEFT } else { LEFT_IN_SCOPE };
    conn.row("counting what is left", sql, params![batch, now, first(scope), scope.glob], |row| {
        let snoozed = count(row, "snoozed")?;
        Ok(Left {
            ready: count(row, "pending")?.saturating_sub(snoozed),
            snoozed,
            waiting: count(row, "waiting")?,
            running: count(row, "running")?,
            held: count(row, "held")?,
        })
    })
}

pub(super) fn models_left(
    conn: &Connection,
    batch: i64,
    scope: &Scope,
) -> Result<Vec<ModelLeft>, QueueError> {
    let what = "listing models";
    let sql = if is_empty(scope) { MODELS } else { MODELS_IN_SCOPE };
    let models: Vec<String> = conn.values(what, sql, params![batch, first(scope), scope.glob])?;
    let mut left: Vec<ModelLeft> =
        models.into_iter().map(|model| ModelLeft { model, fallbacks: vec![] }).collect();
    conn.each(what, STAND_INS, params![batch], |row| {
        let model = text(row, "model")?;
        if let Some(left) = left.iter_mut().find(|left| left.model == model) {
            left.fallbacks.push(get(row, "fallback")?);
        }
        Ok(())
    })?;
    Ok(left)
}

pub(super) fn next_due(
    conn: &Connection,
    batch: i64,
    scope: &Scope,
) -> Result<Option<Timestamp>, QueueError> {
    let sql = if is_empty(scope) { NEXT_DUE_OF_ALL } else { NEXT_DUE };
    let values = params![batch, first(scope), scope.glob];
    let due: Option<i64> = conn.value("looking for the next due job", sql, values)?;
    Ok(due.map(Timestamp::from_ms))
}
