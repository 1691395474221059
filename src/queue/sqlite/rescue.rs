//! Runs, workers, and what dead workers leave behind.

use super::claim::{check_alive, epochs};
use super::depend::{self, list};
use super::engine::Session;
use super::fault::{Doing, count, get, narrow, parsed};
use super::{lanes, publish};
use crate::job::{CrashPoint, Epoch, JobId, JobName, RunId, Timestamp, WorkerId, crash_point};
use crate::queue::{Beat, LOST_ALONE_MAX, LostPolicy, QueueError, Rescued, RunStart, WorkerRow, WorkerStart};

const START_RUN: &str =
    "INSERT INTO run (batch, command, version, started_at) VALUES ($1, $2, $3, $4) RETURNING run";
const END_RUN: &str = "UPDATE run SET ended_at = $2, end_reason = $3 WHERE run = $1";

const REGISTER: &str = "
INSERT INTO worker (run, token, host, pid, started_at, heartbeat_at) VALUES ($1, $2, $3, $4, $5, $5) RETURNING worker";
/// A worker that still holds leases, against the contract, stays listed: so it can be rescued.
const RETIRE: &str = "
UPDATE worker SET ended_at = $2 WHERE worker = $1 AND ended_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM job j WHERE j.worker = $1 AND j.state = 'running')";
const WORKERS: &str = "
SELECT w.worker, w.token, w.host, w.pid, w.started_at, w.heartbeat_at,
       (SELECT count(*) FROM job j WHERE j.worker = w.worker AND j.state = 'running') AS running
FROM worker w WHERE w.ended_at IS NULL ORDER BY w.worker";

const BEAT: &str =
    "UPDATE worker SET heartbeat_at = $2 WHERE worker = $1 AND ended_at IS NULL RETURNING worker";
/// Jobs whose answer is settled are not cut off any more.
const TO_CANCEL: &str = "
SELECT j.job, j.epoch FROM job j CROSS JOIN attempt a
WHERE j.worker = $1 AND j.state = 'running' AND j.cancel IS NOT NULL AND a.attempt = j.attempt
  AND a.outcome = 'sent'";

/// $1 JSON array of workers, $2 now.
const DECLARE_DEAD: &str = "
UPDATE worker SET dead = 1, ended_at = $2
WHERE worker IN (SELECT value FROM json_each($1)) AND ended_at IS NULL";
const LEFT_BEHIND: &str = "
SELECT j.job, a.outcome = 'sent' AS unknown
FROM json_each($1) e CROSS JOIN job j INDEXED BY job_leased CROSS JOIN attempt a
WHERE j.worker = e.value AND j.state = 'running' AND a.attempt = j.attempt ORDER BY j.ordinal, j.job";
/// $1 JSON array of jobs, $2 now, $3 the state that the policy gives, $4 how often a job may be lost
/// alone. An attempt that was under way beside others may have been lost by one of them.
const LOSE: &str = "
UPDATE job SET lost = lost + (job.revision = a.revision),
    lost_alone = lost_alone + (job.revision = a.revision AND a.alone),
    state = CASE WHEN job.cancel IS NOT NULL THEN 'cancelled'
                 WHEN job.revision <> a.revision THEN 'pending'
                 WHEN $3 = 'pending' AND job.lost_alone + a.alone >= $4 THEN 'failed'
                 ELSE $3 END,
    ready = 1, available_at = 0, worker = NULL, epoch = NULL
FROM json_each($1) e CROSS JOIN attempt a WHERE job.job = e.value AND a.attempt = job.attempt;
UPDATE attempt SET outcome = 'lost', ended_at = $2,
    error_code = iif(j.state = 'failed', 'poison', 'lost'),
    error = iif(j.state = 'failed',
        'the process ended ' || j.lost_alone || ' times while this job ran alone (' || j.lost ||
        ' times in all): it seems to kill the program, so it is not sent again; see nightpress.log, change the job or `retry` it',
        'the process ended before the answer was recorded')
FROM json_each($1) e CROSS JOIN job j WHERE j.job = e.value AND attempt.attempt = j.attempt;
UPDATE job SET attempt = NULL WHERE job IN (SELECT value FROM json_each($1))";
/// $1 JSON array of jobs that were lost: those that failed for it.
const POISONED: &str = "
SELECT j.name FROM json_each($1) e CROSS JOIN job j WHERE j.job = e.value AND j.state = 'failed' ORDER BY e.key";
/// $1 JSON array of jobs, $2 heir, $3 last epoch.
const INHERIT: &str = "
UPDATE job SET worker = $2, epoch = $3 + 1 + e.key FROM json_each($1) e WHERE job.job = e.value";
const INHERITED: &str = "SELECT j.job, j.name, j.epoch FROM json_each($1) e CROSS JOIN job j WHERE j.job = e.value ORDER BY e.key";
/// $1 JSON array of jobs whose answer was settled and that have nothing to publish.
const ORPHANED: &str = "
UPDATE job SET state = 'pending', ready = 1, available_at = 0, worker = NULL, epoch = NULL, attempt = NULL
WHERE job IN (SELECT value FROM json_each($1))";

pub(super) async fn start_run(session: &mut Session, start: RunStart) -> Result<RunId, QueueError> {
    let now = session.now();
    sqlx::query_scalar(START_RUN)
        .bind(session.batch)
        .bind(start.command)
        .bind(start.version)
        .bind(now)
        .fetch_one(&mut session.conn)
        .await
        .doing("recording the run")
        .map(RunId)
}

