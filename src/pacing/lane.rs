//! One lane: a cooldown that all its workers share, a probe after it, and a steady rate when
//! the limit is known.

use std::time::Duration;

use rand::{Rng, RngExt};
use tokio::time::Instant;

/// A probe that was not refused for this long was admitted: refusals come at once, pictures
/// take their time. Without it a picture of two minutes would keep the lane shut.
const PROBE_SILENCE: Duration = Duration::from_millis(1_500);

/// Longest cooldown that a lane sets itself without being told.
const COOLDOWN_MAX: Duration = Duration::from_secs(60);

/// What is added to a hint at most, as a share of it: a lane never comes back earlier than it
/// was told, and not on the same instant as everyone else.
const HINT_JITTER: f64 = 0.10;

/// What a lane was told about its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneLimits {
    /// Requests in any 60 seconds; `None` when the limit is unknown.
    pub per_minute: Option<u32>,
}

/// Why a lane is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A rate limit, for as long as the server asked.
    Asked,
    /// A rate limit without a hint; the time is our own guess.
    Guessed,
    /// A firewall or an overloaded upstream.
    Trouble,
    /// A quota that is used up for long: a daily one, or a hint of more than ten minutes.
    Parked,
}

/// A lane that is closed for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Until when.
    pub until: Instant,
    /// Why.
    pub why: Why,
}

/// How many requests may leave now, and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Requests that may leave now.
    pub permits: u32,
    /// When more may be granted without anything else happening; `None` if that needs a request to end.
    pub wake_at: Option<Instant>,
}

/// What a request carries to be told apart when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    sent_at: Instant,
    probe: bool,
}

/// The pacing state of one lane. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Lane {
    limits: LaneLimits,
    closed: Option<Closed>,
    /// The lane was closed and has not been proven open since.
    half_open: bool,
    probe: Option<Instant>,
    /// Refusals since the last time that the lane was proven open.
    streak: u32,
    /// The last refusal that was acted on: those of requests sent before it are old news.
    reacted_at: Option<Instant>,
    /// With a known limit: when the next request may leave.
    next_at: Option<Instant>,
}

impl Lane {
    /// A lane that is open.
    pub fn new(limits: LaneLimits) -> Self {
        Self {
            limits,
            closed: None,
            half_open: false,
            probe: None,
            streak: 0,
            reacted_at: None,
            next_at: None,
        }
    }

    /// How many of `wanted` requests may leave at `now`.
    pub fn grant(&mut self, now: Instant, wanted: u32) -> Grant {
        if let Some(closed) = self.closed {
            if now < closed.until {
                return Grant { permits: 0, wake_at: Some(closed.until) };
            }
            self.closed = None;
        }
        if self.half_open {
            match self.probe {
                None => return Grant { permits: wanted.min(1), wake_at: None },
                Some(sent_at) if now < sent_at + PROBE_SILENCE => {
                    return Grant { permits: 0, wake_at: Some(sent_at + PROBE_SILENCE) };
                }
                Some(_) => self.open(),
            }
        }
        match (self.gap(), self.next_at) {
            (Some(_), Some(next)) if now < next => Grant { permits: 0, wake_at: Some(next) },
            // One at a time: the next is due a gap later.
            (Some(gap), _) => Grant { permits: wanted.min(1), wake_at: Some(now + gap) },
            (None, _) => Grant { permits: wanted, wake_at: None },
        }
    }

    /// A request leaves.
    pub fn sent(&mut self, now: Instant) -> Ticket {
        let probe = self.half_open && self.probe.is_none();
        if probe {
            self.probe = Some(now);
        }
        if let Some(gap) = self.gap() {
            self.next_at = Some(self.next_at.map_or(now, |next| next.max(now)) + gap);
        }
        Ticket { sent_at: now, probe }
    }

    /// A request ended and was not turned away.
    pub fn admitted(&mut self, ticket: Ticket) {
        // Only what was sent after the closure proves anything about the time after it.
        if self.half_open && self.reacted_at.is_none_or(|at| ticket.sent_at > at) {
            self.open();
        }
    }

    /// A request was turned away by a rate limit. `hint` is the largest of what the server
    /// asked for. Returns when the lane opens again.
    pub fn refused(
        &mut self,
        now: Instant,
        ticket: Ticket,
        hint: Option<Duration>,
        rng: &mut impl Rng,
    ) -> Instant {
        let old_news = !ticket.probe && self.reacted_at.is_some_and(|at| ticket.sent_at <= at);
        if !old_news {
            self.streak = self.streak.saturating_add(1);
            self.reacted_at = Some(now);
        }
        let (until, why) = match hint {
            Some(hint) => (now + hint.mul_f64(1.0 + HINT_JITTER * rng.random::<f64>()), Why::Asked),
            None if old_news => (now, Why::Guessed),
            None => (now + self.own_guess(rng), Why::Guessed),
        };
        self.close(until, why)
    }

    /// Something on the way is in trouble: the lane rests for a while. Returns when it opens again.
    pub fn troubled(&mut self, now: Instant, ticket: Ticket, rng: &mut impl Rng) -> Instant {
        if self.reacted_at.is_none_or(|at| ticket.sent_at > at) {
            self.streak = self.streak.saturating_add(1);
            self.reacted_at = Some(now);
        }
        let until = now + self.own_guess(rng);
        self.close(until, Why::Trouble)
    }

