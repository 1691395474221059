//! Leasing due jobs and writing their intent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::LazyLock;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgRow;

use super::fault::{Doing, get, narrow, parsed, signed};
use super::session::Session;
use super::{glob, limits};
use crate::job::{
    AttemptId, CrashPoint, Epoch, JobId, LaneId, MediaType, Micros, ModelName, Reference, WorkerId,
    crash_point,
};
use crate::queue::text::{broken, spec};
use crate::queue::{Claim, ClaimRequest, Claimed, Company, Counters, QueueError};

/// `job.turn` of a job that runs alone.
const TURN_ALONE: i32 = 2;
/// Snoozed jobs that become ready at a time: bounds what one claim does for all.
const PROMOTED_MAX: &str = "1000";

/// Holds off whoever would declare this worker dead until the transaction has ended: what it leases is then
/// seen by its heir. A heartbeat passes: it changes no key. $1 worker.
const ALIVE: &str = "SELECT worker FROM worker WHERE worker = $1 AND ended_at IS NULL FOR KEY SHARE";

/// $1 batch, $2 now. What others promote at this moment is left to them. A job that was snoozed in what is
/// now the future is due too: the clock went back, nobody knows how far.
static PROMOTE_DUE: LazyLock<String> = LazyLock::new(|| {
    format!(
        "WITH clock AS MATERIALIZED (SELECT now_ms($2) AS now),
        due AS MATERIALIZED (
            SELECT job FROM job WHERE batch = $1 AND state = 'pending' AND NOT ready
                AND available_at <= (SELECT now FROM clock) ORDER BY available_at LIMIT {PROMOTED_MAX}
            FOR UPDATE SKIP LOCKED),
        stranded AS MATERIALIZED (
            SELECT job FROM job WHERE batch = $1 AND state = 'pending' AND NOT ready
                AND snoozed_at > (SELECT now FROM clock) ORDER BY snoozed_at LIMIT {PROMOTED_MAX}
            FOR UPDATE SKIP LOCKED)
        UPDATE job SET ready = true FROM (SELECT job FROM due UNION SELECT job FROM stranded) found
        WHERE job.job = found.job AND job.state = 'pending' AND NOT job.ready"
    )
});

/// Reads the head of the index of what is ready, in its order, and steps over what others are claiming.
/// $1 batch, $2 lane, $3 permits, $4 pattern of names, $5 and $6 first and last turn.
const DUE: &str = "
SELECT job, turn, priority, ordinal, coalesce(reservation, 0) AS reservation FROM job
WHERE batch = $1 AND model = (SELECT model FROM lane WHERE lane = $2) AND state = 'pending' AND ready
  AND turn BETWEEN $5 AND $6 AND ($4::text IS NULL OR name ~ $4)
ORDER BY turn, priority DESC, ordinal LIMIT $3 FOR UPDATE SKIP LOCKED";

/// As [`DUE`] for a lane that stands in for the model $7: jobs that name its own among their fallbacks.
const DUE_ELSEWHERE: &str = "
SELECT job, turn, priority, ordinal, coalesce(reservation, 0) AS reservation FROM job
WHERE batch = $1 AND model = $7 AND state = 'pending' AND ready AND fallbacks IS NOT NULL
  AND (SELECT model FROM lane WHERE lane = $2) = ANY (fallbacks)
  AND turn BETWEEN $5 AND $6 AND ($4::text IS NULL OR name ~ $4)
ORDER BY turn, priority DESC, ordinal LIMIT $3 FOR UPDATE SKIP LOCKED";

/// As [`DUE`] for a pilot of the first $8 jobs, whose cost is that of the pilot: the index of ready jobs
/// would have to be read to its end once the pilot's are done.
const DUE_FIRST: &str = "
SELECT job, turn, priority, ordinal, coalesce(reservation, 0) AS reservation FROM job
WHERE batch = $1 AND in_manifest AND ordinal < $8
  AND model = (SELECT model FROM lane WHERE lane = $2) AND state = 'pending' AND ready
  AND turn BETWEEN $5 AND $6 AND ($4::text IS NULL OR name ~ $4)
ORDER BY turn, priority DESC, ordinal LIMIT $3 FOR UPDATE SKIP LOCKED";

/// As [`DUE_ELSEWHERE`] for a pilot of the first $8 jobs.
const DUE_ELSEWHERE_FIRST: &str = "
SELECT job, turn, priority, ordinal, coalesce(reservation, 0) AS reservation FROM job
WHERE batch = $1 AND in_manifest AND ordinal < $8
  AND model = $7 AND state = 'pending' AND ready AND fallbacks IS NOT NULL
  AND (SELECT model FROM lane WHERE lane = $2) = ANY (fallbacks)
  AND turn BETWEEN $5 AND $6 AND ($4::text IS NULL OR name ~ $4)
