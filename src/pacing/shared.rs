//! A lane that the workers of many machines share: between two requests it is a text in a row that all
//! of them can lock. Whoever has locked it recalls the lane, asks it or tells it how a request ended, and keeps
//! it again. So there is one lane however many workers there are, and everything else here stays as it is.

use std::collections::VecDeque;
use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::ceiling::{Found, Refusal};
use super::closure::Closure;
use super::lane::{HeldBy, Hints, LEARNED_AGE_MAX, Lane, LaneLimits, Ticket};
use super::limit::Limit;
use super::overload::Overload;
use super::sends::WINDOW_MAX;

/// So many are kept one by one. Of more, those of [`SENDS_APART`] are kept as if they had left with the first
/// of them, which is less than the slack that every window has.
const SENDS_MAX: usize = 256;
const SENDS_APART: Duration = Duration::from_millis(250);
/// A lane that works tells how it is at least so often: who hears of no success for long takes it for an outage.
const SUCCESS_EVERY: Duration = Duration::from_secs(60);

/// A limit that one worker was given holds for all until nobody who was given it has asked for this long: longer than
/// a request takes, for which a worker may ask nothing.
const GIVEN_FOR: Duration = Duration::from_secs(150);

/// What a worker brings to a lane that it shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// What it was told about the limit.
    pub limits: LaneLimits,
    /// How long nine of ten of its answers took at most, once that is known.
    pub latency: Option<Duration>,
}

/// How a request of a shared lane ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was admitted and answered.
    Answered {
        /// Images that it brought.
        images: u32,
        /// The longest that an answer took lately.
        slowest: Option<Duration>,
    },
    /// A rate limit turned it away.
    Refused(Hints),
    /// The server was overloaded; when to come back.
    Overloaded(Option<Duration>),
    /// The quota is used up for so long.
    Parked(Duration),
    /// It said nothing about the limit.
    Gone,
}

/// A request of a lane as the ledger knows it.
#[derive(Debug, Clone, Copy)]
pub struct Logged {
    /// Its number; a later one has a higher number.
    pub number: u64,
    /// When it left.
    pub sent_at: Instant,
    /// When it ended; `None` while it is on its way.
    pub ended_at: Option<Instant>,
    /// A rate limit turned it away.
    pub refused: bool,
}

/// A lane as text. Times are microseconds from when it was kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    limit: Limit<i64>,
    found_out: Option<Limit<i64>>,
    given_at: i64,
    closure: Closure<i64>,
    found: Option<Found>,
    refusals: VecDeque<Refusal<i64>>,
    overload: Overload,
    volley: u32,
    next_at: i64,
    asked_at: i64,
    held_by: HeldBy,
    unused: u32,
    succeeded_at: i64,
    sent_since: u32,
    /// Milliseconds since they left, how many, how many of them were refused, and their images; oldest first.
    sends: Vec<(u32, u32, u32, u32)>,
}

impl Lane {
    /// The lane as text, at `now`.
    pub fn keep(&self, now: Instant) -> String {
        let from_now = |at: Instant| {
            let (sign, apart) = match at.checked_duration_since(now) {
                Some(ahead) => (1, ahead),
                None => (-1, now.saturating_duration_since(at)),
            };
            sign * i64::try_from(apart.as_micros()).unwrap_or(i64::MAX)
        };
        let kept = Kept {
            limit: self.limit.clone().with_times(from_now),
            found_out: self.found_out.clone().map(|limit| limit.with_times(from_now)),
            given_at: from_now(self.given_at),
            closure: self.closure.clone().with_times(from_now),
            found: self.ceiling.found,
            refusals: self.ceiling.refusals.iter().map(|one| one.with_times(from_now)).collect(),
            overload: self.overload.clone(),
            volley: self.volley,
            next_at: from_now(self.next_at),
            asked_at: from_now(self.asked_at),
            held_by: self.held_by,
            unused: self.unused,
            succeeded_at: from_now(self.succeeded_at),
            sent_since: self.sent_since,
            sends: self.kept_sends(now),
        };
        // Numbers and words: nothing of it can fail to be written.
        serde_json::to_string(&kept).unwrap_or_default()
    }

