//! Staging: jobs on their way into the queue wait in temporary tables of the writing connection,
//! which live in a temporary file and not in memory.

use rusqlite::params;

use super::engine::Session;
use super::sql::Sql;
use crate::queue::text::{fallbacks_text, refs_text, spec_text};
use crate::queue::{NewJob, QueueError};

pub(super) use crate::queue::text::{Changed, broken, changes, path_text, shown, spec, tags, text};

/// The temporary tables of a handle: what is staged, what of it is already there, and the lists
/// that settling and publishing work on. A million staged jobs are half a gigabyte, which a load writes
/// once and reads four times: large pages take a sixth off what it costs.
pub(super) const TABLES: &str = "
PRAGMA temp.page_size = 16384;
CREATE TEMP TABLE staged (
    ordinal      INTEGER PRIMARY KEY,
    name         TEXT NOT NULL,
    spec_digest  TEXT NOT NULL,
    input_digest TEXT NOT NULL,
    spec         TEXT NOT NULL,
    refs         TEXT,          -- JSON array; NULL without references
    model        TEXT NOT NULL,
    fallbacks    TEXT,          -- JSON array of models; NULL without any
    output       TEXT NOT NULL,
    output_key   TEXT NOT NULL,
    stream       INTEGER NOT NULL,
    tags         TEXT NOT NULL,
    priority     INTEGER NOT NULL,
    reservation  INTEGER,
    estimate     INTEGER
);
CREATE TEMP TABLE matched (ordinal INTEGER PRIMARY KEY, job INTEGER NOT NULL UNIQUE, what TEXT NOT NULL);
CREATE TEMP TABLE ending (
    slot INTEGER PRIMARY KEY, now INTEGER NOT NULL, job INTEGER NOT NULL UNIQUE, epoch INTEGER NOT NULL,
    attempt INTEGER NOT NULL, outcome TEXT NOT NULL, next TEXT NOT NULL, delay_ms INTEGER NOT NULL,
    http_status INTEGER, error_code TEXT, error TEXT, note TEXT, finish_reason TEXT, response_id TEXT,
    caption TEXT, prompt_tokens INTEGER, candidates_tokens INTEGER, image_tokens INTEGER,
    thoughts_tokens INTEGER, total_tokens INTEGER, bytes INTEGER, first_byte_ms INTEGER, total_ms INTEGER,
    cost INTEGER, cost_at_most INTEGER NOT NULL
);
CREATE TEMP TABLE placed (slot INTEGER PRIMARY KEY, job INTEGER NOT NULL UNIQUE, epoch INTEGER NOT NULL);
";

/// A job as it is staged, made in the caller's task: digests and JSON cost more than the insert.
pub(super) struct Staged {
    ordinal: i64,
    name: String,
    spec_digest: String,
    input_digest: String,
    spec: String,
    refs: Option<String>,
    model: String,
    fallbacks: Option<String>,
    output: String,
    output_key: String,
    stream: bool,
    tags: String,
    priority: i32,
    reservation: Option<i64>,
    estimate: Option<i64>,
}

impl Staged {
    pub(super) fn of(new: NewJob) -> Result<Self, QueueError> {
        let NewJob { job, reservation, estimate } = new;
        let refs = if job.spec.references.is_empty() { None } else { Some(refs_text(&job.spec.references)?) };
        Ok(Self {
            ordinal: super::row::signed(job.ordinal),
            spec_digest: job.spec.spec_digest().to_string(),
            input_digest: job.spec.input_digest().to_string(),
            refs,
            model: job.spec.model.as_str().to_owned(),
            fallbacks: fallbacks_text(&job.fallback_models)?,
            output_key: job.output.key(),
            output: job.output.as_str().to_owned(),
            stream: job.stream,
            tags: text("job_detail.tags", &job.tags)?,
            priority: job.priority,
            reservation: reservation.map(|micros| micros.0),
            estimate: estimate.map(|micros| micros.0),
            name: job.name.as_str().to_owned(),
            spec: spec_text(job.spec)?,
        })
    }
}

const STAGE: &str = "
INSERT INTO temp.staged (ordinal, name, spec_digest, input_digest, spec, refs, model, fallbacks, output,
                         output_key, stream, tags, priority, reservation, estimate)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";

pub(super) fn stage(session: &Session, jobs: Vec<Staged>) -> Result<(), QueueError> {
    for job in jobs {
        let values = params![
            job.ordinal,
            job.name,
            job.spec_digest,
            job.input_digest,
            job.spec,
            job.refs,
            job.model,
            job.fallbacks,
            job.output,
            job.output_key,
            job.stream,
            job.tags,
            job.priority,
            job.reservation,
            job.estimate
        ];
        session.conn.run("staging jobs", STAGE, values)?;
    }
    Ok(())
}
