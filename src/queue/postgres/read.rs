//! Pages of jobs, attempts and files.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::PgRow;

use super::claim::media;
use super::fault::{Doing, count, count_or_none, get, narrow, narrow_or_none, parsed, signed};
use super::figures::usage;
use super::glob;
use super::session::Session;
use crate::job::{AttemptId, JobId, JobName, JobState, Micros, OutputId, RunId, Timestamp, Usage};
use crate::manifest::DigestEntry;
use crate::queue::text::{shown, tags};
use crate::queue::{AttemptRow, BatchRow, Cursor, JobFilter, JobRow, OutputRow, QueueError, RunRow};

/// $1 batch, $2 in the manifest or not, $3 ordinal and $4 job after which the page begins, $5 states (NULL:
/// all), $6 first, $7 pattern, $8 limit. Read along `job_listed`.
const JOB_IDS: &str = "
SELECT job FROM job
WHERE batch = $1 AND in_manifest = $2 AND (ordinal, job) > ($3, $4)
  AND ($5::text[] IS NULL OR state = ANY($5))
  AND ($6::bigint IS NULL OR (in_manifest AND ordinal < $6)) AND ($7::text IS NULL OR name ~ $7)
ORDER BY ordinal, job LIMIT $8";

/// $1 jobs, as in the rest.
const JOBS: &str = "
SELECT j.job, j.name, j.ordinal, j.in_manifest, j.state, j.revision, j.available_at, j.model,
       d.output, d.tags, r.spec,
       (SELECT count(*) FROM reference f WHERE f.job = j.job AND f.n = j.revision) AS refs
FROM unnest($1::bigint[]) WITH ORDINALITY AS e (job, place)
     JOIN job j ON j.job = e.job JOIN job_detail d ON d.job = j.job
     JOIN revision r ON r.job = j.job AND r.n = j.revision
ORDER BY e.place";
const SUMS: &str = "
SELECT a.job, count(*) AS attempts, count(*) FILTER (WHERE a.outcome = 'throttled') AS throttles,
       max(a.attempt) AS last, sum(a.prompt_tokens)::bigint AS prompt_tokens,
       sum(a.candidates_tokens)::bigint AS candidates_tokens, sum(a.image_tokens)::bigint AS image_tokens,
       sum(a.thoughts_tokens)::bigint AS thoughts_tokens, sum(a.total_tokens)::bigint AS total_tokens,
       sum(a.cost)::bigint AS cost
FROM attempt a WHERE a.job = ANY($1) GROUP BY a.job";
const OUTPUTS_OF: &str = "
SELECT o.job, o.output, o.kind, o.name, o.media, o.bytes, o.sha256, o.width, o.height FROM output o
WHERE o.job = ANY($1) AND (o.status = 'published') IS TRUE ORDER BY o.job, o.position, o.output";

/// Attempts by a condition. Columns are named: a prepared `a.*` fails once the table has one more.
macro_rules! attempts {
    ($condition:literal) => {
        concat!(
            "SELECT a.attempt, a.job, a.revision, a.run, a.sent_at, a.ended_at, a.outcome, a.http_status, a.error_code,
            a.error, a.note, a.finish_reason, a.response_id, a.caption, a.prompt_tokens, a.candidates_tokens,
            a.image_tokens, a.thoughts_tokens, a.total_tokens, a.bytes, a.first_byte_ms, a.total_ms, a.cost,
            a.cost_at_most, j.name AS job_name, l.provider, l.model, l.key_id
            FROM attempt a JOIN job j ON j.job = a.job JOIN lane l ON l.lane = a.lane WHERE ",
            $condition
        )
    };
}

/// $1 attempts.
const ATTEMPTS_BY_ID: &str = attempts!("a.attempt = ANY($1)");
/// $1 batch, $2 after, $3 limit, $4 job or none.
const ATTEMPTS: &str =
    attempts!("a.batch = $1 AND a.attempt > $2 AND $4::bigint IS NULL ORDER BY a.attempt LIMIT $3");
