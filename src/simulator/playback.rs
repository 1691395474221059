//! A body that is played step by step: bytes, silence, resets; and what became of it, in the log.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::framing::Step;
use super::service::{Permit, Service};
use super::socket::Hangup;

/// What is left to play of one answer.
pub(super) struct Playback {
    pub(super) service: Arc<Service>,
    /// The request's number in the log.
    pub(super) number: u64,
    pub(super) steps: VecDeque<Step>,
    pub(super) hangup: Hangup,
    /// Held until the body has ended, one way or another.
    pub(super) _permit: Permit,
    pub(super) complete: bool,
}

impl Playback {
    /// As a body. Dropping it, when the client goes away, is safe at any point.
    pub(super) fn into_body(self) -> Body {
        Body::from_stream(futures_util::stream::unfold(self, |mut playback| async move {
            let bytes = playback.next().await?;
            Some((bytes, playback))
        }))
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let stopping = self.service.stop.clone();
        let shape = self.service.config.scenario.stream.clone();
        loop {
            let Some(step) = self.steps.pop_front() else {
                self.complete = true;
                return None;
            };
            match step {
                Step::Send(mut bytes) => {
                    let rest = bytes.split_off(bytes.len().min(shape.chunk_bytes));
                    if !rest.is_empty() {
                        self.steps.push_front(Step::Send(rest));
                    }
                    if shape.chunk_delay_ms > 0 {
                        self.steps.push_front(Step::Wait(Duration::from_millis(shape.chunk_delay_ms)));
                    }
                    let sent = bytes.len() as u64;
                    self.service.log(|log| log.update(self.number, |entry| entry.body_bytes += sent));
                    return Some(Ok(bytes));
                }
                Step::Told(usage) => {
                    self.service.log(|log| log.update(self.number, |entry| entry.told = usage));
                }
                Step::Wait(wait) => {
                    if !slept(wait, &stopping).await {
                        return Some(Err(stopped()));
                    }
                }
                Step::Hang => {
                    stopping.cancelled().await;
                    return Some(Err(stopped()));
                }
                Step::Reset => {
                    // What was handed over is written while this is pending.
                    tokio::task::yield_now().await;
                    self.hangup.reset();
                    return Some(Err(io::ErrorKind::ConnectionReset.into()));
                }
            }
        }
    }
}

impl Drop for Playback {
    fn drop(&mut self) {
        let complete = self.complete;
        self.service.log(|log| log.update(self.number, |entry| entry.complete = complete));
        // The permit, dropped next, notes the end.
    }
}

/// Waits; false if the simulator stopped meanwhile.
pub(super) async fn slept(wait: Duration, stop: &CancellationToken) -> bool {
    if wait.is_zero() {
        return true;
    }
    tokio::select! {
        () = tokio::time::sleep(wait) => true,
        () = stop.cancelled() => false,
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the simulator stopped")
}
