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
    /// Most requests in flight in this process.
    pub concurrency: u32,
    /// Requests a minute and lane; `None` when the limit is unknown.
    pub per_minute: Option<u32>,
    /// The same for single models; wins over `per_minute`.
    pub per_minute_by_model: BTreeMap<String, u32>,
    /// How often each kind of failure is tried again.
    pub retry: RetryPolicy,
    /// Which jobs.
    pub scope: Scope,
    /// What becomes of jobs whose attempt was lost.
    pub lost: LostPolicy,
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

impl WorkConfig {
    /// Requests a minute for a model; `None` when its limit is unknown.
    pub fn per_minute_of(&self, model: &ModelName) -> Option<u32> {
        self.per_minute_by_model.get(model.as_str()).copied().or(self.per_minute)
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
