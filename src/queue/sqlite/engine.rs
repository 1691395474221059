//! The engine task: the only one that writes.
//!
//! Callers send commands; the task takes all that are ready, runs them in one transaction and
//! answers when it is committed (group commit). An idle queue commits a single command at once. A
//! command that fails is undone alone, by its savepoint. Nothing here is stopped by a caller that
//! goes away.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot};

use super::fault::{Doing, located};
use super::{claim, publish, settle};
use crate::job::{Clock, Epoch, JobId};
use crate::queue::{ClaimRequest, Claimed, Publication, QueueError, Settlement};

/// Most commands in one transaction: bounds how long the first of them waits.
const COMMANDS_PER_COMMIT_MAX: usize = 256;
/// Most commands that wait for the engine; callers beyond it wait for their turn.
const COMMANDS_WAITING_MAX: usize = 1024;

type Reply<T> = oneshot::Sender<Result<T, QueueError>>;

/// The writing connection and what every statement needs.
pub(super) struct Session {
    pub(super) conn: SqliteConnection,
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
    pub(super) fn new(conn: SqliteConnection, batch: i64, path: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self { conn, batch, path, clock }
    }

    /// The engine's clock, in milliseconds since the Unix epoch.
    pub(super) fn now(&self) -> i64 {
        self.clock.now().as_ms()
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// Runs statements that have no answer; several may stand in one text.
    pub(super) async fn run(&mut self, what: &'static str, sql: &'static str) -> Result<(), QueueError> {
        sqlx::query(sql).execute(&mut self.conn).await.doing(what).map(drop)
    }
}

/// A result that waits for the commit.
trait Answer: Send {
    fn succeeded(&self) -> bool;
    /// Sends it, or `failure` where the transaction did not hold.
    fn give(self: Box<Self>, failure: Option<QueueError>, session: &Session);
}

struct Held<T> {
    result: Result<T, QueueError>,
    reply: Reply<T>,
}

impl<T: Send> Answer for Held<T> {
    fn succeeded(&self) -> bool {
        self.result.is_ok()
    }

    fn give(self: Box<Self>, failure: Option<QueueError>, session: &Session) {
        let result = match failure {
            Some(failure) => Err(failure),
            None => self.result,
        };
        // A caller that has gone away does not want to know.
        drop(self.reply.send(result.map_err(|error| located(error, &session.path))));
    }
}

/// A command that is run by itself.
trait Task: Send {
    fn run<'s>(self: Box<Self>, session: &'s mut Session) -> BoxFuture<'s, Box<dyn Answer>>
    where
        Self: 's;
    /// Answers without having run.
    fn refuse(self: Box<Self>, failure: QueueError);
}

struct Work<F, T> {
    work: F,
    reply: Reply<T>,
}

impl<F, T> Task for Work<F, T>
where
    T: Send + 'static,
    F: for<'s> FnOnce(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send,
{
    fn run<'s>(self: Box<Self>, session: &'s mut Session) -> BoxFuture<'s, Box<dyn Answer>>
    where
        Self: 's,
    {
        Box::pin(async move {
            let result = (self.work)(session).await;
            Box::new(Held { result, reply: self.reply }) as Box<dyn Answer>
        })
    }

    fn refuse(self: Box<Self>, failure: QueueError) {
        drop(self.reply.send(Err(failure)));
    }
}

enum Command {
    /// Settlements, publications and claims come from many tasks at once and are worked off as sets.
    Settle(Box<Settlement>, Reply<Publication>),
    Published((JobId, Epoch), Reply<()>),
    Claim(Box<ClaimRequest>, Reply<Claimed>),
    Work(Box<dyn Task>),
    Close,
}

/// The callers' end.
#[derive(Debug, Clone)]
pub(super) struct Commands(mpsc::Sender<Command>);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settle(..) => "Settle",
            Self::Published(..) => "Published",
            Self::Claim(..) => "Claim",
            Self::Work(_) => "Work",
            Self::Close => "Close",
        })
    }
}

impl Commands {
    /// Runs `work` in a transaction of the engine and answers when it is committed.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: for<'s> FnOnce(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + 'static,
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

