//! What the benches measure on: queues of so many jobs in a folder that is thrown away, and the ways
//! that jobs go through them without any request.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "each bench uses a part of this, and says when it fails"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nightpress::job::{
    AttemptOutcome, Digest, Job, LaneId, MediaType, Micros, ModelName, Provider, RunId, Spec, SystemClock,
    Usage, WorkerId,
};
use nightpress::queue::sqlite::{OpenOptions, SqliteQueue, Synchronous};
use nightpress::queue::{
    Access, AttemptFacts, Claim, ClaimRequest, Company, Identity, LaneKey, LoadPolicy, NewJob, Next, Permits,
    PlannedOutput, Queue, RunStart, Scope, Settlement, WorkerStart,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Jobs that are staged with one call, as `nightpress load` does it.
pub const STAGED_AT_ONCE: u64 = 500;
/// What a job sets aside.
const RESERVED: Micros = Micros(67_000);

/// A queue of its own.
pub struct Stand {
    pub folder: TempDir,
    pub queue: Arc<SqliteQueue>,
    pub worker: WorkerId,
    pub run: RunId,
    pub lane: LaneId,
}

/// How far a job goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Claimed, its attempt written; settled as failed. Two commits.
    Settled,
    /// Claimed; settled with one planned file; published. Three commits.
    Published,
}

impl Stand {
    /// Of `jobs` jobs; `in_folder` `None` for a folder of its own.
    pub async fn new(jobs: u64, synchronous: Synchronous) -> Self {
        let folder = TempDir::new().expect("the bench stands");
        let queue = open(&folder.path().join("queue.db"), synchronous).await;
        load(&queue, jobs).await;
        Self::on(folder, queue).await
    }

    /// On a copy of another one's database, which must be closed.
    pub async fn copy_of(database: &std::path::Path, synchronous: Synchronous) -> Self {
        let folder = TempDir::new().expect("the bench stands");
        let path = folder.path().join("queue.db");
        std::fs::copy(database, &path).expect("the bench stands");
        // Or the first checkpoint would wait for all of it to reach the disk.
        std::fs::File::open(&path).and_then(|copy| copy.sync_all()).expect("the bench stands");
        let queue = open(&path, synchronous).await;
        Self::on(folder, queue).await
    }

    async fn on(folder: TempDir, queue: SqliteQueue) -> Self {
        let queue = Arc::new(queue);
        let start = RunStart { command: "bench".to_owned(), version: "0".to_owned() };
        let run = queue.start_run(start).await.expect("the bench stands");
        let token = format!("bench-{}", run.0);
        let start = WorkerStart { run, token, host: "bench".to_owned(), pid: 1 };
        let worker = queue.register_worker(start).await.expect("the bench stands");
        let key = LaneKey {
            provider: Provider::Simulator,
            model: ModelName::default_model(),
            key_id: "bench".to_owned(),
        };
        let lane = queue.lane(&key).await.expect("the bench stands").lane;
        Self { folder, queue, worker, run, lane }
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("queue.db")
    }

    /// Closes the queue and keeps its folder.
    pub async fn close(self) -> TempDir {
        self.queue.close().await;
        self.folder
    }

    pub fn request(&self, permits: u32) -> ClaimRequest {
        ClaimRequest {
            worker: self.worker,
            run: self.run,
            permits: vec![Permits::own(self.lane, permits)],
            scope: Scope::default(),
            cost_max: None,
            company: Company::Shared,
        }
    }

