//! A queue with a clock, a run, a worker and a lane, and short words for what tests do with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::job::{
    AttemptOutcome, Clock, Digest, Epoch, Job, JobId, JobState, LaneId, ManualClock, MediaType, Micros,
    ModelName, Provider, Reference, RunId, Spec, Timestamp, Usage, WorkerId,
};
use crate::queue::{
    AttemptFacts, Claim, ClaimRequest, Claimed, Company, JobFilter, JobRow, LaneKey, LoadDiff, LoadPolicy,
    NewJob, Next, Permits, PlannedOutput, Publication, Queue, QueueError, RunStart, Scope, Selection,
    Settlement, WorkerStart,
};

/// Opens handles on one queue that is thrown away afterwards.
#[async_trait]
pub(crate) trait Bench: Send + Sync {
    /// A further handle on the same queue.
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Queue>;
}

pub(crate) const NOON: Timestamp = Timestamp::from_ms(1_795_000_000_000);
/// What the jobs of these tests set aside for a request.
pub(crate) const RESERVED: Micros = Micros(67_000);

pub(crate) struct World {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) run: RunId,
    pub(crate) worker: WorkerId,
    pub(crate) lane: LaneId,
}

pub(crate) fn job(name: &str, ordinal: u64) -> NewJob {
    NewJob {
        job: Job {
            name: name.parse().unwrap(),
            ordinal,
            spec: Spec::new(format!("a picture of {name}"), ModelName::default_model()),
            fallback_models: vec![],
            stream: true,
            output: name.parse().unwrap(),
            tags: BTreeMap::new(),
            priority: 0,
        },
        reservation: Some(RESERVED),
        estimate: Some(Micros(60_000)),
    }
}

pub(crate) fn jobs(names: &[&str]) -> Vec<NewJob> {
    names.iter().zip(0..).map(|(name, ordinal)| job(name, ordinal)).collect()
}

pub(crate) fn reference(path: &str) -> Reference {
    Reference {
        path: PathBuf::from(path),
        digest: Digest::of(path.as_bytes()),
        bytes: 3,
        media: MediaType::Png,
    }
}

pub(crate) fn picture(n: u64) -> PlannedOutput {
    PlannedOutput {
        spool: format!("w/{n}.part"),
        media: MediaType::Png,
        bytes: 100 + n,
        digest: Digest::of(&n.to_le_bytes()),
        width: 16,
        height: 9,
    }
}

pub(crate) fn key(model: &str) -> LaneKey {
    LaneKey { provider: Provider::Simulator, model: model.parse().unwrap(), key_id: "k1".to_owned() }
}

impl World {
    pub(crate) async fn new(bench: &dyn Bench) -> Self {
        let clock = Arc::new(ManualClock::new(NOON));
        Self::with(bench, clock).await
    }

    /// Another process on the same queue.
    pub(crate) async fn beside(&self, bench: &dyn Bench) -> Self {
        Self::with(bench, Arc::clone(&self.clock)).await
    }

    /// Another process that is given this one's handle.
    pub(crate) async fn again(&self) -> Self {
        Self::on(Arc::clone(&self.queue), Arc::clone(&self.clock)).await
    }

    async fn with(bench: &dyn Bench, clock: Arc<ManualClock>) -> Self {
        let queue = bench.open(Arc::clone(&clock) as Arc<dyn Clock>).await;
        Self::on(queue, clock).await
    }

    pub(crate) async fn on(queue: Arc<dyn Queue>, clock: Arc<ManualClock>) -> Self {
        let start = RunStart { command: "run".to_owned(), version: "0".to_owned() };
        let run = queue.start_run(start).await.unwrap();
        let worker = queue.register_worker(worker_start(run)).await.unwrap();
        let lane = queue.lane(&key("gemini-3.1-flash-image")).await.unwrap().lane;
        Self { queue, clock, run, worker, lane }
    }

    pub(crate) async fn load(&self, jobs: Vec<NewJob>) -> LoadDiff {
        self.load_by(LoadPolicy::default(), jobs).await
    }

