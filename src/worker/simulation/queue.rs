//! The queue as one process sees it: every call takes its time, may meet a disk that fails or be
//! the last thing that the process does, and is checked against the books.

use std::future::pending;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::sleep;

use super::life::Anchor;
use super::world::Strike;
use crate::job::{AttemptId, Epoch, JobId, JobName, OutputId, RunId, Timestamp, WorkerId};
use crate::manifest::DigestEntry;
use crate::queue::model::disk_error;
use crate::queue::{
    AttemptRow, BatchRow, Beat, ClaimRequest, Claimed, Cursor, JobFilter, JobRow, LaneKey, LaneNote, LaneRow,
    LaneStateRow, Left, LoadDiff, LoadPolicy, LostPolicy, ModelLeft, NewJob, OutputMove, OutputRow,
    Publication, Queue, QueueError, Rescued, RunRow, RunStart, Scope, Selection, Settlement, Tally,
    WorkerRow, WorkerStart,
};

/// A process' handle.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) anchor: Arc<Anchor>,
    pub(super) inner: Arc<dyn Queue>,
}

impl Watched {
    /// One call. `seen` writes the answer down at the instant at which it is true.
    async fn call<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, QueueError>>,
        seen: impl FnOnce(&Result<T, QueueError>),
    ) -> Result<T, QueueError> {
        let (world, life) = (&self.anchor.world, self.anchor.life);
        if self.anchor.is_gone() {
            return pending().await;
        }
        let (before, strike, after) = world.step(life);
        sleep(before).await;
        match strike {
            Strike::DeathBefore => {
                world.dies(life, &format!("before `{what}`"));
                return pending().await;
            }
            Strike::Disk => {
                world.with(|state| {
                    state.books.lives[life].disk_failed = true;
                    state.note(life, &format!("the disk fails at `{what}`"));
                });
                return Err(disk_error(what));
            }
            Strike::None | Strike::DeathAfter => {}
        }
        let turn = world.turn().await;
        if self.anchor.is_gone() {
            drop(turn);
            return pending().await;
        }
        let answer = call.await;
        seen(&answer);
        drop(turn);
        if strike == Strike::DeathAfter {
            world.dies(life, &format!("after `{what}`"));
            return pending().await;
        }
        sleep(after).await;
        answer
    }

    async fn plain<T>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        self.call(what, call, |_| {}).await
    }

    /// Notes what fits, and what does not.
    fn check(&self, note: Option<&str>, check: impl FnOnce(&mut super::books::Books) -> Result<(), String>) {
        let life = self.anchor.life;
        self.anchor.world.with(|state| {
            if let Some(note) = note {
                state.note(life, note);
            }
            if let Err(violation) = check(&mut state.books) {
                state.violation(life, &violation);
            }
        });
    }
}

#[async_trait]
impl Queue for Watched {
    async fn stage(&self, jobs: Vec<NewJob>) -> Result<(), QueueError> {
        self.inner.stage(jobs).await
    }

    async fn staged_diff(&self, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
        self.inner.staged_diff(policy).await
    }

    async fn apply_load(&self, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
        self.inner.apply_load(policy).await
    }

    async fn reference_stamps(&self) -> Result<Vec<DigestEntry>, QueueError> {
        self.inner.reference_stamps().await
    }

    async fn save_reference_stamps(&self, stamps: Vec<DigestEntry>) -> Result<(), QueueError> {
        self.inner.save_reference_stamps(stamps).await
    }

    async fn start_run(&self, start: RunStart) -> Result<RunId, QueueError> {
        let life = self.anchor.life;
        let seen = |answer: &Result<RunId, _>| {
            self.check(None, |books| {
                books.lives[life].run = answer.as_ref().ok().copied();
                Ok(())
            });
        };
        self.call("start_run", self.inner.start_run(start), seen).await
    }

    async fn end_run(&self, run: RunId, reason: &str) -> Result<(), QueueError> {
        self.plain("end_run", self.inner.end_run(run, reason)).await
    }

