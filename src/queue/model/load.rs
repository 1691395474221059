//! A manifest comes in.

use std::collections::HashSet;

use super::rows::{Cancel, JobRec, Rows, Used};
use crate::job::{JobState, Spec, SpecField};
use crate::queue::{LoadDiff, LoadPolicy, NewJob, QueueError};

/// How a staged job relates to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    New,
    Same(i64),
    Changed(i64),
    Kept(i64),
}

fn changes(old: &Spec, new: &Spec) -> Vec<SpecField> {
    let differs = [
        (SpecField::Prompt, old.prompt != new.prompt),
        (SpecField::References, old.input_digest() != new.input_digest()),
        (SpecField::Model, old.model != new.model),
        (SpecField::AspectRatio, old.aspect_ratio != new.aspect_ratio),
        (SpecField::ImageSize, old.image_size != new.image_size),
        (SpecField::Modalities, old.modalities != new.modalities),
        (SpecField::Extra, old.extra != new.extra),
    ];
    differs.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
}

fn is_done(job: &JobRec) -> bool {
    matches!(job.state, JobState::Succeeded | JobState::Cancelled)
}

impl Rows {
    fn matched(&self, new: &NewJob, policy: LoadPolicy) -> Match {
        let Some(job) = self.by_name(&new.job.name) else { return Match::New };
        let (old, spec) = (job.spec(), &new.job.spec);
        if old.spec_digest() == spec.spec_digest() && old.input_digest() == spec.input_digest() {
            Match::Same(job.id)
        } else if job.state == JobState::Succeeded && policy.keep_changed {
            Match::Kept(job.id)
        } else {
            Match::Changed(job.id)
        }
    }

    pub(super) fn load_diff(&self, staged: &[NewJob], policy: LoadPolicy) -> LoadDiff {
        let mut diff = LoadDiff {
            total: staged.len() as u64,
            undone_before: self.jobs.iter().filter(|job| !is_done(job)).count() as u64,
            ..LoadDiff::default()
        };
        let mut sorted: Vec<&NewJob> = staged.iter().collect();
        sorted.sort_by_key(|new| new.job.ordinal);
        for new in sorted {
            let sends = match self.matched(new, policy) {
                Match::New => {
                    diff.new += 1;
                    true
                }
                Match::Same(id) => {
                    let job = self.known(id);
                    diff.unchanged += 1;
                    let renamed = job.state == JobState::Succeeded && job.new.job.output != new.job.output;
                    diff.renamed += u64::from(renamed);
                    comes_back(job)
                }
                Match::Kept(id) => {
                    diff.kept += 1;
                    comes_back(self.known(id))
                }
                Match::Changed(id) => {
                    let job = self.known(id);
                    diff.changed += 1;
                    diff.changed_done += u64::from(job.state == JobState::Succeeded);
                    job.state != JobState::Running
                }
            };
            self.compare(new, policy, &mut diff);
            diff.to_send += u64::from(sends);
            diff.unpriced += u64::from(sends && new.estimate.is_none());
            diff.estimate += new.estimate.filter(|_| sends).unwrap_or_default();
        }
        let names: HashSet<&str> = staged.iter().map(|new| new.job.name.as_str()).collect();
        let left = self.jobs.iter().filter(|job| !names.contains(job.new.job.name.as_str()));
        let cancels =
            |job: &&JobRec| !is_done(job) && (job.state != JobState::Running || job.cancel.is_none());
        diff.cancelled = left.filter(cancels).count() as u64;
        diff
    }

    fn compare(&self, new: &NewJob, policy: LoadPolicy, diff: &mut LoadDiff) {
        let (id, is_other) = match self.matched(new, policy) {
            Match::New => return,
            Match::Same(id) => (id, false),
            Match::Changed(id) | Match::Kept(id) => (id, true),
        };
        let job = self.known(id);
        diff.returned += u64::from(!job.in_manifest);
        if is_other {
            let fields = changes(job.spec(), &new.job.spec);
            for field in &fields {
                *diff.fields.entry(*field).or_default() += 1;
            }
            if diff.examples.len() < 10 {
                diff.examples.push((new.job.name.to_string(), fields));
            }
        }
    }

    fn known(&self, id: i64) -> &JobRec {
        self.jobs.iter().find(|job| job.id == id).expect("it was matched")
    }

    pub(super) fn load(&mut self, staged: &[NewJob], policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
        let names: HashSet<&str> = staged.iter().map(|new| new.job.name.as_str()).collect();
        if names.len() < staged.len() {
            return Err(QueueError::Broken { what: "job.name", detail: "two jobs of one name".to_owned() });
        }
        let diff = self.load_diff(staged, policy);
        let matches: Vec<(Match, &NewJob)> =
            staged.iter().map(|new| (self.matched(new, policy), new)).collect();
        for job in &mut self.jobs {
            if !names.contains(job.new.job.name.as_str()) && (job.in_manifest || !is_done(job)) {
                leave(job);
            }
        }
        let mut fresh: Vec<&NewJob> = Vec::new();
        for (found, new) in matches {
            let (Match::Same(id) | Match::Kept(id) | Match::Changed(id)) = found else {
                fresh.push(new);
                continue;
            };
            if self.job(id).new.job.output != new.job.output {
                self.outputs.values_mut().filter(|one| one.job == id).for_each(|one| one.stale = true);
            }
            let job = self.job(id);
            job.new = new.clone();
            if !matches!(found, Match::Kept(_)) {
                job.reservation = new.reservation;
            }
            job.in_manifest = true;
            if job.cancel == Some(Cancel::Manifest) {
                match job.state {
                    JobState::Running => job.cancel = None,
                    JobState::Cancelled => job.begin_anew(),
                    _ => {}
                }
            }
            match found {
                Match::Changed(_) => {
                    job.specs.push(new.job.spec.clone());
                    if job.state == JobState::Running {
                        (job.used, job.cancel) = (Used::default(), None);
                    } else {
                        job.begin_anew();
                    }
                }
                Match::Same(_) => *job.specs.last_mut().expect("a revision") = new.job.spec.clone(),
                _ => {}
            }
        }
        fresh.sort_by_key(|new| new.job.ordinal);
        for new in fresh {
            let id = self.jobs.len() as i64 + 1;
            self.jobs.push(begin(id, new.clone()));
        }
        Ok(diff)
    }
}

/// Whether a job that is as it was is pending after the load.
fn comes_back(job: &JobRec) -> bool {
    let left = job.state == JobState::Cancelled && job.cancel == Some(Cancel::Manifest);
    job.state == JobState::Pending || left
}

fn leave(job: &mut JobRec) {
    job.in_manifest = false;
    match job.state {
        JobState::Running => job.cancel = job.cancel.or(Some(Cancel::Manifest)),
        JobState::Succeeded | JobState::Cancelled => {}
        _ => (job.state, job.cancel) = (JobState::Cancelled, Some(Cancel::Manifest)),
    }
}

fn begin(id: i64, new: NewJob) -> JobRec {
    JobRec {
        id,
        specs: vec![new.job.spec.clone()],
        state: JobState::Pending,
        ready: true,
        available_at: 0,
        snoozed_at: 0,
        reservation: new.reservation,
        lease: None,
        used: Used::default(),
        cancel: None,
        in_manifest: true,
        new,
    }
}
