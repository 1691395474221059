//! Pages of jobs, attempts and files.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{Connection, params};

use super::claim::media;
use super::depend::list;
use super::figures::usage;
use super::row::{Row, count, count_or_none, get, narrow, parsed, signed, text};
use super::sql::Sql;
use super::{person, stage};
use crate::job::{AttemptId, JobId, JobName, Micros, OutputId, RunId, Timestamp};
use crate::manifest::DigestEntry;
use crate::queue::{AttemptRow, BatchRow, Cursor, JobFilter, JobRow, OutputRow, QueueError, RunRow};

/// ?1 batch, ?2 in the manifest or not, ?3 ordinal and ?4 job after which the page begins, ?5 JSON
/// array of states (NULL: all), ?6 first (-1: all), ?7 glob, ?8 limit. Read along `job_listed`.
const JOB_IDS: &str = "
SELECT job FROM job INDEXED BY job_listed
WHERE batch = ?1 AND in_manifest = ?2 AND (ordinal, job) > (?3, ?4)
  AND (?5 IS NULL OR state IN (SELECT value FROM json_each(?5)))
  AND (?6 < 0 OR (in_manifest = 1 AND ordinal < ?6)) AND (?7 IS NULL OR name GLOB ?7)
ORDER BY ordinal, job LIMIT ?8";

/// ?1 batch, ?2 JSON array of states. From the counters: looking for jobs in a state that none has
/// would read the whole batch.
const ANY_IN_STATE: &str = "
SELECT EXISTS (SELECT 1 FROM job_count
               WHERE batch = ?1 AND n > 0 AND state IN (SELECT value FROM json_each(?2)))";

/// ?1 JSON array of jobs, as in the rest.
const JOBS: &str = "
SELECT j.job, j.name, j.ordinal, j.in_manifest, j.state, j.revision, j.ready, j.available_at, j.model,
       d.output, d.tags, r.spec,
       (SELECT count(*) FROM reference f WHERE f.job = j.job AND f.n = j.revision) AS refs
FROM json_each(?1) e CROSS JOIN job j CROSS JOIN job_detail d CROSS JOIN revision r
WHERE j.job = e.value AND d.job = j.job AND r.job = j.job AND r.n = j.revision
ORDER BY e.key";
const SUMS: &str = "
SELECT a.job, count(*) AS attempts, sum(a.outcome = 'throttled') AS throttles, max(a.attempt) AS last,
       sum(a.prompt_tokens) AS prompt_tokens, sum(a.candidates_tokens) AS candidates_tokens,
       sum(a.image_tokens) AS image_tokens, sum(a.thoughts_tokens) AS thoughts_tokens,
       sum(a.total_tokens) AS total_tokens, sum(a.cost) AS cost
FROM json_each(?1) e CROSS JOIN attempt a WHERE a.job = e.value GROUP BY a.job";
const OUTPUTS_OF: &str = "
SELECT o.job, o.output, o.kind, o.name, o.media, o.bytes, o.sha256, o.width, o.height
FROM json_each(?1) e CROSS JOIN output o
WHERE o.job = e.value AND o.status = 'published' ORDER BY o.job, o.position, o.output";

/// ?1 JSON array of attempts.
const ATTEMPTS_BY_ID: &str = "
SELECT a.*, j.name AS job_name, l.provider, l.model, l.key_id
FROM json_each(?1) e CROSS JOIN attempt a CROSS JOIN job j CROSS JOIN lane l
WHERE a.attempt = e.value AND j.job = a.job AND l.lane = a.lane";
/// ?1 after, ?2 limit.
const ATTEMPTS: &str = "
SELECT a.*, j.name AS job_name, l.provider, l.model, l.key_id
FROM attempt a CROSS JOIN job j CROSS JOIN lane l
WHERE a.attempt > ?1 AND j.job = a.job AND l.lane = a.lane ORDER BY a.attempt LIMIT ?2";
/// ?3 job.
const ATTEMPTS_OF: &str = "
SELECT a.*, j.name AS job_name, l.provider, l.model, l.key_id
FROM attempt a CROSS JOIN job j CROSS JOIN lane l
WHERE a.job = ?3 AND a.attempt > ?1 AND j.job = a.job AND l.lane = a.lane ORDER BY a.attempt LIMIT ?2";
/// ?1 limit.
const LATEST_ATTEMPTS: &str = "
SELECT a.*, j.name AS job_name, l.provider, l.model, l.key_id
FROM attempt a CROSS JOIN job j CROSS JOIN lane l
WHERE j.job = a.job AND l.lane = a.lane ORDER BY a.attempt DESC LIMIT ?1";

