//! How a transaction ended whose commit was not answered. The server knows it by its number, as long as it is the
//! server that gave the number.

use sqlx::postgres::PgConnection;

use super::fault::{Doing, state_of};
use super::session::Session;
use crate::queue::QueueError;

/// $1 the transaction.
const STATUS: &str = "SELECT pg_xact_status($1::text::xid8) AS status";
/// What `STATUS` says of a number that was not given yet: 22023, `invalid_parameter_value`.
const NOT_GIVEN_YET: &str = "22023";
/// Which database cluster this is, and which of its histories: a standby that is promoted begins another one.
const HISTORY: &str = "
SELECT CASE WHEN NOT pg_is_in_recovery() THEN
    (SELECT system_identifier::text FROM pg_control_system()) || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) END";

/// A transaction as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) number: String,
    /// The history that the number is of; `None` where the server does not tell.
    pub(super) history: Option<String>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    Undone,
    /// The server has not noticed yet that we are gone.
    Open,
    /// The number is another server's, which may have given it to somebody else.
    Unknown,
}

/// The history that a connection sees; `None` where asking is refused, as some hosters do.
pub(super) async fn history(conn: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    match sqlx::query_scalar(HISTORY).fetch_one(conn).await {
        Err(sqlx::Error::Database(error)) => {
            tracing::debug!(error = error.to_string(), "the server does not tell its history");
            Ok(None)
        }
        history => history,
    }
}

/// Asks how a transaction ended.
pub(super) async fn ask(session: &mut Session, of: &Transaction) -> Result<Fate, QueueError> {
    let asked = sqlx::query_scalar(STATUS).bind(of.number.clone()).fetch_one(&mut session.conn).await;
    let asked: Result<Option<String>, _> = asked.doing("asking for a commit");
    match asked {
        Ok(status) => Ok(judge(status.as_deref(), session.history == of.history)),
        Err(error) if state_of(&error).is_some_and(|state| state == NOT_GIVEN_YET) => Ok(Fate::Undone),
        Err(error) => Err(error),
    }
}

/// In another history the number may have been given again, since the end of the old one is missing there. What is
/// not committed there was not ours, or ours was undone; what is committed may be either's.
fn judge(status: Option<&str>, is_same_history: bool) -> Fate {
    match (status, is_same_history) {
        (Some("committed"), true) => Fate::Committed,
        (Some("in progress"), true) => Fate::Open,
        (Some("aborted"), _) | (Some("in progress"), false) => Fate::Undone,
        // None: so old that the server has forgotten it.
        (Some(_) | None, _) => Fate::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_in_another_history_may_be_somebody_elses() {
        assert_eq!(judge(Some("committed"), true), Fate::Committed);
        assert_eq!(judge(Some("committed"), false), Fate::Unknown);
        assert_eq!(judge(Some("in progress"), true), Fate::Open);
        assert_eq!(judge(Some("in progress"), false), Fate::Undone);
        for is_same_history in [true, false] {
            assert_eq!(judge(Some("aborted"), is_same_history), Fate::Undone);
            assert_eq!(judge(None, is_same_history), Fate::Unknown, "too old to be known");
        }
    }
}
