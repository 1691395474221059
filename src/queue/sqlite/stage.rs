//! Staging: jobs on their way into the queue wait in temporary tables of the writing connection,
//! which live in a temporary file and not in memory. And how a description is kept as text.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::engine::Session;
use super::rows::{self, Row, Values};
use crate::job::{Modalities, ModelName, Reference, Spec, SpecField};
use crate::queue::{NewJob, QueueError};

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
            ordinal: super::fault::signed(job.ordinal),
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
            spec: SpecText::of(job.spec)?,
        })
    }
}

impl Row for Staged {
    const HEAD: &'static str = "INSERT INTO temp.staged (ordinal, name, spec_digest, input_digest, spec, refs, \
                                model, fallbacks, output, output_key, stream, tags, priority, reservation, \
                                estimate)";
    const COLUMNS: usize = 15;

    fn values(self, to: &mut Values) {
        to.put(self.ordinal);
        to.put(self.name);
        to.put(self.spec_digest);
        to.put(self.input_digest);
        to.put(self.spec);
        to.put(self.refs);
        to.put(self.model);
        to.put(self.fallbacks);
        to.put(self.output);
        to.put(self.output_key);
        to.put(self.stream);
        to.put(self.tags);
        to.put(self.priority);
        to.put(self.reservation);
        to.put(self.estimate);
    }
}

pub(super) async fn stage(session: &mut Session, jobs: Vec<Staged>) -> Result<(), QueueError> {
    rows::insert(&mut session.conn, "staging jobs", jobs).await
}

/// [`Spec`] without its references, as the queue keeps it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct SpecText {
    prompt: String,
    model: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aspect_ratio: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_size: Option<String>,
    modalities: Vec<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    extra: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct RefText {
    path: String,
    digest: String,
    bytes: u64,
    media: String,
}

impl SpecText {
    fn of(spec: Spec) -> Result<String, QueueError> {
        let kept = Self {
            prompt: spec.prompt,
            model: spec.model.as_str().to_owned(),
            aspect_ratio: spec.aspect_ratio,
            image_size: spec.image_size,
            modalities: spec.modalities.as_array().iter().map(|&one| one.to_owned()).collect(),
            extra: spec.extra,
        };
        text("revision.spec", &kept)
    }

    fn parse(json: &str) -> Result<Self, QueueError> {
        serde_json::from_str(json).map_err(|error| broken("revision.spec", &error))
    }
}

/// A spec from the queue.
pub(super) fn spec(json: &str, references: Vec<Reference>) -> Result<Spec, QueueError> {
    let kept = SpecText::parse(json)?;
    let modalities = [Modalities::Image, Modalities::TextImage]
        .into_iter()
        .find(|one| one.as_array().iter().eq(&kept.modalities))
        .ok_or_else(|| broken("revision.spec", &format!("modalities {:?}", kept.modalities)))?;
    Ok(Spec {
        prompt: kept.prompt,
        references,
        model: kept.model.parse().map_err(|error| broken("revision.spec", &error))?,
        aspect_ratio: kept.aspect_ratio,
        image_size: kept.image_size,
        modalities,
        extra: kept.extra,
    })
}

/// In which fields two specs differ; `references` is told by the digests.
pub(super) fn changes(old: &str, new: &str, references: Changed) -> Result<Vec<SpecField>, QueueError> {
    let (old, new) = (SpecText::parse(old)?, SpecText::parse(new)?);
    let differs = [
        (SpecField::Prompt, old.prompt != new.prompt),
        (SpecField::References, references == Changed::Yes),
        (SpecField::Model, old.model != new.model),
        (SpecField::AspectRatio, old.aspect_ratio != new.aspect_ratio),
        (SpecField::ImageSize, old.image_size != new.image_size),
        (SpecField::Modalities, old.modalities != new.modalities),
        (SpecField::Extra, old.extra != new.extra),
    ];
    Ok(differs.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect())
}

/// Whether the references' digest changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changed {
    Yes,
    No,
}

fn fallbacks_text(models: &[ModelName]) -> Result<Option<String>, QueueError> {
    let names: Vec<&str> = models.iter().map(ModelName::as_str).collect();
    if names.is_empty() { Ok(None) } else { text("job.fallbacks", &names).map(Some) }
}

fn refs_text(references: &[Reference]) -> Result<String, QueueError> {
    let kept = references
        .iter()
        .map(|one| {
            Ok(RefText {
                path: path_text(&one.path)?,
                digest: one.digest.to_string(),
                bytes: one.bytes,
                media: one.media.mime().to_owned(),
            })
        })
        .collect::<Result<Vec<_>, QueueError>>()?;
    text("reference", &kept)
}

/// A path as the queue keeps it.
pub(super) fn path_text(path: &Path) -> Result<String, QueueError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| broken("reference.source", &format!("the path {} is not UTF-8", path.display())))
}

/// Tags from the queue.
pub(super) fn tags(json: &str) -> Result<BTreeMap<String, String>, QueueError> {
    serde_json::from_str(json).map_err(|error| broken("job_detail.tags", &error))
}

/// Ratio, size and prompt from the queue.
pub(super) fn shown(json: &str) -> Result<(String, Option<String>, Option<String>), QueueError> {
    let kept = SpecText::parse(json)?;
    Ok((kept.prompt, kept.aspect_ratio, kept.image_size))
}

pub(super) fn text<T: Serialize>(what: &'static str, value: &T) -> Result<String, QueueError> {
    serde_json::to_string(value).map_err(|error| broken(what, &error))
}

/// A set of rows that SQLite answers with as one JSON array.
pub(super) fn values<T: DeserializeOwned>(what: &'static str, json: &str) -> Result<Vec<T>, QueueError> {
    serde_json::from_str(json).map_err(|error| broken(what, &error))
}

pub(super) fn broken(what: &'static str, detail: &dyn std::fmt::Display) -> QueueError {
    QueueError::Broken { what, detail: detail.to_string() }
}
