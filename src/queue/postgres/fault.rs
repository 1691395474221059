//! From the server's errors to the queue's, by SQLSTATE and never by their text.

use std::borrow::Cow;
use std::sync::Arc;

use sqlx::postgres::{PgDatabaseError, PgRow};
use sqlx::{Decode, Postgres, Row, Type};

use super::address::Address;
use crate::queue::{EngineError, QueueError};

/// Only one of the planned files may have a name: who comes second chooses again.
const PLANNED_KEY: &str = "output_planned_key";

/// What can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// The server is gone, restarts or has no room: it will be back.
    Away,
    /// Another transaction was in the way; the same again may well succeed.
    Again,
    /// Another transaction holds a lock, for as long as it takes.
    Locked,
    /// No other try will do better.
    Final,
}

/// SQLSTATEs (postgresql.org/docs/current/errcodes-appendix.html, read 2026-11): what a server says that
/// stops, starts, follows another one or has no connection left.
const AWAY: &[&str] = &["57P01", "57P02", "57P03", "57P05", "53300", "25P03", READ_ONLY, "72000"];
/// Deadlocks, serialisation, a statement that took too long.
const AGAIN: &[&str] = &["40001", "40P01", "57014"];
const LOCKED: &str = "55P03";
const READ_ONLY: &str = "25006";
/// What cannot be written: a full disk, a broken one, a connection that only reads.
const UNWRITABLE: &[&str] = &["53100", "58030", READ_ONLY];

pub(super) fn nature(error: &sqlx::Error) -> Nature {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => Nature::Away,
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            let is_planned_key = code == "23505"
                && error
                    .try_downcast_ref::<PgDatabaseError>()
                    .is_some_and(|error| error.constraint() == Some(PLANNED_KEY));
            if code.starts_with("08") || AWAY.contains(&code.as_ref()) {
                Nature::Away
            } else if code == LOCKED {
                Nature::Locked
            } else if is_planned_key || AGAIN.contains(&code.as_ref()) {
                Nature::Again
            } else {
                Nature::Final
            }
        }
        _ => Nature::Final,
    }
}

/// The nature of an error that a statement was answered with.
pub(super) fn nature_of(error: &QueueError) -> Nature {
    match error {
        QueueError::Engine { source, .. } | QueueError::Disk { source, .. } => {
            source.downcast_ref().map_or(Nature::Final, nature)
        }
        _ => Nature::Final,
    }
}

/// Nobody can tell any more whether a commit happened: the server that knew was replaced.
pub(super) fn unknown_commit() -> QueueError {
    let why = "another server took over, and the old one may have taken the commit with it; start again";
    QueueError::Engine { what: "asking for a commit", source: Arc::new(std::io::Error::other(why)) }
}

/// A server that does not answer is as good as away.
pub(super) fn no_answer() -> QueueError {
    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "the server does not answer");
    QueueError::Engine { what: "waiting for the server", source: Arc::new(sqlx::Error::Io(error)) }
}

/// The same for a person, where the server did not let us in: into which database, and what to do.
pub(super) fn at_the_door(error: QueueError, address: &Address) -> QueueError {
    let hint = match state_of(&error).as_deref() {
        Some("28P01") => "look at the password, in PGPASSWORD or ~/.pgpass",
        Some("28000") => "look at the user, and at the server's pg_hba.conf",
        Some("3D000") => "make it with `createdb`, or name another one",
        _ => return error,
    };
    let (QueueError::Engine { source, .. } | QueueError::Disk { source, .. }) = &error else { return error };
    let said = source.downcast_ref().and_then(sqlx::Error::as_database_error);
    let said = said.map_or_else(|| source.to_string(), |error| error.message().to_owned());
    QueueError::NotLetIn { at: address.to_string(), why: format!("{said}; {hint}") }
}

/// Whether the server refused to write.
pub(super) fn is_read_only(error: &QueueError) -> bool {
    state_of(error).is_some_and(|state| state == READ_ONLY)
}

/// The SQLSTATE that the server answered with.
pub(super) fn state_of(error: &QueueError) -> Option<Cow<'_, str>> {
    let (QueueError::Engine { source, .. } | QueueError::Disk { source, .. }) = error else { return None };
    source.downcast_ref().and_then(sqlx::Error::as_database_error).and_then(sqlx::error::DatabaseError::code)
}

/// Says what was being done when the server failed.
pub(super) trait Doing<T> {
    /// `what` continues "the queue failed while …".
    fn doing(self, what: &'static str) -> Result<T, QueueError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, what: &'static str) -> Result<T, QueueError> {
        self.map_err(|source| {
            let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
            let is_disk = code.is_some_and(|code| UNWRITABLE.contains(&code.as_ref()));
            let source: EngineError = Arc::new(source);
            if is_disk { QueueError::Disk { what, source } } else { QueueError::Engine { what, source } }
        })
    }
}

/// Reads a column of a row.
pub(super) fn get<'r, T>(row: &'r PgRow, column: &'static str) -> Result<T, QueueError>
where
    T: Decode<'r, Postgres> + Type<Postgres>,
{
    row.try_get(column).map_err(|error| QueueError::Broken { what: column, detail: error.to_string() })
}

/// Reads a column whose text is a value of ours.
pub(super) fn parsed<T>(row: &PgRow, column: &'static str) -> Result<T, QueueError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let text: &str = get(row, column)?;
    text.parse().map_err(|error: T::Err| QueueError::Broken { what: column, detail: error.to_string() })
}

/// Reads a column that counts something.
pub(super) fn count(row: &PgRow, column: &'static str) -> Result<u64, QueueError> {
    narrow(row, column)
}

/// Reads a column that counts something or is empty.
pub(super) fn count_or_none(row: &PgRow, column: &'static str) -> Result<Option<u64>, QueueError> {
    narrow_or_none(row, column)
}

/// Reads a column that fits another kind of number.
pub(super) fn narrow<T: TryFrom<i64>>(row: &PgRow, column: &'static str) -> Result<T, QueueError> {
    fit(get(row, column)?, column)
}

/// As [`narrow`] where there may be none.
pub(super) fn narrow_or_none<T: TryFrom<i64>>(
    row: &PgRow,
    column: &'static str,
) -> Result<Option<T>, QueueError> {
    get::<Option<i64>>(row, column)?.map(|n| fit(n, column)).transpose()
}

fn fit<T: TryFrom<i64>>(n: i64, column: &'static str) -> Result<T, QueueError> {
    T::try_from(n).map_err(|_| QueueError::Broken { what: column, detail: format!("{n} is out of range") })
}

/// A number of ours as the server keeps it. Numbers above 2^63 do not occur; they would be cut there.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Text of a provider as the server takes it: PostgreSQL knows no NUL in text.
pub(super) fn storable(text: Option<&str>) -> Option<String> {
    text.map(|text| text.replace('\0', "\u{fffd}"))
}