/// ?1 after, ?2 limit.
const OUTPUTS: &str = "
SELECT o.job, o.output, o.kind, o.name, o.media, o.bytes, o.sha256, o.width, o.height, j.name AS job_name
FROM output o CROSS JOIN job j
WHERE o.output > ?1 AND o.status = 'published' AND j.job = o.job ORDER BY o.output LIMIT ?2";

const JOB_BY_NAME: &str = "SELECT job FROM job WHERE batch = ?1 AND name = ?2";
const RUNS: &str = "SELECT run, command, version, started_at, ended_at, end_reason FROM run ORDER BY run";
const STAMPS: &str =
    "SELECT path, bytes, modified_ns, inode, sha256, media FROM reference_stamp ORDER BY path";

pub(super) fn jobs(
    conn: &Connection,
    batch: i64,
    filter: &JobFilter,
    (after, limit): (Option<Cursor>, u32),
) -> Result<Vec<JobRow>, QueueError> {
    let what = "listing jobs";
    let states = if filter.states.is_empty() { None } else { Some(person::states(&filter.states)?) };
    if let Some(states) = &states
        && !conn.value(what, ANY_IN_STATE, params![batch, states])?
    {
        return Ok(Vec::new());
    }
    let (mut left, mut ordinal, mut job) = (false, -1, -1);
    if let Some(cursor) = after {
        (left, ordinal, job) = (cursor.left, signed(cursor.ordinal), cursor.job.0);
    }
    let first = filter.scope.first.map_or(-1, signed);
    let mut ids: Vec<i64> = Vec::new();
    loop {
        let missing = i64::from(limit) - signed(ids.len() as u64);
        let values = params![batch, !left, ordinal, job, states, first, filter.scope.glob, missing];
        ids.extend(conn.values::<i64>(what, JOB_IDS, values)?);
        if left || ids.len() as u64 >= u64::from(limit) {
            break;
        }
        // The page goes on with those that have left the manifest.
        (left, ordinal, job) = (true, -1, -1);
    }
    rows(conn, &ids)
}

pub(super) fn job(conn: &Connection, batch: i64, name: &JobName) -> Result<Option<JobRow>, QueueError> {
    let ids: Vec<i64> = conn.values("looking for a job", JOB_BY_NAME, params![batch, name.as_str()])?;
    Ok(rows(conn, &ids)?.pop())
}

/// The rows of one page: one statement for each kind of thing, not for each job.
fn rows(conn: &Connection, ids: &[i64]) -> Result<Vec<JobRow>, QueueError> {
    let what = "reading jobs";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids = list(ids);
    let mut jobs = conn.rows(what, JOBS, params![ids], job_row)?;
    let places: HashMap<i64, usize> = jobs.iter().enumerate().map(|(i, job)| (job.job.0, i)).collect();
    conn.each(what, OUTPUTS_OF, params![ids], |row| {
        if let Some(place) = places.get(&get(row, "job")?) {
            jobs[*place].outputs.push(output(row)?);
        }
        Ok(())
    })?;
    let mut last: Vec<i64> = Vec::new();
    conn.each(what, SUMS, params![ids], |row| {
        last.push(get(row, "last")?);
        if let Some(place) = places.get(&get(row, "job")?) {
            let job = &mut jobs[*place];
            job.attempts = count(row, "attempts")?;
            job.throttles = count(row, "throttles")?;
            job.usage = usage(row)?;
            job.cost = get::<Option<i64>>(row, "cost")?.map(Micros);
        }
        Ok(())
    })?;
    conn.each(what, ATTEMPTS_BY_ID, params![list(&last)], |row| {
        if let Some(place) = places.get(&get(row, "job")?) {
            jobs[*place].last = Some(attempt(row)?);
        }
        Ok(())
    })?;
    Ok(jobs)
}

/// A job without what its attempts and files say.
fn job_row(row: &Row) -> Result<JobRow, QueueError> {
    let job = JobId(get(row, "job")?);
    let (prompt, aspect_ratio, image_size) = stage::shown(text(row, "spec")?)?;
    let state = parsed(row, "state")?;
    let available_at: i64 = get(row, "available_at")?;
    let in_manifest: bool = get(row, "in_manifest")?;
    Ok(JobRow {
        job,
        cursor: Cursor { left: !in_manifest, ordinal: count(row, "ordinal")?, job },
        name: parsed(row, "name")?,
        state,
        revision: get(row, "revision")?,
        available_at: (state == crate::job::JobState::Pending).then_some(Timestamp::from_ms(available_at)),
        model: get(row, "model")?,
        aspect_ratio,
        image_size,
        prompt,
        references: narrow(row, "refs")?,
        tags: stage::tags(text(row, "tags")?)?,
        output: get(row, "output")?,
        attempts: 0,
        throttles: 0,
        usage: crate::job::Usage::default(),
        cost: None,
        outputs: Vec::new(),
        last: None,
    })
}

