//! What operations cost, counted in commits and in steps of SQLite's machine, never in time: so that
//! a claim that begins to grow with the queue, or a group that falls apart into single commits, is
//! found by `cargo test`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{join_all, join3};
use rusqlite::Connection;
use tempfile::TempDir;

use super::engine::Session;
use super::{OpenOptions, SqliteQueue, Synchronous, figures, read};
use crate::job::{AttemptOutcome, JobState, LaneId, ModelName, Provider, RunId, SystemClock, WorkerId};
use crate::queue::conformance::new_job;
use crate::queue::{
    Access, AttemptFacts, Claim, ClaimRequest, Company, Identity, JobFilter, LaneKey, LoadPolicy, Next,
    Permits, Queue, RunStart, Scope, Settlement, WorkerStart,
};

/// As many tasks as the largest usual concurrency.
const TASKS: usize = 64;
const SMALL: u64 = 200;
const LARGE: u64 = 10_000;
/// Steps that a hundred times as many jobs may add: a B-tree is a level or two deeper.
const MORE_PERCENT_MAX: u64 = 10;

struct Counted {
    folder: TempDir,
    queue: SqliteQueue,
    request: ClaimRequest,
    commits: Arc<AtomicU64>,
    steps: Arc<AtomicU64>,
}

impl Counted {
    async fn new(jobs: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let options = OpenOptions {
            path: folder.path().join("queue.db"),
            access: Access::Create,
            identity: Identity::Of { manifest: None, provider: Provider::Simulator },
            clock: Arc::new(SystemClock),
            synchronous: Synchronous::Normal,
        };
        let queue = SqliteQueue::open(options).await.unwrap();
        queue.stage((0..jobs).map(|n| new_job(&format!("job-{n:06}"), n)).collect()).await.unwrap();
        queue.apply_load(LoadPolicy::default()).await.unwrap();
        let (run, worker, lane) = started(&queue).await;
        let (commits, steps) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (commit, step) = (Arc::clone(&commits), Arc::clone(&steps));
        let watch = move |session: &Session| {
            let count = move || {
                commit.fetch_add(1, Ordering::Relaxed);
                false
            };
            session.conn.commit_hook(Some(count)).unwrap();
            count_steps(&session.conn, step);
            Ok(())
        };
        queue.write(watch).await.unwrap();
        commits.store(0, Ordering::Relaxed);
        let request = ClaimRequest {
            worker,
            run,
            permits: vec![Permits::own(lane, 1)],
            scope: Scope::default(),
            cost_max: None,
            company: Company::Shared,
        };
        Self { folder, queue, request, commits, steps }
    }

    async fn claim_by(&self, tasks: usize) -> Vec<Claim> {
        let claimed = join_all((0..tasks).map(|_| self.queue.claim(self.request.clone()))).await;
        claimed.into_iter().flat_map(|claimed| claimed.unwrap().claims).collect()
    }

    async fn settle(&self, claims: &[Claim]) {
        let all = claims.iter().map(|claim| {
            self.queue.settle(Settlement {
                job: claim.job,
                epoch: claim.epoch,
                attempt: claim.attempt,
                outcome: AttemptOutcome::Failed,
                facts: AttemptFacts::default(),
                next: Next::Fail,
            })
        });
        for settled in join_all(all).await {
            settled.unwrap();
        }
    }

    fn commits(&self) -> u64 {
        self.commits.swap(0, Ordering::Relaxed)
    }

    fn steps(&self) -> u64 {
        self.steps.swap(0, Ordering::Relaxed)
    }

    /// A connection past the engine whose steps are counted.
    fn reader(&self) -> Connection {
        let conn = Connection::open(self.folder.path().join("queue.db")).unwrap();
        count_steps(&conn, Arc::clone(&self.steps));
        conn
    }

    /// Polls `work` for the first time while the engine is busy, so that all it asks for waits as one group.
    /// What keeps it busy may be a commit of its own.
    async fn at_once<T>(&self, work: impl Future<Output = T>) -> T {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let busy = self.queue.commands.write(move |_| {
            // Ends in an error when the other end is dropped.
            let _ = released.recv();
            Ok(())
        });
        // Tokio's budget for one poll would leave some of it for after the release.
        let work = tokio::task::unconstrained(work);
        let (busy, done, ()) = join3(busy, work, async { drop(release) }).await;
        busy.unwrap();
        done
    }
}

