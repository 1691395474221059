//! How many requests may be on their way at once: what the rate and the latency need, and a
//! limit of the server on requests in flight, which it never states.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::limit::whole;
use super::sends::Sends;

/// More than this share above what the rate needs is never of use.
const MARGIN: f64 = 1.5;
/// At least so many, whatever is computed.
const CEILING_MIN: u32 = 8;
/// Latencies that are remembered, and how many must be before they are believed.
const LATENCIES_MAX: usize = 64;
const LATENCIES_MIN: usize = 20;
/// So many answers share one look at them.
const ANSWERS_PER_SORT: u32 = 10;
/// What is taken for the latency until then: a slow picture.
const LATENCY_ASSUMED: Duration = Duration::from_secs(30);
/// A limit that was found out is tried one above after this long; twice as long each time that
/// this is refused, half as long each time that it is not: it rose, or was none.
const TRY_FIRST: Duration = Duration::from_secs(60);
const TRY_MIN: Duration = Duration::from_secs(5);
const TRY_MAX: Duration = Duration::from_secs(600);
/// Refusals that must agree.
const AGREE: usize = 3;

/// A refusal, as seen from both sides.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Refusal<T = Instant> {
    pub(super) at: T,
    /// Requests that left in the minute before.
    pub(super) sent: u32,
    /// Requests on their way.
    pub(super) in_flight: u32,
}

impl<T> Refusal<T> {
    /// The same with its time kept otherwise.
    pub(super) fn with_times<U>(self, time: impl Fn(T) -> U) -> Refusal<U> {
        Refusal { at: time(self.at), sent: self.sent, in_flight: self.in_flight }
    }
}

/// What a refusal was about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum About {
    /// The rate, as far as is known.
    Rate,
    /// The limit in flight that is known.
    InFlight,
    /// A limit in flight that is known from now on: what was learned about the rate from the last
    /// refusals was wrong, it is at least this per minute.
    FoundInFlight(f64),
}

/// The ceiling of requests in flight.
#[derive(Debug, Clone)]
pub(super) struct Ceiling {
    fixed: Option<u32>,
    most: u32,
    latencies: VecDeque<Duration>,
    answers: u32,
    pub(super) p90: Option<Duration>,
    pub(super) found: Option<Found>,
    pub(super) refusals: VecDeque<Refusal>,
}

/// A limit of the server on requests in flight.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Found {
    now: u32,
    /// Who is refused with fewer in flight met something else.
    at_least: u32,
    /// Time since it was last raised in which it held us up.
    held: Duration,
    raise_after: Duration,
}

impl Found {
    /// A limit, as seen from refusals that were `apart` in flight.
    fn new(limit: u32, apart: u32) -> Self {
        let limit = limit.max(1);
        let at_least = limit.saturating_sub((limit / 32).max(apart).max(1));
        Self { now: limit, at_least, held: Duration::ZERO, raise_after: TRY_FIRST }
    }
}

impl Ceiling {
    /// A fixed ceiling, or one found out up to `most`; `found` is a limit of the server's that is
    /// known from before.
    pub(super) fn new(fixed: Option<u32>, most: u32, found: Option<u32>) -> Self {
        Self {
            fixed: fixed.map(|n| n.max(1)),
            most: most.max(1),
            latencies: VecDeque::new(),
            answers: 0,
            p90: None,
            found: found.map(|limit| Found::new(limit, 0)),
            refusals: VecDeque::new(),
        }
    }

    /// What was fixed or is the most to be found out.
    pub(super) fn most(&self) -> u32 {
        self.fixed.unwrap_or(self.most)
    }

    /// Requests that may be on their way at this rate.
    pub(super) fn allows(&self, per_minute: f64) -> u32 {
        let latency = self.p90.unwrap_or(LATENCY_ASSUMED).as_secs_f64();
        let of_use = whole((MARGIN * per_minute / 60.0 * latency).ceil()).max(CEILING_MIN).min(self.most);
        let needed = self.fixed.unwrap_or(of_use);
        needed.min(self.found().unwrap_or(u32::MAX))
    }

    /// The longest of the latencies that are remembered.
    pub(super) fn slowest(&self) -> Option<Duration> {
        self.latencies.iter().max().copied()
    }

