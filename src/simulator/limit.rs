//! Rate limits as providers have them, on a clock that is handed in as milliseconds since the
//! simulator's start. Pure: no I/O, no waiting.

use std::collections::{HashMap, VecDeque};

use super::scenario::{LimitKind, LimitRule};

/// Lanes that are told apart; beyond it the counts start anew.
const LANES_MAX: usize = 10_000;

/// One limit on one lane.
#[derive(Debug)]
pub(super) struct Limiter {
    kind: LimitKind,
    window_ms: u64,
    burst: f64,
    count_refused: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Bucket {
        tokens: f64,
        filled_at_ms: u64,
    },
    Fixed {
        window: u64,
        used: u64,
    },
    /// Times of the newest requests that count, at most as many as one window admits.
    Sliding(VecDeque<u64>),
    InFlight(u64),
}

impl Limiter {
    fn new(rule: &LimitRule, now_ms: u64) -> Self {
        let burst = f64::from(rule.burst.unwrap_or(rule.per_window).max(1));
        let state = match rule.kind {
            LimitKind::Bucket => State::Bucket { tokens: burst, filled_at_ms: now_ms },
            LimitKind::FixedWindow => State::Fixed { window: now_ms / rule.window_ms.max(1), used: 0 },
            LimitKind::SlidingWindow => State::Sliding(VecDeque::new()),
            LimitKind::InFlight => State::InFlight(0),
        };
        Self {
            kind: rule.kind,
            window_ms: rule.window_ms.max(1),
            burst,
            count_refused: rule.count_refused,
            state,
        }
    }

    /// How long until a request would be admitted; `None`: now. `limit` is that of this moment.
    #[expect(clippy::cast_precision_loss, clippy::cast_sign_loss, clippy::cast_possible_truncation)]
    fn wait_ms(&mut self, limit: u32, now_ms: u64) -> Option<u64> {
        let (limit, window_ms) = (u64::from(limit), self.window_ms);
        match &mut self.state {
            State::Bucket { tokens, filled_at_ms } => {
                let per_ms = limit as f64 / window_ms as f64;
                let gained = now_ms.saturating_sub(*filled_at_ms) as f64 * per_ms;
                *tokens = (*tokens + gained).min(self.burst);
                *filled_at_ms = now_ms;
                // A hair below 1 is 1: the sum of many small gains is not exact.
                let missing = 1.0 - 1e-6 - *tokens;
                (missing > 0.0).then(|| ((missing / per_ms.max(1e-9)).ceil() as u64).max(1))
            }
            State::Fixed { window, used } => {
                if *window != now_ms / window_ms {
                    (*window, *used) = (now_ms / window_ms, 0);
                }
                (*used >= limit).then(|| window_ms - now_ms % window_ms)
            }
            State::Sliding(times) => {
                while times.front().is_some_and(|time| time.saturating_add(window_ms) <= now_ms) {
                    times.pop_front();
                }
                let surplus = times.len().checked_sub(usize::try_from(limit).unwrap_or(usize::MAX))?;
                // The window opens when all but `limit - 1` of the counted ones have left it.
                let opens = times.get(surplus).or(times.back())?.saturating_add(window_ms);
                Some(opens.saturating_sub(now_ms).max(1))
            }
            // Nobody knows when one of those in flight ends; a second is what gateways say.
            State::InFlight(count) => (*count >= limit).then_some(1000),
        }
    }

    fn count(&mut self, limit: u32, now_ms: u64) {
        match &mut self.state {
            State::Bucket { tokens, .. } => *tokens -= 1.0,
            State::Fixed { used, .. } => *used += 1,
            State::Sliding(times) => {
                times.push_back(now_ms);
                while times.len() > usize::try_from(limit.max(1)).unwrap_or(usize::MAX) {
                    times.pop_front();
                }
            }
            State::InFlight(count) => *count += 1,
        }
    }

    fn count_refusal(&mut self, limit: u32, now_ms: u64) {
        match &mut self.state {
            // A refusal costs what has come together so far, but no debt.
            State::Bucket { tokens, .. } if self.count_refused => *tokens = (*tokens - 1.0).max(0.0),
            State::Sliding(_) if self.count_refused => self.count(limit, now_ms),
            // A fixed window is full anyway, and a refused request is not in flight.
            _ => {}
        }
    }
}

/// Who is limited: limits are counted for each model and key apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LimitedLane {
    pub(super) model: String,
    pub(super) key: String,
}

/// All limits of a scenario on all lanes.
#[derive(Debug)]
pub(super) struct Limits {
    rules: Vec<LimitRule>,
    limiters: HashMap<(usize, LimitedLane), Limiter>,
}

/// A request that some rule did not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    /// The rule's number.
    pub(super) rule: usize,
    /// When it would be let through: the truth, whatever the hint says.
    pub(super) wait_ms: u64,
    /// The limit of this moment.
    pub(super) limit: u32,
}

impl Limits {
    pub(super) fn new(rules: Vec<LimitRule>) -> Self {
        Self { rules, limiters: HashMap::new() }
    }

