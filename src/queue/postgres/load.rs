//! Bringing the batch in line with what is staged, set by set.
//!
//! Both the diff and the load first match staged jobs with those in the queue; all that follows reads the
//! matches.

use super::depend;
use super::fault::{Doing, count, get, signed};
use super::news;
use super::session::Session;
use super::stage;
use crate::job::{CrashPoint, Micros, crash_point};
use crate::manifest::DigestEntry;
use crate::queue::text::{Changed, changes, path_text};
use crate::queue::{LoadDiff, LoadPolicy, QueueError};

/// How many changed jobs a diff shows by name.
const EXAMPLES_MAX: usize = 10;
/// Changed jobs that are compared field by field at a time.
const PAGE: usize = 500;

/// What goes over a whole batch is planned as the planner sees fit, and may take long. A load of the same
/// batch by another process is waited for: $1 batch.
const BEGIN: &str =
    "SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_hashjoin = on;
    SET LOCAL enable_mergejoin = on; SET LOCAL enable_sort = on; SET LOCAL statement_timeout = '30min';
    SET LOCAL lock_timeout = '10min'; SET LOCAL plan_cache_mode = force_custom_plan;
    SET LOCAL join_collapse_limit = 8";
const LOCK: &str = "SELECT 1 FROM batch WHERE batch = $1 FOR NO KEY UPDATE";

/// $1 batch, $2 whether changed jobs are kept.
const MATCH: &str = "
INSERT INTO matched (ordinal, job, what)
SELECT s.ordinal, j.job,
       CASE WHEN r.spec_digest = s.spec_digest AND r.input_digest IS NOT DISTINCT FROM s.input_digest THEN 'same'
            WHEN j.state = 'succeeded' AND $2 THEN 'kept'
            ELSE 'changed' END
FROM staged s JOIN job j ON j.batch = $1 AND j.name = s.name JOIN revision r ON r.job = j.job AND r.n = j.revision";

/// What becomes of the jobs that are already there. `sends`: pending after the load.
const COUNT_MATCHED: &str = "
SELECT count(*) AS matched,
       count(*) FILTER (WHERE what = 'same') AS same,
       count(*) FILTER (WHERE what = 'changed') AS changed,
       count(*) FILTER (WHERE what = 'changed' AND state = 'succeeded') AS changed_done,
       count(*) FILTER (WHERE what = 'kept') AS kept,
       count(*) FILTER (WHERE NOT in_manifest) AS returned,
       count(*) FILTER (WHERE renamed) AS renamed,
       count(*) FILTER (WHERE sends) AS sends,
       coalesce(sum(estimate) FILTER (WHERE sends), 0)::bigint AS estimate,
       count(*) FILTER (WHERE sends AND estimate IS NULL) AS unpriced
FROM (SELECT m.what, j.state, j.in_manifest, s.estimate,
             m.what = 'same' AND j.state = 'succeeded' AND d.output <> s.output AS renamed,
             j.needs = 0 AND CASE m.what WHEN 'changed' THEN j.state <> 'running'
                 ELSE j.state = 'pending' OR (j.state = 'cancelled' AND j.cancel IS NOT DISTINCT FROM 'manifest')
                 END AS sends
      FROM matched m JOIN staged s USING (ordinal) JOIN job j ON j.job = m.job JOIN job_detail d ON d.job = m.job) known";

const COUNT_NEW: &str = "
SELECT count(*) AS new, coalesce(sum(estimate), 0)::bigint AS estimate,
       count(*) FILTER (WHERE estimate IS NULL) AS unpriced
FROM staged s WHERE NOT EXISTS (SELECT 1 FROM matched m WHERE m.ordinal = s.ordinal)";

