//! Ending attempts, as a set: what one commit settles is one list in a temporary table.

use std::time::Duration;

use rusqlite::params;

use super::depend;
use super::engine::Session;
use super::group::Results;
use super::names::{self, Wanted};
use super::publish;
use super::row::{get, signed};
use super::sql::Sql;
use super::stage;
use crate::job::{AttemptOutcome, CrashPoint, crash_point};
use crate::queue::{Next, PlannedOutput, Publication, QueueError, Settlement};

const WHAT: &str = "settling attempts";

const LIST: &str = "
INSERT OR IGNORE INTO temp.ending (slot, now, job, epoch, attempt, outcome, next, delay_ms, http_status,
    error_code, error, note, finish_reason, response_id, caption, prompt_tokens, candidates_tokens,
    image_tokens, thoughts_tokens, total_tokens, bytes, first_byte_ms, total_ms, cost, cost_at_most)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
    ?23, ?24, ?25)";

/// What does not match job, epoch, `running` and an attempt under way is struck off; what is left
/// may be settled, is answered, and is. Two settlements of one lease: the second never got onto the list.
pub(super) const FENCE: &str = "
DELETE FROM temp.ending WHERE NOT EXISTS (
    SELECT 1 FROM job j CROSS JOIN attempt a
    WHERE j.job = ending.job AND j.epoch = ending.epoch AND j.state = 'running' AND j.attempt = ending.attempt
      AND a.attempt = ending.attempt AND a.outcome = 'sent')";
pub(super) const FINE: &str = "
SELECT e.slot, d.output FROM temp.ending e CROSS JOIN job_detail d WHERE d.job = e.job
ORDER BY e.slot";

/// An allowance is used up only by an attempt of the present revision. A job whose description
/// changed meanwhile is pending whatever its attempt says.
pub(super) const SETTLE: [&str; 4] = [
    "
UPDATE job SET
    transient = transient + (e.outcome = 'transient'),
    no_image  = no_image + (e.outcome = 'no_image'),
    lost      = lost + (e.outcome = 'lost'),
    lost_alone = lost_alone + (e.outcome = 'lost' AND a.alone)
FROM temp.ending e CROSS JOIN attempt a
WHERE e.outcome IN ('transient', 'no_image', 'lost') AND e.next <> 'spare' AND a.attempt = e.attempt
  AND job.job = e.job AND job.revision = a.revision",
    "
UPDATE job SET
    state = CASE WHEN job.cancel IS NOT NULL THEN 'cancelled'
                 WHEN job.revision <> a.revision OR e.next IN ('retry', 'spare') THEN 'pending'
                 ELSE e.next END,
    ready = NOT (e.next IN ('retry', 'spare') AND e.delay_ms > 0),
    available_at = iif(e.next IN ('retry', 'spare'), e.now + e.delay_ms, 0), snoozed_at = e.now,
    spared = job.spared OR e.next = 'spare',
    worker = NULL, epoch = NULL, attempt = NULL
FROM temp.ending e CROSS JOIN attempt a
WHERE e.next <> 'publish' AND a.attempt = e.attempt AND job.job = e.job",
    "
UPDATE attempt SET
    outcome = e.outcome, ended_at = e.now, http_status = e.http_status, error_code = e.error_code,
    error = e.error, note = e.note, finish_reason = e.finish_reason, response_id = e.response_id,
    caption = e.caption, prompt_tokens = e.prompt_tokens, candidates_tokens = e.candidates_tokens,
    image_tokens = e.image_tokens, thoughts_tokens = e.thoughts_tokens, total_tokens = e.total_tokens,
    bytes = e.bytes, first_byte_ms = e.first_byte_ms, total_ms = e.total_ms, cost = e.cost,
    cost_at_most = e.cost_at_most
FROM temp.ending e WHERE attempt.attempt = e.attempt",
    "DELETE FROM temp.ending",
];

const LAST_OUTPUT: &str = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'output'), 0)";

