//! One mapping of job keys, a job's or the defaults', from raw nodes to typed values.
//!
//! Every key is checked by itself and every error reported; what depends on other keys is in
//! `build`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::str::FromStr;

use serde_json::Map;

use super::csv::TAG_COLUMNS;
use super::diagnostic::{Collector, excerpt};
use super::fields::{Field, Fields, JOB_KEYS, unknown_key};
use super::json;
use super::pattern::Patterns;
use super::raw::{Entry, Kind, Node, Scalar, Value};
use super::reference::{Base, DigestCache};
use super::suggest::nearest;
use super::value::to_json;
use crate::job::{Modalities, ModelName, Reference};

/// Reference images of one job. The largest model takes 14; this only bounds the work.
const REFERENCES_MAX: usize = 100;

/// Models that may stand in for a job's own. There are five; this only bounds the work.
const FALLBACKS_MAX: usize = 16;

/// Tags of one job: each becomes a part of a cell in the report.
const TAGS_MAX: usize = 200;

/// Bytes of one tag's key and value, for the same reason.
const TAG_BYTES_MAX: usize = 16 << 10;

/// Bytes of a ratio, a size or an output pattern. Names of files end at 400.
const SHORT_TEXT_BYTES_MAX: usize = 4096;

/// Extensions that image files have; an output name gets its own by the bytes.
pub(super) const IMAGE_EXTENSIONS: [&str; 4] = [".png", ".jpg", ".jpeg", ".webp"];

/// Whose keys are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Job,
    Defaults,
}

/// What reading a key may need.
pub(super) struct KeyReader<'a> {
    pub(super) out: &'a mut Collector,
    pub(super) digests: &'a mut DigestCache,
    pub(super) patterns: &'a mut Patterns,
    /// References are relative to it.
    pub(super) base: &'a Base,
    pub(super) reference_bytes_max: u64,
}

