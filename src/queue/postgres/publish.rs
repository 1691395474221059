//! Result files: planned, named anew, published, given up, renamed.

use std::collections::{HashMap, HashSet};

use sqlx::postgres::PgRow;

use super::claim::media;
use super::depend;
use super::fault::{Doing, count, get, narrow, parsed, signed};
use super::names::{self, Wanted};
use super::news;
use super::session::Session;
use crate::job::{CrashPoint, Epoch, JobId, OutputId, OutputName, crash_point};
use crate::queue::naming::in_order;
use crate::queue::{OldOutput, OutputMove, PlannedOutput, Publication, QueueError};

/// $1 jobs.
const STANDING: &str = "
SELECT o.job, o.name, o.bytes, o.sha256 FROM output o
WHERE o.job = ANY($1) AND (o.status = 'published') IS TRUE ORDER BY o.job, o.position";
const PLANNED: &str = "
SELECT o.output, o.job, o.name, o.spool, o.media, o.bytes, o.sha256, o.width, o.height
FROM output o WHERE o.job = ANY($1) AND (o.status = 'planned') IS TRUE ORDER BY o.job, o.position";

/// Read from the leases: only who has one plans. $1 batch.
const IN_SPOOL: &str = "
SELECT o.spool FROM job j JOIN output o ON o.job = j.job
WHERE j.batch = $1 AND j.state = 'running' AND o.status = 'planned' ORDER BY o.output";

/// $1 batch, then a column each.
const PLAN: &str = "
INSERT INTO output (batch, job, attempt, kind, position, status, name, name_key, spool, media, bytes, sha256, width,
                    height)
SELECT $1, e.job, e.attempt, 'original', e.position, 'planned', e.name, e.name_key, e.spool, e.media, e.bytes,
       e.sha256, e.width, e.height
FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[],
            $10::text[], $11::bigint[], $12::bigint[])
     AS e (job, attempt, position, name, name_key, spool, media, bytes, sha256, width, height)
RETURNING output, job, position";

/// What is not leased as it says or has nothing to publish falls through. What was replaced is forgotten. A
/// job that was described anew meanwhile is to be made again.
const PUBLISH: &str = "
WITH placed AS MATERIALIZED (
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS e (slot, job, epoch)),
fenced AS MATERIALIZED (
    SELECT p.slot, j.job, a.revision AS sent_revision
    FROM placed p JOIN job j ON j.job = p.job JOIN attempt a ON a.attempt = j.attempt
    WHERE j.epoch = p.epoch AND (j.state = 'running') IS TRUE
      AND EXISTS (SELECT 1 FROM output o WHERE o.job = j.job AND (o.status = 'planned') IS TRUE)
    FOR UPDATE OF j),
forgotten AS (
    DELETE FROM output USING fenced f WHERE output.job = f.job AND (output.status = 'published') IS TRUE),
standing AS (
    UPDATE output SET status = 'published', spool = NULL
    FROM fenced f WHERE output.job = f.job AND (output.status = 'planned') IS TRUE),
done AS (
    UPDATE job SET
        state = CASE WHEN job.revision = f.sent_revision THEN 'succeeded'
                     WHEN job.cancel IS NOT NULL THEN 'cancelled' ELSE 'pending' END,
        cancel = CASE WHEN job.revision = f.sent_revision THEN NULL ELSE job.cancel END,
        ready = true, available_at = 0, worker = NULL, epoch = NULL, attempt = NULL
    FROM fenced f WHERE job.job = f.job)
SELECT f.slot, f.job, EXISTS (SELECT 1 FROM dependency) AS needed FROM fenced f";

/// $1 job, $2 epoch.
const LEASED: &str = "
SELECT d.output FROM job j JOIN job_detail d ON d.job = j.job
WHERE j.job = $1 AND j.epoch = $2 AND j.state = 'running' FOR UPDATE OF j";
const OWN: &str = "SELECT output, name_key, status FROM output WHERE job = $1";
const RENAME: &str = "UPDATE output SET name = $2, name_key = $3 WHERE output = $1";

/// $1 job, $2 epoch. The attempt stays as it was settled: it was paid.
const GIVE_UP: &str = "
UPDATE job SET state = CASE WHEN cancel IS NULL THEN 'pending' ELSE 'cancelled' END, ready = true, available_at = 0,
               worker = NULL, epoch = NULL, attempt = NULL
WHERE job = $1 AND epoch = $2 AND state = 'running'
  AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.attempt = job.attempt AND a.outcome = 'sent')
RETURNING job";
const FORGET_PLANNED: &str = "DELETE FROM output WHERE job = $1 AND status = 'planned'";

