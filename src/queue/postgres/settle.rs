//! Ending attempts, as a set: what comes at once is one statement.

use std::collections::HashSet;

use super::bounds::ms;
use super::depend;
use super::fault::{Doing, get, signed, storable};
use super::names::{self, Wanted};
use super::publish;
use super::session::Session;
use crate::job::{AttemptOutcome, CrashPoint, crash_point};
use crate::queue::text::broken;
use crate::queue::{Next, PlannedOutput, Publication, QueueError, Settlement};

/// What does not match job, epoch, `running` and an attempt under way falls through; the job is locked before
/// it is looked at for the last time. An allowance is used up only by an attempt of the present revision. A
/// job whose description changed meanwhile is pending whatever its attempt says. $25 now.
const SETTLE: &str = "
WITH clock AS MATERIALIZED (SELECT now_ms($25) AS now),
ending AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[],
        $7::bigint[], $8::bigint[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[],
        $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[],
        $22::bigint[], $23::bigint[], $24::bigint[])
    AS e (slot, job, epoch, attempt, outcome, next, delay_ms, http_status, error_code, error, note, finish_reason,
          response_id, caption, prompt_tokens, candidates_tokens, image_tokens, thoughts_tokens, total_tokens, bytes,
          first_byte_ms, total_ms, cost, cost_at_most)),
fenced AS MATERIALIZED (
    SELECT e.*, a.revision AS sent_revision, a.alone,
           e.next <> 'spare' AND a.revision = j.revision AS counts
    FROM ending e JOIN job j ON j.job = e.job JOIN attempt a ON a.attempt = e.attempt
    WHERE j.epoch = e.epoch AND (j.state = 'running') IS TRUE AND j.attempt = e.attempt AND a.outcome = 'sent'
    FOR UPDATE OF j),
went_on AS (
    UPDATE job SET
        transient = transient + (f.counts AND f.outcome = 'transient')::int,
        no_image = no_image + (f.counts AND f.outcome = 'no_image')::int,
        lost = lost + (f.counts AND f.outcome = 'lost')::int,
        lost_alone = lost_alone + (f.counts AND f.outcome = 'lost' AND f.alone)::int,
        state = CASE WHEN f.next = 'publish' THEN job.state
                     WHEN job.cancel IS NOT NULL THEN 'cancelled'
                     WHEN job.revision <> f.sent_revision OR f.next IN ('retry', 'spare') THEN 'pending'
                     ELSE f.next END,
        ready = NOT (f.next IN ('retry', 'spare') AND f.delay_ms > 0),
        available_at = CASE WHEN f.next IN ('retry', 'spare') THEN (SELECT now FROM clock) + f.delay_ms ELSE 0 END,
        snoozed_at = (SELECT now FROM clock),
        spared = job.spared OR f.next = 'spare',
        worker = CASE WHEN f.next = 'publish' THEN job.worker END,
        epoch = CASE WHEN f.next = 'publish' THEN job.epoch END,
        attempt = CASE WHEN f.next = 'publish' THEN job.attempt END
    FROM fenced f
    WHERE job.job = f.job AND (f.next <> 'publish' OR f.outcome IN ('transient', 'no_image', 'lost'))),
ended AS (
    UPDATE attempt SET
        outcome = f.outcome, ended_at = (SELECT now FROM clock), http_status = f.http_status,
        error_code = f.error_code, error = f.error, note = f.note, finish_reason = f.finish_reason,
        response_id = f.response_id, caption = f.caption, prompt_tokens = f.prompt_tokens,
        candidates_tokens = f.candidates_tokens, image_tokens = f.image_tokens,
        thoughts_tokens = f.thoughts_tokens, total_tokens = f.total_tokens, bytes = f.bytes,
        first_byte_ms = f.first_byte_ms, total_ms = f.total_ms, cost = f.cost, cost_at_most = f.cost_at_most
    FROM fenced f WHERE attempt.attempt = f.attempt AND attempt.outcome = 'sent')
SELECT f.slot, d.output, EXISTS (SELECT 1 FROM dependency) AS needed
FROM fenced f JOIN job_detail d ON d.job = f.job";

/// Settlements, a column each.
#[derive(Default)]
struct Columns {
    slot: Vec<i64>,
    job: Vec<i64>,
    epoch: Vec<i64>,
    attempt: Vec<i64>,
    outcome: Vec<&'static str>,
    next: Vec<&'static str>,
    delay_ms: Vec<i64>,
    http_status: Vec<Option<i64>>,
    /// `error_code`, `error`, `note`, `finish_reason`, `response_id`, `caption`.
    texts: [Vec<Option<String>>; 6],
    /// Prompt, candidates, image, thoughts, total.
    tokens: [Vec<Option<i64>>; 5],
    bytes: Vec<i64>,
    first_byte_ms: Vec<Option<i64>>,
    total_ms: Vec<i64>,
    cost: Vec<Option<i64>>,
    cost_at_most: Vec<i64>,
}

