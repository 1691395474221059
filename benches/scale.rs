//! What more workers on one queue in PostgreSQL bring: the real program, in processes of its own, against a simulator
//! that takes 200 ms for an answer.
//!
//! `cargo bench --bench scale`. First without a limit: images a second by 1, 2, 4 and 8 workers, as a share of so many
//! times what one does. Then with a limit that nobody is told: what is admitted as a share of it,
//! and how many requests were refused. `NIGHTPRESS_SECONDS` (15) and `NIGHTPRESS_LIMIT_SECONDS` (180) change how long;
//! 0 leaves a part out.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints, and one that fails says so"
)]

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/support/postgres.rs"]
mod postgres;

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nightpress::simulator::{
    Latency, LimitKind, LimitRule, LogEntry, Pictures, Scenario, Simulator, SimulatorConfig,
};

const WORKERS: [usize; 4] = [1, 2, 4, 8];
/// Requests in flight of each without a limit, so that the machine of the bench is not what is measured.
const CONCURRENCY: &str = "2";
/// The same under the limit, which each could meet alone.
const CONCURRENCY_LIMITED: &str = "8";
const LATENCY_MS: u64 = 200;
/// Requests a minute of the second part.
const LIMIT: u32 = 1_200;
const JOBS: usize = 20_000;
const WARM_UP: Duration = Duration::from_secs(3);

/// A worker that does not outlive the bench.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn main() {
    let is_test = std::env::args().any(|arg| arg == "--test");
    let seconds = |name: &str, usual: u64, of_test: u64| {
        let given = std::env::var(name).ok().and_then(|value| value.parse().ok());
        Duration::from_secs(given.unwrap_or(if is_test { of_test } else { usual }))
    };
    let (free, limited) = (seconds("NIGHTPRESS_SECONDS", 15, 2), seconds("NIGHTPRESS_LIMIT_SECONDS", 180, 0));
    let Some(server) = postgres::start(postgres::Disk::Durable) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("threads").block_on(async {
        if !free.is_zero() {
            without_limit(&server, free).await;
        }
        if !limited.is_zero() {
            with_limit(&server, limited).await;
        }
    });
}

async fn without_limit(server: &postgres::Server, time: Duration) {
    println!("no limit, {LATENCY_MS} ms an answer, {CONCURRENCY} at once in each worker");
    let mut alone = None;
    for count in WORKERS {
        let log = run(server, count, (vec![], time + WARM_UP)).await;
        let done = answered(&log, WARM_UP, time);
        let rate = done as f64 / time.as_secs_f64();
        let alone = *alone.get_or_insert(rate);
        let share = 100.0 * rate / (alone * count as f64);
        println!("{count} workers: {rate:6.1} images/s, {share:5.1} % of {count} times one");
    }
}

async fn with_limit(server: &postgres::Server, time: Duration) {
    println!("a limit of {LIMIT} a minute that nobody is told, in {} s", time.as_secs());
    let limit = LimitRule { kind: LimitKind::SlidingWindow, per_window: LIMIT, ..LimitRule::default() };
    for count in WORKERS {
        let log = run(server, count, (vec![limit.clone()], time)).await;
        // Of the whole time: a search may use up a minute in seconds, and waits then as it is asked to.
        let done = answered(&log, Duration::ZERO, time);
        let share = 100.0 * done as f64 / (f64::from(LIMIT) * time.as_secs_f64() / 60.0);
        let refused = log.iter().filter(|entry| entry.throttled).count();
        println!("{count} workers: {share:5.1} % of the limit, {refused} refused in all");
    }
}

/// Answers that were whole within `time` after `from` had passed since the first request.
fn answered(log: &[LogEntry], from: Duration, time: Duration) -> usize {
    let begun = log.first().map_or(0, |entry| entry.at_ms) + millis(from);
    let within = begun..begun + millis(time);
    log.iter()
        .filter(|one| one.complete && one.status == Some(200))
        .filter(|one| one.ended_at_ms.is_some_and(|at| within.contains(&at)))
        .count()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).expect("short")
}

/// So many workers for so long; what the simulator saw.
async fn run(
    server: &postgres::Server,
    count: usize,
    (limits, time): (Vec<LimitRule>, Duration),
) -> Vec<LogEntry> {
    let is_free = limits.is_empty();
    let scenario = Scenario {
        latency: Latency { median_ms: LATENCY_MS, ..Latency::default() },
        pictures: Pictures { tiny: true, ..Pictures::default() },
        limits,
        ..Scenario::default()
    };
    let simulator = Simulator::start(SimulatorConfig { scenario, ..SimulatorConfig::default() });
    let simulator = simulator.await.expect("the simulator starts");
    let folder = tempfile::tempdir().expect("a folder");
    let mut jobs = String::new();
    for n in 0..JOBS {
        writeln!(jobs, "{{\"id\":\"j{n}\",\"prompt\":\"picture {n}\"}}").expect("writes");
    }
    std::fs::write(folder.path().join("m.jsonl"), jobs).expect("writes");
    let url = server.database(&postgres::unique("scale"));
    let command = |args: &[&str]| program(folder.path(), (&url, &simulator.base_url()), args);
    let loaded = command(&["load", "m.jsonl", "-o", "loaded"]).status().expect("runs");
    assert!(loaded.success(), "the load failed");
    let mut workers = Vec::new();
    for n in 0..count {
        let folder = format!("w{n}");
        let mut work = command(&["work", "-o", &folder, "--concurrency"]);
        if is_free {
            work.args([CONCURRENCY, "--rpm", "120000"]);
        } else {
            work.arg(CONCURRENCY_LIMITED);
        }
        workers.push(Worker(work.spawn().expect("starts")));
    }
    while simulator.log().entries.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(time).await;
    drop(workers);
    simulator.log().entries
}

fn program(folder: &Path, (url, base_url): (&str, &str), args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightpress"));
    command
        .args(args)
        .current_dir(folder)
        .env("NIGHTPRESS_API_KEY", "scale-bench-key-0123")
        .env("NIGHTPRESS_BASE_URL", base_url)
        .env("NIGHTPRESS_QUEUE", url)
        .env("NIGHTPRESS_BATCH", "scale")
        .env("NIGHTPRESS_QUIET", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}
