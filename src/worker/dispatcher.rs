//! The dispatcher: claims no more than there are free slots and permits, starts executors, and
//! records how they ended. It alone decides, talks to the queue for them and tells what happens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use super::decision::{Decision, Grounds};
use super::executor::{self, Cause, Ended, Order, Tools};
use super::finish::{self, Recorded};
use super::lanes::{Begun, LaneEnd, Lanes, Lesson, Moment};
use super::progress::{Phase, Progress};
use super::pulse::Beats;
use super::rescue::{Blocked, rescue};
use super::room::Room;
use super::{Ending, Event, Shift, Shutdown, Stop, Work, WorkError, ending};
use crate::gemini::fault::Fault;
use crate::job::{AttemptOutcome, CrashPoint, JobId, JobName, JobState, Micros, Timestamp, crash_point};
use crate::output::PublishError;
use crate::pacing::{Closed, Lane, Ticket};
use crate::queue::{
    Beat, Claim, ClaimRequest, Company, LaneEnd as SharedLaneEnd, Permits, Queue, QueueError, Settlement,
};

/// Nothing is waited for longer than this without another look.
const LOOKS_EVERY: Duration = Duration::from_secs(3);

/// How often an idle dispatcher looks for work that others put into the queue.
const POLL: Duration = Duration::from_secs(1);
/// The same on a queue of many machines, which tells of what is new: cut by up to a half at random, so that
/// not all of them ask at once.
const POLL_OF_MANY: Duration = Duration::from_secs(2);

/// Who could not beat for so many heartbeats claims nothing: others take it for dead after ten.
const SILENT_BEATS: u32 = 5;
/// Who waits for a lane of many looks so often whether that is still worth it.
const IDLE_LOOKS_EVERY: Duration = Duration::from_secs(1);
/// For so long it is remembered when the next job is due.
const DUE_KNOWN: Duration = Duration::from_secs(1);

/// Lanes that are asked at once for a job that runs alone; more than a manifest names models.
const LANES_ALONE: u32 = 64;

/// Runs until an [`Ending`]. Everything that was started is joined before it returns.
pub(super) struct Dispatcher<'a> {
    work: &'a Work,
    tools: Arc<Tools>,
    shift: &'a Shift,
    beats: &'a Beats,
    /// When the last beat was sent that found this worker alive.
    beaten_at: Option<Instant>,
    lanes: Lanes,
    breaker: Breaker,
    rng: StdRng,
    executors: JoinSet<(Claim, Ended)>,
    records: JoinSet<(JobName, Result<Record, WorkError>)>,
    /// In an order, so that what is cut off ends in the same one each time: a simulation repeats it.
    running: BTreeMap<JobId, Running>,
    /// Results that cannot be put in place.
    blocked: Blocked,
    /// Claims were left because of the cap, and nothing has been settled since.
    capped: bool,
    /// A job runs that may kill the process: nothing else is begun until it has ended.
    alone: bool,
    room: Room,
    /// When it was last looked whether the run is over.
    idle_looked_at: Option<Instant>,
    /// When the next job is due, as of when.
    next_due: Option<(Option<Timestamp>, Instant)>,
    /// Jobs whose end could not be recorded, since the queue was away until the run had to end.
    unrecorded: Vec<JobName>,
    /// Recorded answers that could not be taken to where they belong before the run had to end.
    unpublished: u64,
    draining: Option<Drain>,
}

/// A request on its way.
struct Running {
    ticket: Ticket,
    cancel: CancellationToken,
    progress: Arc<Progress>,
}

/// The run is ending.
struct Drain {
    ending: Ending,
    /// When requests that still run are cut off.
    cut_at: Option<Instant>,
}

/// An end that was recorded.
struct Record {
    recorded: Recorded,
    event: EndedEvent,
    /// The lane, where it is shared and was told of the end.
    lane: Option<Lane>,
}

/// An [`Event::Ended`] in the making: what the record adds is the files.
struct EndedEvent {
    claim: Claim,
    outcome: AttemptOutcome,
    state: JobState,
    message: Option<String>,
    again_in: Option<Duration>,
    cost: Option<Micros>,
    took: Duration,
}