fn output(row: &Row) -> Result<OutputRow, QueueError> {
    Ok(OutputRow {
        output: OutputId(get(row, "output")?),
        kind: parsed(row, "kind")?,
        name: get(row, "name")?,
        media: media(row)?,
        bytes: count(row, "bytes")?,
        digest: parsed(row, "sha256")?,
        width: narrow(row, "width")?,
        height: narrow(row, "height")?,
    })
}

fn attempt(row: &Row) -> Result<AttemptRow, QueueError> {
    let (provider, key_id) = (text(row, "provider")?, text(row, "key_id")?);
    let model: String = get(row, "model")?;
    let ended_at: Option<i64> = get(row, "ended_at")?;
    let cost: Option<i64> = get(row, "cost")?;
    let millis = |column| Ok::<_, QueueError>(count_or_none(row, column)?.map(Duration::from_millis));
    Ok(AttemptRow {
        attempt: AttemptId(get(row, "attempt")?),
        job: parsed(row, "job_name")?,
        revision: get(row, "revision")?,
        run: RunId(get(row, "run")?),
        lane: format!("{provider}/{model}/{key_id}"),
        model,
        sent_at: Timestamp::from_ms(get(row, "sent_at")?),
        ended_at: ended_at.map(Timestamp::from_ms),
        outcome: parsed(row, "outcome")?,
        http_status: get(row, "http_status")?,
        error_code: get(row, "error_code")?,
        error: get(row, "error")?,
        note: get(row, "note")?,
        finish_reason: get(row, "finish_reason")?,
        response_id: get(row, "response_id")?,
        caption: get(row, "caption")?,
        usage: usage(row)?,
        bytes: count_or_none(row, "bytes")?,
        first_byte: millis("first_byte_ms")?,
        total: millis("total_ms")?,
        cost: cost.map(Micros),
        cost_at_most: Some(Micros(get(row, "cost_at_most")?)),
    })
}

pub(super) fn attempts(
    conn: &Connection,
    job: Option<JobId>,
    (after, limit): (Option<AttemptId>, u32),
) -> Result<Vec<AttemptRow>, QueueError> {
    let sql = if job.is_some() { ATTEMPTS_OF } else { ATTEMPTS };
    let values = params![after.map_or(0, |after| after.0), limit, job.map(|job| job.0)];
    conn.rows("reading the ledger", sql, values, attempt)
}

pub(super) fn latest_attempts(conn: &Connection, limit: u32) -> Result<Vec<AttemptRow>, QueueError> {
    let mut latest = conn.rows("reading the ledger's end", LATEST_ATTEMPTS, params![limit], attempt)?;
    latest.reverse();
    Ok(latest)
}

pub(super) fn outputs(
    conn: &Connection,
    after: Option<OutputId>,
    limit: u32,
) -> Result<Vec<(JobId, JobName, OutputRow)>, QueueError> {
    conn.rows("listing files", OUTPUTS, params![after.map_or(0, |after| after.0), limit], |row| {
        Ok((JobId(get(row, "job")?), parsed(row, "job_name")?, output(row)?))
    })
}

pub(super) fn runs(conn: &Connection) -> Result<Vec<RunRow>, QueueError> {
    conn.rows("listing runs", RUNS, &[], |row| {
        let ended_at: Option<i64> = get(row, "ended_at")?;
        Ok(RunRow {
            run: RunId(get(row, "run")?),
            command: get(row, "command")?,
            version: get(row, "version")?,
            started_at: Timestamp::from_ms(get(row, "started_at")?),
            ended_at: ended_at.map(Timestamp::from_ms),
            end_reason: get(row, "end_reason")?,
        })
    })
}

/// Whose queue it is; ?1 batch.
const BATCH: &str = "SELECT manifest, provider, created_at FROM batch WHERE batch = ?1";

pub(super) fn batch(conn: &Connection, batch: i64) -> Result<BatchRow, QueueError> {
    conn.row("reading whose queue it is", BATCH, params![batch], |row| {
        Ok(BatchRow {
            manifest: get(row, "manifest")?,
            provider: parsed(row, "provider")?,
            created_at: Timestamp::from_ms(get(row, "created_at")?),
        })
    })
}

pub(super) fn stamps(conn: &Connection) -> Result<Vec<DigestEntry>, QueueError> {
    conn.rows("reading digests of references", STAMPS, &[], |row| {
        let inode: i64 = get(row, "inode")?;
        Ok(DigestEntry {
            path: get::<String>(row, "path")?.into(),
            bytes: count(row, "bytes")?,
            modified_ns: get(row, "modified_ns")?,
            inode: inode.cast_unsigned(),
            digest: parsed(row, "sha256")?,
            media: media(row)?,
        })
    })
}
