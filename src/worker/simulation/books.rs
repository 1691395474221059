//! What the simulation itself wrote down of leases, requests and ends, from what it saw pass
//! between the worker, the queue and the server. Every entry is checked against those before it;
//! what does not fit is a violation, in words.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::fate::Fate;
use crate::job::{AttemptOutcome, Digest, Epoch, JobId, JobName, Micros, OutputId, RunId, WorkerId};
use crate::queue::{
    Claim, ClaimRequest, Company, Next, Permits, Publication, QueueError, Rescued, Settlement,
};

/// What may still be done in the same breath as a decision against it: a call that is under way.
const BREATH: Duration = Duration::from_secs(1);

/// A lease that has not ended.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) life: usize,
    pub(super) epoch: Epoch,
    pub(super) attempt: i64,
    pub(super) company: Company,
    /// Its answer is recorded and its files are planned.
    pub(super) settled: bool,
}

/// One request as the server saw it.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) fate: Fate,
    pub(super) billed: Micros,
    pub(super) hint: Option<Duration>,
    pub(super) pictures: Vec<Digest>,
    pub(super) at: Instant,
    /// When it was over for the one who sent it.
    pub(super) over: Option<Instant>,
}

/// One attempt.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    pub(super) job: i64,
    pub(super) name: JobName,
    pub(super) prompt: String,
    pub(super) model: String,
    pub(super) life: usize,
    pub(super) request: Option<Request>,
    pub(super) outcome: AttemptOutcome,
    /// The lane was to blame: no allowance was used up.
    pub(super) spared: bool,
}

/// A model that the server turned requests for away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closure {
    /// When the process heard of it.
    heard: Instant,
    /// Nothing may leave before.
    until: Instant,
    /// Nothing was claimed since: what is claimed next is the probe.
    fresh: bool,
}

/// One process.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "what happened to it, and nothing excludes anything")]
pub(super) struct Life {
    pub(super) worker: Option<WorkerId>,
    pub(super) run: Option<RunId>,
    /// Killed.
    pub(super) dead: bool,
    /// Ended by itself.
    pub(super) over: bool,
    /// Taken for dead, and alive.
    pub(super) buried: bool,
    /// It met a disk that fails.
    pub(super) disk_failed: bool,
    /// Requests under way.
    pub(super) open: u32,
    /// Since when it is to claim nothing more.
    pub(super) enough: Option<Instant>,
    /// A person interrupted it.
    pub(super) interrupted: bool,
    /// When it last asked for jobs, by model.
    pub(super) asked: BTreeMap<String, Instant>,
    /// By model.
    pub(super) closed: BTreeMap<String, Closure>,
    /// When requests left, by model.
    pub(super) sent: BTreeMap<String, Vec<Instant>>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) lives: Vec<Life>,
    pub(super) leases: BTreeMap<i64, Lease>,
    pub(super) attempts: BTreeMap<i64, Attempt>,
    /// By number.
    pub(super) lanes: BTreeMap<i64, String>,
    /// Names and contents that are to stand in `images/`, by job.
    pub(super) planned: BTreeMap<i64, Vec<(OutputId, String, Digest)>>,
    /// Jobs that a person cancelled while they ran.
    pub(super) cancelled: BTreeMap<i64, Instant>,
    epoch: i64,
}

/// What does not fit, in words.
pub(super) type Check = Result<(), String>;

fn check(holds: bool, else_: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(else_()) }
}

impl Books {
    /// A process asks for jobs.
    pub(super) fn claims(&mut self, life: usize, request: &ClaimRequest, capped: bool) -> Check {
        let now = Instant::now();
        let it = &mut self.lives[life];
        let late = it.enough.is_some_and(|at| now > at + BREATH);
        check(!late, || "it claims although it is to stop".to_owned())?;
        check(request.cost_max.is_some() == capped, || "it forgot the cap".to_owned())?;
        for Permits { lane, count: permits, .. } in &request.permits {
            let model = self.lanes.get(&lane.0).ok_or("it claims for a lane that it never asked for")?;
            it.asked.insert(model.clone(), now);
            let Some(closure) = it.closed.get_mut(model) else { continue };
            check(now >= closure.until, || {
                format!("{model} is closed for {:?} more, and it claims {permits}", closure.until - now)
            })?;
            check(!closure.fresh || *permits <= 1, || {
                format!("{permits} at once after a closure, no probe")
            })?;
            closure.fresh = false;
        }
        let alone =
            self.leases.values().any(|one| one.life == life && one.company == Company::Alone && !one.settled);
        check(!alone, || "it claims beside a job that is to run alone".to_owned())
    }

