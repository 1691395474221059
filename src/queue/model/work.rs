//! Claims, settlements, workers, and what dead ones leave behind.

use std::collections::BTreeMap;

use super::rows::{AttemptRec, JobRec, LaneRec, Lease, Rows, WorkerRec};
use crate::job::{
    AttemptId, AttemptOutcome, Epoch, JobId, JobName, JobState, LaneId, Micros, RunId, Spec, Timestamp,
    WorkerId,
};
use crate::queue::{
    AttemptFacts, Beat, Claim, ClaimRequest, Claimed, Company, Counters, LOST_ALONE_MAX, LaneKey, LaneNote,
    LaneRow, LaneStateRow, LostPolicy, Next, Permits, Publication, QueueError, Rescued, RunRow, RunStart,
    Settlement, WorkerRow, WorkerStart,
};

impl Rows {
    pub(super) fn start_run(&mut self, start: RunStart, now: i64) -> RunId {
        let run = RunId(self.runs.len() as i64 + 1);
        self.runs.push(RunRow {
            run,
            command: start.command,
            version: start.version,
            started_at: Timestamp::from_ms(now),
            ended_at: None,
            end_reason: None,
        });
        run
    }

    pub(super) fn end_run(&mut self, run: RunId, reason: &str, now: i64) {
        if let Some(row) = self.runs.iter_mut().find(|row| row.run == run) {
            row.ended_at = Some(Timestamp::from_ms(now));
            row.end_reason = Some(reason.to_owned());
        }
    }

    pub(super) fn register(&mut self, start: WorkerStart, now: i64) -> WorkerId {
        let worker = WorkerId(self.workers.len() as i64 + 1);
        let now = Timestamp::from_ms(now);
        let row = WorkerRow {
            worker,
            token: start.token,
            host: start.host,
            pid: start.pid,
            version: self
                .runs
                .iter()
                .find(|run| run.run == start.run)
                .map_or_else(String::new, |run| run.version.clone()),
            draining: false,
            started_at: now,
            heartbeat_at: now,
            read_at: now,
            running: 0,
        };
        self.workers.push(WorkerRec { row, ended: false });
        worker
    }

    fn leases_of(&self, worker: WorkerId) -> impl Iterator<Item = (&JobRec, Lease)> {
        let leased = self.jobs.iter().filter_map(|job| Some((job, job.lease?)));
        leased.filter(move |(_, lease)| lease.worker == worker.0)
    }

    fn alive(&mut self, worker: WorkerId) -> Option<&mut WorkerRec> {
        self.workers.iter_mut().find(|one| one.row.worker == worker && !one.ended)
    }

    pub(super) fn retire(&mut self, worker: WorkerId, now: i64) -> bool {
        if self.leases_of(worker).next().is_some() {
            return false;
        }
        let Some(found) = self.alive(worker) else { return false };
        found.ended = true;
        found.row.heartbeat_at = Timestamp::from_ms(now);
        true
    }

    pub(super) fn living(&self, now: i64) -> Vec<WorkerRow> {
        let read_at = Timestamp::from_ms(now);
        let living = self.workers.iter().filter(|worker| !worker.ended);
        let count = |worker| self.leases_of(worker).count() as u64;
        living.map(|one| WorkerRow { running: count(one.row.worker), read_at, ..one.row.clone() }).collect()
    }

    pub(super) fn lane(&mut self, key: &LaneKey) -> LaneRow {
        let at = self.lanes.iter().position(|lane| lane.key == *key).unwrap_or_else(|| {
            self.lanes.push(LaneRec { key: key.clone(), known: None, states: BTreeMap::new() });
            self.lanes.len() - 1
        });
        LaneRow { lane: LaneId(at as i64 + 1), known: self.lanes[at].known }
    }

    pub(super) fn note_lanes(&mut self, worker: WorkerId, notes: Vec<LaneNote>, now: i64) {
        let lives = self.alive(worker).is_some();
        for note in notes {
            let lane = &mut self.lanes[note.lane.0 as usize - 1];
            lane.known = note.known.map(|known| (known, Timestamp::from_ms(now))).or(lane.known);
            if lives {
                lane.states.insert(worker, note.state);
            }
        }
    }

    pub(super) fn lane_states(&self) -> Vec<LaneStateRow> {
        let lives = |worker| self.workers.iter().any(|one| one.row.worker == worker && !one.ended);
        let mut rows: Vec<LaneStateRow> = (self.lanes.iter())
            .flat_map(|lane| lane.states.iter().map(move |(worker, state)| (lane, *worker, state)))
            .filter(|(_, worker, _)| lives(*worker))
            .map(|(lane, worker, state)| LaneStateRow {
                worker,
                model: lane.key.model.to_string(),
                key_id: lane.key.key_id.clone(),
                state: state.clone(),
            })
            .collect();
        rows.sort_by(|a, b| (&a.model, &a.key_id, a.worker).cmp(&(&b.model, &b.key_id, b.worker)));
        rows
    }

    pub(super) fn drain(&mut self, host: &str) -> u64 {
        let here = self.workers.iter_mut().filter(|one| !one.ended && one.row.host == host);
        here.map(|one| one.row.draining = true).count() as u64
    }