/// $1 batch.
const STALE: &str = "
SELECT o.output, o.job, o.name, o.position, o.bytes, o.sha256, d.output AS wanted
FROM output o JOIN job j ON j.job = o.job JOIN job_detail d ON d.job = o.job
WHERE o.batch = $1 AND o.stale AND o.status = 'published' AND j.state = 'succeeded' ORDER BY o.output";
/// $1 batch, $2 key, $3 job: files of other jobs, and jobs that want it.
const OWNERS: &str = "
SELECT o.output FROM output o WHERE o.batch = $1 AND o.name_key = $2 AND o.job <> $3
UNION ALL
SELECT 0 FROM job_detail d JOIN job j ON j.job = d.job
WHERE d.batch = $1 AND d.output_key = $2 AND d.job <> $3 AND j.in_manifest";
/// $1 files, $2 their names to be.
const BEGIN_MOVES: &str = "
UPDATE output SET moving = e.name FROM unnest($1::bigint[], $2::text[]) AS e (output, name)
WHERE output.output = e.output";
/// $1 batch.
const BEGUN: &str = "
SELECT output, name, moving, bytes, sha256 FROM output WHERE moving IS NOT NULL AND batch = $1 ORDER BY output";
const WISH: &str = "
SELECT d.output AS wanted, o.position FROM output o JOIN job_detail d ON d.job = o.job WHERE o.output = $1";
const MOVED: &str = "UPDATE output SET name = $2, name_key = $3, stale = $4, moving = NULL WHERE output = $1";

/// A file that is about to be planned.
pub(super) struct Plan<'f> {
    pub(super) job: i64,
    pub(super) attempt: i64,
    pub(super) slot: usize,
    pub(super) stem: String,
    pub(super) file: &'f PlannedOutput,
}

/// A planned file as [`Publication::files`] has it.
type PlannedFile = (OutputId, String, PlannedOutput);

#[derive(Default)]
struct Columns {
    job: Vec<i64>,
    attempt: Vec<i64>,
    position: Vec<i64>,
    name: Vec<String>,
    name_key: Vec<String>,
    spool: Vec<String>,
    media: Vec<&'static str>,
    bytes: Vec<i64>,
    sha256: Vec<String>,
    width: Vec<i64>,
    height: Vec<i64>,
}

/// Records planned files; answers with the slot of each.
pub(super) async fn plan(
    session: &mut Session,
    plans: Vec<Plan<'_>>,
) -> Result<Vec<(usize, PlannedFile)>, QueueError> {
    let what = "planning files";
    let mut columns = Columns::default();
    let mut places: HashMap<(i64, i64), usize> = HashMap::new();
    let mut last: HashMap<i64, i64> = HashMap::new();
    for (place, plan) in plans.iter().enumerate() {
        let position = last.entry(plan.job).or_default();
        *position += 1;
        places.insert((plan.job, *position), place);
        columns.job.push(plan.job);
        columns.attempt.push(plan.attempt);
        columns.position.push(*position);
        columns.name.push(format!("{}.{}", plan.stem, plan.file.media.extension()));
        columns.name_key.push(OutputName::key_of(&plan.stem));
        columns.spool.push(plan.file.spool.clone());
        columns.media.push(plan.file.media.mime());
        columns.bytes.push(signed(plan.file.bytes));
        columns.sha256.push(plan.file.digest.to_string());
        columns.width.push(i64::from(plan.file.width));
        columns.height.push(i64::from(plan.file.height));
    }
    let rows = sqlx::query(PLAN)
        .bind(session.batch)
        .bind(&columns.job)
        .bind(&columns.attempt)
        .bind(&columns.position)
        .bind(&columns.name)
        .bind(&columns.name_key)
        .bind(&columns.spool)
        .bind(&columns.media)
        .bind(&columns.bytes)
        .bind(&columns.sha256)
        .bind(&columns.width)
        .bind(&columns.height)
        .fetch_all(&mut session.conn)
        .await
        .doing(what)?;
    let mut files = Vec::with_capacity(rows.len());
    for row in &rows {
        let place = places.get(&(get(row, "job")?, get(row, "position")?)).copied();
        let Some((place, plan)) = place.and_then(|place| Some((place, plans.get(place)?))) else { continue };
        let name = columns.name.get(place).cloned().unwrap_or_default();
        files.push((place, (plan.slot, (OutputId(get(row, "output")?), name, plan.file.clone()))));
    }
    files.sort_by_key(|(place, _)| *place);
    Ok(files.into_iter().map(|(_, file)| file).collect())
}

