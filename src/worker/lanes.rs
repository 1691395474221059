//! The lanes of a run: which models still have work, and how many requests may leave now.

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{Work, WorkError};
use crate::gemini::Client;
use crate::gemini::fault::{Fault, FaultClass};
use crate::gemini::hint::QuotaPeriod;
use crate::job::{LaneId, ModelName, Timestamp};
use crate::pacing::{Closed, Lane, LaneLimits, Ticket, Why, daily_quota_reset};
use crate::queue::{LaneKey, ModelLeft};

/// How long a lane is parked when a quota is used up for long and nobody says until when.
const PARKED_FOR: Duration = Duration::from_secs(60 * 60);

/// One lane of this run.
#[derive(Debug)]
pub(super) struct RunLane {
    pub(super) id: LaneId,
    pub(super) model: ModelName,
    pub(super) lane: Lane,
    /// With the lane's key.
    client: Client,
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
        for ModelLeft { model, .. } in work.queue.models_left(&work.config.scope).await? {
            if self.all.iter().any(|lane| lane.model.as_str() == model) {
                continue;
            }
            // Only legal names get into the queue; one that is none cannot be sent anyway.
            let Ok(model) = model.parse::<ModelName>() else { continue };
            for client in &work.clients {
                self.add(work, &model, client).await?;
            }
        }
        Ok(())
    }

    async fn add(&mut self, work: &Work, model: &ModelName, client: &Client) -> Result<(), WorkError> {
        let key_id = client.endpoint().key.id();
        let key = LaneKey { provider: work.config.provider, model: model.clone(), key_id };
        let id = work.queue.lane(&key).await?.lane;
        let lane = Lane::new(LaneLimits { per_minute: work.config.per_minute_of(model) });
        let (model, client) = (model.clone(), client.clone());
        self.all.push(RunLane { id, model, lane, client, dry: false, stopped: None });
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
    pub(super) fn sent(&mut self, id: LaneId, now: Instant) -> Option<(Ticket, Client)> {
        self.by_id(id).map(|lane| (lane.lane.sent(now), lane.client.clone()))
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
            lane.lane.admitted(ticket);
            return None;
        };
        match &fault.class {
            FaultClass::Throttled { hint, .. } => Some(lane.lane.refused(instant, ticket, *hint, rng)),
            FaultClass::Parked { hint, quota } => {
                let daily = quota.as_ref().is_some_and(|quota| quota.period == QuotaPeriod::Day);
                // Hints beside a daily quota were seen to be those of the minute.
                let wait = if daily { Some(daily_quota_reset(now.wall).since(now.wall)) } else { *hint };
                Some(lane.lane.parked(instant, wait.unwrap_or(PARKED_FOR)))
            }
            FaultClass::ModelUnavailable => {
                lane.lane.ended(ticket);
                lane.stopped = Some(fault.message.clone());
                None
            }
            _ if fault.lane_cooldown => Some(lane.lane.troubled(instant, ticket, rng)),
            // An answer about the picture was admitted; a broken connection says nothing.
            FaultClass::Refused | FaultClass::NoImage => {
                lane.lane.admitted(ticket);
                None
            }
            _ => {
                lane.lane.ended(ticket);
                None
            }
        }
    }

    /// How long a job sleeps whose attempt closed its lane until `opens_at`. Not at all while the lane
    /// is parked, whatever fault came on top: the job would sleep on when the lane is open again, in
    /// the next run.
    pub(super) fn sleep_until_open(&self, id: LaneId, opens_at: Option<Instant>, now: Instant) -> Duration {
        let closed = self.all.iter().find(|lane| lane.id == id).and_then(|lane| lane.closed(now));
        match opens_at {
            Some(opens_at) if closed.is_none_or(|closed| closed.why != Why::Parked) => {
                opens_at.saturating_duration_since(now)
            }
            _ => Duration::ZERO,
        }
    }

    /// Whether a lane is closed: refusals of one volley close it once.
    pub(super) fn is_closed(&self, id: LaneId, now: Instant) -> bool {
        self.all.iter().any(|lane| lane.id == id && lane.closed(now).is_some())
    }

    /// A request was cut off or never left.
    pub(super) fn gone(&mut self, id: LaneId, ticket: Ticket) {
        if let Some(lane) = self.by_id(id) {
            lane.lane.ended(ticket);
        }
    }

    /// Lanes of models that still have work.
    pub(super) fn of<'a>(&'a self, models: &'a [ModelLeft]) -> impl Iterator<Item = &'a RunLane> {
        self.all.iter().filter(|lane| models.iter().any(|left| left.model == lane.model.as_str()))
    }

    fn by_id(&mut self, id: LaneId) -> Option<&mut RunLane> {
        self.all.iter_mut().find(|lane| lane.id == id)
    }
}

impl RunLane {
    /// Closed, until when and why.
    pub(super) fn closed(&self, now: Instant) -> Option<Closed> {
        self.lane.closed(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemini::hint::Quota;
    use crate::gemini::{Endpoint, Key, Timeouts};
    use crate::job::Provider;

    fn fault(class: FaultClass) -> Fault {
        let message = String::new();
        Fault { class, code: "x".into(), message, lane_cooldown: false, may_be_billed: false }
    }

    /// Found by the simulation: three requests were under way, one said that the day's share is
    /// used up, and the next refusal put its job to sleep until midnight.
    #[test]
    fn a_refusal_on_top_of_a_parked_lane_puts_no_job_to_sleep() {
        let (id, now) = (LaneId(1), Instant::now());
        let lane = Lane::new(LaneLimits::default());
        let model = ModelName::default_model();
        let mut lanes = Lanes::new(1);
        let endpoint = Endpoint {
            provider: Provider::Simulator,
            base_url: "http://127.0.0.1:9".parse().expect("a URL"),
            key: Key::new("lanes-test-key").expect("a key"),
        };
        let client = Client::new(endpoint, Timeouts::default()).expect("builds");
        lanes.all.push(RunLane { id, model, lane, client, dry: false, stopped: None });
        let moment = Moment { instant: now, wall: Timestamp::from_ms(1_795_000_000_000) };
        let tickets: Vec<Ticket> = (0..3).filter_map(|_| Some(lanes.sent(id, now)?.0)).collect();
        let throttled = fault(FaultClass::Throttled { hint: Some(Duration::from_secs(3)), quota: None });
        let opens_at = lanes.ended(id, tickets[0], Some(&throttled), moment);
        assert!(lanes.sleep_until_open(id, opens_at, now) >= Duration::from_secs(3));
        let quota = Quota { id: "PerDay".to_owned(), limit: None, period: QuotaPeriod::Day };
        let parked = fault(FaultClass::Parked { hint: None, quota: Some(quota) });
        lanes.ended(id, tickets[1], Some(&parked), moment);
        let opens_at = lanes.ended(id, tickets[2], Some(&throttled), moment);
        assert_eq!(lanes.sleep_until_open(id, opens_at, now), Duration::ZERO);
    }
}
