//! Takes over what dead workers left behind: their attempts become `lost`, and answers that were
//! settled but not published are finished from the spool, never asked for again.

use super::{Event, Work, WorkError, finish};
use crate::job::WorkerId;
use crate::output::{sweep_spool, worker_is_dead};

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
    for job in &rescued.poisoned {
        let warning = format!(
            "job {job} ended the process each time it ran alone; it is not sent again: `nightpress show {job}`"
        );
        work.observer.event(&Event::Warning(warning));
    }
    let mut published = 0;
    for (job, name, epoch, publication) in rescued.publications {
        match finish::publish(work.queue.as_ref(), &work.folder, (job, epoch), publication).await? {
            finish::Recorded::Done(files) if !files.is_empty() => published += 1,
            finish::Recorded::Done(_) => tracing::warn!(job = %name, "its images vanished from the spool"),
            finish::Recorded::LeaseLost => tracing::warn!(job = %name, "lease lost while publishing"),
        }
    }
    tracing::info!(workers = dead.len(), lost = rescued.lost, published, "rescued");
    if rescued.lost > 0 || published > 0 {
        work.observer.event(&Event::Rescued { lost: rescued.lost, published });
    }
    Ok(())
}

/// Removes what dead workers left in the spool, once nothing of it is planned any more.
pub(super) fn sweep(work: &Work) -> Result<(), WorkError> {
    Ok(sweep_spool(&work.folder.spool())?)
}
