//! The lanes of a run: one for each model and key that may be of use. How many requests may leave
//! now, what each of their ends teaches, and what people and the next run are told about them.

use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::config::Concurrency;
use super::run_lane::RunLane;
use super::{Work, WorkError};
use crate::gemini::Client;
use crate::gemini::fault::Fault;
use crate::job::{LaneId, ModelName, Timestamp};
use crate::pacing::{Closed, End, Lane, LaneLimits, LaneState, Learned, Share, Ticket, Why};
use crate::queue::{self, LaneKey, LimitSource, ModelLeft, Permits};

/// All lanes of this run.
#[derive(Debug)]
pub(super) struct Lanes {
    all: Vec<RunLane>,
    /// What was left when it was last looked, with who may stand in.
    models: Vec<ModelLeft>,
    rng: StdRng,
    /// Where handing out permits begins, so that no lane is always first.
    turn: usize,
}

/// What lanes can do now.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) permits: Vec<Permits>,
    /// When a lane may have more.
    pub(super) wake_at: Option<Instant>,
}

/// An instant on both clocks: the one that measures and the one on the wall.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) instant: Instant,
    pub(super) wall: Timestamp,
}

/// How a request ended, as far as its lane is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) enum LaneEnd<'a> {
    /// With so many images.
    Images(usize),
    /// With a fault; `true` once an answer had begun.
    Fault(&'a Fault, Begun),
    /// Cut off by us, or never sent.
    Gone,
}

/// Whether the server had begun to answer with a 200 when a fault came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    Yes,
    No,
}

/// What an end taught.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lesson {
    /// When the lane opens again, if this closed it or found it closed.
    pub(super) opens_at: Option<Instant>,
    /// The lane is to blame and not the job: its allowances stay as they are.
    pub(super) spares_job: bool,
    /// What the other workers of the lane are to be told.
    pub(super) told: Option<(End, Share)>,
}

impl Lanes {
    /// No lanes yet; `seed` is that of their jitter.
    pub(super) fn new(seed: u64) -> Self {
        Self { all: Vec::new(), models: Vec::new(), rng: StdRng::seed_from_u64(seed), turn: 0 }
    }

    /// Brings the lanes in line with the models that have work left, and those that may stand in.
    pub(super) async fn refresh(&mut self, work: &Work) -> Result<(), WorkError> {
        self.models = work.queue.models_left(&work.config.scope).await?;
        let names: Vec<String> = (self.models.iter())
            .flat_map(|left| std::iter::once(&left.model).chain(&left.fallbacks).cloned())
            .collect();
        for name in names {
            // Only legal names get into the queue; one that is none cannot be sent anyway.
            let Ok(model) = name.parse::<ModelName>() else { continue };
            if self.all.iter().all(|lane| lane.model != model) {
                for client in &work.clients {
                    self.add(work, &model, client).await?;
                }
            }
        }
        Ok(())
    }

    async fn add(&mut self, work: &Work, model: &ModelName, client: &Client) -> Result<(), WorkError> {
        let key_id = client.endpoint().key.id();
        let key = LaneKey { provider: work.config.provider, model: model.clone(), key_id: key_id.clone() };
        let row = work.queue.lane(&key).await?;
        let now = work.clock.now();
        let learned = row.known.map(|(known, at)| Learned {
            requests_per_minute: known.per_minute,
            confidence: known.confidence,
            in_flight: known.in_flight_max,
            is_stated: known.source == LimitSource::Stated,
            age: now.since(at),
        });
        let (in_flight, in_flight_max) = match work.config.concurrency {
            Concurrency::Fixed(n) => (Some(n), n),
            Concurrency::Auto { max } => (None, max),
        };
        let limits = LaneLimits {
            requests_per_minute: work.config.requests_per_minute.of(model),
            images_per_minute: work.config.images_per_minute.of(model),
            in_flight,
            in_flight_max,
            rest_first: work.config.retry.backoff.base * 2,
        };
        // What a process may have in flight says nothing about the lane.
        let of_all = LaneLimits { in_flight: in_flight.map(|_| u32::MAX), in_flight_max: u32::MAX, ..limits };
        let share = work.queue.spans_machines().then_some(Share { limits: of_all, latency: None });
        self.all.push(RunLane {
            id: row.lane,
            model: model.clone(),
            lane: Lane::new(limits, learned, Instant::now()),
            share,
            seen: None,
            client: client.clone(),
            key_id,
            dry: false,
            shared_until: None,
            stopped: None,
            has_served: false,
            trouble_since: None,
            trouble: None,
        });
        Ok(())
    }

