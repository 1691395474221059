//! Rows as people and reports see them.

use std::collections::BTreeSet;

use super::rows::{AttemptRec, JobRec, OutputRec, Rows};
use crate::job::{
    AttemptId, AttemptOutcome, JobId, JobName, JobState, Micros, OutputId, RunId, Timestamp, Usage,
};
use crate::queue::{
    AttemptRow, Cursor, JobFilter, JobRow, Left, ModelLeft, OutputKind, OutputRow, OutputStatus, Scope, Tally,
};

/// Adds figures; what nobody reported stays unknown.
fn add(sum: &mut Usage, more: &Usage) {
    let plus = |sum: &mut Option<u64>, more: Option<u64>| {
        *sum = more.map(|more| sum.unwrap_or(0) + more).or(*sum);
    };
    plus(&mut sum.prompt, more.prompt);
    plus(&mut sum.candidates, more.candidates);
    plus(&mut sum.image, more.image);
    plus(&mut sum.thoughts, more.thoughts);
    plus(&mut sum.total, more.total);
}

fn cursor(job: &JobRec) -> Cursor {
    Cursor { left: !job.in_manifest, ordinal: job.new.job.ordinal, job: JobId(job.id) }
}

fn place(cursor: Cursor) -> (bool, u64, i64) {
    (cursor.left, cursor.ordinal, cursor.job.0)
}

fn is_snoozed(job: &JobRec) -> bool {
    job.state == JobState::Pending && !job.ready
}