    pub(super) fn heartbeat(&mut self, worker: WorkerId, now: i64) -> Beat {
        let Some(found) = self.alive(worker) else {
            return Beat { cancelled: Vec::new(), declared_dead: true, draining: false };
        };
        found.row.heartbeat_at = Timestamp::from_ms(now);
        let draining = found.row.draining;
        let sent = |lease: &Lease| self.attempts[lease.attempt as usize - 1].outcome == AttemptOutcome::Sent;
        let cancelled = self.leases_of(worker).filter(|(job, lease)| job.cancel.is_some() && sent(lease));
        let cancelled = cancelled.map(|(job, lease)| (JobId(job.id), Epoch(lease.epoch))).collect();
        Beat { cancelled, declared_dead: false, draining }
    }

    pub(super) fn claim(&mut self, request: &ClaimRequest, now: i64) -> Result<Claimed, QueueError> {
        if self.alive(request.worker).is_none() {
            return Err(QueueError::DeclaredDead(request.worker));
        }
        for job in self.jobs.iter_mut().filter(|job| job.state == JobState::Pending && !job.ready) {
            job.ready = job.available_at <= now || job.snoozed_at > now;
        }
        let mut purse = request.cost_max.map(|max| max.0 - self.tally().cost_at_most.0);
        let mut claimed = Claimed::default();
        for permits in &request.permits {
            let lane = permits.lane;
            let count = match request.company {
                Company::Alone if !claimed.claims.is_empty() => break,
                Company::Alone => 1.min(permits.count),
                Company::Shared => permits.count,
            };
            for id in self.due(permits, count as usize, request) {
                let reservation = self.job(id).reservation.unwrap_or_default();
                match &mut purse {
                    Some(left) if reservation.0 > *left => claimed.capped = true,
                    purse => {
                        *purse = purse.map(|left| left - reservation.0);
                        claimed.claims.push(self.lease(id, lane, (request, now)));
                    }
                }
            }
        }
        Ok(claimed)
    }

    fn due(&self, permits: &Permits, count: usize, request: &ClaimRequest) -> Vec<i64> {
        let own = &self.lanes[permits.lane.0 as usize - 1].key.model;
        let alone = request.company == Company::Alone;
        let mut ids = Vec::new();
        for model in std::iter::once(own).chain(&permits.also_for) {
            let fits = |job: &&JobRec| {
                job.state == JobState::Pending
                    && job.ready
                    && job.spec().model == *model
                    && (model == own || job.new.job.fallback_models.contains(own))
                    && (job.turn() == 2) == alone
                    && job.is_in(&request.scope)
            };
            let mut due: Vec<&JobRec> = self.jobs.iter().filter(fits).collect();
            due.sort_by_key(|job| (job.turn(), -job.new.job.priority, job.new.job.ordinal));
            ids.extend(due.into_iter().map(|job| job.id).take(count - ids.len()));
        }
        ids
    }

    fn lease(&mut self, id: i64, lane: LaneId, (request, now): (&ClaimRequest, i64)) -> Claim {
        self.epoch += 1;
        let lease =
            Lease { worker: request.worker.0, epoch: self.epoch, attempt: self.attempts.len() as i64 + 1 };
        let model = self.lanes[lane.0 as usize - 1].key.model.clone();
        let job = self.job(id);
        (job.state, job.lease) = (JobState::Running, Some(lease));
        let reservation = job.reservation.unwrap_or_default();
        let claim = Claim {
            job: JobId(id),
            name: job.new.job.name.clone(),
            epoch: Epoch(lease.epoch),
            attempt: AttemptId(lease.attempt),
            lane,
            spec: Spec { model, ..job.spec().clone() },
            stream: job.new.job.stream,
            output: job.new.job.output.clone(),
            counters: Counters {
                transient: job.used.transient,
                no_image: job.used.no_image,
                lost: job.used.lost,
            },
            reservation,
            company: request.company,
        };
        let revision = job.revision();
        self.attempts.push(AttemptRec {
            id: lease.attempt,
            job: id,
            revision,
            run: request.run.0,
            lane: lane.0,
            alone: request.company == Company::Alone,
            outcome: AttemptOutcome::Sent,
            sent_at: now,
            ended_at: None,
            facts: AttemptFacts { cost_at_most: reservation, ..AttemptFacts::default() },
        });
        claim
    }

    /// The lease of a job, if it is this one.
    pub(super) fn leased(&mut self, job: JobId, epoch: Epoch) -> Result<Lease, QueueError> {
        let lease = self.job(job.0).lease.filter(|lease| lease.epoch == epoch.0);
        lease.ok_or(QueueError::LeaseLost { job })
    }

