//! The queue in a PostgreSQL database, for many machines and many batches.
//!
//! One connection writes, on the engine's own task, with group commit; one is there for heartbeats, which nothing
//! else may delay, two others only read, and one listens for word of other processes. Files by subject, in reading
//! order: `address`, `open` and `migrate` (the database), `session` and `link` (a connection that comes back, and transactions that
//! end for certain) with `connect`, `fate`, `patience` and `bounds` (all times, and what must hold between
//! them), `engine` and `group` (how commands become transactions), `stage` and `load` (a manifest comes in), `claim`, `settle`, `names`,
//! `publish`, `rescue`, `lanes`, `limits` (working), `depend` (jobs that need jobs), `person`, `news`, then `figures`
//! and `read`; `glob` and `fault` are the small tools of all.
//!
//! Where this differs from SQLite, it is because others write at the same time: rows are locked before they
//! are looked at for the last time (`FOR UPDATE`), in the order job, attempt, output; claims step over what
//! others are claiming (`SKIP LOCKED`); and a transaction that another one was in the way of is run again.
//! All times are the server's.

mod address;
mod bounds;
mod claim;
mod connect;
mod depend;
mod engine;
mod fate;
mod fault;
mod figures;
mod glob;
mod group;
mod lanes;
mod limits;
mod link;
mod load;
mod migrate;
mod names;
mod news;
mod open;
mod patience;
mod person;
mod publish;
mod read;
mod rescue;
mod results;
mod session;
mod settle;
mod stage;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Once};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use address::Address;
pub use bounds::SILENT_AFTER;
pub use open::OpenOptions;

use self::engine::{Commands, Way};
use self::link::Extent;
use self::patience::Haste;
use self::session::{Place, Session};
use super::{
    AttemptRow, BatchRow, Beat, ClaimRequest, Claimed, Cursor, JobFilter, JobRow, LaneEnd, LaneKey, LaneNote,
    LaneRow, LaneStateRow, Left, LoadDiff, LoadPolicy, LostPolicy, ModelLeft, NewJob, OutputMove, OutputRow,
    Publication, Queue, QueueError, Rescued, RunRow, RunStart, Scope, Selection, Settlement, Tally,
    WorkerRow, WorkerStart,
};
use crate::job::{AttemptId, Epoch, JobId, JobName, OutputId, RunId, Timestamp, WorkerId};
use crate::manifest::DigestEntry;
use crate::pacing::Lane;

/// A handle on one batch. Several handles, in one process or in many, on one machine or on many, share it.
#[derive(Debug)]
pub struct PostgresQueue {
    commands: Commands,
    batch: i64,
    place: Arc<Place>,
    news: Arc<Notify>,
    haste: Haste,
    listening: Once,
    closing: CancellationToken,
    engine: TaskTracker,
}

impl PostgresQueue {
    /// Runs `work` in a transaction of its own.
    async fn write<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync + 'static,
    {
        self.commands.write(Extent::Some, work).await
    }

    /// The same for what goes over a whole batch.
    async fn write_all<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync + 'static,
    {
        self.commands.write(Extent::All, work).await
    }

    /// Runs `work` on one state of the database.
    async fn read<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync + 'static,
    {
        self.commands.read(Way::Read, work).await
    }

    /// Runs a single statement.
    async fn look_up<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync + 'static,
    {
        self.commands.read(Way::LookUp, work).await
    }
}

/// A piece of work as a function that may be called again: what it was made with is shared by all calls.
macro_rules! work {
    ($session:ident, $($shared:ident),*; $call:expr) => {{
        $(let $shared = Arc::new($shared);)*
        move |$session: &mut Session| {
            $(let $shared = Arc::clone(&$shared);)*
            Box::pin(async move { $call.await })
        }
    }};
}

#[async_trait]
impl Queue for PostgresQueue {
    async fn stage(&self, jobs: Vec<NewJob>) -> Result<(), QueueError> {
        let jobs = stage::Columns::of(jobs)?;
        self.write_all(work!(session, jobs; stage::stage(session, &jobs))).await
    }

    async fn staged_diff(&self, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
        self.write_all(move |session| Box::pin(load::diff(session, policy))).await
    }

    async fn apply_load(&self, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
        self.write_all(move |session| Box::pin(load::apply(session, policy))).await
    }

