//! The engine's tasks: one that writes, one for heartbeats, some that read. Callers send commands; the writer takes all claims,
//! settlements and publications that are ready and runs them as sets in one transaction, so that what a
//! round trip and a commit cost is paid once for all (group commit). Everything else has a transaction of
//! its own. Nothing here is stopped by a caller that goes away.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::fault::{Nature, nature_of};
use super::link::{Extent, Link, Session};
use super::{claim, publish, settle};
use crate::job::{Epoch, JobId};
use crate::queue::{ClaimRequest, Claimed, Publication, QueueError, Settlement};

/// Most commands in one transaction: bounds how long the first of them waits.
const COMMANDS_PER_COMMIT_MAX: usize = 256;
/// Most commands that wait for the engine; callers beyond it wait for their turn.
const COMMANDS_WAITING_MAX: usize = 1024;

/// Claims that others were in the way of come again after this.
const LOCKED_PAUSE: Duration = Duration::from_millis(500);

type Reply<T> = oneshot::Sender<Result<T, QueueError>>;

/// Something that is done by itself on a link.
trait Task: Send {
    fn run(self: Box<Self>, link: &mut Link) -> BoxFuture<'_, ()>;
}

/// In which way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Write(Extent),
    Read,
    LookUp,
}

struct Work<F, T> {
    way: Way,
    run: F,
    reply: Reply<T>,
}

impl<F, T> Task for Work<F, T>
where
    T: Send + 'static,
    F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync + 'static,
{
    fn run(self: Box<Self>, link: &mut Link) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let result = match self.way {
                Way::Write(extent) => link.transact(extent, self.run).await,
                Way::Read => link.read(self.run).await,
                Way::LookUp => link.look_up(Extent::Some, self.run).await,
            };
            // A caller that has gone away does not want to know.
            drop(self.reply.send(result));
        })
    }
}

enum Command {
    Settle(Box<Settlement>, Reply<Publication>),
    Published((JobId, Epoch), Reply<()>),
    Claim(ClaimRequest, Reply<Claimed>),
    Work(Box<dyn Task>),
    Close,
}

/// The callers' end.
#[derive(Clone)]
pub(super) struct Commands {
    writer: mpsc::Sender<Command>,
    readers: mpsc::Sender<Box<dyn Task>>,
    pulse: mpsc::Sender<Box<dyn Task>>,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Commands")
    }
}

/// The engine's ends.
pub(super) struct Inboxes {
    writer: mpsc::Receiver<Command>,
    readers: Tasks,
    pulse: Tasks,
}

/// What all connections for one purpose share: each takes the next one.
#[derive(Clone)]
pub(super) struct Tasks(Arc<Mutex<mpsc::Receiver<Box<dyn Task>>>>);

/// The channels between callers and engine.
pub(super) fn channels() -> (Commands, Inboxes) {
    let (writer, commands) = mpsc::channel(COMMANDS_WAITING_MAX);
    let (readers, reads) = mpsc::channel(COMMANDS_WAITING_MAX);
    let (pulse, beats) = mpsc::channel(COMMANDS_WAITING_MAX);
    let tasks = |tasks| Tasks(Arc::new(Mutex::new(tasks)));
    let inboxes = Inboxes { writer: commands, readers: tasks(reads), pulse: tasks(beats) };
    (Commands { writer, readers, pulse }, inboxes)
}

impl Commands {
    /// Runs `work` in a transaction of its own and answers when it is committed.
    pub(super) async fn write<T, F>(&self, extent: Extent, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let work = Work { way: Way::Write(extent), run: work, reply };
        self.send(Command::Work(Box::new(work)), answer).await
    }

    /// Runs `work` on a connection that only reads.
    pub(super) async fn read<T, F>(&self, way: Way, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync + 'static,
    {
        ask(&self.readers, way, work).await
    }

    /// Runs statements on the connection that is there for heartbeats alone.
    pub(super) async fn beat<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync + 'static,
    {
        ask(&self.pulse, Way::LookUp, work).await
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
        self.send(Command::Claim(request, reply), answer).await
    }

    /// Asks the writer to end after what is already waiting.
    pub(super) async fn close(&self) {
        drop(self.writer.send(Command::Close).await);
    }

    async fn send<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        self.writer.send(command).await.map_err(|_| QueueError::Closed)?;
        answer.await.map_err(|_| QueueError::Closed)?
    }
}