/// The files of each job that stand in `images/` now.
pub(super) async fn standing(
    session: &mut Session,
    jobs: &[i64],
) -> Result<HashMap<i64, Vec<OldOutput>>, QueueError> {
    let rows = sqlx::query(STANDING).bind(jobs).fetch_all(&mut session.conn).await;
    let mut by_job: HashMap<i64, Vec<OldOutput>> = HashMap::new();
    for row in &rows.doing("reading published files")? {
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
    let rows = sqlx::query(PLANNED).bind(jobs).fetch_all(&mut session.conn).await;
    let mut by_job: HashMap<i64, Publication> = HashMap::new();
    for row in &rows.doing("reading planned files")? {
        by_job.entry(get(row, "job")?).or_default().files.push(planned_file(row)?);
    }
    for (job, replaces) in standing(session, jobs).await? {
        if let Some(publication) = by_job.get_mut(&job) {
            publication.replaces = replaces;
        }
    }
    Ok(by_job)
}

pub(super) async fn in_spool(session: &mut Session) -> Result<Vec<String>, QueueError> {
    let planned = sqlx::query_scalar(IN_SPOOL).bind(session.batch);
    planned.fetch_all(&mut session.conn).await.doing("looking for planned files")
}

fn planned_file(row: &PgRow) -> Result<PlannedFile, QueueError> {
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
pub(super) async fn published(
    session: &mut Session,
    leases: &[(JobId, Epoch)],
) -> Result<Vec<Result<(), QueueError>>, QueueError> {
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let mut seen = HashSet::new();
    let (mut slots, mut jobs, mut epochs) = (Vec::new(), Vec::new(), Vec::new());
    for (slot, lease) in leases.iter().enumerate().filter(|(_, lease)| seen.insert(**lease)) {
        slots.push(signed(slot as u64));
        jobs.push(lease.0.0);
        epochs.push(lease.1.0);
    }
    let publish = sqlx::query(PUBLISH).bind(slots).bind(jobs).bind(epochs);
    let rows = publish.fetch_all(&mut session.conn).await.doing("publishing files")?;
    let mut answers: Vec<Result<(), QueueError>> =
        leases.iter().map(|(job, _)| Err(QueueError::LeaseLost { job: *job })).collect();
    let mut succeeded = Vec::with_capacity(rows.len());
    let mut needed = false;
    for row in &rows {
        needed = get(row, "needed")?;
        let slot: i64 = get(row, "slot")?;
        if let Some(answer) = usize::try_from(slot).ok().and_then(|slot| answers.get_mut(slot)) {
            *answer = Ok(());
        }
        succeeded.push(get(row, "job")?);
    }
    if needed {
        depend::promote(session, &succeeded).await?;
        news::tell(session).await?;
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
    let leased = sqlx::query_scalar(LEASED).bind(job.0).bind(epoch.0);
    let stem: Option<String> = leased.fetch_optional(&mut session.conn).await.doing(what)?;
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
    let rename = sqlx::query(RENAME).bind(output.0).bind(name.clone()).bind(OutputName::key_of(&stem));
    rename.execute(&mut session.conn).await.doing(what)?;
    Ok(name)
}

/// The planned files are gone: the job is to be made again.
pub(super) async fn give_up(session: &mut Session, job: JobId, epoch: Epoch) -> Result<(), QueueError> {
    let what = "giving up planned files";
    let give_up = sqlx::query(GIVE_UP).bind(job.0).bind(epoch.0);
    if give_up.fetch_optional(&mut session.conn).await.doing(what)?.is_none() {
        return Err(QueueError::LeaseLost { job });
    }
    sqlx::query(FORGET_PLANNED).bind(job.0).execute(&mut session.conn).await.doing(what)?;
    news::tell(session).await?;
    depend::skip(session, &[job.0]).await
}

/// Published files whose job wants another name, in an order in which they can be renamed one by one.
pub(super) async fn moves(session: &mut Session) -> Result<Vec<OutputMove>, QueueError> {
    let what = "looking for files to rename";
    let batch = session.batch;
    let rows = sqlx::query(STALE).bind(batch).fetch_all(&mut session.conn).await.doing(what)?;
    let mut waiting = Vec::new();
    for row in &rows {
        let (name, position): (String, usize) = (get(row, "name")?, narrow(row, "position")?);
        let stem = names::numbered(get(row, "wanted")?, position)?;
        let (output, job): (i64, i64) = (get(row, "output")?, get(row, "job")?);
        if stem == names::stem_of(&name) {
            continue;
        }
        let owners = sqlx::query_scalar(OWNERS).bind(batch).bind(OutputName::key_of(&stem)).bind(job);
        let owners: Vec<i64> = owners.fetch_all(&mut session.conn).await.doing(what)?;
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let to = format!("{stem}.{extension}");
        let (bytes, digest) = (count(row, "bytes")?, parsed(row, "sha256")?);
        waiting.push((owners, OutputMove { output: OutputId(output), from: name, to, bytes, digest }));
    }
    Ok(in_order(waiting))
}

pub(super) async fn begin_moves(
    session: &mut Session,
    (outputs, names): (&[i64], &[String]),
) -> Result<(), QueueError> {
    let begin = sqlx::query(BEGIN_MOVES).bind(outputs).bind(names);
    begin.execute(&mut session.conn).await.doing("noting what is renamed").map(drop)
}

pub(super) async fn moves_begun(session: &mut Session) -> Result<Vec<OutputMove>, QueueError> {
    let begun = sqlx::query(BEGUN).bind(session.batch).fetch_all(&mut session.conn).await;
    let one = |row: &PgRow| {
        Ok(OutputMove {
            output: OutputId(get(row, "output")?),
            from: get(row, "name")?,
            to: get(row, "moving")?,
            bytes: count(row, "bytes")?,
            digest: parsed(row, "sha256")?,
        })
    };
    begun.doing("looking for renamings")?.iter().map(one).collect()
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
    let moved =
        sqlx::query(MOVED).bind(output.0).bind(name.to_owned()).bind(OutputName::key_of(stem)).bind(stale);
    moved.execute(&mut session.conn).await.doing(what).map(drop)
}
