//! How long a server is waited for that is away: some minutes as a rule, and less when the program is to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::fault::no_answer;
use crate::queue::QueueError;

/// Pauses between tries, from the first to the longest; each is cut by up to a half at random, so that not
/// all workers come at once.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What was begun may take so long when there is no more time: a server that is there answers by then.
const LAST_WORD: Duration = Duration::from_secs(5);

/// When all that waits for the server is to end. Shared by all connections of a queue.
#[derive(Debug, Clone)]
pub(super) struct Haste {
    by: Arc<watch::Sender<Option<Instant>>>,
    /// It was waited for in vain: nothing else is tried.
    given_up: Arc<AtomicBool>,
}

impl Haste {
    pub(super) fn none() -> Self {
        Self { by: Arc::new(watch::Sender::new(None)), given_up: Arc::new(AtomicBool::new(false)) }
    }

    /// The end is at `by`, or when it already was.
    pub(super) fn raise(&self, by: Instant) {
        self.by.send_modify(|end| *end = Some(end.map_or(by, |end| end.min(by))));
    }

    /// There is no more time.
    pub(super) fn is_over(&self) -> bool {
        self.by.borrow().is_some_and(|by| Instant::now() >= by)
    }

    /// Somebody waited in vain until there was no more time.
    pub(super) fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Does something within a bound of its own, and within what time is left.
    pub(super) async fn within<T>(
        &self,
        bound: Duration,
        work: impl Future<Output = Result<T, QueueError>>,
    ) -> Result<T, QueueError> {
        let until = Instant::now() + bound;
        let mut end = self.by.subscribe();
        tokio::pin!(work);
        loop {
            let by = *end.borrow_and_update();
            let until = by.map_or(until, |by| until.min(by.max(Instant::now()) + LAST_WORD));
            tokio::select! {
                biased;
                result = &mut work => return result,
                () = sleep_until(until) => return Err(no_answer()),
                Ok(()) = end.changed() => {}
            }
        }
    }
}

/// How long something is tried.
pub(super) struct Patience {
    pub(super) since: Instant,
    whole: Duration,
    next: Duration,
    haste: Haste,
}

impl Patience {
    pub(super) fn new(whole: Duration, haste: Haste) -> Self {
        Self { since: Instant::now(), whole, next: PAUSE_FIRST, haste }
    }

    /// Waits, longer each time; `false` when it is over.
    pub(super) async fn pause(&mut self, closing: &CancellationToken) -> bool {
        let wait = self.next;
        self.next = (wait * 2).min(PAUSE_MAX);
        self.wait(wait, closing).await
    }

    /// Waits for somebody else's transaction.
    pub(super) async fn short_pause(&mut self, closing: &CancellationToken) -> bool {
        self.wait(PAUSE_FIRST, closing).await
    }

    async fn wait(&self, wait: Duration, closing: &CancellationToken) -> bool {
        if closing.is_cancelled() || self.haste.is_over() || self.since.elapsed() >= self.whole {
            return false;
        }
        let until = Instant::now() + wait.mul_f64(rand::rng().random_range(0.5..=1.0));
        let mut end = self.haste.by.subscribe();
        loop {
            let by = *end.borrow_and_update();
            tokio::select! {
                biased;
                () = closing.cancelled() => return false,
                () = sleep_until(by.map_or(until, |by| until.min(by))) => return !self.haste.is_over(),
                Ok(()) = end.changed() => {}
            }
        }
    }
}
