//! From the engine's errors to the queue's, by their result code and never by their text.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;

use crate::queue::{EngineError, QueueError};

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

/// What SQLite said, with its extended result code (sqlite.org/rescode.html, read 2026-11). Its chain of causes
/// says the same again, and some of its errors quote the whole statement.
#[derive(Debug, thiserror::Error)]
enum Said {
    #[error("{message} (code {code})")]
    Sqlite { message: String, code: i32 },
    #[error("{0}")]
    Driver(String),
}

impl Said {
    fn of(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(cause, message) => Self::Sqlite {
                message: message.unwrap_or_else(|| cause.to_string()),
                code: cause.extended_code,
            },
            rusqlite::Error::SqlInputError { error, msg, .. } => {
                Self::Sqlite { message: msg, code: error.extended_code }
            }
            other => Self::Driver(other.to_string()),
        }
    }
}

fn classify(what: &'static str, error: rusqlite::Error) -> QueueError {
    let code = error.sqlite_error_code();
    let source: EngineError = Arc::new(Said::of(error));
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
