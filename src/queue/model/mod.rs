//! The queue in memory, for tests that need it fast and repeatable: every call is one step, done
//! before its future is first waited for. It passes the same conformance suite as SQLite, which
//! is what makes it worth trusting; it knows nothing of disks and processes.
//!
//! Files by subject: `rows` (the tables), `load`, `work` (claim, settle, rescue), `files` (names,
//! publishing), `read`.

#![expect(clippy::cast_possible_wrap, reason = "small numbers in tests")]

mod files;
mod load;
mod read;
mod rows;
mod work;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use self::rows::Rows;
use super::{
    AttemptRow, BatchRow, Beat, ClaimRequest, Claimed, Cursor, JobFilter, JobRow, LaneKey, LaneNote, LaneRow,
    LaneStateRow, Left, LoadDiff, LoadPolicy, LostPolicy, ModelLeft, NewJob, OutputMove, OutputRow,
    Publication, Queue, QueueError, Rescued, RunRow, RunStart, Scope, Selection, Settlement, Tally,
    WorkerRow, WorkerStart,
};
use crate::job::{AttemptId, Clock, Epoch, JobId, JobName, OutputId, RunId, Timestamp, WorkerId};
use crate::manifest::DigestEntry;

/// What all handles on one queue share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables(Arc<Mutex<Rows>>);

impl Tables {
    fn with<T>(&self, step: impl FnOnce(&mut Rows) -> T) -> T {
        step(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A handle on a queue in memory.
#[derive(Debug)]
pub(crate) struct ModelQueue {
    tables: Tables,
    clock: Arc<dyn Clock>,
    staged: Mutex<Vec<NewJob>>,
    closed: AtomicBool,
}

impl ModelQueue {
    /// A handle on `tables`.
    pub(crate) fn open(tables: &Tables, clock: Arc<dyn Clock>) -> Self {
        Self { tables: tables.clone(), clock, staged: Mutex::default(), closed: AtomicBool::new(false) }
    }

    fn with<T>(&self, step: impl FnOnce(&mut Rows, i64) -> Result<T, QueueError>) -> Result<T, QueueError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(QueueError::Closed);
        }
        let now = self.clock.now().as_ms();
        self.tables.with(|rows| step(rows, now))
    }

    fn staged(&self) -> Vec<NewJob> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a disk that fails looks like to who uses a queue.
pub(crate) fn disk_error(what: &'static str) -> QueueError {
    QueueError::Disk { what, source: Arc::new(std::io::Error::from(std::io::ErrorKind::StorageFull)) }
}

#[async_trait]
impl Queue for ModelQueue {
    async fn stage(&self, jobs: Vec<NewJob>) -> Result<(), QueueError> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).extend(jobs);
        Ok(())
    }

    async fn staged_diff(&self, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
        let staged = self.staged();
        self.with(|rows, _| Ok(rows.load_diff(&staged, policy)))
    }

    async fn apply_load(&self, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
        let staged = self.staged();
        let diff = self.with(|rows, _| rows.load(&staged, policy))?;
        self.staged.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(diff)
    }

    async fn reference_stamps(&self) -> Result<Vec<DigestEntry>, QueueError> {
        self.with(|rows, _| Ok(rows.stamps.clone()))
    }

    async fn save_reference_stamps(&self, stamps: Vec<DigestEntry>) -> Result<(), QueueError> {
        self.with(|rows, _| {
            rows.stamps = stamps;
            rows.stamps.sort_by(|one, other| one.path.cmp(&other.path));
            Ok(())
        })
    }

    async fn start_run(&self, start: RunStart) -> Result<RunId, QueueError> {
        self.with(|rows, now| Ok(rows.start_run(start, now)))
    }

    async fn end_run(&self, run: RunId, reason: &str) -> Result<(), QueueError> {
        self.with(|rows, now| {
            rows.end_run(run, reason, now);
            Ok(())
        })
    }

    async fn register_worker(&self, start: WorkerStart) -> Result<WorkerId, QueueError> {
        self.with(|rows, now| Ok(rows.register(start, now)))
    }

    async fn retire_worker(&self, worker: WorkerId) -> Result<bool, QueueError> {
        self.with(|rows, now| Ok(rows.retire(worker, now)))
    }

    async fn lane(&self, key: &LaneKey) -> Result<LaneRow, QueueError> {
        self.with(|rows, _| Ok(rows.lane(key)))
    }

    async fn note_lanes(&self, worker: WorkerId, notes: Vec<LaneNote>) -> Result<(), QueueError> {
        self.with(|rows, now| {
            rows.note_lanes(worker, notes, now);
            Ok(())
        })
    }

    async fn lane_states(&self) -> Result<Vec<LaneStateRow>, QueueError> {
        self.with(|rows, _| Ok(rows.lane_states()))
    }

