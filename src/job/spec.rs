//! What a job asks for, and which of it makes it a different job.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{Digest, DigestWriter, JobName, MediaType, ModelName, ObjectUrl, OutputName};

/// A job as a manifest describes it, checked and complete.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub name: JobName,
    /// Its place in the manifest, from 0.
    pub ordinal: u64,
    /// What is asked of the API.
    pub spec: Spec,
    /// Models that may stand in while the spec's own is parked or overloaded, the best first. Who
    /// made a picture is in the ledger; that another one may is no part of the description.
    pub fallback_models: Vec<ModelName>,
    /// Whether the answer is streamed. How an answer travels does not change what it is.
    pub stream: bool,
    /// Where its first image goes below `images/`, without extension.
    pub output: OutputName,
    /// Carried to the report.
    pub tags: BTreeMap<String, String>,
    /// Higher goes first.
    pub priority: i32,
}

/// What is asked of the API. Two jobs with equal specs get the same request; a job whose spec
/// changed is a new revision and is paid again.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The prompt, byte for byte.
    pub prompt: String,
    /// Reference images in their order.
    pub references: Vec<Reference>,
    /// The model.
    pub model: ModelName,
    /// Not sent unless given.
    pub aspect_ratio: Option<String>,
    /// Not sent unless given.
    pub image_size: Option<String>,
    /// What the answer may contain.
    pub modalities: Modalities,
    /// Merged into the request's body.
    pub extra: Map<String, Value>,
}

/// A reference image as it was when the manifest was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Absolute path, or the address of an object: see [`Reference::object`].
    pub path: PathBuf,
    /// Digest of its bytes. The path is no part of the spec; these are.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// Its format, by its bytes.
    pub media: MediaType,
}

impl Reference {
    /// Its address, if it is in object storage and not in a file.
    #[must_use]
    pub fn object(&self) -> Option<ObjectUrl> {
        self.path.to_str().filter(|text| ObjectUrl::is_meant(text))?.parse().ok()
    }
}

/// `responseModalities` of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Modalities {
    /// `["IMAGE"]`.
    #[default]
    Image,
    /// `["TEXT", "IMAGE"]`: a caption too.
    TextImage,
}

impl Modalities {
    /// As they stand in the request.
    #[must_use]
    pub const fn as_array(self) -> &'static [&'static str] {
        match self {
            Self::Image => &["IMAGE"],
            Self::TextImage => &["TEXT", "IMAGE"],
        }
    }
}

/// A field of the spec, to tell a person what changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SpecField {
    /// The prompt.
    Prompt,
    /// The references' bytes, number or order.
    References,
    /// The model.
    Model,
    /// The aspect ratio.
    AspectRatio,
    /// The image size.
    ImageSize,
    /// The modalities.
    Modalities,
    /// The raw addition to the request.
    Extra,
}

impl SpecField {
    /// As the manifest spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::References => "references",
            Self::Model => "model",
            Self::AspectRatio => "aspect_ratio",
            Self::ImageSize => "image_size",
            Self::Modalities => "modalities",
            Self::Extra => "extra",
        }
    }
}

impl fmt::Display for SpecField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Spec {
    /// A prompt for a model, with nothing else asked for.
    #[must_use]
    pub fn new(prompt: impl Into<String>, model: ModelName) -> Self {
        Self {
            prompt: prompt.into(),
            references: vec![],
            model,
            aspect_ratio: None,
            image_size: None,
            modalities: Modalities::default(),
            extra: Map::new(),
        }
    }

    /// Digest of the description without the references' bytes.
    #[must_use]
    pub fn spec_digest(&self) -> Digest {
        DigestWriter::new("nightpress spec 1")
            .field("prompt", self.prompt.as_bytes())
            .field("model", self.model.as_str().as_bytes())
            .field("aspect_ratio", optional(self.aspect_ratio.as_deref()).as_bytes())
            .field("image_size", optional(self.image_size.as_deref()).as_bytes())
            .field("modalities", self.modalities.as_array().join(",").as_bytes())
            .field("extra", canonical(&Value::Object(self.extra.clone())).as_bytes())
            .field("references", self.references.len().to_string().as_bytes())
            .finish()
    }

    /// Digest of the references' bytes, in their order.
    #[must_use]
    pub fn input_digest(&self) -> Digest {
        self.references
            .iter()
            .fold(DigestWriter::new("nightpress input 1"), |writer, reference| {
                writer.field("reference", reference.digest.to_string().as_bytes())
            })
            .finish()
    }

    /// Digest of both: what an id that the manifest does not give is made from.
    #[must_use]
    pub fn content_digest(&self) -> Digest {
        DigestWriter::new("nightpress content 1")
            .field("spec", self.spec_digest().to_string().as_bytes())
            .field("input", self.input_digest().to_string().as_bytes())
            .finish()
    }
}

/// Merges JSON as a request's `extra` is merged: objects key by key, anything else is replaced.
pub fn merge_json(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge_json(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// "Not given" and "given as nothing" must not look alike.
fn optional(value: Option<&str>) -> String {
    value.map_or_else(String::new, |text| format!("={text}"))
}

/// JSON with sorted keys, so that the order in which a person wrote them does not matter.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let parts: Vec<String> = sorted
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        Spec::new("a cat", ModelName::default_model())
    }

    #[test]
    fn each_field_changes_the_digest_and_key_order_does_not() {
        let base = spec().spec_digest();
        let changes: [fn(&mut Spec); 5] = [
            |s| s.prompt.push('s'),
            |s| s.aspect_ratio = Some(String::new()),
            |s| s.image_size = Some("1K".to_owned()),
            |s| s.modalities = Modalities::TextImage,
            |s| s.extra = serde_json::from_str(r#"{"a":{"x":1,"y":2}}"#).expect("json"),
        ];
        for change in changes {
            let mut other = spec();
            change(&mut other);
            assert_ne!(other.spec_digest(), base, "{other:?}");
        }
        let one = Spec { extra: serde_json::from_str(r#"{"a":{"x":1,"y":2}}"#).expect("json"), ..spec() };
        let two = Spec { extra: serde_json::from_str(r#"{"a":{"y":2,"x":1}}"#).expect("json"), ..spec() };
        assert_eq!(one.spec_digest(), two.spec_digest());
    }
}
