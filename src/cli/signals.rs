//! Signals that end a run.
//!
//! The first Ctrl-C drains, the second aborts. SIGTERM and SIGHUP (the terminal went away) drain:
//! whoever sends them a second time has not asked for paid requests to be cut off.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::platform::SignalStreams;
use crate::worker::Shutdown;

pub(super) use crate::platform::Signal;

/// Which signal came first, if any.
pub(super) type FirstSignal = Arc<OnceLock<Signal>>;

/// Raises `shutdown` at each signal until it is dropped. From the call to [`Signals::listen`] on,
/// signals do not end the process by themselves.
pub(super) struct Signals(SignalStreams);

impl Signals {
    /// Begins to listen.
    pub(super) fn listen() -> std::io::Result<Self> {
        SignalStreams::new().map(Self)
    }

    /// The next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signal {
        self.0.next().await
    }

    /// Turns signals into steps of a shutdown, for as long as it is polled.
    pub(super) async fn raise(mut self, shutdown: watch::Sender<Shutdown>, first: FirstSignal) {
        loop {
            let signal = self.next().await;
            let is_first = first.set(signal).is_ok();
            shutdown.send_modify(|now| *now = step(*now, signal, is_first));
        }
    }
}

fn step(now: Shutdown, signal: Signal, is_first: bool) -> Shutdown {
    match signal {
        Signal::Interrupt if !is_first => Shutdown::Abort,
        _ => now.max(Shutdown::Drain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_ctrl_c_aborts_and_a_second_sigterm_does_not() {
        assert_eq!(step(Shutdown::No, Signal::Interrupt, true), Shutdown::Drain);
        assert_eq!(step(Shutdown::Drain, Signal::Interrupt, false), Shutdown::Abort);
        assert_eq!(step(Shutdown::No, Signal::Terminate, true), Shutdown::Drain);
        assert_eq!(step(Shutdown::Drain, Signal::Terminate, false), Shutdown::Drain);
        assert_eq!(step(Shutdown::Abort, Signal::Terminate, false), Shutdown::Abort);
    }
}
