//! The queue in one SQLite file.
//!
//! One connection writes, on the engine's own thread, with group commit; a few others only read.
//! Files by subject, in reading order: `open` and `migrate` (the database), `engine` (the
//! thread that writes), `group` (how commands become a transaction), `readers`, `stage` and `load` (a manifest comes in), `claim`,
//! `settle`, `names`, `publish`, `rescue`, `lanes` (working), `depend` (jobs that need jobs),
//! `person`, then `figures` and `read`; `sql`, `row` and `fault` are the small tools of all.
//!
//! Nothing here is async: a statement is a call, and who waits does so at the door, in `engine` and
//! `readers`.

mod claim;
#[cfg(test)]
mod cost_tests;
mod depend;
mod engine;
mod fault;
mod figures;
mod group;
mod lanes;
mod load;
mod migrate;
mod names;
mod open;
mod person;
mod publish;
mod read;
mod readers;
mod rescue;
mod row;
mod settle;
mod sql;
mod stage;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Connection;

pub use open::{OpenOptions, Synchronous};

use self::engine::Commands;
use self::fault::located;
use self::readers::Readers;
use super::{
    AttemptRow, BatchRow, Beat, ClaimRequest, Claimed, Cursor, JobFilter, JobRow, LaneKey, LaneNote, LaneRow,
    LaneStateRow, Left, LoadDiff, LoadPolicy, LostPolicy, ModelLeft, NewJob, OutputMove, OutputRow,
    Publication, Queue, QueueError, Rescued, RunRow, RunStart, Scope, Selection, Settlement, Tally,
    WorkerRow, WorkerStart,
};
use crate::job::{AttemptId, Clock, Epoch, JobId, JobName, OutputId, RunId, Timestamp, WorkerId};
use crate::manifest::DigestEntry;

/// A handle on the queue of one run folder. Several handles, in one process or in many, share it.
#[derive(Debug)]
pub struct SqliteQueue {
    commands: Commands,
    /// `None` where all goes over one connection: a queue in memory, or opened to read only.
    readers: Option<Readers>,
    batch: i64,
    path: PathBuf,
    clock: Arc<dyn Clock>,
}