    async fn register_worker(&self, start: WorkerStart) -> Result<WorkerId, QueueError> {
        let life = self.anchor.life;
        let seen = |answer: &Result<WorkerId, _>| {
            self.check(None, |books| {
                books.lives[life].worker = answer.as_ref().ok().copied();
                Ok(())
            });
        };
        self.call("register_worker", self.inner.register_worker(start), seen).await
    }

    async fn retire_worker(&self, worker: WorkerId) -> Result<bool, QueueError> {
        let life = self.anchor.life;
        let seen = |answer: &Result<bool, _>| {
            self.check(None, |books| match answer {
                Ok(true) if books.leases_of(life).next().is_some() => {
                    Err("it retires with leases".to_owned())
                }
                _ => Ok(()),
            });
        };
        self.call("retire_worker", self.inner.retire_worker(worker), seen).await
    }

    async fn lane(&self, key: &LaneKey) -> Result<LaneRow, QueueError> {
        let model = key.model.to_string();
        let seen = |answer: &Result<LaneRow, _>| {
            self.check(None, |books| {
                books.lanes.extend(answer.iter().map(|row| (row.lane.0, model.clone())));
                Ok(())
            });
        };
        self.call("lane", self.inner.lane(key), seen).await
    }

    async fn note_lanes(&self, worker: WorkerId, notes: Vec<LaneNote>) -> Result<(), QueueError> {
        self.plain("note_lanes", self.inner.note_lanes(worker, notes)).await
    }

    async fn lane_states(&self) -> Result<Vec<LaneStateRow>, QueueError> {
        self.plain("lane_states", self.inner.lane_states()).await
    }

