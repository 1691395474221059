//! What becomes of a job whose attempt did not succeed.

use std::time::Duration;

use rand::Rng;

use super::Backoff;
use crate::job::AttemptOutcome;

/// How often each kind of failure is tried again. Each kind has its own allowance: an answer
/// without a picture says nothing about the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts that may end `transient`, the last one included.
    pub transient_max: u32,
    /// Attempts that may end `no_image`, the last one included.
    pub no_image_max: u32,
    /// How long to wait before the next one.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { transient_max: 5, no_image_max: 2, backoff: Backoff::default() }
    }
}

/// What becomes of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again after this time, or when its lane opens, whatever is later.
    Again(Duration),
    /// It failed.
    Fail,
    /// A person must change the prompt.
    Refuse,
}

impl RetryPolicy {
    /// The verdict after an attempt that ended with `outcome`. `transient` and `no_image` are the
    /// attempts of the job's present revision that ended so, this one included.
    pub fn verdict(
        &self,
        outcome: AttemptOutcome,
        transient: u32,
        no_image: u32,
        rng: &mut impl Rng,
    ) -> Verdict {
        match outcome {
            AttemptOutcome::Transient if transient < self.transient_max => {
                Verdict::Again(self.backoff.delay(transient, rng))
            }
            AttemptOutcome::NoImage if no_image < self.no_image_max => {
                Verdict::Again(self.backoff.delay(no_image, rng))
            }
            // Turned away or cut off by us: the job is not to blame.
            AttemptOutcome::Throttled | AttemptOutcome::Aborted => Verdict::Again(Duration::ZERO),
            AttemptOutcome::Refused => Verdict::Refuse,
            _ => Verdict::Fail,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn verdict(outcome: AttemptOutcome, transient: u32, no_image: u32) -> Verdict {
        RetryPolicy::default().verdict(outcome, transient, no_image, &mut StdRng::seed_from_u64(1))
    }

    #[test]
    fn each_kind_of_failure_has_its_own_allowance() {
        assert!(matches!(verdict(AttemptOutcome::Transient, 4, 9), Verdict::Again(_)));
        assert_eq!(verdict(AttemptOutcome::Transient, 5, 0), Verdict::Fail);
        assert!(matches!(verdict(AttemptOutcome::NoImage, 9, 1), Verdict::Again(_)));
        assert_eq!(verdict(AttemptOutcome::NoImage, 0, 2), Verdict::Fail);
    }

    #[test]
    fn throttling_and_our_own_abort_use_up_nothing() {
        assert_eq!(verdict(AttemptOutcome::Throttled, 99, 99), Verdict::Again(Duration::ZERO));
        assert_eq!(verdict(AttemptOutcome::Aborted, 99, 99), Verdict::Again(Duration::ZERO));
    }

    #[test]
    fn a_refusal_is_final_and_so_is_a_permanent_error() {
        assert_eq!(verdict(AttemptOutcome::Refused, 0, 0), Verdict::Refuse);
        assert_eq!(verdict(AttemptOutcome::Failed, 0, 0), Verdict::Fail);
    }
}