    async fn reference_stamps(&self) -> Result<Vec<DigestEntry>, QueueError> {
        self.look_up(|session| Box::pin(read::stamps(session))).await
    }

    async fn save_reference_stamps(&self, stamps: Vec<DigestEntry>) -> Result<(), QueueError> {
        let stamps = load::Stamps::of(&stamps)?;
        self.write_all(work!(session, stamps; load::save_stamps(session, &stamps))).await
    }

    async fn start_run(&self, start: RunStart) -> Result<RunId, QueueError> {
        self.write(work!(session, start; rescue::start_run(session, &start))).await
    }

    async fn end_run(&self, run: RunId, reason: &str) -> Result<(), QueueError> {
        let reason = reason.to_owned();
        self.write(work!(session, reason; rescue::end_run(session, run, &reason))).await
    }

    async fn register_worker(&self, start: WorkerStart) -> Result<WorkerId, QueueError> {
        self.write(work!(session, start; rescue::register(session, &start))).await
    }

    async fn retire_worker(&self, worker: WorkerId) -> Result<bool, QueueError> {
        self.write(move |session| Box::pin(rescue::retire(session, worker))).await
    }

    async fn lane(&self, key: &LaneKey) -> Result<LaneRow, QueueError> {
        let key = key.clone();
        self.write(work!(session, key; lanes::lane(session, &key))).await
    }

    async fn note_lanes(&self, worker: WorkerId, notes: Vec<LaneNote>) -> Result<(), QueueError> {
        self.write(work!(session, notes; lanes::note(session, worker, &notes))).await
    }

    async fn lane_states(&self) -> Result<Vec<LaneStateRow>, QueueError> {
        self.look_up(|session| Box::pin(lanes::states(session))).await
    }