    /// Asks the engine to end after what is already waiting.
    pub(super) async fn close(&self) {
        drop(self.0.send(Command::Close).await);
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
pub(super) async fn serve(mut session: Session, mut inbox: Inbox) {
    while let Some(first) = inbox.0.recv().await {
        // Callers that are ready to run get to put their commands beside the first one. Costs
        // nothing when there are none.
        tokio::task::yield_now().await;
        let mut group = Group::default();
        group.push(first);
        while group.len < COMMANDS_PER_COMMIT_MAX
            && let Ok(next) = inbox.0.try_recv()
        {
            group.push(next);
        }
        if group.close {
            inbox.0.close();
        }
        if !group.is_empty() {
            group.commit(&mut session).await;
        }
    }
    end(session).await;
}

/// Folds the write-ahead log into the database, so that the run folder holds one file. Where
/// another process still reads or writes, it will do so when it ends; nobody waits for that.
async fn end(session: Session) {
    let mut conn = session.conn;
    if let Err(error) = sqlx::raw_sql("PRAGMA busy_timeout = 0").execute(&mut conn).await {
        tracing::debug!(%error, "the queue's connection is of no use any more");
    }
    if let Err(error) = sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut conn).await {
        tracing::debug!(%error, "the write-ahead log stays for the next start");
    }
    if let Err(error) = conn.close().await {
        tracing::debug!(%error, "the queue's connection did not close in order");
    }
}

/// Commands that are worked off together, each with its caller.
struct Set<I, T> {
    items: Vec<I>,
    replies: Vec<Reply<T>>,
}

impl<I, T> Default for Set<I, T> {
    fn default() -> Self {
        Self { items: Vec::new(), replies: Vec::new() }
    }
}

impl<I, T> Set<I, T> {
    fn push(&mut self, item: I, reply: Reply<T>) {
        self.items.push(item);
        self.replies.push(reply);
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn answer(self, results: Vec<Result<T, QueueError>>, session: &Session) {
        for (reply, result) in self.replies.into_iter().zip(results) {
            // A caller that has gone away does not want to know.
            drop(reply.send(result.map_err(|error| located(error, &session.path))));
        }
    }

    fn refuse(self, failure: &QueueError) {
        for reply in self.replies {
            drop(reply.send(Err(failure.clone())));
        }
    }
}

/// The sets of one transaction, in the order in which they are worked off.
#[derive(Default)]
struct Sets {
    settle: Set<Box<Settlement>, Publication>,
    published: Set<(JobId, Epoch), ()>,
    claim: Set<Box<ClaimRequest>, Claimed>,
}

/// The commands of one transaction.
#[derive(Default)]
struct Group {
    sets: Sets,
    work: VecDeque<Box<dyn Task>>,
    len: usize,
    close: bool,
}

/// What became of the sets of a group.
type Done =
    (Vec<Result<Publication, QueueError>>, Vec<Result<(), QueueError>>, Vec<Result<Claimed, QueueError>>);

impl Sets {
    fn is_empty(&self) -> bool {
        self.settle.is_empty() && self.published.is_empty() && self.claim.is_empty()
    }

    /// Works off all of them; an error means that nothing of it holds.
    async fn run(&self, session: &mut Session) -> Result<Done, QueueError> {
        let mut done = Done::default();
        if !self.settle.is_empty() {
            done.0 = settle::settle(session, &self.settle.items).await?;
        }
        if !self.published.is_empty() {
            done.1 = publish::published(session, &self.published.items).await?;
        }
        if !self.claim.is_empty() {
            done.2 = claim::claim(session, &self.claim.items).await?;
        }
        Ok(done)
    }

    /// As `run`, with a savepoint for each: what fails is undone alone. Takes what it has begun with.
    async fn run_apart(
        &mut self,
        session: &mut Session,
        held: &mut Vec<Box<dyn Answer>>,
    ) -> Result<(), QueueError> {
        let settle = std::mem::take(&mut self.settle);
        run_set(session, settle, |session, items| Box::pin(settle::settle(session, items)), held).await?;
        let published = std::mem::take(&mut self.published);
        run_set(session, published, |session, items| Box::pin(publish::published(session, items)), held)
            .await?;
        let claim = std::mem::take(&mut self.claim);
        run_set(session, claim, |session, items| Box::pin(claim::claim(session, items)), held).await
    }

    fn answer(self, (settle, published, claim): Done, session: &Session) {
        self.settle.answer(settle, session);
        self.published.answer(published, session);
        self.claim.answer(claim, session);
    }

    fn refuse(self, failure: &QueueError) {
        self.settle.refuse(failure);
        self.published.refuse(failure);
        self.claim.refuse(failure);
    }
}

impl Group {
    /// All commands of a group are concurrent: no caller has had an answer to one before it sent
    /// another. So sets may go first.
    fn push(&mut self, command: Command) {
        self.len += 1;
        match command {
            Command::Settle(settlement, reply) => self.sets.settle.push(settlement, reply),
            Command::Published(lease, reply) => self.sets.published.push(lease, reply),
            Command::Claim(request, reply) => self.sets.claim.push(request, reply),
            Command::Work(work) => self.work.push_back(work),
            Command::Close => self.close = true,
        }
    }

    /// Whether it only closes.
    fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.work.is_empty()
    }