impl SqliteQueue {
    /// Runs `work` in a transaction of the engine.
    async fn write<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&engine::Session) -> Result<T, QueueError> + Send + 'static,
    {
        self.commands.write(work).await
    }

    /// Runs `work` on one state of the database. Dropping it drops nothing but the answer.
    async fn read<T, F>(&self, work: F) -> Result<T, QueueError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, QueueError> + Send + 'static,
    {
        let Some(readers) = &self.readers else {
            return self.commands.write(move |session| work(&session.conn)).await;
        };
        readers.read(work).await.map_err(|error| located(error, &self.path))
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn stage(&self, jobs: Vec<NewJob>) -> Result<(), QueueError> {
        let staged = jobs.into_iter().map(stage::Staged::of).collect::<Result<Vec<_>, _>>()?;
        self.write(move |session| stage::stage(session, staged)).await
    }

    async fn staged_diff(&self, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
        self.write(move |session| load::diff(session, policy)).await
    }

    async fn apply_load(&self, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
        self.write(move |session| load::apply(session, policy)).await
    }

    async fn reference_stamps(&self) -> Result<Vec<DigestEntry>, QueueError> {
        self.read(read::stamps).await
    }

    async fn save_reference_stamps(&self, stamps: Vec<DigestEntry>) -> Result<(), QueueError> {
        self.write(move |session| load::save_stamps(session, &stamps)).await
    }

    async fn start_run(&self, start: RunStart) -> Result<RunId, QueueError> {
        self.write(move |session| rescue::start_run(session, &start)).await
    }

    async fn end_run(&self, run: RunId, reason: &str) -> Result<(), QueueError> {
        let reason = reason.to_owned();
        self.write(move |session| rescue::end_run(session, run, &reason)).await
    }

    async fn register_worker(&self, start: WorkerStart) -> Result<WorkerId, QueueError> {
        self.write(move |session| rescue::register(session, &start)).await
    }

    async fn retire_worker(&self, worker: WorkerId) -> Result<bool, QueueError> {
        self.write(move |session| rescue::retire(session, worker)).await
    }

    async fn lane(&self, key: &LaneKey) -> Result<LaneRow, QueueError> {
        let key = key.clone();
        self.write(move |session| lanes::lane(session, &key)).await
    }

    async fn note_lanes(&self, worker: WorkerId, notes: Vec<LaneNote>) -> Result<(), QueueError> {
        self.write(move |session| lanes::note(session, worker, notes)).await
    }

    async fn lane_states(&self) -> Result<Vec<LaneStateRow>, QueueError> {
        self.read(lanes::states).await
    }

    async fn models_left(&self, scope: &Scope) -> Result<Vec<ModelLeft>, QueueError> {
        let (scope, batch) = (scope.clone(), self.batch);
        self.read(move |conn| figures::models_left(conn, batch, &scope)).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, QueueError> {
        self.commands.claim(request).await
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
        self.write(move |session| publish::rename(session, lease, output, &taken)).await
    }

    async fn published(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        self.commands.published(job, epoch).await
    }

    async fn heartbeat(&self, worker: WorkerId) -> Result<Beat, QueueError> {
        self.write(move |session| rescue::heartbeat(session, worker)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, QueueError> {
        let now = self.clock.now();
        self.read(move |conn| rescue::workers(conn, now)).await
    }

    async fn drain(&self, host: &str) -> Result<u64, QueueError> {
        let host = host.to_owned();
        self.write(move |session| rescue::drain(session, &host)).await
    }

    async fn rescue(
        &self,
        dead: &[WorkerId],
        heir: WorkerId,
        policy: LostPolicy,
    ) -> Result<Rescued, QueueError> {
        let dead = dead.to_vec();
        self.write(move |session| rescue::rescue(session, &dead, heir, policy)).await
    }

    async fn planned_in_spool(&self) -> Result<Vec<String>, QueueError> {
        self.read(publish::in_spool).await
    }

    async fn unpublishable(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        self.write(move |session| publish::give_up(session, job, epoch)).await
    }

    async fn moves(&self) -> Result<Vec<OutputMove>, QueueError> {
        let batch = self.batch;
        self.read(move |conn| publish::moves(conn, batch)).await
    }

    async fn begin_moves(&self, moves: &[OutputMove]) -> Result<(), QueueError> {
        let moves: Vec<_> = moves.iter().map(|one| (one.output, one.to.clone())).collect();
        self.write(move |session| publish::begin_moves(session, &moves)).await
    }

    async fn moves_begun(&self) -> Result<Vec<OutputMove>, QueueError> {
        let batch = self.batch;
        self.read(move |conn| publish::moves_begun(conn, batch)).await
    }

    async fn moved(&self, output: OutputId, name: &str) -> Result<(), QueueError> {
        let name = name.to_owned();
        self.write(move |session| publish::moved(session, output, &name)).await
    }

    async fn next_due(&self, scope: &Scope) -> Result<Option<Timestamp>, QueueError> {
        let (scope, batch) = (scope.clone(), self.batch);
        self.read(move |conn| figures::next_due(conn, batch, &scope)).await
    }

    async fn retry(&self, selection: &Selection) -> Result<u64, QueueError> {
        let selection = selection.clone();
        self.write(move |session| person::retry(session, &selection)).await
    }

    async fn cancel(&self, selection: &Selection) -> Result<u64, QueueError> {
        let selection = selection.clone();
        self.write(move |session| person::cancel(session, &selection)).await
    }

    async fn unpriced(&self, scope: &Scope) -> Result<u64, QueueError> {
        let (batch, scope) = (self.batch, scope.clone());
        self.read(move |conn| figures::unpriced(conn, batch, &scope)).await
    }

    async fn batch(&self) -> Result<BatchRow, QueueError> {
        let batch = self.batch;
        self.read(move |conn| read::batch(conn, batch)).await
    }

    async fn tally(&self) -> Result<Tally, QueueError> {
        let batch = self.batch;
        self.read(move |conn| figures::tally(conn, batch)).await
    }

    async fn left(&self, scope: &Scope) -> Result<Left, QueueError> {
        let (scope, batch, now) = (scope.clone(), self.batch, self.clock.now().as_ms());
        self.read(move |conn| figures::left(conn, batch, now, &scope)).await
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Vec<JobRow>, QueueError> {
        let (filter, batch) = (filter.clone(), self.batch);
        self.read(move |conn| read::jobs(conn, batch, &filter, (after, limit))).await
    }

    async fn job(&self, name: &JobName) -> Result<Option<JobRow>, QueueError> {
        let (name, batch) = (name.clone(), self.batch);
        self.read(move |conn| read::job(conn, batch, &name)).await
    }

    async fn attempts(
        &self,
        job: Option<JobId>,
        after: Option<AttemptId>,
        limit: u32,
    ) -> Result<Vec<AttemptRow>, QueueError> {
        self.read(move |conn| read::attempts(conn, job, (after, limit))).await
    }

    async fn latest_attempts(&self, limit: u32) -> Result<Vec<AttemptRow>, QueueError> {
        self.read(move |conn| read::latest_attempts(conn, limit)).await
    }

    async fn outputs(
        &self,
        after: Option<OutputId>,
        limit: u32,
    ) -> Result<Vec<(JobId, JobName, OutputRow)>, QueueError> {
        self.read(move |conn| read::outputs(conn, after, limit)).await
    }

    async fn runs(&self) -> Result<Vec<RunRow>, QueueError> {
        self.read(read::runs).await
    }

    async fn close(&self) {
        if let Some(readers) = &self.readers {
            readers.close().await;
        }
        self.commands.close().await;
    }
}
