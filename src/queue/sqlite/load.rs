//! Bringing the batch in line with what is staged, set by set.
//!
//! Both the diff and the load first match staged jobs with those in the queue; all that follows
//! reads the matches.

use rusqlite::params;

use super::depend;
use super::engine::Session;
use super::row::{count, get, signed, text};
use super::sql::Sql;
use super::stage::{self, Changed};
use crate::job::{CrashPoint, Micros, crash_point};
use crate::manifest::DigestEntry;
use crate::queue::{LoadDiff, LoadPolicy, QueueError};

/// How many changed jobs a diff shows by name.
const EXAMPLES_MAX: usize = 10;

/// ?1 batch, ?2 whether changed jobs are kept. The order of the tables is fixed by CROSS JOIN:
/// the planner knows nothing about temporary tables.
const MATCH: [&str; 2] = [
    "DELETE FROM temp.matched",
    "
INSERT INTO temp.matched (ordinal, job, what)
SELECT s.ordinal, j.job,
       CASE WHEN r.spec_digest = s.spec_digest AND r.input_digest = s.input_digest THEN 'same'
            WHEN j.state = 'succeeded' AND ?2 THEN 'kept'
            ELSE 'changed' END
FROM temp.staged s CROSS JOIN job j CROSS JOIN revision r
WHERE j.batch = ?1 AND j.name = s.name AND r.job = j.job AND r.n = j.revision",
];

/// What becomes of the jobs that are already there. `sends`: pending after the load.
const COUNT_MATCHED: &str = "
SELECT count(*) AS matched,
       coalesce(sum(what = 'same'), 0) AS same,
       coalesce(sum(what = 'changed'), 0) AS changed,
       coalesce(sum(what = 'changed' AND state = 'succeeded'), 0) AS changed_done,
       coalesce(sum(what = 'kept'), 0) AS kept,
       coalesce(sum(in_manifest = 0), 0) AS returned,
       coalesce(sum(renamed), 0) AS renamed,
       coalesce(sum(sends), 0) AS sends,
       coalesce(sum(CASE WHEN sends THEN estimate END), 0) AS estimate,
       coalesce(sum(sends AND estimate IS NULL), 0) AS unpriced
FROM (SELECT m.what, j.state, j.in_manifest, s.estimate,
             m.what = 'same' AND j.state = 'succeeded' AND d.output <> s.output AS renamed,
             j.needs = 0 AND CASE m.what WHEN 'changed' THEN j.state <> 'running'
                             ELSE j.state = 'pending' OR (j.state = 'cancelled' AND j.cancel IS 'manifest') END AS sends
      FROM temp.matched m CROSS JOIN temp.staged s CROSS JOIN job j CROSS JOIN job_detail d
      WHERE s.ordinal = m.ordinal AND j.job = m.job AND d.job = m.job)";

const COUNT_NEW: &str = "
SELECT count(*) AS new, coalesce(sum(estimate), 0) AS estimate, coalesce(sum(estimate IS NULL), 0) AS unpriced
FROM temp.staged s WHERE NOT EXISTS (SELECT 1 FROM temp.matched m WHERE m.ordinal = s.ordinal)";

/// Jobs that are not staged: those of the manifest are cancelled, others (rerolls) stay as they are.
const COUNT_LEFT: &str = "
SELECT coalesce(sum(origin = 'manifest' AND state NOT IN ('succeeded', 'cancelled')
                    AND (state <> 'running' OR cancel IS NULL)), 0) AS cancelled,
       coalesce(sum(origin <> 'manifest' AND state = 'pending'), 0) AS sends,
       coalesce(sum(CASE WHEN origin <> 'manifest' AND state = 'pending' THEN estimate END), 0) AS estimate,
       coalesce(sum(origin <> 'manifest' AND state = 'pending' AND estimate IS NULL), 0) AS unpriced