    /// `tasks` at once take a job each, until `jobs` have gone their way; the time it took.
    pub async fn work(&self, jobs: u64, tasks: usize, way: Way) -> Duration {
        let left = Arc::new(AtomicU64::new(jobs));
        let mut workers = JoinSet::new();
        let start = Instant::now();
        for _ in 0..tasks {
            let (queue, left, request) = (Arc::clone(&self.queue), Arc::clone(&left), self.request(1));
            workers.spawn(async move {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
                    let claim = queue
                        .claim(request.clone())
                        .await
                        .expect("the bench stands")
                        .claims
                        .pop()
                        .expect("a job is due");
                    go(queue.as_ref(), claim, way).await;
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended.expect("the bench stands");
        }
        start.elapsed()
    }
}

/// One claimed job to its end.
pub async fn go(queue: &SqliteQueue, claim: Claim, way: Way) {
    match way {
        Way::Settled => {
            queue
                .settle(settlement(&claim, AttemptOutcome::Failed, Next::Fail))
                .await
                .expect("the bench stands");
        }
        Way::Published => {
            let files = vec![picture(&claim)];
            let publish = settlement(&claim, AttemptOutcome::Succeeded, Next::Publish(files));
            queue.settle(publish).await.expect("the bench stands");
            queue.published(claim.job, claim.epoch).await.expect("the bench stands");
        }
    }
}

pub fn settlement(claim: &Claim, outcome: AttemptOutcome, next: Next) -> Settlement {
    let facts = AttemptFacts {
        http_status: Some(200),
        finish_reason: Some("STOP".to_owned()),
        response_id: Some(format!("response-{}", claim.attempt.0)),
        usage: Usage {
            prompt: Some(20),
            candidates: Some(1_290),
            image: Some(1_290),
            thoughts: Some(0),
            total: Some(1_310),
        },
        bytes: 2_000_000,
        first_byte: Some(Duration::from_millis(9_000)),
        total: Duration::from_millis(12_000),
        cost: Some(RESERVED),
        cost_at_most: RESERVED,
        ..AttemptFacts::default()
    };
    Settlement { job: claim.job, epoch: claim.epoch, attempt: claim.attempt, outcome, facts, next }
}

fn picture(claim: &Claim) -> PlannedOutput {
    PlannedOutput {
        spool: format!("bench/{}.part", claim.attempt.0),
        media: MediaType::Png,
        bytes: 1_500_000,
        digest: Digest::of(&claim.attempt.0.to_le_bytes()),
        width: 1024,
        height: 1024,
    }
}

/// Of two threads, wherever it runs.
pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime")
}

pub async fn open(path: &std::path::Path, synchronous: Synchronous) -> SqliteQueue {
    let options = OpenOptions {
        path: path.to_owned(),
        access: Access::Create,
        identity: Identity::Of { manifest: None, provider: Provider::Simulator },
        clock: Arc::new(SystemClock),
        synchronous,
    };
    SqliteQueue::open(options).await.expect("the bench stands")
}

/// Stages and applies `jobs` new jobs.
pub async fn load(queue: &SqliteQueue, jobs: u64) {
    let mut ordinal = 0;
    while ordinal < jobs {
        let end = jobs.min(ordinal + STAGED_AT_ONCE);
        queue.stage((ordinal..end).map(new_job).collect()).await.expect("the bench stands");
        ordinal = end;
    }
    queue.apply_load(LoadPolicy::default()).await.expect("the bench stands");
}

/// As a manifest with tags and a prompt of usual length describes it.
pub fn new_job(ordinal: u64) -> NewJob {
    let name = format!("product-{ordinal:07}-de");
    let prompt =
        format!("A bottle of mineral water number {ordinal} on wet slate, morning light, soft shadows");
    let mut spec = Spec::new(prompt, ModelName::default_model());
    spec.aspect_ratio = Some("16:9".to_owned());
    let tags = BTreeMap::from([("locale".to_owned(), "de".to_owned())]);
    NewJob {
        reservation: Some(RESERVED),
        estimate: Some(Micros(60_000)),
        job: Job {
            output: name.parse().expect("the bench stands"),
            name: name.parse().expect("the bench stands"),
            ordinal,
            spec,
            fallback_models: vec![],
            stream: true,
            tags,
            priority: 0,
        },
    }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
