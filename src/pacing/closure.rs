//! Closed, half open, open: one closure that all workers share, and one probe after it.

use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// A cooldown that nobody asked for: the first, four times as long with each probe that is refused
/// (twice, where a hint was followed in vain), up to the longest.
const COOLDOWN_FIRST: Duration = Duration::from_secs(1);
const COOLDOWN_MAX: Duration = Duration::from_secs(16);
/// Added to a hint: never earlier than asked, and not on the same instant as everyone else.
const HINT_JITTER: (f64, f64) = (0.05, 0.4);
/// Refusals come at once and pictures take their time: a probe that is not refused for this
/// long, or for as long as refusals were seen to take, was admitted.
const SILENCE_MIN: Duration = Duration::from_millis(1_200);

/// Why a lane is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// A rate limit, for as long as the server asked.
    Asked,
    /// A rate limit without a hint; the time is our own guess.
    Guessed,
    /// A firewall or an overloaded upstream.
    Trouble,
    /// A quota that is used up for long: a daily one, or a hint of more than ten minutes.
    Parked,
    /// Nothing has succeeded for ten minutes: one probe a minute until something does.
    Outage,
}

impl Why {
    /// Only an answer proves that this is over; elsewhere it is enough not to be refused.
    pub(super) fn needs_success(self) -> bool {
        matches!(self, Self::Trouble | Self::Outage)
    }
}

/// A lane that is closed for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed<T = Instant> {
    /// Until when.
    pub until: T,
    /// Why.
    pub why: Why,
}

/// What may go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// One request, to see whether the lane is open again.
    Probe,
    /// Nothing before then; `None`: before the probe has ended.
    Shut(Option<Instant>),
}

/// The closure of a lane. `T` is how a time is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Closure<T = Instant> {
    /// The last closure, until it is proven to be over.
    closed: Option<Closed<T>>,
    /// The probe's number and when it left.
    probe: Option<(u64, T)>,
    /// Probes in a row that were refused.
    refused_probes: u32,
    /// The last refusal that was acted on: those of requests sent before it are old news.
    pub(super) reacted_at: Option<T>,
    /// How long refusals take to come, and by how much that varies.
    round_trip: f64,
    deviation: f64,
}

impl<T> Closure<T> {
    /// The same with its times kept otherwise.
    pub(super) fn with_times<U>(self, time: impl Fn(T) -> U) -> Closure<U> {
        Closure {
            closed: self.closed.map(|Closed { until, why }| Closed { until: time(until), why }),
            probe: self.probe.map(|(number, at)| (number, time(at))),
            refused_probes: self.refused_probes,
            reacted_at: self.reacted_at.map(&time),
            round_trip: self.round_trip,
            deviation: self.deviation,
        }
    }
}

impl Closure {
    pub(super) fn new() -> Self {
        Self {
            closed: None,
            probe: None,
            refused_probes: 0,
            reacted_at: None,
            round_trip: 0.25,
            deviation: 0.1,
        }
    }

    /// What may go through at `now`.
    pub(super) fn gate(&self, now: Instant) -> Gate {
        match (self.closed, self.probe) {
            (None, _) => Gate::Open,
            (Some(closed), _) if now < closed.until => Gate::Shut(Some(closed.until)),
            (Some(_), None) => Gate::Probe,
            (Some(closed), Some(_)) if closed.why.needs_success() => Gate::Shut(None),
            (Some(_), Some((_, sent_at))) => Gate::Shut(Some(sent_at + self.silence())),
        }
    }

