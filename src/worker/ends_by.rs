//! When a run that was asked to end has to be over, for all of its tasks to heed.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::output::PublishError;

/// So long after its requests are cut off a run still waits for uploads: what ended with them is to be seen by
/// other machines. Add it to the grace that an orchestrator is told.
pub(super) const UPLOADS_MORE: Duration = Duration::from_secs(10);

/// A time that only ever comes nearer; none as long as nobody asked.
#[derive(Debug, Clone)]
pub(super) struct EndsBy(watch::Sender<Option<Instant>>);

impl EndsBy {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// When requests are cut off and the queue is not waited for any more.
    pub(super) fn at(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// The run is to end by then, or earlier if that was asked before. Returns when it is.
    pub(super) fn ask(&self, by: Instant) -> Instant {
        let sooner = |at: &mut Option<Instant>| {
            let is_news = at.is_none_or(|at| by < at);
            if is_news {
                *at = Some(by);
            }
            is_news
        };
        self.0.send_if_modified(sooner);
        self.at().unwrap_or(by)
    }

    /// What `step` comes to, unless the run has to be over before.
    pub(super) async fn bound<T>(
        &self,
        step: impl Future<Output = Result<T, PublishError>>,
    ) -> Result<T, PublishError> {
        tokio::select! {
            biased;
            result = step => result,
            () = self.over() => Err(PublishError::NoTimeLeft),
        }
    }

    async fn over(&self) {
        let mut asked = self.0.subscribe();
        loop {
            let at = *asked.borrow_and_update();
            let over = async {
                match at {
                    Some(at) => sleep_until(at + UPLOADS_MORE).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = over => return,
                // The sender is `self`.
                _ = asked.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_run_that_nobody_asked_to_end_waits_for_its_uploads() {
        let (ends_by, begun) = (EndsBy::new(), Instant::now());
        let long = Duration::from_secs(3_600);
        let step = async {
            sleep_until(begun + long).await;
            Ok(7)
        };
        assert_eq!(ends_by.bound(step).await.expect("in time"), 7);
        assert_eq!(begun.elapsed(), long);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_asked_to_end_waits_a_little_longer_and_never_longer_than_was_asked_first() {
        let (ends_by, begun) = (EndsBy::new(), Instant::now());
        let ask = async {
            assert_eq!(ends_by.ask(begun + Duration::from_secs(120)), begun + Duration::from_secs(120));
            sleep_until(begun + Duration::from_secs(30)).await;
            assert_eq!(ends_by.ask(Instant::now()), begun + Duration::from_secs(30));
            assert_eq!(ends_by.ask(begun + Duration::from_secs(60)), begun + Duration::from_secs(30));
        };
        let (result, ()) = tokio::join!(ends_by.bound(pending::<Result<(), _>>()), ask);
        assert!(matches!(result, Err(PublishError::NoTimeLeft)));
        assert_eq!(begun.elapsed(), Duration::from_secs(30) + UPLOADS_MORE);
    }
}
