//! Limits that the workers of a lane share.
//!
//! A lane's row keeps the lane itself, as text ([`Lane::keep`]). A claim locks the row, recalls the lane, asks it how
//! many requests may leave, and keeps it again with those that do, in its own transaction: a request that was not
//! granted was not written, and one that was not written is not sent, also while the database is away. An end that
//! teaches something does the same. So there is one lane, however many workers there are, and who joins or dies
//! changes nothing; what a refusal is measured with is the ledger, which has the sends of all.

use std::collections::HashMap;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sqlx::postgres::PgRow;
use tokio::time::Instant;

use super::fault::{Doing, get, narrow};
use super::session::Session;
use crate::job::LaneId;
use crate::pacing::{End, Lane, Logged, Share};
use crate::queue::{LaneEnd, Permits, QueueError};

/// Who is granted less than he wanted asks again after this at the earliest. What should have left meanwhile
/// may leave at once, so nothing is lost; and workers that wait for a quick lane do not wake for each request.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The same for many workers, which each ask more seldom the more there are: below what a lane makes up for.
const PAUSE_MIN_OF_MANY: Duration = Duration::from_millis(250);
/// The same where nobody knows when there will be more, since a request must end first.
const PAUSE_FOR_AN_END: Duration = Duration::from_millis(250);
/// What a refusal is measured with: sends of the last five minutes, and so many at most.
const LOG_MS: i64 = 300_000;
const LOG_MAX: i64 = 131_072;

/// Requests under way. Of each running job its attempt is looked up by its number, whatever the planner takes for
/// better: before the tables were ever analysed it goes through all attempts of the lane instead.
macro_rules! under_way {
    () => {
        "SELECT count(*) FROM job j CROSS JOIN LATERAL (
            SELECT a.lane, a.outcome FROM attempt a WHERE a.attempt = j.attempt OFFSET 0) a
        WHERE j.state = 'running' AND a.outcome = 'sent'"
    };
}

