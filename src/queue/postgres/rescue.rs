//! Runs, workers, and what dead workers leave behind.

use std::collections::HashMap;

use super::bounds::{gap, ms};
use super::claim::is_alive;
use super::fault::{Doing, count, get, narrow, parsed};
use super::session::Session;
use super::{depend, lanes, news, publish};
use crate::job::{CrashPoint, Epoch, JobId, JobName, RunId, Timestamp, WorkerId, crash_point};
use crate::queue::{
    Beat, LOST_ALONE_MAX, LostPolicy, Publication, QueueError, Rescued, RunStart, WorkerRow, WorkerStart,
};

const START_RUN: &str =
    "INSERT INTO run (batch, command, version, started_at) VALUES ($1, $2, $3, now_ms($4)) RETURNING run";
const END_RUN: &str = "UPDATE run SET ended_at = now_ms($2), end_reason = $3 WHERE run = $1";

const REGISTER: &str = "
INSERT INTO worker (batch, run, token, host, pid, started_at, heartbeat_at, steady_since)
SELECT $1, $2, $3, $4, $5, t, t, t FROM now_ms($6) t RETURNING worker";
/// A worker that still holds leases, against the contract, stays listed: so it can be rescued.
const RETIRE: &str = "
WITH locked AS MATERIALIZED (SELECT worker FROM worker WHERE worker = $1 AND ended_at IS NULL FOR UPDATE)
UPDATE worker SET ended_at = now_ms($2) FROM locked WHERE worker.worker = locked.worker AND worker.ended_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM job j WHERE j.worker = $1 AND j.state = 'running')";
/// $1 batch, $2 now.
const WORKERS: &str = "
SELECT w.worker, w.token, w.host, w.pid, r.version, w.draining, w.started_at, w.heartbeat_at, now_ms($2) AS read_at,
       (SELECT count(*) FROM job j WHERE j.worker = w.worker AND j.state = 'running') AS running
FROM worker w JOIN run r ON r.run = w.run WHERE w.batch = $1 AND w.ended_at IS NULL ORDER BY w.worker";
/// $1 batch, $2 host.
const DRAIN: &str = "UPDATE worker SET draining = true WHERE batch = $1 AND host = $2 AND ended_at IS NULL";

/// $1 worker, $2 now, $3 the gap.
const BEAT: &str = "
UPDATE worker SET heartbeat_at = t, steady_since = CASE WHEN t - heartbeat_at > $3 THEN t ELSE steady_since END
FROM now_ms($2) t WHERE worker = $1 AND ended_at IS NULL RETURNING draining";
/// Jobs whose answer is settled are not cut off any more.
const TO_CANCEL: &str = "
SELECT j.job, j.epoch FROM job j JOIN attempt a ON a.attempt = j.attempt
WHERE j.worker = $1 AND j.state = 'running' AND j.cancel IS NOT NULL AND a.outcome = 'sent' ORDER BY j.job";

/// Who ends a worker locks its row as if to delete it: that waits for its claims ([`super::claim`]), but is not in
/// the way of its heartbeats before it changes the row. $1 workers, $2 now.
const DECLARE_DEAD: &str = "
WITH locked AS MATERIALIZED (
    SELECT worker FROM worker WHERE worker = ANY($1) AND ended_at IS NULL ORDER BY worker FOR UPDATE)
UPDATE worker SET dead = true, ended_at = now_ms($2)
FROM locked WHERE worker.worker = locked.worker AND worker.ended_at IS NULL RETURNING worker.worker";
/// Workers of this batch that were silent for $4 ms, as the heir $2 sees it who was there all the while: the
/// server was up, the heir's own heartbeats came, and the last of them not more than $5 ms ago. A worker whose row
/// is locked is at work just now. The time is looked at again as a row is changed, so that
/// a heartbeat that comes just now saves its worker. $1 batch, $3 now.
const DECLARE_SILENT_DEAD: &str = "
WITH heir AS MATERIALIZED (
    SELECT 1 FROM worker WHERE worker = $2 AND ended_at IS NULL
        AND steady_since < now_ms($3) - $4 AND heartbeat_at > now_ms($3) - $5),
