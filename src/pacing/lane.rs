//! One lane: everything that shares one limit at the provider. Its gates, one after the other,
//! and what a caller sees of them.

use std::time::Duration;

use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::ceiling::{About, Ceiling, Refusal};
use super::closure::{Closed, Closure, Gate, Why};
use super::limit::{Limit, Source};
use super::overload::{Overload, REST_FIRST};
use super::sends::{MINUTE, Sends};

/// Requests in flight at most where nobody says otherwise.
const IN_FLIGHT_MAX: u32 = 256;
/// Timers, commits and busy machines are late: what should have left in this time may leave at once.
/// At 3,000 a minute with stalls of 0.1 to 0.5 s, 100 ms cost 4 points, and a second had a small bucket refuse.
const LATENESS: Duration = Duration::from_millis(300);
/// A search begins with so many at once: most lanes admit them, and a small batch is done at once.
const VOLLEY: u32 = 4;
/// Nothing succeeded for this long although this many were sent: an outage.
const OUTAGE_AFTER: Duration = Duration::from_secs(600);
const OUTAGE_SENDS: u32 = 12;
/// The time between two probes of an outage.
const OUTAGE_PROBE_EVERY: Duration = Duration::from_secs(60);
/// What was learned longer ago is forgotten: limits change with tiers and at midnight.
pub(super) const LEARNED_AGE_MAX: Duration = Duration::from_secs(6 * 60 * 60);

/// What a lane was told about its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneLimits {
    /// Requests in any 60 seconds, kept exactly; `None` when the limit is unknown.
    pub requests_per_minute: Option<u32>,
    /// Images in any 60 seconds. A request counts as one until it is known how many it brought.
    /// With both limits, the smaller one paces.
    pub images_per_minute: Option<u32>,
    /// Requests in flight, fixed; `None` to find out how many are of use.
    pub in_flight: Option<u32>,
    /// Requests in flight at most when their number is found out.
    pub in_flight_max: u32,
    /// How long a lane rests at first that meets an overloaded server; up to 15 s if it goes on.
    pub rest_first: Duration,
}

impl Default for LaneLimits {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            images_per_minute: None,
            in_flight: None,
            in_flight_max: IN_FLIGHT_MAX,
            rest_first: REST_FIRST,
        }
    }
}

/// What a lane found out, for the next run to begin with. Plain numbers, to be kept in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    /// The believed limit, in requests per minute.
    pub requests_per_minute: f64,
    /// How often it was confirmed; more than 2 is as good as 2.
    pub confidence: u32,
    /// The server's limit on requests in flight, if it has one.
    pub in_flight: Option<u32>,
    /// The server stated the limit itself.
    pub is_stated: bool,
    /// How long ago this was.
    pub age: Duration,
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
    pub(super) number: u64,
    pub(super) sent_at: Instant,
    /// Other requests on their way when it left.
    pub(super) in_flight: u32,
}

impl Ticket {
    /// When the request left.
    pub fn sent_at(&self) -> Instant {
        self.sent_at
    }
}

/// What a refusal says besides being one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hints {
    /// How long the server asks to wait; the largest of what it says.
    pub wait: Option<Duration>,
    /// The limit that it states, in requests per minute.
    pub per_minute: Option<u32>,
}

/// What people are shown of a lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LaneState {
    /// Requests that left in the last 60 s.
    pub rate_per_minute: u32,
    /// The limit that is believed, per minute; `None` while none was met.
    pub limit_per_minute: Option<f64>,
    /// Where that comes from.
    pub source: Source,
    /// Requests on their way.
    pub in_flight: u32,
    /// Requests that may be on their way at once.
    pub ceiling: u32,
    /// Closed, until when and why.
    pub closed: Option<Closed>,
}

/// What kept a lane from sending more when it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum HeldBy {
    /// Nothing: there was nothing more to send.
    Nothing,
    Closure,
    Ceiling,
    Pace,
}

/// The pacing state of one lane. See the module's documentation.
#[derive(Debug, Clone)]
pub struct Lane {
    pub(super) images_per_minute: Option<u32>,
    pub(super) limit: Limit,
    /// What was found out before a limit was given, and when somebody who was given this one last asked.
    pub(super) found_out: Option<Limit>,
    pub(super) given_at: Instant,
    pub(super) sends: Sends,
    pub(super) closure: Closure,
    pub(super) ceiling: Ceiling,
    pub(super) overload: Overload,
    pub(super) in_flight: u32,
    /// What is left of the first volley.
    pub(super) volley: u32,
    /// When the next request is due.
    pub(super) next_at: Instant,
    pub(super) asked_at: Instant,
    pub(super) held_by: HeldBy,
    /// Permits of the last grant that were not used: whoever leaves some has nothing to send.
    pub(super) unused: u32,
    /// When something last succeeded, and what was sent since.
    pub(super) succeeded_at: Instant,
    pub(super) sent_since: u32,
}

