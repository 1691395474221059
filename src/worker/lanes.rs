//! The lanes of a run: which models still have work, and how many requests may leave now.

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{Work, WorkError};
use crate::gemini::fault::{Fault, FaultClass};
use crate::gemini::hint::{Quota, QuotaPeriod};
use crate::job::{LaneId, ModelName, Timestamp};
use crate::pacing::{Closed, Hints, Lane, LaneLimits, Ticket, daily_quota_reset};
use crate::queue::LaneKey;

/// How long a lane is parked when a quota is used up for long and nobody says until when.
const PARKED_FOR: Duration = Duration::from_secs(60 * 60);

/// One lane of this run.
#[derive(Debug)]
pub(super) struct RunLane {
    pub(super) id: LaneId,
    pub(super) model: ModelName,
    pub(super) lane: Lane,
    /// The last claim brought fewer jobs than it had permits: nothing is due until something changes.
    dry: bool,
    /// The model is not served: nothing more is sent to it in this run.
    pub(super) stopped: Option<String>,
}

/// All lanes of this run.
#[derive(Debug)]
pub(super) struct Lanes {
    all: Vec<RunLane>,
    rng: StdRng,
    /// Where handing out permits begins, so that no lane is always first.
    turn: usize,
}

/// What lanes can do now.
#[derive(Debug, Default)]
pub(super) struct Permits {
    pub(super) by_lane: Vec<(LaneId, u32)>,
    /// When a lane may have more.
    pub(super) wake_at: Option<Instant>,
}

/// An instant on both clocks: the one that measures and the one on the wall.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    pub(super) wall: Timestamp,
}

impl Lanes {
    /// No lanes yet; `seed` is that of their jitter.
    pub(super) fn new(seed: u64) -> Self {
        Self { all: Vec::new(), rng: StdRng::seed_from_u64(seed), turn: 0 }
    }

    /// Brings the lanes in line with the models that have work left.
    pub(super) async fn refresh(&mut self, work: &Work) -> Result<(), WorkError> {
        for model in work.queue.models_left(&work.config.scope).await? {
            if self.all.iter().any(|lane| lane.model.as_str() == model) {
                continue;
            }
            // Only legal names get into the queue; one that is none cannot be sent anyway.
            let Ok(model) = model.parse::<ModelName>() else { continue };
            let key = LaneKey {
                provider: work.config.provider,
                model: model.clone(),
                key_id: work.client.endpoint().key.id(),
            };
            let id = work.queue.lane(&key).await?;
            let limits = LaneLimits {
                requests_per_minute: work.config.per_minute_of(&model),
                in_flight: Some(work.config.concurrency),
                ..LaneLimits::default()
            };
            let lane = Lane::new(limits, None, Instant::now());
            self.all.push(RunLane { id, model, lane, dry: false, stopped: None });
        }
        Ok(())
    }

    /// Shares `slots` among the lanes that may send and may have something to send.
    pub(super) fn permits(&mut self, now: Instant, slots: u32) -> Permits {
        let mut permits = Permits::default();
        let count = self.all.len();
        let open: Vec<usize> = (0..count)
            .map(|n| (n + self.turn) % count)
            .filter(|n| self.all.get(*n).is_some_and(|lane| !lane.dry && lane.stopped.is_none()))
            .collect();
        self.turn = self.turn.wrapping_add(1);
        let mut left = slots;
        for (place, n) in open.iter().enumerate() {
            let Some(lane) = self.all.get_mut(*n) else { continue };
            let lanes_left = u32::try_from(open.len() - place).unwrap_or(1).max(1);
            let grant = lane.lane.grant(now, left.div_ceil(lanes_left));
            if let Some(wake_at) = grant.wake_at {
                permits.wake_at = Some(permits.wake_at.map_or(wake_at, |at| at.min(wake_at)));
            }
            if grant.permits > 0 {
                permits.by_lane.push((lane.id, grant.permits));
                left -= grant.permits.min(left);
            }
        }
        permits
    }