silent AS MATERIALIZED (
    SELECT worker FROM worker
    WHERE batch = $1 AND ended_at IS NULL AND worker <> $2 AND heartbeat_at < now_ms($3) - $4
      AND EXISTS (SELECT 1 FROM heir)
      AND ($3 IS NOT NULL OR (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint < now_ms($3) - $4)
    ORDER BY worker FOR UPDATE SKIP LOCKED)
UPDATE worker SET dead = true, ended_at = now_ms($3)
FROM silent WHERE worker.worker = silent.worker AND worker.ended_at IS NULL AND worker.heartbeat_at < now_ms($3) - $4
RETURNING worker.worker";
/// Locked before its attempt is looked at: what its worker settles at this moment is seen. $1 workers.
const LOCK_LEFT_BEHIND: &str = "
SELECT j.job FROM job j WHERE j.worker = ANY($1) AND j.state = 'running' ORDER BY j.job FOR UPDATE";
/// $1 jobs.
const LEFT_BEHIND: &str = "
SELECT j.job, a.outcome = 'sent' AS unknown FROM job j JOIN attempt a ON a.attempt = j.attempt
WHERE j.job = ANY($1) ORDER BY j.ordinal, j.job";
/// $1 jobs, $2 the state that the policy gives, $3 how often a job may be lost alone. An attempt that was under
/// way beside others may have been lost by one of them.
const LOSE: &str = "
UPDATE job SET lost = lost + (job.revision = a.revision)::int,
    lost_alone = lost_alone + (job.revision = a.revision AND a.alone)::int,
    state = CASE WHEN job.cancel IS NOT NULL THEN 'cancelled'
                 WHEN job.revision <> a.revision THEN 'pending'
                 WHEN $2 = 'pending' AND job.lost_alone + a.alone::int >= $3 THEN 'failed'
                 ELSE $2 END,
    ready = true, available_at = 0, worker = NULL, epoch = NULL
FROM attempt a
WHERE job.job = ANY($1) AND job.state = 'running' AND a.attempt = job.attempt AND a.outcome = 'sent'";
/// $1 jobs, $2 now.
const LOST: &str = "
UPDATE attempt SET outcome = 'lost', ended_at = now_ms($2),
    error_code = CASE WHEN j.state = 'failed' THEN 'poison' ELSE 'lost' END,
    error = CASE WHEN j.state = 'failed' THEN
        'the process ended ' || j.lost_alone || ' times while this job ran alone (' || j.lost ||
        ' times in all): it seems to kill the program, so it is not sent again; see nightpress.log, change the job or `retry` it'
        ELSE 'the process ended before the answer was recorded' END
FROM job j WHERE j.job = ANY($1) AND attempt.attempt = j.attempt AND attempt.outcome = 'sent'";
const UNTIE: &str = "UPDATE job SET attempt = NULL WHERE job = ANY($1) AND state <> 'running'";
/// $1 jobs that were lost: those that failed for it.
const POISONED: &str =
    "SELECT j.name FROM job j WHERE j.job = ANY($1) AND j.state = 'failed' ORDER BY j.ordinal, j.job";
/// $1 jobs, $2 heir.
const INHERIT: &str = "
UPDATE job SET worker = $2, epoch = nextval('epoch') WHERE job = ANY($1) AND state = 'running'
RETURNING job, name, epoch";
/// $1 jobs whose answer was settled and that have nothing to publish.
const ORPHANED: &str = "
UPDATE job SET state = 'pending', ready = true, available_at = 0, worker = NULL, epoch = NULL, attempt = NULL
WHERE job = ANY($1) AND state = 'running'";

pub(super) async fn start_run(session: &mut Session, start: &RunStart) -> Result<RunId, QueueError> {
    let (batch, now) = (session.batch, session.now());
    let start =
        sqlx::query_scalar(START_RUN).bind(batch).bind(start.command.clone()).bind(start.version.clone());
    start.bind(now).fetch_one(&mut session.conn).await.doing("recording the run").map(RunId)
}

pub(super) async fn end_run(session: &mut Session, run: RunId, reason: &str) -> Result<(), QueueError> {
    let end = sqlx::query(END_RUN).bind(run.0).bind(session.now()).bind(reason.to_owned());
    end.execute(&mut session.conn).await.doing("recording the run's end").map(drop)
}

pub(super) async fn register(session: &mut Session, start: &WorkerStart) -> Result<WorkerId, QueueError> {
    let (batch, now) = (session.batch, session.now());
    sqlx::query_scalar(REGISTER)
        .bind(batch)
        .bind(start.run.0)
        .bind(start.token.clone())
        .bind(start.host.clone())
        .bind(i64::from(start.pid))
        .bind(now)
        .fetch_one(&mut session.conn)
        .await
        .doing("recording the worker")
        .map(WorkerId)
}

pub(super) async fn retire(session: &mut Session, worker: WorkerId) -> Result<bool, QueueError> {
    let retire = sqlx::query(RETIRE).bind(worker.0).bind(session.now());
    let retired = retire.execute(&mut session.conn).await.doing("recording the worker's end")?;
    lanes::forget(session).await?;
    Ok(retired.rows_affected() > 0)
}

pub(super) async fn workers(session: &mut Session) -> Result<Vec<WorkerRow>, QueueError> {
    let rows =
        sqlx::query(WORKERS).bind(session.batch).bind(session.now()).fetch_all(&mut session.conn).await;
    rows.doing("listing workers")?
        .iter()
        .map(|row| {
            Ok(WorkerRow {
                worker: WorkerId(get(row, "worker")?),
                token: get(row, "token")?,
                host: get(row, "host")?,
                pid: narrow(row, "pid")?,
                version: get(row, "version")?,
                draining: get(row, "draining")?,
                started_at: Timestamp::from_ms(get(row, "started_at")?),
                heartbeat_at: Timestamp::from_ms(get(row, "heartbeat_at")?),
                read_at: Timestamp::from_ms(get(row, "read_at")?),
                running: count(row, "running")?,
            })
        })
        .collect()
}

pub(super) async fn drain(session: &mut Session, host: &str) -> Result<u64, QueueError> {
    let drain = sqlx::query(DRAIN).bind(session.batch).bind(host).execute(&mut session.conn).await;
    Ok(drain.doing("draining workers")?.rows_affected())
}

pub(super) async fn heartbeat(session: &mut Session, worker: WorkerId) -> Result<Beat, QueueError> {
    let what = "renewing leases";
    let beat = sqlx::query(BEAT).bind(worker.0).bind(session.now()).bind(ms(gap(session.place.silence)));
    let Some(alive) = beat.fetch_optional(&mut session.conn).await.doing(what)? else {
        return Ok(Beat { cancelled: Vec::new(), declared_dead: true, draining: false });
    };
    let rows = sqlx::query(TO_CANCEL).bind(worker.0).fetch_all(&mut session.conn).await.doing(what)?;
    let cancelled = rows
        .iter()
        .map(|row| Ok((JobId(get(row, "job")?), Epoch(get(row, "epoch")?))))
        .collect::<Result<_, QueueError>>()?;
    Ok(Beat { cancelled, declared_dead: false, draining: get(&alive, "draining")? })
}

/// Takes over from workers whose death the caller knows of.
pub(super) async fn rescue(
    session: &mut Session,
    dead: &[i64],
    heir: WorkerId,
    policy: LostPolicy,
) -> Result<Rescued, QueueError> {
    let declare = sqlx::query(DECLARE_DEAD).bind(dead).bind(session.now());
    declare.execute(&mut session.conn).await.doing("taking over from dead workers")?;
    take_over(session, dead, heir, policy).await
}

/// Takes over from workers that were not heard of for too long.
pub(super) async fn rescue_silent(
    session: &mut Session,
    heir: WorkerId,
    policy: LostPolicy,
) -> Result<Rescued, QueueError> {
    let declare = sqlx::query(DECLARE_SILENT_DEAD).bind(session.batch).bind(heir.0);
    let declare =
        declare.bind(session.now()).bind(ms(session.place.silence)).bind(ms(gap(session.place.silence)));
    let rows = declare.fetch_all(&mut session.conn).await.doing("looking for silent workers")?;
    let dead = rows.iter().map(|row| get(row, "worker")).collect::<Result<Vec<i64>, _>>()?;
    if dead.is_empty() {
        return Ok(Rescued::default());
    }
    take_over(session, &dead, heir, policy).await
}

async fn take_over(
    session: &mut Session,
    dead: &[i64],
    heir: WorkerId,
    policy: LostPolicy,
) -> Result<Rescued, QueueError> {
    let what = "taking over from dead workers";
    lanes::forget(session).await?;
    if !is_alive(session, heir).await? {
        return Err(QueueError::DeclaredDead(heir));
    }
    let left: Vec<i64> =
        sqlx::query_scalar(LOCK_LEFT_BEHIND).bind(dead).fetch_all(&mut session.conn).await.doing(what)?;
    let rows = sqlx::query(LEFT_BEHIND).bind(left).fetch_all(&mut session.conn).await.doing(what)?;
    let (mut lost, mut settled) = (Vec::new(), Vec::new());
    for row in &rows {
        let job: i64 = get(row, "job")?;
        if get(row, "unknown")? { lost.push(job) } else { settled.push(job) }
    }
    let state = match policy {
        LostPolicy::Retry => "pending",
        LostPolicy::Hold => "held",
    };
    let now = session.now();
    let record = sqlx::query(LOSE).bind(&lost).bind(state).bind(i64::from(LOST_ALONE_MAX));
    record.execute(&mut session.conn).await.doing(what)?;
    sqlx::query(LOST).bind(&lost).bind(now).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(UNTIE).bind(&lost).execute(&mut session.conn).await.doing(what)?;
    if depend::any(session).await? {
        depend::skip(session, &lost).await?;
    }
    let rows = sqlx::query(POISONED).bind(&lost).fetch_all(&mut session.conn).await.doing(what)?;
    let poisoned = rows.iter().map(|row| parsed(row, "name")).collect::<Result<_, _>>()?;
    let publications = inherit(session, &settled, heir).await?;
    news::tell(session).await?;
    crash_point(CrashPoint::RescueWritten);
    Ok(Rescued { lost: lost.len() as u64, poisoned, publications })
}

async fn inherit(
    session: &mut Session,
    settled: &[i64],
    heir: WorkerId,
) -> Result<Vec<(JobId, JobName, Epoch, Publication)>, QueueError> {
    let what = "taking over planned files";
    if settled.is_empty() {
        return Ok(Vec::new());
    }
    let mut planned = publish::publications(session, settled).await?;
    let (ours, orphaned): (Vec<i64>, Vec<i64>) = settled.iter().partition(|job| planned.contains_key(job));
    sqlx::query(ORPHANED).bind(orphaned).execute(&mut session.conn).await.doing(what)?;
    let rows =
        sqlx::query(INHERIT).bind(&ours).bind(heir.0).fetch_all(&mut session.conn).await.doing(what)?;
    let mut leases: HashMap<i64, (JobName, Epoch)> = HashMap::new();
    for row in &rows {
        leases.insert(get(row, "job")?, (parsed(row, "name")?, Epoch(get(row, "epoch")?)));
    }
    let inherited = ours.into_iter().filter_map(|job| {
        let (name, epoch) = leases.remove(&job)?;
        Some((JobId(job), name, epoch, planned.remove(&job).unwrap_or_default()))
    });
    Ok(inherited.collect())
}
