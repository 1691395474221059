//! Runs, workers, and what dead workers leave behind.

use rusqlite::{Connection, params};

use super::claim::{check_alive, epochs};
use super::depend::{self, list};
use super::engine::Session;
use super::row::{count, get, narrow, parsed};
use super::sql::Sql;
use super::{lanes, publish};
use crate::job::{CrashPoint, Epoch, JobId, JobName, RunId, Timestamp, WorkerId, crash_point};
use crate::queue::{Beat, LOST_ALONE_MAX, LostPolicy, QueueError, Rescued, RunStart, WorkerRow, WorkerStart};

const START_RUN: &str =
    "INSERT INTO run (batch, command, version, started_at) VALUES (?1, ?2, ?3, ?4) RETURNING run";
const END_RUN: &str = "UPDATE run SET ended_at = ?2, end_reason = ?3 WHERE run = ?1";

const REGISTER: &str = "
INSERT INTO worker (run, token, host, pid, started_at, heartbeat_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5) RETURNING worker";
/// A worker that still holds leases, against the contract, stays listed: so it can be rescued.
const RETIRE: &str = "
UPDATE worker SET ended_at = ?2 WHERE worker = ?1 AND ended_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM job j WHERE j.worker = ?1 AND j.state = 'running')";
const WORKERS: &str = "
SELECT w.worker, w.token, w.host, w.pid, r.version, w.draining, w.started_at, w.heartbeat_at,
       (SELECT count(*) FROM job j WHERE j.worker = w.worker AND j.state = 'running') AS running
FROM worker w CROSS JOIN run r WHERE w.ended_at IS NULL AND r.run = w.run ORDER BY w.worker";
const DRAIN: &str = "UPDATE worker SET draining = 1 WHERE host = ?1 AND ended_at IS NULL";

const BEAT: &str =
    "UPDATE worker SET heartbeat_at = ?2 WHERE worker = ?1 AND ended_at IS NULL RETURNING draining";
/// Jobs whose answer is settled are not cut off any more.
const TO_CANCEL: &str = "
SELECT j.job, j.epoch FROM job j CROSS JOIN attempt a
WHERE j.worker = ?1 AND j.state = 'running' AND j.cancel IS NOT NULL AND a.attempt = j.attempt
  AND a.outcome = 'sent'";

/// ?1 JSON array of workers, ?2 now.
const DECLARE_DEAD: &str = "
UPDATE worker SET dead = 1, ended_at = ?2
WHERE worker IN (SELECT value FROM json_each(?1)) AND ended_at IS NULL";
const LEFT_BEHIND: &str = "
SELECT j.job, a.outcome = 'sent' AS unknown
FROM json_each(?1) e CROSS JOIN job j INDEXED BY job_leased CROSS JOIN attempt a
WHERE j.worker = e.value AND j.state = 'running' AND a.attempt = j.attempt ORDER BY j.ordinal, j.job";
/// ?1 JSON array of jobs, ?2 now, ?3 the state that the policy gives, ?4 how often a job may be lost
/// alone. An attempt that was under way beside others may have been lost by one of them.
const LOSE: [&str; 3] = [
    "
UPDATE job SET lost = lost + (job.revision = a.revision),
    lost_alone = lost_alone + (job.revision = a.revision AND a.alone),
    state = CASE WHEN job.cancel IS NOT NULL THEN 'cancelled'
                 WHEN job.revision <> a.revision THEN 'pending'
                 WHEN ?3 = 'pending' AND job.lost_alone + a.alone >= ?4 THEN 'failed'
                 ELSE ?3 END,
    ready = 1, available_at = 0, worker = NULL, epoch = NULL
FROM json_each(?1) e CROSS JOIN attempt a WHERE job.job = e.value AND a.attempt = job.attempt",
    "
UPDATE attempt SET outcome = 'lost', ended_at = ?2,
    error_code = iif(j.state = 'failed', 'poison', 'lost'),
    error = iif(j.state = 'failed',
        'the process ended ' || j.lost_alone || ' times while this job ran alone (' || j.lost ||
        ' times in all): it seems to kill the program, so it is not sent again; see nightpress.log, change the job or `retry` it',
        'the process ended before the answer was recorded')
FROM json_each(?1) e CROSS JOIN job j WHERE j.job = e.value AND attempt.attempt = j.attempt",
    "UPDATE job SET attempt = NULL WHERE job IN (SELECT value FROM json_each(?1))",
];
/// ?1 JSON array of jobs that were lost: those that failed for it.
const POISONED: &str = "
SELECT j.name FROM json_each(?1) e CROSS JOIN job j WHERE j.job = e.value AND j.state = 'failed' ORDER BY e.key";
/// ?1 JSON array of jobs, ?2 heir, ?3 last epoch.
const INHERIT: &str = "
UPDATE job SET worker = ?2, epoch = ?3 + 1 + e.key FROM json_each(?1) e WHERE job.job = e.value";
const INHERITED: &str = "SELECT j.job, j.name, j.epoch FROM json_each(?1) e CROSS JOIN job j WHERE j.job = e.value ORDER BY e.key";
/// ?1 JSON array of jobs whose answer was settled and that have nothing to publish.
const ORPHANED: &str = "
UPDATE job SET state = 'pending', ready = 1, available_at = 0, worker = NULL, epoch = NULL, attempt = NULL
WHERE job IN (SELECT value FROM json_each(?1))";

