//! What the queue knows of lanes: who they are, what was found out about their limits, and how each
//! worker's are doing.

use crate::job::state::text_enum;
use crate::job::{LaneId, ModelName, Provider, Timestamp, WorkerId};

/// What makes a lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LaneKey {
    /// Whom it goes to.
    pub provider: Provider,
    /// The model.
    pub model: ModelName,
    /// Short keyed hash of the key; never the key.
    pub key_id: String,
}

text_enum! {
    /// Where a believed limit comes from.
    LimitSource, "limit source", {
        /// A person gave it.
        Given = "given",
        /// The provider stated it.
        Stated = "stated",
        /// It was found out by being refused.
        Learned = "learned",
        /// Nothing is known yet.
        Unknown = "unknown",
    }
}

/// What was found out about a lane's limit: the next run begins near it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KnownLimit {
    /// Requests in 60 s.
    pub per_minute: f64,
    /// Stated or learned; a given limit is not found out.
    pub source: LimitSource,
    /// How often it was confirmed.
    pub confidence: u32,
    /// Requests in flight that the provider allows, if that was met.
    pub in_flight_max: Option<u32>,
}

/// A lane as the queue knows it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LaneRow {
    /// Its key in the queue.
    pub lane: LaneId,
    /// What was found out last, and when.
    pub known: Option<(KnownLimit, Timestamp)>,
}

/// How one worker's lane is doing.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneState {
    /// Requests in the last 60 s.
    pub sent_last_minute: u32,
    /// The believed limit, in requests a minute.
    pub per_minute: Option<f64>,
    /// Where that comes from.
    pub source: LimitSource,
    /// Requests under way.
    pub in_flight: u32,
    /// The most that may be.
    pub in_flight_max: u32,
    /// Until when nothing is sent, and why, in words.
    pub closed: Option<(Timestamp, String)>,
}

/// What a worker notes about one of its lanes.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneNote {
    /// The lane.
    pub lane: LaneId,
    /// What it found out; `None` leaves what is known.
    pub known: Option<KnownLimit>,
    /// How it is doing.
    pub state: LaneState,
}

/// A lane of a worker that lives, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneStateRow {
    /// Whose.
    pub worker: WorkerId,
    /// Its model.
    pub model: String,
    /// Tells keys apart.
    pub key_id: String,
    /// How it is doing.
    pub state: LaneState,
}

/// A model that has jobs left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLeft {
    /// The model of the jobs.
    pub model: String,
    /// Models that may stand in for it, for some of them at least; each once.
    pub fallbacks: Vec<String>,
}
