//! The commands of one transaction: worked off as sets where they come from many tasks at once, each
//! undone alone by its savepoint where it fails, answered when the whole is committed.

use std::collections::VecDeque;
use std::fmt;

use tokio::sync::oneshot;

use super::engine::Session;
use super::fault::located;
use super::sql::Sql;
use super::{claim, publish, settle};
use crate::job::{Epoch, JobId};
use crate::queue::{ClaimRequest, Claimed, Publication, QueueError, Settlement};

pub(super) type Reply<T> = oneshot::Sender<Result<T, QueueError>>;

/// A result that waits for the commit.
pub(super) trait Answer: Send {
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
pub(super) trait Task: Send {
    fn run(self: Box<Self>, session: &Session) -> Box<dyn Answer>;
    /// Answers without having run.
    fn refuse(self: Box<Self>, failure: QueueError);
}

pub(super) struct Work<F, T> {
    pub(super) work: F,
    pub(super) reply: Reply<T>,
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

/// What a caller asks of the engine.
pub(super) enum Command {
    /// Settlements, publications and claims come from many tasks at once and are worked off as sets.
    Settle(Box<Settlement>, Reply<Publication>),
    Published((JobId, Epoch), Reply<()>),
    Claim(Box<ClaimRequest>, Reply<Claimed>),
    Work(Box<dyn Task>),
    Close,
}

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
pub(super) struct Group {
    sets: Sets,
    work: VecDeque<Box<dyn Task>>,
    pub(super) len: usize,
    /// The engine is to end after it.
    pub(super) close: bool,
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
    pub(super) fn push(&mut self, command: Command) {
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
    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.work.is_empty()
    }

    pub(super) fn commit(self, session: &Session) {
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
