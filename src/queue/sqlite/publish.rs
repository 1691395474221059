//! Result files: planned, named anew, published, given up, renamed.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, params};

use super::claim::media;
use super::depend::{self, list};
use super::engine::Session;
use super::group::Results;
use super::names::{self, Wanted};
use super::row::{Row, count, get, narrow, parsed, signed, text};
use super::sql::Sql;
use super::stage;
use crate::job::{CrashPoint, Epoch, JobId, OutputId, OutputName, crash_point};
use crate::queue::naming::in_order;
use crate::queue::{OldOutput, OutputMove, PlannedOutput, Publication, QueueError};

/// ?1 JSON array of jobs.
pub(super) const STANDING: &str = "
SELECT o.job, o.name, o.bytes, o.sha256 FROM json_each(?1) e CROSS JOIN output o
WHERE o.job = e.value AND o.status = 'published' ORDER BY o.job, o.position";
pub(super) const PLANNED: &str = "
SELECT o.output, o.job, o.name, o.spool, o.media, o.bytes, o.sha256, o.width, o.height
FROM json_each(?1) e CROSS JOIN output o
WHERE o.job = e.value AND o.status = 'planned' ORDER BY o.job, o.position";

/// Read from the leases: only who has one plans.
const IN_SPOOL: &str = "
SELECT o.spool FROM job j INDEXED BY job_leased CROSS JOIN output o
WHERE j.state = 'running' AND o.job = j.job AND o.status = 'planned'";

const PLACE: &str = "INSERT OR IGNORE INTO temp.placed (slot, job, epoch) VALUES (?1, ?2, ?3)";
/// Strikes off what is not leased as it says or has nothing to publish; the rest is answered and
/// published.
pub(super) const FENCE: &str = "
DELETE FROM temp.placed WHERE NOT EXISTS (
    SELECT 1 FROM job j CROSS JOIN output o
    WHERE j.job = placed.job AND j.epoch = placed.epoch AND j.state = 'running'
      AND o.job = j.job AND o.status = 'planned')";
pub(super) const FINE: &str = "SELECT slot FROM temp.placed ORDER BY slot";
/// What was replaced is forgotten. A job that was described anew meanwhile is to be made again.
pub(super) const PUBLISH: [&str; 4] = [
    "
DELETE FROM output WHERE status = 'published' AND job IN (SELECT job FROM temp.placed)",
    "
UPDATE output SET status = 'published', spool = NULL
WHERE status = 'planned' AND job IN (SELECT job FROM temp.placed)",
    "
UPDATE job SET
    state = CASE WHEN job.revision = a.revision THEN 'succeeded'
                 WHEN job.cancel IS NOT NULL THEN 'cancelled' ELSE 'pending' END,
    cancel = iif(job.revision = a.revision, NULL, job.cancel),
    ready = 1, available_at = 0, worker = NULL, epoch = NULL, attempt = NULL
FROM temp.placed p CROSS JOIN attempt a
WHERE job.job = p.job AND a.attempt = job.attempt",
    "DELETE FROM temp.placed",
];

/// ?1 job, ?2 epoch.
const LEASED: &str = "
SELECT d.output FROM job j CROSS JOIN job_detail d
WHERE j.job = ?1 AND j.epoch = ?2 AND j.state = 'running' AND d.job = j.job";
const OWN: &str = "SELECT output, name_key, status FROM output WHERE job = ?1";
const RENAME: &str = "UPDATE output SET name = ?2, name_key = ?3 WHERE output = ?1";

/// ?1 job, ?2 epoch. The attempt stays as it was settled: it was paid.
const GIVE_UP: &str = "
UPDATE job SET state = iif(cancel IS NULL, 'pending', 'cancelled'), ready = 1, available_at = 0,
               worker = NULL, epoch = NULL, attempt = NULL
WHERE job = ?1 AND epoch = ?2 AND state = 'running'
  AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.attempt = job.attempt AND a.outcome = 'sent')
RETURNING job";
const FORGET_PLANNED: &str = "DELETE FROM output WHERE job = ?1 AND status = 'planned'";

const STALE: &str = "
SELECT o.output, o.job, o.name, o.name_key, o.position, o.bytes, o.sha256, d.output AS wanted
FROM output o INDEXED BY output_stale CROSS JOIN job j CROSS JOIN job_detail d
WHERE o.stale = 1 AND o.status = 'published' AND j.job = o.job AND j.state = 'succeeded' AND d.job = o.job
ORDER BY o.output";
/// ?1 batch, ?2 key, ?3 job: files of other jobs, and jobs that want it.
const OWNERS: &str = "
SELECT o.output FROM output o WHERE o.batch = ?1 AND o.name_key = ?2 AND o.job <> ?3
UNION ALL
SELECT 0 FROM job_detail d CROSS JOIN job j
WHERE d.output_key = ?2 AND d.job <> ?3 AND j.job = d.job AND j.in_manifest = 1";
/// ?1 JSON array of [output, name].
const BEGIN_MOVES: &str = "
UPDATE output SET moving = e.value ->> 1 FROM json_each(?1) e WHERE output.output = e.value ->> 0";
const BEGUN: &str = "
SELECT output, name, moving, bytes, sha256 FROM output INDEXED BY output_moving
WHERE moving IS NOT NULL AND batch = ?1 ORDER BY output";
const WISH: &str = "
SELECT d.output AS wanted, o.position FROM output o CROSS JOIN job_detail d WHERE o.output = ?1 AND d.job = o.job";
const MOVED: &str = "UPDATE output SET name = ?2, name_key = ?3, stale = ?4, moving = NULL WHERE output = ?1";

