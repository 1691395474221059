//! What a queue is opened for, and whose it must be.

use crate::job::Provider;

/// What a queue is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To work on; made when it is not there.
    Create,
    /// To work on; [`super::QueueError::Missing`] when it is not there.
    Existing,
    /// To look at while others work on it, in whatever version: the schema stays as it is.
    /// [`super::QueueError::Missing`] when it is not there, [`super::QueueError::OlderSchema`] where this program would
    /// have to update it.
    Look,
    /// As `Look`, to compare with; staging and comparing work, all else that writes is [`super::QueueError::Disk`].
    /// Writes nothing below the run folder, not even the files beside the database that SQLite
    /// makes for its readers, unless another process left or holds a write-ahead log.
    /// [`super::QueueError::Missing`] when it is not there: compare with [`super::sqlite::SqliteQueue::in_memory`].
    ReadOnly,
}

/// Whose queue it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Of this manifest and provider; another one's is an error.
    Of {
        /// Relative to the run folder; `None` for standard input.
        manifest: Option<String>,
        /// Whom it is sent to.
        provider: Provider,
    },
    /// Whichever it is: for commands without a manifest.
    AsItIs,
}
