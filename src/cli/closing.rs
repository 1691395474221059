//! The last words of a run: what was made, what failed and why, what it cost, where to look.

use std::collections::BTreeMap;

use serde::Serialize;

use super::exit::{Exit, UNSUCCESSFUL};
use super::text;
use crate::job::{AttemptOutcome, JobName, JobState, Micros, printable};
use crate::output::Results;
use crate::queue::{JobFilter, Queue, QueueError, Scope, Tally};
use crate::report::{Summary, error_line};

/// Different errors that are told; the rest is in `usage.csv`.
const GROUPS_MAX: usize = 8;
/// Different errors that are counted apart.
const GROUPS_COUNTED_MAX: usize = 200;
/// Ids that are named for each.
const IDS_MAX: usize = 3;
/// Characters of an error that are shown.
const ERROR_CHARS_MAX: usize = 160;
const PAGE_ROWS: u32 = 500;

/// Jobs that ended alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FailureGroup {
    pub(super) state: &'static str,
    pub(super) error: String,
    pub(super) jobs: u64,
    /// The first of them.
    pub(super) examples: Vec<String>,
}

/// What a run says at its end with `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Closing {
    exit_code: u8,
    /// Why it stopped with jobs left; `null` when it did not.
    reason: Option<String>,
    folder: String,
    /// Where results and reports are: the folder, or an address in object storage.
    results: String,
    #[serde(flatten)]
    summary: Summary,
    failures: Vec<FailureGroup>,
}

impl Closing {
    pub(super) async fn read(
        queue: &dyn Queue,
        results: &Results,
        (exit, reason): (Exit, Option<String>),
        failures: Vec<FailureGroup>,
    ) -> Result<Self, QueueError> {
        Ok(Self {
            exit_code: exit.code(),
            reason,
            folder: results.folder().path().display().to_string(),
            results: results.to_string(),
            summary: Summary::read(queue).await?,
            failures,
        })
    }
}

/// Groups jobs that did not succeed by what went wrong, most frequent first.
pub(super) async fn failures(queue: &dyn Queue, scope: &Scope) -> Result<Vec<FailureGroup>, QueueError> {
    let mut states = UNSUCCESSFUL.to_vec();
    states.push(JobState::Held);
    let filter = JobFilter { states, scope: scope.clone() };
    let mut groups = Groups::default();
    let mut after = None;
    loop {
        let page = queue.jobs(&filter, after, PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.cursor);
        for job in &page {
            let error = job.last.as_ref().map(error_line).unwrap_or_default();
            groups.add(&job.name, job.state, &error);
        }
    }
    Ok(groups.finish())
}

#[derive(Default)]
struct Groups(BTreeMap<(JobState, String), (u64, Vec<String>)>);

impl Groups {
    fn add(&mut self, job: &JobName, state: JobState, error: &str) {
        let error = text::cut(&printable(error).to_string(), ERROR_CHARS_MAX);
        let known = (state, error);
        let key = if self.0.len() < GROUPS_COUNTED_MAX || self.0.contains_key(&known) {
            known
        } else {
            (state, "other errors".to_owned())
        };
        let (jobs, examples) = self.0.entry(key).or_default();
        *jobs += 1;
        if examples.len() < IDS_MAX {
            examples.push(job.to_string());
        }
    }

    fn finish(self) -> Vec<FailureGroup> {
        let group = |((state, error), (jobs, examples)): ((JobState, String), (u64, Vec<String>))| {
            FailureGroup { state: state.as_str(), error, jobs, examples }
        };
        let mut groups: Vec<FailureGroup> = self.0.into_iter().map(group).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.jobs));
        groups
    }
}

