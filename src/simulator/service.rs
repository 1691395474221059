//! What all requests share: the scenario, the limits' counts, the tries, the log.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SimulatorConfig;
use super::limit::{LimitedLane, Limits, Refused};
use super::log::RequestLog;
use super::picture::Picture;
use crate::job::Digest;

/// Pictures that are kept to be fetched by URL.
const FILES_MAX: usize = 256;
/// Requests whose tries are counted; beyond it all counts begin anew.
const TRIES_MAX: usize = 1_000_000;

/// The service behind the HTTP surface.
pub(super) struct Service {
    pub(super) config: SimulatorConfig,
    pub(super) stop: CancellationToken,
    started: Instant,
    state: Mutex<State>,
    log: Mutex<RequestLog>,
}

struct State {
    limits: Limits,
    /// Requests that the limits let through.
    admitted: u64,
    tries: HashMap<Digest, u64>,
    files: VecDeque<(String, Picture)>,
}

/// A request that was let through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admission {
    /// Its number among those that were, from 1.
    pub(super) admitted: u64,
    /// How often the same was, this time included.
    pub(super) nth_try: u64,
}

impl Service {
    pub(super) fn new(config: SimulatorConfig, stop: CancellationToken) -> Self {
        let limits = Limits::new(config.scenario.limits.clone());
        let state = State { limits, admitted: 0, tries: HashMap::new(), files: VecDeque::new() };
        let log = Mutex::new(RequestLog::default());
        Self { config, stop, started: Instant::now(), state: Mutex::new(state), log }
    }

    /// Milliseconds since the start.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Reads or writes the log.
    pub(super) fn log<T>(&self, with: impl FnOnce(&mut RequestLog) -> T) -> T {
        with(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the limits, and counts the try if they let it through.
    pub(super) fn admit(&self, lane: &LimitedLane, ask: &Digest) -> Result<Admission, Refused> {
        let now_ms = self.now_ms();
        let mut state = self.state();
        state.limits.admit(lane, now_ms)?;
        state.admitted += 1;
        if state.tries.len() >= TRIES_MAX {
            state.tries.clear();
        }
        let admitted = state.admitted;
        let tries = state.tries.entry(*ask).or_default();
        *tries += 1;
        Ok(Admission { admitted, nth_try: *tries })
    }

    fn release(&self, lane: &LimitedLane) {
        self.state().limits.release(lane);
    }

    /// Keeps a picture to be fetched by URL.
    pub(super) fn keep_file(&self, name: String, picture: Picture) {
        let mut state = self.state();
        if state.files.len() >= FILES_MAX {
            state.files.pop_front();
        }
        state.files.push_back((name, picture));
    }

    /// A picture that is kept.
    pub(super) fn file(&self, name: &str) -> Option<Picture> {
        let state = self.state();
        state.files.iter().find(|(kept, _)| kept == name).map(|(_, picture)| picture.clone())
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The place of a request among those in flight. Dropping it, at the end of the body or when
/// the client goes away before there is one, gives it back and then notes the end.
pub(super) struct Permit {
    pub(super) service: Arc<Service>,
    pub(super) lane: LimitedLane,
    /// The request's number in the log.
    pub(super) number: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.service.release(&self.lane);
        let now_ms = self.service.now_ms();
        self.service.log(|log| log.update(self.number, |entry| entry.ended_at_ms = Some(now_ms)));
    }
}