/// Jobs that are not staged: those of the manifest are cancelled, others (rerolls) stay as they are.
const COUNT_LEFT: &str = "
SELECT count(*) FILTER (WHERE origin = 'manifest' AND state NOT IN ('succeeded', 'cancelled')
                        AND (state <> 'running' OR cancel IS NULL)) AS cancelled,
       count(*) FILTER (WHERE origin <> 'manifest' AND state = 'pending') AS sends,
       coalesce(sum(estimate) FILTER (WHERE origin <> 'manifest' AND state = 'pending'), 0)::bigint AS estimate,
       count(*) FILTER (WHERE origin <> 'manifest' AND state = 'pending' AND estimate IS NULL) AS unpriced
FROM job j WHERE batch = $1 AND NOT EXISTS (SELECT 1 FROM matched m WHERE m.job = j.job)";

const COUNT_BEFORE: &str = "
SELECT coalesce(sum(n), 0)::bigint AS jobs,
       coalesce(sum(n) FILTER (WHERE state NOT IN ('succeeded', 'cancelled')), 0)::bigint AS undone
FROM job_count WHERE batch = $1";

const CHANGED_PAGE: &str = "
SELECT m.ordinal, s.name, s.spec, r.spec AS old, r.input_digest IS DISTINCT FROM s.input_digest AS refs
FROM matched m JOIN staged s USING (ordinal) JOIN job j ON j.job = m.job
     JOIN revision r ON r.job = m.job AND r.n = j.revision
WHERE m.what <> 'same' AND m.ordinal > $1 ORDER BY m.ordinal LIMIT $2";

/// Those that are in the queue, in this order.
const OF_MATCHED: &[&str] = &[
    "UPDATE output SET stale = true FROM matched m JOIN staged s USING (ordinal) JOIN job_detail d ON d.job = m.job
     WHERE output.kind = 'original' AND output.job = m.job AND d.output <> s.output AND NOT output.stale",
    "UPDATE job_detail SET output = s.output, output_key = s.output_key, stream = s.stream, tags = s.tags
     FROM matched m JOIN staged s USING (ordinal)
     WHERE job_detail.job = m.job
       AND (job_detail.output, job_detail.stream, job_detail.tags) IS DISTINCT FROM (s.output, s.stream, s.tags)",
    "UPDATE job SET ordinal = s.ordinal, priority = s.priority, in_manifest = true, fallbacks = s.fallbacks,
            reservation = CASE WHEN m.what = 'kept' THEN job.reservation ELSE s.reservation END,
            estimate = CASE WHEN m.what = 'kept' THEN job.estimate ELSE s.estimate END
     FROM matched m JOIN staged s USING (ordinal)
     WHERE job.job = m.job
       AND (job.ordinal, job.priority, job.in_manifest, job.fallbacks, job.reservation, job.estimate)
           IS DISTINCT FROM (s.ordinal, s.priority, true, s.fallbacks,
               CASE WHEN m.what = 'kept' THEN job.reservation ELSE s.reservation END,
               CASE WHEN m.what = 'kept' THEN job.estimate ELSE s.estimate END)",
    "UPDATE job SET cancel = NULL FROM matched m
     WHERE job.job = m.job AND job.state = 'running' AND job.cancel = 'manifest'",
    "UPDATE job SET cancel = NULL, ready = true, available_at = 0, transient = 0, no_image = 0, lost = 0,
            lost_alone = 0, spared = false, state = CASE WHEN needs > 0 THEN 'waiting' ELSE 'pending' END
     FROM matched m WHERE job.job = m.job AND job.state = 'cancelled' AND job.cancel = 'manifest'",
    "UPDATE job SET revision = job.revision + 1, model = s.model, cancel = NULL, ready = true, available_at = 0,
            transient = 0, no_image = 0, lost = 0, lost_alone = 0, spared = false,
            state = CASE WHEN job.state = 'running' THEN 'running' WHEN job.needs > 0 THEN 'waiting' ELSE 'pending' END
     FROM matched m JOIN staged s USING (ordinal) WHERE m.what = 'changed' AND job.job = m.job",
];
/// $1 now.
const REVISE: &str = "
INSERT INTO revision (job, n, spec_digest, input_digest, spec, created_at)
SELECT j.job, j.revision, s.spec_digest, s.input_digest, s.spec, now_ms($1)
FROM matched m JOIN staged s USING (ordinal) JOIN job j ON j.job = m.job WHERE m.what = 'changed'";
const REVISE_REFERENCES: &str = "
INSERT INTO reference (job, n, position, kind, source, digest, bytes, media)
SELECT j.job, j.revision, f.position, 'file', f.one ->> 'path', f.one ->> 'digest', (f.one ->> 'bytes')::bigint,
       f.one ->> 'media'
