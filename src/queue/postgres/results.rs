//! Where a batch's results go, and whose leavings they may be.

use super::fault::Doing;
use super::session::Session;
use crate::queue::QueueError;

/// $1 batch.
const RESULTS: &str = "SELECT results FROM batch WHERE batch = $1";
/// Decided once, and by the first result at the latest. $1 batch, $2 the place.
const DECIDE: &str = "
UPDATE batch SET results = $2 WHERE batch = $1 AND results IS NULL
  AND NOT EXISTS (SELECT 1 FROM output o WHERE o.batch = $1)";
/// $1 batch, $2 tokens.
const ENDED: &str = "SELECT token FROM worker WHERE batch = $1 AND token = ANY($2) AND ended_at IS NOT NULL";

pub(super) async fn results(session: &mut Session) -> Result<Option<String>, QueueError> {
    let found = sqlx::query_scalar(RESULTS).bind(session.batch);
    found.fetch_one(&mut session.conn).await.doing("looking where results go")
}

pub(super) async fn decide(session: &mut Session, place: &str) -> Result<Option<String>, QueueError> {
    let decide = sqlx::query(DECIDE).bind(session.batch).bind(place.to_owned());
    decide.execute(&mut session.conn).await.doing("deciding where results go")?;
    results(session).await
}

pub(super) async fn ended(session: &mut Session, tokens: &[String]) -> Result<Vec<String>, QueueError> {
    let ended = sqlx::query_scalar(ENDED).bind(session.batch).bind(tokens);
    ended.fetch_all(&mut session.conn).await.doing("looking for workers that have ended")
}
