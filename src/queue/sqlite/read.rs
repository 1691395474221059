//! Pages of jobs, attempts and files.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::claim::media;
use super::depend::list;
use super::fault::{Doing, count, count_or_none, get, narrow, parsed, signed};
use super::figures::usage;
use super::{person, stage};
use crate::job::{AttemptId, JobId, JobName, Micros, OutputId, RunId, Timestamp};
use crate::manifest::DigestEntry;
use crate::queue::{AttemptRow, BatchRow, Cursor, JobFilter, JobRow, OutputRow, QueueError, RunRow};

/// $1 batch, $2 in the manifest or not, $3 ordinal and $4 job after which the page begins, $5 JSON
/// array of states (NULL: all), $6 first (-1: all), $7 glob, $8 limit. Read along `job_listed`.
const JOB_IDS: &str = "
SELECT job FROM job INDEXED BY job_listed
WHERE batch = $1 AND in_manifest = $2 AND (ordinal, job) > ($3, $4)
  AND ($5 IS NULL OR state IN (SELECT value FROM json_each($5)))
  AND ($6 < 0 OR (in_manifest = 1 AND ordinal < $6)) AND ($7 IS NULL OR name GLOB $7)
ORDER BY ordinal, job LIMIT $8";

/// $1 batch, $2 JSON array of states. From the counters: looking for jobs in a state that none has
/// would read the whole batch.
const ANY_IN_STATE: &str = "
SELECT EXISTS (SELECT 1 FROM job_count
               WHERE batch = $1 AND n > 0 AND state IN (SELECT value FROM json_each($2)))";

/// $1 JSON array of jobs, as in the rest.
const JOBS: &str = "
SELECT j.job, j.name, j.ordinal, j.in_manifest, j.state, j.revision, j.ready, j.available_at, j.model,
       d.output, d.tags, r.spec,
       (SELECT count(*) FROM reference f WHERE f.job = j.job AND f.n = j.revision) AS refs
FROM json_each($1) e CROSS JOIN job j CROSS JOIN job_detail d CROSS JOIN revision r
WHERE j.job = e.value AND d.job = j.job AND r.job = j.job AND r.n = j.revision
ORDER BY e.key";
const SUMS: &str = "
SELECT a.job, count(*) AS attempts, sum(a.outcome = 'throttled') AS throttles, max(a.attempt) AS last,
       sum(a.prompt_tokens) AS prompt_tokens, sum(a.candidates_tokens) AS candidates_tokens,
       sum(a.image_tokens) AS image_tokens, sum(a.thoughts_tokens) AS thoughts_tokens,
       sum(a.total_tokens) AS total_tokens, sum(a.cost) AS cost
FROM json_each($1) e CROSS JOIN attempt a WHERE a.job = e.value GROUP BY a.job";
const OUTPUTS_OF: &str = "
SELECT o.job, o.output, o.kind, o.name, o.media, o.bytes, o.sha256, o.width, o.height
FROM json_each($1) e CROSS JOIN output o
WHERE o.job = e.value AND o.status = 'published' ORDER BY o.job, o.position, o.output";

/// $1 JSON array of attempts.
const ATTEMPTS_BY_ID: &str = "
SELECT a.*, j.name AS job_name, l.provider, l.model, l.key_id
FROM json_each($1) e CROSS JOIN attempt a CROSS JOIN job j CROSS JOIN lane l
WHERE a.attempt = e.value AND j.job = a.job AND l.lane = a.lane";
/// $1 after, $2 limit.
const ATTEMPTS: &str = "
SELECT a.*, j.name AS job_name, l.provider, l.model, l.key_id
FROM attempt a CROSS JOIN job j CROSS JOIN lane l
WHERE a.attempt > $1 AND j.job = a.job AND l.lane = a.lane ORDER BY a.attempt LIMIT $2";
/// $3 job.
const ATTEMPTS_OF: &str = "
SELECT a.*, j.name AS job_name, l.provider, l.model, l.key_id
FROM attempt a CROSS JOIN job j CROSS JOIN lane l
WHERE a.job = $3 AND a.attempt > $1 AND j.job = a.job AND l.lane = a.lane ORDER BY a.attempt LIMIT $2";

