//! The engine: a thread of its own, the only one that writes.
//!
//! Callers send commands; the thread takes all that are ready, runs them in one transaction and
//! answers when it is committed (group commit). An idle queue commits a single command at once, and what
//! comes while one is committed is the next group. A command that fails is undone alone, by its savepoint.
//! Nothing here is stopped by a caller that goes away.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::group::{Command, Group, Work};
use crate::job::{Clock, Epoch, JobId};
use crate::queue::{ClaimRequest, Claimed, Publication, QueueError, Settlement};

/// Most commands in one transaction: bounds how long the first of them waits.
const COMMANDS_PER_COMMIT_MAX: usize = 256;
/// Most commands that wait for the engine; callers beyond it wait for their turn.
const COMMANDS_WAITING_MAX: usize = 1024;

/// The writing connection and what every statement needs.
pub(super) struct Session {
    pub(super) conn: Connection,
    pub(super) batch: i64,
    pub(super) path: PathBuf,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(conn: Connection, batch: i64, path: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { conn, batch, path, clock }
    }

    /// The engine's clock, in milliseconds since the Unix epoch.
    pub(super) fn now(&self) -> i64 {
        self.clock.now().as_ms()
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }
}

/// The callers' end.
#[derive(Debug, Clone)]
pub(super) struct Commands(mpsc::Sender<Command>);

impl Commands {
    /// Runs `work` in a transaction of the engine and answers when it is committed.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&Session) -> Result<T, QueueError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Work(Box::new(Work { work, reply })), answer).await
    }

    pub(super) async fn settle(&self, settlement: Settlement) -> Result<Publication, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Settle(Box::new(settlement), reply), answer).await
    }

    pub(super) async fn published(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Published((job, epoch), reply), answer).await
    }

    pub(super) async fn claim(&self, request: ClaimRequest) -> Result<Claimed, QueueError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Claim(Box::new(request), reply), answer).await
    }

    /// Asks the engine to end after what is already waiting, and waits until it has.
    pub(super) async fn close(&self) {
        drop(self.0.send(Command::Close).await);
        self.0.closed().await;
    }

    async fn send<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        self.0.send(command).await.map_err(|_| QueueError::Closed)?;
        answer.await.map_err(|_| QueueError::Closed)?
    }
}

/// The channel between callers and engine.
pub(super) fn channel() -> (Commands, Inbox) {
    let (sender, receiver) = mpsc::channel(COMMANDS_WAITING_MAX);
    (Commands(sender), Inbox(receiver))
}

/// The engine's end.
pub(super) struct Inbox(mpsc::Receiver<Command>);

/// Works until all callers are gone or one of them closes the queue.
pub(super) fn serve(session: Session, mut inbox: Inbox) {
    let mut closing = false;
    while !closing && let Some(first) = inbox.0.blocking_recv() {
        let mut group = Group::default();
        group.push(first);
        while group.len < COMMANDS_PER_COMMIT_MAX
            && let Ok(next) = inbox.0.try_recv()
        {
            group.push(next);
        }
        closing = group.close;
        if !group.is_empty() {
            group.commit(&session);
        }
    }
    end(session);
    // Only now do those who wait for the end see it: see `Commands::close`.
    drop(inbox);
}

/// Folds the write-ahead log into the database, so that the run folder holds one file. Where
/// another process still reads or writes, it will do so when it ends; nobody waits for that.
fn end(session: Session) {
    let conn = session.conn;
    let folded = conn
        .busy_timeout(Duration::ZERO)
        .and_then(|()| conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())));
    if let Err(error) = folded {
        tracing::debug!(%error, "the write-ahead log stays for the next start");
    }
    if let Err((_, error)) = conn.close() {
        tracing::debug!(%error, "the queue's connection did not close in order");
    }
}
