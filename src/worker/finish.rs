//! From an attempt's end to its record: settle, publish, succeed. The steps are in the order
//! that a crash at any instant can be recovered from: see ARCHITECTURE.md, "Durable before done".

use std::sync::Arc;

use super::WorkError;
use crate::job::{CrashPoint, Epoch, JobId, crash_point};
use crate::output::{PublishError, Published, Results};
use crate::queue::{Next, Publication, Queue, QueueError, Settlement};

/// What recording an end came to.
#[derive(Debug)]
pub(super) enum Recorded {
    /// Recorded; the names of published files below `images/`.
    Done(Vec<String>),
    /// The lease was lost: another worker has the job, nothing was recorded or published.
    LeaseLost,
}

/// Settles an attempt and, if it brought images, publishes them.
///
/// Images that cannot be taken to where other machines see them are settled all the same: they are durable
/// in the spool, and whoever runs next in this folder takes them there. The error is told then.
pub(super) async fn record(
    queue: Arc<dyn Queue>,
    results: Results,
    settlement: Settlement,
) -> Result<Recorded, WorkError> {
    let (job, epoch) = (settlement.job, settlement.epoch);
    let staged = match &settlement.next {
        Next::Publish(files) => results.stage(files).await,
        _ => Ok(()),
    };
    crash_point(CrashPoint::BeforeSettle);
    let settled = queue.settle(settlement).await;
    crash_point(CrashPoint::SettleCommitted);
    match settled {
        Ok(publication) if publication.files.is_empty() => Ok(Recorded::Done(vec![])),
        Ok(publication) => {
            staged?;
            publish(queue.as_ref(), &results, (job, epoch), publication).await
        }
        Err(QueueError::LeaseLost { .. }) => Ok(Recorded::LeaseLost),
        Err(error) => Err(error.into()),
    }
}

/// Puts planned files in place and makes the job `succeeded`. If a file has vanished from the
/// spool, the job is `pending` again.
pub(super) async fn publish(
    queue: &dyn Queue,
    results: &Results,
    (job, epoch): (JobId, Epoch),
    publication: Publication,
) -> Result<Recorded, WorkError> {
    let Publication { mut files, mut replaces } = publication;
    let mut place = 0;
    while let Some((output, name, planned)) = files.get(place).cloned() {
        let old = replaces.iter().find(|old| old.name == name).map(|old| (old.bytes, old.digest));
        match results.publish(&planned, &name, old).await {
            Ok(Published::Done) => place += 1,
            Ok(Published::Occupied) => match queue.rename_planned((job, epoch), output, &name).await {
                Ok(free) => files[place].1 = free,
                Err(QueueError::LeaseLost { .. }) => return Ok(Recorded::LeaseLost),
                Err(error) => return Err(error.into()),
            },
            Err(PublishError::Vanished { .. }) => {
                return match queue.unpublishable(job, epoch).await {
                    Ok(()) => Ok(Recorded::Done(vec![])),
                    Err(QueueError::LeaseLost { .. }) => Ok(Recorded::LeaseLost),
                    Err(error) => Err(error.into()),
                };
            }
            Err(error) => return Err(error.into()),
        }
    }
    let names: Vec<String> = files.into_iter().map(|(_, name, _)| name).collect();
    // Before the record: once the old files are forgotten, nobody would remove them.
    replaces.retain(|old| !names.contains(&old.name));
    if !replaces.is_empty() {
        let old = replaces.into_iter().map(|old| (old.name, (old.bytes, old.digest)));
        results.remove_replaced(old.collect()).await?;
    }
    let published = queue.published(job, epoch).await;
    crash_point(CrashPoint::PublishedCommitted);
    match published {
        Ok(()) => Ok(Recorded::Done(names)),
        Err(QueueError::LeaseLost { .. }) => Ok(Recorded::LeaseLost),
        Err(error) => Err(error.into()),
    }
}