/// The rows are locked in one order by all, and the time is looked at once that is done: others may have been waited
/// for. How many requests are under way is what was committed when it was asked for. $1 lanes, $2 now.
const LOCK: &str = concat!(
    "
WITH locked AS MATERIALIZED (
    SELECT lane, kept, kept_at FROM lane WHERE lane = ANY($1) ORDER BY lane FOR NO KEY UPDATE)
SELECT l.lane, l.kept, l.kept_at, now_ms($2) AS now,
       (SELECT count(*) FROM worker WHERE ended_at IS NULL) AS workers,
       (",
    under_way!(),
    " AND a.lane = l.lane) AS under_way
FROM locked l"
);
/// The same count once the row is locked, where the server was found to limit it. $1 lane.
const UNDER_WAY: &str = concat!(under_way!(), " AND a.lane = $1");
/// $1 lanes, $2 texts, $3 times.
const KEEP: &str = "
UPDATE lane SET kept = k.kept, kept_at = k.kept_at
FROM unnest($1::bigint[], $2::text[], $3::bigint[]) k (lane, kept, kept_at) WHERE lane.lane = k.lane";
/// $1 attempt.
const IS_UNDER_WAY: &str = "SELECT outcome = 'sent' AS under_way FROM attempt WHERE attempt = $1";
/// $1 attempt.
const SENT_AT: &str = "SELECT sent_at FROM attempt WHERE attempt = $1";
/// $1 lane, $2 since when, $3 how many at most.
const LOG: &str = "
SELECT attempt, sent_at, ended_at, outcome = 'throttled' AS refused FROM (
    SELECT attempt, sent_at, ended_at, outcome FROM attempt WHERE lane = $1 AND sent_at >= $2
    ORDER BY sent_at DESC LIMIT $3) recent
ORDER BY sent_at, attempt";

/// A lane whose row is locked.
struct Locked {
    lane: Lane,
    /// The server's time, and the same instant on this process' clock.
    now_ms: i64,
    now: Instant,
    /// How many workers live, on whatever lanes.
    workers: u32,
    /// The clock went back since it was kept: it goes on from here.
    is_ahead: bool,
}

impl Locked {
    fn recall(row: &PgRow, share: Share) -> Result<Self, QueueError> {
        let (now_ms, now) = (get(row, "now")?, Instant::now());
        let kept: Option<String> = get(row, "kept")?;
        let kept_at: i64 = get(row, "kept_at")?;
        // It may have been kept while its row was waited for, or before the clock went back.
        let age = Duration::from_millis(u64::try_from(now_ms - kept_at).unwrap_or(0));
        let mut lane = Lane::recall(kept.as_deref(), age, share, now);
        lane.under_way(narrow(row, "under_way")?);
        Ok(Self { lane, now_ms, now, workers: narrow(row, "workers")?, is_ahead: kept_at > now_ms })
    }

    fn instant(&self, ms: i64) -> Instant {
        let ago = Duration::from_millis(u64::try_from(self.now_ms - ms).unwrap_or(0));
        self.now.checked_sub(ago).unwrap_or(self.now)
    }
}

/// What a lane gave.
pub(super) struct Grant {
    pub(super) count: u32,
    /// When there may be more, where it is less than was wanted.
    pub(super) wait: Option<Duration>,
    /// The lane, if it is shared, and whether it is to be kept.
    locked: Option<Locked>,
    changed: bool,
}

impl Grant {
    /// A request leaves.
    pub(super) fn sent(&mut self, attempt: i64) {
        if let Some(Locked { lane, now, .. }) = &mut self.locked {
            lane.sent_with(number(attempt), *now);
        }
    }
}

fn number(attempt: i64) -> u64 {
    u64::try_from(attempt).unwrap_or_default()
}

/// Asks the lanes.
pub(super) async fn grant(
    session: &mut Session,
    permits: &[Permits],
) -> Result<HashMap<LaneId, Grant>, QueueError> {
    let mut grants = HashMap::new();
    let mut shares = HashMap::new();
    for one in permits {
        if let Some(share) = one.share {
            shares.insert(one.lane.0, (share, one.count));
        } else {
            let plain = Grant { count: one.count, wait: None, locked: None, changed: false };
            grants.insert(one.lane, plain);
        }
    }
    if shares.is_empty() {
        return Ok(grants);
    }
    let lanes: Vec<i64> = shares.keys().copied().collect();
    let lock = sqlx::query(LOCK).bind(lanes).bind(session.now());
    for row in &lock.fetch_all(&mut session.conn).await.doing("asking a lane")? {
        let lane: i64 = get(row, "lane")?;
        let Some((share, wanted)) = shares.get(&lane).copied() else { continue };
        let locked = Locked::recall(row, share)?;
        grants.insert(LaneId(lane), ask(session, (lane, wanted), locked).await?);
    }
    Ok(grants)
}

async fn ask(
    session: &mut Session,
    (id, wanted): (i64, u32),
    mut locked: Locked,
) -> Result<Grant, QueueError> {
    let what = "asking a lane";
    let (lane, now) = (&mut locked.lane, locked.now);
    let pause_min = (PAUSE_MIN * locked.workers.div_ceil(2)).clamp(PAUSE_MIN, PAUSE_MIN_OF_MANY);
    if lane.has_limit_in_flight() {
        let count: i64 =
            sqlx::query_scalar(UNDER_WAY).bind(id).fetch_one(&mut session.conn).await.doing(what)?;
        lane.under_way(u32::try_from(count).unwrap_or(u32::MAX));
    }
    let was = lane.is_closed();
    if let Some(probe) = lane.waits_for_probe() {
        let attempt = i64::try_from(probe).unwrap_or(i64::MAX);
        let row = sqlx::query(IS_UNDER_WAY).bind(attempt).fetch_optional(&mut session.conn).await;
        let row = row.doing(what)?;
        let is_under_way = row.as_ref().map(|row| get(row, "under_way")).transpose()?.unwrap_or(false);
        if !is_under_way {
            lane.probe_is_gone(probe);
        }
    }
    let grant = lane.grant(now, wanted);
    let wait = (grant.permits < wanted).then(|| {
        let until = grant.wake_at.map(|at| at.saturating_duration_since(now));
        until.unwrap_or(PAUSE_FOR_AN_END).max(pause_min)
    });
    // Time that passed without a request is looked at by whoever asks next.
    let changed = grant.permits > 0 || was != lane.is_closed() || locked.is_ahead;
    Ok(Grant { count: grant.permits, wait, locked: Some(locked), changed })
}

/// Keeps the lanes with what left; returns them as they are now.
pub(super) async fn keep(
    session: &mut Session,
    grants: HashMap<LaneId, Grant>,
) -> Result<Vec<(LaneId, Lane)>, QueueError> {
    let (mut lanes, mut texts, mut times) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = Vec::new();
    for (id, grant) in grants {
        let Some(Locked { lane, now_ms, now, .. }) = grant.locked else { continue };
        if grant.changed {
            lanes.push(id.0);
            texts.push(lane.keep(now));
            times.push(now_ms);
        }
        seen.push((id, lane));
    }
    if !lanes.is_empty() {
        let keep = sqlx::query(KEEP).bind(lanes).bind(texts).bind(times);
        keep.execute(&mut session.conn).await.doing("keeping a lane")?;
    }
    Ok(seen)
}

/// A request ended with something that concerns all.
pub(super) async fn ended(session: &mut Session, end: &LaneEnd) -> Result<Option<Lane>, QueueError> {
    let what = "telling a lane";
    let lock = sqlx::query(LOCK).bind(vec![end.lane.0]).bind(session.now());
    let row = lock.fetch_one(&mut session.conn).await.doing(what)?;
    let mut locked = Locked::recall(&row, end.share)?;
    let sent_at: i64 =
        sqlx::query_scalar(SENT_AT).bind(end.attempt.0).fetch_one(&mut session.conn).await.doing(what)?;
    let sent = (number(end.attempt.0), locked.instant(sent_at));
    if matches!(end.end, End::Refused(_)) && locked.lane.is_news(sent.0, sent.1) {
        let log = sqlx::query(LOG).bind(end.lane.0).bind(locked.now_ms - LOG_MS).bind(LOG_MAX);
        let rows = log.fetch_all(&mut session.conn).await.doing(what)?;
        let log = rows.iter().map(|row| logged(row, &locked)).collect::<Result<Vec<_>, _>>()?;
        locked.lane.read_log(&log);
    }
    let Locked { mut lane, now_ms, now, .. } = locked;
    lane.ended_with(now, sent, end.end, &mut StdRng::seed_from_u64(end.seed));
    let keep = sqlx::query(KEEP).bind(vec![end.lane.0]).bind(vec![lane.keep(now)]).bind(vec![now_ms]);
    keep.execute(&mut session.conn).await.doing(what)?;
    Ok(Some(lane))
}

fn logged(row: &PgRow, locked: &Locked) -> Result<Logged, QueueError> {
    let attempt: i64 = get(row, "attempt")?;
    let ended_at: Option<i64> = get(row, "ended_at")?;
    Ok(Logged {
        number: number(attempt),
        sent_at: locked.instant(get(row, "sent_at")?),
        ended_at: ended_at.map(|at| locked.instant(at)),
        refused: get(row, "refused")?,
    })
}