impl Lane {
    /// A lane that is open. `learned` is what an earlier run found out, if anything.
    pub fn new(limits: LaneLimits, learned: Option<Learned>, now: Instant) -> Self {
        let learned = learned.filter(|learned| learned.age < LEARNED_AGE_MAX);
        let given = match (limits.requests_per_minute, limits.images_per_minute) {
            (Some(requests), Some(images)) => Some(requests.min(images)),
            (one, other) => one.or(other),
        };
        let limit = match (given, learned) {
            (Some(given), _) => Limit::given(given),
            (None, Some(learned)) => {
                Limit::learned(learned.requests_per_minute, learned.confidence, learned.is_stated)
            }
            (None, None) => Limit::unknown(),
        };
        let volley = if limit.source == Source::Unknown { VOLLEY } else { 0 };
        let found = learned.and_then(|learned| learned.in_flight);
        Self {
            images_per_minute: limits.images_per_minute,
            limit,
            found_out: None,
            given_at: now,
            sends: Sends::default(),
            closure: Closure::new(),
            ceiling: Ceiling::new(limits.in_flight, limits.in_flight_max, found),
            overload: Overload::new(limits.rest_first),
            in_flight: 0,
            volley,
            next_at: now,
            asked_at: now,
            held_by: HeldBy::Nothing,
            unused: 0,
            succeeded_at: now,
            sent_since: 0,
        }
    }

    /// How many of `wanted` requests may leave at `now`. The caller then calls [`Lane::sent`] for
    /// each that does. `wanted == 0` says that there is nothing to send: time in which we would
    /// not have sent more anyway proves nothing about the limit.
    pub fn grant(&mut self, now: Instant, wanted: u32) -> Grant {
        self.time_passed(now);
        if wanted == 0 {
            (self.held_by, self.unused) = (HeldBy::Nothing, 0);
            return Grant { permits: 0, wake_at: None };
        }
        let (room, wake_at, held_by) = self.room(now);
        let permits = room.min(wanted);
        self.held_by = if permits < wanted { held_by } else { HeldBy::Nothing };
        self.unused = permits;
        Grant { permits, wake_at }
    }

    /// The gates, one after the other.
    fn room(&self, now: Instant) -> (u32, Option<Instant>, HeldBy) {
        let gate = self.closure.gate(now);
        if let Gate::Shut(until) = gate {
            return (0, until, HeldBy::Closure);
        }
        let slots = self.ceiling().saturating_sub(self.in_flight);
        if slots == 0 {
            return (0, None, HeldBy::Ceiling);
        }
        if gate == Gate::Probe {
            // A probe into a window that we know to be full would only be refused.
            let is_sure = self.limit.confidence() > 0;
            return match self.window_room(now) {
                Err(at) if self.closure.is_blind(is_sure) => (0, Some(at), HeldBy::Closure),
                _ => (1, None, HeldBy::Closure),
            };
        }
        if self.volley > 0 {
            return (self.volley.min(slots), Some(now), HeldBy::Nothing);
        }
        if now < self.next_at {
            return (0, Some(self.next_at), HeldBy::Pace);
        }
        let room = match self.window_room(now) {
            Ok(room) => room,
            Err(at) => return (0, Some(at), HeldBy::Pace),
        };
        let gap = self.limit.gap();
        let begin = self.begin(now);
        // As many as keep `begin + n gaps` from passing now.
        let due = super::limit::whole(((now - begin).as_secs_f64() / gap.as_secs_f64()).floor() + 1.0);
        let paced = due.min(room);
        if slots < paced {
            return (slots, None, HeldBy::Ceiling);
        }
        (paced, Some(begin + gap * paced), HeldBy::Pace)
    }

    /// Where the pace goes on from: a little time that was missed is made up for, not more, or a
    /// pause would end in a volley.
    fn begin(&self, now: Instant) -> Instant {
        let burst = (self.limit.gap() / 2).max(LATENESS);
        self.next_at.max(now.checked_sub(burst).unwrap_or(now))
    }