const ATTEMPTS_OF: &str =
    attempts!("a.batch = $1 AND a.attempt > $2 AND a.job = $4 ORDER BY a.attempt LIMIT $3");
/// $1 batch, $2 limit.
const LATEST_ATTEMPTS: &str = attempts!("a.batch = $1 ORDER BY a.attempt DESC LIMIT $2");

/// $1 batch, $2 after, $3 limit.
const OUTPUTS: &str = "
SELECT o.job, o.output, o.kind, o.name, o.media, o.bytes, o.sha256, o.width, o.height, j.name AS job_name
FROM output o JOIN job j ON j.job = o.job
WHERE o.batch = $1 AND o.output > $2 AND o.status = 'published' ORDER BY o.output LIMIT $3";

const JOB_BY_NAME: &str = "SELECT job FROM job WHERE batch = $1 AND name = $2";
const RUNS: &str = "
SELECT run, command, version, started_at, ended_at, end_reason FROM run WHERE batch = $1 ORDER BY run";
const STAMPS: &str = "
SELECT path, bytes, modified_ns, inode, sha256, media FROM reference_stamp WHERE batch = $1 ORDER BY path";
const BATCH: &str = "SELECT manifest, provider, created_at FROM batch WHERE batch = $1";

pub(super) async fn jobs(
    session: &mut Session,
    filter: &JobFilter,
    (after, limit): (Option<Cursor>, u32),
) -> Result<Vec<JobRow>, QueueError> {
    let states: Option<Vec<&str>> = if filter.states.is_empty() {
        None
    } else {
        Some(filter.states.iter().map(|state| state.as_str()).collect())
    };
    let (mut left, mut ordinal, mut job) = (false, -1, -1);
    if let Some(cursor) = after {
        (left, ordinal, job) = (cursor.left, signed(cursor.ordinal), cursor.job.0);
    }
    let mut ids: Vec<i64> = Vec::new();
    loop {
        let missing = i64::from(limit) - signed(ids.len() as u64);
        let more: Vec<i64> = sqlx::query_scalar(JOB_IDS)
            .bind(session.batch)
            .bind(!left)
            .bind(ordinal)
            .bind(job)
            .bind(states.clone())
            .bind(filter.scope.first.map(signed))
            .bind(filter.scope.glob.as_deref().map(glob::pattern))
            .bind(missing)
            .fetch_all(&mut session.conn)
            .await
            .doing("listing jobs")?;
        ids.extend(more);
        if left || ids.len() as u64 >= u64::from(limit) {
            break;
        }
        // The page goes on with those that have left the manifest.
        (left, ordinal, job) = (true, -1, -1);
    }
    rows(session, &ids).await
}

pub(super) async fn job(session: &mut Session, name: &JobName) -> Result<Option<JobRow>, QueueError> {
    let find = sqlx::query_scalar(JOB_BY_NAME).bind(session.batch).bind(name.as_str().to_owned());
    let id: Option<i64> = find.fetch_optional(&mut session.conn).await.doing("looking for a job")?;
    match id {
        None => Ok(None),
        Some(id) => Ok(rows(session, &[id]).await?.pop()),
    }
}