/// $1 after, $2 limit.
const OUTPUTS: &str = "
SELECT o.job, o.output, o.kind, o.name, o.media, o.bytes, o.sha256, o.width, o.height, j.name AS job_name
FROM output o CROSS JOIN job j
WHERE o.output > $1 AND o.status = 'published' AND j.job = o.job ORDER BY o.output LIMIT $2";

const JOB_BY_NAME: &str = "SELECT job FROM job WHERE batch = $1 AND name = $2";
const RUNS: &str = "SELECT run, command, version, started_at, ended_at, end_reason FROM run ORDER BY run";
const STAMPS: &str =
    "SELECT path, bytes, modified_ns, inode, sha256, media FROM reference_stamp ORDER BY path";

pub(super) async fn jobs(
    conn: &mut SqliteConnection,
    batch: i64,
    filter: &JobFilter,
    (after, limit): (Option<Cursor>, u32),
) -> Result<Vec<JobRow>, QueueError> {
    let states = if filter.states.is_empty() { None } else { Some(person::states(&filter.states)?) };
    if let Some(states) = &states {
        let any = sqlx::query_scalar(ANY_IN_STATE).bind(batch).bind(states.clone());
        if !any.fetch_one(&mut *conn).await.doing("listing jobs")? {
            return Ok(Vec::new());
        }
    }
    let (mut left, mut ordinal, mut job) = (false, -1, -1);
    if let Some(cursor) = after {
        (left, ordinal, job) = (cursor.left, signed(cursor.ordinal), cursor.job.0);
    }
    let mut ids: Vec<i64> = Vec::new();
    loop {
        let missing = i64::from(limit) - signed(ids.len() as u64);
        let more: Vec<i64> = sqlx::query_scalar(JOB_IDS)
            .bind(batch)
            .bind(!left)
            .bind(ordinal)
            .bind(job)
            .bind(states.clone())
            .bind(filter.scope.first.map_or(-1, signed))
            .bind(filter.scope.glob.clone())
            .bind(missing)
            .fetch_all(&mut *conn)
            .await
            .doing("listing jobs")?;
        ids.extend(more);
        if left || ids.len() as u64 >= u64::from(limit) {
            break;
        }
        // The page goes on with those that have left the manifest.
        (left, ordinal, job) = (true, -1, -1);
    }
    rows(conn, &ids).await
}

pub(super) async fn job(
    conn: &mut SqliteConnection,
    batch: i64,
    name: &JobName,
) -> Result<Option<JobRow>, QueueError> {
    let id: Option<i64> = sqlx::query_scalar(JOB_BY_NAME)
        .bind(batch)
        .bind(name.as_str().to_owned())
        .fetch_optional(&mut *conn)
        .await
        .doing("looking for a job")?;
    match id {
        None => Ok(None),
        Some(id) => Ok(rows(conn, &[id]).await?.pop()),
    }
}

/// The rows of one page: one statement for each kind of thing, not for each job.
async fn rows(conn: &mut SqliteConnection, ids: &[i64]) -> Result<Vec<JobRow>, QueueError> {
    let what = "reading jobs";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids = list(ids);
    let mut outputs: HashMap<i64, Vec<OutputRow>> = HashMap::new();
    for row in &sqlx::query(OUTPUTS_OF).bind(ids.clone()).fetch_all(&mut *conn).await.doing(what)? {
        outputs.entry(get(row, "job")?).or_default().push(output(row)?);
    }
    let mut sums: HashMap<i64, SqliteRow> = HashMap::new();
    let mut last = Vec::new();
    for row in sqlx::query(SUMS).bind(ids.clone()).fetch_all(&mut *conn).await.doing(what)? {
        last.push(get(&row, "last")?);
        sums.insert(get(&row, "job")?, row);
    }
    let mut lasts: HashMap<i64, AttemptRow> = HashMap::new();
    for row in &sqlx::query(ATTEMPTS_BY_ID).bind(list(&last)).fetch_all(&mut *conn).await.doing(what)? {
        lasts.insert(get(row, "job")?, attempt(row)?);
    }
    let rows = sqlx::query(JOBS).bind(ids).fetch_all(&mut *conn).await.doing(what)?;
    rows.iter()
        .map(|row| {
            let id: i64 = get(row, "job")?;
            let mut job = job_row(row)?;
            job.outputs = outputs.remove(&id).unwrap_or_default();
            job.last = lasts.remove(&id);
            if let Some(sum) = sums.remove(&id) {
                job.attempts = count(&sum, "attempts")?;
                job.throttles = count(&sum, "throttles")?;
                job.usage = usage(&sum)?;
                let cost: Option<i64> = get(&sum, "cost")?;
                job.cost = cost.map(Micros);
            }
            Ok(job)
        })
        .collect()
}