    pub(super) fn settle(&mut self, end: Settlement, now: i64) -> Result<Publication, QueueError> {
        if end.outcome == AttemptOutcome::Sent {
            return Err(QueueError::Broken {
                what: "attempt.outcome",
                detail: "`sent` is no end".to_owned(),
            });
        }
        let lease = self.leased(end.job, end.epoch)?;
        let attempt = self.attempt(end.attempt.0);
        if lease.attempt != end.attempt.0 || attempt.outcome != AttemptOutcome::Sent {
            return Err(QueueError::LeaseLost { job: end.job });
        }
        (attempt.outcome, attempt.ended_at, attempt.facts) = (end.outcome, Some(now), end.facts);
        let (revision, alone) = (attempt.revision, attempt.alone);
        let job = self.job(end.job.0);
        let is_present = job.revision() == revision;
        job.used.spared |= matches!(end.next, Next::Spare(_));
        if is_present && !matches!(end.next, Next::Spare(_)) {
            let count = |of| u32::from(end.outcome == of);
            job.used.transient += count(AttemptOutcome::Transient);
            job.used.no_image += count(AttemptOutcome::NoImage);
            job.used.lost += count(AttemptOutcome::Lost);
            job.used.lost_alone += count(AttemptOutcome::Lost) * u32::from(alone);
        }
        let (state, at) = match end.next {
            Next::Publish(files) => return Ok(self.plan(end.job, files)),
            Next::Retry(delay) | Next::Spare(delay) => {
                (JobState::Pending, Timestamp::from_ms(now).plus(delay).as_ms())
            }
            Next::Fail => (JobState::Failed, 0),
            Next::Refuse => (JobState::Refused, 0),
            Next::Hold => (JobState::Held, 0),
        };
        let state = match job.cancel {
            Some(_) => JobState::Cancelled,
            None if !is_present => JobState::Pending,
            None => state,
        };
        job.free(state);
        (job.ready, job.available_at, job.snoozed_at) = (at <= now, at, now);
        Ok(Publication::default())
    }

    pub(super) fn rescue(
        &mut self,
        dead: &[WorkerId],
        heir: WorkerId,
        (policy, now): (LostPolicy, i64),
    ) -> Result<Rescued, QueueError> {
        if dead.contains(&heir) || self.alive(heir).is_none() {
            return Err(QueueError::DeclaredDead(heir));
        }
        for one in self.workers.iter_mut().filter(|one| dead.contains(&one.row.worker)) {
            one.ended = true;
        }
        let is_left = |job: &&JobRec| job.lease.is_some_and(|lease| dead.contains(&WorkerId(lease.worker)));
        let mut left: Vec<&JobRec> = self.jobs.iter().filter(is_left).collect();
        left.sort_by_key(|job| (job.new.job.ordinal, job.id));
        let left: Vec<(i64, Lease)> = left.iter().filter_map(|job| Some((job.id, job.lease?))).collect();
        let mut rescued = Rescued::default();
        for (id, lease) in left {
            if self.attempt(lease.attempt).outcome == AttemptOutcome::Sent {
                rescued.lost += 1;
                rescued.poisoned.extend(self.lose(id, lease, (policy, now)));
            } else if let Some(publication) = self.publication(id) {
                self.epoch += 1;
                let epoch = self.epoch;
                let job = self.job(id);
                job.lease = Some(Lease { worker: heir.0, epoch, ..lease });
                let name = job.new.job.name.clone();
                rescued.publications.push((JobId(id), name, Epoch(epoch), publication));
            } else {
                self.job(id).free(JobState::Pending);
            }
        }
        Ok(rescued)
    }

    /// An attempt was lost. The job's name if it failed for it.
    fn lose(&mut self, id: i64, lease: Lease, (policy, now): (LostPolicy, i64)) -> Option<JobName> {
        let attempt = self.attempt(lease.attempt);
        let (revision, alone) = (attempt.revision, attempt.alone);
        let job = self.job(id);
        let is_present = job.revision() == revision;
        let state = match policy {
            _ if job.cancel.is_some() => JobState::Cancelled,
            _ if !is_present => JobState::Pending,
            LostPolicy::Retry if job.used.lost_alone + u32::from(alone) >= LOST_ALONE_MAX => JobState::Failed,
            LostPolicy::Retry => JobState::Pending,
            LostPolicy::Hold => JobState::Held,
        };
        job.used.lost += u32::from(is_present);
        job.used.lost_alone += u32::from(is_present && alone);
        job.free(state);
        let (lost, lost_alone, name) = (job.used.lost, job.used.lost_alone, job.new.job.name.clone());
        let poisoned = state == JobState::Failed;
        let attempt = self.attempt(lease.attempt);
        (attempt.outcome, attempt.ended_at) = (AttemptOutcome::Lost, Some(now));
        let (code, text) = if poisoned {
            let times = format!(
                "the process ended {lost_alone} times while this job ran alone ({lost} times in all)"
            );
            ("poison", times)
        } else {
            ("lost", "the process ended before the answer was recorded".to_owned())
        };
        attempt.facts.error_code = Some(code.to_owned());
        attempt.facts.error = Some(text);
        poisoned.then_some(name)
    }

    /// Known costs, and the most that all may have cost.
    pub(super) fn costs(&self) -> (Micros, Micros) {
        let costs =
            self.attempts.iter().map(|one| (one.facts.cost.unwrap_or_default(), one.facts.cost_at_most));
        costs.fold((Micros(0), Micros(0)), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}