    async fn commit(self, session: &mut Session) {
        if let Err(error) = session.run(BEGINNING, BEGIN).await {
            return self.refuse(&located(error, &session.path));
        }
        if !self.work.is_empty() {
            return self.commit_apart(session).await;
        }
        // Sets can be run once more, so that they need no savepoints, which are hops, until one fails.
        match self.sets.run(session).await {
            Ok(done) => match session.run(COMMITTING, COMMIT).await {
                Ok(()) => self.sets.answer(done, session),
                Err(error) => {
                    roll_back(session, &error).await;
                    self.refuse(&located(error, &session.path));
                }
            },
            Err(error) => {
                roll_back(session, &error).await;
                match session.run(BEGINNING, BEGIN).await {
                    Ok(()) => self.commit_apart(session).await,
                    Err(error) => self.refuse(&located(error, &session.path)),
                }
            }
        }
    }

    /// In the transaction that was begun, each with a savepoint of its own.
    async fn commit_apart(mut self, session: &mut Session) {
        let mut held = Vec::with_capacity(self.len);
        let mut outcome = self.run_apart(session, &mut held).await;
        if outcome.is_ok() {
            outcome = session.run(COMMITTING, COMMIT).await;
        }
        if let Err(error) = &outcome {
            roll_back(session, error).await;
        }
        let failure = outcome.err();
        for answer in held {
            // A command that failed by itself keeps its own reason.
            let failure = if answer.succeeded() { failure.clone() } else { None };
            answer.give(failure, session);
        }
        self.refuse(&failure.map_or(QueueError::Closed, |error| located(error, &session.path)));
    }

    /// Runs everything; an error means that the transaction as a whole is lost.
    async fn run_apart(
        &mut self,
        session: &mut Session,
        held: &mut Vec<Box<dyn Answer>>,
    ) -> Result<(), QueueError> {
        self.sets.run_apart(session, held).await?;
        while let Some(work) = self.work.pop_front() {
            session.run("beginning a command", "SAVEPOINT command").await?;
            let answer = work.run(session).await;
            let fine = answer.succeeded();
            held.push(answer);
            release(session, fine).await?;
        }
        Ok(())
    }

    /// Answers what was not run, since the transaction could not begin or was lost before. Nothing
    /// is left when all went well.
    fn refuse(self, failure: &QueueError) {
        self.sets.refuse(failure);
        for work in self.work {
            work.refuse(failure.clone());
        }
    }
}

const BEGIN: &str = "BEGIN IMMEDIATE";
const BEGINNING: &str = "beginning a transaction";
const COMMIT: &str = "COMMIT";
const COMMITTING: &str = "committing";

async fn roll_back(session: &mut Session, error: &QueueError) {
    tracing::debug!(%error, "a transaction of the queue failed");
    // It may be gone already: SQLite ends it itself on a full disk.
    drop(session.run("rolling back", "ROLLBACK").await);
}

async fn release(session: &mut Session, fine: bool) -> Result<(), QueueError> {
    if fine {
        session.run("ending a command", "RELEASE command").await
    } else {
        session.run("undoing a command", "ROLLBACK TO command; RELEASE command").await
    }
}

/// Works off equal commands as one set. Where the set fails as a whole, each is tried alone, so
/// that one poisoned command does not fail its neighbours.
async fn run_set<I, T, F>(
    session: &mut Session,
    set: Set<I, T>,
    run: F,
    held: &mut Vec<Box<dyn Answer>>,
) -> Result<(), QueueError>
where
    I: Send + Sync,
    T: Send + 'static,
    F: for<'s> Fn(&'s mut Session, &'s [I]) -> BoxFuture<'s, Result<Vec<Result<T, QueueError>>, QueueError>>
        + Send,
{
    if set.is_empty() {
        return Ok(());
    }
    let Set { items, replies } = set;
    let mut replies = replies.into_iter();
    let done = try_set(session, &items, run, |result| {
        if let Some(reply) = replies.next() {
            held.push(Box::new(Held { result, reply }));
        }
    })
    .await;
    if let Err(error) = &done {
        for reply in replies {
            held.push(Box::new(Held { result: Err(error.clone()), reply }));
        }
    }
    done
}

async fn try_set<I, T, F>(
    session: &mut Session,
    items: &[I],
    run: F,
    mut hold: impl FnMut(Result<T, QueueError>) + Send,
) -> Result<(), QueueError>
where
    I: Send + Sync,
    T: Send + 'static,
    F: for<'s> Fn(&'s mut Session, &'s [I]) -> BoxFuture<'s, Result<Vec<Result<T, QueueError>>, QueueError>>
        + Send,
{
    session.run("beginning a command", "SAVEPOINT command").await?;
    let results = run(session, items).await;
    release(session, results.is_ok()).await?;
    match results {
        Ok(results) => results.into_iter().for_each(hold),
        Err(error) if items.len() == 1 => hold(Err(error)),
        Err(_) => {
            for item in items {
                session.run("beginning a command", "SAVEPOINT command").await?;
                let result = run(session, std::slice::from_ref(item)).await;
                release(session, result.is_ok()).await?;
                hold(result.and_then(|mut one| one.pop().unwrap_or(Err(QueueError::Closed))));
            }
        }
    }
    Ok(())
}