    /// The lane's quota is used up for long. Returns when it opens again.
    pub fn parked(&mut self, now: Instant, for_: Duration) -> Instant {
        self.reacted_at = Some(now);
        self.close(now + for_, Why::Parked)
    }

    /// A request ended without saying anything about the limit.
    pub fn ended(&mut self, ticket: Ticket) {
        if ticket.probe {
            // Nobody knows; the next request is the probe.
            self.probe = None;
        }
    }

    /// Closed, until when and why.
    pub fn closed(&self, now: Instant) -> Option<Closed> {
        self.closed.filter(|closed| now < closed.until)
    }

    fn open(&mut self) {
        self.half_open = false;
        self.probe = None;
        self.streak = 0;
    }

    /// Closures only ever get longer: a short hint does not undo a long one.
    fn close(&mut self, until: Instant, why: Why) -> Instant {
        self.half_open = true;
        self.probe = None;
        match self.closed {
            Some(closed) if closed.until >= until => closed.until,
            _ => {
                self.closed = Some(Closed { until, why });
                until
            }
        }
    }

    fn own_guess(&self, rng: &mut impl Rng) -> Duration {
        let doublings = self.streak.saturating_sub(1).min(6);
        Duration::from_secs(1 << doublings).min(COOLDOWN_MAX).mul_f64(0.9 + 0.2 * rng.random::<f64>())
    }

    fn gap(&self) -> Option<Duration> {
        self.limits.per_minute.map(|n| Duration::from_secs(60) / n.max(1))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn rng() -> StdRng {
        StdRng::seed_from_u64(11)
    }

    #[test]
    fn a_refusal_closes_the_lane_for_everyone_and_never_for_less_than_the_hint() {
        let start = Instant::now();
        let mut lane = Lane::new(LaneLimits::default());
        let tickets: Vec<Ticket> = (0..4).map(|_| lane.sent(start)).collect();
        let until = lane.refused(start + ms(100), tickets[0], Some(ms(7_000)), &mut rng());
        assert!(until >= start + ms(7_100));
        assert!(until <= start + ms(7_900));
        assert_eq!(lane.grant(start + ms(7_000), 8), Grant { permits: 0, wake_at: Some(until) });
    }

    #[test]
    fn after_a_cooldown_one_probe_goes_first() {
        let start = Instant::now();
        let mut lane = Lane::new(LaneLimits::default());
        let ticket = lane.sent(start);
        let until = lane.refused(start, ticket, Some(ms(1_000)), &mut rng());
        assert_eq!(lane.grant(until, 8).permits, 1);
        let probe = lane.sent(until);
        assert_eq!(lane.grant(until + ms(10), 8).permits, 0, "a second one went with the probe");
        lane.admitted(probe);
        assert_eq!(lane.grant(until + ms(20), 8).permits, 8);
    }

    #[test]
    fn a_probe_that_is_not_refused_for_a_while_was_admitted() {
        let start = Instant::now();
        let mut lane = Lane::new(LaneLimits::default());
        let ticket = lane.sent(start);
        let until = lane.refused(start, ticket, Some(ms(1_000)), &mut rng());
        lane.sent(until);
        let grant = lane.grant(until + ms(10), 8);
        assert_eq!(grant, Grant { permits: 0, wake_at: Some(until + PROBE_SILENCE) });
        assert_eq!(lane.grant(until + PROBE_SILENCE, 8).permits, 8);
    }

    #[test]
    fn an_answer_to_a_request_from_before_the_closure_does_not_open_the_lane() {
        let start = Instant::now();
        let mut lane = Lane::new(LaneLimits::default());
        let early = lane.sent(start);
        let refused = lane.sent(start);
        let until = lane.refused(start + ms(50), refused, Some(ms(1_000)), &mut rng());
        lane.admitted(early);
        assert_eq!(lane.grant(until, 8).permits, 1, "the probe was skipped");
    }

    #[test]
    fn refusals_of_one_volley_count_once_and_only_repeated_ones_double_the_guess() {
        let start = Instant::now();
        let mut lane = Lane::new(LaneLimits::default());
        let volley: Vec<Ticket> = (0..8).map(|_| lane.sent(start)).collect();
        let mut until = start;
        for ticket in volley {
            until = lane.refused(start + ms(100), ticket, None, &mut rng());
        }
        assert!(until < start + ms(1_300), "eight refusals at once were taken for eight in a row");
        let probe = lane.sent(until);
        let second = lane.refused(until + ms(100), probe, None, &mut rng());
        assert!(second > until + ms(1_800), "the second refusal in a row did not double the wait");
    }

    #[test]
    fn a_short_hint_does_not_undo_a_long_one() {
        let start = Instant::now();
        let mut lane = Lane::new(LaneLimits::default());
        let (one, two) = (lane.sent(start), lane.sent(start));
        let long = lane.refused(start, one, Some(ms(30_000)), &mut rng());
        assert_eq!(lane.refused(start, two, Some(ms(1_000)), &mut rng()), long);
    }

    #[test]
    fn a_known_limit_spaces_requests_evenly() {
        let start = Instant::now();
        let mut lane = Lane::new(LaneLimits { per_minute: Some(60) });
        let (mut now, mut sent) = (start, 0);
        while now < start + ms(60_000) {
            let grant = lane.grant(now, 8);
            for _ in 0..grant.permits {
                let ticket = lane.sent(now);
                lane.admitted(ticket);
                sent += 1;
            }
            now = grant.wake_at.expect("a paced lane knows when it is due");
        }
        assert_eq!(sent, 60);
    }
}
