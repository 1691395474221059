//! Exponential backoff with full jitter.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Exponential backoff with full jitter: before try `n` a delay drawn evenly from zero to
/// `min(cap, base · 2ⁿ)`, so that jobs which failed together do not come back together (AWS
/// Architecture Blog, "Exponential Backoff and Jitter", 2015).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first delay.
    pub base: Duration,
    /// Upper bound of every delay.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_secs(2), cap: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The most that [`Backoff::delay`] can return after `failures` failures in a row.
    pub fn ceiling(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }

    /// A delay after `failures` failures in a row, counted from 1.
    pub fn delay(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        self.ceiling(failures).mul_f64(rng.random::<f64>())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_never_pass_it() {
        let backoff = Backoff { base: Duration::from_secs(2), cap: Duration::from_secs(60) };
        let ceilings: Vec<u64> = (1..=7).map(|n| backoff.ceiling(n).as_secs()).collect();
        assert_eq!(ceilings, [2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.ceiling(u32::MAX), backoff.cap);
    }

    #[test]
    fn jitter_is_full_it_reaches_from_nothing_to_the_ceiling() {
        let backoff = Backoff::default();
        let mut rng = StdRng::seed_from_u64(7);
        let delays: Vec<f64> = (0..1_000).map(|_| backoff.delay(3, &mut rng).as_secs_f64()).collect();
        assert!(delays.iter().all(|delay| (0.0..=8.0).contains(delay)));
        assert!(delays.iter().any(|delay| *delay < 0.4), "never near zero");
        assert!(delays.iter().any(|delay| *delay > 7.6), "never near the ceiling");
    }
}