async fn ask<T, F>(tasks: &mpsc::Sender<Box<dyn Task>>, way: Way, work: F) -> Result<T, QueueError>
where
    T: Send + 'static,
    F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync + 'static,
{
    let (reply, answer) = oneshot::channel();
    let sent = tasks.send(Box::new(Work { way, run: work, reply })).await;
    sent.map_err(|_| QueueError::Closed)?;
    answer.await.map_err(|_| QueueError::Closed)?
}

impl Inboxes {
    /// One more reader's end.
    pub(super) fn reads(&self) -> Tasks {
        self.readers.clone()
    }

    /// The end for heartbeats.
    pub(super) fn pulse(&self) -> Tasks {
        self.pulse.clone()
    }

    /// Writes until all callers are gone or one of them closes the queue.
    pub(super) async fn serve(mut self, mut link: Link) {
        while let Some(first) = self.writer.recv().await {
            // Callers that are ready to run get to put their commands beside the first one.
            tokio::task::yield_now().await;
            let mut group = Group::default();
            group.push(first);
            while group.len < COMMANDS_PER_COMMIT_MAX
                && let Ok(next) = self.writer.try_recv()
            {
                group.push(next);
            }
            if group.close {
                self.writer.close();
            }
            group.run(&mut link).await;
        }
        link.close().await;
    }
}

/// Does one after the other until the queue is closed.
pub(super) async fn serve_tasks(Tasks(tasks): Tasks, mut link: Link, closing: CancellationToken) {
    loop {
        let next = async { tasks.lock().await.recv().await };
        let task = tokio::select! {
            biased;
            () = closing.cancelled() => break,
            task = next => task,
        };
        let Some(task) = task else { break };
        task.run(&mut link).await;
    }
    tasks.lock().await.close();
    while let Ok(task) = tasks.lock().await.try_recv() {
        drop(task);
    }
    link.close().await;
}

/// Commands that came at once.
#[derive(Default)]
struct Group {
    settle: Vec<(Settlement, Reply<Publication>)>,
    published: Vec<((JobId, Epoch), Reply<()>)>,
    claim: Vec<(ClaimRequest, Reply<Claimed>)>,
    work: VecDeque<Box<dyn Task>>,
    len: usize,
    close: bool,
}

/// What goes into one transaction.
#[derive(Default)]
struct Sets {
    settle: Vec<Settlement>,
    published: Vec<(JobId, Epoch)>,
    claim: Vec<ClaimRequest>,
}

/// The answers to [`Sets`], in order.
#[derive(Default)]
struct Answers {
    settle: Vec<Result<Publication, QueueError>>,
    published: Vec<Result<(), QueueError>>,
    claim: Vec<Result<Claimed, QueueError>>,
}

impl Group {
    /// All commands of a group are concurrent: no caller has had an answer to one before it sent another.
    /// So sets may go first.
    fn push(&mut self, command: Command) {
        self.len += 1;
        match command {
            Command::Settle(settlement, reply) => self.settle.push((*settlement, reply)),
            Command::Published(lease, reply) => self.published.push((lease, reply)),
            Command::Claim(request, reply) => self.claim.push((request, reply)),
            Command::Work(work) => self.work.push_back(work),
            Command::Close => self.close = true,
        }
    }

    async fn run(self, link: &mut Link) {
        let (settle, settle_replies) = self.settle.into_iter().unzip();
        let (published, published_replies) = self.published.into_iter().unzip();
        let (claim, claim_replies) = self.claim.into_iter().unzip();
        let sets = Sets { settle, published, claim };
        if !sets.is_empty() {
            let answers = answer(link, sets).await;
            give(settle_replies, answers.settle);
            give(published_replies, answers.published);
            give(claim_replies, answers.claim);
        }
        for task in self.work {
            task.run(link).await;
        }
    }
}

fn give<T>(replies: Vec<Reply<T>>, answers: Vec<Result<T, QueueError>>) {
    for (reply, answer) in replies.into_iter().zip(answers) {
        drop(reply.send(answer));
    }
}