    /// The probe was silent for long enough: that is an admission.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let proves = self.closed.is_some_and(|closed| now >= closed.until && !closed.why.needs_success());
        proves && self.probe.is_some_and(|(_, sent_at)| now >= sent_at + self.silence())
    }

    /// Closed, until when and why. `None` once the time is over, proven or not.
    pub(super) fn closed(&self, now: Instant) -> Option<Closed> {
        self.closed.filter(|closed| now < closed.until)
    }

    /// Why the lane is not open, its time over or not.
    pub(super) fn why(&self) -> Option<Why> {
        self.closed.map(|closed| closed.why)
    }

    pub(super) fn is_probe(&self, number: u64) -> bool {
        self.probe.is_some_and(|(probe, _)| probe == number)
    }

    /// The probe's number and when it left.
    pub(super) fn probe(&self) -> Option<(u64, Instant)> {
        self.probe
    }

    /// A refusal came after probes that were refused, or without a word on when to come back.
    pub(super) fn is_blind(&self, is_sure: bool) -> bool {
        match self.why() {
            Some(Why::Asked) => self.refused_probes > 0,
            Some(Why::Guessed) => self.refused_probes > 0 || is_sure,
            _ => false,
        }
    }

    pub(super) fn refused_probes(&self) -> u32 {
        self.refused_probes
    }

    /// A request leaves; if the lane is half open it is the probe.
    pub(super) fn sent(&mut self, number: u64, now: Instant) {
        if self.gate(now) == Gate::Probe {
            self.probe = Some((number, now));
        }
    }

    /// A refusal took this long to come.
    pub(super) fn took(&mut self, round_trip: Duration) {
        let error = round_trip.as_secs_f64() - self.round_trip;
        self.round_trip += 0.2 * error;
        self.deviation += 0.2 * (error.abs() - self.deviation);
    }

    /// Whether a refusal of what left at `sent_at` is new: requests that left before the last
    /// reaction met the same congestion.
    pub(super) fn is_news(&self, number: u64, sent_at: Instant) -> bool {
        self.is_probe(number) || self.reacted_at.is_none_or(|at| sent_at > at)
    }

    /// The rate limit refused a request. Returns when the lane opens.
    pub(super) fn refused(
        &mut self,
        now: Instant,
        number: u64,
        (hint, is_news): (Option<Duration>, bool),
        rng: &mut impl Rng,
    ) -> Instant {
        if self.is_probe(number) {
            self.refused_probes = self.refused_probes.saturating_add(1);
            self.probe = None;
        } else if is_news {
            self.refused_probes = 0;
        }
        if is_news {
            self.reacted_at = Some(now);
        }
        // Who is told when to come back is nearly right; who is not must find the end of a window.
        let factor: u32 = if hint.is_some() { 2 } else { 4 };
        let own = COOLDOWN_FIRST.saturating_mul(factor.pow(self.refused_probes.min(4))).min(COOLDOWN_MAX);
        let own = own.mul_f64(0.9 + 0.2 * rng.random::<f64>());
        let (wait, why) = match hint {
            Some(hint) => {
                let (least, most) = HINT_JITTER;
                let asked = hint + Duration::from_secs_f64(least + (most - least) * rng.random::<f64>());
                // A hint that was followed in vain is only a floor.
                (if self.refused_probes > 0 { asked.max(own) } else { asked }, Why::Asked)
            }
            None if is_news => (own, Why::Guessed),
            None => return self.closed.map_or(now, |closed| closed.until),
        };
        self.close(now + wait, why)
    }

    /// Closes. A short closure does not undo a long one. Returns when the lane opens.
    pub(super) fn close(&mut self, until: Instant, why: Why) -> Instant {
        match &mut self.closed {
            // What only a success proves to be over is not made easier by a refusal.
            Some(closed) if closed.why.needs_success() && !why.needs_success() && why != Why::Parked => {
                closed.until = closed.until.max(until);
                closed.until
            }
            Some(closed) if closed.until >= until => closed.until,
            _ => {
                self.closed = Some(Closed { until, why });
                self.probe = None;
                until
            }
        }
    }

    /// Nothing gets through for long: closed until then at least. Returns when the lane opens.
    pub(super) fn outage(&mut self, until: Instant) -> Instant {
        let until = self.closed.map_or(until, |closed| closed.until.max(until));
        self.closed = Some(Closed { until, why: Why::Outage });
        self.probe = None;
        until
    }

    /// The probe ended and proved nothing: the next request is the probe.
    pub(super) fn no_proof(&mut self, number: u64) {
        if self.is_probe(number) {
            self.probe = None;
        }
    }

    /// The lane is proven open.
    pub(super) fn open(&mut self) {
        (self.closed, self.probe, self.refused_probes) = (None, None, 0);
    }

    fn silence(&self) -> Duration {
        let seen = self.round_trip + 4.0 * self.deviation;
        SILENCE_MIN.max(Duration::try_from_secs_f64(seen).unwrap_or(SILENCE_MIN))
    }
}