    /// Shares `slots` among the lanes that may send and may have something to send.
    pub(super) fn room(&mut self, now: Instant, slots: u32) -> Room {
        let mut room = Room::default();
        let count = self.all.len();
        let is_ours = |lane: &RunLane| lane.shared_until.is_none_or(|until| until <= now);
        let may_send = |lane: &RunLane| !lane.dry && lane.stopped.is_none() && is_ours(lane);
        let shared = self.all.iter().filter(|lane| !lane.dry && lane.stopped.is_none() && !is_ours(lane));
        room.wake_at = shared.filter_map(|lane| lane.shared_until).min();
        let (open, idle): (Vec<usize>, Vec<usize>) =
            (0..count).map(|n| (n + self.turn) % count).partition(|n| self.all.get(*n).is_some_and(may_send));
        self.turn = self.turn.wrapping_add(1);
        for n in idle {
            if let Some(lane) = self.all.get_mut(n) {
                lane.lane.grant(now, 0);
            }
        }
        let mut left = slots;
        for (place, n) in open.iter().enumerate() {
            let Some(lane) = self.all.get_mut(*n) else { continue };
            let lanes_left = u32::try_from(open.len() - place).unwrap_or(1).max(1);
            let wanted = left.div_ceil(lanes_left);
            let share = lane.share();
            // A shared lane is asked by the claim itself.
            let count = if share.is_some() {
                wanted
            } else {
                let grant = lane.lane.grant(now, wanted);
                if let Some(wake_at) = grant.wake_at {
                    room.wake_at = Some(room.wake_at.map_or(wake_at, |at| at.min(wake_at)));
                }
                grant.permits
            };
            if count > 0 {
                left -= count.min(left);
                let also_for = self.stands_in_for(*n, now);
                let Some(lane) = self.all.get(*n).map(|lane| lane.id) else { continue };
                room.permits.push(Permits { lane, count, also_for, share });
            }
        }
        room
    }

    /// Nothing is sent for now, for reasons that are none of the lanes'.
    pub(super) fn rest(&mut self, now: Instant) {
        for lane in &mut self.all {
            lane.lane.grant(now, 0);
        }
    }

    /// Models that are out, and that this lane's may stand in for.
    fn stands_in_for(&self, n: usize, now: Instant) -> Vec<ModelName> {
        let Some(own) = self.all.get(n).map(|lane| lane.model.as_str()) else { return Vec::new() };
        let names_own = |left: &&ModelLeft| left.fallbacks.iter().any(|model| model == own);
        let out = self.models.iter().filter(names_own).filter(|left| self.is_out(&left.model, now));
        out.filter_map(|left| left.model.parse().ok()).collect()
    }

    /// Whether no lane of a model will take a job before long: all are parked, in trouble or stopped.
    fn is_out(&self, model: &str, now: Instant) -> bool {
        let mut lanes = self.all.iter().filter(|lane| lane.model.as_str() == model);
        lanes.all(|lane| lane.is_out(now))
    }

    /// A claim brought `got` jobs for a lane that had `permits`.
    pub(super) fn claimed(&mut self, id: LaneId, permits: u32, got: u32) {
        if let Some(lane) = self.by_id(id) {
            lane.dry = got < permits;
        }
    }

