//! Lanes: found or made, what was learned about them, and how they are doing.

use rusqlite::{Connection, params};

use super::engine::Session;
use super::row::{Row, get, narrow, parsed};
use super::sql::Sql;
use crate::job::{LaneId, Timestamp, WorkerId};
use crate::queue::{KnownLimit, LaneKey, LaneNote, LaneRow, LaneState, LaneStateRow, QueueError};

const ADD: &str = "INSERT INTO lane (provider, model, key_id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
const FIND: &str = "
SELECT lane, per_minute, limit_source, confidence, in_flight_max, learned_at
FROM lane WHERE provider = ?1 AND model = ?2 AND key_id = ?3";

const LEARN: &str = "
UPDATE lane SET per_minute = ?2, limit_source = ?3, confidence = ?4, in_flight_max = ?5, learned_at = ?6
WHERE lane = ?1";
/// A worker that was declared dead has no lanes any more.
const NOTE: &str = "
INSERT INTO lane_state (worker, lane, sent_minute, per_minute, limit_source, in_flight, in_flight_max, opens_at, why)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 FROM worker WHERE worker = ?1 AND ended_at IS NULL
ON CONFLICT DO UPDATE SET sent_minute = excluded.sent_minute, per_minute = excluded.per_minute,
    limit_source = excluded.limit_source, in_flight = excluded.in_flight, in_flight_max = excluded.in_flight_max,
    opens_at = excluded.opens_at, why = excluded.why";
/// Of workers that have ended, however they did.
pub(super) const FORGET: &str =
    "DELETE FROM lane_state WHERE worker IN (SELECT worker FROM worker WHERE ended_at IS NOT NULL)";
const STATES: &str = "
SELECT s.worker, l.model, l.key_id, s.sent_minute, s.per_minute, s.limit_source, s.in_flight, s.in_flight_max,
       s.opens_at, s.why
FROM lane_state s CROSS JOIN worker w CROSS JOIN lane l
WHERE w.worker = s.worker AND w.ended_at IS NULL AND l.lane = s.lane ORDER BY l.model, l.key_id, s.worker";

pub(super) fn lane(session: &Session, key: &LaneKey) -> Result<LaneRow, QueueError> {
    let what = "looking for the lane";
    let names = params![key.provider.as_str(), key.model.as_str(), key.key_id];
    session.conn.run(what, ADD, names)?;
    session.conn.row(what, FIND, names, |row| {
        let known = match get::<Option<f64>>(row, "per_minute")? {
            None => None,
            Some(per_minute) => Some((
                KnownLimit {
                    per_minute,
                    source: parsed(row, "limit_source")?,
                    confidence: narrow(row, "confidence")?,
                    in_flight_max: narrow_or_none(row, "in_flight_max")?,
                },
                Timestamp::from_ms(get(row, "learned_at")?),
            )),
        };
        Ok(LaneRow { lane: LaneId(get(row, "lane")?), known })
    })
}

pub(super) fn note(session: &Session, worker: WorkerId, notes: Vec<LaneNote>) -> Result<(), QueueError> {
    let what = "noting how lanes are doing";
    let now = session.now();
    for LaneNote { lane, known, state } in notes {
        if let Some(known) = known {
            let source = known.source.as_str();
            let values =
                params![lane.0, known.per_minute, source, known.confidence, known.in_flight_max, now];
            session.conn.run(what, LEARN, values)?;
        }
        let (opens_at, why) = state.closed.map(|(until, why)| (until.as_ms(), why)).unzip();
        let values = params![
            worker.0,
            lane.0,
            state.sent_last_minute,
            state.per_minute,
            state.source.as_str(),
            state.in_flight,
            state.in_flight_max,
            opens_at,
            why
        ];
        session.conn.run(what, NOTE, values)?;
    }
    Ok(())
}

pub(super) fn states(conn: &Connection) -> Result<Vec<LaneStateRow>, QueueError> {
    conn.rows("reading how lanes are doing", STATES, &[], |row| {
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
}

fn narrow_or_none(row: &Row, column: &'static str) -> Result<Option<u32>, QueueError> {
    match get::<Option<i64>>(row, column)? {
        None => Ok(None),
        Some(_) => narrow(row, column).map(Some),
    }
}
