//! Names for result files that no other job's file in the batch has or wants.

use std::collections::{HashMap, HashSet};

use super::fault::{Doing, get};
use super::session::Session;
use crate::job::OutputName;
use crate::queue::QueueError;
use crate::queue::naming::{NUMBER_MAX, number_of};
use crate::queue::text::broken;

pub(super) use crate::queue::naming::{numbered, stem_of};

/// Candidates looked up beyond those that are needed, when the first ones are taken.
const SPARE: usize = 8;

/// $1 jobs, $2 keys, $3 batch: those that belong to another job.
const TAKEN: &str = "
SELECT e.job, e.key FROM unnest($1::bigint[], $2::text[]) AS e (job, key)
WHERE EXISTS (SELECT 1 FROM output o WHERE o.batch = $3 AND o.name_key = e.key AND o.job <> e.job)
   OR EXISTS (SELECT 1 FROM job_detail d JOIN job j ON j.job = d.job
              WHERE d.batch = $3 AND d.output_key = e.key AND d.job <> e.job AND j.in_manifest)";

/// The files of one job that need names.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) job: i64,
    /// The name that the job asks for, without extension.
    pub(super) stem: String,
    pub(super) count: usize,
}

/// Stems for all files, in order: `hero`, `hero-2` …, without those that other jobs have.
pub(super) async fn allot(session: &mut Session, wants: &[Wanted]) -> Result<Vec<Vec<String>>, QueueError> {
    let mut given: Vec<Vec<String>> = wants.iter().map(|_| Vec::new()).collect();
    let mut next: Vec<usize> = vec![1; wants.len()];
    let mut keys: HashMap<String, i64> = HashMap::new();
    let mut spare = 0;
    loop {
        let mut asked: Vec<(usize, String, String)> = Vec::new();
        for (i, want) in wants.iter().enumerate() {
            let missing = want.count.saturating_sub(given[i].len());
            if missing == 0 {
                continue;
            }
            for n in next[i]..next[i] + missing + spare {
                let stem = numbered(&want.stem, n)?;
                let key = OutputName::key_of(&stem);
                asked.push((i, stem, key));
            }
            next[i] += missing + spare;
        }
        if asked.is_empty() {
            return Ok(given);
        }
        let pairs: Vec<(i64, &str)> = asked.iter().map(|(i, _, key)| (wants[*i].job, key.as_str())).collect();
        let taken = taken(session, &pairs).await?;
        for (i, stem, key) in asked {
            let want = &wants[i];
            let free = !taken.contains(&(want.job, key.clone()))
                && keys.get(&key).is_none_or(|owner| *owner == want.job);
            if free && given[i].len() < want.count {
                keys.insert(key, want.job);
                given[i].push(stem);
            }
        }
        spare = SPARE;
    }
}

/// The next free stem of `job` behind the one that is taken.
pub(super) async fn next_free(
    session: &mut Session,
    want: &Wanted,
    taken_stem: &str,
    own: &HashSet<String>,
) -> Result<String, QueueError> {
    let mut n = number_of(&want.stem, taken_stem) + 1;
    while n <= NUMBER_MAX {
        let stem = numbered(&want.stem, n)?;
        let key = OutputName::key_of(&stem);
        if !own.contains(&key) && taken(session, &[(want.job, &key)]).await?.is_empty() {
            return Ok(stem);
        }
        n += 1;
    }
    Err(broken("output.name", &format!("no free name behind `{taken_stem}`")))
}

async fn taken(session: &mut Session, pairs: &[(i64, &str)]) -> Result<HashSet<(i64, String)>, QueueError> {
    let (jobs, keys): (Vec<i64>, Vec<&str>) = pairs.iter().copied().unzip();
    let taken = sqlx::query(TAKEN).bind(jobs).bind(keys).bind(session.batch);
    let rows = taken.fetch_all(&mut session.conn).await.doing("naming files")?;
    rows.iter().map(|row| Ok((get(row, "job")?, get(row, "key")?))).collect()
}