impl<'a> Dispatcher<'a> {
    pub(super) fn new(
        work: &'a Work,
        tools: Tools,
        (shift, beats): (&'a Shift, &'a Beats),
        blocked: Blocked,
    ) -> Self {
        Self {
            work,
            tools: Arc::new(tools),
            shift,
            beats,
            beaten_at: None,
            lanes: Lanes::new(work.config.seed),
            breaker: Breaker::new(work.config.failures_max),
            rng: StdRng::seed_from_u64(work.config.seed.wrapping_add(1)),
            executors: JoinSet::new(),
            records: JoinSet::new(),
            running: BTreeMap::new(),
            blocked,
            capped: false,
            alone: false,
            room: Room::new(),
            idle_looked_at: None,
            next_due: None,
            unrecorded: Vec::new(),
            unpublished: 0,
            draining: None,
        }
    }

    /// Works. On an error, what is on its way is paid for: it is waited for, and recorded if the
    /// queue can be had again, before the error is returned.
    pub(super) async fn run(mut self) -> Result<Ending, WorkError> {
        let mut result = self.run_to_end().await;
        if result.is_ok()
            && let Err(error) = self.note_lanes().await
        {
            result = Err(error);
        }
        if let Err(error) = &result {
            tracing::error!(error = error.to_string(), "the run cannot go on");
            // Another worker has the jobs of the dead: nothing of ours can be recorded any more.
            let grace = if error.is_of_the_dead() { Duration::ZERO } else { self.work.config.grace };
            let cut_at = Instant::now() + grace;
            self.finish_what_runs(self.shift.ends_by.at().map_or(cut_at, |by| by.min(cut_at))).await;
        }
        self.tell_unrecorded();
        self.tell_unpublished();
        result
    }

    /// What nobody will know of once this process has ended.
    fn tell_unrecorded(&self) {
        let Some(first) = self.unrecorded.first() else { return };
        let warning = format!(
            "the end of {} requests could not be recorded, since the queue's server is away (first {first}): they \
             count as lost, and are sent and perhaps paid again",
            self.unrecorded.len()
        );
        tracing::error!(jobs = ?self.unrecorded, "not recorded");
        self.work.observer.event(&Event::Warning(warning));
    }

    fn tell_unpublished(&self) {
        if self.unpublished > 0 {
            let warning = format!(
                "{} answers are recorded and wait in {}: the next run in this folder takes them to {}",
                self.unpublished,
                self.work.results.folder().spool().display(),
                self.work.results,
            );
            self.work.observer.event(&Event::Warning(warning));
        }
    }

    /// Records what ends until `cut_at`, cuts the rest off and joins everything. Errors are logged:
    /// the one that led here is told.
    async fn finish_what_runs(&mut self, cut_at: Instant) {
        let mut shutdown = self.work.shutdown.clone();
        while self.under_way() > 0 {
            let is_over = Instant::now() >= cut_at || *shutdown.borrow_and_update() == Shutdown::Abort;
            if is_over {
                self.running.values().for_each(|running| running.cancel.cancel());
            }
            let ended = tokio::select! {
                biased;
                Some(joined) = self.executors.join_next() => self.attempt_ended(joined),
                Some(joined) = self.records.join_next() => self.recorded(joined),
                () = raised(&mut shutdown) => Ok(()),
                () = sleep_until(cut_at), if !is_over => Ok(()),
            };
            if let Err(error) = ended {
                tracing::error!(error = error.to_string(), "an end could not be recorded");
            }
        }
    }

    async fn run_to_end(&mut self) -> Result<Ending, WorkError> {
        self.lanes.refresh(self.work).await?;
        let mut upkeep = interval(self.work.queue.heartbeat_every());
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shutdown = self.work.shutdown.clone();
        loop {
            self.heed_shutdown(*shutdown.borrow_and_update());
            self.heed_deadline();
            self.take_what_ended()?;
            let wake_at = self.start_what_may_start().await?;
            if self.under_way() == 0 {
                if let Some(drain) = self.draining.take() {
                    return Ok(drain.ending);
                }
                self.alone = false;
            }
            if self.under_way() == 0 && self.may_look() {
                if self.start_one_alone().await? || self.draining.is_some() {
                    continue;
                }
                if let Some(ending) =
                    ending::when_idle(self.work, &mut self.lanes, (self.capped, &self.blocked)).await?
                {
                    return Ok(ending);
                }
                self.capped = false;
            }
            let wake_at = self.next_wake(wake_at).await?;
            // What is rare goes first, so that a stream of ends starves neither a person's interrupt
            // nor what others have to say; and nothing is left to chance.
            tokio::select! {
                biased;
                () = raised(&mut shutdown) => {}
                beat = self.beats.next() => self.heed_beat(beat)?,
                _ = upkeep.tick() => self.look_after_others().await?,
                Some(joined) = self.executors.join_next() => self.attempt_ended(joined)?,
                Some(joined) = self.records.join_next() => self.recorded(joined)?,
                () = self.work.queue.news() => self.lanes.wet(),
                () = sleep_until(wake_at) => self.lanes.wet(),
            }
        }
    }

