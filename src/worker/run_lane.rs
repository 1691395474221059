//! One lane of a run: this process' own, or its part in one that the workers of many machines share.

use std::time::Duration;

use rand::rngs::StdRng;
use tokio::time::Instant;

use super::lanes::{Begun, LaneEnd, LaneView, Lesson, Moment};
use crate::gemini::Client;
use crate::gemini::fault::{Fault, FaultClass};
use crate::gemini::hint::{Quota, QuotaPeriod};
use crate::job::{LaneId, ModelName, Timestamp};
use crate::pacing::{Closed, End, Hints, Lane, LaneState, Share, Ticket, Why, daily_quota_reset};
use crate::queue::{self, KnownLimit, LimitSource};

/// How long a lane is parked when a quota is used up for long and nobody says until when.
const PARKED_FOR: Duration = Duration::from_secs(60 * 60);
/// How long a lane in trouble is to blame for what its requests meet, and not their jobs.
const BLAMED_FOR: Duration = Duration::from_secs(60 * 60);
/// A job that a shared lane refused without a word on when to come back is due again after this; the lane
/// itself knows better when it takes one.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// One lane of this run.
#[derive(Debug)]
pub(super) struct RunLane {
    pub(super) id: LaneId,
    pub(super) model: ModelName,
    /// Paces this process; where the lane is shared, it only counts what this process does.
    pub(super) lane: Lane,
    /// What this process brings to a lane that it shares.
    pub(super) share: Option<Share>,
    /// The shared lane, as it was when it was last asked or told something.
    pub(super) seen: Option<Lane>,
    /// With the lane's key.
    pub(super) client: Client,
    pub(super) key_id: String,
    /// The last claim brought fewer jobs than it had permits: nothing is due until something changes.
    pub(super) dry: bool,
    /// Other workers have what there is of the lane until then.
    pub(super) shared_until: Option<Instant>,
    /// The model or the key does not serve: nothing more is sent here in this run.
    pub(super) stopped: Option<String>,
    /// It brought a picture, or word of one, in this run.
    pub(super) has_served: bool,
    /// Since when nothing but trouble came, and what it was last.
    pub(super) trouble_since: Option<Instant>,
    pub(super) trouble: Option<String>,
}

impl RunLane {
    fn known(&self) -> &Lane {
        self.seen.as_ref().unwrap_or(&self.lane)
    }

    /// Closed, until when and why.
    pub(super) fn closed(&self, now: Instant) -> Option<Closed> {
        self.known().closed(now)
    }

    /// Takes nothing before long, or nothing at all.
    pub(super) fn is_out(&self, now: Instant) -> bool {
        self.stopped.is_some() || self.known().is_out(now)
    }

    /// What it brings to the others, if it is shared.
    pub(super) fn share(&self) -> Option<Share> {
        self.share.map(|share| Share { latency: self.lane.latency(), ..share })
    }

    /// How it is doing: the rate and what is under way are this process' own.
    pub(super) fn state(&self, now: Instant) -> LaneState {
        let own = self.lane.state(now);
        match &self.seen {
            None => own,
            Some(seen) => LaneState {
                rate_per_minute: own.rate_per_minute,
                in_flight: own.in_flight,
                ceiling: seen.state(now).ceiling.min(self.lane.in_flight_max()),
                ..seen.state(now)
            },
        }
    }

    /// A request ended: the lane learns from it, or is to be told.
    pub(super) fn ended(
        &mut self,
        ticket: Ticket,
        end: LaneEnd<'_>,
        now: Moment,
        rng: &mut StdRng,
    ) -> Lesson {
        self.dry = false;
        let what = self.what_ended(end, now.wall);
        if let End::Answered { .. } = what {
            (self.has_served, self.trouble_since) = (true, None);
        }
        let was_in_trouble = self.known().is_troubled();
        let mut lesson = if self.share.is_some() {
            self.count(ticket, what, now.instant)
        } else {
            Lesson { opens_at: self.learn(ticket, what, now.instant, rng), ..Lesson::default() }
        };
        if let (LaneEnd::Fault(fault, _), End::Overloaded(_)) = (end, what) {
            lesson.spares_job = self.troubled(fault, was_in_trouble, now.instant);
        }
        lesson
    }