    /// A claim brought fewer jobs than the lane had permits, since other workers have a share of it.
    pub(super) fn shared(&mut self, id: LaneId, until: Instant) {
        if let Some(lane) = self.by_id(id) {
            lane.shared_until = Some(until);
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

    /// A request ended: the lane learns from it.
    pub(super) fn ended(&mut self, id: LaneId, ticket: Ticket, end: LaneEnd<'_>, now: Moment) -> Lesson {
        match self.all.iter_mut().find(|lane| lane.id == id) {
            Some(lane) => lane.ended(ticket, end, now, &mut self.rng),
            None => Lesson::default(),
        }
    }

    /// A shared lane was asked or told something: this is how it is now. Returns how it is closed where that is
    /// news here.
    pub(super) fn saw(&mut self, id: LaneId, seen: Lane, now: Instant) -> Option<Closed> {
        let lane = self.by_id(id)?;
        let was = lane.closed(now);
        lane.seen = Some(seen);
        lane.closed(now).filter(|is| was.is_none_or(|was| was.why != is.why))
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

    /// Closed, until when and why.
    pub(super) fn closed(&self, id: LaneId, now: Instant) -> Option<Closed> {
        self.all.iter().find(|lane| lane.id == id).and_then(|lane| lane.closed(now))
    }

    /// A key does not serve: its lanes stop. Whether other keys are left.
    pub(super) fn stop_key(&mut self, id: LaneId, why: &str) -> bool {
        let Some(key_id) = self.by_id(id).map(|lane| lane.key_id.clone()) else { return false };
        for lane in self.all.iter_mut().filter(|lane| lane.key_id == key_id) {
            lane.stopped.get_or_insert_with(|| why.to_owned());
        }
        self.all.iter().any(|lane| lane.key_id != key_id && lane.stopped.is_none())
    }

    /// Models that had jobs left when it was last looked.
    pub(super) fn models(&self) -> &[ModelLeft] {
        &self.models
    }

    /// What the last trouble was.
    pub(super) fn trouble(&self) -> Option<String> {
        self.all.iter().find_map(|lane| lane.trouble.clone())
    }

    /// Lanes that may take jobs of this model: its own, and those that may stand in.
    pub(super) fn of<'a>(&'a self, left: &'a ModelLeft) -> impl Iterator<Item = &'a RunLane> {
        let serves = |lane: &&RunLane| {
            let model = lane.model.as_str();
            left.model == model || left.fallbacks.iter().any(|fallback| fallback == model)
        };
        self.all.iter().filter(serves)
    }

    /// Whether nothing was ever reached in this run although it was tried for long.
    pub(super) fn is_unreachable(&self, now: Instant) -> bool {
        let outage = |lane: &RunLane| lane.closed(now).is_some_and(|closed| closed.why == Why::Outage);
        self.all.iter().all(|lane| !lane.has_served) && self.all.iter().any(outage)
    }

    /// What the queue is told: for the next run, and for people who ask in another window.
    pub(super) fn notes(&self, now: Moment) -> Vec<queue::LaneNote> {
        self.all.iter().map(|lane| lane.note(now)).collect()
    }

    /// What people are told who watch.
    pub(super) fn views(&self, now: Instant) -> Vec<LaneView> {
        let several_keys =
            self.all.iter().any(|lane| Some(&lane.key_id) != self.all.first().map(|one| &one.key_id));
        self.all.iter().map(|lane| lane.view(several_keys, now)).collect()
    }

    fn by_id(&mut self, id: LaneId) -> Option<&mut RunLane> {
        self.all.iter_mut().find(|lane| lane.id == id)
    }
}

/// How a lane is doing, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneView {
    /// Its model.
    pub model: ModelName,
    /// Tells keys apart, where there are several.
    pub key_id: Option<String>,
    /// Rate, limit, requests under way.
    pub state: LaneState,
    /// Where the limit comes from.
    pub source: LimitSource,
    /// Why nothing is sent, and for how long, if so.
    pub waits: Option<(Duration, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemini::fault::FaultClass;
    use crate::gemini::hint::{Quota, QuotaPeriod};
    use crate::gemini::{Endpoint, Key, Timeouts};
    use crate::job::Provider;

    fn fault(class: FaultClass) -> Fault {
        let message = String::new();
        Fault { class, code: "x".into(), message, lane_cooldown: false, may_be_billed: false }
    }

    fn one_lane() -> (Lanes, LaneId, Instant) {
        let endpoint = Endpoint {
            provider: Provider::Simulator,
            base_url: "http://127.0.0.1:9".parse().expect("a URL"),
            key: Key::new("lanes-test-key").expect("a key"),
        };
        let (id, now) = (LaneId(1), Instant::now());
        let mut lanes = Lanes::new(1);
        lanes.all.push(RunLane {
            id,
            model: ModelName::default_model(),
            lane: Lane::new(LaneLimits::default(), None, now),
            key_id: endpoint.key.id(),
            client: Client::new(endpoint, Timeouts::default()).expect("builds"),
            dry: false,
            shared_until: None,
            share: None,
            seen: None,
            stopped: None,
            has_served: false,
            trouble_since: None,
            trouble: None,
        });
        (lanes, id, now)
    }

    /// Found by the simulation: three requests were under way, one said that the day's share is
    /// used up, and the next refusal put its job to sleep until midnight.
    #[test]
    fn a_refusal_on_top_of_a_parked_lane_puts_no_job_to_sleep() {
        let (mut lanes, id, now) = one_lane();
        let moment = Moment { instant: now, wall: Timestamp::from_ms(1_795_000_000_000) };
        let tickets: Vec<Ticket> = (0..3).filter_map(|_| Some(lanes.sent(id, now)?.0)).collect();
        let throttled = fault(FaultClass::Throttled { hint: Some(Duration::from_secs(3)), quota: None });
        let throttled = LaneEnd::Fault(&throttled, Begun::No);
        let lesson = lanes.ended(id, tickets[0], throttled, moment);
        assert!(lanes.sleep_until_open(id, lesson.opens_at, now) >= Duration::from_secs(3));
        let quota = Quota { id: "PerDay".to_owned(), limit: None, period: QuotaPeriod::Day };
        let parked = fault(FaultClass::Parked { hint: None, quota: Some(quota) });
        lanes.ended(id, tickets[1], LaneEnd::Fault(&parked, Begun::No), moment);
        let lesson = lanes.ended(id, tickets[2], throttled, moment);
        assert_eq!(lanes.sleep_until_open(id, lesson.opens_at, now), Duration::ZERO);
    }

    #[test]
    fn what_never_left_and_what_meets_a_lane_in_trouble_is_not_the_jobs_fault() {
        let (mut lanes, id, now) = one_lane();
        let moment = |s| Moment { instant: now + Duration::from_secs(s), wall: Timestamp::from_ms(0) };
        let transient =
            |may_be_billed| Fault { may_be_billed, ..fault(FaultClass::Transient { hint: None }) };
        let (refused, overloaded) = (transient(false), transient(true));
        let mut ends = |fault: &Fault, at| {
            let ticket = lanes.sent(id, now).expect("a lane").0;
            lanes.ended(id, ticket, LaneEnd::Fault(fault, Begun::No), moment(at)).spares_job
        };
        assert!(ends(&refused, 0), "no connection stood");
        let first: Vec<bool> = (0..4).map(|_| ends(&overloaded, 1)).collect();
        assert_eq!(first, [false; 4], "one by one they may be the jobs'");
        assert!(ends(&overloaded, 2), "the lane is in trouble");
        assert!(!ends(&overloaded, 3_700), "for an hour at most");
    }
}
