//! Floor 3: how fast, how many at once, and how often again. Pure: time and randomness are
//! handed in, nothing here sleeps or sends.
//!
//! A [`Lane`] is everything that shares one limit at the provider: (provider, key, model). A
//! refusal closes the lane for all workers at once, as a deadline; after it one probe goes first.
//! [`RetryPolicy`] says what becomes of a job whose attempt did not succeed.

mod backoff;
mod daily;
mod lane;
mod retry;

pub use backoff::Backoff;
pub use daily::daily_quota_reset;
pub use lane::{Closed, Grant, Lane, LaneLimits, Ticket, Why};
pub use retry::{RetryPolicy, Verdict};
