//! What a run of the clock paces itself with: one lane, or the workers that share one through a row and a
//! ledger, as a queue keeps them.

use std::time::Duration;

use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::pacing::{End, Grant, Lane, LaneLimits, Logged, Share, Ticket};

/// A worker that gets nothing looks again after this at the earliest; see `queue::postgres::limits`.
const LOOKS_AGAIN: Duration = Duration::from_millis(100);

/// Something that paces requests.
pub(super) trait Paced {
    fn grant(&mut self, now: Instant, wanted: u32) -> Grant;
    fn sent(&mut self, now: Instant) -> Ticket;
    /// Returns when its job may be sent again.
    fn ended(&mut self, now: Instant, ticket: Ticket, end: End, rng: &mut StdRng) -> Instant;
}

impl Paced for Lane {
    fn grant(&mut self, now: Instant, wanted: u32) -> Grant {
        Self::grant(self, now, wanted)
    }

    fn sent(&mut self, now: Instant) -> Ticket {
        Self::sent(self, now)
    }

    fn ended(&mut self, now: Instant, ticket: Ticket, end: End, rng: &mut StdRng) -> Instant {
        match end {
            End::Answered { images, .. } => self.succeeded(now, ticket, images),
            End::Refused(hints) => return self.refused(now, ticket, hints, rng),
            End::Overloaded(hint) => drop(self.overloaded(now, ticket, hint, rng)),
            End::Parked(for_) => return self.parked(now, ticket, for_),
            End::Gone => Self::ended(self, now, ticket),
        }
        now
    }
}

/// Workers that share a lane.
pub(super) struct Workers {
    limits: LaneLimits,
    row: Option<(String, Instant)>,
    ledger: Vec<Logged>,
    /// For each worker its own count of what it sends, and the lane as it last saw it.
    each: Vec<(Lane, Option<Lane>)>,
    /// Who sent each request.
    sender: Vec<usize>,
    turn: usize,
    under_way: u32,
}

impl Workers {
    pub(super) fn new(count: usize, limits: LaneLimits, now: Instant) -> Self {
        let each = (0..count).map(|_| (Lane::new(limits, None, now), None)).collect();
        Self { limits, row: None, ledger: Vec::new(), each, sender: Vec::new(), turn: 0, under_way: 0 }
    }

    fn recall(&self, worker: usize, now: Instant) -> Lane {
        let share = Share { limits: self.limits, latency: self.each[worker].0.latency() };
        let kept = self.row.as_ref().map(|(kept, at)| (kept.as_str(), now - *at));
        let mut lane =
            Lane::recall(kept.map(|row| row.0), kept.map_or(Duration::ZERO, |row| row.1), share, now);
        lane.under_way(self.under_way);
        lane
    }

    fn keep(&mut self, worker: usize, lane: Lane, now: Instant) {
        self.row = Some((lane.keep(now), now));
        self.each[worker].1 = Some(lane);
    }
}

impl Paced for Workers {
    fn grant(&mut self, now: Instant, wanted: u32) -> Grant {
        self.turn = (self.turn + 1) % self.each.len();
        let mut lane = self.recall(self.turn, now);
        let grant = lane.grant(now, wanted);
        if grant.permits > 0 {
            self.keep(self.turn, lane, now);
        }
        Grant { wake_at: grant.wake_at.map(|at| at.max(now + LOOKS_AGAIN)), ..grant }
    }

    fn sent(&mut self, now: Instant) -> Ticket {
        let number = self.ledger.len() as u64;
        let mut lane = self.recall(self.turn, now);
        lane.sent_with(number, now);
        self.keep(self.turn, lane, now);
        self.ledger.push(Logged { number, sent_at: now, ended_at: None, refused: false });
        self.sender.push(self.turn);
        self.under_way += 1;
        Ticket { number, ..self.each[self.turn].0.sent(now) }
    }

    fn ended(&mut self, now: Instant, ticket: Ticket, end: End, rng: &mut StdRng) -> Instant {
        let number = usize::try_from(ticket.number).expect("small");
        let worker = self.sender[number];
        let own = &mut self.each[worker].0;
        let end = match end {
            End::Answered { images, .. } => {
                own.answered_after(now - ticket.sent_at());
                End::Answered { images, slowest: own.slowest() }
            }
            end => end,
        };
        let heeds = self.each[worker].1.as_ref().is_none_or(|seen| seen.heeds(end, now));
        if heeds {
            let mut lane = self.recall(worker, now);
            if matches!(end, End::Refused(_)) && lane.is_news(ticket.number, ticket.sent_at()) {
                let recent = self.ledger.partition_point(|one| one.sent_at + Duration::from_secs(300) < now);
                lane.read_log(&self.ledger[recent..]);
            }
            lane.ended_with(now, (ticket.number, ticket.sent_at()), end, rng);
            self.keep(worker, lane, now);
        }
        self.under_way -= 1;
        self.ledger[number].ended_at = Some(now);
        self.ledger[number].refused = matches!(end, End::Refused(_));
        match end {
            End::Refused(hints) => now + hints.wait.unwrap_or(Duration::from_secs(1)),
            _ => now,
        }
    }
}