FROM job j WHERE batch = ?1 AND NOT EXISTS (SELECT 1 FROM temp.matched m WHERE m.job = j.job)";

const COUNT_BEFORE: &str = "
SELECT coalesce(sum(n), 0) AS jobs,
       coalesce(sum(CASE WHEN state NOT IN ('succeeded', 'cancelled') THEN n END), 0) AS undone
FROM job_count WHERE batch = ?1";

const CHANGED: &str = "
SELECT s.name, s.spec, r.spec AS old, r.input_digest IS NOT s.input_digest AS refs
FROM temp.matched m CROSS JOIN temp.staged s CROSS JOIN job j CROSS JOIN revision r
WHERE m.what <> 'same' AND s.ordinal = m.ordinal AND j.job = m.job
  AND r.job = m.job AND r.n = j.revision
ORDER BY m.ordinal";

/// ?1 batch, ?2 now, ?3 number before the first new job. Job numbers are given here and not by
/// SQLite, so that a new job's other rows need no look-up.
const APPLY: [&str; 14] = [
    "
UPDATE output SET stale = 1 WHERE kind = 'original' AND job IN (
    SELECT m.job FROM temp.matched m CROSS JOIN temp.staged s CROSS JOIN job_detail d
    WHERE s.ordinal = m.ordinal AND d.job = m.job AND d.output <> s.output)",
    "
UPDATE job_detail SET output = s.output, output_key = s.output_key, stream = s.stream, tags = s.tags
FROM temp.matched m, temp.staged s
WHERE s.ordinal = m.ordinal AND job_detail.job = m.job
  AND (job_detail.output, job_detail.stream, job_detail.tags) IS NOT (s.output, s.stream, s.tags)",
    "
UPDATE job SET ordinal = s.ordinal, priority = s.priority, in_manifest = 1, fallbacks = s.fallbacks,
               reservation = iif(m.what = 'kept', job.reservation, s.reservation),
               estimate = iif(m.what = 'kept', job.estimate, s.estimate)
FROM temp.matched m, temp.staged s
WHERE s.ordinal = m.ordinal AND job.job = m.job
  AND (job.ordinal, job.priority, job.in_manifest, job.fallbacks, job.reservation, job.estimate)
      IS NOT (s.ordinal, s.priority, 1, s.fallbacks, iif(m.what = 'kept', job.reservation, s.reservation),
              iif(m.what = 'kept', job.estimate, s.estimate))",
    "
UPDATE job SET cancel = NULL WHERE state = 'running' AND cancel = 'manifest'
    AND job IN (SELECT job FROM temp.matched)",
    "
UPDATE job SET cancel = NULL, ready = 1, available_at = 0, transient = 0, no_image = 0, lost = 0,
               lost_alone = 0, spared = 0, state = iif(needs > 0, 'waiting', 'pending')
WHERE state = 'cancelled' AND cancel = 'manifest' AND job IN (SELECT job FROM temp.matched)",
    "
UPDATE job SET revision = job.revision + 1, model = s.model, cancel = NULL, ready = 1, available_at = 0,
               transient = 0, no_image = 0, lost = 0, lost_alone = 0, spared = 0,
               state = CASE WHEN job.state = 'running' THEN 'running'
                            WHEN job.needs > 0 THEN 'waiting' ELSE 'pending' END
FROM temp.matched m, temp.staged s
WHERE m.what = 'changed' AND s.ordinal = m.ordinal AND job.job = m.job",
    "
INSERT INTO revision (job, n, spec_digest, input_digest, spec, created_at)
SELECT j.job, j.revision, s.spec_digest, s.input_digest, s.spec, ?2
FROM temp.matched m CROSS JOIN temp.staged s CROSS JOIN job j
WHERE m.what = 'changed' AND s.ordinal = m.ordinal AND j.job = m.job",
    "
INSERT INTO reference (job, n, position, kind, source, digest, bytes, media)
SELECT j.job, j.revision, e.key + 1, 'file', e.value ->> 'path', e.value ->> 'digest', e.value ->> 'bytes',
       e.value ->> 'media'
FROM temp.matched m CROSS JOIN temp.staged s CROSS JOIN job j CROSS JOIN json_each(s.refs) e
WHERE m.what = 'changed' AND s.ordinal = m.ordinal AND s.refs IS NOT NULL AND j.job = m.job",
    "
UPDATE reference SET source = new.path FROM (
    SELECT j.job, j.revision AS n, e.key + 1 AS position, e.value ->> 'path' AS path
    FROM temp.matched m CROSS JOIN temp.staged s CROSS JOIN job j CROSS JOIN json_each(s.refs) e
    WHERE m.what = 'same' AND s.ordinal = m.ordinal AND s.refs IS NOT NULL AND j.job = m.job) new
WHERE reference.job = new.job AND reference.n = new.n AND reference.position = new.position
  AND reference.source <> new.path",
    "
INSERT OR IGNORE INTO stand_in (batch, model, fallback)
SELECT DISTINCT ?1, s.model, e.value FROM temp.staged s CROSS JOIN json_each(s.fallbacks) e
WHERE s.fallbacks IS NOT NULL",
    "
INSERT INTO job (job, batch, name, ordinal, origin, state, priority, model, fallbacks, revision, reservation, estimate)
SELECT ?3 + s.ordinal, ?1, s.name, s.ordinal, 'manifest', 'pending', s.priority, s.model, s.fallbacks, 1, s.reservation,
       s.estimate
FROM temp.staged s WHERE NOT EXISTS (SELECT 1 FROM temp.matched m WHERE m.ordinal = s.ordinal)
ORDER BY s.ordinal",
    "
INSERT INTO job_detail (job, output, output_key, stream, tags)
SELECT ?3 + s.ordinal, s.output, s.output_key, s.stream, s.tags
FROM temp.staged s WHERE NOT EXISTS (SELECT 1 FROM temp.matched m WHERE m.ordinal = s.ordinal)
ORDER BY s.ordinal",
    "
INSERT INTO revision (job, n, spec_digest, input_digest, spec, created_at)
SELECT ?3 + s.ordinal, 1, s.spec_digest, s.input_digest, s.spec, ?2
FROM temp.staged s WHERE NOT EXISTS (SELECT 1 FROM temp.matched m WHERE m.ordinal = s.ordinal)
ORDER BY s.ordinal",
    "
INSERT INTO reference (job, n, position, kind, source, digest, bytes, media)
SELECT ?3 + s.ordinal, 1, e.key + 1, 'file', e.value ->> 'path', e.value ->> 'digest', e.value ->> 'bytes',
       e.value ->> 'media'
FROM temp.staged s CROSS JOIN json_each(s.refs) e
WHERE s.refs IS NOT NULL AND NOT EXISTS (SELECT 1 FROM temp.matched m WHERE m.ordinal = s.ordinal)",
];

