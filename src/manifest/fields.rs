//! One mapping of job keys, a job's or the defaults', from raw nodes to typed values.
//!
//! Every key is checked by itself and every error reported; what depends on other keys is in
//! [`super::check`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use serde_json::Map;

use super::csv::TAG_COLUMNS;
use super::diagnostic::{Collector, Location, excerpt};
use super::json;
use super::pattern::Patterns;
use super::raw::{Entry, Kind, Node, Scalar, Value};
use super::reference::DigestCache;
use super::suggest::nearest;
use crate::job::{JobName, Modalities, ModelName, Reference};

/// The keys of a job. All but `id` may stand in `defaults` too.
pub(super) const JOB_KEYS: &[&str] = &[
    "id",
    "prompt",
    "references",
    "model",
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

/// Reference images of one job. The largest model takes 14; this only bounds the work.
const REFERENCES_MAX: usize = 100;

/// Tags of one job: each becomes a part of a cell in the report.
const TAGS_MAX: usize = 200;

/// Bytes of one tag's key and value, for the same reason.
const TAG_BYTES_MAX: usize = 16 << 10;

/// Bytes of a ratio, a size or an output pattern. Names of files end at 400.
const SHORT_TEXT_BYTES_MAX: usize = 4096;

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

impl<T: Clone> Field<T> {
    fn new(value: Option<T>, at: Location) -> Self {
        value.map_or(Self::Wrong, |value| Self::Given(value, at))
    }

    /// Where the value stands; `elsewhere` when there is none.
    pub(super) fn place_or(&self, elsewhere: Location) -> Location {
        if let Self::Given(_, at) = self { *at } else { elsewhere }
    }

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
    /// These, and the defaults where nothing is given. Tags and `extra` are merged key by key;
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
                merged.extend(extra);
                Field::Given(merged, at)
            }
            (extra, more) => extra.or(more),
        };
        Self {
            id: self.id,
            prompt: self.prompt.or(&defaults.prompt),
            references: self.references.or(&defaults.references),
            model: self.model.or(&defaults.model),
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

/// Whose keys are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Job,
    Defaults,
}

/// What reading a key may need.
pub(super) struct FieldReader<'a> {
    pub(super) out: &'a mut Collector,
    pub(super) digests: &'a mut DigestCache,
    pub(super) patterns: &'a mut Patterns,
    /// References are relative to it.
    pub(super) folder: &'a Path,
    pub(super) reference_bytes_max: u64,
}

