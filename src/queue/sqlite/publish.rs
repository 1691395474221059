//! Result files: planned, named anew, published, given up, renamed.

use std::collections::{HashMap, HashSet};

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::claim::media;
use super::depend::{self, list};
use super::engine::Session;
use super::fault::{Doing, count, get, narrow, parsed, signed};
use super::names::{self, Wanted};
use super::rows::{self, Row, Values};
use super::stage;
use crate::job::{CrashPoint, Epoch, JobId, OutputId, OutputName, crash_point};
use crate::queue::naming::in_order;
use crate::queue::{OldOutput, OutputMove, PlannedOutput, Publication, QueueError};

/// $1 JSON array of jobs.
pub(super) const STANDING: &str = "
SELECT o.job, o.name, o.bytes, o.sha256 FROM json_each($1) e CROSS JOIN output o
WHERE o.job = e.value AND o.status = 'published' ORDER BY o.job, o.position";
pub(super) const PLANNED: &str = "
SELECT o.output, o.job, o.name, o.spool, o.media, o.bytes, o.sha256, o.width, o.height
FROM json_each($1) e CROSS JOIN output o
WHERE o.job = e.value AND o.status = 'planned' ORDER BY o.job, o.position";

/// Read from the leases: only who has one plans.
const IN_SPOOL: &str = "
SELECT o.spool FROM job j INDEXED BY job_leased CROSS JOIN output o
WHERE j.state = 'running' AND o.job = j.job AND o.status = 'planned'";

/// Strikes off what is not leased as it says or has nothing to publish; the rest is answered and
/// published. What was replaced is forgotten. A job that was described anew meanwhile is to be made
/// again.
pub(super) const PUBLISH: &str = "
DELETE FROM temp.placed WHERE NOT EXISTS (
    SELECT 1 FROM job j CROSS JOIN output o
    WHERE j.job = placed.job AND j.epoch = placed.epoch AND j.state = 'running'
      AND o.job = j.job AND o.status = 'planned');
SELECT json_group_array(slot) AS fine, EXISTS (SELECT 1 FROM dependency) AS needed FROM temp.placed;

DELETE FROM output WHERE status = 'published' AND job IN (SELECT job FROM temp.placed);
UPDATE output SET status = 'published', spool = NULL
WHERE status = 'planned' AND job IN (SELECT job FROM temp.placed);
UPDATE job SET
    state = CASE WHEN job.revision = a.revision THEN 'succeeded'
                 WHEN job.cancel IS NOT NULL THEN 'cancelled' ELSE 'pending' END,
    cancel = iif(job.revision = a.revision, NULL, job.cancel),
    ready = 1, available_at = 0, worker = NULL, epoch = NULL, attempt = NULL
FROM temp.placed p CROSS JOIN attempt a
WHERE job.job = p.job AND a.attempt = job.attempt;
DELETE FROM temp.placed";

/// $1 job, $2 epoch.
const LEASED: &str = "
SELECT d.output FROM job j CROSS JOIN job_detail d
WHERE j.job = $1 AND j.epoch = $2 AND j.state = 'running' AND d.job = j.job";
const OWN: &str = "SELECT output, name_key, status FROM output WHERE job = $1";
const RENAME: &str = "UPDATE output SET name = $2, name_key = $3 WHERE output = $1";

/// $1 job, $2 epoch. The attempt stays as it was settled: it was paid.
const GIVE_UP: &str = "
UPDATE job SET state = iif(cancel IS NULL, 'pending', 'cancelled'), ready = 1, available_at = 0,
               worker = NULL, epoch = NULL, attempt = NULL
WHERE job = $1 AND epoch = $2 AND state = 'running'
  AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.attempt = job.attempt AND a.outcome = 'sent')
RETURNING job";
const FORGET_PLANNED: &str = "DELETE FROM output WHERE job = $1 AND status = 'planned'";