    /// A process got a job.
    pub(super) fn claimed(&mut self, life: usize, claim: &Claim, slots: u32) -> Check {
        if let Some(old) = self.leases.get(&claim.job.0) {
            return Err(format!("job {} has two leases: {old:?}", claim.name));
        }
        check(claim.epoch.0 > self.epoch, || format!("epoch {} repeats", claim.epoch))?;
        self.epoch = claim.epoch.0;
        let mine = self.leases.values().filter(|one| one.life == life && !one.settled).count();
        check(claim.company == Company::Shared || mine == 0, || {
            format!("job {} is to run alone, beside {mine} others", claim.name)
        })?;
        let lease = Lease {
            life,
            epoch: claim.epoch,
            attempt: claim.attempt.0,
            company: claim.company,
            settled: false,
        };
        self.leases.insert(claim.job.0, lease);
        let attempt = Attempt {
            job: claim.job.0,
            name: claim.name.clone(),
            prompt: claim.spec.prompt.clone(),
            model: claim.spec.model.to_string(),
            life,
            request: None,
            outcome: AttemptOutcome::Sent,
            spared: false,
        };
        let old = self.attempts.insert(claim.attempt.0, attempt);
        check(old.is_none(), || format!("attempt {} repeats", claim.attempt))?;
        // What it took over from dead ones needs no slot.
        let own = self.leases_of(life).filter(|one| self.attempts[&one.attempt].life == life).count();
        check(own <= slots as usize, || format!("{own} leases in {slots} slots"))
    }

    /// The attempt of a request that arrives at the server.
    pub(super) fn sent(&mut self, life: usize, prompt: &str) -> Result<i64, String> {
        let buried = self.lives[life].buried;
        let found = self.attempts.iter().rev().find(|(_, one)| one.life == life && one.prompt == prompt);
        let (id, attempt) = found.ok_or_else(|| format!("`{prompt}` is sent without an intent"))?;
        check(attempt.request.is_none(), || format!("attempt {id} is sent twice"))?;
        let lease = self.leases.get(&attempt.job);
        let holds = lease.is_some_and(|one| one.attempt == *id && one.life == life && !one.settled);
        check(holds || buried, || format!("attempt {id} is sent without a lease"))?;
        Ok(*id)
    }

    /// A process is about to record an end.
    pub(super) fn settles(&mut self, life: usize, end: &Settlement) -> Check {
        let now = Instant::now();
        let job = end.job.0;
        let is_cancelled = self.cancelled.contains_key(&job);
        let attempt = self.attempts.get_mut(&end.attempt.0).ok_or("an end without a beginning")?;
        let it = &mut self.lives[life];
        let id = end.attempt;
        attempt.spared = matches!(end.next, Next::Spare(_));
        let Some(request) = &attempt.request else {
            return check(end.outcome == AttemptOutcome::Aborted, || {
                format!("attempt {id} was never sent and ends as {}", end.outcome)
            });
        };
        check(request.over.is_some(), || format!("attempt {id} ends before its request"))?;
        let cut_off = it.interrupted || it.buried || it.disk_failed || is_cancelled;
        let expected = request.fate.outcome();
        check(end.outcome == expected || (cut_off && end.outcome == AttemptOutcome::Aborted), || {
            format!("attempt {id} met {:?} and ends as {}", request.fate, end.outcome)
        })?;
        let (cost, at_most, billed) = (end.facts.cost, end.facts.cost_at_most, request.billed);
        check(cost.is_none_or(|cost| cost == billed), || {
            format!("attempt {id} cost {billed} and is recorded as {cost:?}")
        })?;
        check(at_most >= billed, || format!("attempt {id} cost {billed}, at most {at_most} is recorded"))?;
        if let Next::Publish(files) = &end.next {
            let found: Vec<Digest> = files.iter().map(|file| file.digest).collect();
            check(found == request.pictures, || format!("attempt {id} has other pictures than were sent"))?;
        }
        if end.outcome == AttemptOutcome::Throttled
            && let Some(over) = request.over
        {
            let until = over + request.hint.unwrap_or_default();
            // In the instant in which the refusal came, the probe may have been asked for already.
            let fresh = it.asked.get(&attempt.model).is_none_or(|asked| *asked < over);
            let new = Closure { heard: now, until, fresh };
            let closure = it.closed.entry(attempt.model.clone()).or_insert(new);
            closure.until = closure.until.max(until);
            // What left before the process had heard of the closure says nothing new about it.
            if request.at > closure.heard {
                (closure.heard, closure.fresh) = (now, fresh);
            }
        }
        if matches!(request.fate, Fate::MoneyOut | Fate::KeyRejected) && end.outcome == expected {
            it.enough.get_or_insert(now);
        }
        Ok(())
    }

    fn holds(&self, life: usize, job: JobId, epoch: Epoch) -> Option<&Lease> {
        self.leases.get(&job.0).filter(|one| one.life == life && one.epoch == epoch)
    }

