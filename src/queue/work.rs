//! Types of claiming, settling and publishing.

use std::time::Duration;

use crate::job::state::text_enum;
use crate::job::{
    AttemptId, AttemptOutcome, Digest, Epoch, JobId, JobName, LaneId, MediaType, Micros, ModelName, OutputId,
    OutputName, RunId, Spec, Usage, WorkerId,
};
use crate::pacing::{End, Lane, Share};

/// One start of the program.
#[derive(Debug, Clone)]
pub struct RunStart {
    /// `run` or `work`.
    pub command: String,
    /// The program's version.
    pub version: String,
}

/// One worker process.
#[derive(Debug, Clone)]
pub struct WorkerStart {
    /// The run it belongs to.
    pub run: RunId,
    /// Names the lock file that the process holds while it lives: `spool/<token>/lock`. Random.
    pub token: String,
    /// The machine's name.
    pub host: String,
    /// For people only; never used to decide whether it lives.
    pub pid: u32,
}

/// Which jobs a run works on: a pilot leaves the rest pending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Only the first N jobs of the manifest.
    pub first: Option<u64>,
    /// Only jobs whose id matches: `*` any text, `?` one character, `[a-z]` one of a set.
    pub glob: Option<String>,
}

/// A job whose attempts were lost so often is not handed out beside others any more: it may be what
/// killed the process. The schema's `job.turn` knows this number too.
pub const LOST_UNTIL_ALONE: u32 = 3;

/// A job that was lost so often while it ran alone has nobody else to blame and fails.
pub const LOST_ALONE_MAX: u32 = 2;

/// Whether jobs are asked for that run beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Company {
    /// Jobs that may run beside others.
    #[default]
    Shared,
    /// One job that was lost [`LOST_UNTIL_ALONE`] times. Who asks promises that nothing else is under
    /// way in this process, and asks for nothing more until it has ended.
    Alone,
}

/// How many jobs one lane may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permits {
    /// The lane.
    pub lane: LaneId,
    /// At most so many, of all models together.
    pub count: u32,
    /// Models whose jobs it may take, in this order, where those of its own leave something: jobs that
    /// name the lane's model as one that may stand in.
    pub also_for: Vec<ModelName>,
    /// What the worker brings to a lane that it shares with others: the engine asks the lane then, which may
    /// give less. `None` where the caller has asked a lane of its own, and of engines that share nothing.
    pub share: Option<Share>,
}

impl Permits {
    /// For jobs of the lane's own model.
    #[must_use]
    pub const fn own(lane: LaneId, count: u32) -> Self {
        Self { lane, count, also_for: Vec::new(), share: None }
    }
}

/// Asks for jobs.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// Who asks.
    pub worker: WorkerId,
    /// In which run.
    pub run: RunId,
    /// How many of which lane; earlier ones are served first.
    pub permits: Vec<Permits>,
    /// Which jobs.
    pub scope: Scope,
    /// The most that the batch may cost.
    pub cost_max: Option<Micros>,
    /// Beside which others.
    pub company: Company,
}

/// The answer to a [`ClaimRequest`].
#[derive(Debug, Default)]
pub struct Claimed {
    /// The jobs, leased, with their intent written.
    pub claims: Vec<Claim>,
    /// At least one due job was left because of the cap.
    pub capped: bool,
    /// Lanes that gave fewer permits than were asked for, since they are shared with other workers, and when to
    /// ask again.
    pub waits: Vec<(LaneId, Duration)>,
    /// Lanes that are shared, as they are now.
    pub lanes: Vec<(LaneId, Lane)>,
}

/// A request of a shared lane ended.
#[derive(Debug, Clone, Copy)]
pub struct LaneEnd {
    /// The lane.
    pub lane: LaneId,
    /// The request.
    pub attempt: AttemptId,
    /// How it ended.
    pub end: End,
    /// What its worker brings.
    pub share: Share,
    /// Of the jitter.
    pub seed: u64,
}

/// A leased job and the attempt that was written for it.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The job.
    pub job: JobId,
    /// Its id.
    pub name: JobName,
    /// The lease.
    pub epoch: Epoch,
    /// The attempt in the ledger, outcome `sent`.
    pub attempt: AttemptId,
    /// The lane that pays for it.
    pub lane: LaneId,
    /// What is asked, of the lane's model.
    pub spec: Spec,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Where its first image goes.
    pub output: OutputName,
    /// What its revision has used up so far.
    pub counters: Counters,
    /// What was set aside for the attempt; zero without a known price.
    pub reservation: Micros,
    /// Beside which others it may run.
    pub company: Company,
}

/// How the attempts of a job's present revision ended, as far as allowances go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Attempts that ended `transient`.
    pub transient: u32,
    /// Attempts that ended `no_image`.
    pub no_image: u32,
    /// Attempts that were `lost`.
    pub lost: u32,
}