FROM matched m JOIN staged s USING (ordinal) JOIN job j ON j.job = m.job
     CROSS JOIN LATERAL json_array_elements(s.refs) WITH ORDINALITY AS f (one, position)
WHERE m.what = 'changed' AND s.refs IS NOT NULL";
const MOVE_REFERENCES: &str = "
UPDATE reference SET source = new.path FROM (
    SELECT j.job, j.revision AS n, f.position, f.one ->> 'path' AS path
    FROM matched m JOIN staged s USING (ordinal) JOIN job j ON j.job = m.job
         CROSS JOIN LATERAL json_array_elements(s.refs) WITH ORDINALITY AS f (one, position)
    WHERE m.what = 'same' AND s.refs IS NOT NULL) new
WHERE reference.job = new.job AND reference.n = new.n AND reference.position = new.position
  AND reference.source <> new.path";
/// $1 batch.
const STAND_IN: &str = "
INSERT INTO stand_in (batch, model, fallback)
SELECT DISTINCT $1::bigint, s.model, f FROM staged s CROSS JOIN LATERAL unnest(s.fallbacks) f
ON CONFLICT DO NOTHING";
/// Job numbers are given here, so that a new job's other rows need no look-up.
const NUMBER: &str = "
INSERT INTO fresh (ordinal, job)
SELECT n.ordinal, nextval('job_job_seq')
FROM (SELECT s.ordinal FROM staged s WHERE NOT EXISTS (SELECT 1 FROM matched m WHERE m.ordinal = s.ordinal)
      ORDER BY s.ordinal) n";
/// $1 batch.
const NEW_JOBS: &str = "
INSERT INTO job (job, batch, name, ordinal, origin, state, priority, model, fallbacks, revision, reservation, estimate)
OVERRIDING SYSTEM VALUE
SELECT n.job, $1, s.name, s.ordinal, 'manifest', 'pending', s.priority, s.model, s.fallbacks, 1, s.reservation,
       s.estimate
FROM fresh n JOIN staged s USING (ordinal) ORDER BY ordinal";
/// $1 batch.
const NEW_DETAILS: &str = "
INSERT INTO job_detail (job, batch, output, output_key, stream, tags)
SELECT n.job, $1, s.output, s.output_key, s.stream, s.tags
FROM fresh n JOIN staged s USING (ordinal) ORDER BY ordinal";
/// $1 now.
const NEW_REVISIONS: &str = "
INSERT INTO revision (job, n, spec_digest, input_digest, spec, created_at)
SELECT n.job, 1, s.spec_digest, s.input_digest, s.spec, now_ms($1)
FROM fresh n JOIN staged s USING (ordinal) ORDER BY ordinal";
const NEW_REFERENCES: &str = "
INSERT INTO reference (job, n, position, kind, source, digest, bytes, media)
SELECT n.job, 1, f.position, 'file', f.one ->> 'path', f.one ->> 'digest', (f.one ->> 'bytes')::bigint, f.one ->> 'media'
FROM fresh n JOIN staged s USING (ordinal)
     CROSS JOIN LATERAL json_array_elements(s.refs) WITH ORDINALITY AS f (one, position)
