//! Takes over what dead workers left behind: their attempts become `lost`, and answers that were
//! settled but not published are finished from the spool, never asked for again.

use std::mem;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::ends_by::EndsBy;
use super::finish::Recorded;
use super::{Event, Shift, Stop, Work, WorkError, finish};
use crate::job::{CrashPoint, Epoch, JobId, JobName, crash_point};
use crate::output::{DeadFolder, PublishError, dead_folders, host_name, worker_is_dead};
use crate::queue::{Publication, Rescued};

/// How often results are looked for whose bytes are on another machine.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// So many inherited results are published at a time.
const PUBLISHED_TOGETHER: usize = 16;

/// What a dead worker had settled and an heir is to publish.
type Inherited = (JobId, JobName, Epoch, Publication);

/// Results that cannot be put in place, since something that is no folder of ours stands in the
/// way, or since their bytes are on another machine. They stay planned, in the spool; their neighbours go on.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    results: u64,
    why: Option<String>,
    /// Those whose machine may come back, and when they were last looked for.
    elsewhere: Vec<Inherited>,
    looked_at: Option<Instant>,
}

impl Blocked {
    /// One more.
    pub(super) fn add(&mut self, work: &Work, job: &JobName, error: &PublishError) {
        tracing::warn!(%job, error = error.to_string(), "cannot be published");
        work.observer.event(&Event::Warning(format!("job {job}: {error}")));
        self.results += 1;
        self.why.get_or_insert_with(|| error.to_string());
    }

    fn wait_for(&mut self, work: &Work, inherited: Inherited, error: &PublishError) {
        self.add(work, &inherited.1, error);
        self.elsewhere.push(inherited);
        self.looked_at.get_or_insert_with(Instant::now);
    }

    /// Publishes what has come from other machines meanwhile.
    async fn look_again(&mut self, work: &Work, shift: &Shift) -> Result<(), WorkError> {
        if self.looked_at.is_none_or(|at| at.elapsed() < LOOK_AGAIN) {
            return Ok(());
        }
        self.looked_at = Some(Instant::now());
        let mut published = 0;
        let mut failed = Ok(());
        for (inherited, result) in publish_all(work, shift, mem::take(&mut self.elsewhere)).await {
            match result {
                Ok(recorded) => {
                    self.results -= 1;
                    published += u64::from(matches!(recorded, Recorded::Done(files) if !files.is_empty()));
                }
                Err(error) => {
                    self.elsewhere.push(inherited);
                    let stays = matches!(
                        error,
                        WorkError::Publish(PublishError::Elsewhere { .. } | PublishError::NoTimeLeft)
                    );
                    if !stays {
                        failed = Err(error);
                    }
                }
            }
        }
        if self.results == 0 {
            *self = Self::default();
        }
        if published > 0 {
            work.observer.event(&Event::Rescued { lost: 0, published });
        }
        failed
    }

    /// How many jobs stay leased for that.
    pub(super) const fn results(&self) -> u64 {
        self.results
    }

    /// Why the run ends with jobs left, if that is why.
    pub(super) fn stop(&self) -> Option<Stop> {
        self.why.clone().map(|why| Stop::Blocked { results: self.results, why })
    }
}

/// Finds dead workers and takes over what they had. A worker of this folder is dead when the lock of its
/// spool folder can be taken: the system gives it up with the process. One of another machine is dead when
/// it was silent for long, which the queue judges.
pub(super) async fn rescue(work: &Work, shift: &Shift, blocked: &mut Blocked) -> Result<(), WorkError> {
    let heir = shift.worker;
    let spool = work.results.folder().spool();
    let mut dead = Vec::new();
    for worker in work.queue.workers().await? {
        // Another machine's worker, or one of another folder, has no lock here that could tell.
        let is_seen = !work.queue.spans_machines()
            || (worker.host == host_name() && spool.join(&worker.token).is_dir());
        if worker.worker != heir && is_seen && worker_is_dead(&spool, &worker.token)? {
            dead.push(worker.worker);
        }
    }
    if !dead.is_empty() {
        let rescued = work.queue.rescue(&dead, heir, work.config.lost).await?;
        finish_for(work, shift, (dead.len(), rescued), blocked).await?;
    }
    if work.queue.spans_machines() {
        let rescued = work.queue.rescue_silent(heir, work.config.lost).await?;
        if rescued.lost > 0 || !rescued.publications.is_empty() {
            finish_for(work, shift, (1, rescued), blocked).await?;
        }
    }
    blocked.look_again(work, shift).await
}

