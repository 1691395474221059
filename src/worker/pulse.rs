//! A worker's heartbeat. It goes on beside whatever the dispatcher waits for: who is silent is taken for dead,
//! and what it has under way is paid again.

use std::convert::Infallible;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::Work;
use crate::job::WorkerId;
use crate::queue::{Beat, QueueError};

/// What each beat brought back.
pub(super) type Beats = mpsc::Receiver<Result<Beat, QueueError>>;

/// A channel for one beat: each says all, so one that finds the last one still there is left out.
pub(super) fn channel() -> (mpsc::Sender<Result<Beat, QueueError>>, Beats) {
    mpsc::channel(1)
}

/// Beats until it is dropped.
pub(super) async fn beat(
    work: &Work,
    worker: WorkerId,
    told: mpsc::Sender<Result<Beat, QueueError>>,
) -> Infallible {
    let mut ticks = interval(work.queue.heartbeat_every());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        drop(told.try_send(work.queue.heartbeat(worker).await));
    }
}