ORDER BY turn, priority DESC, ordinal LIMIT $3 FOR UPDATE SKIP LOCKED";

/// What is claimed is in `due`; its state is looked at once more by the UPDATE. Leases and attempts are
/// numbered in the order in which they are handed out. $10 run, $11 worker, $12 now, $13 alone. What a worker
/// needs to send them comes back.
const LEASE: &str = "
numbered AS MATERIALIZED (
    SELECT n.job, n.place, nextval('epoch') AS epoch, nextval('attempt_attempt_seq') AS attempt
    FROM (SELECT job, row_number() OVER (ORDER BY turn, priority DESC, ordinal) AS place FROM due ORDER BY place) n),
taken AS (
    UPDATE job SET state = 'running', worker = $11, epoch = n.epoch, attempt = n.attempt
    FROM numbered n WHERE job.job = n.job AND (job.state = 'pending' AND job.ready) IS TRUE
    RETURNING n.place, job.job, job.name, job.epoch, job.attempt, job.revision, job.transient, job.no_image,
              job.lost, job.reservation),
sent AS (
    INSERT INTO attempt (attempt, batch, job, revision, run, lane, worker, epoch, alone, outcome, sent_at, cost_at_most)
    OVERRIDING SYSTEM VALUE
    SELECT t.attempt, $1, t.job, t.revision, $10, $2, $11, t.epoch, $13, 'sent', now_ms($12),
           coalesce(t.reservation, 0)
    FROM taken t)
SELECT t.job, t.name, t.epoch, t.attempt, t.transient, t.no_image, t.lost, t.reservation,
       d.output, d.stream, r.spec, l.model, f.sources, f.digests, f.sizes, f.medias
FROM taken t JOIN job_detail d ON d.job = t.job JOIN revision r ON r.job = t.job AND r.n = t.revision
     JOIN lane l ON l.lane = $2
     CROSS JOIN LATERAL (
        SELECT array_agg(f.source ORDER BY f.position) AS sources, array_agg(f.digest ORDER BY f.position) AS digests,
               array_agg(f.bytes ORDER BY f.position) AS sizes, array_agg(f.media ORDER BY f.position) AS medias
        FROM reference f WHERE f.job = t.job AND f.n = t.revision) f
ORDER BY t.place";

/// $9 jobs that were found due and locked before, in this order.
const CHOSEN: &str = "
SELECT c.job, j.turn, j.priority, j.ordinal FROM unnest($9::bigint[]) c (job) JOIN job j USING (job)";

/// One claim of a batch at a time reads what was spent, so that two cannot spend the same rest. $1 batch.
const LOCK_PURSE: &str = "SELECT 1 FROM batch WHERE batch = $1 FOR NO KEY UPDATE";
const AT_MOST: &str = "SELECT coalesce(sum(cost_at_most), 0)::bigint FROM attempt_count WHERE batch = $1";

/// Fails unless the worker may hold leases: what a dead one held would never be rescued.
pub(super) async fn is_alive(session: &mut Session, worker: WorkerId) -> Result<bool, QueueError> {
    let alive = sqlx::query(ALIVE).bind(worker.0).fetch_optional(&mut session.conn).await;
    alive.doing("looking for the worker").map(|row| row.is_some())
}

/// What is left of the budget.
struct Purse(i64);

impl Purse {
    async fn open(session: &mut Session, cost_max: Micros) -> Result<Self, QueueError> {
        let what = "counting the cost";
        let batch = session.batch;
        sqlx::query(LOCK_PURSE).bind(batch).execute(&mut session.conn).await.doing(what)?;
        let spent: i64 =
            sqlx::query_scalar(AT_MOST).bind(batch).fetch_one(&mut session.conn).await.doing(what)?;
        Ok(Self(cost_max.0.saturating_sub(spent)))
    }

    fn take(&mut self, reservation: i64) -> bool {
        let fits = reservation <= self.0;
        if fits {
            self.0 -= reservation;
        }
        fits
    }
}

