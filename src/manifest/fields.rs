//! The values of a job's keys, given or not, and how the defaults fill them in.

use std::collections::BTreeMap;

use serde_json::Map;

use super::diagnostic::{Location, excerpt};
use super::suggest::nearest;
use crate::job::{JobName, Modalities, ModelName, Reference, merge_json};

/// The keys of a job. All but `id` may stand in `defaults` too.
pub(super) const JOB_KEYS: &[&str] = &[
    "id",
    "prompt",
    "references",
    "model",
    "fallback_models",
    "aspect_ratio",
    "image_size",
    "modalities",
    "stream",
    "output",
    "tags",
    "priority",
    "extra",
    "template",
];

/// An error about it is in the collector; there is nothing more to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported;

/// A key's value.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Field<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// It is, and an error about it was reported.
    Wrong,
    /// Its value and the place of it.
    Given(T, Location),
}

impl<T> Field<T> {
    pub(super) const fn is_given(&self) -> bool {
        matches!(self, Self::Given(..))
    }

    pub(super) fn new(value: Option<T>, at: Location) -> Self {
        value.map_or(Self::Wrong, |value| Self::Given(value, at))
    }

    /// Where the value stands; `elsewhere` when there is none.
    pub(super) fn place_or(&self, elsewhere: Location) -> Location {
        if let Self::Given(_, at) = self { *at } else { elsewhere }
    }

    /// The value or that there is none; `Reported` after an error.
    pub(super) fn checked(self) -> Result<Option<T>, Reported> {
        match self {
            Self::Absent => Ok(None),
            Self::Wrong => Err(Reported),
            Self::Given(value, _) => Ok(Some(value)),
        }
    }
}

impl<T: Clone> Field<T> {
    fn or(self, default: &Self) -> Self {
        if matches!(self, Self::Absent) { default.clone() } else { self }
    }
}

/// The values of a job or of the defaults.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    pub(super) id: Field<JobName>,
    pub(super) prompt: Field<String>,
    pub(super) references: Field<Vec<Reference>>,
    pub(super) model: Field<ModelName>,
    pub(super) fallback_models: Field<Vec<ModelName>>,
    pub(super) aspect_ratio: Field<String>,
    pub(super) image_size: Field<String>,
    pub(super) modalities: Field<Modalities>,
    pub(super) stream: Field<bool>,
    pub(super) output: Field<String>,
    pub(super) tags: Field<BTreeMap<String, String>>,
    pub(super) priority: Field<i32>,
    pub(super) extra: Field<Map<String, serde_json::Value>>,
    pub(super) template: Field<bool>,
}

impl Fields {
    /// These, and the defaults where nothing is given. Tags are merged key by key,
    /// `extra` at every depth;
    /// references are replaced.
    pub(super) fn or_defaults(self, defaults: &Self) -> Self {
        let tags = match (self.tags, &defaults.tags) {
            (Field::Given(tags, at), Field::Given(more, _)) => {
                let mut merged = more.clone();
                merged.extend(tags);
                Field::Given(merged, at)
            }
            (tags, more) => tags.or(more),
        };
        let extra = match (self.extra, &defaults.extra) {
            (Field::Given(extra, at), Field::Given(more, _)) => {
                let mut merged = more.clone();
                for (name, value) in extra {
                    merge_json(merged.entry(name).or_insert(serde_json::Value::Null), &value);
                }
                Field::Given(merged, at)
            }
            (extra, more) => extra.or(more),
        };
        Self {
            id: self.id,
            prompt: self.prompt.or(&defaults.prompt),
            references: self.references.or(&defaults.references),
            model: self.model.or(&defaults.model),
            fallback_models: self.fallback_models.or(&defaults.fallback_models),
            aspect_ratio: self.aspect_ratio.or(&defaults.aspect_ratio),
            image_size: self.image_size.or(&defaults.image_size),
            modalities: self.modalities.or(&defaults.modalities),
            stream: self.stream.or(&defaults.stream),
            output: self.output.or(&defaults.output),
            tags,
            priority: self.priority.or(&defaults.priority),
            extra,
            template: self.template.or(&defaults.template),
        }
    }
}

/// What is said of a key that nobody knows.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    let found = excerpt(key);
    nearest(key, known.iter().copied()).map_or_else(
        || format!("unknown key {found}; known keys are {}", known.join(", ")),
        |near| format!("unknown key {found}, did you mean `{near}`?"),
    )
}

/// All job keys, for a message.
pub(super) fn known_keys() -> String {
    JOB_KEYS.join(", ")
}
