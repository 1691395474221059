//! How far a request has come, to be read by whoever draws it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What a request is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Sent; not a byte yet.
    Waiting,
    /// Events arrive, no image yet.
    Thinking,
    /// An image arrives.
    Receiving,
    /// The image is made durable and published.
    Saving,
}

/// How far one request has come. Written by its executor, read at any time.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    phase: AtomicU8,
    bytes: AtomicU64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), phase: AtomicU8::new(0), bytes: AtomicU64::new(0) }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let step = match phase {
            Phase::Waiting => 0,
            Phase::Thinking => 1,
            Phase::Receiving => 2,
            Phase::Saving => 3,
        };
        self.phase.fetch_max(step, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, image_bytes: u64) {
        self.bytes.store(image_bytes, Ordering::Relaxed);
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Waiting,
            1 => Phase::Thinking,
            2 => Phase::Receiving,
            _ => Phase::Saving,
        }
    }

    /// Image bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Time since it was sent.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
