//! From the engine's errors to the queue's, by their result code and never by their text.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};

use crate::queue::QueueError;

/// How long another program's lock is waited for. Longer than a load of a million jobs takes.
pub(super) const BUSY_WAIT: Duration = Duration::from_mins(1);

/// Primary result codes (sqlite.org/rescode.html, read 2026-11); an extended code carries them
/// in its low byte.
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const NOTADB: i32 = 26;

/// Says what was being done when the engine failed.
pub(super) trait Doing<T> {
    /// `what` continues "the queue failed while …".
    fn doing(self, what: &'static str) -> Result<T, QueueError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, what: &'static str) -> Result<T, QueueError> {
        self.map_err(|source| classify(what, source))
    }
}

/// The primary result code, if the error is SQLite's own.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}

pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(primary_code(error), Some(BUSY | LOCKED))
}

fn classify(what: &'static str, source: sqlx::Error) -> QueueError {
    let code = primary_code(&source);
    let disk = matches!(&source, sqlx::Error::Io(_));
    let source = Arc::new(source);
    match code {
        Some(BUSY | LOCKED) => QueueError::Locked { waited_s: BUSY_WAIT.as_secs() },
        Some(READONLY | IOERR | FULL | CANTOPEN) => QueueError::Disk { what, source },
        // The path is filled in where it is known: see `located`.
        Some(CORRUPT | NOTADB) => QueueError::Corrupt { path: String::new(), source },
        _ if disk => QueueError::Disk { what, source },
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

/// Reads a column of a row; `what` names table and column for the error.
pub(super) fn get<'r, T>(row: &'r SqliteRow, column: &'static str) -> Result<T, QueueError>
where
    T: Decode<'r, Sqlite> + Type<Sqlite>,
{
    row.try_get(column).map_err(|error| QueueError::Broken { what: column, detail: error.to_string() })
}

/// Reads a column whose text is a value of ours.
pub(super) fn parsed<T>(row: &SqliteRow, column: &'static str) -> Result<T, QueueError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    let text: &str = get(row, column)?;
    text.parse().map_err(|error: T::Err| QueueError::Broken { what: column, detail: error.to_string() })
}

/// Reads a column that counts something.
pub(super) fn count(row: &SqliteRow, column: &'static str) -> Result<u64, QueueError> {
    let n: i64 = get(row, column)?;
    unsigned(n, column)
}

/// Reads a column that counts something or is empty.
pub(super) fn count_or_none(row: &SqliteRow, column: &'static str) -> Result<Option<u64>, QueueError> {
    let n: Option<i64> = get(row, column)?;
    n.map(|n| unsigned(n, column)).transpose()
}

/// Reads a column that fits a narrower number.
pub(super) fn narrow<T: TryFrom<i64>>(row: &SqliteRow, column: &'static str) -> Result<T, QueueError> {
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
