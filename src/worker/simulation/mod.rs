//! The deterministic simulation: worker, queue, pacing and clock in virtual time, under faults
//! that are drawn from a seed. The same seed is the same run, to the millisecond.
//!
//! What is real: `work` with all below it (dispatcher, executor, finish, rescue, breaker,
//! decision, lanes), the client's timeouts, the decoder, spool, locks and publishing in a folder
//! in memory. What is not: the queue (the one in memory, which passes the conformance suite, or
//! SQLite), the server behind the client, and threads.
//!
//! After every step the `books` compare what the worker does with what the queue and the server
//! said before; when all is over, `closing` compares everything with everything. A seed that
//! fails is printed with the command that repeats it.
//!
//! Read in this order: `plan` (what a seed stands for), `director`, `life`, `queue` and `double`
//! (what a process sees), `books`, `closing`.

mod books;
mod closing;
mod director;
pub(super) mod disk;
mod double;
mod fate;
mod life;
mod plan;
mod queue;
mod world;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::director::Director;
use self::disk::Installed;
use self::plan::Plan;
use self::world::{WallClock, World};
use crate::job::{Clock, Provider};
use crate::output::RunFolder;
use crate::queue::Queue;
use crate::queue::model::{ModelQueue, Tables};
use crate::queue::sqlite::SqliteQueue;
use crate::worker::Concurrency;

/// How many seeds there are; `NIGHTPRESS_SEEDS` says otherwise.
const SEEDS: u64 = 1_000;
/// How many of them run on SQLite too.
const SEEDS_ON_SQLITE: u64 = 30;

/// Where a simulation's files go: memory, where there is such a folder.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary folder")
}

/// What a seed came to.
struct Outcome {
    trace: Vec<String>,
    violations: Vec<String>,
}

/// What plays the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Memory,
    Sqlite,
}

impl Engine {
    async fn open(self, clock: &Arc<WallClock>) -> Arc<dyn Queue> {
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        if self == Self::Memory {
            return Arc::new(ModelQueue::open(&Tables::default(), clock));
        }
        let _hold = world::hold_time();
        Arc::new(SqliteQueue::in_memory(Provider::Simulator, clock).await.expect("a queue"))
    }
}

fn simulate(plan: Plan, engine: Engine) -> Outcome {
    let root = folder();
    let folder = RunFolder::new(root.path());
    std::fs::create_dir_all(folder.images()).expect("creates");
    for name in &plan.foreign {
        std::fs::write(folder.images().join(name), closing::FOREIGN).expect("writes");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let clock = Arc::new(WallClock::new());
        let queue = engine.open(&clock).await;
        let (world, dead) = World::new(plan, folder, (queue, engine == Engine::Sqlite), clock);
        let _installed = Installed::new(&world);
        let run = Director::new(Arc::clone(&world), dead).run().await;
        world.with(|state| {
            if let Err(error) = run {
                state.violation(0, &format!("the simulation itself failed: {error}"));
            }
            let (trace, violations) =
                (std::mem::take(&mut state.trace), std::mem::take(&mut state.violations));
            Outcome { trace, violations }
        })
    })
}

/// Fails with what a person needs to go on.
fn report(seed: u64, outcome: &Outcome) {
    let Some(first) = outcome.violations.first() else { return };
    panic!(
        "seed {seed}: {first}\nreplay it with its trace:\n  \
         NIGHTPRESS_SEED={seed} cargo test --lib a_seed_is_replayed -- --nocapture"
    );
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn whatever_happens_every_request_is_accounted_for_and_no_picture_is_lost_or_paid_twice() {
    let seeds = number("NIGHTPRESS_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let run = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds {
                    return;
                }
                report(seed, &simulate(Plan::of(seed), Engine::Memory));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

#[test]
fn a_seed_is_replayed() {
    let seed = number("NIGHTPRESS_SEED").unwrap_or(3);
    let outcome = simulate(Plan::of(seed), Engine::Memory);
    println!("{:#?}", Plan::of(seed));
    outcome.trace.iter().for_each(|line| println!("{line}"));
    report(seed, &outcome);
}

/// Where two runs are not the same.
fn difference<'o>(one: &'o Outcome, other: &'o Outcome) -> Option<(&'o str, &'o str)> {
    let end = "the end";
    let line = |outcome: &'o Outcome, at| outcome.trace.get(at).map_or(end, String::as_str);
    let longest = one.trace.len().max(other.trace.len());
    (0..longest).map(|at| (line(one, at), line(other, at))).find(|(one, other)| one != other)
}

#[test]
fn the_same_seed_is_the_same_run_to_the_last_line() {
    for seed in 0..40 {
        let run = || simulate(Plan::of(seed), Engine::Memory);
        assert_eq!(difference(&run(), &run()), None, "seed {seed}");
    }
}

/// The queue in memory is trusted for its conformance suite; here is the real one. It answers when
/// its thread has, so that two steps within a millisecond can come in either order: what is checked
/// is the same, but a seed is repeated in memory only.
#[test]
fn what_holds_in_memory_holds_on_sqlite() {
    for seed in 0..number("NIGHTPRESS_SEEDS").map_or(SEEDS_ON_SQLITE, |seeds| seeds / 20) {
        report(seed, &simulate(Plan::of(seed), Engine::Sqlite));
    }
}

/// The first bug that the simulation found: with fewer slots than models, the model that is asked first could be the same one for
/// ever, though it had nothing to send; the others' jobs were never sent.
#[test]
fn with_one_slot_no_model_waits_for_ever() {
    for seed in 0..40 {
        let quiet = Plan {
            jobs: 6,
            models: 2,
            lives: 0,
            concurrency: Concurrency::Fixed(1),
            per_minute: None,
            ..Plan::of(seed)
        };
        let fates = fate::FATES.iter().map(|fate| if *fate == fate::Fate::Limit { 0.3 } else { 0.0 });
        report(seed, &simulate(Plan { fates: fates.collect(), limit: None, ..quiet }, Engine::Memory));
    }
}
