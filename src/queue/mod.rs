//! Floor 3: the durable queue and the ledger. The only home of SQL.
//!
//! [`Queue`] is the contract that the floors above rely on; every engine passes the suite in
//! `conformance`. What an engine must keep:
//!
//! 1. **Written before sent.** [`Queue::claim`] commits an attempt with outcome `sent` for each
//!    job that it hands out, before it returns.
//! 2. **Durable before done.** [`Queue::settle`] with [`Next::Publish`] records the answer and the
//!    planned files; only [`Queue::published`] makes the job `succeeded`.
//! 3. **Fenced.** Whatever changes a leased job matches job, epoch and `running`. Zero rows changed
//!    is [`QueueError::LeaseLost`], and nothing else of the call takes effect. An epoch never repeats.
//! 4. **The ledger only grows.** An attempt is changed once, when it ends; never after, never deleted.
//! 5. **Uncancellable.** An engine runs its statements on a task of its own: dropping the future of
//!    any method neither tears a transaction nor loses an answer that was promised. All methods are
//!    therefore cancel-safe, but the caller of a dropped future does not learn what happened.
//! 6. **One clock.** Due times, leases and heartbeats are judged by the engine's clock.
//!
//! What this module does *not* do: decide how often to retry, how fast to send or what an error
//! means. It keeps the counts that those decisions need.

mod error;
mod lane;
mod load;
mod naming;
mod open;
pub mod postgres;
mod read;
pub mod sqlite;
mod text;
mod work;

#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
pub(crate) mod model;

use std::time::Duration;

use async_trait::async_trait;

pub use error::{EngineError, QueueError};
pub use lane::{KnownLimit, LaneKey, LaneNote, LaneRow, LaneState, LaneStateRow, LimitSource, ModelLeft};
pub use load::{LoadDiff, LoadPolicy, NewJob};
pub use open::{Access, Identity};
pub use read::{
    AttemptRow, BatchRow, Cursor, JobFilter, JobRow, Left, OutputRow, RunRow, Selection, Tally, WorkerRow,
};
pub use work::{
    AttemptFacts, Beat, Claim, ClaimRequest, Claimed, Company, Counters, LOST_ALONE_MAX, LOST_UNTIL_ALONE,
    LaneEnd, LostPolicy, Next, OldOutput, OutputKind, OutputMove, OutputStatus, Permits, PlannedOutput,
    Publication, Rescued, RunStart, Scope, Settlement, WorkerStart,
};

use tokio::time::Instant;

use crate::job::{AttemptId, Epoch, JobId, JobName, Micros, OutputId, RunId, Timestamp, WorkerId};
use crate::manifest::DigestEntry;
use crate::pacing::Lane;

/// How often a worker says that it lives, hears of cancellations and looks for dead neighbours, as a rule.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// The durable queue of one batch. See the module's contract.
#[async_trait]
pub trait Queue: Send + Sync + std::fmt::Debug {
    // ---- loading a manifest -------------------------------------------------------------

    /// Puts jobs into this handle's staging area, which no other process sees and nothing but
    /// [`Queue::apply_load`] reads. The ordinals of all staged jobs must differ.
    async fn stage(&self, jobs: Vec<NewJob>) -> Result<(), QueueError>;

    /// What [`Queue::apply_load`] would do with the staged jobs. Changes nothing.
    async fn staged_diff(&self, policy: LoadPolicy) -> Result<LoadDiff, QueueError>;

    /// Brings the batch in line with the staged jobs in one transaction, then empties the
    /// staging area. Idempotent: staging and applying the same jobs again changes nothing.
    ///
    /// - A job that is new becomes `pending`.
    /// - A job whose digests are unchanged keeps its state; its name, tags, priority, `stream` and
    ///   reference paths are brought up to date. If it was cancelled *because it had left the
    ///   manifest*, it is `pending` again; one that a person cancelled stays so.
    /// - A job whose digests changed gets a new revision, fresh allowances and is `pending`, unless
    ///   it succeeded and the policy keeps changed jobs. While it is running, the revision is
    ///   recorded and the job becomes `pending` when its attempt has ended.
    /// - A job of origin `manifest` that is not staged is cancelled unless it succeeded; while it is
    ///   running, it is cancelled when its attempt has ended without images. It sorts behind all
    ///   jobs of the manifest from then on.
    async fn apply_load(&self, policy: LoadPolicy) -> Result<LoadDiff, QueueError>;

    /// Digests of reference files as they were last seen.
    async fn reference_stamps(&self) -> Result<Vec<DigestEntry>, QueueError>;

    /// Replaces what [`Queue::reference_stamps`] returns.
    async fn save_reference_stamps(&self, stamps: Vec<DigestEntry>) -> Result<(), QueueError>;

    // ---- working ------------------------------------------------------------------------

    /// Records a start of the program.
    async fn start_run(&self, start: RunStart) -> Result<RunId, QueueError>;

    /// Records its end and why it ended (`done`, `interrupted`, `budget` …).
    async fn end_run(&self, run: RunId, reason: &str) -> Result<(), QueueError>;