    /// A claim brought `got` jobs for a lane that had `permits`.
    pub(super) fn claimed(&mut self, id: LaneId, permits: u32, got: u32) {
        if let Some(lane) = self.by_id(id) {
            lane.dry = got < permits;
        }
    }

    /// Something may be due again.
    pub(super) fn wet(&mut self) {
        self.all.iter_mut().for_each(|lane| lane.dry = false);
    }

    /// A request leaves.
    pub(super) fn sent(&mut self, id: LaneId, now: Instant) -> Option<Ticket> {
        self.by_id(id).map(|lane| lane.lane.sent(now))
    }

    /// A request ended: the lane learns from it. Returns when the lane opens again, if this
    /// closed it.
    pub(super) fn ended(
        &mut self,
        id: LaneId,
        ticket: Ticket,
        fault: Option<&Fault>,
        now: Moment,
    ) -> Option<Instant> {
        let lane = self.all.iter_mut().find(|lane| lane.id == id)?;
        let (rng, instant) = (&mut self.rng, now.instant);
        lane.dry = false;
        let Some(fault) = fault else {
            lane.lane.succeeded(instant, ticket, 1);
            return None;
        };
        match &fault.class {
            FaultClass::Throttled { hint, quota } => {
                let stated = quota.as_ref().and_then(Quota::requests_per_minute);
                let per_minute = stated.and_then(|limit| u32::try_from(limit).ok());
                Some(lane.lane.refused(instant, ticket, Hints { wait: *hint, per_minute }, rng))
            }
            FaultClass::Parked { hint, quota } => {
                let daily = quota.as_ref().is_some_and(|quota| quota.period == QuotaPeriod::Day);
                // Hints beside a daily quota were seen to be those of the minute.
                let wait = if daily { Some(daily_quota_reset(now.wall).since(now.wall)) } else { *hint };
                Some(lane.lane.parked(instant, ticket, wait.unwrap_or(PARKED_FOR)))
            }
            FaultClass::ModelUnavailable => {
                lane.lane.ended(instant, ticket);
                lane.stopped = Some(fault.message.clone());
                None
            }
            FaultClass::Transient { hint } if fault.lane_cooldown || is_overload(&fault.code) => {
                lane.lane.overloaded(instant, ticket, *hint, rng)
            }
            // An answer about the picture was admitted; a broken connection says nothing.
            FaultClass::Refused | FaultClass::NoImage => {
                lane.lane.succeeded(instant, ticket, 0);
                None
            }
            _ => {
                lane.lane.ended(instant, ticket);
                None
            }
        }
    }

    /// Whether a lane is closed: refusals of one volley close it once.
    pub(super) fn is_closed(&self, id: LaneId, now: Instant) -> bool {
        self.all.iter().any(|lane| lane.id == id && lane.closed(now).is_some())
    }

    /// A request was cut off or never left.
    pub(super) fn gone(&mut self, id: LaneId, ticket: Ticket) {
        if let Some(lane) = self.by_id(id) {
            lane.lane.ended(Instant::now(), ticket);
        }
    }

    /// Lanes of models that still have work.
    pub(super) fn of<'a>(&'a self, models: &'a [String]) -> impl Iterator<Item = &'a RunLane> {
        self.all.iter().filter(|lane| models.iter().any(|model| model == lane.model.as_str()))
    }

    fn by_id(&mut self, id: LaneId) -> Option<&mut RunLane> {
        self.all.iter_mut().find(|lane| lane.id == id)
    }
}

/// 503 and 529 are spoken by servers that have too much to do.
fn is_overload(code: &str) -> bool {
    matches!(code, "http_503" | "http_529")
}

impl RunLane {
    /// Closed, until when and why.
    pub(super) fn closed(&self, now: Instant) -> Option<Closed> {
        self.lane.closed(now)
    }
}