    /// How it ended, as far as limits go.
    fn what_ended(&mut self, end: LaneEnd<'_>, wall: Timestamp) -> End {
        let answered = |images: usize| End::Answered {
            images: u32::try_from(images).unwrap_or(u32::MAX),
            slowest: self.lane.slowest(),
        };
        let (fault, begun) = match end {
            LaneEnd::Images(images) => return answered(images),
            LaneEnd::Gone => return End::Gone,
            LaneEnd::Fault(fault, begun) => (fault, begun),
        };
        match &fault.class {
            FaultClass::Throttled { hint, quota } => {
                let per_minute = quota.as_ref().and_then(Quota::requests_per_minute);
                let per_minute = per_minute.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
                End::Refused(Hints { wait: *hint, per_minute })
            }
            FaultClass::Parked { hint, quota } => {
                let daily = quota.as_ref().is_some_and(|quota| quota.period == QuotaPeriod::Day);
                // Hints beside a daily quota were seen to be those of the minute.
                let wait = if daily { Some(daily_quota_reset(wall).since(wall)) } else { *hint };
                End::Parked(wait.unwrap_or(PARKED_FOR))
            }
            FaultClass::ModelUnavailable => {
                self.stopped = Some(fault.message.clone());
                End::Gone
            }
            // An answer about the picture was admitted.
            FaultClass::Refused | FaultClass::NoImage => answered(0),
            FaultClass::Transient { hint } if begun == Begun::No => End::Overloaded(*hint),
            _ => End::Gone,
        }
    }

    /// The lane is this process' own. Returns when it opens again, if this closed it or found it closed.
    fn learn(&mut self, ticket: Ticket, end: End, now: Instant, rng: &mut StdRng) -> Option<Instant> {
        match end {
            End::Answered { images, .. } => self.lane.succeeded(now, ticket, images),
            End::Refused(hints) => return Some(self.lane.refused(now, ticket, hints, rng)),
            End::Parked(for_) => return Some(self.lane.parked(now, ticket, for_)),
            End::Overloaded(hint) => return self.lane.overloaded(now, ticket, hint, rng),
            End::Gone => self.lane.ended(now, ticket),
        }
        None
    }

    /// The lane is shared: this process counts, and the others are told what concerns them.
    fn count(&mut self, ticket: Ticket, end: End, now: Instant) -> Lesson {
        match end {
            End::Answered { images, .. } => self.lane.succeeded(now, ticket, images),
            _ => self.lane.ended(now, ticket),
        }
        let opens_at = match end {
            End::Refused(hints) => Some(now + hints.wait.unwrap_or(REFUSED_FOR)),
            End::Overloaded(_) => self.closed(now).map(|closed| closed.until),
            End::Answered { .. } | End::Parked(_) | End::Gone => None,
        };
        let concerns_all = self.seen.as_ref().is_none_or(|seen| seen.heeds(end, now));
        let told = self.share().filter(|_| concerns_all).map(|share| (end, share));
        Lesson { opens_at, told, spares_job: false }
    }

    /// No answer began: the way to the server, or the server, is in trouble. A request that never left
    /// cost its job nothing, and one that was sent to see whether the trouble is over is no try either.
    fn troubled(&mut self, fault: &Fault, was_in_trouble: bool, now: Instant) -> bool {
        self.trouble = Some(fault.message.clone());
        let since = *self.trouble_since.get_or_insert(now);
        let is_young = now.saturating_duration_since(since) < BLAMED_FOR;
        !fault.may_be_billed || (was_in_trouble && is_young)
    }

    fn waits(&self, now: Instant) -> Option<(Duration, String)> {
        if let Some(why) = &self.stopped {
            return Some((Duration::ZERO, format!("stopped: {why}")));
        }
        let Closed { until, why } = self.closed(now)?;
        let why = match why {
            Why::Asked => "as asked by the server",
            Why::Guessed => "after a refusal that named no time",
            Why::Trouble => "since the server is in trouble",
            Why::Parked => "since its quota is used up",
            Why::Outage => "since nothing has come for ten minutes: one probe a minute",
        };
        Some((until.saturating_duration_since(now), why.to_owned()))
    }

    /// What the queue is told.
    pub(super) fn note(&self, now: Moment) -> queue::LaneNote {
        let known = self.known().learned().map(|learned| KnownLimit {
            per_minute: learned.requests_per_minute,
            source: if learned.is_stated { LimitSource::Stated } else { LimitSource::Learned },
            confidence: learned.confidence,
            in_flight_max: learned.in_flight,
        });
        let state = self.state(now.instant);
        let state = queue::LaneState {
            sent_last_minute: state.rate_per_minute,
            per_minute: state.limit_per_minute,
            source: source(state.source),
            in_flight: state.in_flight,
            in_flight_max: state.ceiling,
            closed: self.waits(now.instant).map(|(wait, why)| (now.wall.plus(wait), why)),
        };
        queue::LaneNote { lane: self.id, known, state }
    }

    /// What people are told who watch.
    pub(super) fn view(&self, several_keys: bool, now: Instant) -> LaneView {
        let state = self.state(now);
        LaneView {
            model: self.model.clone(),
            key_id: several_keys.then(|| self.key_id.clone()),
            state,
            source: source(state.source),
            waits: self.waits(now),
        }
    }
}

/// As the queue spells it.
fn source(source: crate::pacing::Source) -> LimitSource {
    match source {
        crate::pacing::Source::Given => LimitSource::Given,
        crate::pacing::Source::Stated => LimitSource::Stated,
        crate::pacing::Source::Learned => LimitSource::Learned,
        crate::pacing::Source::Unknown => LimitSource::Unknown,
    }
}
