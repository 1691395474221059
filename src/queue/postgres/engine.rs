//! The engine's tasks: one that writes, one for heartbeats, some that read. Callers send commands; the writer takes all claims,
//! settlements and publications that are ready and runs them as sets in one transaction, so that what a
//! round trip and a commit cost is paid once for all (group commit, `group`). Everything else has a transaction of
//! its own. Nothing here is stopped by a caller that goes away.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::group::Group;
use super::link::{Extent, Link};
use super::session::Session;
use crate::job::{Epoch, JobId};
use crate::queue::{ClaimRequest, Claimed, Publication, QueueError, Settlement};

/// Most commands in one transaction: bounds how long the first of them waits.
const COMMANDS_PER_COMMIT_MAX: usize = 256;
/// Most commands that wait for the engine; callers beyond it wait for their turn.
const COMMANDS_WAITING_MAX: usize = 1024;

pub(super) type Reply<T> = oneshot::Sender<Result<T, QueueError>>;

/// Something that is done by itself on a link.
pub(super) trait Task: Send {
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

pub(super) enum Command {
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
            while group.len() < COMMANDS_PER_COMMIT_MAX
                && let Ok(next) = self.writer.try_recv()
            {
                group.push(next);
            }
            if group.closes() {
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
