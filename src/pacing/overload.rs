//! Servers that are overloaded: 503, 529 and firewall pages. They say nothing about the limit,
//! and are not helped by more of the same.

use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// So many in a row, without another end between them: one alone is nothing.
const STRAIGHT: u32 = 5;
/// The first closure unless a person sets the backoff otherwise.
pub(super) const REST_FIRST: Duration = Duration::from_secs(4);
/// The longest.
const REST_MAX: Duration = Duration::from_secs(15);
/// After a closure so many may be on their way at least; each success adds one, up to
/// [`SLOW_START_MAX`], beyond which there is no such ceiling.
const SLOW_START_MIN: u32 = 4;
const SLOW_START_MAX: u32 = 64;

/// Counts overloads, and lets few requests through after them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Overload {
    pub(super) rest_first: Duration,
    straight: u32,
    /// Closures since the last success.
    rests: u32,
    slow_start: Option<u32>,
}

impl Overload {
    pub(super) fn new(rest_first: Duration) -> Self {
        Self { rest_first, straight: 0, rests: 0, slow_start: None }
    }

    /// Whether a success would change anything.
    pub(super) fn is_calm(&self) -> bool {
        self.straight == 0 && self.rests == 0 && self.slow_start.is_none()
    }

    /// Requests that may be on their way.
    pub(super) fn allows(&self) -> u32 {
        self.slow_start.unwrap_or(u32::MAX)
    }

    /// A request was answered.
    pub(super) fn succeeded(&mut self) {
        (self.straight, self.rests) = (0, 0);
        self.slow_start = self.slow_start.map(|n| n + 1).filter(|n| *n <= SLOW_START_MAX);
    }

    /// A request met an overload. Whether the lane shall close.
    pub(super) fn met(&mut self) -> bool {
        self.straight = self.straight.saturating_add(1);
        self.straight >= STRAIGHT
    }

    /// The lane closes with so many requests on their way. Returns for how long.
    pub(super) fn rest(&mut self, in_flight: u32, rng: &mut impl Rng) -> Duration {
        if self.rests == 0 {
            self.slow_start = Some((in_flight / 2).max(SLOW_START_MIN));
        }
        let rest = self.rest_first.saturating_mul(1 << self.rests.min(8)).min(REST_MAX);
        self.rests = self.rests.saturating_add(1);
        rest.mul_f64(0.7 + 0.3 * rng.random::<f64>())
    }
}