/// The end of an attempt.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The job.
    pub job: JobId,
    /// Its lease.
    pub epoch: Epoch,
    /// The attempt.
    pub attempt: AttemptId,
    /// How it ended; never `sent`. `transient`, `no_image` and `lost` are counted on the job.
    pub outcome: AttemptOutcome,
    /// What is known about it.
    pub facts: AttemptFacts,
    /// What becomes of the job.
    pub next: Next,
}

/// What is known about an attempt when it ends.
#[derive(Debug, Clone, Default)]
pub struct AttemptFacts {
    /// The answer's status, if there was one.
    pub http_status: Option<u16>,
    /// A short stable word (`rate_limited`, `http_503`, `image_safety`), if it did not succeed.
    pub error_code: Option<String>,
    /// What happened, for a person; redacted.
    pub error: Option<String>,
    /// What is worth saying about a success: a ratio that was not kept, usage that is unknown.
    pub note: Option<String>,
    /// The last `finishReason` or `blockReason`.
    pub finish_reason: Option<String>,
    /// The provider's id of the answer.
    pub response_id: Option<String>,
    /// Text beside the image.
    pub caption: Option<String>,
    /// Tokens.
    pub usage: Usage,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// From sending to the first byte of the body.
    pub first_byte: Option<Duration>,
    /// From sending to the end.
    pub total: Duration,
    /// Estimated cost; `None` when it cannot be known.
    pub cost: Option<Micros>,
    /// The most it may have cost: the cost where it is known, nothing where nothing can have
    /// been billed, else the reservation.
    pub cost_at_most: Micros,
}

/// What becomes of a job when its attempt ends.
#[derive(Debug, Clone)]
pub enum Next {
    /// Images are in the spool: plan their files. At least one.
    Publish(Vec<PlannedOutput>),
    /// `pending` again after this time, by the engine's clock.
    Retry(Duration),
    /// The same, and the attempt uses up none of the job's allowances: the provider is to blame.
    Spare(Duration),
    /// `failed`.
    Fail,
    /// `refused`.
    Refuse,
    /// `held`.
    Hold,
}

text_enum! {
    /// What a result file is.
    OutputKind, "output kind", {
        /// As received.
        Original = "original",
        /// Made from an original.
        Derivative = "derivative",
    }
}

text_enum! {
    /// How far a result file has come.
    OutputStatus, "output status", {
        /// Settled; to be put in place from the spool.
        Planned = "planned",
        /// Stands in `images/`.
        Published = "published",
    }
}

/// An image in the spool, whole and durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedOutput {
    /// Its file, relative to `spool/`.
    pub spool: String,
    /// Its format, by its bytes.
    pub media: MediaType,
    /// Its size.
    pub bytes: u64,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// What is to be put in place for a job: the answer to [`Next::Publish`], or the remains of a
/// dead worker. Empty for any other [`Next`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publication {
    /// The new files: id, name below `images/`, and what lies in the spool.
    pub files: Vec<(OutputId, String, PlannedOutput)>,
    /// Files of the job that stand in `images/` now and that these replace.
    pub replaces: Vec<OldOutput>,
}

/// A file of an earlier revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldOutput {
    /// Its name below `images/`.
    pub name: String,
    /// Its size as published.
    pub bytes: u64,
    /// Its digest as published; a file with another one was changed by a person.
    pub digest: Digest,
}

/// A published file that is to be called otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputMove {
    /// The file.
    pub output: OutputId,
    /// Its name below `images/` now.
    pub from: String,
    /// The name that its job wants.
    pub to: String,
    /// Its size as published.
    pub bytes: u64,
    /// Its digest as published.
    pub digest: Digest,
}

/// What a heartbeat brings back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beat {
    /// Leased jobs that are to be cancelled.
    pub cancelled: Vec<(JobId, Epoch)>,
    /// The worker itself was declared dead: all its leases are lost.
    pub declared_dead: bool,
    /// A person wants it to finish what it has and to claim nothing more.
    pub draining: bool,
}

/// What becomes of a job whose attempt was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LostPolicy {
    /// It is sent again; it may be paid twice.
    #[default]
    Retry,
    /// A person decides.
    Hold,
}

/// What dead workers left behind.
#[derive(Debug, Default)]
pub struct Rescued {
    /// Attempts that became `lost`.
    pub lost: u64,
    /// Jobs that failed for it: they were lost [`LOST_ALONE_MAX`] times while they ran alone.
    pub poisoned: Vec<JobName>,
    /// Jobs to be published from the spool, leased to the heir.
    pub publications: Vec<(JobId, JobName, Epoch, Publication)>,
}