WHERE s.refs IS NOT NULL";
/// $1 batch.
const LEAVE: &str = "
UPDATE job SET in_manifest = false,
    cancel = CASE WHEN state = 'running' THEN coalesce(cancel, 'manifest')
                  WHEN state IN ('succeeded', 'cancelled') THEN cancel ELSE 'manifest' END,
    state = CASE WHEN state IN ('running', 'succeeded') THEN state ELSE 'cancelled' END
WHERE batch = $1 AND origin = 'manifest'
  AND (in_manifest OR state NOT IN ('succeeded', 'cancelled', 'running'))
  AND NOT EXISTS (SELECT 1 FROM matched m WHERE m.job = job.job)
  AND NOT EXISTS (SELECT 1 FROM fresh n WHERE n.job = job.job)
RETURNING job";

const EMPTY: &str = "DELETE FROM matched; DELETE FROM fresh";
const CLEAR: &str = "DELETE FROM matched; DELETE FROM fresh; DELETE FROM staged";
const KNOW: &str = "ANALYZE staged; ANALYZE matched; ANALYZE fresh";
/// After many new jobs the planner is told, or it would go by what it knew of an empty table.
const MANY: u64 = 10_000;
const KNOW_ALL: &str = "ANALYZE job; ANALYZE job_detail; ANALYZE revision";

/// What [`apply`] would do.
pub(super) async fn diff(session: &mut Session, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
    let what = "comparing the manifest with the queue";
    let batch = session.batch;
    session.check_staging()?;
    session.run(what, BEGIN).await?;
    stage::make_tables(session).await?;
    session.run(what, EMPTY).await?;
    sqlx::query(MATCH).bind(batch).bind(policy.keep_changed).execute(&mut session.conn).await.doing(what)?;
    session.run(what, KNOW).await?;

    let row = sqlx::query(COUNT_MATCHED).fetch_one(&mut session.conn).await.doing(what)?;
    let mut diff = LoadDiff {
        total: count(&row, "matched")?,
        unchanged: count(&row, "same")?,
        changed: count(&row, "changed")?,
        changed_done: count(&row, "changed_done")?,
        kept: count(&row, "kept")?,
        returned: count(&row, "returned")?,
        renamed: count(&row, "renamed")?,
        to_send: count(&row, "sends")?,
        estimate: Micros(get(&row, "estimate")?),
        unpriced: count(&row, "unpriced")?,
        ..LoadDiff::default()
    };
    let matched = diff.total;

    let row = sqlx::query(COUNT_NEW).fetch_one(&mut session.conn).await.doing(what)?;
    diff.new = count(&row, "new")?;
    diff.total += diff.new;
    diff.to_send += diff.new;
    diff.estimate += Micros(get(&row, "estimate")?);
    diff.unpriced += count(&row, "unpriced")?;

    let row = sqlx::query(COUNT_BEFORE).bind(batch).fetch_one(&mut session.conn).await.doing(what)?;
    diff.undone_before = count(&row, "undone")?;
    if count(&row, "jobs")? > matched {
        let row = sqlx::query(COUNT_LEFT).bind(batch).fetch_one(&mut session.conn).await.doing(what)?;
        diff.cancelled = count(&row, "cancelled")?;
        diff.to_send += count(&row, "sends")?;
        diff.estimate += Micros(get(&row, "estimate")?);
        diff.unpriced += count(&row, "unpriced")?;
    }
    if diff.changed + diff.kept > 0 {
        compare_fields(session, &mut diff).await?;
    }
    Ok(diff)
}