    /// What the queue answered to an end.
    pub(super) fn settled(
        &mut self,
        life: usize,
        (job, epoch, outcome): (JobId, Epoch, AttemptOutcome),
        answer: &Result<Publication, QueueError>,
    ) -> Check {
        let lease = self.holds(life, job, epoch).filter(|one| !one.settled).cloned();
        match (answer, lease) {
            (Ok(publication), Some(lease)) => {
                if let Some(attempt) = self.attempts.get_mut(&lease.attempt) {
                    attempt.outcome = outcome;
                }
                if outcome == AttemptOutcome::Succeeded {
                    self.leases.entry(job.0).and_modify(|one| one.settled = true);
                    self.plan(job, publication);
                } else {
                    self.over(job);
                }
                Ok(())
            }
            (Ok(_), None) => Err(format!("job {job} was settled without a lease")),
            (Err(QueueError::LeaseLost { .. }), Some(_)) => {
                Err(format!("job {job} lost a lease that it has"))
            }
            (Err(_), _) => Ok(()),
        }
    }

    fn plan(&mut self, job: JobId, publication: &Publication) {
        let files = publication.files.iter().map(|(id, name, file)| (*id, name.clone(), file.digest));
        self.planned.insert(job.0, files.collect());
    }

    fn over(&mut self, job: JobId) {
        self.leases.remove(&job.0);
        self.cancelled.remove(&job.0);
    }

    /// A planned file got another name.
    pub(super) fn renamed(&mut self, job: JobId, output: OutputId, name: &str) {
        for file in self.planned.entry(job.0).or_default().iter_mut().filter(|one| one.0 == output) {
            name.clone_into(&mut file.1);
        }
    }

    /// What the queue answered to files that stand. They must.
    pub(super) fn published(
        &mut self,
        life: usize,
        (job, epoch): (JobId, Epoch),
        answer: &Result<(), QueueError>,
        images: &Path,
    ) -> Check {
        let holds = self.holds(life, job, epoch).is_some_and(|one| one.settled);
        match answer {
            Ok(()) if !holds => return Err(format!("job {job} was published without a lease")),
            Err(QueueError::LeaseLost { .. }) if holds => {
                return Err(format!("job {job} lost a lease that it has"));
            }
            Ok(()) => self.over(job),
            Err(_) => return Ok(()),
        }
        for (_, name, digest) in self.planned.remove(&job.0).unwrap_or_default() {
            let found = std::fs::read(images.join(&name)).map(|bytes| Digest::of(&bytes));
            check(found.as_ref().is_ok_and(|found| *found == digest), || {
                format!("{name} is said to stand in images/ and does not: {found:?}")
            })?;
        }
        Ok(())
    }

    fn life_of(&self, worker: WorkerId) -> Option<usize> {
        self.lives.iter().position(|one| one.worker == Some(worker))
    }

    /// `heir` took over from `dead`.
    pub(super) fn rescued(&mut self, heir: usize, dead: &[WorkerId], rescued: &Rescued) -> Check {
        let dead: Vec<usize> = dead.iter().filter_map(|worker| self.life_of(*worker)).collect();
        for life in &dead {
            let it = &self.lives[*life];
            // Who is on the way out lets go of its lock a step before it is gone, and has no leases then.
            let is_idle = self.leases_of(*life).next().is_none();
            let may_be = it.dead || it.over || it.buried || is_idle;
            check(may_be, || format!("process {life} lives and is taken for dead"))?;
        }
        let left: Vec<(i64, Lease)> = (self.leases.iter())
            .filter(|(_, lease)| dead.contains(&lease.life))
            .map(|(job, lease)| (*job, lease.clone()))
            .collect();
        let mut lost = 0;
        for (job, lease) in left {
            if lease.settled {
                let found = rescued.publications.iter().find(|one| one.0.0 == job);
                let found = found.ok_or_else(|| format!("job {job} is paid and forgotten"))?;
                let (id, name, epoch, publication) = found;
                self.plan(*id, publication);
                check(epoch.0 > self.epoch, || format!("epoch {epoch} of {name} repeats"))?;
                self.epoch = epoch.0;
                self.leases.insert(job, Lease { life: heir, epoch: *epoch, ..lease });
            } else {
                lost += 1;
                self.over(JobId(job));
                if let Some(attempt) = self.attempts.get_mut(&lease.attempt) {
                    attempt.outcome = AttemptOutcome::Lost;
                }
            }
        }
        check(lost == rescued.lost, || format!("{} were lost, the queue says {}", lost, rescued.lost))
    }

    /// Leases of a process.
    pub(super) fn leases_of(&self, life: usize) -> impl Iterator<Item = &Lease> {
        self.leases.values().filter(move |one| one.life == life)
    }
}