/// Leases what is due. The outer error is the transaction's, the inner ones are the requests' own. Equal
/// requests are answered as one: callers that ask at once cost one statement.
pub(super) async fn claim(
    session: &mut Session,
    requests: &[ClaimRequest],
) -> Result<Vec<Result<Claimed, QueueError>>, QueueError> {
    let Some(first) = requests.first() else { return Ok(Vec::new()) };
    let (batch, now) = (session.batch, session.now());
    let mut alive: HashMap<WorkerId, bool> = HashMap::new();
    for request in requests {
        if let Entry::Vacant(worker) = alive.entry(request.worker) {
            worker.insert(is_alive(session, request.worker).await?);
        }
    }
    let promote = sqlx::query(AssertSqlSafe(PROMOTE_DUE.as_str())).bind(batch).bind(now);
    promote.execute(&mut session.conn).await.doing("looking for due jobs")?;
    let is_alive = |request: &ClaimRequest| alive.get(&request.worker).copied().unwrap_or(false);
    let mut answers = Vec::with_capacity(requests.len());
    if requests.len() > 1 && is_alive(first) && requests.iter().all(|other| are_alike(first, other)) {
        let mut whole = first.clone();
        for permits in &mut whole.permits {
            permits.count = requests.iter().flat_map(|one| &one.permits).map(|one| one.count).sum();
        }
        let Claimed { claims, waits, lanes, .. } = claim_one(session, &whole).await?;
        let mut claims = claims.into_iter();
        for request in requests {
            let count = request.permits.first().map_or(0, |permits| permits.count);
            let claims = claims.by_ref().take(count as usize).collect();
            let waits = waits.clone();
            answers.push(Ok(Claimed { claims, capped: false, waits, lanes: lanes.clone() }));
        }
    } else {
        for request in requests {
            answers.push(if is_alive(request) {
                Ok(claim_one(session, request).await?)
            } else {
                Err(QueueError::DeclaredDead(request.worker))
            });
        }
    }
    crash_point(CrashPoint::ClaimWritten);
    Ok(answers)
}

/// Whether two requests ask for the same but for the number.
fn are_alike(one: &ClaimRequest, other: &ClaimRequest) -> bool {
    let of = |request: &ClaimRequest| match request.permits.as_slice() {
        [permits] => Some((permits.lane, permits.share, permits.also_for.clone())),
        _ => None,
    };
    let is_plain = one.company == Company::Shared && one.cost_max.is_none() && of(one).is_some();
    is_plain
        && (one.worker, one.run, &one.scope) == (other.worker, other.run, &other.scope)
        && (one.company, one.cost_max, of(one)) == (other.company, other.cost_max, of(other))
}

async fn claim_one(session: &mut Session, request: &ClaimRequest) -> Result<Claimed, QueueError> {
    let mut purse = match request.cost_max {
        Some(cost_max) => Some(Purse::open(session, cost_max).await?),
        None => None,
    };
    let mut claimed = Claimed::default();
    let mut grants = limits::grant(session, &request.permits).await?;
    for permits in &request.permits {
        let Some(grant) = grants.get_mut(&permits.lane) else { continue };
        if let Some(wait) = grant.wait {
            claimed.waits.push((permits.lane, wait));
        }
        let before = claimed.claims.len();
        let mut left = match request.company {
            Company::Alone if before > 0 => 0,
            Company::Alone => 1.min(grant.count),
            Company::Shared => grant.count,
        };
        for model in std::iter::once(None).chain(permits.also_for.iter().map(Some)) {
            if left == 0 {
                break;
            }
            let source = Source { request, lane: permits.lane, instead_of: model, count: left };
            let found = match &mut purse {
                None => {
                    let claims = source.lease(session, None).await?;
                    let found = claims.len();
                    claimed.claims.extend(claims);
                    found
                }
                Some(purse) => {
                    let due = source.due(session).await?;
                    let mut jobs = Vec::with_capacity(due.len());
                    for (job, reservation) in &due {
                        if purse.take(*reservation) {
                            jobs.push(*job);
                        } else {
                            claimed.capped = true;
                        }
                    }
                    if !jobs.is_empty() {
                        claimed.claims.extend(source.lease(session, Some(jobs)).await?);
                    }
                    due.len()
                }
            };
            left = left.saturating_sub(u32::try_from(found).unwrap_or(u32::MAX));
        }
        for claim in claimed.claims.iter().skip(before) {
            grant.sent(claim.attempt.0);
        }
    }
    claimed.lanes = limits::keep(session, grants).await?;
    Ok(claimed)
}

/// Where jobs are taken from: a lane's own model, or one that it stands in for.
struct Source<'r> {
    request: &'r ClaimRequest,
    lane: LaneId,
    instead_of: Option<&'r ModelName>,
    count: u32,
}

/// The statements that claim, by what they look at.
struct Texts {
    due: &'static str,
    lease: String,
}

impl Texts {
    fn of(due: &'static str) -> Self {
        Self { due, lease: format!("WITH due AS MATERIALIZED ({due}),{LEASE}") }
    }
}

