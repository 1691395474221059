//! Embeds nightpress: three prompts into a queue of their own, printed on the simulator.
//!
//! `cargo run --example embed` leaves `out/embed/`. Against the real API the client's endpoint
//! is all that changes.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use nightpress::gemini::{Client, Endpoint, ImageFetcher, Key, Timeouts};
use nightpress::job::{Clock, Job, JobState, ModelName, PriceTable, Provider, Spec, SystemClock};
use nightpress::output::{Buckets, LocalDisk, RunFolder};
use nightpress::pacing::RetryPolicy;
use nightpress::queue::sqlite::{OpenOptions, SqliteQueue, Synchronous};
use nightpress::queue::{Access, Identity, JobFilter, LoadPolicy, LostPolicy, NewJob, Queue, Scope};
use nightpress::simulator::{Scenario, Simulator, SimulatorConfig};
use nightpress::worker::{Concurrency, Event, Observer, PerMinute, Shutdown, Work, WorkConfig, work};

/// Tells what happens, a line each.
struct Lines;

impl Observer for Lines {
    #[expect(clippy::print_stdout, reason = "an example talks")]
    fn event(&self, event: &Event) {
        if let Event::Ended { job, outcome, files, .. } = event {
            println!("{job}: {outcome} {}", files.join(" "));
        }
    }
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks")]
async fn main() -> Result<(), Box<dyn Error>> {
    let simulator =
        Simulator::start(SimulatorConfig { scenario: Scenario::demo(), ..SimulatorConfig::default() })
            .await?;
    let folder = RunFolder::new("out/embed");
    std::fs::create_dir_all(folder.path())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);

    // The queue of one batch. Loading is idempotent: a second start finds its jobs done.
    let queue: Arc<dyn Queue> = Arc::new(
        SqliteQueue::open(OpenOptions {
            path: folder.queue(),
            access: Access::Create,
            identity: Identity::Of { manifest: None, provider: Provider::Simulator },
            clock: Arc::clone(&clock),
            synchronous: Synchronous::Full,
        })
        .await?,
    );
    let prices = PriceTable::default();
    let prompts = ["A fox in a library", "The same fox, asleep", "A map of the library"];
    let jobs = prompts.iter().zip(0..).map(|(prompt, ordinal)| new_job(prompt, ordinal, &prices));
    queue.stage(jobs.collect::<Result<_, _>>()?).await?;
    let diff = queue.apply_load(LoadPolicy::default()).await?;
    println!("{} new, {} as they were", diff.new, diff.unchanged);

    let endpoint = Endpoint {
        provider: Provider::Simulator,
        base_url: simulator.base_url().parse()?,
        key: Key::new("any-key-will-do")?,
    };
    let (_raise, shutdown) = tokio::sync::watch::channel(Shutdown::No);
    let ending = work(Work {
        queue: Arc::clone(&queue),
        clients: vec![Client::new(endpoint.clone(), Timeouts::default())?],
        fetcher: ImageFetcher::new(endpoint.base_url, Timeouts::default())?,
        results: folder.into(),
        objects: Arc::new(Buckets::patient()),
        disk: Arc::new(LocalDisk),
        clock,
        observer: Arc::new(Lines),
        shutdown,
        config: WorkConfig {
            command: "embed".to_owned(),
            provider: Provider::Simulator,
            concurrency: Concurrency::Auto { max: 8 },
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
    })
    .await?;

    let done = JobFilter { states: vec![JobState::Succeeded], ..JobFilter::default() };
    for row in queue.jobs(&done, None, 100).await? {
        let files: Vec<&str> = row.outputs.iter().map(|output| output.name.as_str()).collect();
        println!("{} is in out/embed/images/{}", row.name, files.join(", "));
    }
    println!("{ending:?}; the batch cost {} by estimate", queue.tally().await?.cost.rounded());
    queue.close().await;
    simulator.stop().await;
    Ok(())
}

fn new_job(prompt: &str, ordinal: u64, prices: &PriceTable) -> Result<NewJob, Box<dyn Error>> {
    let mut spec = Spec::new(prompt, ModelName::default_model());
    spec.aspect_ratio = Some("1:1".to_owned());
    let name = format!("fox-{ordinal}");
    let job = Job {
        name: name.parse()?,
        output: name.parse()?,
        ordinal,
        spec,
        fallback_models: vec![],
        stream: true,
        tags: [].into(),
        priority: 0,
    };
    Ok(NewJob::priced(job, prices))
}