const STALE: &str = "
SELECT o.output, o.job, o.name, o.name_key, o.position, o.bytes, o.sha256, d.output AS wanted
FROM output o INDEXED BY output_stale CROSS JOIN job j CROSS JOIN job_detail d
WHERE o.stale = 1 AND o.status = 'published' AND j.job = o.job AND j.state = 'succeeded' AND d.job = o.job
ORDER BY o.output";
/// $1 batch, $2 key, $3 job: files of other jobs, and jobs that want it.
const OWNERS: &str = "
SELECT o.output FROM output o WHERE o.batch = $1 AND o.name_key = $2 AND o.job <> $3
UNION ALL
SELECT 0 FROM job_detail d CROSS JOIN job j
WHERE d.output_key = $2 AND d.job <> $3 AND j.job = d.job AND j.in_manifest = 1";
/// $1 JSON array of [output, name].
const BEGIN_MOVES: &str = "
UPDATE output SET moving = e.value ->> 1 FROM json_each($1) e WHERE output.output = e.value ->> 0";
const BEGUN: &str = "
SELECT output, name, moving, bytes, sha256 FROM output INDEXED BY output_moving
WHERE moving IS NOT NULL AND batch = $1 ORDER BY output";
const WISH: &str = "
SELECT d.output AS wanted, o.position FROM output o CROSS JOIN job_detail d WHERE o.output = $1 AND d.job = o.job";
const MOVED: &str = "UPDATE output SET name = $2, name_key = $3, stale = $4, moving = NULL WHERE output = $1";

/// A file that is about to be planned.
pub(super) struct Plan<'f> {
    pub(super) job: i64,
    pub(super) attempt: i64,
    pub(super) slot: usize,
    pub(super) stem: String,
    pub(super) file: &'f PlannedOutput,
}

struct OutputValues<'f> {
    output: i64,
    batch: i64,
    job: i64,
    attempt: i64,
    position: i64,
    name: String,
    key: String,
    file: &'f PlannedOutput,
}

impl Row for OutputValues<'_> {
    const HEAD: &'static str = "INSERT INTO output (output, batch, job, attempt, kind, position, status, name, \
                                name_key, spool, media, bytes, sha256, width, height)";
    const COLUMNS: usize = 15;

    fn values(self, to: &mut Values) {
        to.put(self.output);
        to.put(self.batch);
        to.put(self.job);
        to.put(self.attempt);
        to.put("original");
        to.put(self.position);
        to.put("planned");
        to.put(self.name);
        to.put(self.key);
        to.text(&self.file.spool);
        to.put(self.file.media.mime());
        to.put(signed(self.file.bytes));
        to.put(self.file.digest.to_string());
        to.put(self.file.width);
        to.put(self.file.height);
    }
}

/// A planned file as [`Publication::files`] has it.
type PlannedFile = (OutputId, String, PlannedOutput);

/// Records planned files behind the `last` output; answers with the slot of each.
pub(super) async fn plan(
    session: &mut Session,
    last: i64,
    plans: Vec<Plan<'_>>,
) -> Result<Vec<(usize, PlannedFile)>, QueueError> {
    let what = "planning files";
    let batch = session.batch;
    let mut files = Vec::with_capacity(plans.len());
    let mut values = Vec::with_capacity(plans.len());
    let mut positions: HashMap<i64, i64> = HashMap::new();
    for (output, plan) in (last + 1..).zip(plans) {
        let position = positions.entry(plan.job).or_default();
        *position += 1;
        let name = format!("{}.{}", plan.stem, plan.file.media.extension());
        values.push(OutputValues {
            output,
            batch,
            job: plan.job,
            attempt: plan.attempt,
            position: *position,
            name: name.clone(),
            key: OutputName::key_of(&plan.stem),
            file: plan.file,
        });
        files.push((plan.slot, (OutputId(output), name, plan.file.clone())));
    }
    rows::insert(&mut session.conn, what, values).await?;
    Ok(files)
}

/// The files of each job that stand in `images/` now.
pub(super) async fn standing(
    session: &mut Session,
    jobs: &[i64],
) -> Result<HashMap<i64, Vec<OldOutput>>, QueueError> {
    let rows = sqlx::query(STANDING)
        .bind(list(jobs))
        .fetch_all(&mut session.conn)
        .await
        .doing("reading published files")?;
    let mut by_job: HashMap<i64, Vec<OldOutput>> = HashMap::new();
    for row in &rows {
        by_job.entry(get(row, "job")?).or_default().push(OldOutput {
            name: get(row, "name")?,
            bytes: count(row, "bytes")?,
            digest: parsed(row, "sha256")?,
        });
    }
    Ok(by_job)
}