impl FieldReader<'_> {
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
                _ => self.out.error(entry.key_at, unknown_key(key, JOB_KEYS)),
            }
        }
        fields
    }

    /// The text of a key that takes text. An unquoted scalar that is something else is an
    /// error, since nobody can tell what was meant by `prompt: no`.
    fn text<'a>(&mut self, key: &str, node: Node<'a>) -> Option<Cow<'a, str>> {
        let found = node.describe();
        let message = match node.value {
            Value::Scalar(Scalar { kind: Kind::Text | Kind::Cell, text, .. }) => {
                if !text.contains('\0') {
                    return Some(text);
                }
                format!("`{key}` must not contain a NUL character")
            }
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => {
                format!("`{key}` is null; give it a text or leave the key out")
            }
            Value::Scalar(Scalar { text, .. }) => {
                format!(
                    "`{key}` must be text, found {found}; put it in quotes: \"{}\"",
                    excerpt(&text).replace('`', "")
                )
            }
            Value::List(_) | Value::Map(_) => format!("`{key}` must be text, found {found}"),
        };
        self.out.error(node.at, message);
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

    fn reference(&mut self, node: Node<'_>) -> Option<Reference> {
        let at = node.at;
        let text = self.text("references", node)?;
        let shown = excerpt(&text);
        if text.trim().is_empty() {
            self.out.error(at, "a reference is empty; give the path of a picture");
        } else if text.starts_with("http://") || text.starts_with("https://") || text.starts_with("data:") {
            self.out
                .error(at, format!("the reference {shown} is a URL; download it and give the file's path"));
        } else {
            let probed = self.digests.probe(&self.folder.join(text.as_ref()), self.reference_bytes_max);
            return probed.map_err(|why| self.out.error(at, format!("the reference {shown}: {why}"))).ok();
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
                let found = if fits { excerpt(&words.join(", ")) } else { node.describe() };
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
        self.out.error(node.at, format!("`{key}` must be true or false, found {}", node.describe()));
        None
    }

    fn priority(&mut self, node: &Node<'_>) -> Option<i32> {
        if let Value::Scalar(Scalar { kind: Kind::Number | Kind::Cell, text, .. }) = &node.value
            && let Ok(priority) = text.parse()
        {
            return Some(priority);
        }
        let message = format!("`priority` must be a whole number of 32 bits, found {}", node.describe());
        self.out.error(node.at, message);
        None
    }

    fn tags(&mut self, node: Node<'_>) -> Option<BTreeMap<String, String>> {
        if let Value::Scalar(Scalar { kind: Kind::Cell, text, .. }) = &node.value {
            let parsed = json::parse(text, node.at, self.out);
            return parsed.root.filter(|_| parsed.whole).and_then(|inner| self.tags(inner));
        }
        let Value::Map(entries) = node.value else {
            let message = format!("`tags` must be a mapping such as `locale: de`, found {}", node.describe());
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
        let key = excerpt(&entry.key);
        let (at, found) = (entry.value.at, entry.value.describe());
        let text = match entry.value.value {
            Value::Scalar(Scalar { kind, text, .. }) if kind != Kind::Null => text,
            _ => {
                self.out.error(at, format!("the tag {key} must have a text, found {found}"));
                return None;
            }
        };
        if entry.key.trim().is_empty() {
            self.out.error(entry.key_at, "a tag has no name");
        } else if entry.key.len() + text.len() > TAG_BYTES_MAX {
            self.out.error(at, format!("the tag {key} has more than {TAG_BYTES_MAX} bytes"));
        } else if entry.key.contains('\0') || text.contains('\0') {
            self.out.error(at, format!("the tag {key} must not contain a NUL character"));
        } else {
            return Some((entry.key.into_owned(), text.into_owned()));
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
                node.describe()
            );
            self.out.error(node.at, message);
            return None;
        }
        match to_json(node, self.out) {
            Some(serde_json::Value::Object(map)) => Some(map),
            _ => None,
        }
    }
}

/// Extensions that image files have; an output name gets its own by the bytes.
pub(super) const IMAGE_EXTENSIONS: [&str; 4] = [".png", ".jpg", ".jpeg", ".webp"];

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

/// A node as JSON, for `extra`; `None` when an error was reported.
pub(super) fn to_json(node: &Node<'_>, out: &mut Collector) -> Option<serde_json::Value> {
    match &node.value {
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(|item| to_json(item, out)).collect();
            items.into_iter().collect::<Option<Vec<_>>>().map(serde_json::Value::Array)
        }
        Value::Map(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|one| Some((one.key.to_string(), to_json(&one.value, out)?))).collect();
            entries.into_iter().collect::<Option<Map<_, _>>>().map(serde_json::Value::Object)
        }
        Value::Scalar(scalar) => scalar_to_json(scalar, node.at, out),
    }
}

fn scalar_to_json(scalar: &Scalar<'_>, at: Location, out: &mut Collector) -> Option<serde_json::Value> {
    let text = scalar.text.as_ref();
    match scalar.kind {
        Kind::Text | Kind::Cell => Some(text.into()),
        Kind::Null => Some(serde_json::Value::Null),
        Kind::Bool => Some(text.eq_ignore_ascii_case("true").into()),
        Kind::YesNo => {
            let message = format!(
                "{} can be text or a truth value; put it in quotes or write true or false",
                excerpt(text)
            );
            out.error(at, message);
            None
        }
        Kind::Number => {
            let number = if json::is_json_number(text) { serde_json::from_str(text).ok() } else { None };
            if number.is_none() {
                let message = format!(
                    "the number {} is none that JSON can hold; put it in quotes if it is text",
                    excerpt(text)
                );
                out.error(at, message);
            }
            number.map(serde_json::Value::Number)
        }
    }
}
