//! What must hold when the last process has ended: ledger against server, states against
//! attempts, files against both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::books::{Attempt, Books};
use super::fate::Fate;
use super::plan::{Act, Plan};
use crate::job::{AttemptOutcome, Digest, JobState, Micros};
use crate::output::RunFolder;
use crate::pacing::RetryPolicy;
use crate::queue::{AttemptRow, JobRow, LostPolicy, Tally};

/// Content of files that nightpress did not make.
pub(super) const FOREIGN: &[u8] = b"a person's own";

/// Every request is in the ledger, at its price.
pub(super) fn of_ledger(books: &Books, ledger: &[AttemptRow], tally: &Tally) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut known = Micros(0);
    for row in ledger {
        let Some(attempt) = books.attempts.get(&row.attempt.0) else { continue };
        let id = row.attempt;
        known += row.cost.unwrap_or_default();
        if row.outcome == AttemptOutcome::Sent {
            wrong.push(format!("attempt {id} of {} is still under way", row.job));
        }
        let Some(request) = &attempt.request else {
            if !matches!(row.outcome, AttemptOutcome::Lost | AttemptOutcome::Aborted) {
                wrong.push(format!("attempt {id} never left and is {}", row.outcome));
            }
            continue;
        };
        let at_most = row.cost_at_most.unwrap_or_default();
        if row.cost.is_some_and(|cost| cost != request.billed) || at_most < request.billed {
            let (billed, cost) = (request.billed, row.cost);
            wrong.push(format!("attempt {id} was billed {billed}; the ledger: {cost:?}, at most {at_most}"));
        }
    }
    let billed: Micros = books.attempts.values().flat_map(|one| &one.request).map(|one| one.billed).sum();
    if tally.cost != known || tally.cost_at_most < billed {
        wrong.push(format!("billed {billed}, known {known}; the queue counts {tally:?}"));
    }
    wrong
}

/// Every job has an end, and a reason for it.
pub(super) fn of_jobs(plan: &Plan, books: &Books, jobs: &[JobRow], ledger: &[AttemptRow]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_prompt: BTreeMap<&str, Vec<&Attempt>> = BTreeMap::new();
    for attempt in books.attempts.values() {
        by_prompt.entry(&attempt.prompt).or_default().push(attempt);
    }
    let policy = RetryPolicy::default();
    let is_retried = plan.acts.contains(&Act::Retry);
    for (prompt, attempts) in &by_prompt {
        let count = |outcome| attempts.iter().filter(|one| one.outcome == outcome && !one.spared).count();
        if count(AttemptOutcome::Succeeded) > 1 {
            wrong.push(format!("`{prompt}` was made and paid more than once"));
        }
        let spent = count(AttemptOutcome::Transient) > policy.transient_max as usize
            || count(AttemptOutcome::NoImage) > policy.no_image_max as usize;
        if spent && !is_retried {
            wrong.push(format!("`{prompt}` was tried more often than it may be"));
        }
    }
    for row in jobs {
        let none = Vec::new();
        let attempts = by_prompt.get(row.prompt.as_str()).unwrap_or(&none);
        let count = |outcome| attempts.iter().filter(|one| one.outcome == outcome).count();
        let is_poison =
            ledger.iter().any(|one| one.job == row.name && one.error_code.as_deref() == Some("poison"));
        let met = |fate| attempts.iter().any(|one| one.request.as_ref().is_some_and(|one| one.fate == fate));
        let explained = match row.state {
            JobState::Succeeded => count(AttemptOutcome::Succeeded) == 1,
            JobState::Refused => count(AttemptOutcome::Refused) > 0,
            JobState::Failed => {
                met(Fate::Rejected)
                    || is_poison
                    || count(AttemptOutcome::Transient) >= policy.transient_max as usize
                    || count(AttemptOutcome::NoImage) >= policy.no_image_max as usize
            }
            JobState::Cancelled => plan.acts.contains(&Act::Cancel),
            JobState::Held => plan.lost == LostPolicy::Hold && count(AttemptOutcome::Lost) > 0,
            JobState::Pending | JobState::Running | JobState::Waiting | JobState::Skipped => false,
        };
        if !explained {
            wrong.push(format!("{} is {} without a reason", row.name, row.state));
        }
        if row.state == JobState::Succeeded {
            let made = attempts.iter().find(|one| one.outcome == AttemptOutcome::Succeeded);
            let sent = made.and_then(|one| one.request.as_ref()).map(|one| one.pictures.clone());
            let has: Vec<Digest> = row.outputs.iter().map(|one| one.digest).collect();
            if sent.as_ref() != Some(&has) {
                wrong.push(format!("{} has other pictures than were made for it", row.name));
            }
        }
    }
    wrong
}

/// What stands in `images/` is what the queue says, each once; nothing is left in the spool.
pub(super) fn of_files(plan: &Plan, folder: &RunFolder, jobs: &[JobRow]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expected: BTreeMap<PathBuf, Digest> = BTreeMap::new();
    for output in jobs.iter().flat_map(|row| &row.outputs) {
        if expected.insert(folder.images().join(&output.name), output.digest).is_some() {
            wrong.push(format!("{} belongs to two jobs", output.name));
        }
    }
    let foreign = plan.foreign.iter().map(|name| (folder.images().join(name), Digest::of(FOREIGN)));
    expected.extend(foreign);
    let found: BTreeSet<PathBuf> = files(&folder.images()).into_iter().collect();
    for path in &found {
        let content = std::fs::read(path).map(|bytes| Digest::of(&bytes)).ok();
        if expected.get(path).copied() != content {
            let name = path.file_name().unwrap_or_default().display();
            wrong.push(format!("images/ has {name}, which is not what the queue says"));
        }
    }
    if let Some(missing) = expected.keys().find(|path| !found.contains(*path)) {
        wrong.push(format!("{} is missing in images/", missing.file_name().unwrap_or_default().display()));
    }
    let spooled = std::fs::read_dir(folder.spool()).map_or(0, Iterator::count);
    if spooled > 0 {
        wrong.push(format!("{spooled} entries are left in the spool"));
    }
    wrong
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}
