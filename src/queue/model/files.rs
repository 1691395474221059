//! Names that are never shared, and files on their way into `images/`.

use std::collections::HashSet;

use super::rows::{OutputRec, Rows};
use crate::job::{AttemptOutcome, Epoch, JobId, JobState, OutputId, OutputName};
use crate::queue::{OldOutput, OutputMove, OutputStatus, PlannedOutput, Publication, QueueError};

/// As in the SQLite engine: a file that only steps aside.
const ASIDE: &str = ".moving.";

fn stem_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

fn extension_of(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

impl Rows {
    /// Whether a name belongs to another job: by a file of it, or since it wants it.
    fn is_taken(&self, job: i64, key: &str) -> bool {
        let has = self.outputs.values().any(|one| one.job != job && one.key == key);
        let wants = |other: &super::rows::JobRec| {
            other.id != job && other.in_manifest && other.new.job.output.key() == key
        };
        has || self.jobs.iter().any(wants)
    }

    pub(super) fn plan(&mut self, job: JobId, files: Vec<PlannedOutput>) -> Publication {
        let wanted = self.job(job.0).new.job.output.clone();
        let mut publication = Publication { replaces: self.standing(job.0), ..Publication::default() };
        let mut n = 0;
        for (position, file) in (1..).zip(files) {
            let stem = loop {
                n += 1;
                let stem = wanted.numbered(n).to_string();
                if !self.is_taken(job.0, &OutputName::key_of(&stem)) {
                    break stem;
                }
            };
            self.output += 1;
            let name = format!("{stem}.{}", file.media.extension());
            publication.files.push((OutputId(self.output), name.clone(), file.clone()));
            let key = OutputName::key_of(&stem);
            let (id, status) = (self.output, OutputStatus::Planned);
            let row =
                OutputRec { id, job: job.0, position, status, name, key, file, stale: false, moving: None };
            self.outputs.insert(id, row);
        }
        publication
    }

    fn of(&self, job: i64, status: OutputStatus) -> Vec<&OutputRec> {
        let mut found: Vec<&OutputRec> =
            self.outputs.values().filter(|one| one.job == job && one.status == status).collect();
        found.sort_by_key(|one| one.position);
        found
    }

    fn standing(&self, job: i64) -> Vec<OldOutput> {
        let standing = self.of(job, OutputStatus::Published).into_iter();
        let old = |one: &OutputRec| OldOutput {
            name: one.name.clone(),
            bytes: one.file.bytes,
            digest: one.file.digest,
        };
        standing.map(old).collect()
    }

    /// What a job has to publish, if anything.
    pub(super) fn publication(&self, job: i64) -> Option<Publication> {
        let planned = self.of(job, OutputStatus::Planned).into_iter();
        let files: Vec<_> =
            planned.map(|one| (OutputId(one.id), one.name.clone(), one.file.clone())).collect();
        (!files.is_empty()).then(|| Publication { files, replaces: self.standing(job) })
    }

    pub(super) fn planned_in_spool(&self) -> Vec<String> {
        let planned = self.outputs.values().filter(|one| one.status == OutputStatus::Planned);
        planned.map(|one| one.file.spool.clone()).collect()
    }

    pub(super) fn published(&mut self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        let lease = self.leased(job, epoch)?;
        if self.of(job.0, OutputStatus::Planned).is_empty() {
            return Err(QueueError::LeaseLost { job });
        }
        self.outputs.retain(|_, one| one.job != job.0 || one.status == OutputStatus::Planned);
        for one in self.outputs.values_mut().filter(|one| one.job == job.0) {
            one.status = OutputStatus::Published;
        }
        let revision = self.attempt(lease.attempt).revision;
        let job = self.job(job.0);
        if job.revision() == revision {
            job.cancel = None;
            job.free(JobState::Succeeded);
        } else {
            job.free(if job.cancel.is_some() { JobState::Cancelled } else { JobState::Pending });
        }
        Ok(())
    }

    pub(super) fn rename_planned(
        &mut self,
        (job, epoch): (JobId, Epoch),
        output: OutputId,
        taken: &str,
    ) -> Result<String, QueueError> {
        self.leased(job, epoch)?;
        let planned = self.of(job.0, OutputStatus::Planned);
        let own: HashSet<String> = planned.iter().map(|one| one.key.clone()).collect();
        if !planned.iter().any(|one| one.id == output.0) {
            return Err(QueueError::LeaseLost { job });
        }
        let wanted = self.job(job.0).new.job.output.clone();
        let number = |stem: &str| stem.strip_prefix(wanted.as_str())?.strip_prefix('-')?.parse().ok();
        let mut n: usize = number(stem_of(taken)).unwrap_or(1);
        let stem = loop {
            n += 1;
            let stem = wanted.numbered(n).to_string();
            let key = OutputName::key_of(&stem);
            if !own.contains(&key) && !self.is_taken(job.0, &key) {
                break stem;
            }
        };
        let name = format!("{stem}.{}", extension_of(taken));
        if let Some(one) = self.outputs.get_mut(&output.0) {
            (one.name, one.key) = (name.clone(), OutputName::key_of(&stem));
        }
        Ok(name)
    }

    pub(super) fn unpublishable(&mut self, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
        let lease = self.leased(job, epoch)?;
        if self.attempt(lease.attempt).outcome == AttemptOutcome::Sent {
            return Err(QueueError::LeaseLost { job });
        }
        self.outputs.retain(|_, one| one.job != job.0 || one.status == OutputStatus::Published);
        let job = self.job(job.0);
        job.free(if job.cancel.is_some() { JobState::Cancelled } else { JobState::Pending });
        Ok(())
    }

    pub(super) fn moves(&self) -> Vec<OutputMove> {
        let mut waiting: Vec<(Vec<i64>, OutputMove)> =
            self.outputs.values().filter_map(|one| self.wanted_move(one)).collect();
        let mut gone = HashSet::new();
        let mut moves = Vec::new();
        loop {
            let before = waiting.len();
            waiting.retain(|(owners, one)| {
                let is_free = owners.iter().all(|owner| gone.contains(owner));
                if is_free {
                    gone.insert(one.output.0);
                    moves.push(one.clone());
                }
                !is_free
            });
            if waiting.len() < before {
                continue;
            }
            let ids: HashSet<i64> = waiting.iter().map(|(_, one)| one.output.0).collect();
            let swapped = |owners: &[i64]| owners.iter().all(|one| gone.contains(one) || ids.contains(one));
            let Some((_, one)) = waiting.iter_mut().find(|(owners, _)| swapped(owners)) else {
                return moves;
            };
            let aside = format!("{}{ASIDE}{}", stem_of(&one.from), extension_of(&one.from));
            moves.push(OutputMove { to: aside.clone(), ..one.clone() });
            gone.insert(one.output.0);
            one.from = aside;
        }
    }

    /// A file whose job wants another name, and who has that (0: a job that wants it too).
    fn wanted_move(&self, one: &OutputRec) -> Option<(Vec<i64>, OutputMove)> {
        let job = self.jobs.iter().find(|job| job.id == one.job)?;
        let stem = job.new.job.output.numbered(one.position).to_string();
        let is_due = one.stale && one.status == OutputStatus::Published && job.state == JobState::Succeeded;
        if !is_due || stem == stem_of(&one.name) {
            return None;
        }
        let key = OutputName::key_of(&stem);
        let has = self.outputs.values().filter(|other| other.job != job.id && other.key == key);
        let mut owners: Vec<i64> = has.map(|other| other.id).collect();
        let wants = self.jobs.iter().filter(|other| other.id != job.id && other.in_manifest);
        owners.extend(wants.filter(|other| other.new.job.output.key() == key).map(|_| 0));
        let to = format!("{stem}.{}", extension_of(&one.name));
        let (bytes, digest) = (one.file.bytes, one.file.digest);
        Some((owners, OutputMove { output: OutputId(one.id), from: one.name.clone(), to, bytes, digest }))
    }

    pub(super) fn begin_moves(&mut self, moves: &[OutputMove]) {
        for one in moves {
            if let Some(output) = self.outputs.get_mut(&one.output.0) {
                output.moving = Some(one.to.clone());
            }
        }
    }

    pub(super) fn moves_begun(&self) -> Vec<OutputMove> {
        let begun = |one: &OutputRec| {
            let (bytes, digest) = (one.file.bytes, one.file.digest);
            let to = one.moving.clone()?;
            Some(OutputMove { output: OutputId(one.id), from: one.name.clone(), to, bytes, digest })
        };
        self.outputs.values().filter_map(begun).collect()
    }

    pub(super) fn moved(&mut self, output: OutputId, name: &str) {
        let Some(one) = self.outputs.get_mut(&output.0) else { return };
        let job = self.jobs.iter().find(|job| job.id == one.job);
        one.name = name.to_owned();
        one.key = OutputName::key_of(stem_of(name));
        one.stale =
            job.is_some_and(|job| job.new.job.output.numbered(one.position).to_string() != stem_of(name));
        one.moving = None;
    }
}