    /// Whether it is time to look whether the run is over.
    fn may_look(&mut self) -> bool {
        let now = Instant::now();
        let is_soon = |at: Instant| now.saturating_duration_since(at) < IDLE_LOOKS_EVERY;
        if self.work.queue.spans_machines() && self.idle_looked_at.is_some_and(is_soon) {
            return false;
        }
        self.idle_looked_at = Some(now);
        true
    }

    /// Takes in everything that has ended already, so that ends never pile up behind claims.
    fn take_what_ended(&mut self) -> Result<(), WorkError> {
        while let Some(joined) = self.executors.try_join_next() {
            self.attempt_ended(joined)?;
        }
        while let Some(joined) = self.records.try_join_next() {
            self.recorded(joined)?;
        }
        Ok(())
    }

    /// Claims as many jobs as slots and lanes allow and starts their executors. Returns when a
    /// lane may have more.
    async fn start_what_may_start(&mut self) -> Result<Option<Instant>, WorkError> {
        let slots = self.free_slots();
        if self.draining.is_some() || slots == 0 || self.capped || self.alone {
            self.lanes.rest(Instant::now());
            return Ok(None);
        }
        let slots = slots.min(self.room_for_more().await?);
        if slots == 0 || !self.is_heard_of() {
            self.lanes.rest(Instant::now());
            return Ok(None);
        }
        loop {
            let room = self.lanes.room(Instant::now(), slots);
            if room.permits.is_empty() {
                return Ok(room.wake_at);
            }
            if self.claim(room.permits, Company::Shared).await? {
                // More may be had at once: other lanes' shares, or the next of a paced lane.
                return Ok(Some(Instant::now()));
            }
            // Lanes that were asked in vain are dry now and leave their slots to the others. Where
            // there are fewer slots than lanes, a lane could wait for its turn for ever otherwise.
            if self.draining.is_some() || self.capped {
                return Ok(room.wake_at);
            }
        }
    }

    /// A slot is taken until its answer is recorded: what a crash or a full disk can cost is bounded by
    /// `concurrency`, and on a disk slower than the provider nothing piles up.
    fn free_slots(&self) -> u32 {
        let taken = u32::try_from(self.under_way()).unwrap_or(u32::MAX);
        self.work.config.concurrency.max().saturating_sub(taken)
    }

    fn under_way(&self) -> usize {
        self.executors.len() + self.records.len()
    }

    /// Nothing of ours is under way and nothing else can be claimed: the turn of a job that may be
    /// what killed earlier processes. Whether there was one.
    async fn start_one_alone(&mut self) -> Result<bool, WorkError> {
        if self.capped || !self.is_heard_of() || self.room_for_more().await? == 0 {
            return Ok(false);
        }
        // Lanes without other jobs are dry; each is asked with a slot of its own.
        self.lanes.wet();
        let room = self.lanes.room(Instant::now(), self.work.config.concurrency.max().max(LANES_ALONE));
        if room.permits.is_empty() {
            return Ok(false);
        }
        self.alone = self.claim(room.permits, Company::Alone).await?;
        Ok(self.alone)
    }

    /// How many answers more the disk can take. When it is none and nothing is on its way that could
    /// change that, the run pauses.
    async fn room_for_more(&mut self) -> Result<u32, WorkError> {
        let Some(free) = self.work.disk.free(self.work.results.folder().path()) else { return Ok(u32::MAX) };
        let under_way = self.under_way();
        let more = self.room.more(free, under_way);
        if more == 0 && under_way == 0 && self.work.queue.left(&self.work.config.scope).await?.ready > 0 {
            self.drain(Ending::Stopped(Stop::Disk(self.room.too_little(free))), None);
        }
        Ok(more)
    }