    async fn models_left(&self, scope: &Scope) -> Result<Vec<ModelLeft>, QueueError> {
        self.with(|rows, _| Ok(rows.models_left(scope)))
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, QueueError> {
        self.with(|rows, now| rows.claim(&request, now))
    }

    async fn settle(&self, settlement: Settlement) -> Result<Publication, QueueError> {
        self.with(|rows, now| rows.settle(settlement, now))
    }

    async fn rename_planned(
        &self,
        lease: (JobId, Epoch),
        output: OutputId,
        taken: &str,
    ) -> Result<String, QueueError> {
        self.with(|rows, _| rows.rename_planned(lease, output, taken))
    }

    async fn published(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        self.with(|rows, _| rows.published(job, epoch))
    }

    async fn drain(&self, host: &str) -> Result<u64, QueueError> {
        self.with(|rows, _| Ok(rows.drain(host)))
    }

    async fn heartbeat(&self, worker: WorkerId) -> Result<Beat, QueueError> {
        self.with(|rows, now| Ok(rows.heartbeat(worker, now)))
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, QueueError> {
        self.with(|rows, now| Ok(rows.living(now)))
    }

    async fn rescue(
        &self,
        dead: &[WorkerId],
        heir: WorkerId,
        policy: LostPolicy,
    ) -> Result<Rescued, QueueError> {
        self.with(|rows, now| rows.rescue(dead, heir, (policy, now)))
    }

    async fn planned_in_spool(&self) -> Result<Vec<String>, QueueError> {
        self.with(|rows, _| Ok(rows.planned_in_spool()))
    }

    async fn unpublishable(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        self.with(|rows, _| rows.unpublishable(job, epoch))
    }

    async fn moves(&self) -> Result<Vec<OutputMove>, QueueError> {
        self.with(|rows, _| Ok(rows.moves()))
    }

    async fn begin_moves(&self, moves: &[OutputMove]) -> Result<(), QueueError> {
        self.with(|rows, _| {
            rows.begin_moves(moves);
            Ok(())
        })
    }

    async fn moves_begun(&self) -> Result<Vec<OutputMove>, QueueError> {
        self.with(|rows, _| Ok(rows.moves_begun()))
    }

    async fn moved(&self, output: OutputId, name: &str) -> Result<(), QueueError> {
        self.with(|rows, _| {
            rows.moved(output, name);
            Ok(())
        })
    }

    async fn next_due(&self, scope: &Scope) -> Result<Option<Timestamp>, QueueError> {
        self.with(|rows, _| Ok(rows.next_due(scope)))
    }

    async fn retry(&self, selection: &Selection) -> Result<u64, QueueError> {
        self.with(|rows, _| rows.retry(selection))
    }

    async fn cancel(&self, selection: &Selection) -> Result<u64, QueueError> {
        self.with(|rows, _| rows.cancel(selection))
    }

    async fn batch(&self) -> Result<BatchRow, QueueError> {
        let (manifest, provider) = (None, crate::job::Provider::Simulator);
        Ok(BatchRow { manifest, provider, created_at: Timestamp::default() })
    }

    async fn tally(&self) -> Result<Tally, QueueError> {
        self.with(|rows, _| Ok(rows.tally()))
    }

    async fn unpriced(&self, scope: &Scope) -> Result<u64, QueueError> {
        self.with(|rows, _| Ok(rows.unpriced(scope)))
    }

    async fn left(&self, scope: &Scope) -> Result<Left, QueueError> {
        self.with(|rows, now| Ok(rows.left(scope, now)))
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Vec<JobRow>, QueueError> {
        self.with(|rows, _| Ok(rows.job_rows(filter, after, limit)))
    }

    async fn job(&self, name: &JobName) -> Result<Option<JobRow>, QueueError> {
        self.with(|rows, _| Ok(rows.by_name(name).map(|job| rows.job_row(job))))
    }

    async fn attempts(
        &self,
        job: Option<JobId>,
        after: Option<AttemptId>,
        limit: u32,
    ) -> Result<Vec<AttemptRow>, QueueError> {
        self.with(|rows, _| Ok(rows.attempt_rows(job, after, limit)))
    }

    async fn latest_attempts(&self, limit: u32) -> Result<Vec<AttemptRow>, QueueError> {
        self.with(|rows, _| {
            let mut all = rows.attempt_rows(None, None, u32::MAX);
            let first = all.len().saturating_sub(limit as usize);
            Ok(all.split_off(first))
        })
    }

    async fn outputs(
        &self,
        after: Option<OutputId>,
        limit: u32,
    ) -> Result<Vec<(JobId, JobName, OutputRow)>, QueueError> {
        self.with(|rows, _| Ok(rows.output_rows(after, limit)))
    }

    async fn runs(&self) -> Result<Vec<RunRow>, QueueError> {
        self.with(|rows, _| Ok(rows.runs.clone()))
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod conforms {
    use std::sync::Arc;

    use async_trait::async_trait;

    use super::{ModelQueue, Tables};
    use crate::job::Clock;
    use crate::queue::Queue;
    use crate::queue::conformance::{Bench, conformance_suite};

    #[async_trait]
    impl Bench for Tables {
        async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Queue> {
            Arc::new(ModelQueue::open(self, clock))
        }
    }

    conformance_suite!(Some(Tables::default()));
}
