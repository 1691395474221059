//! What happens during a run, as told by the dispatcher to whoever watches. The dispatcher is
//! the sole source of events, so they come in one order.

use std::time::Duration;

use crate::job::{AttemptId, AttemptOutcome, JobName, JobState, Micros, ModelName, Timestamp};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// What a crash left behind was put in order.
    Rescued {
        /// Attempts that were lost: possibly billed.
        lost: u64,
        /// Jobs whose images were finished from the spool.
        published: u64,
    },
    /// A request leaves.
    Started {
        /// The attempt.
        attempt: AttemptId,
        /// The job.
        job: JobName,
        /// The model.
        model: ModelName,
        /// Its progress, to be read at any time.
        progress: std::sync::Arc<super::Progress>,
    },
    /// An attempt is settled and, where it brought images, they are published.
    Ended {
        /// The attempt.
        attempt: AttemptId,
        /// The job.
        job: JobName,
        /// How the attempt ended.
        outcome: AttemptOutcome,
        /// What became of the job.
        state: JobState,
        /// What went wrong, or is worth saying.
        message: Option<String>,
        /// When the job is tried again, if it is.
        again_in: Option<Duration>,
        /// Files below `images/`.
        files: Vec<String>,
        /// Known cost of the attempt.
        cost: Option<Micros>,
        /// From sending to the end.
        took: Duration,
    },
    /// A lane closed.
    LaneClosed {
        /// Its model.
        model: ModelName,
        /// For how long.
        for_: Duration,
        /// Why, in words.
        why: String,
    },
    /// How the lanes are doing, every few seconds.
    Lanes(Vec<super::LaneView>),
    /// No more requests leave; those on their way may finish.
    Draining {
        /// Why, in words.
        why: String,
        /// Requests on their way.
        in_flight: usize,
    },
    /// Another worker has a job of ours: its result is not recorded here.
    LeaseLost {
        /// The job.
        job: JobName,
    },
    /// Something that a person should know and that stops nothing.
    Warning(String),
}

/// Watches a run. Called from the dispatcher between two steps: be quick, never block.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn event(&self, event: &Event);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn event(&self, _event: &Event) {}
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Nothing is left to do in its scope.
    Done,
    /// A person interrupted it.
    Interrupted,
    /// It stopped with jobs left; the reason is a sentence that says what to do.
    Stopped(Stop),
}

/// Why a run stopped with jobs left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// A person asked for it.
    #[error(
        "this machine's workers were asked to end (`nightpress workers drain`); run the same command to go on"
    )]
    Drained,
    /// The account has no money.
    #[error("{0}")]
    MoneyOut(String),
    /// The key does not serve: not at all, not from here, or not without a bill. The error says which,
    /// and what to do.
    #[error("{0}. When that is mended, run the same command again")]
    KeyRejected(String),
    /// All that is left needs models that are not served.
    #[error("{0}. Name another model in the manifest or ask the provider, then run the same command again")]
    ModelUnavailable(String),
    /// The cap on cost is reached.
    #[error("the cap of {cap} (--max-cost) is reached: {spent} may be spent. Raise it to go on")]
    CostCap {
        /// The cap, as dollars.
        cap: String,
        /// What may be spent so far, as dollars.
        spent: String,
    },
    /// The prices with which the batch was loaded are lower than ours: what it sets aside for a request is too little.
    #[error(
        "a request for {model} may cost {here} by the prices here, and {loaded} by those that the batch was loaded \
         with, so that --max-cost cannot be kept. Load the manifest again with the prices of now, then run the same \
         command again"
    )]
    Prices {
        /// The model.
        model: ModelName,
        /// What is to be set aside by the prices of this process, as dollars.
        here: String,
        /// What is set aside, as dollars.
        loaded: String,
    },
    /// Too many jobs failed.
    #[error(
        "{failed} jobs failed, as many as --max-failures says. Look at `nightpress jobs --state failed`, mend what \
         is wrong, then use `nightpress retry --failed` and run the same command again"
    )]
    Failures {
        /// Jobs that failed in this run.
        failed: u64,
    },
    /// The same permanent error again and again, without a success.
    #[error(
        "the same error came {times} times without one success: {error}. Something is wrong with all jobs: mend \
         it, then use `nightpress retry --failed` and run the same command again"
    )]
    SameError {
        /// How often.
        times: u32,
        /// The error.
        error: String,
    },
    /// Nothing was ever reached.
    #[error("nothing could be reached for ten minutes: {0}. Mend that, then run the same command again")]
    Unreachable(String),
    /// The deadline has passed.
    #[error("the deadline has passed. Run the same command again to go on")]
    Deadline,
    /// The lanes that are left are closed for long.
    #[error("{why}. Run the same command again after {until}, or use --wait to let it sleep")]
    Parked {
        /// Why.
        why: String,
        /// Until when.
        until: Timestamp,
    },
    /// The disk cannot be written.
    #[error("{0}. Make room or mend the disk, then run the same command again")]
    Disk(String),
    /// Object storage cannot be written.
    #[error(
        "{0}. When that is mended, run the same command again, on this machine: what was made waits in its spool"
    )]
    Bucket(String),
    /// No file descriptor is left.
    #[error(
        "no more files can be opened: {0}. Raise the limit (`ulimit -n`) or lower --concurrency, then run the \
         same command again"
    )]
    OutOfFiles(String),
    /// Results are paid for and cannot be put in place.
    #[error("{results} results wait in the spool: {why}; clear the way, then run the same command again")]
    Blocked {
        /// How many jobs' results.
        results: u64,
        /// What is in the way of the first.
        why: String,
    },
    /// Jobs wait for a decision.
    #[error(
        "{0} jobs are held: look at `nightpress jobs --state held`, then `nightpress retry` or `cancel` them"
    )]
    Held(u64),
}