/// A job without what its attempts and files say.
fn job_row(row: &SqliteRow) -> Result<JobRow, QueueError> {
    let job = JobId(get(row, "job")?);
    let (prompt, aspect_ratio, image_size) = stage::shown(get(row, "spec")?)?;
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
        tags: stage::tags(get(row, "tags")?)?,
        output: get(row, "output")?,
        attempts: 0,
        throttles: 0,
        usage: crate::job::Usage::default(),
        cost: None,
        outputs: Vec::new(),
        last: None,
    })
}

fn output(row: &SqliteRow) -> Result<OutputRow, QueueError> {
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

fn attempt(row: &SqliteRow) -> Result<AttemptRow, QueueError> {
    let (provider, key_id): (&str, &str) = (get(row, "provider")?, get(row, "key_id")?);
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

pub(super) async fn attempts(
    conn: &mut SqliteConnection,
    job: Option<JobId>,
    (after, limit): (Option<AttemptId>, u32),
) -> Result<Vec<AttemptRow>, QueueError> {
    let query = sqlx::query(if job.is_some() { ATTEMPTS_OF } else { ATTEMPTS });
    let mut query = query.bind(after.map_or(0, |after| after.0)).bind(limit);
    if let Some(job) = job {
        query = query.bind(job.0);
    }
    query.fetch_all(conn).await.doing("reading the ledger")?.iter().map(attempt).collect()
}

pub(super) async fn outputs(
    conn: &mut SqliteConnection,
    after: Option<OutputId>,
    limit: u32,
) -> Result<Vec<(JobId, JobName, OutputRow)>, QueueError> {
    let query = sqlx::query(OUTPUTS).bind(after.map_or(0, |after| after.0)).bind(limit);
    let rows = query.fetch_all(conn).await.doing("listing files")?;
    rows.iter().map(|row| Ok((JobId(get(row, "job")?), parsed(row, "job_name")?, output(row)?))).collect()
}

pub(super) async fn runs(conn: &mut SqliteConnection) -> Result<Vec<RunRow>, QueueError> {
    let rows = sqlx::query(RUNS).fetch_all(conn).await.doing("listing runs")?;
    rows.iter()
        .map(|row| {
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
        .collect()
}

/// Whose queue it is; $1 batch.
const BATCH: &str = "SELECT manifest, provider, created_at FROM batch WHERE batch = $1";

pub(super) async fn batch(conn: &mut SqliteConnection, batch: i64) -> Result<BatchRow, QueueError> {
    let row = sqlx::query(BATCH).bind(batch).fetch_one(conn).await.doing("reading whose queue it is")?;
    Ok(BatchRow {
        manifest: get(&row, "manifest")?,
        provider: parsed(&row, "provider")?,
        created_at: Timestamp::from_ms(get(&row, "created_at")?),
    })
}

pub(super) async fn stamps(conn: &mut SqliteConnection) -> Result<Vec<DigestEntry>, QueueError> {
    let rows = sqlx::query(STAMPS).fetch_all(conn).await.doing("reading digests of references")?;
    rows.iter()
        .map(|row| {
            let path: String = get(row, "path")?;
            let inode: i64 = get(row, "inode")?;
            Ok(DigestEntry {
                path: path.into(),
                bytes: count(row, "bytes")?,
                modified_ns: get(row, "modified_ns")?,
                inode: inode.cast_unsigned(),
                digest: parsed(row, "sha256")?,
                media: media(row)?,
            })
        })
        .collect()
}