/// What each job has to publish, from the queue: after a crash.
pub(super) async fn publications(
    session: &mut Session,
    jobs: &[i64],
) -> Result<HashMap<i64, Publication>, QueueError> {
    let rows = sqlx::query(PLANNED)
        .bind(list(jobs))
        .fetch_all(&mut session.conn)
        .await
        .doing("reading planned files")?;
    let mut by_job: HashMap<i64, Publication> = HashMap::new();
    for row in &rows {
        by_job.entry(get(row, "job")?).or_default().files.push(planned_file(row)?);
    }
    for (job, replaces) in standing(session, jobs).await? {
        if let Some(publication) = by_job.get_mut(&job) {
            publication.replaces = replaces;
        }
    }
    Ok(by_job)
}

pub(super) async fn in_spool(conn: &mut SqliteConnection) -> Result<Vec<String>, QueueError> {
    sqlx::query_scalar(IN_SPOOL).fetch_all(conn).await.doing("looking for planned files")
}

fn planned_file(row: &SqliteRow) -> Result<PlannedFile, QueueError> {
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

struct Placed(usize, (JobId, Epoch));

impl Row for Placed {
    const HEAD: &'static str = "INSERT OR IGNORE INTO temp.placed (slot, job, epoch)";
    const COLUMNS: usize = 3;

    fn values(self, to: &mut Values) {
        let Self(slot, (job, epoch)) = self;
        to.put(signed(slot as u64));
        to.put(job.0);
        to.put(epoch.0);
    }
}

/// The planned files of all these leases stand; each has its own answer, in order.
pub(super) async fn published(
    session: &mut Session,
    leases: &[(JobId, Epoch)],
) -> Result<Vec<Result<(), QueueError>>, QueueError> {
    let what = "publishing files";
    let placed = leases.iter().enumerate().map(|(slot, lease)| Placed(slot, *lease)).collect();
    let rows = rows::insert_then(&mut session.conn, what, placed, PUBLISH).await?;
    let mut answers: Vec<Result<(), QueueError>> =
        leases.iter().map(|(job, _)| Err(QueueError::LeaseLost { job: *job })).collect();
    let mut jobs = Vec::new();
    let mut needed = false;
    if let Some(row) = rows.first() {
        needed = get(row, "needed")?;
        for slot in stage::values::<usize>("published files", get(row, "fine")?)? {
            if let (Some(answer), Some((job, _))) = (answers.get_mut(slot), leases.get(slot)) {
                *answer = Ok(());
                jobs.push(job.0);
            }
        }
    }
    if needed {
        depend::promote(session, &jobs).await?;
    }
    crash_point(CrashPoint::PublishedWritten);
    Ok(answers)
}

/// Gives a planned file the next free name.
pub(super) async fn rename(
    session: &mut Session,
    (job, epoch): (JobId, Epoch),
    output: OutputId,
    taken: &str,
) -> Result<String, QueueError> {
    let what = "renaming a planned file";
    let lost = || QueueError::LeaseLost { job };
    let stem: Option<String> = sqlx::query_scalar(LEASED)
        .bind(job.0)
        .bind(epoch.0)
        .fetch_optional(&mut session.conn)
        .await
        .doing(what)?;
    let stem = stem.ok_or_else(lost)?;
    let rows = sqlx::query(OWN).bind(job.0).fetch_all(&mut session.conn).await.doing(what)?;
    let mut own = HashSet::new();
    let mut planned = false;
    for row in &rows {
        let (id, status): (i64, &str) = (get(row, "output")?, get(row, "status")?);
        if status == "planned" {
            own.insert(get(row, "name_key")?);
            planned |= id == output.0;
        }
    }
    if !planned {
        return Err(lost());
    }
    let want = Wanted { job: job.0, stem, count: 1 };
    let stem = names::next_free(session, &want, names::stem_of(taken), &own).await?;
    let extension = taken.rsplit_once('.').map_or("", |(_, extension)| extension);
    let name = format!("{stem}.{extension}");
    sqlx::query(RENAME)
        .bind(output.0)
        .bind(name.clone())
        .bind(OutputName::key_of(&stem))
        .execute(&mut session.conn)
        .await
        .doing(what)?;
    Ok(name)
}

/// The planned files are gone: the job is to be made again.
pub(super) async fn give_up(session: &mut Session, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
    let what = "giving up planned files";
    let row =
        sqlx::query(GIVE_UP).bind(job.0).bind(epoch.0).fetch_optional(&mut session.conn).await.doing(what)?;
    if row.is_none() {
        return Err(QueueError::LeaseLost { job });
    }
    sqlx::query(FORGET_PLANNED).bind(job.0).execute(&mut session.conn).await.doing(what)?;
    depend::skip(session, &[job.0]).await
}

/// Published files whose job wants another name, in an order in which they can be renamed one by
/// one: a name that another file gives up comes after that file.
pub(super) async fn moves(conn: &mut SqliteConnection, batch: i64) -> Result<Vec<OutputMove>, QueueError> {
    let what = "looking for files to rename";
    let rows = sqlx::query(STALE).fetch_all(&mut *conn).await.doing(what)?;
    let mut waiting = Vec::new();
    for row in &rows {
        let (name, position): (String, usize) = (get(row, "name")?, narrow(row, "position")?);
        let stem = names::numbered(get(row, "wanted")?, position)?;
        let key = OutputName::key_of(&stem);
        let (output, job): (i64, i64) = (get(row, "output")?, get(row, "job")?);
        if stem == names::stem_of(&name) {
            continue;
        }
        let owners: Vec<i64> = sqlx::query_scalar(OWNERS)
            .bind(batch)
            .bind(key)
            .bind(job)
            .fetch_all(&mut *conn)
            .await
            .doing(what)?;
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let to = format!("{stem}.{extension}");
        let (bytes, digest) = (count(row, "bytes")?, parsed(row, "sha256")?);
        waiting.push((owners, OutputMove { output: OutputId(output), from: name, to, bytes, digest }));
    }
    Ok(in_order(waiting))
}

pub(super) async fn begin_moves(
    session: &mut Session,
    moves: Vec<(OutputId, String)>,
) -> Result<(), QueueError> {
    let moves: Vec<(i64, &str)> = moves.iter().map(|(output, name)| (output.0, name.as_str())).collect();
    let begin = sqlx::query(BEGIN_MOVES).bind(stage::text("output.moving", &moves)?);
    begin.execute(&mut session.conn).await.doing("noting what is renamed").map(drop)
}

pub(super) async fn moves_begun(
    conn: &mut SqliteConnection,
    batch: i64,
) -> Result<Vec<OutputMove>, QueueError> {
    let rows = sqlx::query(BEGUN).bind(batch).fetch_all(conn).await.doing("looking for renamings")?;
    let begun = |row: &SqliteRow| {
        Ok(OutputMove {
            output: OutputId(get(row, "output")?),
            from: get(row, "name")?,
            to: get(row, "moving")?,
            bytes: count(row, "bytes")?,
            digest: parsed(row, "sha256")?,
        })
    };
    rows.iter().map(begun).collect()
}

pub(super) async fn moved(session: &mut Session, output: OutputId, name: &str) -> Result<(), QueueError> {
    let what = "renaming a file";
    let wish = sqlx::query(WISH).bind(output.0).fetch_optional(&mut session.conn).await.doing(what)?;
    let stem = names::stem_of(name);
    // It may have stepped aside only, or its job has another wish by now.
    let stale = match wish {
        Some(row) => names::numbered(get(&row, "wanted")?, narrow(&row, "position")?)? != stem,
        None => false,
    };
    sqlx::query(MOVED)
        .bind(output.0)
        .bind(name.to_owned())
        .bind(OutputName::key_of(stem))
        .bind(stale)
        .execute(&mut session.conn)
        .await
        .doing(what)
        .map(drop)
}
