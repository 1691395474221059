//! Takes over what dead workers left behind: their attempts become `lost`, and answers that were
//! settled but not published are finished from the spool, never asked for again.

use super::{Event, Work, WorkError, finish};
use crate::job::{CrashPoint, WorkerId, crash_point};
use crate::output::{dead_folders, worker_is_dead};

/// Finds dead workers of this folder and takes over what they had. A worker is dead when the
/// lock of its spool folder can be taken: the system gives it up with the process.
pub(super) async fn rescue(work: &Work, heir: WorkerId) -> Result<(), WorkError> {
    let spool = work.folder.spool();
    let mut dead = Vec::new();
    for worker in work.queue.workers().await? {
        if worker.worker != heir && worker_is_dead(&spool, &worker.token)? {
            dead.push(worker.worker);
        }
    }
    if dead.is_empty() {
        return Ok(());
    }
    let rescued = work.queue.rescue(&dead, heir, work.config.lost).await?;
    crash_point(CrashPoint::RescueCommitted);
    let mut published = 0;
    for (job, name, epoch, publication) in rescued.publications {
        match finish::publish(work.queue.as_ref(), &work.folder, (job, epoch), publication).await? {
            finish::Recorded::Done(files) if !files.is_empty() => published += 1,
            finish::Recorded::Done(_) => tracing::warn!(job = %name, "its images vanished from the spool"),
            finish::Recorded::LeaseLost => tracing::warn!(job = %name, "lease lost while publishing"),
        }
    }
    crash_point(CrashPoint::Rescued);
    tracing::info!(workers = dead.len(), lost = rescued.lost, published, "rescued");
    if rescued.lost > 0 || published > 0 {
        work.observer.event(&Event::Rescued { lost: rescued.lost, published });
    }
    Ok(())
}

/// Removes what dead workers left in the spool. Where something is still planned it stays: its
/// worker died after the rescue, or another heir is about to publish it.
pub(super) async fn sweep(work: &Work) -> Result<(), WorkError> {
    let dead = dead_folders(&work.folder.spool())?;
    if dead.is_empty() {
        return Ok(());
    }
    let planned = work.queue.planned_in_spool().await?;
    let is_planned = |token: &str| {
        planned.iter().any(|file| file.strip_prefix(token).is_some_and(|rest| rest.starts_with('/')))
    };
    for folder in dead {
        if !is_planned(folder.token()) {
            folder.remove()?;
        }
    }
    Ok(())
}
