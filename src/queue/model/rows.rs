//! The tables, and who is meant by a scope or a selection.

use std::collections::BTreeMap;

use crate::job::{AttemptOutcome, JobName, JobState, Micros, Spec, Timestamp, WorkerId};
use crate::manifest::DigestEntry;
use crate::queue::{
    AttemptFacts, KnownLimit, LOST_UNTIL_ALONE, LaneKey, LaneState, NewJob, OutputStatus, PlannedOutput,
    QueueError, RunRow, Scope, Selection, WorkerRow,
};

/// Everything. Ids are places in the lists, from 1.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(super) jobs: Vec<JobRec>,
    pub(super) attempts: Vec<AttemptRec>,
    pub(super) outputs: BTreeMap<i64, OutputRec>,
    pub(super) workers: Vec<WorkerRec>,
    pub(super) runs: Vec<RunRow>,
    pub(super) lanes: Vec<LaneRec>,
    pub(super) stamps: Vec<DigestEntry>,
    /// The last number that was given.
    pub(super) epoch: i64,
    pub(super) output: i64,
}

/// Who cancelled, or wants to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancel {
    Person,
    Manifest,
}

/// Who has a job, and for which attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) worker: i64,
    pub(super) epoch: i64,
    pub(super) attempt: i64,
}

/// A job.
#[derive(Debug, Clone)]
pub(super) struct JobRec {
    pub(super) id: i64,
    /// As it was last loaded; its spec is the last of `specs` unless the job was kept.
    pub(super) new: NewJob,
    /// By revision.
    pub(super) specs: Vec<Spec>,
    pub(super) state: JobState,
    pub(super) ready: bool,
    pub(super) available_at: i64,
    pub(super) snoozed_at: i64,
    pub(super) reservation: Option<Micros>,
    pub(super) lease: Option<Lease>,
    pub(super) used: Used,
    pub(super) cancel: Option<Cancel>,
    pub(super) in_manifest: bool,
}

/// Allowances used by the present revision.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    pub(super) transient: u32,
    pub(super) no_image: u32,
    pub(super) lost: u32,
    pub(super) lost_alone: u32,
    pub(super) spared: bool,
}

/// An attempt.
#[derive(Debug, Clone)]
pub(super) struct AttemptRec {
    pub(super) id: i64,
    pub(super) job: i64,
    pub(super) revision: usize,
    pub(super) run: i64,
    pub(super) lane: i64,
    pub(super) alone: bool,
    pub(super) outcome: AttemptOutcome,
    pub(super) sent_at: i64,
    pub(super) ended_at: Option<i64>,
    pub(super) facts: AttemptFacts,
}

/// A file.
#[derive(Debug, Clone)]
pub(super) struct OutputRec {
    pub(super) id: i64,
    pub(super) job: i64,
    pub(super) position: usize,
    pub(super) status: OutputStatus,
    pub(super) name: String,
    pub(super) key: String,
    pub(super) file: PlannedOutput,
    pub(super) stale: bool,
    pub(super) moving: Option<String>,
}

/// A lane.
#[derive(Debug, Clone)]
pub(super) struct LaneRec {
    pub(super) key: LaneKey,
    pub(super) known: Option<(KnownLimit, Timestamp)>,
    pub(super) states: BTreeMap<WorkerId, LaneState>,
}

/// A worker.
#[derive(Debug, Clone)]
pub(super) struct WorkerRec {
    pub(super) row: WorkerRow,
    pub(super) ended: bool,
}

impl JobRec {
    pub(super) fn revision(&self) -> usize {
        self.specs.len()
    }

    pub(super) fn spec(&self) -> &Spec {
        self.specs.last().expect("a job has a revision")
    }

    /// As the schema's `job.turn`.
    pub(super) fn turn(&self) -> u32 {
        u32::from(self.used.lost > 0 || self.used.spared) + u32::from(self.used.lost >= LOST_UNTIL_ALONE)
    }