static OWN: LazyLock<Texts> = LazyLock::new(|| Texts::of(DUE));
static OWN_FIRST: LazyLock<Texts> = LazyLock::new(|| Texts::of(DUE_FIRST));
static ELSEWHERE: LazyLock<Texts> = LazyLock::new(|| Texts::of(DUE_ELSEWHERE));
static ELSEWHERE_FIRST: LazyLock<Texts> = LazyLock::new(|| Texts::of(DUE_ELSEWHERE_FIRST));
static LEASE_CHOSEN: LazyLock<String> =
    LazyLock::new(|| format!("WITH due AS MATERIALIZED ({CHOSEN}),{LEASE}"));

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

impl Source<'_> {
    fn texts(&self) -> &'static Texts {
        match (self.instead_of, self.request.scope.first) {
            (None, None) => &OWN,
            (None, Some(_)) => &OWN_FIRST,
            (Some(_), None) => &ELSEWHERE,
            (Some(_), Some(_)) => &ELSEWHERE_FIRST,
        }
    }

    /// Binds $1 to $8. All statements have the same parameters, whether they look at them or not.
    fn bind<'q>(&self, query: Query<'q>, batch: i64) -> Query<'q> {
        let (first, last) = match self.request.company {
            Company::Shared => (0, TURN_ALONE - 1),
            Company::Alone => (TURN_ALONE, TURN_ALONE),
        };
        query
            .bind(batch)
            .bind(self.lane.0)
            .bind(i64::from(self.count))
            .bind(self.request.scope.glob.as_deref().map(glob::pattern))
            .bind(first)
            .bind(last)
            .bind(self.instead_of.map(|model| model.as_str().to_owned()))
            .bind(self.request.scope.first.map(signed))
    }

    /// Due jobs with what they reserve, locked.
    async fn due(&self, session: &mut Session) -> Result<Vec<(i64, i64)>, QueueError> {
        let query = self.bind(sqlx::query(self.texts().due), session.batch);
        let rows = query.fetch_all(&mut session.conn).await.doing("looking for due jobs")?;
        rows.iter().map(|row| Ok((get(row, "job")?, get(row, "reservation")?))).collect()
    }

    /// Leases what is due, or these jobs of it, which are locked.
    async fn lease(&self, session: &mut Session, chosen: Option<Vec<i64>>) -> Result<Vec<Claim>, QueueError> {
        let text = if chosen.is_some() { LEASE_CHOSEN.as_str() } else { self.texts().lease.as_str() };
        let now = session.now();
        let rows = self
            .bind(sqlx::query(AssertSqlSafe(text)), session.batch)
            .bind(chosen)
            .bind(self.request.run.0)
            .bind(self.request.worker.0)
            .bind(now)
            .bind(self.request.company == Company::Alone)
            .fetch_all(&mut session.conn)
            .await
            .doing("claiming jobs")?;
        rows.iter().map(|row| self.claim(row)).collect()
    }

    fn claim(&self, row: &PgRow) -> Result<Claim, QueueError> {
        let reservation: Option<i64> = get(row, "reservation")?;
        let mut spec = spec(get(row, "spec")?, references(row)?)?;
        // The one that stands in, where the job's own does not serve.
        spec.model = parsed(row, "model")?;
        Ok(Claim {
            job: JobId(get(row, "job")?),
            name: parsed(row, "name")?,
            epoch: Epoch(get(row, "epoch")?),
            attempt: AttemptId(get(row, "attempt")?),
            lane: self.lane,
            spec,
            stream: get(row, "stream")?,
            output: parsed(row, "output")?,
            counters: Counters {
                transient: narrow(row, "transient")?,
                no_image: narrow(row, "no_image")?,
                lost: narrow(row, "lost")?,
            },
            reservation: Micros(reservation.unwrap_or(0)),
            company: self.request.company,
        })
    }
}

fn references(row: &PgRow) -> Result<Vec<Reference>, QueueError> {
    let Some(sources) = get::<Option<Vec<String>>>(row, "sources")? else { return Ok(Vec::new()) };
    let digests: Vec<String> = get(row, "digests")?;
    let sizes: Vec<i64> = get(row, "sizes")?;
    let medias: Vec<String> = get(row, "medias")?;
    let kept = sources.into_iter().zip(digests).zip(sizes.into_iter().zip(medias));
    kept.map(|((path, digest), (bytes, mime))| {
        Ok(Reference {
            path: path.into(),
            digest: digest.parse().map_err(|error| broken("reference.digest", &error))?,
            bytes: u64::try_from(bytes).map_err(|error| broken("reference.bytes", &error))?,
            media: media_of(&mime)?,
        })
    })
    .collect()
}

/// Reads the format of a file.
pub(super) fn media(row: &PgRow) -> Result<MediaType, QueueError> {
    media_of(get(row, "media")?)
}

fn media_of(mime: &str) -> Result<MediaType, QueueError> {
    MediaType::from_mime(mime).ok_or_else(|| broken("media", &format!("`{mime}`")))
}