/// ?1 batch, ?2 number before the first new job.
const LEAVE: &str = "
UPDATE job SET in_manifest = 0,
    cancel = CASE WHEN state = 'running' THEN coalesce(cancel, 'manifest')
                  WHEN state IN ('succeeded', 'cancelled') THEN cancel ELSE 'manifest' END,
    state = iif(state IN ('running', 'succeeded'), state, 'cancelled')
WHERE batch = ?1 AND origin = 'manifest' AND job < ?2
  AND (in_manifest = 1 OR state NOT IN ('succeeded', 'cancelled', 'running'))
  AND NOT EXISTS (SELECT 1 FROM temp.matched m WHERE m.job = job.job)
RETURNING job";

const CLEAR: [&str; 2] = ["DELETE FROM temp.matched", "DELETE FROM temp.staged"];

/// What [`apply`] would do.
pub(super) fn diff(session: &Session, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
    let what = "comparing the manifest with the queue";
    let conn = &session.conn;
    conn.run_all(what, &MATCH, params![session.batch, policy.keep_changed])?;
    let mut diff = conn.row(what, COUNT_MATCHED, &[], |row| {
        Ok(LoadDiff {
            total: count(row, "matched")?,
            unchanged: count(row, "same")?,
            changed: count(row, "changed")?,
            changed_done: count(row, "changed_done")?,
            kept: count(row, "kept")?,
            returned: count(row, "returned")?,
            renamed: count(row, "renamed")?,
            to_send: count(row, "sends")?,
            estimate: Micros(get(row, "estimate")?),
            unpriced: count(row, "unpriced")?,
            ..LoadDiff::default()
        })
    })?;
    let matched = diff.total;
    conn.row(what, COUNT_NEW, &[], |row| {
        diff.new = count(row, "new")?;
        diff.total += diff.new;
        diff.to_send += diff.new;
        diff.estimate += Micros(get(row, "estimate")?);
        diff.unpriced += count(row, "unpriced")?;
        Ok(())
    })?;
    let before = conn.row(what, COUNT_BEFORE, params![session.batch], |row| {
        diff.undone_before = count(row, "undone")?;
        count(row, "jobs")
    })?;
    if before > matched {
        conn.row(what, COUNT_LEFT, params![session.batch], |row| {
            diff.cancelled = count(row, "cancelled")?;
            diff.to_send += count(row, "sends")?;
            diff.estimate += Micros(get(row, "estimate")?);
            diff.unpriced += count(row, "unpriced")?;
            Ok(())
        })?;
    }
    if diff.changed + diff.kept > 0 {
        compare_fields(session, &mut diff)?;
    }
    Ok(diff)
}

