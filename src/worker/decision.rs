//! What becomes of a job when its attempt has ended. Pure: the same end, allowances and jitter
//! give the same way on.

use std::time::Duration;

use rand::rngs::StdRng;

use crate::gemini::fault::{Fault, FaultClass};
use crate::job::{AttemptOutcome, JobState};
use crate::output::SpooledPicture;
use crate::pacing::{RetryPolicy, Verdict};
use crate::queue::{Counters, Next, PlannedOutput};

/// What became of an attempt: its outcome and its job's way on.
#[derive(Debug)]
pub(super) struct Decision {
    pub(super) outcome: AttemptOutcome,
    pub(super) next: Next,
    pub(super) state: JobState,
    pub(super) again_in: Option<Duration>,
}

/// What a decision about a fault is made from.
#[derive(Debug)]
pub(super) struct Grounds<'a> {
    pub(super) policy: &'a RetryPolicy,
    /// What the job's revision had used up before this attempt.
    pub(super) counters: Counters,
    /// How long the lane is closed; zero while it is parked.
    pub(super) lane_wait: Duration,
    /// The lane is to blame: no allowance is used up.
    pub(super) spared: bool,
}

impl Decision {
    /// Images came.
    pub(super) fn publish(pictures: Vec<SpooledPicture>) -> Self {
        let next = Next::Publish(pictures.into_iter().map(planned).collect());
        Self { outcome: AttemptOutcome::Succeeded, next, state: JobState::Succeeded, again_in: None }
    }

    /// The job can never be sent as it is.
    pub(super) fn fail() -> Self {
        let (outcome, state) = (AttemptOutcome::Failed, JobState::Failed);
        Self { outcome, next: Next::Fail, state, again_in: None }
    }

    /// The job is pending again, not before a delay has passed.
    pub(super) fn again(outcome: AttemptOutcome, delay: Duration) -> Self {
        Self { outcome, next: Next::Retry(delay), state: JobState::Pending, again_in: Some(delay) }
    }

    /// The attempt ended with a fault.
    pub(super) fn of_fault(fault: &Fault, grounds: &Grounds<'_>, rng: &mut StdRng) -> Self {
        let outcome = match fault.class {
            FaultClass::Throttled { .. } | FaultClass::Parked { .. } => AttemptOutcome::Throttled,
            FaultClass::Transient { .. } => AttemptOutcome::Transient,
            FaultClass::NoImage => AttemptOutcome::NoImage,
            FaultClass::Refused => AttemptOutcome::Refused,
            FaultClass::Rejected => AttemptOutcome::Failed,
            // Not the job's fault: it waits for an account, a key or a model that serves.
            FaultClass::MoneyOut | FaultClass::KeyRejected | FaultClass::ModelUnavailable => {
                return Self::again(AttemptOutcome::Failed, Duration::ZERO);
            }
        };
        if let (FaultClass::Transient { hint }, true) = (&fault.class, grounds.spared) {
            let delay = grounds.policy.backoff.delay(1, rng);
            let delay = delay.max(grounds.lane_wait).max(hint.unwrap_or_default());
            let next = Next::Spare(delay);
            return Self { outcome, next, state: JobState::Pending, again_in: Some(delay) };
        }
        let count = |of: AttemptOutcome, so_far: u32| so_far + u32::from(outcome == of);
        let transient = count(AttemptOutcome::Transient, grounds.counters.transient);
        let no_image = count(AttemptOutcome::NoImage, grounds.counters.no_image);
        match grounds.policy.verdict(outcome, transient, no_image, rng) {
            Verdict::Again(delay) => {
                let wait = match fault.class {
                    FaultClass::Transient { hint } => grounds.lane_wait.max(hint.unwrap_or_default()),
                    // What is shut is the lane, for hours perhaps: a job that was put to sleep as
                    // long would sleep on when the lane is open again, in the next run.
                    FaultClass::Parked { .. } => Duration::ZERO,
                    _ => grounds.lane_wait,
                };
                Self::again(outcome, delay.max(wait))
            }
            Verdict::Fail => Self { outcome, ..Self::fail() },
            Verdict::Refuse => Self { outcome, next: Next::Refuse, state: JobState::Refused, again_in: None },
        }
    }
}

fn planned(picture: SpooledPicture) -> PlannedOutput {
    PlannedOutput {
        spool: picture.name,
        media: picture.media,
        bytes: picture.bytes,
        digest: picture.digest,
        width: picture.width,
        height: picture.height,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn decide(class: FaultClass, counters: Counters, lane_wait: Duration) -> Decision {
        let fault = Fault {
            class,
            code: "x".into(),
            message: "no".to_owned(),
            lane_cooldown: false,
            may_be_billed: false,
        };
        let policy = RetryPolicy::default();
        let grounds = Grounds { policy: &policy, counters, lane_wait, spared: false };
        Decision::of_fault(&fault, &grounds, &mut StdRng::seed_from_u64(3))
    }

    #[test]
    fn a_throttled_job_waits_for_its_lane_and_loses_nothing() {
        let wait = Duration::from_secs(34);
        let used_up = Counters { transient: 4, no_image: 1, lost: 1 };
        let decision = decide(FaultClass::Throttled { hint: None, quota: None }, used_up, wait);
        assert_eq!((decision.state, decision.again_in), (JobState::Pending, Some(wait)));
        assert!(matches!(decision.next, Next::Retry(delay) if delay == wait));
    }

    #[test]
    fn a_job_of_a_parked_lane_is_not_put_to_sleep_with_it() {
        let parked = FaultClass::Parked { hint: None, quota: None };
        let decision = decide(parked, Counters::default(), Duration::from_secs(40_000));
        assert_eq!((decision.outcome, decision.again_in), (AttemptOutcome::Throttled, Some(Duration::ZERO)));
    }

    #[test]
    fn the_fifth_transient_error_fails_the_job_and_a_hint_is_waited_for() {
        let class = || FaultClass::Transient { hint: Some(Duration::from_secs(90)) };
        let spent = |transient| Counters { transient, ..Counters::default() };
        assert!(decide(class(), spent(3), Duration::ZERO).again_in >= Some(Duration::from_secs(90)));
        assert_eq!(decide(class(), spent(4), Duration::ZERO).state, JobState::Failed);
    }

    #[test]
    fn a_lane_in_trouble_is_to_blame_and_not_its_jobs() {
        let fault = Fault {
            class: FaultClass::Transient { hint: None },
            code: "x".into(),
            message: "no".to_owned(),
            lane_cooldown: false,
            may_be_billed: false,
        };
        let policy = RetryPolicy::default();
        let counters = Counters { transient: 4, ..Counters::default() };
        let lane_wait = Duration::from_secs(40);
        let grounds = Grounds { policy: &policy, counters, lane_wait, spared: true };
        let decision = Decision::of_fault(&fault, &grounds, &mut StdRng::seed_from_u64(3));
        assert_eq!((decision.outcome, decision.state), (AttemptOutcome::Transient, JobState::Pending));
        assert!(matches!(decision.next, Next::Spare(delay) if delay >= lane_wait));
    }

    #[test]
    fn an_empty_account_is_not_the_jobs_fault() {
        for class in [FaultClass::MoneyOut, FaultClass::KeyRejected, FaultClass::ModelUnavailable] {
            let decision = decide(class, Counters { transient: 9, no_image: 9, lost: 9 }, Duration::ZERO);
            assert_eq!((decision.outcome, decision.state), (AttemptOutcome::Failed, JobState::Pending));
        }
    }
}
