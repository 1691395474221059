//! A worker's heartbeat. It goes on beside whatever the dispatcher waits for: who is silent is taken for dead,
//! and what it has under way is paid again.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Work;
use crate::job::WorkerId;
use crate::queue::{Beat, QueueError};

/// What the last beat brought back, and when it was sent: each says all, so a later one takes its place.
#[derive(Debug, Default)]
pub(super) struct Beats {
    last: Mutex<Option<(Instant, Result<Beat, QueueError>)>>,
    news: Notify,
}

impl Beats {
    /// The next one that was not taken yet. Cancel-safe.
    pub(super) async fn next(&self) -> (Instant, Result<Beat, QueueError>) {
        loop {
            if let Some(beat) = self.last.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return beat;
            }
            self.news.notified().await;
        }
    }

    fn put(&self, beat: (Instant, Result<Beat, QueueError>)) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(beat);
        self.news.notify_one();
    }
}

/// Beats until it is dropped.
pub(super) async fn beat(work: &Work, worker: WorkerId, beats: &Beats) -> Infallible {
    let mut ticks = interval(work.queue.heartbeat_every());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sent_at = Instant::now();
        beats.put((sent_at, work.queue.heartbeat(worker).await));
    }
}
