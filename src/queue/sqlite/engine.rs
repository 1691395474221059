//! The engine: a thread of its own, the only one that writes.
//!
//! Callers send commands; the thread takes all that are ready, runs them in one transaction and
//! answers when it is committed (group commit). An idle queue commits a single command at once, and what
//! comes while one is committed is the next group. A command that fails is undone alone, by its savepoint.
//! Nothing here is stopped by a caller that goes away.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::fault::located;
use super::sql::Sql;
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
    fn run(self: Box<Self>, session: &Session) -> Box<dyn Answer>;
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
    F: FnOnce(&Session) -> Result<T, QueueError> + Send,
{
    fn run(self: Box<Self>, session: &Session) -> Box<dyn Answer> {
        let result = (self.work)(session);
        Box::new(Held { result, reply: self.reply })
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

/// The answers to a set, in order; an error is that of the set as a whole.
pub(super) type Results<T> = Result<Vec<Result<T, QueueError>>, QueueError>;

/// What became of the sets of a group.
type Done =
    (Vec<Result<Publication, QueueError>>, Vec<Result<(), QueueError>>, Vec<Result<Claimed, QueueError>>);

impl Sets {
    fn is_empty(&self) -> bool {
        self.settle.is_empty() && self.published.is_empty() && self.claim.is_empty()
    }

    /// Works off all of them; an error means that nothing of it holds.
    fn run(&self, session: &Session) -> Result<Done, QueueError> {
        let mut done = Done::default();
        if !self.settle.is_empty() {
            done.0 = settle::settle(session, &self.settle.items)?;
        }
        if !self.published.is_empty() {
            done.1 = publish::published(session, &self.published.items)?;
        }
        if !self.claim.is_empty() {
            done.2 = claim::claim(session, &self.claim.items)?;
        }
        Ok(done)
    }

    /// As `run`, with a savepoint for each: what fails is undone alone. Takes what it has begun with.
    fn run_apart(&mut self, session: &Session, held: &mut Vec<Box<dyn Answer>>) -> Result<(), QueueError> {
        let settle = std::mem::take(&mut self.settle);
        run_set(session, settle, settle::settle, held)?;
        let published = std::mem::take(&mut self.published);
        run_set(session, published, publish::published, held)?;
        let claim = std::mem::take(&mut self.claim);
        run_set(session, claim, claim::claim, held)
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

    fn commit(self, session: &Session) {
        if let Err(error) = session.conn.run(BEGINNING, BEGIN, &[]) {
            return self.refuse(&located(error, &session.path));
        }
        if !self.work.is_empty() {
            return self.commit_apart(session);
        }
        // Sets can be run once more, so that they need no savepoints until one fails.
        match self.sets.run(session) {
            Ok(done) => match session.conn.run(COMMITTING, COMMIT, &[]) {
                Ok(_) => self.sets.answer(done, session),
                Err(error) => {
                    roll_back(session, &error);
                    self.refuse(&located(error, &session.path));
                }
            },
            Err(error) => {
                roll_back(session, &error);
                match session.conn.run(BEGINNING, BEGIN, &[]) {
                    Ok(_) => self.commit_apart(session),
                    Err(error) => self.refuse(&located(error, &session.path)),
                }
            }
        }
    }

    /// In the transaction that was begun, each with a savepoint of its own.
    fn commit_apart(mut self, session: &Session) {
        let mut held = Vec::with_capacity(self.len);
        let mut outcome = self.run_apart(session, &mut held);
        if outcome.is_ok() {
            outcome = session.conn.run(COMMITTING, COMMIT, &[]).map(drop);
        }
        if let Err(error) = &outcome {
            roll_back(session, error);
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
    fn run_apart(&mut self, session: &Session, held: &mut Vec<Box<dyn Answer>>) -> Result<(), QueueError> {
        self.sets.run_apart(session, held)?;
        while let Some(work) = self.work.pop_front() {
            session.conn.run(SAVING, SAVEPOINT, &[])?;
            let answer = work.run(session);
            let fine = answer.succeeded();
            held.push(answer);
            release(session, fine)?;
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
const SAVEPOINT: &str = "SAVEPOINT command";
const SAVING: &str = "beginning a command";

fn roll_back(session: &Session, error: &QueueError) {
    tracing::debug!(%error, "a transaction of the queue failed");
    // It may be gone already: SQLite ends it itself on a full disk.
    drop(session.conn.run("rolling back", "ROLLBACK", &[]));
}

fn release(session: &Session, fine: bool) -> Result<(), QueueError> {
    if fine {
        session.conn.run("ending a command", "RELEASE command", &[]).map(drop)
    } else {
        session.conn.run_all("undoing a command", &["ROLLBACK TO command", "RELEASE command"], &[])
    }
}

/// Works off equal commands as one set. Where the set fails as a whole, each is tried alone, so
/// that one poisoned command does not fail its neighbours.
fn run_set<I, T, F>(
    session: &Session,
    set: Set<I, T>,
    run: F,
    held: &mut Vec<Box<dyn Answer>>,
) -> Result<(), QueueError>
where
    T: Send + 'static,
    F: Fn(&Session, &[I]) -> Results<T>,
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
    });
    if let Err(error) = &done {
        for reply in replies {
            held.push(Box::new(Held { result: Err(error.clone()), reply }));
        }
    }
    done
}

fn try_set<I, T, F>(
    session: &Session,
    items: &[I],
    run: F,
    mut hold: impl FnMut(Result<T, QueueError>),
) -> Result<(), QueueError>
where
    T: Send + 'static,
    F: Fn(&Session, &[I]) -> Results<T>,
{
    session.conn.run(SAVING, SAVEPOINT, &[])?;
    let results = run(session, items);
    release(session, results.is_ok())?;
    match results {
        Ok(results) => results.into_iter().for_each(hold),
        Err(error) if items.len() == 1 => hold(Err(error)),
        Err(_) => {
            for item in items {
                session.conn.run(SAVING, SAVEPOINT, &[])?;
                let result = run(session, std::slice::from_ref(item));
                release(session, result.is_ok())?;
                hold(result.and_then(|mut one| one.pop().unwrap_or(Err(QueueError::Closed))));
            }
        }
    }
    Ok(())
}
