//! Connections that only read, beside the one that writes: they see what is committed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::fault::Doing;
use super::open;
use crate::queue::QueueError;

/// Most of them at once; who comes later waits.
const READERS_MAX: u32 = 3;

/// Made when they are first needed, kept for the next one.
#[derive(Debug, Clone)]
pub(super) struct Readers {
    free: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
    path: Arc<Path>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        let turns = Arc::new(Semaphore::new(READERS_MAX as usize));
        Self { free: Arc::default(), turns, path: path.into() }
    }

    /// Runs `work` on one state of the database, off the async threads. Dropping it drops nothing but the
    /// answer.
    pub(super) async fn read<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, QueueError> + Send + 'static,
    {
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else { return Err(QueueError::Closed) };
        let readers = self.clone();
        off_thread(move || {
            let conn = match readers.take() {
                Some(conn) => conn,
                None => open::reader(&readers.path)?,
            };
            let answer = in_transaction(&conn, work);
            // One that met an error may not be as it was.
            if answer.is_ok() && conn.is_autocommit() {
                readers.put(conn);
            }
            drop(turn);
            answer
        })
        .await
    }

    /// Waits for those who read, and closes.
    pub(super) async fn close(&self) {
        // It fails only where somebody else has closed it already.
        let _turns = self.turns.acquire_many(READERS_MAX).await;
        self.turns.close();
        self.free.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn take(&self) -> Option<Connection> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put(&self, conn: Connection) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
    }
}

/// Runs `step` where it may block, to its end even when the future is dropped.
pub(super) async fn off_thread<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, QueueError> + Send + 'static,
) -> Result<T, QueueError> {
    match tokio::task::spawn_blocking(step).await {
        Ok(answer) => answer,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(QueueError::Closed),
    }
}

fn in_transaction<T>(
    conn: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, QueueError>,
) -> Result<T, QueueError> {
    let what = "reading the queue";
    let transaction = conn.unchecked_transaction().doing(what)?;
    let answer = work(&transaction)?;
    transaction.commit().doing(what)?;
    Ok(answer)
}