    /// Records a worker process.
    async fn register_worker(&self, start: WorkerStart) -> Result<WorkerId, QueueError>;

    /// Records that a worker ended in order. One that still holds a lease does not: `false`, it
    /// stays listed to be rescued, and what lies in its spool folder is still wanted.
    async fn retire_worker(&self, worker: WorkerId) -> Result<bool, QueueError>;

    /// The lane of (provider, model, key), created when it is new, with what was last noted about its
    /// limit.
    async fn lane(&self, key: &LaneKey) -> Result<LaneRow, QueueError>;

    /// Keeps what a worker found out about its lanes, and how they are doing until it notes something
    /// else or ends.
    async fn note_lanes(&self, worker: WorkerId, notes: Vec<LaneNote>) -> Result<(), QueueError>;

    /// How the lanes of the workers are doing that have not ended, by model and key.
    async fn lane_states(&self) -> Result<Vec<LaneStateRow>, QueueError>;

    /// Models that have jobs in `scope` which are neither final nor held, each once, in no particular
    /// order.
    async fn models_left(&self, scope: &Scope) -> Result<Vec<ModelLeft>, QueueError>;

    /// Leases due jobs to a worker and writes their attempts, in one commit.
    ///
    /// Each lane gets at most as many as it has permits: jobs of its own model, then of those that it
    /// stands in for. Untried jobs before those with a
    /// lost attempt, then higher priority, then manifest order. With a cap, a job whose
    /// reservation would lift the batch's `at most` above it is not claimed and
    /// [`Claimed::capped`] is set. A job that was lost [`LOST_UNTIL_ALONE`] times is handed out only to
    /// who asks for one [`Company::Alone`], and no other is then, and one at most. The cost does not
    /// grow with the queue, but for a scope with a glob, which looks at ready jobs until enough match.
    /// A worker that was declared
    /// dead gets [`QueueError::DeclaredDead`]: nobody would rescue what it leased.
    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, QueueError>;

    /// A request of a shared lane ended in a way that concerns all its workers ([`Lane::heeds`]); returns the lane
    /// as it is now. Where a lane is not shared there is nothing to tell.
    async fn lane_ended(&self, _end: LaneEnd) -> Result<Option<Lane>, QueueError> {
        Ok(None)
    }

    /// Ends an attempt and says what becomes of its job. Fenced.
    ///
    /// With [`Next::Publish`] the job stays leased and the answer names the files to be put in
    /// place; each has a name that no other job's file in the batch has. If the job got a new
    /// revision meanwhile, [`Queue::published`] makes it `pending` instead of `succeeded`; if it
    /// was to be cancelled, any other [`Next`] makes it `cancelled`.
    async fn settle(&self, settlement: Settlement) -> Result<Publication, QueueError>;

    /// Gives a planned file another name, since a foreign file stands at the first. Fenced.
    /// Returns the name that was chosen: the next free number behind `taken`.
    async fn rename_planned(
        &self,
        lease: (JobId, Epoch),
        output: OutputId,
        taken: &str,
    ) -> Result<String, QueueError>;

