//! A batch through the real worker, on one thread whose allocations are counted.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::AllocationInfo;
use nightpress::gemini::{Client, Endpoint, ImageFetcher, Key, Timeouts};
use nightpress::job::{
    Clock, Digest, Job, MediaType, ModelName, PriceTable, Provider, Reference, Spec, SystemClock,
};
use nightpress::output::{Buckets, LocalDisk, RunFolder};
use nightpress::pacing::RetryPolicy;
use nightpress::queue::sqlite::{OpenOptions, SqliteQueue, Synchronous};
use nightpress::queue::{Access, Identity, LoadPolicy, LostPolicy, NewJob, Queue, Scope};
use nightpress::worker::{Concurrency, Ending, PerMinute, Shutdown, Unobserved, Work, WorkConfig, work};

use super::{picture, server};

/// What is run: all jobs at once.
pub(crate) struct Batch {
    pub(crate) jobs: u32,
    pub(crate) image_bytes: usize,
    /// Reference images of each job, the same for all.
    pub(crate) references: usize,
    pub(crate) reference_bytes: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Self { jobs: 1, image_bytes: 200_000, references: 0, reference_bytes: 0 }
    }
}

/// Runs the batch to its end and counts what the client's thread allocates from the first claim on.
pub(crate) fn counted(batch: &Batch) -> AllocationInfo {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || server::answer_all(&listener));
    let root = tempfile::tempdir().expect("temp dir");
    let references: Vec<Reference> =
        (0..batch.references).map(|number| reference(root.path(), number, batch.reference_bytes)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = RunFolder::new(root.path().join("out"));
    std::fs::create_dir_all(folder.path()).expect("a folder");
    let base_url = format!("http://127.0.0.1:{port}/{}", batch.image_bytes);
    let prepared = runtime.block_on(prepared(batch, &references, folder.clone(), &base_url));
    let mut ending = None;
    let counts = allocation_counter::measure(|| ending = Some(runtime.block_on(work(prepared))));
    let ending = ending.expect("it ran").expect("it works");
    assert!(matches!(ending, Ending::Done), "{ending:?}");
    let made = std::fs::read_dir(folder.images()).expect("images").count();
    assert_eq!(made, batch.jobs as usize, "images");
    counts
}

async fn prepared(batch: &Batch, references: &[Reference], folder: RunFolder, base_url: &str) -> Work {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let options = OpenOptions {
        path: folder.queue(),
        access: Access::Create,
        identity: Identity::Of { manifest: None, provider: Provider::Simulator },
        clock: Arc::clone(&clock),
        synchronous: Synchronous::Full,
    };
    let queue: Arc<dyn Queue> = Arc::new(SqliteQueue::open(options).await.expect("opens"));
    let prices = PriceTable::default();
    queue
        .stage((0..batch.jobs).map(|number| job(number, references, &prices)).collect())
        .await
        .expect("stages");
    queue.apply_load(LoadPolicy::default()).await.expect("loads");
    let endpoint = Endpoint {
        provider: Provider::Simulator,
        base_url: base_url.parse().expect("a URL"),
        key: Key::new("any-key-will-do").expect("a key"),
    };
    // Nobody shuts it down: a sender that is gone means never.
    let (_, shutdown) = tokio::sync::watch::channel(Shutdown::No);
    Work {
        queue,
        clients: vec![Client::new(endpoint.clone(), Timeouts::default()).expect("a client")],
        fetcher: ImageFetcher::new(endpoint.base_url, Timeouts::default()).expect("a fetcher"),
        results: folder.into(),
        objects: Arc::new(Buckets::patient()),
        disk: Arc::new(LocalDisk),
        clock,
        observer: Arc::new(Unobserved),
        shutdown,
        config: WorkConfig {
            command: "cost".to_owned(),
            provider: Provider::Simulator,
            concurrency: Concurrency::Fixed(batch.jobs),
            requests_per_minute: PerMinute::default(),
            images_per_minute: PerMinute::default(),
            retry: RetryPolicy::default(),
            scope: Scope::default(),
            lost: LostPolicy::Retry,
            give_up: false,
            cost_max: None,
            failures_max: None,
            deadline: None,
            wait: false,
            forever: false,
            grace: Duration::from_secs(30),
            prices,
            seed: 1,
        },
    }
}

fn job(number: u32, references: &[Reference], prices: &PriceTable) -> NewJob {
    let mut spec = Spec::new(format!("A press at night, number {number}"), ModelName::default_model());
    spec.references = references.to_vec();
    let name = format!("job-{number}");
    NewJob {
        reservation: prices.reservation(&spec),
        estimate: prices.estimate(&spec),
        job: Job {
            name: name.parse().expect("a name"),
            output: name.parse().expect("a name"),
            ordinal: u64::from(number),
            spec,
            fallback_models: vec![],
            stream: true,
            tags: [].into(),
            priority: 0,
        },
    }
}

fn reference(root: &Path, number: usize, bytes: usize) -> Reference {
    let path: PathBuf = root.join(format!("reference-{number}.png"));
    let content = picture::png(bytes, number as u64 + 1);
    std::fs::write(&path, &content).expect("writes");
    Reference { path, digest: Digest::of(&content), bytes: content.len() as u64, media: MediaType::Png }
}