impl Sets {
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.settle.len() + self.published.len() + self.claim.len()
    }

    /// Each command as a set of its own.
    fn apart(&self) -> impl Iterator<Item = Self> {
        let settle = self.settle.iter().map(|one| Self { settle: vec![one.clone()], ..Self::default() });
        let published = self.published.iter().map(|one| Self { published: vec![*one], ..Self::default() });
        let claim = self.claim.iter().map(|one| Self { claim: vec![one.clone()], ..Self::default() });
        settle.chain(published).chain(claim)
    }

    /// What ends, and what begins.
    fn split(&self) -> (Self, Self) {
        let claim = Self { claim: self.claim.clone(), ..Self::default() };
        (Self { settle: self.settle.clone(), published: self.published.clone(), ..Self::default() }, claim)
    }

    /// The same answer for all.
    fn refused(&self, error: &QueueError) -> Answers {
        Answers {
            settle: self.settle.iter().map(|_| Err(error.clone())).collect(),
            published: self.published.iter().map(|_| Err(error.clone())).collect(),
            claim: self.claim.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

/// Runs everything in one transaction. What ends does not wait together with claims for what others hold, since it
/// may hold up others itself.
async fn answer(link: &mut Link, sets: Sets) -> Answers {
    if sets.claim.is_empty() {
        return answer_at_once(link, sets, Extent::Some)
            .await
            .unwrap_or_else(|(sets, error)| sets.refused(&error));
    }
    let (sets, error) = match answer_at_once(link, sets, Extent::Brief).await {
        Ok(answers) => return answers,
        Err(unanswered) => unanswered,
    };
    let (ends, claims) = sets.split();
    if nature_of(&error) != Nature::Locked {
        return sets.refused(&error);
    }
    let mut answers = Answers::default();
    if !ends.is_empty() {
        let ended = answer_at_once(link, ends, Extent::Some).await;
        answers = ended.unwrap_or_else(|(ends, error)| ends.refused(&error));
    }
    answers.claim = match answer_at_once(link, claims, Extent::Brief).await {
        Ok(answers) => answers.claim,
        Err((claims, error)) if nature_of(&error) == Nature::Locked => {
            tracing::warn!(error = error.to_string(), "nothing is claimed for now");
            claims.claim.iter().map(|one| Ok(nothing_for_now(one))).collect()
        }
        Err((claims, error)) => claims.refused(&error).claim,
    };
    answers
}

/// Others hold what a claim must look at: it may come again.
fn nothing_for_now(request: &ClaimRequest) -> Claimed {
    let waits = request.permits.iter().map(|permits| (permits.lane, LOCKED_PAUSE)).collect();
    Claimed { waits, ..Claimed::default() }
}

/// Where one transaction for all fails for good, each is tried alone, so that one poisoned command does not fail
/// its neighbours.
async fn answer_at_once(
    link: &mut Link,
    sets: Sets,
    extent: Extent,
) -> Result<Answers, (Arc<Sets>, QueueError)> {
    let sets = Arc::new(sets);
    let error = match transact(link, &sets, extent).await {
        Ok(answers) => return Ok(answers),
        Err(error) => error,
    };
    if sets.len() == 1
        || nature_of(&error) != Nature::Final
        || matches!(error, QueueError::Unreachable { .. })
    {
        return Err((sets, error));
    }
    let mut all = Answers::default();
    for one in sets.apart() {
        let one = Arc::new(one);
        let answers = transact(link, &one, Extent::Some).await.unwrap_or_else(|error| one.refused(&error));
        all.settle.extend(answers.settle);
        all.published.extend(answers.published);
        all.claim.extend(answers.claim);
    }
    Ok(all)
}

async fn transact(link: &mut Link, sets: &Arc<Sets>, extent: Extent) -> Result<Answers, QueueError> {
    let sets = Arc::clone(sets);
    link.transact(extent, move |session| {
        let sets = Arc::clone(&sets);
        Box::pin(async move {
            let settle = settle::settle(session, &sets.settle).await?;
            let published = publish::published(session, &sets.published).await?;
            let claim = claim::claim(session, &sets.claim).await?;
            Ok(Answers { settle, published, claim })
        })
    })
    .await
}
