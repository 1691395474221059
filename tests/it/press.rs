//! A run folder, a simulator and a queue in one place: what a test of the whole begins with.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nightpress::gemini::{Client, Endpoint, ImageFetcher, Key, Timeouts};
use nightpress::job::{
    AttemptOutcome, Clock, Job, JobState, ModelName, PriceTable, Provider, Spec, SystemClock,
};
use nightpress::manifest::Objects;
use nightpress::output::{Buckets, Disk, LocalDisk, RunFolder};
use nightpress::pacing::{Backoff, RetryPolicy};
use nightpress::queue::sqlite::{OpenOptions, SqliteQueue, Synchronous};
use nightpress::queue::{
    Access, AttemptRow, Identity, JobFilter, JobRow, LoadPolicy, LostPolicy, NewJob, Queue, Scope,
};
use nightpress::simulator::{FaultRule, Pictures, RequestLog, Scenario, Simulator, SimulatorConfig};
use nightpress::worker::{
    Concurrency, Ending, Event, Observer, PerMinute, Shutdown, Work, WorkConfig, WorkError, work,
};
use tokio::sync::watch;

/// The key of all tests: long enough to be found wherever it leaks.
pub(crate) const KEY: &str = "np-test-KEY-0123456789/+=";

/// A press that is set up and not running.
pub(crate) struct Press {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) queue: Arc<SqliteQueue>,
    pub(crate) simulator: Simulator,
    pub(crate) config: WorkConfig,
    pub(crate) timeouts: Timeouts,
    /// Where requests go instead of the simulator.
    pub(crate) base_url: Option<String>,
    pub(crate) shutdown: watch::Sender<Shutdown>,
    pub(crate) events: Arc<Events>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) objects: Arc<dyn Objects>,
    pub(crate) disk: Arc<dyn Disk>,
}

/// Keeps what happened; raises the shutdown when a number of requests have left.
#[derive(Default)]
pub(crate) struct Events {
    seen: Mutex<Vec<Event>>,
    on_start: Mutex<Option<Hook>>,
}

/// Called with the number of requests that have left.
type Hook = Box<dyn Fn(usize) + Send>;

impl Observer for Events {
    fn event(&self, event: &Event) {
        let mut seen = self.seen.lock().expect("no panic while held");
        seen.push(event.clone());
        let started = seen.iter().filter(|event| matches!(event, Event::Started { .. })).count();
        if let (Event::Started { .. }, Some(hook)) =
            (event, &*self.on_start.lock().expect("no panic while held"))
        {
            hook(started);
        }
    }
}

impl Events {
    pub(crate) fn all(&self) -> Vec<Event> {
        self.seen.lock().expect("no panic while held").clone()
    }

    pub(crate) fn on_start(&self, hook: impl Fn(usize) + Send + 'static) {
        *self.on_start.lock().expect("no panic while held") = Some(Box::new(hook));
    }
}

/// A job with an id and a prompt.
pub(crate) fn job(name: &str, prompt: &str) -> Job {
    Job {
        name: name.parse().expect("a legal id"),
        ordinal: 0,
        spec: Spec::new(prompt, ModelName::default_model()),
        fallback_models: vec![],
        stream: true,
        output: name.parse().expect("a legal name"),
        tags: [].into(),
        priority: 0,
    }
}

/// `n` jobs `j000` … with different prompts.
pub(crate) fn jobs(n: usize) -> Vec<Job> {
    (0..n).map(|n| job(&format!("j{n:03}"), &format!("picture number {n}"))).collect()
}

/// A scenario with small pictures and these faults.
pub(crate) fn scenario(faults: Vec<FaultRule>) -> Scenario {
    Scenario { pictures: Pictures { tiny: true, ..Pictures::default() }, faults, ..Scenario::default() }
}

impl Press {
    pub(crate) async fn new(scenario: Scenario) -> Self {
        Self::at(tempfile::tempdir().expect("temp dir"), scenario).await
    }