    /// The machine's faults end the run in order: what is on its way is still recorded if it can be.
    /// `None` when it was one of them.
    fn unless_paused<T>(&mut self, result: Result<T, WorkError>) -> Result<Option<T>, WorkError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let stop = error.stop().ok_or(error)?;
                self.drain(Ending::Stopped(stop), None);
                Ok(None)
            }
        }
    }

    /// Claims and starts executors. Whether there was anything.
    async fn claim(&mut self, permits: Vec<Permits>, company: Company) -> Result<bool, WorkError> {
        let request = ClaimRequest {
            worker: self.shift.worker,
            run: self.shift.run,
            permits: permits.clone(),
            scope: self.work.config.scope.clone(),
            cost_max: self.work.config.cost_max,
            company,
        };
        crash_point(CrashPoint::BeforeClaim);
        let asked = Instant::now();
        let claimed = self.work.queue.claim(request).await.map_err(WorkError::from);
        let Some(claimed) = self.unless_paused(claimed)? else { return Ok(false) };
        crash_point(CrashPoint::ClaimCommitted);
        self.capped = claimed.capped;
        let now = Instant::now();
        for (id, lane) in claimed.lanes {
            self.lanes.saw(id, lane, now);
        }
        for Permits { lane, count, .. } in permits {
            let got = claimed.claims.iter().filter(|claim| claim.lane == lane).count();
            match claimed.waits.iter().find(|(waiting, _)| *waiting == lane) {
                Some((_, wait)) => self.lanes.shared(lane, Instant::now() + *wait),
                None => self.lanes.claimed(lane, count, u32::try_from(got).unwrap_or(u32::MAX)),
            }
        }
        let started = !claimed.claims.is_empty();
        // Of a claim that is heard of late the leases may be another's.
        let is_late = asked.elapsed() > self.work.queue.heartbeat_every();
        if started && is_late && self.work.queue.spans_machines() {
            self.confirm_life().await?;
        }
        self.heed_prices(&claimed.claims);
        for claim in claimed.claims {
            self.start(claim);
        }
        Ok(started)
    }

    /// The cap holds by what the load set aside. Where that is less than a request may cost, nothing more is claimed.
    fn heed_prices(&mut self, claims: &[Claim]) {
        if self.work.config.cost_max.is_none() {
            return;
        }
        let too_low = claims.iter().find_map(|claim| {
            let here = self.work.config.prices.reservation(&claim.spec)?;
            (here > claim.reservation).then(|| (claim.spec.model.clone(), here, claim.reservation))
        });
        if let Some((model, here, loaded)) = too_low {
            let (here, loaded) = (here.rounded(), loaded.rounded());
            self.drain(Ending::Stopped(Stop::Prices { model, here, loaded }), None);
        }
    }

    /// Fails if this worker was taken for dead, and others have its leases.
    async fn confirm_life(&mut self) -> Result<(), WorkError> {
        let sent_at = Instant::now();
        let beat = self.work.queue.heartbeat(self.shift.worker).await?;
        self.heed_beat((sent_at, Ok(beat)))
    }

    /// Whether other machines know of this worker: what it claimed meanwhile would be taken from it and paid again.
    fn is_heard_of(&self) -> bool {
        let recent = self.work.queue.heartbeat_every() * SILENT_BEATS;
        !self.work.queue.spans_machines() || self.beaten_at.is_some_and(|at| at.elapsed() < recent)
    }

    fn start(&mut self, claim: Claim) {
        let Some((ticket, client)) = self.lanes.sent(claim.lane, Instant::now()) else { return };
        let (progress, cancel) = (Arc::new(Progress::new()), CancellationToken::new());
        let running = Running { ticket, cancel: cancel.clone(), progress: Arc::clone(&progress) };
        self.running.insert(claim.job, running);
        tracing::info!(attempt = claim.attempt.0, job = %claim.name, model = %claim.spec.model, "sent");
        self.work.observer.event(&Event::Started {
            attempt: claim.attempt,
            job: claim.name.clone(),
            model: claim.spec.model.clone(),
            progress: Arc::clone(&progress),
        });
        let tools = Arc::clone(&self.tools);
        self.executors.spawn(async move {
            let order = Order { claim: &claim, client: &client };
            let ended = executor::execute(&tools, order, &progress, &cancel).await;
            (claim, ended)
        });
    }

    /// An executor is done: the lane learns from it, its job's way on is decided, and the record
    /// is begun.
    fn attempt_ended(&mut self, joined: Result<(Claim, Ended), JoinError>) -> Result<(), WorkError> {
        let (claim, ended) = joined.map_err(|error| WorkError::Task(error.to_string()))?;
        let now = Instant::now();
        let mut lesson = Lesson::default();
        if let Some(running) = self.running.remove(&claim.job) {
            running.progress.enter(Phase::Saving);
            lesson = self.teach_lane(&claim, &running, &ended, now);
        }
        let Ended { result, facts } = ended;
        let message = facts.error.clone().or_else(|| facts.note.clone());
        let decision = match result {
            Ok(pictures) => {
                self.breaker.succeeded();
                self.room.landed(pictures.iter().map(|picture| picture.bytes).sum());
                Decision::publish(pictures)
            }
            Err(Cause::Fault(fault)) => {
                self.heed_fault(&claim, &fault);
                let grounds = Grounds {
                    policy: &self.work.config.retry,
                    counters: claim.counters,
                    lane_wait: self.lanes.sleep_until_open(claim.lane, lesson.opens_at, now),
                    spared: lesson.spares_job,
                };
                Decision::of_fault(&fault, &grounds, &mut self.rng)
            }
            Err(Cause::Aborted) => Decision::again(AttemptOutcome::Aborted, Duration::ZERO),
            Err(Cause::Unsendable(_)) => Decision::fail(),
            Err(Cause::Machine(error)) => {
                let stop = error.stop().unwrap_or_else(|| Stop::Disk(error.to_string()));
                self.drain(Ending::Stopped(stop), None);
                Decision::again(AttemptOutcome::Aborted, Duration::ZERO)
            }
        };
        if decision.state == JobState::Failed
            && let Some(stop) = self.breaker.failed()
        {
            self.drain(Ending::Stopped(stop), None);
        }
        let event = EndedEvent {
            outcome: decision.outcome,
            state: decision.state,
            message,
            again_in: decision.again_in,
            cost: facts.cost,
            took: facts.total,
            claim,
        };
        let settlement = Settlement {
            job: event.claim.job,
            epoch: event.claim.epoch,
            attempt: event.claim.attempt,
            outcome: decision.outcome,
            facts,
            next: decision.next,
        };
        let (queue, ends_by) = (Arc::clone(&self.work.queue), self.shift.ends_by.clone());
        let results = self.work.results.clone();
        let (lane, attempt) = (event.claim.lane, event.claim.attempt);
        let told = lesson.told;
        let told =
            told.map(|(end, share)| SharedLaneEnd { lane, attempt, end, share, seed: self.rng.random() });
        self.records.spawn(async move {
            let job = event.claim.name.clone();
            let lane = tell_lane(queue.as_ref(), told).await;
            let recorded = finish::record(queue.as_ref(), (&results, &ends_by), settlement).await;
            (job, recorded.map(|recorded| Record { recorded, event, lane }))
        });
        Ok(())
    }

    /// A fault may end the run, or the use of one key.
    fn heed_fault(&mut self, claim: &Claim, fault: &Fault) {
        let Some(stop) = self.breaker.fault(fault) else { return };
        let is_of_key = matches!(stop, Stop::KeyRejected(_) | Stop::MoneyOut(_));
        if is_of_key && self.lanes.stop_key(claim.lane, &fault.message) {
            let warning = format!("one of the keys is not used any more: {}", fault.message);
            tracing::warn!(lane = claim.lane.0, "{warning}");
            self.work.observer.event(&Event::Warning(warning));
        } else {
            self.drain(Ending::Stopped(stop), None);
        }
    }

    fn teach_lane(&mut self, claim: &Claim, running: &Running, ended: &Ended, now: Instant) -> Lesson {
        let begun = if ended.facts.http_status == Some(200) { Begun::Yes } else { Begun::No };
        let end = match &ended.result {
            Ok(pictures) => LaneEnd::Images(pictures.len()),
            Err(Cause::Fault(fault)) => LaneEnd::Fault(fault, begun),
            Err(_) => LaneEnd::Gone,
        };
        let was = self.lanes.closed(claim.lane, now);
        let moment = Moment { instant: now, wall: self.work.clock.now() };
        let lesson = self.lanes.ended(claim.lane, running.ticket, end, moment);
        // Refusals of one volley close a lane once.
        let is = self.lanes.closed(claim.lane, now);
        if let (Err(Cause::Fault(fault)), Some(closed)) = (&ended.result, is)
            && was.is_none_or(|was| was.why != closed.why)
        {
            self.tell_closed(claim, closed, (fault.message.clone(), now));
        }
        lesson
    }

    fn tell_closed(&self, claim: &Claim, closed: Closed, (why, now): (String, Instant)) {
        let for_ = closed.until.saturating_duration_since(now);
        self.work.observer.event(&Event::LaneClosed { model: claim.spec.model.clone(), for_, why });
    }

    /// An end was recorded: it is told, and what was due to it may go on.
    fn recorded(
        &mut self,
        joined: Result<(JobName, Result<Record, WorkError>), JoinError>,
    ) -> Result<(), WorkError> {
        let (job, record) = joined.map_err(|error| WorkError::Task(error.to_string()))?;
        if let Err(WorkError::Queue(QueueError::Unreachable { .. })) = &record {
            self.unrecorded.push(job.clone());
        }
        // Something stands in the way of this one result; its neighbours go on.
        if let Err(WorkError::Publish(error @ PublishError::NotAFolder { .. })) = &record {
            self.blocked.add(self.work, &job, error);
            return Ok(());
        }
        if let Err(WorkError::Publish(PublishError::NoTimeLeft)) = &record {
            self.unpublished += 1;
            return Ok(());
        }
        // A settled answer waits in the spool, and the next run publishes it; one that could not even
        // be settled is lost.
        let Some(record) = self.unless_paused(record)? else { return Ok(()) };
        self.capped = false;
        self.lanes.wet();
        if record.event.again_in.is_some() {
            self.next_due = None;
        }
        let Record { recorded, event, lane } = record;
        if let Some(lane) = lane {
            let now = Instant::now();
            if let Some(closed) = self.lanes.saw(event.claim.lane, lane, now) {
                self.tell_closed(&event.claim, closed, (event.message.clone().unwrap_or_default(), now));
            }
        }
        let files = match recorded {
            Recorded::Done(files) => files,
            Recorded::LeaseLost => {
                tracing::warn!(job = %event.claim.name, attempt = event.claim.attempt.0, "lease lost");
                self.work.observer.event(&Event::LeaseLost { job: event.claim.name });
                return Ok(());
            }
        };
        tracing::info!(
            attempt = event.claim.attempt.0,
            job = %event.claim.name,
            outcome = %event.outcome,
            state = %event.state,
            error = event.message.as_deref(),
            took_ms = u64::try_from(event.took.as_millis()).unwrap_or(u64::MAX),
            "ended"
        );
        self.work.observer.event(&Event::Ended {
            attempt: event.claim.attempt,
            job: event.claim.name,
            outcome: event.outcome,
            state: event.state,
            message: event.message,
            again_in: event.again_in,
            files,
            cost: event.cost,
            took: event.took,
        });
        Ok(())
    }

    fn heed_beat(&mut self, (sent_at, beat): (Instant, Result<Beat, QueueError>)) -> Result<(), WorkError> {
        let Some(beat) = self.unless_paused(beat.map_err(WorkError::from))? else { return Ok(()) };
        for (job, _) in beat.cancelled {
            if let Some(running) = self.running.get(&job) {
                running.cancel.cancel();
            }
        }
        if beat.draining {
            self.shift.drained.store(true, Ordering::Relaxed);
        }
        if beat.declared_dead {
            return Err(WorkError::DeclaredDead);
        }
        self.beaten_at = Some(sent_at);
        if beat.draining {
            self.drain(Ending::Stopped(Stop::Drained), None);
        }
        Ok(())
    }

    /// Tells how the lanes are doing, and takes over what dead workers left.
    async fn look_after_others(&mut self) -> Result<(), WorkError> {
        self.note_lanes().await?;
        let rescued = rescue(self.work, self.shift, &mut self.blocked).await;
        self.unless_paused(rescued).map(drop)
    }

    /// Tells the queue and whoever watches how the lanes are doing, and what they found out.
    async fn note_lanes(&mut self) -> Result<(), WorkError> {
        let now = Instant::now();
        self.work.observer.event(&Event::Lanes(self.lanes.views(now)));
        let notes = self.lanes.notes(Moment { instant: now, wall: self.work.clock.now() });
        let told = self.work.queue.note_lanes(self.shift.worker, notes).await.map_err(WorkError::from);
        self.unless_paused(told).map(drop)
    }

    fn heed_shutdown(&mut self, shutdown: Shutdown) {
        match shutdown {
            Shutdown::No => {}
            Shutdown::Drain => {
                let cut_at = self.shift.ends_by.ask(Instant::now() + self.work.config.grace);
                self.drain(Ending::Interrupted, Some(cut_at));
            }
            Shutdown::Abort => {
                let cut_at = self.shift.ends_by.ask(Instant::now());
                self.drain(Ending::Interrupted, Some(cut_at));
            }
        }
        if self.draining.as_ref().and_then(|drain| drain.cut_at).is_some_and(|at| Instant::now() >= at) {
            self.running.values().for_each(|running| running.cancel.cancel());
        }
    }

    fn heed_deadline(&mut self) {
        if self.work.config.deadline.is_some_and(|deadline| self.work.clock.now() >= deadline) {
            self.drain(Ending::Stopped(Stop::Deadline), None);
        }
    }

    /// Nothing more is claimed. The first reason stands, unless a person interrupts; a time to
    /// cut running requests off only ever comes nearer.
    fn drain(&mut self, ending: Ending, cut_at: Option<Instant>) {
        let in_flight = self.executors.len();
        if let Some(drain) = &mut self.draining {
            if ending == Ending::Interrupted {
                drain.ending = ending;
            }
            drain.cut_at = match (drain.cut_at, cut_at) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            return;
        }
        let why = match &ending {
            Ending::Done => "done".to_owned(),
            Ending::Interrupted => "interrupted".to_owned(),
            Ending::Stopped(stop) => stop.to_string(),
        };
        tracing::warn!(in_flight, why, "draining");
        self.work.observer.event(&Event::Draining { why, in_flight });
        self.draining = Some(Drain { ending, cut_at });
    }

    fn poll(&mut self) -> Duration {
        if !self.work.queue.spans_machines() {
            return POLL;
        }
        POLL_OF_MANY.mul_f64(self.rng.random_range(0.5..=1.0))
    }

    async fn next_due(&mut self, now: Instant) -> Result<Option<Timestamp>, WorkError> {
        if let Some((due, as_of)) = self.next_due
            && now.saturating_duration_since(as_of) < DUE_KNOWN
        {
            return Ok(due);
        }
        let due = self.work.queue.next_due(&self.work.config.scope).await?;
        self.next_due = Some((due, now));
        Ok(due)
    }

    /// When to look again though nothing has happened: a lane opens, a job becomes due, a
    /// deadline passes, running requests are to be cut off.
    async fn next_wake(&mut self, lanes: Option<Instant>) -> Result<Instant, WorkError> {
        let now = Instant::now();
        let mut wake = lanes.unwrap_or(now + LOOKS_EVERY);
        if self.draining.is_none() && self.free_slots() > 0 {
            wake = wake.min(now + self.poll());
            if let Some(at) = self.idle_looked_at.filter(|_| self.under_way() == 0) {
                wake = wake.min((at + IDLE_LOOKS_EVERY).max(now));
            }
            // What is overdue waits for a lane, not for its time.
            let wall = self.work.clock.now();
            if let Some(due) = self.next_due(now).await?
                && due > wall
            {
                wake = wake.min(now + due.since(wall));
            }
        }
        if let Some(deadline) = self.work.config.deadline
            && self.draining.is_none()
        {
            wake = wake.min(now + deadline.since(self.work.clock.now()));
        }
        if let Some(cut_at) = self.draining.as_ref().and_then(|drain| drain.cut_at) {
            // Once they are cut off, only their ends are waited for.
            wake = if cut_at > now { wake.min(cut_at) } else { now + LOOKS_EVERY };
        }
        Ok(wake)
    }
}

/// Tells the other workers of a lane what concerns them. One that cannot be told is no reason not to record.
async fn tell_lane(queue: &dyn Queue, told: Option<SharedLaneEnd>) -> Option<Lane> {
    queue.lane_ended(told?).await.unwrap_or_else(|error| {
        tracing::warn!(error = error.to_string(), "other workers were not told how a request ended");
        None
    })
}

/// Returns when the shutdown is raised; never, once nobody can raise it.
pub(super) async fn raised(shutdown: &mut watch::Receiver<Shutdown>) {
    if shutdown.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