    fn window_room(&self, now: Instant) -> Result<u32, Instant> {
        let window = self.limit.window();
        let requests =
            self.limit.count().map_or(Ok(u32::MAX), |limit| self.sends.room(now, window, limit))?;
        let images = self
            .images_per_minute
            .map_or(Ok(u32::MAX), |limit| self.sends.room_for_images(now, window, limit))?;
        Ok(requests.min(images))
    }

    /// Requests in flight that it was told to have at most.
    pub fn in_flight_max(&self) -> u32 {
        self.ceiling.most()
    }

    fn ceiling(&self) -> u32 {
        self.ceiling.allows(self.limit.per_minute()).min(self.overload.allows())
    }

    /// What time brings by itself: a silent probe was admitted, and an unrefused limit moves.
    fn time_passed(&mut self, now: Instant) {
        if self.closure.is_silent(now) {
            self.open(now);
        }
        // Nobody knows what held us up while nobody asked.
        let longest = Duration::from_secs_f64(5.0 + 120.0 / self.limit.per_minute());
        let passed = now.saturating_duration_since(self.asked_at).min(longest);
        self.asked_at = self.asked_at.max(now);
        if passed.is_zero() || self.unused > 0 {
            return;
        }
        match self.held_by {
            HeldBy::Pace => {
                let sent = self.sends.in_window(now, self.limit.window());
                self.limit.passed(now, passed, sent);
            }
            HeldBy::Ceiling => self.ceiling.passed(passed),
            HeldBy::Nothing | HeldBy::Closure => {}
        }
    }

    /// A request leaves.
    pub fn sent(&mut self, now: Instant) -> Ticket {
        self.sent_as(self.sends.next(), now)
    }

    /// A request leaves that the caller gave a number, higher than all before.
    pub(super) fn sent_as(&mut self, number: u64, now: Instant) -> Ticket {
        self.sends.add(number, now, self.in_flight);
        let ticket = Ticket { number, sent_at: now, in_flight: self.in_flight };
        self.closure.sent(ticket.number, now);
        self.in_flight += 1;
        self.unused = self.unused.saturating_sub(1);
        self.volley = self.volley.saturating_sub(1);
        if self.volley == 0 {
            self.next_at = self.begin(now) + self.limit.gap();
        }
        if self.sent_since == 0 {
            self.succeeded_at = self.succeeded_at.max(now);
        }
        self.sent_since = self.sent_since.saturating_add(1);
        ticket
    }

    /// A request was admitted and answered, with so many images: also if the answer is that
    /// there will be no picture.
    pub fn succeeded(&mut self, now: Instant, ticket: Ticket, images: u32) {
        self.sends.brought(ticket.number, images);
        self.ceiling.took(now.saturating_duration_since(ticket.sent_at));
        self.answered(now, ticket, self.ceiling.slowest());
    }

    /// A request was answered; `slowest` is the longest that one took lately.
    pub(super) fn answered(&mut self, now: Instant, ticket: Ticket, slowest: Option<Duration>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(slowest) = slowest {
            self.limit.answered(ticket.in_flight + 1, slowest);
            self.next_at = self.next_at.min(now + self.limit.gap());
        }
        self.overload.succeeded();
        (self.succeeded_at, self.sent_since) = (now, 0);
        if self.closure.is_probe(ticket.number) || self.closure.why() == Some(Why::Outage) {
            self.open(now);
        }
    }

    /// A request was turned away by a rate limit. Returns when the lane opens again.
    pub fn refused(&mut self, now: Instant, ticket: Ticket, hints: Hints, rng: &mut impl Rng) -> Instant {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.sends.refused(ticket.number);
        self.closure.took(now.saturating_duration_since(ticket.sent_at));
        let is_news = self.closure.is_news(ticket.number, ticket.sent_at);
        self.volley = 0;
        if is_news {
            self.learn(now, ticket, hints);
        } else {
            self.limit.also_refused(ticket.number);
        }
        self.held_by = HeldBy::Closure;
        let until = self.closure.refused(now, ticket.number, (hints.wait, is_news), rng);
        self.unless_outage(now, until)
    }

    /// A refusal is a measurement: what left in the minute before it was the limit.
    fn learn(&mut self, now: Instant, ticket: Ticket, hints: Hints) {
        let sent = self.sends.before(ticket.number, ticket.sent_at);
        if self.closure.is_probe(ticket.number) {
            self.limit.probe_refused(sent);
        } else {
            let refusal = Refusal { at: now, sent, in_flight: ticket.in_flight };
            match self.ceiling.refused(refusal, &self.sends) {
                About::Rate => {
                    let admitted = self.sends.admitted_before(ticket.number, ticket.sent_at);
                    self.limit.refused(now, ticket.number, (sent, admitted), self.sends.age(now));
                }
                About::InFlight => {}
                About::FoundInFlight(at_least) => self.limit.was_not_it(at_least),
            }
        }
        self.limit.cost = hints.wait.unwrap_or_default();
        if let Some(stated) = hints.per_minute {
            self.limit.stated(stated);
        }
    }

