//! What a scenario says: how long answers take, what is limited, what goes wrong. The default
//! is a calm and fast service; a YAML file or code changes what it names.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::dice::{Dice, Purpose};
use super::fault::Fault;
use crate::job::Digest;

/// The wildest lie of a hint.
pub(super) const HINT_FACTOR_MAX: f64 = 1000.0;

/// How the simulated service behaves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// How long answers take.
    pub latency: Latency,
    /// How their bytes come.
    pub stream: StreamShape,
    /// How large their pictures are.
    pub pictures: Pictures,
    /// Rate limits; a request must pass all that apply to it.
    pub limits: Vec<LimitRule>,
    /// Faults; the first rule that strikes counts.
    pub faults: Vec<FaultRule>,
}

/// How long an answer takes, from the request's last byte to the picture's first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latency {
    /// The median; 0 answers at once.
    pub median_ms: u64,
    /// Standard deviation of the logarithm (the distribution is lognormal).
    pub sigma: f64,
    /// The share of it that is silence before the first byte.
    pub first_byte_share: f64,
    /// The share of it over which the thinking chunks of a stream are spread. What is left is
    /// silence before the picture.
    pub thinking_share: f64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { median_ms: 0, sigma: 0.0, first_byte_share: 0.3, thinking_share: 0.4 }
    }
}

/// How a stream's bytes come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamShape {
    /// The most bytes written at once.
    pub chunk_bytes: usize,
    /// Pause after each write.
    pub chunk_delay_ms: u64,
    /// `streamGenerateContent` without `alt=sse` answers a JSON array, as Google's own endpoint
    /// does. Off: SSE, as the pages say.
    pub array_without_alt_sse: bool,
}

impl Default for StreamShape {
    fn default() -> Self {
        Self { chunk_bytes: 64 * 1024, chunk_delay_ms: 0, array_without_alt_sse: false }
    }
}

/// How large pictures are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pictures {
    /// Factor on both sides.
    pub scale: f64,
    /// A few pixels of the right ratio, without words.
    pub tiny: bool,
    /// Pads the files to about this size, by metadata that every reader skips.
    pub bytes: Option<u64>,
}

impl Default for Pictures {
    fn default() -> Self {
        Self { scale: 1.0, tiny: false, bytes: None }
    }
}

/// A rate limit, counted for each model and key apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitRule {
    /// The model it applies to, or `*`.
    pub model: String,
    /// What is counted.
    pub kind: LimitKind,
    /// Requests in a window; for `in_flight`, requests at the same time.
    pub per_window: u32,
    /// The window's length.
    pub window_ms: u64,
    /// For `bucket`: how many may come at once after a rest (default `per_window`).
    pub burst: Option<u32>,
    /// Refused requests count too.
    pub count_refused: bool,
    /// Where a refusal says when to come back.
    pub hint: Hint,
    /// Factor on what it says; other than 1 it lies.
    pub hint_factor: f64,
    /// It always says this.
    pub hint_constant_ms: Option<u64>,
    /// The refusal states the limit (`quotaValue`, per minute).
    pub quota_value: bool,
    /// Whose error body it is.
    pub style: ErrorStyle,
    /// How long a refusal takes.
    pub refusal_ms: RangeMs,
    /// Changes of `per_window`, in order of their time.
    pub schedule: Vec<LimitChange>,
}

impl Default for LimitRule {
    fn default() -> Self {
        Self {
            model: "*".to_owned(),
            kind: LimitKind::Bucket,
            per_window: 60,
            window_ms: 60_000,
            burst: None,
            count_refused: false,
            hint: Hint::All,
            hint_factor: 1.0,
            hint_constant_ms: None,
            quota_value: false,
            style: ErrorStyle::Google,
            refusal_ms: RangeMs::default(),
            schedule: Vec::new(),
        }
    }
}

impl LimitRule {
    pub(super) fn applies_to(&self, model: &str) -> bool {
        self.model == "*" || self.model == model
    }

    /// The limit that holds at a time since the start.
    pub(super) fn limit_at(&self, now_ms: u64) -> u32 {
        let changed = self.schedule.iter().rev().find(|change| change.from_ms <= now_ms);
        changed.map_or(self.per_window, |change| change.per_window)
    }

    /// What a refusal says of when to come back.
    pub(super) fn hinted(&self, truth_ms: u64) -> Duration {
        match self.hint_constant_ms {
            Some(ms) => Duration::from_millis(ms),
            None => Duration::from_millis(truth_ms).mul_f64(self.hint_factor.clamp(0.0, HINT_FACTOR_MAX)),
        }
    }
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Tokens that fill up at a rate.
    Bucket,
    /// Requests since the last full window began.
    FixedWindow,
    /// Requests within the last window.
    SlidingWindow,
    /// Requests at the same time.
    InFlight,
}

/// Where a 429 says when to come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// `RetryInfo`, the message, and a Retry-After header in seconds.
    All,
    /// `RetryInfo` and the message, as Google does.
    RetryInfo,
    /// A Retry-After header in seconds.
    RetryAfterSeconds,
    /// A Retry-After header as an HTTP date.
    RetryAfterDate,
    /// "Please retry in …" in the message.
    MessageOnly,
    /// Nowhere.
    None,
}

/// Whose error bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorStyle {
    /// Google's, with `status` and `details`.
    Google,
    /// The gateway's, with `type`, `param` and `code`, and the details lost.
    Gateway,
}

