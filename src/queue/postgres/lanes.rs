//! Lanes: found or made, what was learned about them, and how they are doing.

use super::fault::{Doing, get, narrow, narrow_or_none, parsed, storable};
use super::session::Session;
use crate::job::{LaneId, Timestamp, WorkerId};
use crate::queue::{KnownLimit, LaneKey, LaneNote, LaneRow, LaneState, LaneStateRow, QueueError};

const ADD: &str = "INSERT INTO lane (provider, model, key_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
const FIND: &str = "
SELECT lane, per_minute, limit_source, confidence, in_flight_max, learned_at
FROM lane WHERE provider = $1 AND model = $2 AND key_id = $3";

/// A lane that is shared is kept as it is (`kept`), and what one of its workers last saw of it is older.
const LEARN: &str = "
UPDATE lane SET per_minute = $2, limit_source = $3, confidence = $4, in_flight_max = $5, learned_at = now_ms($6)
WHERE lane = $1 AND kept IS NULL";
/// A worker that was declared dead has no lanes any more.
const NOTE: &str = "
INSERT INTO lane_state (worker, lane, sent_minute, per_minute, limit_source, in_flight, in_flight_max, opens_at, why)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 FROM worker WHERE worker = $1 AND ended_at IS NULL
ON CONFLICT (worker, lane) DO UPDATE SET sent_minute = excluded.sent_minute, per_minute = excluded.per_minute,
    limit_source = excluded.limit_source, in_flight = excluded.in_flight, in_flight_max = excluded.in_flight_max,
    opens_at = excluded.opens_at, why = excluded.why";
/// Of workers that have ended, however they did. $1 batch.
const FORGET: &str = "
DELETE FROM lane_state s USING worker w WHERE w.worker = s.worker AND w.batch = $1 AND w.ended_at IS NOT NULL";
/// $1 batch.
const STATES: &str = "
SELECT s.worker, l.model, l.key_id, s.sent_minute, s.per_minute, s.limit_source, s.in_flight, s.in_flight_max,
       s.opens_at, s.why
FROM worker w JOIN lane_state s ON s.worker = w.worker JOIN lane l ON l.lane = s.lane
WHERE w.batch = $1 AND w.ended_at IS NULL ORDER BY l.model, l.key_id, s.worker";

pub(super) async fn lane(session: &mut Session, key: &LaneKey) -> Result<LaneRow, QueueError> {
    let what = "looking for the lane";
    let (provider, model) = (key.provider.as_str(), key.model.as_str().to_owned());
    let find = || sqlx::query(FIND).bind(provider).bind(model.clone()).bind(key.key_id.clone());
    let found = find().fetch_optional(&mut session.conn).await.doing(what)?;
    let row = if let Some(row) = found {
        row
    } else {
        let add = sqlx::query(ADD).bind(provider).bind(model.clone()).bind(key.key_id.clone());
        add.execute(&mut session.conn).await.doing(what)?;
        find().fetch_one(&mut session.conn).await.doing(what)?
    };
    let known = match get::<Option<f64>>(&row, "per_minute")? {
        None => None,
        Some(per_minute) => Some((
            KnownLimit {
                per_minute,
                source: parsed(&row, "limit_source")?,
                confidence: narrow(&row, "confidence")?,
                in_flight_max: narrow_or_none(&row, "in_flight_max")?,
            },
            Timestamp::from_ms(get(&row, "learned_at")?),
        )),
    };
    Ok(LaneRow { lane: LaneId(get(&row, "lane")?), known })
}

pub(super) async fn note(
    session: &mut Session,
    worker: WorkerId,
    notes: &[LaneNote],
) -> Result<(), QueueError> {
    let what = "noting how lanes are doing";
    let now = session.now();
    // In one order for all, since lanes are shared.
    let mut notes: Vec<&LaneNote> = notes.iter().collect();
    notes.sort_by_key(|note| note.lane);
    for LaneNote { lane, known, state } in notes {
        if let Some(known) = known {
            let learn = sqlx::query(LEARN)
                .bind(lane.0)
                .bind(known.per_minute)
                .bind(known.source.as_str())
                .bind(i64::from(known.confidence))
                .bind(known.in_flight_max.map(i64::from))
                .bind(now);
            learn.execute(&mut session.conn).await.doing(what)?;
        }
        let closed = state.closed.as_ref();
        let note = sqlx::query(NOTE)
            .bind(worker.0)
            .bind(lane.0)
            .bind(i64::from(state.sent_last_minute))
            .bind(state.per_minute)
            .bind(state.source.as_str())
            .bind(i64::from(state.in_flight))
            .bind(i64::from(state.in_flight_max))
            .bind(closed.map(|(until, _)| until.as_ms()))
            .bind(storable(closed.map(|(_, why)| why.as_str())));
        note.execute(&mut session.conn).await.doing(what)?;
    }
    Ok(())
}

pub(super) async fn forget(session: &mut Session) -> Result<(), QueueError> {
    let forget = sqlx::query(FORGET).bind(session.batch);
    forget.execute(&mut session.conn).await.doing("forgetting lanes").map(drop)
}

pub(super) async fn states(session: &mut Session) -> Result<Vec<LaneStateRow>, QueueError> {
    let rows = sqlx::query(STATES).bind(session.batch).fetch_all(&mut session.conn).await;
    rows.doing("reading how lanes are doing")?
        .iter()
        .map(|row| {
            let opens_at: Option<i64> = get(row, "opens_at")?;
            let why: Option<String> = get(row, "why")?;
            Ok(LaneStateRow {
                worker: WorkerId(get(row, "worker")?),
                model: get(row, "model")?,
                key_id: get(row, "key_id")?,
                state: LaneState {
                    sent_last_minute: narrow(row, "sent_minute")?,
                    per_minute: get(row, "per_minute")?,
                    source: parsed(row, "limit_source")?,
                    in_flight: narrow(row, "in_flight")?,
                    in_flight_max: narrow(row, "in_flight_max")?,
                    closed: opens_at.map(|at| (Timestamp::from_ms(at), why.unwrap_or_default())),
                },
            })
        })
        .collect()
}