    /// A request met an overloaded server or a firewall (503, 529). Returns when the lane opens
    /// again, if it is not open.
    pub fn overloaded(
        &mut self,
        now: Instant,
        ticket: Ticket,
        hint: Option<Duration>,
        rng: &mut impl Rng,
    ) -> Option<Instant> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let is_many = self.overload.met();
        let is_probe = self.closure.is_probe(ticket.number);
        let rests = match self.closure.why() {
            Some(Why::Asked | Why::Guessed | Why::Parked) if is_probe => {
                // Overloaded, but not refused.
                self.open(now);
                false
            }
            Some(_) => is_probe,
            None => is_many,
        };
        if rests {
            self.closure.no_proof(ticket.number);
            let rest = self.overload.rest(self.in_flight, rng).max(hint.unwrap_or_default());
            self.held_by = HeldBy::Closure;
            self.closure.close(now + rest, Why::Trouble);
        }
        self.unless_outage(now, now);
        self.closed(now).map(|closed| closed.until)
    }

    /// The lane's quota is used up for long. Returns when it opens again.
    pub fn parked(&mut self, now: Instant, ticket: Ticket, for_: Duration) -> Instant {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.sends.refused(ticket.number);
        self.held_by = HeldBy::Closure;
        self.closure.no_proof(ticket.number);
        self.closure.reacted_at = Some(now);
        // What was sent before says nothing about an outage after it.
        self.sent_since = 0;
        self.closure.close(now + for_, Why::Parked)
    }

    /// A request ended without saying anything about the limit: cut off, or a broken connection.
    pub fn ended(&mut self, now: Instant, ticket: Ticket) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.closure.no_proof(ticket.number);
        self.unless_outage(now, now);
    }

    /// Closed, until when and why.
    pub fn closed(&self, now: Instant) -> Option<Closed> {
        self.closure.closed(now)
    }

    /// In trouble: refused by nobody, served by nobody.
    pub fn is_troubled(&self) -> bool {
        matches!(self.closure.why(), Some(Why::Trouble | Why::Outage))
    }

    /// Takes nothing before long, but for probes: in trouble, or parked.
    pub fn is_out(&self, now: Instant) -> bool {
        let is_parked = self.closed(now).is_some_and(|closed| closed.why == Why::Parked);
        is_parked || self.is_troubled()
    }

    /// What people are shown.
    pub fn state(&self, now: Instant) -> LaneState {
        LaneState {
            rate_per_minute: self.sends.in_window(now, MINUTE),
            limit_per_minute: self.limit.count().map(|_| self.limit.per_minute()),
            source: self.limit.source,
            in_flight: self.in_flight,
            ceiling: self.ceiling(),
            closed: self.closed(now),
        }
    }

    /// What the next run may begin with; `None` while nothing was found out.
    pub fn learned(&self) -> Option<Learned> {
        matches!(self.limit.source, Source::Learned | Source::Stated).then(|| Learned {
            requests_per_minute: self.limit.per_minute(),
            confidence: self.limit.confidence(),
            in_flight: self.ceiling.found(),
            is_stated: self.limit.source == Source::Stated,
            age: Duration::ZERO,
        })
    }

    fn open(&mut self, now: Instant) {
        if let (Some(Why::Asked | Why::Guessed), Some((number, sent_at)), 0) =
            (self.closure.why(), self.closure.probe(), self.closure.refused_probes())
        {
            let admitted = self.sends.admitted_before(number, sent_at);
            self.limit.readmitted((self.sends.before(number, sent_at), admitted));
        }
        self.closure.open();
        self.next_at = self.next_at.max(now);
        self.held_by = HeldBy::Closure;
    }

    /// `until`, or when the next probe of an outage is due if there is one.
    fn unless_outage(&mut self, now: Instant, until: Instant) -> Instant {
        let is_outage = self.sent_since >= OUTAGE_SENDS
            && now.saturating_duration_since(self.succeeded_at) >= OUTAGE_AFTER;
        if !is_outage {
            return until;
        }
        self.held_by = HeldBy::Closure;
        self.closure.outage(now + OUTAGE_PROBE_EVERY)
    }
}