/// Says which fields changed, job by job: the specs of a million jobs are not held.
fn compare_fields(session: &Session, diff: &mut LoadDiff) -> Result<(), QueueError> {
    session.conn.each("comparing changed jobs", CHANGED, &[], |row| {
        let references = if get(row, "refs")? { Changed::Yes } else { Changed::No };
        let fields = stage::changes(text(row, "old")?, text(row, "spec")?, references)?;
        for field in &fields {
            *diff.fields.entry(*field).or_default() += 1;
        }
        if diff.examples.len() < EXAMPLES_MAX {
            diff.examples.push((get(row, "name")?, fields));
        }
        Ok(())
    })
}

/// Brings the batch in line with the staged jobs and forgets them.
pub(super) fn apply(session: &Session, policy: LoadPolicy) -> Result<LoadDiff, QueueError> {
    let what = "loading jobs";
    let diff = diff(session, policy)?;
    let first: i64 = session.conn.value(what, "SELECT coalesce(max(job), 0) + 1 FROM job", &[])?;
    session.conn.run_all(what, &APPLY, params![session.batch, session.now(), first])?;
    let left: Vec<i64> = session.conn.values(what, LEAVE, params![session.batch, first])?;
    depend::skip(session, &left)?;
    session.conn.run_all(what, &CLEAR, &[])?;
    crash_point(CrashPoint::LoadWritten);
    Ok(diff)
}

const FORGET_STAMPS: &str = "DELETE FROM reference_stamp";
const KEEP_STAMP: &str = "
INSERT OR REPLACE INTO reference_stamp (path, bytes, modified_ns, inode, sha256, media)
VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// Replaces all digests of references.
pub(super) fn save_stamps(session: &Session, stamps: &[DigestEntry]) -> Result<(), QueueError> {
    let what = "keeping digests of references";
    session.conn.run(what, FORGET_STAMPS, &[])?;
    for stamp in stamps {
        let values = params![
            stage::path_text(&stamp.path)?,
            signed(stamp.bytes),
            stamp.modified_ns,
            stamp.inode.cast_signed(),
            stamp.digest.to_string(),
            stamp.media.mime()
        ];
        session.conn.run(what, KEEP_STAMP, values)?;
    }
    Ok(())
}