pub(super) async fn end_run(session: &mut Session, run: RunId, reason: String) -> Result<(), QueueError> {
    let now = session.now();
    let ended = sqlx::query(END_RUN).bind(run.0).bind(now).bind(reason).execute(&mut session.conn).await;
    ended.doing("recording the run's end").map(drop)
}

pub(super) async fn register(session: &mut Session, start: WorkerStart) -> Result<WorkerId, QueueError> {
    let now = session.now();
    sqlx::query_scalar(REGISTER)
        .bind(start.run.0)
        .bind(start.token)
        .bind(start.host)
        .bind(start.pid)
        .bind(now)
        .fetch_one(&mut session.conn)
        .await
        .doing("recording the worker")
        .map(WorkerId)
}

pub(super) async fn retire(session: &mut Session, worker: WorkerId) -> Result<bool, QueueError> {
    let now = session.now();
    let retired = sqlx::query(RETIRE).bind(worker.0).bind(now).execute(&mut session.conn).await;
    let is_retired = retired.doing("recording the worker's end")?.rows_affected() > 0;
    session.run("forgetting its lanes", lanes::FORGET).await?;
    Ok(is_retired)
}

pub(super) async fn workers(conn: &mut sqlx::SqliteConnection) -> Result<Vec<WorkerRow>, QueueError> {
    let rows = sqlx::query(WORKERS).fetch_all(conn).await.doing("listing workers")?;
    rows.iter()
        .map(|row| {
            Ok(WorkerRow {
                worker: WorkerId(get(row, "worker")?),
                token: get(row, "token")?,
                host: get(row, "host")?,
                pid: narrow(row, "pid")?,
                started_at: Timestamp::from_ms(get(row, "started_at")?),
                heartbeat_at: Timestamp::from_ms(get(row, "heartbeat_at")?),
                running: count(row, "running")?,
            })
        })
        .collect()
}

pub(super) async fn heartbeat(session: &mut Session, worker: WorkerId) -> Result<Beat, QueueError> {
    let what = "renewing leases";
    let now = session.now();
    let alive =
        sqlx::query(BEAT).bind(worker.0).bind(now).fetch_optional(&mut session.conn).await.doing(what)?;
    if alive.is_none() {
        return Ok(Beat { cancelled: Vec::new(), declared_dead: true });
    }
    let rows = sqlx::query(TO_CANCEL).bind(worker.0).fetch_all(&mut session.conn).await.doing(what)?;
    let cancelled = rows
        .iter()
        .map(|row| Ok((JobId(get(row, "job")?), Epoch(get(row, "epoch")?))))
        .collect::<Result<_, QueueError>>()?;
    Ok(Beat { cancelled, declared_dead: false })
}

pub(super) async fn rescue(
    session: &mut Session,
    dead: Vec<WorkerId>,
    heir: WorkerId,
    policy: LostPolicy,
) -> Result<Rescued, QueueError> {
    let what = "taking over from dead workers";
    let now = session.now();
    let dead = list(&dead.iter().map(|worker| worker.0).collect::<Vec<_>>());
    let died = sqlx::query(DECLARE_DEAD).bind(dead.clone()).bind(now).execute(&mut session.conn).await;
    died.doing(what)?;
    session.run(what, lanes::FORGET).await?;
    check_alive(session, heir).await?;

    let rows = sqlx::query(LEFT_BEHIND).bind(dead).fetch_all(&mut session.conn).await.doing(what)?;
    let (mut lost, mut settled) = (Vec::new(), Vec::new());
    for row in &rows {
        let job: i64 = get(row, "job")?;
        if get(row, "unknown")? { lost.push(job) } else { settled.push(job) }
    }
    let state = match policy {
        LostPolicy::Retry => "pending",
        LostPolicy::Hold => "held",
    };
    let record = sqlx::query(LOSE).bind(list(&lost)).bind(now).bind(state).bind(LOST_ALONE_MAX);
    record.execute(&mut session.conn).await.doing(what)?;
    depend::skip(session, &lost).await?;
    let rows = sqlx::query(POISONED).bind(list(&lost)).fetch_all(&mut session.conn).await.doing(what)?;
    let poisoned = rows.iter().map(|row| parsed(row, "name")).collect::<Result<_, _>>()?;
    let publications = inherit(session, &settled, heir).await?;
    crash_point(CrashPoint::RescueWritten);
    Ok(Rescued { lost: lost.len() as u64, poisoned, publications })
}

async fn inherit(
    session: &mut Session,
    settled: &[i64],
    heir: WorkerId,
) -> Result<Vec<(JobId, JobName, Epoch, crate::queue::Publication)>, QueueError> {
    let what = "taking over planned files";
    let mut planned = publish::publications(session, settled).await?;
    let (ours, orphaned): (Vec<i64>, Vec<i64>) = settled.iter().partition(|job| planned.contains_key(job));
    let last = epochs(session, ours.len()).await?;
    let inherit = sqlx::query(INHERIT).bind(list(&ours)).bind(heir.0).bind(last);
    inherit.execute(&mut session.conn).await.doing(what)?;
    sqlx::query(ORPHANED).bind(list(&orphaned)).execute(&mut session.conn).await.doing(what)?;
    let rows = sqlx::query(INHERITED).bind(list(&ours)).fetch_all(&mut session.conn).await.doing(what)?;
    rows.iter()
        .map(|row| {
            let job: i64 = get(row, "job")?;
            let publication = planned.remove(&job).unwrap_or_default();
            Ok((JobId(job), parsed(row, "name")?, Epoch(get(row, "epoch")?), publication))
        })
        .collect()
}