    /// Counts a request, if every rule of its lane lets it through. What was admitted must be
    /// given to [`Limits::release`] at its end.
    pub(super) fn admit(&mut self, lane: &LimitedLane, now_ms: u64) -> Result<(), Refused> {
        if self.limiters.len() >= LANES_MAX {
            self.limiters.clear();
        }
        let mine: Vec<(usize, u32)> = (0..)
            .zip(&self.rules)
            .filter(|(_, rule)| rule.applies_to(&lane.model))
            .map(|(number, rule)| (number, rule.limit_at(now_ms)))
            .collect();
        for (rule, limit) in mine.iter().copied() {
            let Some(limiter) = self.limiter(rule, lane, now_ms) else { continue };
            if let Some(wait_ms) = limiter.wait_ms(limit, now_ms) {
                limiter.count_refusal(limit, now_ms);
                return Err(Refused { rule, wait_ms, limit });
            }
        }
        for (rule, limit) in mine {
            if let Some(limiter) = self.limiter(rule, lane, now_ms) {
                limiter.count(limit, now_ms);
            }
        }
        Ok(())
    }

    /// A request that was admitted has ended.
    pub(super) fn release(&mut self, lane: &LimitedLane) {
        for ((_, held), limiter) in &mut self.limiters {
            if let (true, State::InFlight(count)) = (held == lane, &mut limiter.state) {
                debug_assert_eq!(limiter.kind, LimitKind::InFlight);
                *count = count.saturating_sub(1);
            }
        }
    }

    fn limiter(&mut self, rule: usize, lane: &LimitedLane, now_ms: u64) -> Option<&mut Limiter> {
        let description = self.rules.get(rule)?;
        let fresh = || Limiter::new(description, now_ms);
        Some(self.limiters.entry((rule, lane.clone())).or_insert_with(fresh))
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::LimitChange;
    use super::*;

    fn lane(model: &str) -> LimitedLane {
        LimitedLane { model: model.to_owned(), key: "k".to_owned() }
    }

    fn limits(kind: LimitKind, per_window: u32) -> LimitRule {
        LimitRule { kind, per_window, window_ms: 1000, ..LimitRule::default() }
    }

    /// Sends one request every `every_ms` and says at which times it was admitted.
    fn admitted(rule: LimitRule, every_ms: u64, until_ms: u64) -> Vec<u64> {
        let mut limits = Limits::new(vec![rule]);
        (0..until_ms)
            .step_by(usize::try_from(every_ms).expect("small"))
            .filter(|now| limits.admit(&lane("m"), *now).is_ok())
            .collect()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rule = LimitRule { burst: Some(2), ..limits(LimitKind::Bucket, 4) };
        assert_eq!(admitted(rule, 50, 1001), [0, 50, 250, 500, 750, 1000]);
    }

    #[test]
    fn a_fixed_window_opens_at_its_boundary() {
        assert_eq!(admitted(limits(LimitKind::FixedWindow, 2), 100, 2200), [0, 100, 1000, 1100, 2000, 2100]);
    }

    #[test]
    fn a_sliding_window_never_holds_more_than_its_limit() {
        let times = admitted(limits(LimitKind::SlidingWindow, 3), 70, 10_000);
        for window in times.windows(4) {
            assert!(window[3] - window[0] >= 1000, "{window:?}");
        }
        assert!(times.len() >= 27, "{times:?}");
    }

    #[test]
    fn a_hammered_sliding_window_that_counts_refusals_stays_shut() {
        let rule = LimitRule { count_refused: true, ..limits(LimitKind::SlidingWindow, 3) };
        assert_eq!(admitted(rule, 100, 5000), [0, 100, 200]);
    }

    #[test]
    fn in_flight_counts_what_has_not_ended() {
        let mut limits = Limits::new(vec![limits(LimitKind::InFlight, 2)]);
        assert!(limits.admit(&lane("m"), 0).is_ok());
        assert!(limits.admit(&lane("m"), 0).is_ok());
        assert_eq!(limits.admit(&lane("m"), 0), Err(Refused { rule: 0, wait_ms: 1000, limit: 2 }));
        assert!(limits.admit(&lane("other"), 0).is_ok(), "another model is another lane");
        limits.release(&lane("m"));
        assert!(limits.admit(&lane("m"), 0).is_ok());
    }

    #[test]
    fn the_hint_is_the_time_at_which_the_next_request_passes() {
        for kind in [LimitKind::Bucket, LimitKind::FixedWindow, LimitKind::SlidingWindow] {
            let mut limits = Limits::new(vec![limits(kind, 3)]);
            let refused = (0..100)
                .find_map(|now| limits.admit(&lane("m"), now * 10).err().map(|refused| (now * 10, refused)))
                .expect("refused within a second");
            let at = refused.0 + refused.1.wait_ms;
            assert!(limits.admit(&lane("m"), at - 1).is_err(), "{kind:?}");
            assert!(limits.admit(&lane("m"), at).is_ok(), "{kind:?}");
        }
    }

    #[test]
    fn a_limit_changes_when_its_schedule_says() {
        let schedule = vec![LimitChange { from_ms: 1000, per_window: 1 }];
        let rule = LimitRule { schedule, ..limits(LimitKind::FixedWindow, 3) };
        assert_eq!(admitted(rule, 100, 2500), [0, 100, 200, 1000, 2000]);
    }
}