/// Says which fields changed, a page of jobs at a time: the specs of a million jobs are not held.
async fn compare_fields(session: &mut Session, diff: &mut LoadDiff) -> Result<(), QueueError> {
    let mut after = -1_i64;
    loop {
        let page = sqlx::query(CHANGED_PAGE).bind(after).bind(signed(PAGE as u64));
        let page = page.fetch_all(&mut session.conn).await.doing("comparing changed jobs")?;
        for row in &page {
            after = get(row, "ordinal")?;
            let references = if get(row, "refs")? { Changed::Yes } else { Changed::No };
            let fields = changes(get(row, "old")?, get(row, "spec")?, references)?;
            for field in &fields {
                *diff.fields.entry(*field).or_default() += 1;
            }
            if diff.examples.len() < EXAMPLES_MAX {
                diff.examples.push((get(row, "name")?, fields));
            }
        }
        if page.len() < PAGE {
            return Ok(());
        }
    }
}

/// Brings the batch in line with the staged jobs and forgets them.
pub(super) async fn apply(session: &mut Session, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
    let what = "loading jobs";
    let (batch, now) = (session.batch, session.now());
    session.run(what, BEGIN).await?;
    sqlx::query(LOCK).bind(batch).execute(&mut session.conn).await.doing(what)?;
    let diff = diff(session, policy).await?;
    for sql in OF_MATCHED {
        sqlx::query(*sql).execute(&mut session.conn).await.doing(what)?;
    }
    sqlx::query(REVISE).bind(now).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(REVISE_REFERENCES).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(MOVE_REFERENCES).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(STAND_IN).bind(batch).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(NUMBER).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(NEW_JOBS).bind(batch).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(NEW_DETAILS).bind(batch).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(NEW_REVISIONS).bind(now).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(NEW_REFERENCES).execute(&mut session.conn).await.doing(what)?;
    let rows = sqlx::query(LEAVE).bind(batch).fetch_all(&mut session.conn).await.doing(what)?;
    if depend::any(session).await? {
        let left = rows.iter().map(|row| get(row, "job")).collect::<Result<Vec<i64>, _>>()?;
        depend::skip(session, &left).await?;
    }
    session.run(what, CLEAR).await?;
    if diff.new + diff.changed > MANY {
        session.run(what, KNOW_ALL).await?;
    }
    news::tell(session).await?;
    crash_point(CrashPoint::LoadWritten);
    Ok(diff)
}

const FORGET_STAMPS: &str = "DELETE FROM reference_stamp WHERE batch = $1";
const KEEP_STAMPS: &str = "
INSERT INTO reference_stamp (batch, path, bytes, modified_ns, inode, sha256, media)
SELECT $1, e.* FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[]) e";

/// Digests of references on their way into the queue, a column each.
#[derive(Default)]
pub(super) struct Stamps {
    path: Vec<String>,
    bytes: Vec<i64>,
    modified_ns: Vec<i64>,
    inode: Vec<i64>,
    sha256: Vec<String>,
    media: Vec<String>,
}

impl Stamps {
    pub(super) fn of(stamps: &[DigestEntry]) -> Result<Self, QueueError> {
        let mut columns = Self::default();
        for stamp in stamps {
            columns.path.push(path_text(&stamp.path)?);
            columns.bytes.push(signed(stamp.bytes));
            columns.modified_ns.push(stamp.modified_ns);
            columns.inode.push(stamp.inode.cast_signed());
            columns.sha256.push(stamp.digest.to_string());
            columns.media.push(stamp.media.mime().to_owned());
        }
        Ok(columns)
    }
}

/// Replaces all stamps.
pub(super) async fn save_stamps(session: &mut Session, stamps: &Stamps) -> Result<(), QueueError> {
    let what = "keeping digests of references";
    let batch = session.batch;
    sqlx::query(LOCK).bind(batch).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(FORGET_STAMPS).bind(batch).execute(&mut session.conn).await.doing(what)?;
    sqlx::query(KEEP_STAMPS)
        .bind(batch)
        .bind(&stamps.path)
        .bind(&stamps.bytes)
        .bind(&stamps.modified_ns)
        .bind(&stamps.inode)
        .bind(&stamps.sha256)
        .bind(&stamps.media)
        .execute(&mut session.conn)
        .await
        .doing(what)
        .map(drop)
}
