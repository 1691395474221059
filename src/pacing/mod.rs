//! Floor 2: how fast, how many at once, and how often again. Pure: time and randomness are
//! handed in, nothing here sleeps or sends.
//!
//! A [`Lane`] is everything that shares one limit at the provider: (provider, key, model). In
//! reading order: `lane` (the gates, and what a caller sees), `limit` (what is believed, and how it
//! is found out), `sends` (the log that it is measured with), `closure` (closed, half open, open),
//! `ceiling` (requests in flight), `overload` (503s), `shared` (one lane for the workers of many machines). `virtual_clock` proves them against simulated
//! servers.
//!
//! ```
//! # use nightpress::pacing::{Hints, Lane, LaneLimits};
//! # let now = tokio::time::Instant::now();
//! let mut lane = Lane::new(LaneLimits::default(), None, now);
//! let grant = lane.grant(now, 8); // ask again at grant.wake_at, or when a request ends
//! for _ in 0..grant.permits {
//!     let ticket = lane.sent(now); // before the request leaves; each ticket ends exactly once:
//!     lane.refused(now, ticket, Hints::default(), &mut rand::rng());
//! }
//! ```
//!
//! [`RetryPolicy`] says what becomes of a job whose attempt did not succeed.

mod backoff;
mod ceiling;
mod closure;
mod daily;
mod lane;
#[cfg(test)]
mod lane_tests;
mod limit;
mod overload;
mod retry;
mod sends;
mod shared;
#[cfg(test)]
mod virtual_clock;

pub use backoff::Backoff;
pub use closure::{Closed, Why};
pub use daily::daily_quota_reset;
pub use lane::{Grant, Hints, Lane, LaneLimits, LaneState, Learned, Ticket};
pub use limit::Source;
pub use retry::{RetryPolicy, Verdict};
pub use shared::{End, Logged, Share};