impl KeyReader<'_> {
    /// The values of `entries`.
    pub(super) fn read(&mut self, entries: Vec<Entry<'_>>, owner: Owner) -> Fields {
        let mut fields = Fields::default();
        for entry in entries {
            let at = entry.value.at;
            let (key, node) = (entry.key.as_ref(), entry.value);
            match key {
                "id" if owner == Owner::Defaults => {
                    let message = "`id` cannot stand in `defaults`: every job needs one of its own";
                    self.out.error(entry.key_at, message);
                }
                "id" => fields.id = Field::new(self.parsed(key, node), at),
                "prompt" => fields.prompt = Field::new(self.prompt(node), at),
                "references" => fields.references = Field::new(self.references(node), at),
                "model" => fields.model = Field::new(self.parsed(key, node), at),
                "fallback_models" => fields.fallback_models = Field::new(self.fallback_models(node), at),
                "aspect_ratio" => fields.aspect_ratio = Field::new(self.short_text(key, node), at),
                "image_size" => fields.image_size = Field::new(self.short_text(key, node), at),
                "modalities" => fields.modalities = Field::new(self.modalities(&node), at),
                "stream" => fields.stream = Field::new(self.truth(key, &node), at),
                "output" => fields.output = Field::new(self.output(node), at),
                "tags" | TAG_COLUMNS => {
                    let tags = Field::new(self.tags(node), at);
                    fields.tags = match (std::mem::take(&mut fields.tags), tags) {
                        (Field::Given(mut tags, at), Field::Given(more, _)) => {
                            tags.extend(more);
                            Field::Given(tags, at)
                        }
                        (Field::Wrong, _) => Field::Wrong,
                        (_, tags) => tags,
                    };
                }
                "priority" => fields.priority = Field::new(self.priority(&node), at),
                "extra" => fields.extra = Field::new(self.extra(&node), at),
                "template" => fields.template = Field::new(self.truth(key, &node), at),
                _ => {
                    self.out.error(entry.key_at, unknown_key(key, JOB_KEYS));
                    // The prompt is there, under a wrong name: that it is missing is no second error.
                    if nearest(key, JOB_KEYS.iter().copied()) == Some("prompt")
                        && matches!(fields.prompt, Field::Absent)
                    {
                        fields.prompt = Field::Wrong;
                    }
                }
            }
        }
        fields
    }

    /// The text of a key that takes text. An unquoted scalar that is something else is an
    /// error, since nobody can tell what was meant by `prompt: no`.
    fn text<'a>(&mut self, key: &str, node: Node<'a>) -> Option<Cow<'a, str>> {
        let at = node.at;
        let found = match node.value {
            Value::Scalar(Scalar { kind: Kind::Text | Kind::Cell, text, .. }) => {
                if !text.contains('\0') {
                    return Some(text);
                }
                self.out.error(at, format!("`{key}` must not contain a NUL character"));
                return None;
            }
            ref value => value.describe(),
        };
        let message = match node.value {
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => {
                format!("`{key}` is null; give it a text or leave the key out")
            }
            Value::Scalar(Scalar { text, .. }) => {
                let quoted = excerpt(&text).replace('`', "\"");
                format!("`{key}` must be text, found {found}; put it in quotes: {quoted}")
            }
            Value::List(_) | Value::Map(_) => format!("`{key}` must be text, found {found}"),
        };
        self.out.error(at, message);
        None
    }

    fn parsed<T: FromStr<Err: ToString>>(&mut self, key: &str, node: Node<'_>) -> Option<T> {
        let at = node.at;
        let text = self.text(key, node)?;
        let parsed = text.parse::<T>();
        parsed
            .map_err(|error| self.out.error(at, format!("`{key}` {}: {}", excerpt(&text), error.to_string())))
            .ok()
    }

    fn prompt(&mut self, node: Node<'_>) -> Option<String> {
        let at = node.at;
        let cut = matches!(node.value, Value::Scalar(Scalar { cut_by_comment: true, .. }));
        let text = self.text("prompt", node)?;
        if cut {
            let message = format!(
                "the prompt ends after {}: YAML takes what follows ` #` for a comment; if it is part of the prompt, \
                 put the prompt in quotes",
                excerpt(&text)
            );
            self.out.warning(at, message);
        }
        Some(text.into_owned())
    }

    fn short_text(&mut self, key: &str, node: Node<'_>) -> Option<String> {
        let at = node.at;
        let text = self.text(key, node)?;
        if text.trim().is_empty() {
            self.out.error(at, format!("`{key}` is empty; give it a value or leave the key out"));
        } else if text.len() > SHORT_TEXT_BYTES_MAX {
            let found = text.len();
            self.out
                .error(at, format!("`{key}` has {found} bytes; at most {SHORT_TEXT_BYTES_MAX} are allowed"));
        } else {
            return Some(text.into_owned());
        }
        None
    }

    fn output(&mut self, node: Node<'_>) -> Option<String> {
        let at = node.at;
        let pattern = self.short_text("output", node)?;
        let checked = self.patterns.check(&pattern);
        checked
            .map_err(|why| self.out.error(at, format!("`output` {} is no pattern: {why}", excerpt(&pattern))))
            .ok()?;
        let lower = pattern.to_ascii_lowercase();
        if let Some(extension) = IMAGE_EXTENSIONS.iter().find(|extension| lower.ends_with(**extension)) {
            let message = format!(
                "`output` ends in `{extension}`; the extension is added by the image's bytes, leave it out"
            );
            self.out.warning(at, message);
        }
        Some(pattern)
    }

    fn references(&mut self, node: Node<'_>) -> Option<Vec<Reference>> {
        let at = node.at;
        let nodes = match node.value {
            Value::List(nodes) => nodes,
            value => vec![Node { at, value }],
        };
        if nodes.len() > REFERENCES_MAX {
            let found = nodes.len();
            self.out.error(at, format!("{found} references; a job may have {REFERENCES_MAX}"));
            return None;
        }
        // All of them are looked at, so that every missing file is reported.
        let references: Vec<_> = nodes.into_iter().map(|node| self.reference(node)).collect();
        references.into_iter().collect()
    }

    fn fallback_models(&mut self, node: Node<'_>) -> Option<Vec<ModelName>> {
        let at = node.at;
        let Value::List(nodes) = node.value else {
            let found = node.value.describe();
            self.out.error(at, format!("`fallback_models` must be a list of models, found {found}"));
            return None;
        };
        if nodes.len() > FALLBACKS_MAX {
            let found = nodes.len();
            self.out.error(at, format!("{found} fallback models; a job may have {FALLBACKS_MAX}"));
            return None;
        }
        let models: Vec<_> = nodes.into_iter().map(|node| self.parsed("fallback_models", node)).collect();
        models.into_iter().collect()
    }

    fn reference(&mut self, node: Node<'_>) -> Option<Reference> {
        let at = node.at;
        let text = self.text("references", node)?;
        if text.trim().is_empty() {
            self.out.error(at, "a reference is empty; give the path of a picture");
        } else if text.starts_with("http://") || text.starts_with("https://") || text.starts_with("data:") {
            let shown = excerpt(&text);
            self.out
                .error(at, format!("the reference {shown} is a URL; download it and give the file's path"));
        } else {
            let probed = self.base.resolve(&text);
            let probed = probed.and_then(|place| self.digests.probe(&place, self.reference_bytes_max));
            return probed
                .map_err(|why| self.out.error(at, format!("the reference {}: {why}", excerpt(&text))))
                .ok();
        }
        None
    }

    fn modalities(&mut self, node: &Node<'_>) -> Option<Modalities> {
        let mut words = Vec::new();
        let fits = match &node.value {
            Value::Scalar(scalar) => {
                words.extend(scalar.text.split([',', '+', ' ']).filter(|word| !word.is_empty()));
                true
            }
            Value::List(nodes) => nodes.iter().all(|node| match &node.value {
                Value::Scalar(scalar) => {
                    words.push(scalar.text.as_ref());
                    true
                }
                _ => false,
            }),
            Value::Map(_) => false,
        };
        let mut upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
        upper.sort();
        match upper.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["IMAGE"] if fits => Some(Modalities::Image),
            ["IMAGE", "TEXT"] if fits => Some(Modalities::TextImage),
            _ => {
                let found = if fits { excerpt(&words.join(", ")) } else { node.value.describe() };
                let message = format!("`modalities` must be [IMAGE] or [TEXT, IMAGE], found {found}");
                self.out.error(node.at, message);
                None
            }
        }
    }

    fn truth(&mut self, key: &str, node: &Node<'_>) -> Option<bool> {
        if let Value::Scalar(Scalar { kind: Kind::Bool | Kind::Cell, text, .. }) = &node.value {
            for value in [true, false] {
                if text.eq_ignore_ascii_case(&value.to_string()) {
                    return Some(value);
                }
            }
        }
        self.out.error(node.at, format!("`{key}` must be true or false, found {}", node.value.describe()));
        None
    }

    fn priority(&mut self, node: &Node<'_>) -> Option<i32> {
        if let Value::Scalar(Scalar { kind: Kind::Number | Kind::Cell, text, .. }) = &node.value
            && let Ok(priority) = text.parse()
        {
            return Some(priority);
        }
        let message =
            format!("`priority` must be a whole number of 32 bits, found {}", node.value.describe());
        self.out.error(node.at, message);
        None
    }

    fn tags(&mut self, node: Node<'_>) -> Option<BTreeMap<String, String>> {
        if let Value::Scalar(Scalar { kind: Kind::Cell, text, .. }) = &node.value {
            let parsed = json::parse(text, node.at, self.out);
            return parsed.root.filter(|_| parsed.whole).and_then(|inner| self.tags(inner));
        }
        let Value::Map(entries) = node.value else {
            let message =
                format!("`tags` must be a mapping such as `locale: de`, found {}", node.value.describe());
            self.out.error(node.at, message);
            return None;
        };
        if entries.len() > TAGS_MAX {
            self.out.error(node.at, format!("{} tags; a job may have {TAGS_MAX}", entries.len()));
            return None;
        }
        let tags: Vec<_> = entries.into_iter().map(|entry| self.tag(entry)).collect();
        tags.into_iter().collect()
    }

    fn tag(&mut self, entry: Entry<'_>) -> Option<(String, String)> {
        let Entry { key, key_at, value: Node { at, value } } = entry;
        let text = match value {
            Value::Scalar(Scalar { kind, text, .. }) if kind != Kind::Null => text,
            value => {
                let (key, found) = (excerpt(&key), value.describe());
                self.out.error(at, format!("the tag {key} must have a text, found {found}"));
                return None;
            }
        };
        if key.trim().is_empty() {
            self.out.error(key_at, "a tag has no name");
        } else if key.len() + text.len() > TAG_BYTES_MAX {
            self.out.error(at, format!("the tag {} has more than {TAG_BYTES_MAX} bytes", excerpt(&key)));
        } else if key.contains('\0') || text.contains('\0') {
            self.out.error(at, format!("the tag {} must not contain a NUL character", excerpt(&key)));
        } else {
            return Some((key.into_owned(), text.into_owned()));
        }
        None
    }

    fn extra(&mut self, node: &Node<'_>) -> Option<Map<String, serde_json::Value>> {
        if let Value::Scalar(Scalar { kind: Kind::Cell, text, .. }) = &node.value {
            let parsed = json::parse(text, node.at, self.out);
            return parsed.root.filter(|_| parsed.whole).and_then(|inner| self.extra(&inner));
        }
        if !matches!(node.value, Value::Map(_)) {
            let message = format!(
                "`extra` must be a mapping that is merged into the request, found {}",
                node.value.describe()
            );
            self.out.error(node.at, message);
            return None;
        }
        match to_json(node, self.out) {
            Some(serde_json::Value::Object(map)) if map.contains_key("contents") => {
                let message = "`extra` cannot have `contents`: it is made from the prompt and the references";
                self.out.error(node.at, message);
                None
            }
            Some(serde_json::Value::Object(map)) => Some(map),
            _ => None,
        }
    }
}
