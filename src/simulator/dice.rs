//! Chance that replays: every draw is a function of the scenario's seed and of the request it
//! is for, never of the order in which requests happen to arrive.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::job::{Digest, DigestWriter};

/// Draws for one purpose and one try of one request.
#[derive(Debug)]
pub(super) struct Dice(StdRng);

/// What is drawn for. Two purposes never share their draws, so that a change of one leaves the
/// other as it was.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// How long an answer takes.
    Latency,
    /// Whether the fault rule of this number strikes.
    FaultRule(usize),
    /// Tokens and thoughts; the same for each try.
    Answer,
    /// How long a refusal takes.
    Refusal,
}

impl Purpose {
    const fn number(self) -> u64 {
        match self {
            Self::Latency => 0,
            Self::Answer => 1,
            Self::Refusal => 2,
            Self::FaultRule(rule) => 16 + rule as u64,
        }
    }
}

impl Dice {
    /// Dice for the `nth` try of the request whose digest is `ask`.
    pub(super) fn new(seed: u64, purpose: Purpose, ask: &Digest, nth: u64) -> Self {
        let digest = DigestWriter::new("simulator dice 1")
            .field("seed", &seed.to_le_bytes())
            .field("purpose", &purpose.number().to_le_bytes())
            .field("ask", ask.to_string().as_bytes())
            .field("nth", &nth.to_le_bytes())
            .finish();
        Self(StdRng::seed_from_u64(leading_u64(&digest)))
    }

    /// A number from 0 to below 1.
    pub(super) fn unit(&mut self) -> f64 {
        self.0.random()
    }

    /// A whole number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high.max(low))
    }

    /// A lognormal duration: its median, and the standard deviation of its logarithm.
    pub(super) fn lognormal(&mut self, median: Duration, sigma: f64) -> Duration {
        // Box-Muller; the first draw is turned round so that its logarithm is finite.
        let (u, v) = (1.0 - self.unit(), self.unit());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        let seconds = median.as_secs_f64() * (sigma * normal).exp();
        Duration::try_from_secs_f64(seconds).unwrap_or(median)
    }
}

/// The first eight bytes of a digest.
pub(super) fn leading_u64(digest: &Digest) -> u64 {
    u64::from_str_radix(&digest.to_string()[..16], 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_request_draws_the_same_and_another_try_draws_anew() {
        let ask = Digest::of(b"cat");
        let draw = |seed, purpose, nth| Dice::new(seed, purpose, &ask, nth).between(0, u64::MAX);
        assert_eq!(draw(1, Purpose::Latency, 1), draw(1, Purpose::Latency, 1));
        assert_ne!(draw(1, Purpose::Latency, 1), draw(1, Purpose::Latency, 2));
        assert_ne!(draw(1, Purpose::Latency, 1), draw(2, Purpose::Latency, 1));
        assert_ne!(draw(1, Purpose::FaultRule(0), 1), draw(1, Purpose::FaultRule(1), 1));
    }

    #[test]
    fn half_of_the_lognormal_draws_lie_below_the_median() {
        let ask = Digest::of(b"cat");
        let median = Duration::from_millis(700);
        let below = (0..2000)
            .filter(|nth| Dice::new(7, Purpose::Latency, &ask, *nth).lognormal(median, 0.5) < median)
            .count();
        assert!((900..1100).contains(&below), "{below} of 2000");
    }
}