/// A file that is about to be planned.
pub(super) struct Plan<'f> {
    pub(super) job: i64,
    pub(super) attempt: i64,
    pub(super) slot: usize,
    pub(super) stem: String,
    pub(super) file: &'f PlannedOutput,
}

const PLAN: &str = "
INSERT INTO output (output, batch, job, attempt, kind, position, status, name, name_key, spool, media, bytes,
                    sha256, width, height)
VALUES (?1, ?2, ?3, ?4, 'original', ?5, 'planned', ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

/// A planned file as [`Publication::files`] has it.
type PlannedFile = (OutputId, String, PlannedOutput);

/// Records planned files behind the `last` output; answers with the slot of each.
pub(super) fn plan(
    session: &Session,
    last: i64,
    plans: Vec<Plan>,
) -> Result<Vec<(usize, PlannedFile)>, QueueError> {
    let mut files = Vec::with_capacity(plans.len());
    let mut positions: HashMap<i64, i64> = HashMap::new();
    for (output, Plan { job, attempt, slot, stem, file }) in (last + 1..).zip(plans) {
        let position = positions.entry(job).or_default();
        *position += 1;
        let name = format!("{stem}.{}", file.media.extension());
        let values = params![
            output,
            session.batch,
            job,
            attempt,
            *position,
            name,
            OutputName::key_of(&stem),
            file.spool,
            file.media.mime(),
            signed(file.bytes),
            file.digest.to_string(),
            file.width,
            file.height
        ];
        session.conn.run("planning files", PLAN, values)?;
        files.push((slot, (OutputId(output), name, file.clone())));
    }
    Ok(files)
}

/// The files of each job that stand in `images/` now.
pub(super) fn standing(session: &Session, jobs: &[i64]) -> Result<HashMap<i64, Vec<OldOutput>>, QueueError> {
    let mut by_job: HashMap<i64, Vec<OldOutput>> = HashMap::new();
    session.conn.each("reading published files", STANDING, params![list(jobs)], |row| {
        by_job.entry(get(row, "job")?).or_default().push(OldOutput {
            name: get(row, "name")?,
            bytes: count(row, "bytes")?,
            digest: parsed(row, "sha256")?,
        });
        Ok(())
    })?;
    Ok(by_job)
}

/// What each job has to publish, from the queue: after a crash.
pub(super) fn publications(session: &Session, jobs: &[i64]) -> Result<HashMap<i64, Publication>, QueueError> {
    let mut by_job: HashMap<i64, Publication> = HashMap::new();
    session.conn.each("reading planned files", PLANNED, params![list(jobs)], |row| {
        by_job.entry(get(row, "job")?).or_default().files.push(planned_file(row)?);
        Ok(())
    })?;
    for (job, replaces) in standing(session, jobs)? {
        if let Some(publication) = by_job.get_mut(&job) {
            publication.replaces = replaces;
        }
    }
    Ok(by_job)
}

pub(super) fn in_spool(conn: &Connection) -> Result<Vec<String>, QueueError> {
    conn.values("looking for planned files", IN_SPOOL, &[])
}

fn planned_file(row: &Row) -> Result<PlannedFile, QueueError> {
    let file = PlannedOutput {
        spool: get(row, "spool")?,
        media: media(row)?,
        bytes: count(row, "bytes")?,
        digest: parsed(row, "sha256")?,
        width: narrow(row, "width")?,
        height: narrow(row, "height")?,
    };
    Ok((OutputId(get(row, "output")?), get(row, "name")?, file))
}

/// The planned files of all these leases stand; each has its own answer, in order.
pub(super) fn published(session: &Session, leases: &[(JobId, Epoch)]) -> Results<()> {
    let what = "publishing files";
    for (slot, (job, epoch)) in leases.iter().enumerate() {
        session.conn.run(what, PLACE, params![signed(slot as u64), job.0, epoch.0])?;
    }
    session.conn.run(what, FENCE, &[])?;
    let fine: Vec<i64> = session.conn.values(what, FINE, &[])?;
    session.conn.run_all(what, &PUBLISH, &[])?;

    let mut answers: Vec<Result<(), QueueError>> =
        leases.iter().map(|(job, _)| Err(QueueError::LeaseLost { job: *job })).collect();
    let mut jobs = Vec::new();
    for slot in fine.into_iter().filter_map(|slot| usize::try_from(slot).ok()) {
        if let (Some(answer), Some((job, _))) = (answers.get_mut(slot), leases.get(slot)) {
            *answer = Ok(());
            jobs.push(job.0);
        }
    }
    if depend::any(session)? {
        depend::promote(session, &jobs)?;
    }
    crash_point(CrashPoint::PublishedWritten);
    Ok(answers)
}

/// Gives a planned file the next free name.
pub(super) fn rename(
    session: &Session,
    (job, epoch): (JobId, Epoch),
    output: OutputId,
    taken: &str,
) -> Result<String, QueueError> {
    let what = "renaming a planned file";
    let lost = || QueueError::LeaseLost { job };
    let stem = session.conn.row_or_none(what, LEASED, params![job.0, epoch.0], |row| get(row, "output"))?;
    let stem = stem.ok_or_else(lost)?;
    let mut own = HashSet::new();
    let mut planned = false;
    session.conn.each(what, OWN, params![job.0], |row| {
        if text(row, "status")? == "planned" {
            own.insert(get(row, "name_key")?);
            planned |= get::<i64>(row, "output")? == output.0;
        }
        Ok(())
    })?;
    if !planned {
        return Err(lost());
    }
    let want = Wanted { job: job.0, stem, count: 1 };
    let stem = names::next_free(session, &want, names::stem_of(taken), &own)?;
    let extension = taken.rsplit_once('.').map_or("", |(_, extension)| extension);
    let name = format!("{stem}.{extension}");
    session.conn.run(what, RENAME, params![output.0, name, OutputName::key_of(&stem)])?;
    Ok(name)
}

/// The planned files are gone: the job is to be made again.
pub(super) fn give_up(session: &Session, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
    let what = "giving up planned files";
    let given_up: Vec<i64> = session.conn.values(what, GIVE_UP, params![job.0, epoch.0])?;
    if given_up.is_empty() {
        return Err(QueueError::LeaseLost { job });
    }
    session.conn.run(what, FORGET_PLANNED, params![job.0])?;
    depend::skip(session, &given_up)
}

/// Published files whose job wants another name, in an order in which they can be renamed one by
/// one: a name that another file gives up comes after that file.
pub(super) fn moves(conn: &Connection, batch: i64) -> Result<Vec<OutputMove>, QueueError> {
    let what = "looking for files to rename";
    let mut waiting = Vec::new();
    conn.each(what, STALE, &[], |row| {
        let (name, position): (String, usize) = (get(row, "name")?, narrow(row, "position")?);
        let stem = names::numbered(text(row, "wanted")?, position)?;
        if stem == names::stem_of(&name) {
            return Ok(());
        }
        let (output, job): (i64, i64) = (get(row, "output")?, get(row, "job")?);
        let owners = conn.values(what, OWNERS, params![batch, OutputName::key_of(&stem), job])?;
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let to = format!("{stem}.{extension}");
        let (bytes, digest) = (count(row, "bytes")?, parsed(row, "sha256")?);
        waiting.push((owners, OutputMove { output: OutputId(output), from: name, to, bytes, digest }));
        Ok(())
    })?;
    Ok(in_order(waiting))
}

pub(super) fn begin_moves(session: &Session, moves: &[(OutputId, String)]) -> Result<(), QueueError> {
    let moves: Vec<(i64, &str)> = moves.iter().map(|(output, name)| (output.0, name.as_str())).collect();
    let moves = stage::text("output.moving", &moves)?;
    session.conn.run("noting what is renamed", BEGIN_MOVES, params![moves]).map(drop)
}

pub(super) fn moves_begun(conn: &Connection, batch: i64) -> Result<Vec<OutputMove>, QueueError> {
    conn.rows("looking for renamings", BEGUN, params![batch], |row| {
        Ok(OutputMove {
            output: OutputId(get(row, "output")?),
            from: get(row, "name")?,
            to: get(row, "moving")?,
            bytes: count(row, "bytes")?,
            digest: parsed(row, "sha256")?,
        })
    })
}

pub(super) fn moved(session: &Session, output: OutputId, name: &str) -> Result<(), QueueError> {
    let what = "renaming a file";
    let stem = names::stem_of(name);
    // It may have stepped aside only, or its job has another wish by now.
    let is_other = |row: &Row| Ok(names::numbered(text(row, "wanted")?, narrow(row, "position")?)? != stem);
    let stale = session.conn.row_or_none(what, WISH, params![output.0], is_other)?.unwrap_or(false);
    let values = params![output.0, name, OutputName::key_of(stem), stale];
    session.conn.run(what, MOVED, values).map(drop)
}
