//! Floor 6: workers. The dispatcher claims jobs as far as lanes and slots allow, executors send
//! one request each, and every ending is settled, published and told.
//!
//! Read in this order: [`work`], `dispatcher`, `executor`, `finish`, `rescue`.

mod account;
mod breaker;
mod config;
mod decision;
mod dispatcher;
mod download;
mod ending;
mod ends_by;
mod event;
mod executor;
mod finish;
mod lanes;
mod progress;
mod pulse;
mod references;
mod rescue;
mod room;
mod run_lane;
#[cfg(test)]
mod simulation;
mod spooler;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::Instant;

pub use config::{Concurrency, FailureLimit, PerMinute, WorkConfig};
pub use event::{Ending, Event, Observer, Stop, Unobserved};
pub use lanes::LaneView;
pub use progress::{Phase, Progress};

use crate::gemini::{Client, ImageFetcher};
use crate::job::{Clock, CrashPoint, RunId, WorkerId, crash_point};
use crate::manifest::Objects;
use crate::output::{Disk, PublishError, Results, SpoolDir, SpoolError, host_name};
use crate::platform;
use crate::queue::{Queue, QueueError, RunStart, WorkerStart};
use dispatcher::Dispatcher;
use ends_by::EndsBy;
use executor::Tools;
use pulse::Beats;
use references::References;
use rescue::Blocked;

/// How urgently a run is to end. Only ever raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Shutdown {
    /// Not at all.
    #[default]
    No,
    /// Claim nothing more; let running requests finish within the grace time.
    Drain,
    /// Cut running requests off.
    Abort,
}

/// Everything a run works with.
pub struct Work {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// The API, once for each key; at least one.
    pub clients: Vec<Client>,
    /// Images by URL.
    pub fetcher: ImageFetcher,
    /// Where results go, and the folder that they pass through.
    pub results: Results,
    /// Where references in object storage are read from.
    pub objects: Arc<dyn Objects>,
    /// How much room is left in the folder.
    pub disk: Arc<dyn Disk>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Raised by signals.
    pub shutdown: watch::Receiver<Shutdown>,
    /// Settings.
    pub config: WorkConfig,
}

/// Why a run could not go on at all.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// A file could not be put in place.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Another worker took over.
    #[error(
        "others took this worker's jobs over, since it was not heard of for too long or the lock of its spool folder \
         was free; run the same command again"
    )]
    DeclaredDead,
    /// What a request needs is in object storage, which cannot be reached.
    #[error("{0}")]
    StoreAway(String),
    /// This process has no file descriptor left.
    #[error("{0}")]
    OutOfFiles(String),
    /// A task panicked. What it held is rescued by the next run.
    #[error(
        "a worker task failed: {0}; this is a bug in nightpress, the next run goes on where this one stopped"
    )]
    Task(String),
}

impl WorkError {
    /// Another process took this worker for dead.
    fn is_of_the_dead(&self) -> bool {
        matches!(self, Self::DeclaredDead | Self::Queue(QueueError::DeclaredDead(_)))
    }

    /// Why the run pauses if the machine is at fault: nothing is wrong with the jobs, and the queue
    /// is whole.
    fn stop(&self) -> Option<Stop> {
        match self {
            Self::OutOfFiles(why) => Some(Stop::OutOfFiles(why.clone())),
            Self::StoreAway(why) => Some(Stop::Bucket(why.clone())),
            Self::Publish(PublishError::Task(_)) => None,
            Self::Spool(SpoolError::Io { .. }) | Self::Publish(_) if is_out_of_files(self) => {
                Some(Stop::OutOfFiles(self.to_string()))
            }
            Self::Publish(PublishError::Store(error)) => Some(Stop::Bucket(error.to_string())),
            // SQLite says no more than "unable to open".
            Self::Queue(QueueError::Disk { .. }) if platform::no_file_can_be_opened() => {
                Some(Stop::OutOfFiles(self.to_string()))
            }
            Self::Spool(SpoolError::Io { .. }) | Self::Publish(_) | Self::Queue(QueueError::Disk { .. }) => {
                Some(Stop::Disk(self.to_string()))
            }
            Self::Spool(SpoolError::Picture(_)) | Self::Queue(_) | Self::DeclaredDead | Self::Task(_) => None,
        }
    }
}

/// Whether an error was caused by a lack of file descriptors.
fn is_out_of_files(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |cause| cause.source())
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(platform::is_out_of_files))
}