/// The summary for a person. The reason why a run stopped, if it did, is the last line.
pub(super) fn lines(
    tally: &Tally,
    results: &Results,
    groups: &[FailureGroup],
    reason: Option<&str>,
) -> Vec<String> {
    let total = text::count(tally.jobs_total(), "job");
    let succeeded = text::grouped(tally.jobs_in(JobState::Succeeded));
    let mut lines = vec![format!("{succeeded} of {total} succeeded: {}", text::count(tally.images, "image"))];
    let others = [
        JobState::Failed,
        JobState::Refused,
        JobState::Skipped,
        JobState::Held,
        JobState::Pending,
        JobState::Running,
        JobState::Waiting,
        JobState::Cancelled,
    ];
    let others = others.map(|state| (tally.jobs_in(state), state.as_str()));
    if let Some(list) = listed(others) {
        lines.push(list);
    }
    lines.extend(groups.iter().take(GROUPS_MAX).map(group_line));
    if groups.len() > GROUPS_MAX {
        lines.push(format!("  … and {} more kinds of error", groups.len() - GROUPS_MAX));
    }
    let requests =
        AttemptOutcome::ALL.iter().map(|outcome| (tally.attempts_with(*outcome), outcome.as_str()));
    if let Some(list) = listed(requests) {
        lines.push(format!("requests: {list}"));
    }
    lines.extend(tokens_line(tally));
    lines.push(cost_line(tally.cost, tally.cost_at_most));
    let at = results.to_string();
    lines.push(format!("look at: {0}/images/  {0}/usage.csv  {0}/attempts.csv", printable(&at)));
    lines.extend(reason.map(|reason| format!("stopped: {}", printable(reason))));
    lines
}

fn listed(parts: impl IntoIterator<Item = (u64, &'static str)>) -> Option<String> {
    let parts = parts.into_iter().filter(|(n, _)| *n > 0);
    let parts: Vec<String> = parts.map(|(n, what)| format!("{} {what}", text::grouped(n))).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn group_line(group: &FailureGroup) -> String {
    let FailureGroup { state, error, jobs, examples } = group;
    let error = if error.is_empty() { "no request was answered" } else { error };
    let more = if *jobs > examples.len() as u64 { ", …" } else { "" };
    format!("  {state} {jobs}: {error} ({}{more})", examples.join(", "))
}

fn tokens_line(tally: &Tally) -> Option<String> {
    let usage = &tally.usage;
    let parts = [
        (usage.prompt, "in"),
        (usage.candidates, "out"),
        (usage.image, "of them for images"),
        (usage.thoughts, "thoughts"),
        (usage.total, "in all"),
    ];
    let parts = parts.into_iter().filter_map(|(n, what)| Some(format!("{} {what}", text::grouped(n?))));
    let parts: Vec<String> = parts.collect();
    (!parts.is_empty()).then(|| format!("tokens: {}", parts.join(", ")))
}

/// `estimated cost: $1.34` and, where requests may have been billed unseen, `, at most $1.41`.
pub(super) fn cost_line(confirmed: Micros, at_most: Micros) -> String {
    if at_most > confirmed {
        format!(
            "estimated cost: {} confirmed, at most {} with what was sent and not answered",
            confirmed.rounded(),
            at_most.rounded()
        )
    } else {
        format!("estimated cost: {}", confirmed.rounded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::RunFolder;

    #[test]
    fn errors_are_grouped_most_frequent_first_and_bounded() {
        let mut groups = Groups::default();
        let name = |n: usize| format!("job-{n}").parse::<JobName>().expect("an id");
        groups.add(&name(0), JobState::Refused, "image_safety: no");
        for n in 1..=5 {
            groups.add(&name(n), JobState::Failed, "http_400: \u{1b}[31mbad");
        }
        let got = groups.finish();
        assert_eq!(group_line(&got[0]), "  failed 5: http_400: \\u{1b}[31mbad (job-1, job-2, job-3, …)");
        assert_eq!(group_line(&got[1]), "  refused 1: image_safety: no (job-0)");
        let mut many = Groups::default();
        (0..1_000).for_each(|n| many.add(&name(n), JobState::Failed, &format!("error {n}")));
        assert!(many.0.len() <= GROUPS_COUNTED_MAX + 1);
    }

    #[test]
    fn the_reason_is_the_last_line() {
        let tally = Tally {
            jobs: [(JobState::Succeeded, 1_200), (JobState::Pending, 3)].into(),
            images: 1_201,
            cost: Micros(1_335_000),
            cost_at_most: Micros(1_400_000),
            ..Tally::default()
        };
        let lines = lines(&tally, &RunFolder::new("out/a").into(), &[], Some("the deadline has passed"));
        assert_eq!(lines[0], "1,200 of 1,203 jobs succeeded: 1,201 images");
        assert_eq!(lines[1], "3 pending");
        assert_eq!(
            lines[2],
            "estimated cost: $1.34 confirmed, at most $1.40 with what was sent and not answered"
        );
        assert_eq!(lines.last().map(String::as_str), Some("stopped: the deadline has passed"));
    }
}