impl Rows {
    fn scoped<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = &'a JobRec> {
        self.jobs.iter().filter(|job| job.is_in(scope))
    }

    pub(super) fn models_left(&self, scope: &Scope) -> Vec<ModelLeft> {
        use JobState::{Pending, Running, Waiting};
        let left = self.scoped(scope).filter(|job| matches!(job.state, Waiting | Pending | Running));
        let models: BTreeSet<&str> = left.map(|job| job.spec().model.as_str()).collect();
        let left = |model: &str| {
            let same = self.jobs.iter().filter(|job| job.spec().model.as_str() == model);
            let fallbacks: BTreeSet<String> =
                same.flat_map(|job| job.new.job.fallback_models.iter().map(ToString::to_string)).collect();
            ModelLeft { model: model.to_owned(), fallbacks: fallbacks.into_iter().collect() }
        };
        models.into_iter().map(left).collect()
    }

    pub(super) fn next_due(&self, scope: &Scope) -> Option<Timestamp> {
        let snoozed = self.scoped(scope).filter(|job| is_snoozed(job));
        snoozed.map(|job| Timestamp::from_ms(job.available_at)).min()
    }

    pub(super) fn left(&self, scope: &Scope, now: i64) -> Left {
        let mut left = Left::default();
        for job in self.scoped(scope) {
            match job.state {
                JobState::Pending if is_snoozed(job) && job.available_at > now && job.snoozed_at <= now => {
                    left.snoozed += 1;
                }
                JobState::Pending => left.ready += 1,
                JobState::Waiting => left.waiting += 1,
                JobState::Running => left.running += 1,
                JobState::Held => left.held += 1,
                _ => {}
            }
        }
        left
    }

    pub(super) fn unpriced(&self, scope: &Scope) -> u64 {
        let pending = self.scoped(scope).filter(|job| job.state == JobState::Pending);
        pending.filter(|job| job.reservation.is_none()).count() as u64
    }

    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for job in &self.jobs {
            *tally.jobs.entry(job.state).or_default() += 1;
        }
        for attempt in &self.attempts {
            *tally.attempts.entry(attempt.outcome).or_default() += 1;
            add(&mut tally.usage, &attempt.facts.usage);
        }
        let published = self.outputs.values().filter(|one| one.status == OutputStatus::Published);
        tally.images = published.count() as u64;
        (tally.cost, tally.cost_at_most) = self.costs();
        tally
    }

    pub(super) fn job_rows(&self, filter: &JobFilter, after: Option<Cursor>, limit: u32) -> Vec<JobRow> {
        let mut found: Vec<&JobRec> = self
            .scoped(&filter.scope)
            .filter(|job| filter.states.is_empty() || filter.states.contains(&job.state))
            .filter(|job| after.is_none_or(|after| place(cursor(job)) > place(after)))
            .collect();
        found.sort_by_key(|job| place(cursor(job)));
        found.into_iter().take(limit as usize).map(|job| self.job_row(job)).collect()
    }

    pub(super) fn job_row(&self, job: &JobRec) -> JobRow {
        let attempts: Vec<&AttemptRec> = self.attempts.iter().filter(|one| one.job == job.id).collect();
        let mut usage = Usage::default();
        for one in &attempts {
            add(&mut usage, &one.facts.usage);
        }
        let throttles = attempts.iter().filter(|one| one.outcome == AttemptOutcome::Throttled).count();
        let spec = job.spec();
        JobRow {
            job: JobId(job.id),
            cursor: cursor(job),
            name: job.new.job.name.clone(),
            state: job.state,
            revision: job.revision() as i64,
            available_at: (job.state == JobState::Pending).then_some(Timestamp::from_ms(job.available_at)),
            model: spec.model.as_str().to_owned(),
            aspect_ratio: spec.aspect_ratio.clone(),
            image_size: spec.image_size.clone(),
            prompt: spec.prompt.clone(),
            references: spec.references.len() as u32,
            tags: job.new.job.tags.clone(),
            output: job.new.job.output.to_string(),
            attempts: attempts.len() as u64,
            throttles: throttles as u64,
            usage,
            cost: attempts.iter().filter_map(|one| one.facts.cost).reduce(|one, other| one + other),
            outputs: self.published_of(job.id).into_iter().map(output_row).collect(),
            last: attempts.last().map(|one| self.attempt_row(one)),
        }
    }

    fn published_of(&self, job: i64) -> Vec<&OutputRec> {
        let published = |one: &&OutputRec| one.job == job && one.status == OutputStatus::Published;
        let mut found: Vec<&OutputRec> = self.outputs.values().filter(published).collect();
        found.sort_by_key(|one| (one.position, one.id));
        found
    }

    fn attempt_row(&self, one: &AttemptRec) -> AttemptRow {
        let (lane, facts) = (&self.lanes[one.lane as usize - 1].key, one.facts.clone());
        let ended = one.ended_at.is_some();
        AttemptRow {
            attempt: AttemptId(one.id),
            job: self.jobs[one.job as usize - 1].new.job.name.clone(),
            revision: one.revision as i64,
            run: RunId(one.run),
            lane: format!("{}/{}/{}", lane.provider, lane.model, lane.key_id),
            model: lane.model.to_string(),
            sent_at: Timestamp::from_ms(one.sent_at),
            ended_at: one.ended_at.map(Timestamp::from_ms),
            outcome: one.outcome,
            http_status: facts.http_status,
            error_code: facts.error_code,
            error: facts.error,
            note: facts.note,
            finish_reason: facts.finish_reason,
            response_id: facts.response_id,
            caption: facts.caption,
            usage: facts.usage,
            bytes: ended.then_some(facts.bytes),
            first_byte: facts.first_byte,
            total: ended.then_some(facts.total),
            cost: facts.cost,
            cost_at_most: Some(Micros(facts.cost_at_most.0)),
        }
    }

    pub(super) fn attempt_rows(
        &self,
        job: Option<JobId>,
        after: Option<AttemptId>,
        limit: u32,
    ) -> Vec<AttemptRow> {
        let wanted = |one: &&AttemptRec| {
            after.is_none_or(|after| one.id > after.0) && job.is_none_or(|job| one.job == job.0)
        };
        self.attempts.iter().filter(wanted).take(limit as usize).map(|one| self.attempt_row(one)).collect()
    }

    pub(super) fn output_rows(
        &self,
        after: Option<OutputId>,
        limit: u32,
    ) -> Vec<(JobId, JobName, OutputRow)> {
        let wanted = |one: &&OutputRec| {
            one.status == OutputStatus::Published && after.is_none_or(|after| one.id > after.0)
        };
        let name = |one: &OutputRec| self.jobs[one.job as usize - 1].new.job.name.clone();
        let found = self.outputs.values().filter(wanted).take(limit as usize);
        found.map(|one| (JobId(one.job), name(one), output_row(one))).collect()
    }
}

fn output_row(one: &OutputRec) -> OutputRow {
    OutputRow {
        output: OutputId(one.id),
        kind: OutputKind::Original,
        name: one.name.clone(),
        media: one.file.media,
        bytes: one.file.bytes,
        digest: one.file.digest,
        width: one.file.width,
        height: one.file.height,
    }
}