/// Works until nothing is left in scope, or a reason to stop. Everything it began is joined
/// before it returns. Not cancel-safe: raise `shutdown` instead of dropping the future.
pub async fn work(mut work: Work) -> Result<Ending, WorkError> {
    for client in &mut work.clients {
        *client = client.clone().reading_from(Arc::clone(&work.objects));
    }
    let drained = Arc::new(AtomicBool::new(false));
    loop {
        let ended = from_start_to_end(&work, Arc::clone(&drained)).await;
        let is_taken_for_dead =
            work.queue.spans_machines() && ended.as_ref().is_err_and(WorkError::is_of_the_dead);
        if is_taken_for_dead && *work.shutdown.borrow() == Shutdown::No {
            // It was cut off for too long. What it had, others have; what is left, it works on as any other.
            let told =
                "this worker was not heard of for too long, so others have its jobs; it goes on as a new one";
            if drained.load(Ordering::Relaxed) {
                return Ok(Ending::Stopped(Stop::Drained));
            }
            work.observer.event(&Event::Warning(told.to_owned()));
            continue;
        }
        return ended.or_else(|error| error.stop().map(Ending::Stopped).ok_or(error));
    }
}

async fn from_start_to_end(work: &Work, drained: Arc<AtomicBool>) -> Result<Ending, WorkError> {
    let token = format!("{:016x}", rand::rng().random::<u64>());
    let spool = Arc::new(SpoolDir::create(&work.results.folder().spool(), &token)?);
    crash_point(CrashPoint::SpoolMade);
    let start =
        RunStart { command: work.config.command.clone(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let run = work.queue.start_run(start).await?;
    let start = WorkerStart { run, token, host: host_name(), pid: std::process::id() };
    let worker = work.queue.register_worker(start).await?;
    crash_point(CrashPoint::WorkerRegistered);

    let shift = Shift { run, worker, ends_by: EndsBy::new(), drained };
    let beats = Beats::default();
    let result = tokio::select! {
        biased;
        result = work_as(work, &shift, Arc::clone(&spool), &beats) => result,
        never = pulse::beat(work, worker, &beats) => match never {},
        never = hurry_when_asked(work, &shift) => match never {},
    };
    let reason = match &result {
        Ok(Ending::Done) => "done".to_owned(),
        Ok(Ending::Interrupted) => "interrupted".to_owned(),
        Ok(Ending::Stopped(stop)) => stop.to_string(),
        Err(error) => error.to_string(),
    };
    let closed = close(work, (&shift, &reason), spool).await;
    // What went wrong first is what is told.
    let ending = result?;
    // Where the disk is the reason, it is no news that this cannot be written to it either.
    if !matches!(ending, Ending::Stopped(Stop::Disk(_))) {
        closed?;
    }
    Ok(ending)
}

/// One worker's part in a run.
struct Shift {
    run: RunId,
    worker: WorkerId,
    ends_by: EndsBy,
    /// A person drained its machine, which holds for a worker that comes after it here too.
    drained: Arc<AtomicBool>,
}

/// Notes when a run was asked to end, and tells the queue, for which the dispatcher may be waiting.
async fn hurry_when_asked(work: &Work, shift: &Shift) -> Infallible {
    let mut shutdown = work.shutdown.clone();
    // What is uploaded until then is settled afterwards.
    let more = if work.results.are_shared() { ends_by::UPLOADS_MORE } else { Duration::ZERO };
    loop {
        let now = Instant::now();
        match *shutdown.borrow_and_update() {
            Shutdown::No => {}
            Shutdown::Drain => work.queue.hurry(shift.ends_by.ask(now + work.config.grace) + more),
            Shutdown::Abort => work.queue.hurry(shift.ends_by.ask(now) + more),
        }
        dispatcher::raised(&mut shutdown).await;
    }
}

/// Records the end. While answers wait to be published, on a better disk, the worker does not
/// retire and its folder stays: the next run finds it dead and takes over what is in it.
async fn close(
    work: &Work,
    (Shift { run, worker, ends_by, .. }, reason): (&Shift, &str),
    spool: Arc<SpoolDir>,
) -> Result<(), WorkError> {
    let (run, worker) = (*run, *worker);
    work.queue.end_run(run, reason).await?;
    crash_point(CrashPoint::RunEnded);
    if work.queue.retire_worker(worker).await? {
        crash_point(CrashPoint::WorkerRetired);
        rescue::discard(work, spool.token()).await;
        if let Some(spool) = Arc::into_inner(spool) {
            spool.remove()?;
        }
        // Of those that died beside us; nobody may come after us.
        rescue::sweep(work, ends_by).await?;
    }
    Ok(())
}

async fn work_as(
    work: &Work,
    shift: &Shift,
    spool: Arc<SpoolDir>,
    beats: &Beats,
) -> Result<Ending, WorkError> {
    work.results.check().await?;
    let mut blocked = Blocked::default();
    rescue::rescue(work, shift, &mut blocked).await?;
    rescue::sweep(work, &shift.ends_by).await?;
    crash_point(CrashPoint::Swept);
    let references = References::new(Arc::clone(&work.objects));
    let tools =
        Tools { fetcher: work.fetcher.clone(), spool, prices: work.config.prices.clone(), references };
    Dispatcher::new(work, tools, (shift, beats), blocked).run().await
}