    fn kept_sends(&self, now: Instant) -> Vec<(u32, u32, u32, u32)> {
        let is_crowded = self.sends.in_window(now, WINDOW_MAX) as usize > SENDS_MAX;
        let apart = if is_crowded { SENDS_APART } else { Duration::ZERO };
        let mut kept: Vec<(u32, u32, u32, u32)> = Vec::new();
        let mut begun: Option<Instant> = None;
        for send in self.sends.left_within(now, WINDOW_MAX) {
            match (kept.last_mut(), begun) {
                (Some(last), Some(begun)) if send.at.saturating_duration_since(begun) <= apart => {
                    last.1 = last.1.saturating_add(send.count);
                    last.2 = last.2.saturating_add(send.refused);
                    last.3 = last.3.saturating_add(send.images);
                }
                _ => {
                    begun = Some(send.at);
                    let ago = now.saturating_duration_since(send.at).as_millis();
                    let ago = u32::try_from(ago).unwrap_or(u32::MAX);
                    kept.push((ago, send.count, send.refused, send.images));
                }
            }
        }
        kept
    }

    /// The lane that was kept `age` ago, or a new one where there is none, none that can be read (another
    /// version kept it: what it knew is found out again), or none that is still true.
    pub fn recall(kept: Option<&str>, age: Duration, share: Share, now: Instant) -> Self {
        let mut lane = Self::new(share.limits, None, now);
        lane.ceiling.p90 = share.latency;
        let kept = kept.filter(|_| age < LEARNED_AGE_MAX);
        let Some(kept) = kept.and_then(|kept| serde_json::from_str::<Kept>(kept).ok()) else { return lane };
        let then = now.checked_sub(age).unwrap_or(now);
        let time = |micros: i64| {
            let apart = Duration::from_micros(micros.unsigned_abs());
            if micros < 0 { then.checked_sub(apart).unwrap_or(then) } else { then + apart }
        };
        let found_out = kept.found_out.map(|limit| limit.with_times(time));
        lane.recall_limit((kept.limit.with_times(time), time(kept.given_at)), found_out, now);
        lane.closure = kept.closure.with_times(time);
        lane.ceiling.found = kept.found;
        lane.ceiling.refusals = kept.refusals.into_iter().map(|one| one.with_times(time)).collect();
        lane.overload = kept.overload;
        lane.overload.rest_first = share.limits.rest_first;
        // A time further ahead than any request moves it was kept before the clock went back.
        lane.next_at = time(kept.next_at).min(now + lane.limit.gap() * 2);
        lane.asked_at = time(kept.asked_at).min(now);
        lane.succeeded_at = time(kept.succeeded_at).min(now);
        (lane.held_by, lane.unused) = (kept.held_by, kept.unused);
        lane.volley = if lane.limit.source == super::Source::Given { 0 } else { kept.volley };
        lane.sent_since = kept.sent_since;
        for (ago, count, refused, images) in kept.sends {
            let at = then.checked_sub(Duration::from_millis(u64::from(ago))).unwrap_or(then);
            lane.sends.add_many(at, (count, refused, images));
        }
        lane
    }

    /// A request of this worker's own took so long and was answered.
    pub fn answered_after(&mut self, latency: Duration) {
        self.ceiling.took(latency);
    }

    /// How long nine of ten answers took at most, once that is known.
    pub fn latency(&self) -> Option<Duration> {
        self.ceiling.p90
    }

    /// The longest that an answer took lately.
    pub fn slowest(&self) -> Option<Duration> {
        self.ceiling.slowest()
    }

    /// So many requests of all workers are on their way.
    pub fn under_way(&mut self, requests: u32) {
        self.in_flight = requests;
    }

    /// Whether the server was found to limit requests in flight.
    pub fn has_limit_in_flight(&self) -> bool {
        self.ceiling.found.is_some()
    }

    /// Closed, or not yet proven to be open again.
    pub fn is_closed(&self) -> bool {
        self.closure.why().is_some()
    }

    /// A request leaves, with its number in the ledger.
    pub fn sent_with(&mut self, number: u64, now: Instant) {
        self.sent_as(number, now);
    }