    /// With a run folder that was prepared.
    pub(crate) async fn at(dir: tempfile::TempDir, scenario: Scenario) -> Self {
        let simulator = Simulator::start(SimulatorConfig { scenario, ..SimulatorConfig::default() })
            .await
            .expect("the simulator starts");
        let queue = open_queue(dir.path().join("queue.db"), Arc::new(SystemClock)).await;
        let config = WorkConfig {
            command: "run".to_owned(),
            provider: Provider::Simulator,
            concurrency: Concurrency::Fixed(8),
            // Fast enough to be in no test's way; how a limit is found out has tests of its own.
            requests_per_minute: PerMinute { all: Some(600_000), ..PerMinute::default() },
            images_per_minute: PerMinute::default(),
            retry: RetryPolicy {
                backoff: Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(4) },
                ..RetryPolicy::default()
            },
            scope: Scope::default(),
            lost: LostPolicy::Retry,
            give_up: false,
            cost_max: None,
            failures_max: None,
            deadline: None,
            wait: false,
            forever: false,
            grace: Duration::from_secs(5),
            prices: PriceTable::default(),
            seed: 7,
        };
        let timeouts = Timeouts { idle: Duration::from_secs(3), ..Timeouts::default() };
        let (shutdown, _) = watch::channel(Shutdown::No);
        Self {
            dir,
            queue,
            simulator,
            config,
            timeouts,
            base_url: None,
            shutdown,
            events: Arc::new(Events::default()),
            clock: Arc::new(SystemClock),
            objects: Arc::new(Buckets::patient()),
            disk: Arc::new(LocalDisk),
        }
    }

    /// Loads these jobs as the whole manifest.
    pub(crate) async fn load(&self, jobs: Vec<Job>) {
        let prices = PriceTable::default();
        let staged = (0..).zip(jobs).map(|(n, job)| NewJob::priced(Job { ordinal: n, ..job }, &prices));
        self.queue.stage(staged.collect()).await.expect("stages");
        self.queue.apply_load(LoadPolicy::default()).await.expect("loads");
    }

    pub(crate) async fn run(&self) -> Result<Ending, WorkError> {
        self.run_with(vec![self.client(KEY)]).await
    }

    /// A client for where requests go.
    pub(crate) fn client(&self, key: &str) -> Client {
        let base_url = self.base_url.clone().unwrap_or_else(|| self.simulator.base_url());
        let endpoint = Endpoint {
            provider: Provider::Simulator,
            base_url: base_url.parse().expect("a URL"),
            key: Key::new(key).expect("a key"),
        };
        Client::new(endpoint, self.timeouts).expect("builds")
    }

    pub(crate) async fn run_with(&self, clients: Vec<Client>) -> Result<Ending, WorkError> {
        let base_url = self.client(KEY).endpoint().base_url.clone();
        work(Work {
            queue: Arc::clone(&self.queue) as Arc<dyn Queue>,
            clients,
            fetcher: ImageFetcher::new(base_url, self.timeouts).expect("builds"),
            results: self.folder().into(),
            objects: Arc::clone(&self.objects),
            disk: Arc::clone(&self.disk),
            clock: Arc::clone(&self.clock),
            observer: Arc::clone(&self.events) as Arc<dyn Observer>,
            shutdown: self.shutdown.subscribe(),
            config: self.config.clone(),
        })
        .await
    }

    pub(crate) fn folder(&self) -> RunFolder {
        RunFolder::new(self.dir.path())
    }

    pub(crate) fn log(&self) -> RequestLog {
        self.simulator.log()
    }

    pub(crate) async fn rows(&self) -> Vec<JobRow> {
        self.queue.jobs(&JobFilter::default(), None, 10_000).await.expect("reads")
    }

    pub(crate) async fn row(&self, name: &str) -> JobRow {
        self.queue.job(&name.parse().expect("an id")).await.expect("reads").expect("the job exists")
    }

    pub(crate) async fn attempts(&self) -> Vec<AttemptRow> {
        self.queue.attempts(None, None, 10_000).await.expect("reads")
    }

    pub(crate) async fn states(&self) -> Vec<(String, JobState)> {
        self.rows().await.into_iter().map(|row| (row.name.to_string(), row.state)).collect()
    }

    pub(crate) async fn outcomes(&self, name: &str) -> Vec<AttemptOutcome> {
        let row = self.row(name).await;
        let attempts = self.queue.attempts(Some(row.job), None, 1_000).await.expect("reads");
        attempts.into_iter().map(|attempt| attempt.outcome).collect()
    }

    /// Nothing lies in the spool.
    pub(crate) fn check_folder_is_clean(&self) {
        let left: Vec<PathBuf> = std::fs::read_dir(self.folder().spool())
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        assert_eq!(left, Vec::<PathBuf>::new(), "left in the spool");
    }

    /// The run ended in order: nothing is left in the spool, every published file is whole and
    /// as recorded, and the ledger and the simulator tell the same number of requests.
    pub(crate) async fn check_books(&self) {
        self.check_folder_is_clean();
        for row in self.rows().await {
            for output in &row.outputs {
                let bytes = std::fs::read(self.folder().images().join(&output.name)).expect("published");
                assert_eq!(nightpress::job::Digest::of(&bytes), output.digest, "{}", output.name);
                image::load_from_memory(&bytes).expect("decodes");
            }
            assert_eq!(row.state == JobState::Succeeded, !row.outputs.is_empty(), "{}", row.name);
        }
        let attempts = self.attempts().await;
        assert_eq!(attempts.len(), self.log().entries.len(), "ledger and server differ");
        assert!(attempts.iter().all(|attempt| attempt.outcome != AttemptOutcome::Sent), "an attempt is open");
    }
}

pub(crate) async fn open_queue(path: PathBuf, clock: Arc<dyn Clock>) -> Arc<SqliteQueue> {
    let options = OpenOptions {
        path,
        access: Access::Create,
        identity: Identity::Of { manifest: Some("jobs.yaml".to_owned()), provider: Provider::Simulator },
        clock,
        synchronous: Synchronous::Full,
    };
    Arc::new(SqliteQueue::open(options).await.expect("opens"))
}