/// A duration from `min` to `max`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeMs {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

/// A limit's new value from a time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitChange {
    /// Since the simulator's start.
    pub from_ms: u64,
    /// The limit from then on.
    pub per_window: u32,
}

/// When a fault strikes: where all that is given holds. A rule with nothing but its fault
/// strikes every request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What goes wrong.
    pub fault: Fault,
    /// With this probability, drawn for each try of each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Every Nth of the requests that the limits let through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// These of the requests that the limits let through, counted from 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<u64>,
    /// Prompts that contain this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<String>,
    /// The first so many tries of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// This model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// From this time since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_ms: Option<u64>,
    /// Until before this time since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
}

impl FaultRule {
    /// A rule that strikes always; narrow it by setting fields.
    #[must_use]
    pub const fn always(fault: Fault) -> Self {
        Self {
            fault,
            probability: None,
            every: None,
            requests: Vec::new(),
            jobs: None,
            times: None,
            model: None,
            from_ms: None,
            until_ms: None,
        }
    }

    fn strikes(&self, case: &Case<'_>, dice: impl FnOnce() -> Dice) -> bool {
        self.every.is_none_or(|every| case.admitted.is_multiple_of(every.max(1)))
            && (self.requests.is_empty() || self.requests.contains(&case.admitted))
            && self.jobs.as_ref().is_none_or(|part| case.prompt.contains(part.as_str()))
            && self.times.is_none_or(|times| case.nth_try <= times)
            && self.model.as_ref().is_none_or(|model| model == case.model)
            && self.from_ms.is_none_or(|from| case.now_ms >= from)
            && self.until_ms.is_none_or(|until| case.now_ms < until)
            && self.probability.is_none_or(|probability| dice().unit() < probability)
    }
}

/// One request, as the rules see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) model: &'a str,
    pub(super) prompt: &'a str,
    /// Digest of all that is asked.
    pub(super) ask: &'a Digest,
    /// Its number among the requests that the limits let through, from 1.
    pub(super) admitted: u64,
    /// How often the same was asked and let through, this time included.
    pub(super) nth_try: u64,
    pub(super) now_ms: u64,
}

impl Scenario {
    /// The fault of this request, if any.
    pub(super) fn fault_of(&self, seed: u64, case: &Case<'_>) -> Option<Fault> {
        let dice = |number| Dice::new(seed, Purpose::FaultRule(number), case.ask, case.nth_try);
        let mut rules = self.faults.iter().enumerate();
        rules.find(|(number, rule)| rule.strikes(case, || dice(*number))).map(|(_, rule)| rule.fault)
    }

    /// How long this answer takes.
    pub(super) fn latency_of(&self, seed: u64, case: &Case<'_>) -> Duration {
        Dice::new(seed, Purpose::Latency, case.ask, case.nth_try)
            .lognormal(Duration::from_millis(self.latency.median_ms), self.latency.sigma)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rule: FaultRule) -> Vec<(u64, u64)> {
        let scenario = Scenario { faults: vec![rule], ..Scenario::default() };
        let ask = Digest::of(b"a black cat");
        (1..=6)
            .flat_map(|admitted| (1..=3).map(move |nth_try| (admitted, nth_try)))
            .filter(|(admitted, nth_try)| {
                let case = Case {
                    model: "m",
                    prompt: "a black cat",
                    ask: &ask,
                    admitted: *admitted,
                    nth_try: *nth_try,
                    now_ms: admitted * 10,
                };
                scenario.fault_of(1, &case).is_some()
            })
            .collect()
    }

    #[test]
    fn a_rule_strikes_where_all_that_it_names_holds() {
        let always = FaultRule::always(Fault::Http503);
        assert_eq!(faults(always.clone()).len(), 18);
        assert_eq!(faults(FaultRule { requests: vec![5], times: Some(1), ..always.clone() }), [(5, 1)]);
        assert_eq!(faults(FaultRule { every: Some(3), times: Some(1), ..always.clone() }), [(3, 1), (6, 1)]);
        assert!(faults(FaultRule { jobs: Some("dog".to_owned()), ..always.clone() }).is_empty());
        assert_eq!(faults(FaultRule { jobs: Some("black".to_owned()), ..always.clone() }).len(), 18);
        assert!(faults(FaultRule { model: Some("n".to_owned()), ..always.clone() }).is_empty());
        assert_eq!(
            faults(FaultRule { from_ms: Some(20), until_ms: Some(30), times: Some(1), ..always }),
            [(2, 1)]
        );
    }

    #[test]
    fn a_hint_is_the_truth_or_the_lie_that_was_asked_for() {
        let hinted = |rule: LimitRule| rule.hinted(1965).as_millis();
        assert_eq!(hinted(LimitRule::default()), 1965);
        assert_eq!(hinted(LimitRule { hint_factor: 0.5, ..LimitRule::default() }), 982);
        assert_eq!(hinted(LimitRule { hint_constant_ms: Some(60_000), ..LimitRule::default() }), 60_000);
    }

    #[test]
    fn probability_depends_on_the_try_and_not_on_the_order_of_arrival() {
        let rule = FaultRule { probability: Some(0.5), ..FaultRule::always(Fault::Http503) };
        let struck = faults(rule);
        for nth_try in 1..=3 {
            let of_this_try = struck.iter().filter(|(_, nth)| *nth == nth_try).count();
            assert!(of_this_try == 0 || of_this_try == 6, "{struck:?}");
        }
    }
}