    pub(super) fn is_in(&self, scope: &Scope) -> bool {
        let name = self.new.job.name.as_str();
        scope.first.is_none_or(|first| self.in_manifest && self.new.job.ordinal < first)
            && scope.glob.as_deref().is_none_or(|glob| matches(glob.as_bytes(), name.as_bytes()))
    }

    /// Pending, due at once, with fresh allowances.
    pub(super) fn begin_anew(&mut self) {
        self.used = Used::default();
        self.free(JobState::Pending);
        self.cancel = None;
    }

    /// Not leased any more, and due at once if pending.
    pub(super) fn free(&mut self, state: JobState) {
        (self.state, self.ready, self.available_at, self.lease) = (state, true, 0, None);
    }
}

impl Rows {
    pub(super) fn job(&mut self, id: i64) -> &mut JobRec {
        &mut self.jobs[usize::try_from(id - 1).expect("ids begin at 1")]
    }

    pub(super) fn attempt(&mut self, id: i64) -> &mut AttemptRec {
        &mut self.attempts[usize::try_from(id - 1).expect("ids begin at 1")]
    }

    pub(super) fn by_name(&self, name: &JobName) -> Option<&JobRec> {
        self.jobs.iter().find(|job| job.new.job.name == *name)
    }

    /// Jobs of a selection, once every name in it is known: id, and whether it was named.
    pub(super) fn selected(&self, selection: &Selection) -> Result<Vec<(i64, bool)>, QueueError> {
        if let Some(unknown) = selection.names.iter().find(|name| self.by_name(name).is_none()) {
            return Err(QueueError::NoSuchJob(unknown.to_string()));
        }
        let named = |job: &JobRec| selection.names.contains(&job.new.job.name);
        let chosen = self.jobs.iter().filter(|job| named(job) || selection.states.contains(&job.state));
        Ok(chosen.map(|job| (job.id, named(job))).collect())
    }

    pub(super) fn retry(&mut self, selection: &Selection) -> Result<u64, QueueError> {
        use JobState::{Pending, Running, Succeeded, Waiting};
        let mut changed = 0;
        for (id, named) in self.selected(selection)? {
            let job = self.job(id);
            if !matches!(job.state, Waiting | Pending | Running) && (named || job.state != Succeeded) {
                job.begin_anew();
                changed += 1;
            }
        }
        Ok(changed)
    }

    pub(super) fn cancel(&mut self, selection: &Selection) -> Result<u64, QueueError> {
        use JobState::{Cancelled, Running, Succeeded};
        let mut changed = 0;
        for (id, _) in self.selected(selection)? {
            let job = self.job(id);
            let is_so = matches!(job.state, Running | Cancelled) && job.cancel == Some(Cancel::Person);
            if job.state != Succeeded && !is_so {
                job.cancel = Some(Cancel::Person);
                if job.state != Running {
                    job.state = Cancelled;
                }
                changed += 1;
            }
        }
        Ok(changed)
    }
}

/// SQLite's GLOB, as far as scopes use it.
fn matches(glob: &[u8], name: &[u8]) -> bool {
    match (glob.first(), name.first()) {
        (None, end) => end.is_none(),
        (Some(b'*'), _) => (0..=name.len()).any(|skip| matches(&glob[1..], &name[skip..])),
        (Some(_), None) => false,
        (Some(b'?'), Some(_)) => matches(&glob[1..], &name[1..]),
        (Some(b'['), Some(c)) => {
            let Some(end) = glob.iter().position(|c| *c == b']') else { return false };
            let set = &glob[1..end];
            let ranged = set.windows(3).any(|w| w[1] == b'-' && (w[0]..=w[2]).contains(c));
            (ranged || set.contains(c)) && matches(&glob[end + 1..], &name[1..])
        }
        (Some(g), Some(c)) => g == c && matches(&glob[1..], &name[1..]),
    }
}
