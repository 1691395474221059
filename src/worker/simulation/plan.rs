//! What a seed stands for: the batch, the settings, and which faults come how often.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::fate::{FATES, Fate};
use crate::job::{Job, Micros, ModelName, PriceTable, Provider, Spec, Timestamp};
use crate::pacing::{Backoff, RetryPolicy};
use crate::queue::{LostPolicy, NewJob, Scope};
use crate::worker::{Concurrency, FailureLimit, PerMinute, WorkConfig};

/// When every world begins.
pub(super) const NOON: Timestamp = Timestamp::from_ms(1_795_000_000_000);

/// Models of the batches.
const MODELS: [&str; 2] = ["gemini-3.1-flash-image", "gemini-2.5-flash-image"];

/// A world in the making.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) jobs: u64,
    pub(super) models: usize,
    /// Starts of the program before the last one, which nothing is done to.
    pub(super) lives: usize,
    /// Most processes at once.
    pub(super) beside: usize,
    pub(super) concurrency: Concurrency,
    /// Each model may stand in for the other.
    pub(super) stands_in: bool,
    pub(super) per_minute: Option<u32>,
    pub(super) cap: Option<Micros>,
    pub(super) failures_max: Option<FailureLimit>,
    pub(super) lost: LostPolicy,
    pub(super) wait: bool,
    /// What the server admits: so many requests of a model in so long.
    pub(super) limit: Option<(usize, Duration)>,
    /// Chances of fates, in the order of [`FATES`].
    pub(super) fates: Vec<f64>,
    /// Chance that a call of the queue, or a step on the disk, kills the process.
    pub(super) death: f64,
    /// Chance that a call of the queue meets a disk that fails.
    pub(super) disk: f64,
    pub(super) small_disk: bool,
    /// What a person and the world do between two requests.
    pub(super) acts: Vec<Act>,
    /// Names in `images/` that are taken already.
    pub(super) foreign: Vec<String>,
}

/// Something from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// A process is killed.
    Kill,
    /// Another one is started beside it.
    StartBeside,
    /// A person interrupts it once.
    Drain,
    /// Twice.
    Abort,
    /// A person cancels a job.
    Cancel,
    /// A person retries what failed.
    Retry,
    /// The manifest is loaded again with one description changed.
    Redescribe,
    /// The wall clock is set.
    ClockJump,
    /// A process is taken for dead and is not.
    Bury,
}

const ACTS: [Act; 9] = [
    Act::Kill,
    Act::StartBeside,
    Act::Drain,
    Act::Abort,
    Act::Cancel,
    Act::Retry,
    Act::Redescribe,
    Act::ClockJump,
    Act::Bury,
];

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let jobs = rng.random_range(1..=9);
        let limited = rng.random_bool(0.35);
        let per_minute = rng.random_bool(0.15).then(|| rng.random_range(20..120));
        let capped = rng.random_bool(0.15);
        let fates: Vec<f64> = FATES.iter().map(|_| chance(rng, 0.2, 0.25)).collect();
        // Who waits for the next day polls the queue a hundred thousand times.
        let has_days =
            FATES.iter().zip(&fates).any(|(fate, chance)| *fate == Fate::DayIsUsedUp && *chance > 0.0);
        let acts: Vec<Act> = ACTS.iter().copied().filter(|_| rng.random_bool(0.35)).collect();
        // Who is to be taken for dead needs somebody beside it who does so.
        let beside =
            if acts.contains(&Act::Bury) || rng.random_bool(0.3) { rng.random_range(2..=3) } else { 1 };
        Self {
            seed,
            jobs,
            models: rng.random_range(1..=MODELS.len()),
            lives: rng.random_range(0..=3) + if beside > 1 { 2 } else { 0 },
            beside,
            concurrency: match rng.random_range(1..=5) {
                max if rng.random_bool(0.5) => Concurrency::Auto { max },
                n => Concurrency::Fixed(n),
            },
            stands_in: rng.random_bool(0.3),
            per_minute,
            cap: capped.then(|| Micros(rng.random_range(50_000..1_000_000))),
            failures_max: rng.random_bool(0.1).then(|| FailureLimit::Jobs(rng.random_range(1..=3))),
            lost: if rng.random_bool(0.15) { LostPolicy::Hold } else { LostPolicy::Retry },
            wait: rng.random_bool(0.1) && !has_days,
            limit: limited
                .then(|| (rng.random_range(1..=4), Duration::from_millis(rng.random_range(1_000..8_000)))),
            fates,
            death: chance(rng, 0.4, 0.02),
            disk: chance(rng, 0.2, 0.06),
            small_disk: rng.random_bool(0.1),
            acts,
            foreign: (0..jobs).filter(|_| rng.random_bool(0.1)).map(|n| format!("j{n}.png")).collect(),
        }
    }

    /// A job at one of its descriptions, from 1.
    pub(super) fn job(&self, n: u64, description: u64) -> NewJob {
        let at = n as usize % self.models;
        let model: ModelName = MODELS[at].parse().expect("legal");
        let other: ModelName = MODELS[1 - at].parse().expect("legal");
        let spec = Spec::new(format!("picture {n}, description {description}"), model);
        let folder = if n % 4 == 3 { "deep/" } else { "" };
        let job = Job {
            fallback_models: if self.stands_in { vec![other] } else { vec![] },
            name: format!("j{n}").parse().expect("legal"),
            ordinal: n,
            spec,
            stream: !n.is_multiple_of(3),
            output: format!("{folder}j{n}").parse().expect("legal"),
            tags: BTreeMap::new(),
            priority: 0,
        };
        NewJob::priced(job, &PriceTable::default())
    }

    /// Settings of the `nth` start; `calm` for the last.
    pub(super) fn config(&self, nth: u64, calm: bool) -> WorkConfig {
        WorkConfig {
            command: "run".to_owned(),
            provider: Provider::Simulator,
            concurrency: self.concurrency,
            requests_per_minute: PerMinute { all: self.per_minute, ..PerMinute::default() },
            images_per_minute: PerMinute::default(),
            retry: RetryPolicy {
                backoff: Backoff { base: Duration::from_millis(300), cap: Duration::from_secs(3) },
                ..RetryPolicy::default()
            },
            scope: Scope::default(),
            lost: self.lost,
            give_up: false,
            cost_max: self.cap.filter(|_| !calm),
            failures_max: self.failures_max.filter(|_| !calm),
            deadline: None,
            wait: self.wait,
            forever: false,
            grace: Duration::from_secs(5),
            prices: PriceTable::default(),
            seed: self.seed.wrapping_add(nth),
        }
    }

    /// Draws what becomes of a request; the last process is spared what would stop it.
    pub(super) fn fate(&self, rng: &mut StdRng, calm: bool) -> Fate {
        for (fate, chance) in FATES.iter().zip(&self.fates) {
            if rng.random_bool(*chance) && !(calm && fate.stops_the_run()) {
                return *fate;
            }
        }
        Fate::Good
    }
}

/// Zero for most seeds, so that each meets a mixture of its own.
fn chance(rng: &mut StdRng, on: f64, max: f64) -> f64 {
    if rng.random_bool(on) { rng.random_range(0.0..max) } else { 0.0 }
}
