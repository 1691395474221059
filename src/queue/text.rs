//! How descriptions are kept as text, whatever the engine: specs, references, tags.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::QueueError;
use crate::job::{Modalities, ModelName, Reference, Spec, SpecField};

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

/// A spec as the queue keeps it.
pub(in crate::queue) fn spec_text(spec: Spec) -> Result<String, QueueError> {
    SpecText::of(spec)
}

/// A spec from the queue.
pub(in crate::queue) fn spec(json: &str, references: Vec<Reference>) -> Result<Spec, QueueError> {
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
pub(in crate::queue) fn changes(
    old: &str,
    new: &str,
    references: Changed,
) -> Result<Vec<SpecField>, QueueError> {
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
pub(in crate::queue) enum Changed {
    Yes,
    No,
}

pub(in crate::queue) fn fallbacks_text(models: &[ModelName]) -> Result<Option<String>, QueueError> {
    let names: Vec<&str> = models.iter().map(ModelName::as_str).collect();
    if names.is_empty() { Ok(None) } else { text("job.fallbacks", &names).map(Some) }
}

pub(in crate::queue) fn refs_text(references: &[Reference]) -> Result<String, QueueError> {
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
pub(in crate::queue) fn path_text(path: &Path) -> Result<String, QueueError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| broken("reference.source", &format!("the path {} is not UTF-8", path.display())))
}

/// Tags from the queue.
pub(in crate::queue) fn tags(json: &str) -> Result<BTreeMap<String, String>, QueueError> {
    serde_json::from_str(json).map_err(|error| broken("job_detail.tags", &error))
}

/// Ratio, size and prompt from the queue.
pub(in crate::queue) fn shown(json: &str) -> Result<(String, Option<String>, Option<String>), QueueError> {
    let kept = SpecText::parse(json)?;
    Ok((kept.prompt, kept.aspect_ratio, kept.image_size))
}

pub(in crate::queue) fn text<T: Serialize>(what: &'static str, value: &T) -> Result<String, QueueError> {
    serde_json::to_string(value).map_err(|error| broken(what, &error))
}

pub(in crate::queue) fn broken(what: &'static str, detail: &dyn std::fmt::Display) -> QueueError {
    QueueError::Broken { what, detail: detail.to_string() }
}
