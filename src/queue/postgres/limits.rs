//! Limits that the workers of a lane share: when the next request of any of them may leave.
//!
//! A lane's row holds one point in time, `next_at`, that each request moves on by the gap that the limit
//! leaves (generic cell rate). Whoever claims takes what is due at that moment; so the total is that of one
//! worker, however many there are, and who joins or dies changes nothing. It costs one statement a claim, in
//! the transaction of the claim: a request that was not granted was not written, and one that was not written
//! is not sent, also while the database is away.

use std::collections::HashMap;
use std::time::Duration;

use super::fault::{Doing, get, narrow};
use super::link::Session;
use crate::job::LaneId;
use crate::queue::{Permits, QueueError};

/// A minute as the requests are spread over it: a little longer than the provider's, since what leaves evenly
/// arrives unevenly. With [`LATENESS_MS`] on top of a minute it is still longer, so that no 60 s ever hold
/// more than the limit.
const MINUTE_MS: f64 = 60_750.0;
/// What should have left in this time may leave at once: claims are late.
const LATENESS_MS: f64 = 500.0;
/// After a cooldown one request goes first, and the others follow when its refusal would have come.
const PROBE_MS: f64 = 2_000.0;

/// $1 lane, $2 wanted, $3 gap in ms, $4 now, $5 lateness, $6 the time of a probe. A `next_at` that lies further
/// ahead than any request moves it was written before the clock went back.
const GRANT: &str = "
UPDATE lane SET (granted, next_at, closed_until) = (
    SELECT g.n,
           CASE WHEN g.n = 0 THEN g.next_at
                WHEN lane.closed_until > 0 THEN t.now + greatest($6, coalesce($3, 0))
                WHEN $3 IS NULL THEN g.next_at
                ELSE greatest(g.next_at, t.now - $5) + g.n * $3 END,
           CASE WHEN lane.closed_until > t.now THEN lane.closed_until ELSE 0 END
    FROM (SELECT p.next_at,
                 CASE WHEN lane.closed_until > t.now THEN 0
                      WHEN lane.closed_until > 0 THEN least($2, 1)
                      WHEN p.next_at > t.now THEN 0
                      WHEN $3 IS NULL THEN $2
                      ELSE least($2, floor((t.now - greatest(p.next_at, t.now - $5)) / $3)::bigint + 1) END AS n
          FROM (SELECT CASE WHEN lane.next_at > t.now + greatest($6, coalesce($3, 0)) THEN t.now
                            ELSE lane.next_at END AS next_at) p) g)
FROM (SELECT now_ms($4)::double precision AS now) t
WHERE lane.lane = $1
RETURNING granted, ceil(greatest(next_at, closed_until::double precision) - t.now)::bigint AS wait_ms";

/// What was granted and not used is given back. $1 lane, $2 time.
const GIVE_BACK: &str = "UPDATE lane SET next_at = next_at - $2 WHERE lane = $1";

/// $1 lane, $2 how long, $3 now.
const CLOSE: &str = "UPDATE lane SET closed_until = greatest(closed_until, now_ms($3) + $2) WHERE lane = $1";

/// What a lane gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    pub(super) count: u32,
    /// When there may be more, where it is less than was wanted.
    pub(super) wait: Option<Duration>,
    gap_ms: Option<f64>,
}

/// Asks the lanes, always in the same order, so that two workers never wait for each other.
pub(super) async fn grant(
    session: &mut Session,
    permits: &[Permits],
) -> Result<HashMap<LaneId, Grant>, QueueError> {
    let mut permits: Vec<&Permits> = permits.iter().filter(|one| one.count > 0).collect();
    permits.sort_by_key(|one| one.lane);
    let now = session.now();
    let mut grants = HashMap::new();
    for one in permits {
        let gap_ms = one.per_minute.map(|limit| MINUTE_MS / f64::from(limit.max(1)));
        let ask = sqlx::query(GRANT).bind(one.lane.0).bind(i64::from(one.count)).bind(gap_ms).bind(now);
        let ask = ask.bind(LATENESS_MS).bind(PROBE_MS);
        let row = ask.fetch_one(&mut session.conn).await.doing("asking a lane")?;
        let count = narrow(&row, "granted")?;
        let wait_ms: i64 = get(&row, "wait_ms")?;
        let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0).max(1));
        grants.insert(one.lane, Grant { count, wait: (count < one.count).then_some(wait), gap_ms });
    }
    Ok(grants)
}

/// Gives back what was granted and found no job.
pub(super) async fn give_back(
    session: &mut Session,
    lane: LaneId,
    (grant, unused): (Grant, u32),
) -> Result<(), QueueError> {
    let Some(gap_ms) = grant.gap_ms.filter(|_| unused > 0) else { return Ok(()) };
    let give = sqlx::query(GIVE_BACK).bind(lane.0).bind(gap_ms * f64::from(unused));
    give.execute(&mut session.conn).await.doing("giving permits back").map(drop)
}

/// Nothing leaves for so long.
pub(super) async fn close(session: &mut Session, lane: LaneId, for_: Duration) -> Result<(), QueueError> {
    let ms = i64::try_from(for_.as_millis()).unwrap_or(i64::MAX / 2);
    let close = sqlx::query(CLOSE).bind(lane.0).bind(ms).bind(session.now());
    close.execute(&mut session.conn).await.doing("closing a lane").map(drop)
}
