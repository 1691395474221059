//! Leasing due jobs and writing their intent.

use std::collections::{HashMap, VecDeque};

use rusqlite::{ToSql, params};

use super::depend::list;
use super::engine::Session;
use super::group::Results;
use super::row::{Row, get, narrow, parsed, text};
use super::sql::Sql;
use super::stage;
use crate::job::{
    AttemptId, CrashPoint, Epoch, JobId, LaneId, MediaType, Micros, ModelName, Reference, WorkerId,
    crash_point,
};
use crate::queue::{Claim, ClaimRequest, Claimed, Company, Counters, QueueError};

/// `job.turn` of a job that runs alone.
const TURN_ALONE: i64 = 2;

const ALIVE: &str = "SELECT count(*) FROM worker WHERE worker = ?1 AND ended_at IS NULL";

/// ?1 now. Reads the snoozed from the earliest on and stops at the first that is not due. A job that
/// was snoozed in what is now the future is due too: the clock went back, nobody knows how far.
pub(super) const PROMOTE_DUE: [&str; 2] = [
    "UPDATE job SET ready = 1 WHERE state = 'pending' AND ready = 0 AND available_at <= ?1",
    "UPDATE job SET ready = 1 WHERE state = 'pending' AND ready = 0 AND snoozed_at > ?1",
];

/// ?1 batch, ?2 lane, ?3 permits, ?4 glob, ?5 and ?6 first and last turn. Reads the head of the index,
/// in its order.
pub(super) const DUE: &str = "
SELECT job, coalesce(reservation, 0) AS reservation FROM job INDEXED BY job_ready
WHERE batch = ?1 AND model = (SELECT model FROM lane WHERE lane = ?2) AND state = 'pending' AND ready = 1
  AND turn BETWEEN ?5 AND ?6 AND (?4 IS NULL OR name GLOB ?4)
ORDER BY turn, priority DESC, ordinal LIMIT ?3";

/// As [`DUE`] for a lane that stands in for the model ?7: jobs that name its own among their fallbacks.
pub(super) const DUE_ELSEWHERE: &str = "
SELECT job, coalesce(reservation, 0) AS reservation FROM job INDEXED BY job_ready_elsewhere
WHERE batch = ?1 AND model = ?7 AND state = 'pending' AND ready = 1 AND fallbacks IS NOT NULL
  AND (SELECT model FROM lane WHERE lane = ?2) IN (SELECT value FROM json_each(fallbacks))
  AND turn BETWEEN ?5 AND ?6 AND (?4 IS NULL OR name GLOB ?4)
ORDER BY turn, priority DESC, ordinal LIMIT ?3";

/// As [`DUE_ELSEWHERE`] for a pilot of the first ?8 jobs.
pub(super) const DUE_ELSEWHERE_FIRST: &str = "
SELECT job, coalesce(reservation, 0) AS reservation FROM job INDEXED BY job_listed
WHERE batch = ?1 AND in_manifest = 1 AND ordinal < ?8
  AND model = ?7 AND state = 'pending' AND ready = 1 AND fallbacks IS NOT NULL
  AND (SELECT model FROM lane WHERE lane = ?2) IN (SELECT value FROM json_each(fallbacks))
  AND turn BETWEEN ?5 AND ?6 AND (?4 IS NULL OR name GLOB ?4)
ORDER BY turn, priority DESC, ordinal LIMIT ?3";

/// As [`DUE`] for a pilot of the first ?7 jobs, whose cost is that of the pilot: the index of
/// ready jobs would have to be read to its end once the pilot's are done.
pub(super) const DUE_FIRST: &str = "
SELECT job, coalesce(reservation, 0) AS reservation FROM job INDEXED BY job_listed
WHERE batch = ?1 AND in_manifest = 1 AND ordinal < ?7
  AND model = (SELECT model FROM lane WHERE lane = ?2) AND state = 'pending' AND ready = 1
  AND turn BETWEEN ?5 AND ?6 AND (?4 IS NULL OR name GLOB ?4)
ORDER BY turn, priority DESC, ordinal LIMIT ?3";