/// The rows of one page: one statement for each kind of thing, not for each job.
async fn rows(session: &mut Session, ids: &[i64]) -> Result<Vec<JobRow>, QueueError> {
    let what = "reading jobs";
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let conn = &mut session.conn;
    let mut outputs: HashMap<i64, Vec<OutputRow>> = HashMap::new();
    for row in &sqlx::query(OUTPUTS_OF).bind(ids).fetch_all(&mut *conn).await.doing(what)? {
        outputs.entry(get(row, "job")?).or_default().push(output(row)?);
    }
    let mut sums: HashMap<i64, PgRow> = HashMap::new();
    let mut last: Vec<i64> = Vec::new();
    for row in sqlx::query(SUMS).bind(ids).fetch_all(&mut *conn).await.doing(what)? {
        last.push(get(&row, "last")?);
        sums.insert(get(&row, "job")?, row);
    }
    let mut lasts: HashMap<i64, AttemptRow> = HashMap::new();
    for row in &sqlx::query(ATTEMPTS_BY_ID).bind(last).fetch_all(&mut *conn).await.doing(what)? {
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
fn job_row(row: &PgRow) -> Result<JobRow, QueueError> {
    let job = JobId(get(row, "job")?);
    let (prompt, aspect_ratio, image_size) = shown(get(row, "spec")?)?;
    let state = parsed(row, "state")?;
    let available_at: i64 = get(row, "available_at")?;
    let in_manifest: bool = get(row, "in_manifest")?;
    Ok(JobRow {
        job,
        cursor: Cursor { left: !in_manifest, ordinal: count(row, "ordinal")?, job },
        name: parsed(row, "name")?,
        state,
        revision: get(row, "revision")?,
        available_at: (state == JobState::Pending).then_some(Timestamp::from_ms(available_at)),
        model: get(row, "model")?,
        aspect_ratio,
        image_size,
        prompt,
        references: narrow(row, "refs")?,
        tags: tags(get(row, "tags")?)?,
        output: get(row, "output")?,
        attempts: 0,
        throttles: 0,
        usage: Usage::default(),
        cost: None,
        outputs: Vec::new(),
        last: None,
    })
}

fn output(row: &PgRow) -> Result<OutputRow, QueueError> {
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

fn attempt(row: &PgRow) -> Result<AttemptRow, QueueError> {
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
        http_status: narrow_or_none(row, "http_status")?,
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
    session: &mut Session,
    job: Option<JobId>,
    (after, limit): (Option<AttemptId>, u32),
) -> Result<Vec<AttemptRow>, QueueError> {
    let query = sqlx::query(if job.is_some() { ATTEMPTS_OF } else { ATTEMPTS }).bind(session.batch);
    let query =
        query.bind(after.map_or(0, |after| after.0)).bind(i64::from(limit)).bind(job.map(|job| job.0));
    query.fetch_all(&mut session.conn).await.doing("reading the ledger")?.iter().map(attempt).collect()
}

pub(super) async fn latest_attempts(
    session: &mut Session,
    limit: u32,
) -> Result<Vec<AttemptRow>, QueueError> {
    let query = sqlx::query(LATEST_ATTEMPTS).bind(session.batch).bind(i64::from(limit));
    let rows = query.fetch_all(&mut session.conn).await.doing("reading the ledger's end")?;
    rows.iter().rev().map(attempt).collect()
}

pub(super) async fn outputs(
    session: &mut Session,
    after: Option<OutputId>,
    limit: u32,
) -> Result<Vec<(JobId, JobName, OutputRow)>, QueueError> {
    let query = sqlx::query(OUTPUTS).bind(session.batch).bind(after.map_or(0, |after| after.0));
    let rows = query.bind(i64::from(limit)).fetch_all(&mut session.conn).await.doing("listing files")?;
    rows.iter().map(|row| Ok((JobId(get(row, "job")?), parsed(row, "job_name")?, output(row)?))).collect()
}

pub(super) async fn runs(session: &mut Session) -> Result<Vec<RunRow>, QueueError> {
    let rows = sqlx::query(RUNS).bind(session.batch).fetch_all(&mut session.conn).await;
    rows.doing("listing runs")?
        .iter()
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

pub(super) async fn batch(session: &mut Session) -> Result<BatchRow, QueueError> {
    let row = sqlx::query(BATCH).bind(session.batch).fetch_one(&mut session.conn).await;
    let row = row.doing("reading whose queue it is")?;
    Ok(BatchRow {
        manifest: get(&row, "manifest")?,
        provider: parsed(&row, "provider")?,
        created_at: Timestamp::from_ms(get(&row, "created_at")?),
    })
}

pub(super) async fn stamps(session: &mut Session) -> Result<Vec<DigestEntry>, QueueError> {
    let rows = sqlx::query(STAMPS).bind(session.batch).fetch_all(&mut session.conn).await;
    rows.doing("reading digests of references")?
        .iter()
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