/// Puts a settlement on the list, at its place in the set.
fn list(session: &Session, slot: usize, now: i64, settlement: &Settlement) -> Result<(), QueueError> {
    let facts = &settlement.facts;
    let (next, delay_ms) = match &settlement.next {
        Next::Publish(_) => ("publish", 0),
        Next::Retry(delay) => ("retry", ms(*delay)),
        Next::Spare(delay) => ("spare", ms(*delay)),
        Next::Fail => ("failed", 0),
        Next::Refuse => ("refused", 0),
        Next::Hold => ("held", 0),
    };
    let usage = &facts.usage;
    let values = params![
        signed(slot as u64),
        now,
        settlement.job.0,
        settlement.epoch.0,
        settlement.attempt.0,
        settlement.outcome.as_str(),
        next,
        delay_ms,
        facts.http_status,
        facts.error_code,
        facts.error,
        facts.note,
        facts.finish_reason,
        facts.response_id,
        facts.caption,
        usage.prompt.map(signed),
        usage.candidates.map(signed),
        usage.image.map(signed),
        usage.thoughts.map(signed),
        usage.total.map(signed),
        signed(facts.bytes),
        facts.first_byte.map(ms),
        ms(facts.total),
        facts.cost.map(|micros| micros.0),
        facts.cost_at_most.0
    ];
    session.conn.run(WHAT, LIST, values).map(drop)
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Settles all; each has its own answer, in order.
pub(super) fn settle(session: &Session, items: &[Box<Settlement>]) -> Results<Publication> {
    let now = session.now();
    for (slot, one) in items.iter().enumerate() {
        if one.outcome != AttemptOutcome::Sent {
            list(session, slot, now, one)?;
        }
    }
    session.conn.run(WHAT, FENCE, &[])?;
    let fine = session.conn.rows(WHAT, FINE, &[], |row| {
        let slot: i64 = get(row, "slot")?;
        Ok((usize::try_from(slot).unwrap_or(usize::MAX), get(row, "output")?))
    })?;
    session.conn.run_all(WHAT, &SETTLE, &[])?;

    let mut answers: Vec<Result<Publication, QueueError>> =
        items.iter().map(|one| Err(refusal(one))).collect();
    let mut ended = Vec::new();
    let mut wanted = Vec::new();
    for (slot, output) in fine {
        let Some(item) = items.get(slot) else { continue };
        if let Some(answer) = answers.get_mut(slot) {
            *answer = Ok(Publication::default());
        }
        match &item.next {
            Next::Publish(files) => wanted.push((
                slot,
                Wanted { job: item.job.0, stem: output, count: files.len() },
                files.as_slice(),
            )),
            Next::Fail | Next::Refuse | Next::Retry(_) | Next::Spare(_) => ended.push(item.job.0),
            Next::Hold => {}
        }
    }
    depend::skip(session, &ended)?;
    plan(session, items, wanted, &mut answers)?;
    crash_point(CrashPoint::SettleWritten);
    Ok(answers)
}

/// What a settlement is answered that did not pass the fence.
fn refusal(settlement: &Settlement) -> QueueError {
    if settlement.outcome == AttemptOutcome::Sent {
        return stage::broken("attempt.outcome", &"an attempt cannot end as `sent`");
    }
    QueueError::LeaseLost { job: settlement.job }
}

/// Plans the files of those that are to be published.
fn plan(
    session: &Session,
    items: &[Box<Settlement>],
    wanted: Vec<(usize, Wanted, &[PlannedOutput])>,
    answers: &mut [Result<Publication, QueueError>],
) -> Result<(), QueueError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let last: i64 = session.conn.value(WHAT, LAST_OUTPUT, &[])?;
    let wants: Vec<Wanted> = wanted.iter().map(|(_, want, _)| want.clone()).collect();
    let stems = names::allot(session, &wants)?;
    let jobs: Vec<i64> = wants.iter().map(|want| want.job).collect();
    let mut replaces = publish::standing(session, &jobs)?;
    let mut plans = Vec::new();
    for ((slot, want, files), stems) in wanted.into_iter().zip(stems) {
        for (file, stem) in files.iter().zip(stems) {
            plans.push(publish::Plan { job: want.job, attempt: items[slot].attempt.0, slot, stem, file });
        }
        if let Some(Ok(publication)) = answers.get_mut(slot) {
            publication.replaces = replaces.remove(&want.job).unwrap_or_default();
        }
    }
    for (slot, file) in publish::plan(session, last, plans)? {
        if let Some(Ok(publication)) = answers.get_mut(slot) {
            publication.files.push(file);
        }
    }
    Ok(())
}