const AT_MOST: &str = "SELECT coalesce(sum(cost_at_most), 0) FROM attempt_count";

/// ?1 how many numbers are taken.
const EPOCHS: &str =
    "UPDATE sequence SET value = value + ?1 WHERE name = 'epoch' RETURNING value - ?1 AS last";
/// As [`EPOCHS`], with the last attempt.
const NUMBERS: &str = "
UPDATE sequence SET value = value + ?1 WHERE name = 'epoch' RETURNING value - ?1 AS epoch,
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'attempt'), 0) AS attempt";

/// ?1 JSON array of jobs, ?2 last epoch, ?3 last attempt, ?4 run, ?5 lane, ?6 worker, ?7 now, ?8 alone.
pub(super) const LEASE: [&str; 2] = [
    "
INSERT INTO attempt (attempt, job, revision, run, lane, worker, epoch, alone, outcome, sent_at, cost_at_most)
SELECT ?3 + 1 + e.key, j.job, j.revision, ?4, ?5, ?6, ?2 + 1 + e.key, ?8, 'sent', ?7, coalesce(j.reservation, 0)
FROM json_each(?1) e CROSS JOIN job j WHERE j.job = e.value",
    "
UPDATE job SET state = 'running', worker = ?6, epoch = ?2 + 1 + e.key, attempt = ?3 + 1 + e.key
FROM json_each(?1) e WHERE job.job = e.value",
];
/// ?1 JSON array of jobs.
pub(super) const LEASED_REFERENCES: &str = "
SELECT r.job, r.source, r.digest, r.bytes, r.media
FROM json_each(?1) e CROSS JOIN job j CROSS JOIN reference r
WHERE j.job = e.value AND r.job = j.job AND r.n = j.revision
ORDER BY r.job, r.position";
/// ?1 JSON array of jobs.
pub(super) const LEASED: &str = "
SELECT j.job, j.name, j.epoch, j.attempt, j.transient, j.no_image, j.lost, j.reservation,
       d.output, d.stream, r.spec, l.model, a.alone
FROM json_each(?1) e CROSS JOIN job j CROSS JOIN job_detail d CROSS JOIN revision r
     CROSS JOIN attempt a CROSS JOIN lane l
WHERE j.job = e.value AND d.job = j.job AND r.job = j.job AND r.n = j.revision
  AND a.attempt = j.attempt AND l.lane = a.lane
ORDER BY e.key";

/// Fails unless the worker may hold leases: what a dead one held would never be rescued.
pub(super) fn check_alive(session: &Session, worker: WorkerId) -> Result<(), QueueError> {
    let alive: i64 = session.conn.value("looking for the worker", ALIVE, params![worker.0])?;
    if alive == 1 { Ok(()) } else { Err(QueueError::DeclaredDead(worker)) }
}

/// Takes `n` epochs and returns the last one before them.
pub(super) fn epochs(session: &Session, n: usize) -> Result<i64, QueueError> {
    session.conn.value("numbering leases", EPOCHS, params![super::row::signed(n as u64)])
}

/// What is left of the budget, where there is one.
struct Purse(Option<i64>);

impl Purse {
    fn open(session: &Session, cost_max: Option<Micros>) -> Result<Self, QueueError> {
        let Some(cost_max) = cost_max else { return Ok(Self(None)) };
        let spent: i64 = session.conn.value("counting the cost", AT_MOST, &[])?;
        Ok(Self(Some(cost_max.0.saturating_sub(spent))))
    }

    fn take(&mut self, reservation: i64) -> bool {
        match &mut self.0 {
            None => true,
            Some(left) if reservation <= *left => {
                *left -= reservation;
                true
            }
            Some(_) => false,
        }
    }
}

