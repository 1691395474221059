//! Types of reading the queue.

use std::collections::BTreeMap;
use std::time::Duration;

use super::work::{OutputKind, Scope};
use crate::job::{
    AttemptId, AttemptOutcome, Digest, JobId, JobName, JobState, MediaType, Micros, OutputId, Provider,
    RunId, Timestamp, Usage, WorkerId,
};

/// The batch in figures, kept in the same transactions that change it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Jobs by state; states without jobs are absent.
    pub jobs: BTreeMap<JobState, u64>,
    /// Attempts by outcome.
    pub attempts: BTreeMap<AttemptOutcome, u64>,
    /// Published files.
    pub images: u64,
    /// Tokens over all attempts.
    pub usage: Usage,
    /// Sum of the known costs.
    pub cost: Micros,
    /// The most that all may have cost: known costs, and the reservations of what is in flight,
    /// lost or cut off.
    pub cost_at_most: Micros,
}

impl Tally {
    /// Jobs in `state`.
    pub fn jobs_in(&self, state: JobState) -> u64 {
        self.jobs.get(&state).copied().unwrap_or(0)
    }

    /// Attempts with `outcome`.
    pub fn attempts_with(&self, outcome: AttemptOutcome) -> u64 {
        self.attempts.get(&outcome).copied().unwrap_or(0)
    }

    /// All jobs but the cancelled ones.
    pub fn jobs_total(&self) -> u64 {
        self.jobs.iter().filter(|(state, _)| **state != JobState::Cancelled).map(|(_, n)| n).sum()
    }
}

/// What is left to do in a scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Jobs that can be claimed now.
    pub ready: u64,
    /// Pending jobs that are not due yet.
    pub snoozed: u64,
    /// Jobs that wait for another one.
    pub waiting: u64,
    /// Leased jobs, of any worker.
    pub running: u64,
    /// Jobs that a person must decide on.
    pub held: u64,
}

/// Where a page of jobs ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// 1 for jobs that left the manifest, which come last.
    pub left: bool,
    /// Place in the manifest.
    pub ordinal: u64,
    /// The job, where ordinals are equal.
    pub job: JobId,
}

/// Which jobs a page shows.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only these states; empty for all.
    pub states: Vec<JobState>,
    /// Only these ids.
    pub scope: Scope,
}

/// Jobs that a person names. Empty selects nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// By id. An unknown one is [`super::QueueError::NoSuchJob`] and nothing is changed.
    pub names: Vec<JobName>,
    /// All in these states.
    pub states: Vec<JobState>,
}

/// A job with the sums over all its attempts.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// The job.
    pub job: JobId,
    /// Where it stands in the listing.
    pub cursor: Cursor,
    /// Its id.
    pub name: JobName,
    /// Its state.
    pub state: JobState,
    /// Number of its present revision, from 1.
    pub revision: i64,
    /// When it can be claimed next, for pending jobs.
    pub available_at: Option<Timestamp>,
    /// The present revision's model.
    pub model: String,
    /// The present revision's ratio.
    pub aspect_ratio: Option<String>,
    /// The present revision's size.
    pub image_size: Option<String>,
    /// The present revision's prompt.
    pub prompt: String,
    /// Number of references of the present revision.
    pub references: u32,
    /// Tags as the manifest gives them.
    pub tags: BTreeMap<String, String>,
    /// Wanted name below `images/`, without extension.
    pub output: String,
    /// All requests, throttled ones included.
    pub attempts: u64,
    /// Of those, throttled ones.
    pub throttles: u64,
    /// Tokens over all attempts of all revisions; `None` where no attempt gave any.
    pub usage: Usage,
    /// Known costs over all attempts; `None` where none is known.
    pub cost: Option<Micros>,
    /// Published files, in their order.
    pub outputs: Vec<OutputRow>,
    /// The last attempt.
    pub last: Option<AttemptRow>,
}

/// A published file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRow {
    /// Its key.
    pub output: OutputId,
    /// What it is.
    pub kind: OutputKind,
    /// Name below `images/`.
    pub name: String,
    /// Format.
    pub media: MediaType,
    /// Size.
    pub bytes: u64,
    /// Digest.
    pub digest: Digest,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// One request of the ledger.
#[derive(Debug, Clone)]
pub struct AttemptRow {
    /// Its number.
    pub attempt: AttemptId,
    /// Its job's id.
    pub job: JobName,
    /// The revision it was sent for, from 1.
    pub revision: i64,
    /// The run that sent it.
    pub run: RunId,
    /// The lane as text: `provider/model/key id`.
    pub lane: String,
    /// The model.
    pub model: String,
    /// When its intent was committed.
    pub sent_at: Timestamp,
    /// When it was settled.
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub outcome: AttemptOutcome,
    /// See [`super::AttemptFacts`], as are the rest.
    pub http_status: Option<u16>,
    /// Short stable word.
    pub error_code: Option<String>,
    /// What happened.
    pub error: Option<String>,
    /// What is worth saying about a success.
    pub note: Option<String>,
    /// Why it ended, by the provider.
    pub finish_reason: Option<String>,
    /// The provider's id.
    pub response_id: Option<String>,
    /// Text beside the image.
    pub caption: Option<String>,
    /// Tokens.
    pub usage: Usage,
    /// Bytes of the answer's body.
    pub bytes: Option<u64>,
    /// To the first byte.
    pub first_byte: Option<Duration>,
    /// To the end.
    pub total: Option<Duration>,
    /// Estimated cost.
    pub cost: Option<Micros>,
    /// The most it may have cost.
    pub cost_at_most: Option<Micros>,
}

/// Whose queue it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRow {
    /// Its manifest, relative to the run folder; `None` for standard input.
    pub manifest: Option<String>,
    /// Whom its requests go to.
    pub provider: Provider,
    /// When it was made.
    pub created_at: Timestamp,
}

/// One start of the program.
#[derive(Debug, Clone)]
pub struct RunRow {
    /// Its number.
    pub run: RunId,
    /// `run` or `work`.
    pub command: String,
    /// The program's version.
    pub version: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; `None` while it runs or when it died.
    pub ended_at: Option<Timestamp>,
    /// Why it ended.
    pub end_reason: Option<String>,
}

/// A worker that has not ended in order.
#[derive(Debug, Clone)]
pub struct WorkerRow {
    /// Its key.
    pub worker: WorkerId,
    /// See [`super::WorkerStart::token`].
    pub token: String,
    /// The machine's name.
    pub host: String,
    /// For people only.
    pub pid: u32,
    /// The program's version.
    pub version: String,
    /// A person wants it to end: see [`super::Queue::drain`].
    pub draining: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was last heard of.
    pub heartbeat_at: Timestamp,
    /// When this was read, by the clock that the other times are of: another machine's may differ.
    pub read_at: Timestamp,
    /// Jobs that it holds.
    pub running: u64,
}

impl WorkerRow {
    /// How long it has worked.
    #[must_use]
    pub fn works_for(&self) -> Duration {
        self.read_at.since(self.started_at)
    }

    /// How long it was not heard of.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.read_at.since(self.heartbeat_at)
    }
}