    async fn models_left(&self, scope: &Scope) -> Result<Vec<ModelLeft>, QueueError> {
        let scope = scope.clone();
        self.read(work!(session, scope; figures::models_left(session, &scope))).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, QueueError> {
        self.commands.claim(request).await
    }

    async fn lane_ended(&self, end: LaneEnd) -> Result<Option<Lane>, QueueError> {
        self.write(move |session| Box::pin(async move { limits::ended(session, &end).await })).await
    }

    async fn settle(&self, settlement: Settlement) -> Result<Publication, QueueError> {
        self.commands.settle(settlement).await
    }

    async fn rename_planned(
        &self,
        lease: (JobId, Epoch),
        output: OutputId,
        taken: &str,
    ) -> Result<String, QueueError> {
        let taken = taken.to_owned();
        self.write(work!(session, taken; publish::rename(session, lease, output, &taken))).await
    }

    async fn published(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        self.commands.published(job, epoch).await
    }

    async fn drain(&self, host: &str) -> Result<u64, QueueError> {
        let host = host.to_owned();
        self.write(work!(session, host; rescue::drain(session, &host))).await
    }

    async fn heartbeat(&self, worker: WorkerId) -> Result<Beat, QueueError> {
        self.commands.beat(move |session| Box::pin(rescue::heartbeat(session, worker))).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, QueueError> {
        self.look_up(|session| Box::pin(rescue::workers(session))).await
    }

    async fn rescue(
        &self,
        dead: &[WorkerId],
        heir: WorkerId,
        policy: LostPolicy,
    ) -> Result<Rescued, QueueError> {
        let dead: Vec<i64> = dead.iter().map(|worker| worker.0).collect();
        self.write(work!(session, dead; rescue::rescue(session, &dead, heir, policy))).await
    }

    async fn rescue_silent(&self, heir: WorkerId, policy: LostPolicy) -> Result<Rescued, QueueError> {
        self.write(move |session| Box::pin(rescue::rescue_silent(session, heir, policy))).await
    }

    fn spans_machines(&self) -> bool {
        true
    }

    fn heartbeat_every(&self) -> Duration {
        bounds::beat_every(self.place.silence)
    }

    fn hurry(&self, by: Instant) {
        self.haste.raise(by);
    }

    async fn news(&self) {
        self.listening.call_once(|| {
            let (place, news) = (Arc::clone(&self.place), Arc::clone(&self.news));
            self.engine.spawn(news::listen(place, self.batch, news, self.closing.clone()));
        });
        self.news.notified().await;
    }

    async fn planned_in_spool(&self) -> Result<Vec<String>, QueueError> {
        self.look_up(|session| Box::pin(publish::in_spool(session))).await
    }

    async fn unpublishable(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        self.write(move |session| Box::pin(publish::give_up(session, job, epoch))).await
    }

    async fn ended(&self, tokens: &[String]) -> Result<Vec<String>, QueueError> {
        let tokens = tokens.to_vec();
        self.look_up(work!(session, tokens; results::ended(session, &tokens))).await
    }

    async fn results(&self) -> Result<Option<String>, QueueError> {
        self.look_up(|session| Box::pin(results::results(session))).await
    }

    async fn decide_results(&self, place: &str) -> Result<Option<String>, QueueError> {
        let place = place.to_owned();
        self.write(work!(session, place; results::decide(session, &place))).await
    }

    async fn moves(&self) -> Result<Vec<OutputMove>, QueueError> {
        self.read(|session| Box::pin(publish::moves(session))).await
    }

    async fn begin_moves(&self, moves: &[OutputMove]) -> Result<(), QueueError> {
        let moves: (Vec<i64>, Vec<String>) = moves.iter().map(|one| (one.output.0, one.to.clone())).unzip();
        self.write(work!(session, moves; publish::begin_moves(session, (&moves.0, &moves.1)))).await
    }

    async fn moves_begun(&self) -> Result<Vec<OutputMove>, QueueError> {
        self.look_up(|session| Box::pin(publish::moves_begun(session))).await
    }

    async fn moved(&self, output: OutputId, name: &str) -> Result<(), QueueError> {
        let name = name.to_owned();
        self.write(work!(session, name; publish::moved(session, output, &name))).await
    }

    async fn next_due(&self, scope: &Scope) -> Result<Option<Timestamp>, QueueError> {
        let scope = scope.clone();
        self.look_up(work!(session, scope; figures::next_due(session, &scope))).await
    }

    async fn retry(&self, selection: &Selection) -> Result<u64, QueueError> {
        let selection = selection.clone();
        self.write_all(work!(session, selection; person::retry(session, &selection))).await
    }

    async fn cancel(&self, selection: &Selection) -> Result<u64, QueueError> {
        let selection = selection.clone();
        self.write_all(work!(session, selection; person::cancel(session, &selection))).await
    }

    async fn unpriced(&self, scope: &Scope) -> Result<u64, QueueError> {
        let scope = scope.clone();
        self.look_up(work!(session, scope; figures::unpriced(session, &scope))).await
    }

    async fn batch(&self) -> Result<BatchRow, QueueError> {
        self.look_up(|session| Box::pin(read::batch(session))).await
    }

    async fn tally(&self) -> Result<Tally, QueueError> {
        self.read(|session| Box::pin(figures::tally(session))).await
    }

    async fn left(&self, scope: &Scope) -> Result<Left, QueueError> {
        let scope = scope.clone();
        self.look_up(work!(session, scope; figures::left(session, &scope))).await
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Vec<JobRow>, QueueError> {
        let filter = filter.clone();
        self.read(work!(session, filter; read::jobs(session, &filter, (after, limit)))).await
    }

    async fn job(&self, name: &JobName) -> Result<Option<JobRow>, QueueError> {
        let name = name.clone();
        self.read(work!(session, name; read::job(session, &name))).await
    }

    async fn attempts(
        &self,
        job: Option<JobId>,
        after: Option<AttemptId>,
        limit: u32,
    ) -> Result<Vec<AttemptRow>, QueueError> {
        self.look_up(move |session| Box::pin(read::attempts(session, job, (after, limit)))).await
    }

    async fn latest_attempts(&self, limit: u32) -> Result<Vec<AttemptRow>, QueueError> {
        self.look_up(move |session| Box::pin(read::latest_attempts(session, limit))).await
    }

    async fn outputs(
        &self,
        after: Option<OutputId>,
        limit: u32,
    ) -> Result<Vec<(JobId, JobName, OutputRow)>, QueueError> {
        self.look_up(move |session| Box::pin(read::outputs(session, after, limit))).await
    }

    async fn runs(&self) -> Result<Vec<RunRow>, QueueError> {
        self.look_up(|session| Box::pin(read::runs(session))).await
    }

    async fn close(&self) {
        self.closing.cancel();
        self.commands.close().await;
        self.engine.close();
        self.engine.wait().await;
    }
}