/// Claims for all who ask; each has its own answer, in order. Those who ask for the same are served
/// as one, and what that brings is dealt out in the order in which they asked.
pub(super) fn claim(session: &Session, requests: &[Box<ClaimRequest>]) -> Results<Claimed> {
    let mut answers: Vec<Result<Claimed, QueueError>> =
        requests.iter().map(|_| Ok(Claimed::default())).collect();
    let mut asked: Vec<usize> = (0..requests.len()).collect();
    while let Some(first) = asked.first().copied() {
        let (same, others): (Vec<usize>, Vec<usize>) =
            asked.into_iter().partition(|&one| one == first || is_the_same(&requests[first], &requests[one]));
        asked = others;
        let together = together(requests, &same);
        match claim_one(session, &together) {
            Ok(claimed) => deal(claimed, requests, &same, &mut answers),
            // Found out before anything is written, so that nothing need be undone.
            Err(QueueError::DeclaredDead(worker)) => {
                for &one in &same {
                    answers[one] = Err(QueueError::DeclaredDead(worker));
                }
            }
            Err(error) => return Err(error),
        }
    }
    crash_point(CrashPoint::ClaimWritten);
    Ok(answers)
}

/// Whether two requests differ in nothing but how many jobs they ask for.
fn is_the_same(one: &ClaimRequest, other: &ClaimRequest) -> bool {
    let lanes = |request: &ClaimRequest| request.permits.len();
    one.company == Company::Shared
        && other.company == Company::Shared
        && (one.worker, one.run, one.cost_max) == (other.worker, other.run, other.cost_max)
        && one.scope == other.scope
        && lanes(one) == lanes(other)
        && (one.permits.iter().zip(&other.permits))
            .all(|(one, other)| one.lane == other.lane && one.also_for == other.also_for)
}

/// One request for all that `same` ask for.
fn together(requests: &[Box<ClaimRequest>], same: &[usize]) -> ClaimRequest {
    let mut together = ClaimRequest::clone(&requests[same[0]]);
    for &one in &same[1..] {
        for (permits, more) in together.permits.iter_mut().zip(&requests[one].permits) {
            permits.count = permits.count.saturating_add(more.count);
        }
    }
    together
}

/// Gives everyone of `same` what they asked for, as far as it goes. Only who got less met the cap.
fn deal(
    claimed: Claimed,
    requests: &[Box<ClaimRequest>],
    same: &[usize],
    answers: &mut [Result<Claimed, QueueError>],
) {
    let mut lanes: HashMap<LaneId, VecDeque<Claim>> = HashMap::new();
    for claim in claimed.claims {
        lanes.entry(claim.lane).or_default().push_back(claim);
    }
    for &one in same {
        let mut mine = Claimed::default();
        for permits in &requests[one].permits {
            let count = usize::try_from(permits.count).unwrap_or(usize::MAX);
            let got = lanes.get_mut(&permits.lane).map_or_else(VecDeque::new, |due| {
                let rest = due.split_off(count.min(due.len()));
                std::mem::replace(due, rest)
            });
            mine.capped |= claimed.capped && got.len() < count;
            mine.claims.extend(got);
        }
        answers[one] = Ok(mine);
    }
}

fn claim_one(session: &Session, request: &ClaimRequest) -> Result<Claimed, QueueError> {
    let what = "claiming jobs";
    let now = session.now();
    check_alive(session, request.worker)?;
    session.conn.run_all(what, &PROMOTE_DUE, params![now])?;
    let mut purse = Purse::open(session, request.cost_max)?;
    let mut claimed = Claimed::default();
    for permits in &request.permits {
        let lane = permits.lane;
        let count = match request.company {
            Company::Alone if !claimed.claims.is_empty() => break,
            Company::Alone => 1.min(permits.count),
            Company::Shared => permits.count,
        };
        let mut due = Vec::new();
        for model in std::iter::once(None).chain(permits.also_for.iter().map(Some)) {
            let left = count.saturating_sub(u32::try_from(due.len()).unwrap_or(u32::MAX));
            if left > 0 {
                due.extend(due_of(session, (lane, model), left, request)?);
            }
        }
        let mut jobs = Vec::with_capacity(due.len());
        for (job, reservation) in due {
            if purse.take(reservation) {
                jobs.push(job);
            } else {
                claimed.capped = true;
            }
        }
        if jobs.is_empty() {
            continue;
        }
        let count = super::row::signed(jobs.len() as u64);
        let (epoch, attempt): (i64, i64) = session
            .conn
            .row(what, NUMBERS, params![count], |row| Ok((get(row, "epoch")?, get(row, "attempt")?)))?;
        let (jobs, alone) = (list(&jobs), request.company == Company::Alone);
        let lease = params![jobs, epoch, attempt, request.run.0, lane.0, request.worker.0, now, alone];
        session.conn.run_all(what, &LEASE, lease)?;
        claimed.claims.extend(leased(session, &jobs, lane)?);
    }
    Ok(claimed)
}

