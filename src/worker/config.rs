//! What a run is told: everything a person can set that the work depends on.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::job::{Micros, ModelName, PriceTable, Provider, Timestamp};
use crate::pacing::RetryPolicy;
use crate::queue::{LostPolicy, Scope};

/// Settings of a run.
#[derive(Debug, Clone)]
pub struct WorkConfig {
    /// `run` or `work`, for the record.
    pub command: String,
    /// Whom the requests go to.
    pub provider: Provider,
    /// Requests in flight in this process.
    pub concurrency: Concurrency,
    /// Requests a minute and lane, where a person gave it.
    pub requests_per_minute: PerMinute,
    /// Images a minute and lane, where a person gave it.
    pub images_per_minute: PerMinute,
    /// How often each kind of failure is tried again.
    pub retry: RetryPolicy,
    /// Which jobs.
    pub scope: Scope,
    /// What becomes of jobs whose attempt was lost.
    pub lost: LostPolicy,
    /// Results that were made on a machine which is gone, and are nowhere else, are made again.
    pub give_up: bool,
    /// The most that the batch may cost since its creation.
    pub cost_max: Option<Micros>,
    /// Stop when this many jobs have failed.
    pub failures_max: Option<FailureLimit>,
    /// Nothing is sent after this time.
    pub deadline: Option<Timestamp>,
    /// Sleep through a parked lane instead of ending.
    pub wait: bool,
    /// Keep waiting for more jobs when the queue is empty.
    pub forever: bool,
    /// How long running requests may go on after the first interrupt.
    pub grace: Duration,
    /// What requests cost.
    pub prices: PriceTable,
    /// Seed of jitter.
    pub seed: u64,
}

/// How many requests are in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// As many as rate and latency need, and no more than `max`.
    Auto {
        /// The most.
        max: u32,
    },
    /// So many at most.
    Fixed(u32),
}

impl Concurrency {
    /// The most that may be in flight.
    #[must_use]
    pub const fn max(self) -> u32 {
        match self {
            Self::Auto { max } | Self::Fixed(max) => max,
        }
    }
}

/// A limit a minute, by model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PerMinute {
    /// For all models that have none of their own; `None` when it is not known.
    pub all: Option<u32>,
    /// For single models.
    pub by_model: BTreeMap<String, u32>,
}

impl PerMinute {
    /// For this model; `None` when it is not known.
    #[must_use]
    pub fn of(&self, model: &ModelName) -> Option<u32> {
        self.by_model.get(model.as_str()).copied().or(self.all)
    }
}

/// When failures are too many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FailureLimit {
    /// So many jobs, in this run.
    Jobs(u64),
    /// So many percent of the jobs that ended, once at least 20 have.
    Percent(f64),
}