    pub(crate) async fn load_by(&self, policy: LoadPolicy, jobs: Vec<NewJob>) -> LoadDiff {
        self.queue.stage(jobs).await.unwrap();
        let before = self.queue.staged_diff(policy).await.unwrap();
        let done = self.queue.apply_load(policy).await.unwrap();
        assert_eq!(before, done, "the load did what the diff said");
        done
    }

    pub(crate) fn request(&self, permits: u32) -> ClaimRequest {
        ClaimRequest {
            worker: self.worker,
            run: self.run,
            permits: vec![Permits::own(self.lane, permits)],
            scope: Scope::default(),
            cost_max: None,
            company: Company::Shared,
        }
    }

    pub(crate) async fn claim_with(&self, request: ClaimRequest) -> Claimed {
        self.queue.claim(request).await.unwrap()
    }

    pub(crate) async fn claim(&self, permits: u32) -> Vec<Claim> {
        self.claim_with(self.request(permits)).await.claims
    }

    pub(crate) async fn claim_one(&self) -> Claim {
        self.claim(1).await.pop().expect("a job is due")
    }

    pub(crate) async fn settle(
        &self,
        claim: &Claim,
        outcome: AttemptOutcome,
        next: Next,
    ) -> Result<Publication, QueueError> {
        self.queue.settle(settlement(claim, outcome, next)).await
    }

    /// Settles as succeeded with `n` images.
    pub(crate) async fn plan(&self, claim: &Claim, n: u64) -> Publication {
        let files = (1..=n).map(picture).collect();
        self.settle(claim, AttemptOutcome::Succeeded, Next::Publish(files)).await.unwrap()
    }

    /// From claim to success.
    pub(crate) async fn finish(&self, claim: &Claim) -> Publication {
        let publication = self.plan(claim, 1).await;
        self.queue.published(claim.job, claim.epoch).await.unwrap();
        publication
    }

    pub(crate) async fn row(&self, name: &str) -> JobRow {
        self.queue.job(&name.parse().unwrap()).await.unwrap().expect("the job exists")
    }

    pub(crate) async fn state(&self, name: &str) -> JobState {
        self.row(name).await.state
    }

    pub(crate) async fn all(&self) -> Vec<JobRow> {
        self.queue.jobs(&JobFilter::default(), None, 10_000).await.unwrap()
    }

    pub(crate) async fn outcomes(&self, job: JobId) -> Vec<AttemptOutcome> {
        let rows = self.queue.attempts(Some(job), None, 100).await.unwrap();
        rows.iter().map(|row| row.outcome).collect()
    }
}

pub(crate) fn worker_start(run: RunId) -> WorkerStart {
    // Unique in the queue, and the tests need no randomness for it.
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    WorkerStart { run, token: format!("w{n}"), host: "here".to_owned(), pid: 1 }
}

pub(crate) fn settlement(claim: &Claim, outcome: AttemptOutcome, next: Next) -> Settlement {
    let billed = matches!(outcome, AttemptOutcome::Succeeded | AttemptOutcome::NoImage);
    let cost = billed.then_some(Micros(50_000));
    Settlement {
        job: claim.job,
        epoch: claim.epoch,
        attempt: claim.attempt,
        outcome,
        facts: AttemptFacts {
            usage: Usage { total: billed.then_some(1000), ..Usage::default() },
            cost,
            cost_at_most: cost.unwrap_or_default(),
            ..AttemptFacts::default()
        },
        next,
    }
}

pub(crate) fn lost<T>(result: &Result<T, QueueError>) -> bool {
    matches!(result, Err(QueueError::LeaseLost { .. }))
}

pub(crate) fn stale(claim: &Claim) -> Claim {
    Claim { epoch: Epoch(claim.epoch.0 + 1000), ..claim.clone() }
}

pub(crate) fn named(names: &[&str]) -> Selection {
    Selection { names: names.iter().map(|name| name.parse().unwrap()).collect(), states: vec![] }
}

impl World {
    pub(crate) fn clock_now(&self) -> Timestamp {
        self.clock.now()
    }
}