pub(super) fn start_run(session: &Session, start: &RunStart) -> Result<RunId, QueueError> {
    let values = params![session.batch, start.command, start.version, session.now()];
    session.conn.value("recording the run", START_RUN, values).map(RunId)
}

pub(super) fn end_run(session: &Session, run: RunId, reason: &str) -> Result<(), QueueError> {
    session.conn.run("recording the run's end", END_RUN, params![run.0, session.now(), reason]).map(drop)
}

pub(super) fn register(session: &Session, start: &WorkerStart) -> Result<WorkerId, QueueError> {
    let values = params![start.run.0, start.token, start.host, start.pid, session.now()];
    session.conn.value("recording the worker", REGISTER, values).map(WorkerId)
}

pub(super) fn retire(session: &Session, worker: WorkerId) -> Result<bool, QueueError> {
    let retired = session.conn.run("recording the worker's end", RETIRE, params![worker.0, session.now()])?;
    session.conn.run("forgetting its lanes", lanes::FORGET, &[])?;
    Ok(retired > 0)
}

pub(super) fn workers(conn: &Connection, now: Timestamp) -> Result<Vec<WorkerRow>, QueueError> {
    conn.rows("listing workers", WORKERS, &[], |row| {
        Ok(WorkerRow {
            worker: WorkerId(get(row, "worker")?),
            token: get(row, "token")?,
            host: get(row, "host")?,
            pid: narrow(row, "pid")?,
            version: get(row, "version")?,
            draining: get(row, "draining")?,
            started_at: Timestamp::from_ms(get(row, "started_at")?),
            heartbeat_at: Timestamp::from_ms(get(row, "heartbeat_at")?),
            read_at: now,
            running: count(row, "running")?,
        })
    })
}

pub(super) fn drain(session: &Session, host: &str) -> Result<u64, QueueError> {
    session.conn.run("draining workers", DRAIN, params![host]).map(|drained| drained as u64)
}

pub(super) fn heartbeat(session: &Session, worker: WorkerId) -> Result<Beat, QueueError> {
    let what = "renewing leases";
    let alive: Vec<bool> = session.conn.values(what, BEAT, params![worker.0, session.now()])?;
    let Some(&draining) = alive.first() else {
        return Ok(Beat { cancelled: Vec::new(), declared_dead: true, draining: false });
    };
    let cancelled = session.conn.rows(what, TO_CANCEL, params![worker.0], |row| {
        Ok((JobId(get(row, "job")?), Epoch(get(row, "epoch")?)))
    })?;
    Ok(Beat { cancelled, declared_dead: false, draining })
}

pub(super) fn rescue(
    session: &Session,
    dead: &[WorkerId],
    heir: WorkerId,
    policy: LostPolicy,
) -> Result<Rescued, QueueError> {
    let what = "taking over from dead workers";
    let now = session.now();
    let dead = list(&dead.iter().map(|worker| worker.0).collect::<Vec<_>>());
    session.conn.run(what, DECLARE_DEAD, params![dead, now])?;
    session.conn.run(what, lanes::FORGET, &[])?;
    check_alive(session, heir)?;

    let (mut lost, mut settled) = (Vec::new(), Vec::new());
    session.conn.each(what, LEFT_BEHIND, params![dead], |row| {
        let job: i64 = get(row, "job")?;
        if get(row, "unknown")? {
            lost.push(job);
        } else {
            settled.push(job);
        }
        Ok(())
    })?;
    let state = match policy {
        LostPolicy::Retry => "pending",
        LostPolicy::Hold => "held",
    };
    session.conn.run_all(what, &LOSE, params![list(&lost), now, state, LOST_ALONE_MAX])?;
    depend::skip(session, &lost)?;
    let poisoned = session.conn.rows(what, POISONED, params![list(&lost)], |row| parsed(row, "name"))?;
    let publications = inherit(session, &settled, heir)?;
    crash_point(CrashPoint::RescueWritten);
    Ok(Rescued { lost: lost.len() as u64, poisoned, publications })
}

fn inherit(
    session: &Session,
    settled: &[i64],
    heir: WorkerId,
) -> Result<Vec<(JobId, JobName, Epoch, crate::queue::Publication)>, QueueError> {
    let what = "taking over planned files";
    let mut planned = publish::publications(session, settled)?;
    let (ours, orphaned): (Vec<i64>, Vec<i64>) = settled.iter().partition(|job| planned.contains_key(job));
    let last = epochs(session, ours.len())?;
    session.conn.run(what, INHERIT, params![list(&ours), heir.0, last])?;
    session.conn.run(what, ORPHANED, params![list(&orphaned)])?;
    session.conn.rows(what, INHERITED, params![list(&ours)], |row| {
        let job: i64 = get(row, "job")?;
        let publication = planned.remove(&job).unwrap_or_default();
        Ok((JobId(job), parsed(row, "name")?, Epoch(get(row, "epoch")?), publication))
    })
}
