//! From an attempt's end to its record: settle, publish, succeed. The steps are in the order
//! that a crash at any instant can be recovered from: see ARCHITECTURE.md, "Durable before done".

use super::WorkError;
use super::ends_by::EndsBy;
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
/// in the spool, and whoever runs next in this folder takes them there. The error is told then. So are those
/// for which the run has no time left.
pub(super) async fn record(
    queue: &dyn Queue,
    (results, ends_by): (&Results, &EndsBy),
    settlement: Settlement,
) -> Result<Recorded, WorkError> {
    let (job, epoch) = (settlement.job, settlement.epoch);
    let staged = match &settlement.next {
        Next::Publish(files) => ends_by.bound(results.stage(files)).await,
        _ => Ok(()),
    };
    crash_point(CrashPoint::BeforeSettle);
    let settled = queue.settle(settlement).await;
    crash_point(CrashPoint::SettleCommitted);
    match settled {
        Ok(publication) if publication.files.is_empty() => Ok(Recorded::Done(vec![])),
        Ok(publication) => {
            staged?;
            publish(queue, (results, ends_by), (job, epoch), publication).await
        }
        Err(QueueError::LeaseLost { .. }) => Ok(Recorded::LeaseLost),
        Err(error) => Err(error.into()),
    }
}

/// Puts planned files in place and makes the job `succeeded`. If a file has vanished from the
/// spool, the job is `pending` again.
pub(super) async fn publish(
    queue: &dyn Queue,
    (results, ends_by): (&Results, &EndsBy),
    (job, epoch): (JobId, Epoch),
    publication: Publication,
) -> Result<Recorded, WorkError> {
    let Publication { mut files, mut replaces } = publication;
    let mut place = 0;
    while let Some((output, name, planned)) = files.get(place).cloned() {
        let old = replaces.iter().find(|old| old.name == name).map(|old| (old.bytes, old.digest));
        match ends_by.bound(results.publish(&planned, &name, old)).await {
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
        ends_by.bound(results.remove_replaced(old.collect())).await?;
    }
    let published = queue.published(job, epoch).await;
    crash_point(CrashPoint::PublishedCommitted);
    match published {
        Ok(()) => Ok(Recorded::Done(names)),
        Err(QueueError::LeaseLost { .. }) => Ok(Recorded::LeaseLost),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::job::{AttemptOutcome, Digest, JobState, ManualClock, MediaType, Timestamp};
    use crate::output::{Bucket, RunFolder};
    use crate::queue::PlannedOutput;
    use crate::queue::conformance::{World, new_job, settlement};
    use crate::queue::model::{ModelQueue, Tables};
    use crate::worker::ends_by::EndsBy;

    /// What was paid for is on record in time, however long the bucket takes.
    #[tokio::test(start_paused = true)]
    async fn an_answer_whose_upload_outlasts_the_run_is_settled_and_waits_in_the_spool() {
        let dir = tempfile::tempdir().expect("temp dir");
        let folder = RunFolder::new(dir.path().to_owned());
        fs::create_dir_all(folder.spool().join("w")).expect("creates");
        fs::write(folder.spool().join("w/1-1"), b"png").expect("writes");
        let results = Results::Bucket(Bucket::that_never_answers(folder.clone()));
        let clock = Arc::new(ManualClock::new(Timestamp::from_ms(1_795_000_000_000)));
        let queue = ModelQueue::open(&Tables::default(), Arc::clone(&clock) as _);
        let world = World::on(Arc::new(queue), clock).await;
        world.load(vec![new_job("hero", 0)]).await;
        let claim = world.claim_one().await;
        let file = PlannedOutput {
            spool: "w/1-1".to_owned(),
            media: MediaType::Png,
            bytes: 3,
            digest: Digest::of(b"png"),
            width: 1,
            height: 1,
        };
        let ends_by = EndsBy::new();
        ends_by.ask(Instant::now());
        let settlement = settlement(&claim, AttemptOutcome::Succeeded, Next::Publish(vec![file]));
        let recorded = record(world.queue.as_ref(), (&results, &ends_by), settlement).await;
        assert!(matches!(recorded, Err(WorkError::Publish(PublishError::NoTimeLeft))), "{recorded:?}");
        assert_eq!(world.outcomes(claim.job).await, [AttemptOutcome::Succeeded]);
        assert_eq!(world.state("hero").await, JobState::Running, "the next run publishes it");
        assert_eq!(world.queue.planned_in_spool().await.expect("reads"), ["w/1-1"]);
        assert!(folder.spool().join("w/1-1").exists());
    }
}