fn count_steps(conn: &Connection, steps: Arc<AtomicU64>) {
    let count = move || {
        steps.fetch_add(1, Ordering::Relaxed);
        false
    };
    conn.progress_handler(1, Some(count)).unwrap();
}

async fn started(queue: &SqliteQueue) -> (RunId, WorkerId, LaneId) {
    let start = RunStart { command: "run".to_owned(), version: "0".to_owned() };
    let run = queue.start_run(start).await.unwrap();
    let start = WorkerStart { run, token: "w".to_owned(), host: "here".to_owned(), pid: 1 };
    let worker = queue.register_worker(start).await.unwrap();
    let key =
        LaneKey { provider: Provider::Simulator, model: ModelName::default_model(), key_id: "k".to_owned() };
    (run, worker, queue.lane(&key).await.unwrap().lane)
}

fn assert_flat(what: &str, small: u64, large: u64) {
    assert!(small > 0, "{what}: steps were counted");
    assert!(
        large <= small + small * MORE_PERCENT_MAX / 100,
        "{what}: {small} steps with {SMALL} jobs, {large} with {LARGE}"
    );
}

#[tokio::test]
async fn what_comes_at_once_is_one_commit() {
    let counted = Counted::new(SMALL).await;
    let claims = counted.at_once(counted.claim_by(TASKS)).await;
    assert_eq!(claims.len(), TASKS);
    assert!(counted.commits() <= 2, "claims, and what kept the engine busy");
    counted.at_once(counted.settle(&claims)).await;
    assert!(counted.commits() <= 2, "settlements");
    let claim = counted.claim_by(1).await;
    counted.settle(&claim).await;
    assert_eq!(counted.commits(), 2, "one alone does not wait for company");
}

/// Claims that come at once are also one look into the queue, not one each.
#[tokio::test]
async fn claims_at_once_cost_little_more_than_one_claim_of_as_many() {
    let counted = Counted::new(SMALL).await;
    counted.steps();
    let claims = counted.at_once(counted.claim_by(TASKS)).await;
    let apart = counted.steps();
    assert_eq!(claims.len(), TASKS);
    let permits = vec![Permits::own(counted.request.permits[0].lane, u32::try_from(TASKS).unwrap())];
    let request = ClaimRequest { permits, ..counted.request.clone() };
    assert_eq!(counted.queue.claim(request).await.unwrap().claims.len(), TASKS);
    let together = counted.steps();
    assert!(apart <= together + together / 10, "{apart} steps apart, {together} together");
}

#[tokio::test]
async fn a_claim_and_a_settlement_cost_the_same_in_a_large_queue() {
    let mut steps = Vec::new();
    for jobs in [SMALL, LARGE] {
        let counted = Counted::new(jobs).await;
        counted.steps();
        let claims = counted.at_once(counted.claim_by(TASKS)).await;
        let claim = counted.steps();
        counted.at_once(counted.settle(&claims)).await;
        steps.push((claim, counted.steps()));
    }
    assert_flat("claiming", steps[0].0, steps[1].0);
    assert_flat("settling", steps[0].1, steps[1].1);
}

#[tokio::test]
async fn a_look_at_the_figures_reads_no_table_that_grows() {
    let mut steps = Vec::new();
    for jobs in [SMALL, LARGE] {
        let counted = Counted::new(jobs).await;
        let claims = counted.claim_by(TASKS).await;
        counted.settle(&claims).await;
        let conn = counted.reader();
        counted.steps();
        let tally = figures::tally(&conn, 1).unwrap();
        assert_eq!(tally.jobs_in(JobState::Pending), jobs - TASKS as u64);
        let left = figures::left(&conn, 1, 0, &Scope::default()).unwrap();
        assert_eq!(left.ready, jobs - TASKS as u64);
        steps.push(counted.steps());
    }
    assert_flat("status", steps[0], steps[1]);
}

/// Every run ends with a look for what went wrong; where nothing did, it must not read the batch.
#[tokio::test]
async fn looking_for_jobs_in_a_state_that_none_has_reads_no_job() {
    let mut steps = Vec::new();
    for jobs in [SMALL, LARGE] {
        let counted = Counted::new(jobs).await;
        let conn = counted.reader();
        counted.steps();
        let filter = JobFilter { states: vec![JobState::Failed, JobState::Held], scope: Scope::default() };
        assert!(read::jobs(&conn, 1, &filter, (None, 100)).unwrap().is_empty());
        steps.push(counted.steps());
    }
    assert_flat("an empty list", steps[0], steps[1]);
}
