//! Floor 3: how fast, how many at once, and how often again. Pure: time and randomness are
//! handed in, nothing here sleeps or sends.
//!
//! A [`Lane`] is everything that shares one limit at the provider: (provider, key, model). A
//! refusal closes the lane for all workers at once, as a deadline; after it one probe goes first.
//! [`RetryPolicy`] says what becomes of a job whose attempt did not succeed.

mod backoff;
mod ceiling;
mod closure;
mod daily;
mod lane;
mod limit;
mod overload;
mod retry;
mod sends;
#[cfg(test)]
mod virtual_clock;

pub use backoff::Backoff;
pub use closure::{Closed, Why};
pub use daily::daily_quota_reset;
pub use lane::{Grant, Hints, Lane, LaneLimits, LaneState, Learned, Ticket};
pub use limit::Source;
pub use retry::{RetryPolicy, Verdict};