    /// The planned files of a job stand in `images/` and are durable: the outputs become
    /// `published`, those they replace are forgotten, the job `succeeded`. Fenced.
    async fn published(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError>;

    /// How often a worker is to beat.
    fn heartbeat_every(&self) -> Duration {
        HEARTBEAT
    }

    /// Renews the leases of a worker and brings back what happened to them meanwhile.
    async fn heartbeat(&self, worker: WorkerId) -> Result<Beat, QueueError>;

    /// Workers that have not ended in order.
    async fn workers(&self) -> Result<Vec<WorkerRow>, QueueError>;

    /// Wants all workers of this machine to end; each hears of it with its next heartbeat. Returns how many
    /// there are. One that begins later is none of them.
    async fn drain(&self, host: &str) -> Result<u64, QueueError>;

    /// Takes over everything that dead workers left behind. Their attempts that were not settled
    /// become `lost` and the jobs `pending` or `held` by the policy; instead of `pending`, a job that was
    /// lost [`LOST_ALONE_MAX`] times while it ran alone is `failed` with the error `poison`. Jobs whose answer was settled
    /// but not yet published are leased to `heir` and returned, to be published from the spool. An
    /// heir that is dead itself is [`QueueError::DeclaredDead`], and nothing is changed.
    async fn rescue(
        &self,
        dead: &[WorkerId],
        heir: WorkerId,
        policy: LostPolicy,
    ) -> Result<Rescued, QueueError>;

    /// As [`Queue::rescue`] for workers that the engine itself knows to be dead: on other machines, and not
    /// heard of for longer than a living one is ever silent. Where one machine has the queue to itself there
    /// are none: the lock of a worker's folder tells.
    async fn rescue_silent(&self, _heir: WorkerId, _policy: LostPolicy) -> Result<Rescued, QueueError> {
        Ok(Rescued::default())
    }

    /// Whether workers of other machines may be on this queue, whose folders are not to be seen from here.
    fn spans_machines(&self) -> bool {
        false
    }

    /// From `by` on, a server that is away is not waited for any more: what needs it fails, and at once when that
    /// was seen. Where there is no server, nothing changes.
    fn hurry(&self, _by: Instant) {}

    /// Returns when another process may have changed what there is to do; never, where nobody tells. Word
    /// can be lost: who waits for it looks for itself from time to time.
    async fn news(&self) {
        std::future::pending::<()>().await;
    }

    /// Which of these tokens are those of workers of this batch that have ended, in order or not: they plan
    /// nothing more. Where one machine has the queue to itself, the locks of their folders tell.
    async fn ended(&self, _tokens: &[String]) -> Result<Vec<String>, QueueError> {
        Ok(Vec::new())
    }

    /// Where the batch's results go, if they go elsewhere than into the run folder of each machine and the
    /// queue is what all of them share.
    async fn results(&self) -> Result<Option<String>, QueueError> {
        Ok(None)
    }

    /// Decides where the batch's results go, unless that was decided or results exist. Returns what stands.
    async fn decide_results(&self, _place: &str) -> Result<Option<String>, QueueError> {
        Ok(None)
    }

    /// Files below `spool/` that are planned and not yet published, whoever holds the lease.
    async fn planned_in_spool(&self) -> Result<Vec<String>, QueueError>;

    /// A planned file is not in the spool any more (a person deleted it): the job must be made
    /// again and becomes `pending`. Fenced. The attempt stays as it was settled.
    async fn unpublishable(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError>;

    /// Published files whose job wants another name now (only its `output` changed), in an order in
    /// which they can be renamed one by one. Files that wait for a name another one keeps are left out.
    async fn moves(&self) -> Result<Vec<OutputMove>, QueueError>;

    /// These files are about to be renamed, each of them once. Committed before the first of them is:
    /// whoever comes after a crash knows where to look.
    async fn begin_moves(&self, moves: &[OutputMove]) -> Result<(), QueueError>;

    /// Renamings that were begun and whose end was not recorded.
    async fn moves_begun(&self) -> Result<Vec<OutputMove>, QueueError>;

    /// A published file has this name, now that its renaming has ended in whatever way.
    async fn moved(&self, output: OutputId, name: &str) -> Result<(), QueueError>;

    /// Earliest time at which a snoozed job in scope is due; `None` without any.
    async fn next_due(&self, scope: &Scope) -> Result<Option<Timestamp>, QueueError>;

    // ---- what a person asks for ---------------------------------------------------------

    /// Makes the selected jobs `pending` again, with fresh allowances. Jobs that are waiting,
    /// pending or running are left alone, and so are those that succeeded unless they are named: they
    /// cost money again. Returns how many were changed.
    async fn retry(&self, selection: &Selection) -> Result<u64, QueueError>;

    /// Cancels the selected jobs; a running one when its worker hears of it. Jobs that have
    /// succeeded are left alone. Returns how many were changed or marked.
    async fn cancel(&self, selection: &Selection) -> Result<u64, QueueError>;

    // ---- reading ------------------------------------------------------------------------

    /// Whose queue it is.
    async fn batch(&self) -> Result<BatchRow, QueueError>;

    /// Jobs by state, tokens and money over the whole batch. Constant cost.
    async fn tally(&self) -> Result<Tally, QueueError>;

    /// Pending jobs in a scope for which nothing would be set aside: they were loaded when their
    /// model had no known price.
    async fn unpriced(&self, scope: &Scope) -> Result<u64, QueueError>;

    /// What is left to do in a scope.
    async fn left(&self, scope: &Scope) -> Result<Left, QueueError>;

    /// A page of jobs in manifest order, those that left the manifest last. An empty page is the end.
    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Vec<JobRow>, QueueError>;

    /// One job by its id.
    async fn job(&self, name: &JobName) -> Result<Option<JobRow>, QueueError>;

    /// A page of the ledger in the order in which requests were sent; of one job or of all.
    async fn attempts(
        &self,
        job: Option<JobId>,
        after: Option<AttemptId>,
        limit: u32,
    ) -> Result<Vec<AttemptRow>, QueueError>;

    /// The last attempts of the batch, oldest first. Their numbers have gaps where a database holds several.
    async fn latest_attempts(&self, limit: u32) -> Result<Vec<AttemptRow>, QueueError>;

    /// Published files, page by page, with the job that they belong to.
    async fn outputs(
        &self,
        after: Option<OutputId>,
        limit: u32,
    ) -> Result<Vec<(JobId, JobName, OutputRow)>, QueueError>;

    /// Starts of the program, oldest first.
    async fn runs(&self) -> Result<Vec<RunRow>, QueueError>;

    /// Highest sum that the batch may have cost so far: confirmed costs and the reservations of
    /// everything in flight, lost or cut off.
    async fn cost_at_most(&self) -> Result<Micros, QueueError> {
        Ok(self.tally().await?.cost_at_most)
    }

    /// Ends the engine: all that was promised is committed, connections are closed, the
    /// write-ahead log is folded into the database. Later calls are [`QueueError::Closed`].
    async fn close(&self);
}