    /// The request that is to prove a closed lane open, while nothing else may leave before it has ended.
    pub fn waits_for_probe(&self) -> Option<u64> {
        let needs_success = self.closure.why().is_some_and(super::Why::needs_success);
        self.closure.probe().filter(|_| needs_success).map(|(number, _)| number)
    }

    /// That request ended, and nobody said how: its worker died.
    pub fn probe_is_gone(&mut self, number: u64) {
        self.closure.no_proof(number);
    }

    /// Whether a refusal of this request teaches anything: the ledger is to be read then.
    pub fn is_news(&self, number: u64, sent_at: Instant) -> bool {
        self.closure.is_news(number, sent_at)
    }

    /// What left in the last minutes, oldest first: a refusal is measured with it.
    pub fn read_log(&mut self, log: &[Logged]) {
        let mut ends: Vec<Instant> = log.iter().filter_map(|one| one.ended_at).collect();
        ends.sort_unstable();
        self.sends.clear();
        for (place, one) in log.iter().enumerate() {
            let ended = ends.partition_point(|end| *end <= one.sent_at).min(place);
            self.sends.add(one.number, one.sent_at, u32::try_from(place - ended).unwrap_or(u32::MAX));
            if one.refused {
                self.sends.refused(one.number);
            }
        }
    }

    /// A request of this number ended that left at `sent_at`.
    pub fn ended_with(
        &mut self,
        now: Instant,
        (number, sent_at): (u64, Instant),
        end: End,
        rng: &mut impl Rng,
    ) {
        // Of a refusal that teaches something the ledger was read.
        let is_read = matches!(end, End::Refused(_)) && self.is_news(number, sent_at);
        let logged = if is_read { self.sends.in_flight_of(number) } else { None };
        let in_flight = logged.unwrap_or(self.in_flight.saturating_sub(1));
        let ticket = Ticket { number, sent_at: sent_at.min(now), in_flight };
        match end {
            End::Answered { images, slowest } => {
                self.sends.brought_by(ticket.sent_at, images);
                self.answered(now, ticket, slowest);
            }
            End::Refused(hints) => {
                if !is_read {
                    self.sends.refused_by(ticket.sent_at);
                }
                self.refused(now, ticket, hints, rng);
            }
            End::Overloaded(hint) => drop(self.overloaded(now, ticket, hint, rng)),
            End::Parked(for_) => drop(self.parked(now, ticket, for_)),
            End::Gone => self.ended(now, ticket),
        }
    }

    /// Whether this end is worth a word to the other workers. That of a plain picture is none, while all is well.
    pub fn heeds(&self, end: End, now: Instant) -> bool {
        let is_open = self.closure.why().is_none();
        match end {
            End::Refused(_) | End::Overloaded(_) | End::Parked(_) => true,
            End::Gone => !is_open,
            End::Answered { images, .. } => {
                let is_young = now.saturating_duration_since(self.succeeded_at) < SUCCESS_EVERY;
                let is_counted = images > 1 && self.images_per_minute.is_some();
                !is_open || !is_young || !self.overload.is_calm() || self.limit.is_searching() || is_counted
            }
        }
    }

    /// The limit as all know it: the smallest that one of the workers was given, or what was found out where none was
    /// given any. What was found out stays for those who come after.
    fn recall_limit(&mut self, (limit, given_at): (Limit, Instant), found_out: Option<Limit>, now: Instant) {
        let own = self.limit.given_per_minute();
        let others = limit.given_per_minute().filter(|_| now.saturating_duration_since(given_at) < GIVEN_FOR);
        let given = own.into_iter().chain(others).min();
        (self.limit, self.found_out) = match (given, limit.given_per_minute()) {
            (None, None) => (limit, None),
            (None, Some(_)) => (found_out.unwrap_or_else(|| self.limit.clone()), None),
            (Some(given), Some(kept)) if given == kept => (limit, found_out),
            (Some(given), Some(_)) => (Limit::given(given), found_out),
            (Some(given), None) => (Limit::given(given), Some(limit)),
        };
        self.given_at = if own == given { now } else { given_at };
    }
}