/// Due jobs of a lane's own model, or of one that it stands in for, with what they reserve.
fn due_of(
    session: &Session,
    (lane, instead_of): (LaneId, Option<&ModelName>),
    count: u32,
    ClaimRequest { scope, company, .. }: &ClaimRequest,
) -> Result<Vec<(i64, i64)>, QueueError> {
    let sql = match (instead_of, scope.first) {
        (None, None) => DUE,
        (None, Some(_)) => DUE_FIRST,
        (Some(_), None) => DUE_ELSEWHERE,
        (Some(_), Some(_)) => DUE_ELSEWHERE_FIRST,
    };
    let (first, last) = match company {
        Company::Shared => (0, TURN_ALONE - 1),
        Company::Alone => (TURN_ALONE, TURN_ALONE),
    };
    let mut values: Vec<&dyn ToSql> = vec![&session.batch, &lane.0, &count, &scope.glob, &first, &last];
    let model = instead_of.map(ModelName::as_str);
    if let Some(model) = &model {
        values.push(model);
    }
    let pilot = scope.first.map(super::row::signed);
    if let Some(pilot) = &pilot {
        values.push(pilot);
    }
    session
        .conn
        .rows("looking for due jobs", sql, &values, |row| Ok((get(row, "job")?, get(row, "reservation")?)))
}

/// What the worker needs to send the jobs that a lane has just leased.
fn leased(session: &Session, jobs: &str, lane: LaneId) -> Result<Vec<Claim>, QueueError> {
    let what = "reading claimed jobs";
    let mut references: HashMap<i64, Vec<Reference>> = HashMap::new();
    session.conn.each(what, LEASED_REFERENCES, params![jobs], |row| {
        references.entry(get(row, "job")?).or_default().push(Reference {
            path: get::<String>(row, "source")?.into(),
            digest: parsed(row, "digest")?,
            bytes: super::row::count(row, "bytes")?,
            media: media(row)?,
        });
        Ok(())
    })?;
    session.conn.rows(what, LEASED, params![jobs], |row| claim_of(row, lane, &mut references))
}

fn claim_of(
    row: &Row,
    lane: LaneId,
    references: &mut HashMap<i64, Vec<Reference>>,
) -> Result<Claim, QueueError> {
    let job: i64 = get(row, "job")?;
    let mut spec = stage::spec(text(row, "spec")?, references.remove(&job).unwrap_or_default())?;
    // The one that stands in, where the job's own does not serve.
    spec.model = parsed(row, "model")?;
    let is_alone: bool = get(row, "alone")?;
    Ok(Claim {
        job: JobId(job),
        name: parsed(row, "name")?,
        epoch: Epoch(get(row, "epoch")?),
        attempt: AttemptId(get(row, "attempt")?),
        lane,
        spec,
        stream: get(row, "stream")?,
        output: parsed(row, "output")?,
        counters: Counters {
            transient: narrow(row, "transient")?,
            no_image: narrow(row, "no_image")?,
            lost: narrow(row, "lost")?,
        },
        reservation: Micros(get::<Option<i64>>(row, "reservation")?.unwrap_or(0)),
        company: if is_alone { Company::Alone } else { Company::Shared },
    })
}

/// Reads the format of a file.
pub(super) fn media(row: &Row) -> Result<MediaType, QueueError> {
    let mime = text(row, "media")?;
    MediaType::from_mime(mime).ok_or_else(|| stage::broken("media", &format!("`{mime}`")))
}