impl Columns {
    fn add(&mut self, slot: usize, settlement: &Settlement) {
        let facts = &settlement.facts;
        let (next, delay_ms) = match &settlement.next {
            Next::Publish(_) => ("publish", 0),
            Next::Retry(delay) => ("retry", ms(*delay)),
            Next::Spare(delay) => ("spare", ms(*delay)),
            Next::Fail => ("failed", 0),
            Next::Refuse => ("refused", 0),
            Next::Hold => ("held", 0),
        };
        self.slot.push(signed(slot as u64));
        self.job.push(settlement.job.0);
        self.epoch.push(settlement.epoch.0);
        self.attempt.push(settlement.attempt.0);
        self.outcome.push(settlement.outcome.as_str());
        self.next.push(next);
        self.delay_ms.push(delay_ms);
        self.http_status.push(facts.http_status.map(i64::from));
        let texts = [
            &facts.error_code,
            &facts.error,
            &facts.note,
            &facts.finish_reason,
            &facts.response_id,
            &facts.caption,
        ];
        for (column, text) in self.texts.iter_mut().zip(texts) {
            column.push(storable(text.as_deref()));
        }
        let usage = &facts.usage;
        let tokens = [usage.prompt, usage.candidates, usage.image, usage.thoughts, usage.total];
        for (column, tokens) in self.tokens.iter_mut().zip(tokens) {
            column.push(tokens.map(signed));
        }
        self.bytes.push(signed(facts.bytes));
        self.first_byte_ms.push(facts.first_byte.map(ms));
        self.total_ms.push(ms(facts.total));
        self.cost.push(facts.cost.map(|micros| micros.0));
        self.cost_at_most.push(facts.cost_at_most.0);
    }
}

/// Settles all; each has its own answer, in order.
pub(super) async fn settle(
    session: &mut Session,
    items: &[Settlement],
) -> Result<Vec<Result<Publication, QueueError>>, QueueError> {
    let what = "settling attempts";
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let mut columns = Columns::default();
    let mut seen = HashSet::new();
    for (slot, one) in items.iter().enumerate() {
        // Of two settlements of one lease the second is refused.
        if one.outcome != AttemptOutcome::Sent && seen.insert((one.job, one.epoch, one.attempt)) {
            columns.add(slot, one);
        }
    }
    let mut query = sqlx::query(SETTLE)
        .bind(&columns.slot)
        .bind(&columns.job)
        .bind(&columns.epoch)
        .bind(&columns.attempt)
        .bind(&columns.outcome)
        .bind(&columns.next)
        .bind(&columns.delay_ms)
        .bind(&columns.http_status);
    for texts in &columns.texts {
        query = query.bind(texts);
    }
    for tokens in &columns.tokens {
        query = query.bind(tokens);
    }
    let query = query
        .bind(&columns.bytes)
        .bind(&columns.first_byte_ms)
        .bind(&columns.total_ms)
        .bind(&columns.cost)
        .bind(&columns.cost_at_most)
        .bind(session.now());
    let rows = query.fetch_all(&mut session.conn).await.doing(what)?;
    let mut answers: Vec<Result<Publication, QueueError>> =
        items.iter().map(|one| Err(refusal(one))).collect();
    let (mut ended, mut wanted, mut needed) = (Vec::new(), Vec::new(), false);
    for row in &rows {
        let slot: i64 = get(row, "slot")?;
        needed = get(row, "needed")?;
        let Some((slot, item)) = usize::try_from(slot).ok().and_then(|slot| Some((slot, items.get(slot)?)))
        else {
            continue;
        };
        if let Some(answer) = answers.get_mut(slot) {
            *answer = Ok(Publication::default());
        }
        match &item.next {
            Next::Publish(files) => {
                let want = Wanted { job: item.job.0, stem: get(row, "output")?, count: files.len() };
                wanted.push((slot, want, files.as_slice()));
            }
            Next::Fail | Next::Refuse | Next::Retry(_) | Next::Spare(_) => ended.push(item.job.0),
            Next::Hold => {}
        }
    }
    if needed {
        depend::skip(session, &ended).await?;
    }
    plan(session, items, wanted, &mut answers).await?;
    crash_point(CrashPoint::SettleWritten);
    Ok(answers)
}

/// What a settlement is answered that did not pass the fence.
fn refusal(settlement: &Settlement) -> QueueError {
    if settlement.outcome == AttemptOutcome::Sent {
        return broken("attempt.outcome", &"an attempt cannot end as `sent`");
    }
    QueueError::LeaseLost { job: settlement.job }
}

/// Plans the files of those that are to be published.
async fn plan(
    session: &mut Session,
    items: &[Settlement],
    wanted: Vec<(usize, Wanted, &[PlannedOutput])>,
    answers: &mut [Result<Publication, QueueError>],
) -> Result<(), QueueError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let wants: Vec<Wanted> = wanted.iter().map(|(_, want, _)| want.clone()).collect();
    let stems = names::allot(session, &wants).await?;
    let jobs: Vec<i64> = wants.iter().map(|want| want.job).collect();
    let mut replaces = publish::standing(session, &jobs).await?;
    let mut plans = Vec::new();
    for ((slot, want, files), stems) in wanted.into_iter().zip(stems) {
        for (file, stem) in files.iter().zip(stems) {
            plans.push(publish::Plan { job: want.job, attempt: items[slot].attempt.0, slot, stem, file });
        }
        if let Some(Ok(publication)) = answers.get_mut(slot) {
            publication.replaces = replaces.remove(&want.job).unwrap_or_default();
        }
    }
    for (slot, file) in publish::plan(session, plans).await? {
        if let Some(Ok(publication)) = answers.get_mut(slot) {
            publication.files.push(file);
        }
    }
    Ok(())
}
