//! From the engine's errors to the queue's, by their result code and never by their text.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::FromSql;
use rusqlite::{ErrorCode, Row};

use crate::queue::QueueError;

/// How long another program's lock is waited for. Longer than a load of a million jobs takes.
pub(super) const BUSY_WAIT: Duration = Duration::from_mins(1);

/// Says what was being done when the engine failed.
pub(super) trait Doing<T> {
    /// `what` continues "the queue failed while …".
    fn doing(self, what: &'static str) -> Result<T, QueueError>;
}

impl<T> Doing<T> for Result<T, rusqlite::Error> {
    fn doing(self, what: &'static str) -> Result<T, QueueError> {
        self.map_err(|source| classify(what, source))
    }
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn classify(what: &'static str, source: rusqlite::Error) -> QueueError {
    let code = source.sqlite_error_code();
    let source: Arc<rusqlite::Error> = Arc::new(source);
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            QueueError::Locked { waited_s: BUSY_WAIT.as_secs() }
        }
        Some(
            ErrorCode::ReadOnly | ErrorCode::SystemIoFailure | ErrorCode::DiskFull | ErrorCode::CannotOpen,
        ) => QueueError::Disk { what, source },
        // The path is filled in where it is known: see `located`.
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            QueueError::Corrupt { path: String::new(), source }
        }
        _ => QueueError::Engine { what, source },
    }
}

/// Adds the database's path to an error that names it.
pub(super) fn located(error: QueueError, at: &Path) -> QueueError {
    match error {
        QueueError::Corrupt { path, source } if path.is_empty() => {
            QueueError::Corrupt { path: at.display().to_string(), source }
        }
        other => other,
    }
}

/// Reads a column of a row; `column` names it for the error too.
pub(super) fn get<T: FromSql>(row: &Row, column: &'static str) -> Result<T, QueueError> {
    row.get(column).map_err(|error| QueueError::Broken { what: column, detail: error.to_string() })
}

/// Reads a column of text where it stands.
pub(super) fn text<'r>(row: &'r Row, column: &'static str) -> Result<&'r str, QueueError> {
    let broken = |detail| QueueError::Broken { what: column, detail };
    let value = row.get_ref(column).map_err(|error| broken(error.to_string()))?;
    value.as_str().map_err(|error| broken(error.to_string()))
}

/// Reads a column whose text is a value of ours.
pub(super) fn parsed<T>(row: &Row, column: &'static str) -> Result<T, QueueError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text(row, column)?
        .parse()
        .map_err(|error: T::Err| QueueError::Broken { what: column, detail: error.to_string() })
}

/// Reads a column that counts something.
pub(super) fn count(row: &Row, column: &'static str) -> Result<u64, QueueError> {
    unsigned(get(row, column)?, column)
}

/// Reads a column that counts something or is empty.
pub(super) fn count_or_none(row: &Row, column: &'static str) -> Result<Option<u64>, QueueError> {
    let n: Option<i64> = get(row, column)?;
    n.map(|n| unsigned(n, column)).transpose()
}

/// Reads a column that fits a narrower number.
pub(super) fn narrow<T: TryFrom<i64>>(row: &Row, column: &'static str) -> Result<T, QueueError> {
    let n: i64 = get(row, column)?;
    T::try_from(n).map_err(|_| QueueError::Broken { what: column, detail: format!("{n} is out of range") })
}

fn unsigned(n: i64, column: &'static str) -> Result<u64, QueueError> {
    u64::try_from(n).map_err(|_| QueueError::Broken { what: column, detail: format!("{n} is negative") })
}

/// A number of ours as SQLite keeps it. Numbers above 2^63 do not occur; they would be cut there.
pub(super) fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