    /// The limit of the server's that was found out.
    pub(super) fn found(&self) -> Option<u32> {
        self.found.map(|found| found.now)
    }

    /// A request took this long and was answered.
    pub(super) fn took(&mut self, latency: Duration) {
        if self.latencies.len() >= LATENCIES_MAX {
            self.latencies.pop_front();
        }
        self.latencies.push_back(latency);
        self.answers = self.answers.wrapping_add(1);
        // A percentile moves slowly; sorting at each answer would be the dearest thing a lane does.
        if self.latencies.len() >= LATENCIES_MIN && self.answers.is_multiple_of(ANSWERS_PER_SORT) {
            let mut sorted: Vec<Duration> = self.latencies.iter().copied().collect();
            sorted.sort_unstable();
            self.p90 = sorted.get(sorted.len() * 9 / 10).copied();
        }
    }

    /// `for_` has passed in which the ceiling held us up: limits of servers rise, too.
    pub(super) fn passed(&mut self, for_: Duration) {
        if let Some(found) = &mut self.found {
            found.held += for_;
            if found.held > found.raise_after {
                found.now += 1;
                found.held = Duration::ZERO;
                found.raise_after = (found.raise_after / 2).max(TRY_MIN);
            }
        }
    }

    /// A request was refused: is the limit one of requests in flight?
    pub(super) fn refused(&mut self, refusal: Refusal, sends: &Sends) -> About {
        if self.refusals.len() >= AGREE {
            self.refusals.pop_front();
        }
        self.refusals.push_back(refusal);
        if let Some(found) = &mut self.found {
            if refusal.in_flight >= found.at_least {
                found.now = found.now.min(refusal.in_flight).max(1);
                found.held = Duration::ZERO;
                // Four times: the try that led here halved it.
                found.raise_after = (found.raise_after * 4).min(TRY_MAX);
                return About::InFlight;
            }
            // Refused well below it: it was not that.
            self.found = None;
            self.refusals.clear();
        }
        if !self.in_flight_explains(sends) {
            return About::Rate;
        }
        let in_flight = self.refusals.iter().map(|one| one.in_flight);
        let (least, most) = (in_flight.clone().min().unwrap_or(1), in_flight.max().unwrap_or(1));
        let most_sent = self.refusals.iter().map(|one| one.sent).max().unwrap_or(1);
        self.found = Some(Found::new(least, most - least));
        About::FoundInFlight(1.05 * f64::from(most_sent))
    }

    /// The last refusals came at about the same number in flight, and hardly any request was admitted
    /// above it or at it: that number tells the refused from the admitted. Where the count of the minute
    /// has risen by half meanwhile, it is not the rate, and the numbers in flight may differ by what the
    /// network adds: a quick service has many requests on the way to it and back.
    fn in_flight_explains(&self, sends: &Sends) -> bool {
        let (Some(oldest), Some(newest)) = (self.refusals.front(), self.refusals.back()) else {
            return false;
        };
        let in_flight = self.refusals.iter().map(|one| one.in_flight);
        let (least, most) = (in_flight.clone().min().unwrap_or(0), in_flight.max().unwrap_or(0));
        let is_not_rate = newest.sent > oldest.sent + oldest.sent / 2;
        let (apart, percent) = if is_not_rate { (most / 4, 15) } else { (most / 20, 6) };
        if self.refusals.len() < AGREE || most - least > apart.max(1) {
            return false;
        }
        let from = oldest.at.max(newest.at.checked_sub(SEEN).unwrap_or(oldest.at));
        let from = from.checked_sub(BEFORE).unwrap_or(from);
        let to = newest.at.checked_sub(ANSWERED).unwrap_or(newest.at);
        let (mut admitted, mut as_many, mut more) = (0_usize, 0_usize, 0_usize);
        for send in sends.between(from, to).filter(|send| send.refused == 0) {
            admitted += 1;
            as_many += usize::from(send.in_flight >= least);
            more += usize::from(send.in_flight > most);
        }
        100 * as_many <= percent * admitted && 100 * more <= percent / 2 * admitted
    }
}

/// What is looked at: from a minute before the first of the refusals, five minutes at most, up to
/// what must have been answered if it was refused.
const SEEN: Duration = Duration::from_secs(300);
const BEFORE: Duration = Duration::from_secs(60);
const ANSWERED: Duration = Duration::from_secs(2);