    async fn models_left(&self, scope: &Scope) -> Result<Vec<ModelLeft>, QueueError> {
        self.plain("models_left", self.inner.models_left(scope)).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Claimed, QueueError> {
        let life = self.anchor.life;
        if !self.anchor.is_gone() {
            let capped = self.anchor.world.is_capped(life);
            self.check(None, |books| books.claims(life, &request, capped));
        }
        let slots = self.anchor.world.plan.concurrency.max();
        let seen = |answer: &Result<Claimed, _>| {
            for claim in answer.iter().flat_map(|claimed| &claimed.claims) {
                let note = format!("claims {}, epoch {}, {:?}", claim.name, claim.epoch, claim.company);
                self.check(Some(&note), |books| books.claimed(life, claim, slots));
            }
        };
        let claimed = self.call("claim", self.inner.claim(request), seen).await;
        self.anchor.world.audit().await;
        claimed
    }

    async fn settle(&self, settlement: Settlement) -> Result<Publication, QueueError> {
        let life = self.anchor.life;
        let Settlement { job, epoch, outcome, .. } = settlement;
        if !self.anchor.is_gone() {
            self.check(None, |books| books.settles(life, &settlement));
        }
        let seen = |answer: &Result<Publication, _>| {
            let note = format!("settles job {job} as {outcome}: {}", word(answer));
            let end = (job, epoch, outcome);
            self.check(Some(&note), |books| books.settled(life, end, answer));
        };
        let settled = self.call("settle", self.inner.settle(settlement), seen).await;
        self.anchor.world.audit().await;
        settled
    }

    async fn rename_planned(
        &self,
        lease: (JobId, Epoch),
        output: OutputId,
        taken: &str,
    ) -> Result<String, QueueError> {
        let seen = |answer: &Result<String, _>| {
            self.check(None, |books| {
                if let Ok(name) = answer {
                    books.renamed(lease.0, output, name);
                }
                Ok(())
            });
        };
        self.call("rename_planned", self.inner.rename_planned(lease, output, taken), seen).await
    }

    async fn published(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        let (world, life) = (&self.anchor.world, self.anchor.life);
        let seen = |answer: &Result<(), _>| {
            let note = format!("publishes job {job}: {}", word(answer));
            let images = world.folder.images();
            self.check(Some(&note), |books| books.published(life, (job, epoch), answer, &images));
        };
        let published = self.call("published", self.inner.published(job, epoch), seen).await;
        world.audit().await;
        published
    }

    async fn drain(&self, host: &str) -> Result<u64, QueueError> {
        self.inner.drain(host).await
    }

    async fn heartbeat(&self, worker: WorkerId) -> Result<Beat, QueueError> {
        self.plain("heartbeat", self.inner.heartbeat(worker)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>, QueueError> {
        self.plain("workers", self.inner.workers()).await
    }

    async fn rescue(
        &self,
        dead: &[WorkerId],
        heir: WorkerId,
        policy: LostPolicy,
    ) -> Result<Rescued, QueueError> {
        let life = self.anchor.life;
        let seen = |answer: &Result<Rescued, _>| {
            if let Ok(rescued) = answer {
                let note = format!("rescues {dead:?}: {} lost", rescued.lost);
                self.check(Some(&note), |books| books.rescued(life, dead, rescued));
            }
        };
        let rescued = self.call("rescue", self.inner.rescue(dead, heir, policy), seen).await;
        self.anchor.world.audit().await;
        rescued
    }

    async fn planned_in_spool(&self) -> Result<Vec<String>, QueueError> {
        self.plain("planned_in_spool", self.inner.planned_in_spool()).await
    }

    async fn unpublishable(&self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        let life = self.anchor.life;
        let note = format!("job {job}, epoch {epoch}: its pictures vanished from the spool");
        self.anchor.world.with(|state| state.violation(life, &note));
        self.plain("unpublishable", self.inner.unpublishable(job, epoch)).await
    }

    async fn moves(&self) -> Result<Vec<OutputMove>, QueueError> {
        self.inner.moves().await
    }

    async fn begin_moves(&self, moves: &[OutputMove]) -> Result<(), QueueError> {
        self.inner.begin_moves(moves).await
    }

    async fn moves_begun(&self) -> Result<Vec<OutputMove>, QueueError> {
        self.inner.moves_begun().await
    }

    async fn moved(&self, output: OutputId, name: &str) -> Result<(), QueueError> {
        self.inner.moved(output, name).await
    }

    async fn next_due(&self, scope: &Scope) -> Result<Option<Timestamp>, QueueError> {
        self.plain("next_due", self.inner.next_due(scope)).await
    }

    async fn retry(&self, selection: &Selection) -> Result<u64, QueueError> {
        self.inner.retry(selection).await
    }

    async fn cancel(&self, selection: &Selection) -> Result<u64, QueueError> {
        self.inner.cancel(selection).await
    }

    async fn batch(&self) -> Result<BatchRow, QueueError> {
        self.inner.batch().await
    }

    async fn tally(&self) -> Result<Tally, QueueError> {
        self.plain("tally", self.inner.tally()).await
    }

    async fn unpriced(&self, scope: &Scope) -> Result<u64, QueueError> {
        self.inner.unpriced(scope).await
    }

    async fn left(&self, scope: &Scope) -> Result<Left, QueueError> {
        self.plain("left", self.inner.left(scope)).await
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<Vec<JobRow>, QueueError> {
        self.inner.jobs(filter, after, limit).await
    }

    async fn job(&self, name: &JobName) -> Result<Option<JobRow>, QueueError> {
        self.inner.job(name).await
    }

    async fn attempts(
        &self,
        job: Option<JobId>,
        after: Option<AttemptId>,
        limit: u32,
    ) -> Result<Vec<AttemptRow>, QueueError> {
        self.inner.attempts(job, after, limit).await
    }

    async fn latest_attempts(&self, limit: u32) -> Result<Vec<AttemptRow>, QueueError> {
        self.inner.latest_attempts(limit).await
    }

    async fn outputs(
        &self,
        after: Option<OutputId>,
        limit: u32,
    ) -> Result<Vec<(JobId, JobName, OutputRow)>, QueueError> {
        self.inner.outputs(after, limit).await
    }

    async fn runs(&self) -> Result<Vec<RunRow>, QueueError> {
        self.inner.runs().await
    }

    async fn close(&self) {}
}

/// An answer in a word.
fn word<T>(answer: &Result<T, QueueError>) -> &'static str {
    match answer {
        Ok(_) => "done",
        Err(QueueError::LeaseLost { .. }) => "lease lost",
        Err(_) => "failed",
    }
}
