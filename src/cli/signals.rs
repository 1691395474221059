//! Signals that end a run, and what a platform calls them.
//!
//! The first Ctrl-C drains, the second aborts. SIGTERM and SIGHUP (the terminal went away) drain:
//! whoever sends them a second time has not asked for paid requests to be cut off.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::worker::Shutdown;

/// Who ended the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM or SIGHUP.
    Terminate,
}

/// Which signal came first, if any.
pub(super) type FirstSignal = Arc<OnceLock<Signal>>;

/// Raises `shutdown` at each signal until it is dropped. From the call to [`Signals::listen`] on,
/// signals do not end the process by themselves.
pub(super) struct Signals(platform::Streams);

impl Signals {
    /// Begins to listen.
    pub(super) fn listen() -> std::io::Result<Self> {
        platform::Streams::new().map(Self)
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

#[cfg(unix)]
mod platform {
    use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

    use super::Signal;

    pub(super) struct Streams {
        interrupt: Stream,
        terminate: Stream,
        hangup: Stream,
    }

    impl Streams {
        pub(super) fn new() -> std::io::Result<Self> {
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: signal(SignalKind::hangup())?,
            })
        }

        pub(super) async fn next(&mut self) -> Signal {
            tokio::select! {
                _ = self.interrupt.recv() => Signal::Interrupt,
                _ = self.terminate.recv() => Signal::Terminate,
                _ = self.hangup.recv() => Signal::Terminate,
            }
        }
    }
}

/// Elsewhere there is Ctrl-C alone.
#[cfg(not(unix))]
mod platform {
    use super::Signal;

    pub(super) struct Streams;

    impl Streams {
        pub(super) fn new() -> std::io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn next(&mut self) -> Signal {
            // An error means that no signal can ever come.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            Signal::Interrupt
        }
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
