//! When a run stops by itself: an account without money, a key that does not serve, too many
//! failures. Pure.

use super::config::FailureLimit;
use super::event::Stop;
use crate::gemini::fault::{Fault, FaultClass};

/// The same permanent error so many times, without one success, is no longer the jobs' fault.
const SAME_ERROR_MAX: u32 = 20;

/// Fewer ended jobs than this say nothing as a percentage.
const PERCENT_FROM_JOBS: u64 = 20;

/// Watches how attempts and jobs end.
#[derive(Debug)]
pub(super) struct Breaker {
    failures_max: Option<FailureLimit>,
    succeeded: u64,
    failed: u64,
    same: Option<(String, u32)>,
}

impl Breaker {
    pub(super) fn new(failures_max: Option<FailureLimit>) -> Self {
        Self { failures_max, succeeded: 0, failed: 0, same: None }
    }

    /// A job got its images.
    pub(super) fn succeeded(&mut self) {
        self.succeeded += 1;
        self.same = None;
    }

    /// An attempt ended with a fault. Returns why the run must stop, if it must.
    pub(super) fn fault(&mut self, fault: &Fault) -> Option<Stop> {
        match fault.class {
            FaultClass::MoneyOut => Some(Stop::MoneyOut(fault.message.clone())),
            FaultClass::KeyRejected => Some(Stop::KeyRejected(fault.message.clone())),
            FaultClass::Rejected => self.same_error(fault),
            _ => None,
        }
    }

    /// A job failed for good. Returns why the run must stop, if it must.
    pub(super) fn failed(&mut self) -> Option<Stop> {
        self.failed += 1;
        let ended = self.failed + self.succeeded;
        let too_many = match self.failures_max? {
            FailureLimit::Jobs(max) => self.failed >= max,
            #[expect(clippy::cast_precision_loss, reason = "a share of counts far below 2⁵²")]
            FailureLimit::Percent(max) => {
                ended >= PERCENT_FROM_JOBS && self.failed as f64 * 100.0 > max * ended as f64
            }
        };
        too_many.then_some(Stop::Failures { failed: self.failed })
    }

    fn same_error(&mut self, fault: &Fault) -> Option<Stop> {
        let times = match &self.same {
            Some((code, times)) if *code == *fault.code => times + 1,
            _ => 1,
        };
        self.same = Some((fault.code.clone().into_owned(), times));
        (times >= SAME_ERROR_MAX && self.succeeded == 0)
            .then(|| Stop::SameError { times, error: fault.message.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(class: FaultClass, code: &str) -> Fault {
        Fault {
            class,
            code: code.to_owned().into(),
            message: "no".to_owned(),
            lane_cooldown: false,
            may_be_billed: false,
        }
    }

    #[test]
    fn what_is_to_be_done_about_money_and_key_is_said_once() {
        let money =
            Stop::MoneyOut("the account has no money left; top it up, then go on".to_owned()).to_string();
        assert_eq!(money.to_lowercase().matches("top it up").count(), 1, "{money}");
        let place = "the API does not serve this location; run it from a supported country".to_owned();
        assert!(!Stop::KeyRejected(place).to_string().contains("key"));
    }

    #[test]
    fn money_and_key_stop_at_once() {
        let mut breaker = Breaker::new(None);
        assert!(matches!(breaker.fault(&fault(FaultClass::MoneyOut, "quota")), Some(Stop::MoneyOut(_))));
        assert!(matches!(breaker.fault(&fault(FaultClass::KeyRejected, "key")), Some(Stop::KeyRejected(_))));
    }

    #[test]
    fn the_same_permanent_error_stops_after_twenty_and_not_after_a_success() {
        let rejected = fault(FaultClass::Rejected, "http_400");
        let mut breaker = Breaker::new(None);
        assert!((0..19).all(|_| breaker.fault(&rejected).is_none()));
        assert!(matches!(breaker.fault(&rejected), Some(Stop::SameError { times: 20, .. })));
        let mut breaker = Breaker::new(None);
        breaker.succeeded();
        assert!((0..100).all(|_| breaker.fault(&rejected).is_none()));
        let mut breaker = Breaker::new(None);
        let other = fault(FaultClass::Rejected, "http_422");
        assert!((0..100).all(|n| breaker.fault(if n % 2 == 0 { &rejected } else { &other }).is_none()));
    }

    #[test]
    fn failures_are_limited_by_number_or_by_share() {
        let mut breaker = Breaker::new(Some(FailureLimit::Jobs(2)));
        assert_eq!(breaker.failed(), None);
        assert_eq!(breaker.failed(), Some(Stop::Failures { failed: 2 }));
        let mut breaker = Breaker::new(Some(FailureLimit::Percent(10.0)));
        assert!((0..19).all(|_| breaker.failed().is_none()), "a share of few says nothing");
        assert!(breaker.failed().is_some());
    }
}
