//! Staging: jobs on their way into the queue wait in temporary tables of the writing connection, which no
//! other connection sees. Where that connection breaks, they are gone, and the load fails instead of taking
//! their absence for jobs that left the manifest.

use super::connect::Role;
use super::fault::{Doing, signed};
use super::session::Session;
use crate::queue::text::{fallbacks_text, refs_text, spec_text, text};
use crate::queue::{NewJob, QueueError};

/// What is staged, what of it is already there, and what is new, with its number.
pub(super) const TABLES: &str = "
CREATE TEMP TABLE IF NOT EXISTS staged (
    ordinal      bigint PRIMARY KEY,
    name         text COLLATE \"C\" NOT NULL,
    spec_digest  text NOT NULL,
    input_digest text NOT NULL,
    spec         text NOT NULL,
    refs         json,          -- array; NULL without references
    model        text COLLATE \"C\" NOT NULL,
    fallbacks    text[] COLLATE \"C\",
    output       text NOT NULL,
    output_key   text COLLATE \"C\" NOT NULL,
    stream       boolean NOT NULL,
    tags         text NOT NULL,
    priority     integer NOT NULL,
    reservation  bigint,
    estimate     bigint
);
CREATE TEMP TABLE IF NOT EXISTS matched (
    ordinal bigint PRIMARY KEY, job bigint NOT NULL UNIQUE, what text NOT NULL);
CREATE TEMP TABLE IF NOT EXISTS fresh (ordinal bigint PRIMARY KEY, job bigint NOT NULL UNIQUE);
";

const STAGE: &str = "
INSERT INTO staged (ordinal, name, spec_digest, input_digest, spec, refs, model, fallbacks, output, output_key,
                    stream, tags, priority, reservation, estimate)
SELECT ordinal, name, spec_digest, input_digest, spec, refs::json, model,
       CASE WHEN fallbacks IS NOT NULL THEN ARRAY(SELECT json_array_elements_text(fallbacks::json)) END,
       output, output_key, stream, tags, priority, reservation, estimate
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::text[], $10::text[], $11::boolean[], $12::text[], $13::integer[], $14::bigint[], $15::bigint[])
     AS e (ordinal, name, spec_digest, input_digest, spec, refs, model, fallbacks, output, output_key, stream,
           tags, priority, reservation, estimate)";

/// Jobs as they are staged, a column each, made in the caller's task: digests and JSON cost more than the
/// insert.
#[derive(Default)]
pub(super) struct Columns {
    ordinal: Vec<i64>,
    name: Vec<String>,
    spec_digest: Vec<String>,
    input_digest: Vec<String>,
    spec: Vec<String>,
    refs: Vec<Option<String>>,
    model: Vec<String>,
    fallbacks: Vec<Option<String>>,
    output: Vec<String>,
    output_key: Vec<String>,
    stream: Vec<bool>,
    tags: Vec<String>,
    priority: Vec<i32>,
    reservation: Vec<Option<i64>>,
    estimate: Vec<Option<i64>>,
}

impl Columns {
    pub(super) fn of(jobs: Vec<NewJob>) -> Result<Self, QueueError> {
        let mut columns = Self::default();
        for job in jobs {
            columns.add(job)?;
        }
        Ok(columns)
    }

    fn add(&mut self, NewJob { job, reservation, estimate }: NewJob) -> Result<(), QueueError> {
        let references = &job.spec.references;
        self.refs.push(if references.is_empty() { None } else { Some(refs_text(references)?) });
        self.ordinal.push(signed(job.ordinal));
        self.spec_digest.push(job.spec.spec_digest().to_string());
        self.input_digest.push(job.spec.input_digest().to_string());
        self.model.push(job.spec.model.as_str().to_owned());
        self.fallbacks.push(fallbacks_text(&job.fallback_models)?);
        self.output_key.push(job.output.key());
        self.output.push(job.output.as_str().to_owned());
        self.stream.push(job.stream);
        self.tags.push(text("job_detail.tags", &job.tags)?);
        self.priority.push(job.priority);
        self.reservation.push(reservation.map(|micros| micros.0));
        self.estimate.push(estimate.map(|micros| micros.0));
        self.name.push(job.name.as_str().to_owned());
        self.spec.push(spec_text(job.spec)?);
        Ok(())
    }
}

/// Makes the tables if they are not there. A connection that may only look has them from its beginning.
pub(super) async fn make_tables(session: &mut Session) -> Result<(), QueueError> {
    if session.role == Role::Look { Ok(()) } else { session.run("making temporary tables", TABLES).await }
}

pub(super) async fn stage(session: &mut Session, jobs: &Columns) -> Result<(), QueueError> {
    let what = "staging jobs";
    session.check_staging()?;
    make_tables(session).await?;
    session.has_staged = true;
    sqlx::query(STAGE)
        .bind(&jobs.ordinal)
        .bind(&jobs.name)
        .bind(&jobs.spec_digest)
        .bind(&jobs.input_digest)
        .bind(&jobs.spec)
        .bind(&jobs.refs)
        .bind(&jobs.model)
        .bind(&jobs.fallbacks)
        .bind(&jobs.output)
        .bind(&jobs.output_key)
        .bind(&jobs.stream)
        .bind(&jobs.tags)
        .bind(&jobs.priority)
        .bind(&jobs.reservation)
        .bind(&jobs.estimate)
        .execute(&mut session.conn)
        .await
        .doing(what)
        .map(drop)
}