/// Publishes what dead workers had settled, and tells what became of the rest.
async fn finish_for(
    work: &Work,
    shift: &Shift,
    (workers, rescued): (usize, Rescued),
    blocked: &mut Blocked,
) -> Result<(), WorkError> {
    crash_point(CrashPoint::RescueCommitted);
    for job in &rescued.poisoned {
        let warning = format!(
            "job {job} ended the process each time it ran alone; it is not sent again: `nightpress show {job}`"
        );
        work.observer.event(&Event::Warning(warning));
    }
    let mut published = 0;
    let mut failed = Ok(());
    for (inherited, result) in publish_all(work, shift, rescued.publications).await {
        let (job, name, epoch, _) = &inherited;
        match result {
            Ok(Recorded::Done(files)) if !files.is_empty() => published += 1,
            Ok(Recorded::Done(_)) => tracing::warn!(job = %name, "its images vanished from the spool"),
            Ok(Recorded::LeaseLost) => tracing::warn!(job = %name, "lease lost while publishing"),
            Err(WorkError::Publish(PublishError::Elsewhere { .. })) if work.config.give_up => {
                work.queue.unpublishable(*job, *epoch).await?;
                tracing::warn!(job = %name, "given up: its images are on another machine");
            }
            // It is leased to us, and the next run takes it over.
            Err(WorkError::Publish(PublishError::NoTimeLeft)) => {}
            Err(WorkError::Publish(error @ PublishError::NotAFolder { .. })) => {
                blocked.add(work, name, &error);
            }
            Err(WorkError::Publish(error @ PublishError::Elsewhere { .. })) => {
                blocked.wait_for(work, inherited, &error);
            }
            Err(error) => failed = Err(error),
        }
    }
    failed?;
    crash_point(CrashPoint::Rescued);
    tracing::info!(workers, lost = rescued.lost, published, "rescued");
    sweep(work, &shift.ends_by).await?;
    if rescued.lost > 0 || published > 0 {
        work.observer.event(&Event::Rescued { lost: rescued.lost, published });
    }
    Ok(())
}

/// Publishes all, some at a time, and says what came of each.
async fn publish_all(
    work: &Work,
    shift: &Shift,
    inherited: Vec<Inherited>,
) -> Vec<(Inherited, Result<Recorded, WorkError>)> {
    let mut results = Vec::with_capacity(inherited.len());
    for some in inherited.chunks(PUBLISHED_TOGETHER) {
        let publish = |(job, _, epoch, publication): &Inherited| {
            let to = (&work.results, &shift.ends_by);
            finish::publish(work.queue.as_ref(), to, (*job, *epoch), publication.clone())
        };
        results.extend(join_all(some.iter().map(publish)).await);
    }
    inherited.into_iter().zip(results).collect()
}

/// Removes what dead workers left in the spool, here and where other machines see it. Where something is
/// still planned it stays: its worker died after the rescue, or another heir is about to publish it.
pub(super) async fn sweep(work: &Work, ends_by: &EndsBy) -> Result<(), WorkError> {
    let dead = ours(work, dead_folders(&work.results.folder().spool())?).await?;
    let gone = ended_elsewhere(work).await?;
    if dead.is_empty() && gone.is_empty() {
        return Ok(());
    }
    // Asked after the dead were known to be dead: they plan nothing more.
    let planned = work.queue.planned_in_spool().await?;
    let is_planned = |token: &str| {
        planned.iter().any(|file| file.strip_prefix(token).is_some_and(|rest| rest.starts_with('/')))
    };
    for folder in dead {
        if is_planned(folder.token()) {
            // Another machine may have taken over what could not be uploaded then.
            let token = folder.token();
            let left = planned.iter().filter(|file| file.starts_with(token));
            if let Err(error) = ends_by.bound(work.results.stage_late(left.cloned().collect())).await {
                tracing::warn!(error = error.to_string(), "still not uploaded");
            }
            continue;
        }
        discard(work, folder.token()).await;
        folder.remove()?;
    }
    for token in gone.iter().filter(|token| !is_planned(token)) {
        discard(work, token).await;
    }
    Ok(())
}

/// Those of them that nobody else may need: many batches can have one run folder, and what is in another one's
/// was paid for.
async fn ours(work: &Work, dead: Vec<DeadFolder>) -> Result<Vec<DeadFolder>, WorkError> {
    if dead.is_empty() || !work.queue.spans_machines() {
        return Ok(dead);
    }
    let tokens: Vec<String> = dead.iter().map(|folder| folder.token().to_owned()).collect();
    let ended = work.queue.ended(&tokens).await?;
    let is_ours = |folder: &DeadFolder| ended.iter().any(|token| token == folder.token());
    Ok(dead.into_iter().filter(|folder| is_ours(folder) || folder.is_empty()).collect())
}

/// Workers of this batch that have ended, however that was, and left something where other machines see it.
async fn ended_elsewhere(work: &Work) -> Result<Vec<String>, WorkError> {
    match work.results.tokens().await {
        Ok(tokens) if tokens.is_empty() => Ok(tokens),
        Ok(tokens) => Ok(work.queue.ended(&tokens).await?),
        Err(error) => {
            tracing::warn!(error = error.to_string(), "what dead workers left could not be listed");
            Ok(Vec::new())
        }
    }
}

/// Removes what a worker left where other machines see it. What stays costs some room, and the next sweep
/// tries again.
pub(super) async fn discard(work: &Work, token: &str) {
    if let Err(error) = work.results.discard(token).await {
        tracing::warn!(
            error = error.to_string(),
            token,
            "a dead worker's files were left in the bucket's spool"
        );
    }
}
