//! How long a server is waited for that is away: some minutes as a rule, and less when the program is to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
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
    /// A connection waited for its whole patience and was not answered since: the others do not begin anew.
    hopeless: Arc<AtomicBool>,
}

impl Haste {
    pub(super) fn none() -> Self {
        let by = Arc::new(watch::Sender::new(None));
        Self { by, given_up: Arc::default(), hopeless: Arc::default() }
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

    pub(super) fn is_hopeless(&self) -> bool {
        self.hopeless.load(Ordering::Relaxed)
    }

    pub(super) fn set_hopeless(&self, hopeless: bool) {
        self.hopeless.store(hopeless, Ordering::Relaxed);
    }

    /// Waits a moment for somebody else's transaction, and so for a last word too; `false` when there is no time
    /// even for that.
    pub(super) async fn moment(&self) -> bool {
        sleep(jittered(PAUSE_FIRST)).await;
        self.by.borrow().is_none_or(|by| Instant::now() < by + LAST_WORD)
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

/// A time in which the server is away, from the first try that failed to the first that did not.
#[derive(Debug)]
pub(super) struct Outage {
    since: Instant,
    tried_at: Instant,
    next: Duration,
}

impl Outage {
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self { since: now, tried_at: now, next: PAUSE_FIRST }
    }

    pub(super) fn lasts(&self) -> Duration {
        self.since.elapsed()
    }

    /// It was waited for in vain, and tried a moment ago: another try now would tell nothing new.
    pub(super) fn is_hopeless(&self, patience: Duration) -> bool {
        self.lasts() >= patience && self.tried_at.elapsed() < PAUSE_MAX
    }

    /// Waits before the next try, longer each time; `false` when there is none.
    pub(super) async fn pause(
        &mut self,
        patience: Duration,
        (haste, closing): (&Haste, &CancellationToken),
    ) -> bool {
        self.tried_at = Instant::now();
        if closing.is_cancelled() || haste.is_over() || haste.is_hopeless() || self.lasts() >= patience {
            return false;
        }
        let until = Instant::now() + jittered(self.next);
        self.next = (self.next * 2).min(PAUSE_MAX);
        let mut end = haste.by.subscribe();
        loop {
            let by = *end.borrow_and_update();
            tokio::select! {
                biased;
                () = closing.cancelled() => return false,
                () = sleep_until(by.map_or(until, |by| until.min(by))) => return !haste.is_over(),
                Ok(()) = end.changed() => {}
            }
        }
    }
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_was_only_in_each_others_way_has_a_last_word_after_the_end() {
        let haste = Haste::none();
        assert!(haste.moment().await);
        haste.raise(Instant::now());
        assert!(haste.moment().await, "a paid answer would be lost to a deadlock");
        tokio::time::advance(LAST_WORD).await;
        assert!(!haste.moment().await);
    }
}
