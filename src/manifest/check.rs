//! Raw nodes to jobs: defaults, what keys mean together, names, and the order of a manifest.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::ReadOptions;
use super::advice;
use super::diagnostic::{Collector, Diagnostics, Location, excerpt};
use super::fields::{Field, FieldReader, Fields, IMAGE_EXTENSIONS, Owner, unknown_key};
use super::names::{Names, Place};
use super::pattern::{DEFAULT_OUTPUT, Patterns, Values};
use super::raw::{Entry, Kind, Node, Scalar, Value};
use crate::job::{Job, JobName, ModelName, OutputName, Spec};

/// The version of the manifest's form that this program reads.
const VERSION: &str = "1";

/// Keys of a manifest's top level.
const TOP_KEYS: &[&str] = &["version", "defaults", "jobs"];

/// Jobs of one manifest. At 20 images a minute they would take a year.
const JOBS_MAX: u32 = 10_000_000;

/// Bytes of one prompt; the models take some 65,000 tokens.
const PROMPT_BYTES_MAX: usize = 1 << 20;

/// What a request has beside prompt, references and `extra`: generously.
const REQUEST_OVERHEAD_BYTES: u64 = 1024;

/// What a reference adds to a request beside its base64.
const REFERENCE_OVERHEAD_BYTES: u64 = 64;

/// Checks jobs as they come and hands them on.
pub(super) struct Checker<'a> {
    options: ReadOptions<'a>,
    folder: PathBuf,
    out: Collector,
    patterns: Patterns,
    names: Names,
    defaults: Fields,
    /// Jobs so far, also those that are wrong.
    jobs: u32,
    /// Something was no job at all; that there is none is then not worth saying.
    unreadable: bool,
    sink: &'a mut dyn FnMut(Job),
}

impl<'a> Checker<'a> {
    pub(super) fn new(
        options: ReadOptions<'a>,
        file: PathBuf,
        folder: &Path,
        sink: &'a mut dyn FnMut(Job),
    ) -> Self {
        options.digests.recheck();
        Self {
            options,
            folder: folder.to_owned(),
            out: Collector::new(file),
            patterns: Patterns::new(),
            names: Names::default(),
            defaults: Fields::default(),
            jobs: 0,
            unreadable: false,
            sink,
        }
    }

    /// For what the readers find themselves.
    pub(super) const fn out(&mut self) -> &mut Collector {
        &mut self.out
    }

    /// A line or row could not be read as a job; its error was reported.
    pub(super) const fn job_was_unreadable(&mut self) {
        self.unreadable = true;
    }

    /// How many jobs there were, the errors, the warnings.
    pub(super) fn finish(mut self) -> (u64, Diagnostics, Diagnostics) {
        if self.jobs == 0 && !self.unreadable {
            self.out.error(Location::START, "the manifest has no jobs; it needs one at least");
        }
        let (errors, warnings) = self.out.finish();
        (u64::from(self.jobs), errors, warnings)
    }

    /// A whole YAML or JSON manifest, or what stood before its syntax error.
    pub(super) fn document(&mut self, root: Option<Node<'_>>, whole: bool) {
        self.unreadable |= !whole;
        let Some(root) = root else { return };
        let (at, found) = (root.at, root.describe());
        let entries = match root.value {
            Value::Map(entries) => entries,
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => return,
            _ => {
                self.unreadable = true;
                let message = format!("a manifest is a mapping with `version: 1` and `jobs:`, found {found}");
                return self.out.error(at, message);
            }
        };
        let jobs = self.top(at, entries, whole);
        if let Some(Node { at, value }) = jobs {
            match value {
                Value::List(jobs) => {
                    // Stops by itself at a count that is an error.
                    let _ = jobs.into_iter().try_for_each(|job| self.job(job));
                }
                value => {
                    self.unreadable = true;
                    let found = Node { at, value }.describe();
                    self.out.error(at, format!("`jobs` must be a list, found {found}"));
                }
            }
        } else if whole {
            self.unreadable = true;
            self.out.error(at, "`jobs` is missing; add the list of jobs under `jobs:`");
        }
    }

    /// The first line of a JSONL file, when it sets up the others. There the version may be
    /// left out.
    pub(super) fn header(&mut self, node: Node<'_>) {
        let at = node.at;
        let Value::Map(entries) = node.value else { return };
        if let Some(jobs) = self.top(at, entries, false) {
            self.unreadable = true;
            self.out.error(jobs.at, "JSONL has no `jobs`: each job is a line of its own");
        }
    }

    /// Reads version and defaults wherever they stand, and returns the jobs.
    fn top<'n>(
        &mut self,
        at: Location,
        entries: Vec<Entry<'n>>,
        must_have_version: bool,
    ) -> Option<Node<'n>> {
        let mut jobs = None;
        let mut version = false;
        for entry in entries {
            match entry.key.as_ref() {
                "version" => {
                    version = true;
                    self.version(&entry.value);
                }
                "defaults" => self.read_defaults(entry.value),
                "jobs" => jobs = Some(entry.value),
                key => {
                    // `promt` at the top is reported as the misplaced key that it is.
                    self.out.error(entry.key_at, unknown_key(key, TOP_KEYS));
                    self.unreadable |= TOP_KEYS.iter().all(|known| *known != key) && jobs.is_none();
                }
            }
        }
        if must_have_version && !version {
            self.out.error(at, "`version` is missing; add `version: 1`");
        }
        jobs
    }

    fn version(&mut self, node: &Node<'_>) {
        let known =
            matches!(&node.value, Value::Scalar(Scalar { kind: Kind::Number, text, .. }) if text == VERSION);
        if !known {
            let found = node.describe();
            self.out.error(node.at, format!("this program reads `version: {VERSION}`, found {found}"));
        }
    }

    fn read_defaults(&mut self, node: Node<'_>) {
        let found = node.describe();
        match node.value {
            Value::Map(entries) => self.defaults = self.fields(entries, Owner::Defaults),
            Value::Scalar(Scalar { kind: Kind::Null, .. }) => {}
            _ => self.out.error(node.at, format!("`defaults` must be a mapping of job keys, found {found}")),
        }
    }

    fn fields(&mut self, entries: Vec<Entry<'_>>, owner: Owner) -> Fields {
        let mut reader = FieldReader {
            out: &mut self.out,
            digests: self.options.digests,
            patterns: &mut self.patterns,
            folder: &self.folder,
            reference_bytes_max: self.options.request_bytes_max,
        };
        reader.read(entries, owner)
    }

    /// One job; breaks when there are too many.
    pub(super) fn job(&mut self, node: Node<'_>) -> ControlFlow<()> {
        let at = node.at;
        if self.jobs >= JOBS_MAX {
            self.out.error(at, format!("more than {JOBS_MAX} jobs; split the manifest"));
            return ControlFlow::Break(());
        }
        self.jobs += 1;
        let found = node.describe();
        if let Value::Map(entries) = node.value {
            let own = self.fields(entries, Owner::Job);
            let places = Places { job: at, prompt: own.prompt.place_or(at), output: own.output.place_or(at) };
            let job = self.build(own.or_defaults(&self.defaults), places);
            if let Some(job) = job.filter(|_| !self.out.has_errors()) {
                (self.sink)(job);
            }
        } else {
            self.out.error(at, format!("a job is a mapping with a `prompt`, found {found}"));
        }
        ControlFlow::Continue(())
    }

    /// The job that `fields` describe. What can be looked at is looked at before the first
    /// `?`, so that one mistake does not hide another.
    fn build(&mut self, fields: Fields, at: Places) -> Option<Job> {
        let place = Place { line: at.job.line, number: self.jobs };
        let id = self.explicit_id(fields.id, place);
        let model = self.model(fields.model);
        let ratio = self.open_text(fields.aspect_ratio, model.as_ref(), advice::on_ratio);
        let size = self.open_text(fields.image_size, model.as_ref(), advice::on_size);
        let values = values(id.as_ref(), model.as_ref(), ratio, size, fields.tags);
        let output = match (&id, &values) {
            (Some(Some(_)), Some(values)) => self.output(&fields.output, values, place, at.output),
            _ => None,
        };
        let prompt = self.prompt(fields.prompt, fields.template, values.as_ref(), at);
        let references = given(fields.references);
        let model_at = model.as_ref().and_then(|(_, at)| *at).unwrap_or(at.job);
        if let (Some(Some(references)), Some((model, _))) = (&references, &model) {
            advice::on_references(references, model, model_at, &mut self.out);
        }

        let mut values = values?;
        let spec = Spec {
            prompt: prompt?,
            references: references?.unwrap_or_default(),
            model: model?.0,
            aspect_ratio: values.aspect_ratio.clone(),
            image_size: values.image_size.clone(),
            modalities: given(fields.modalities)?.unwrap_or_default(),
            extra: given(fields.extra)?.unwrap_or_default(),
        };
        self.check_request_size(&spec, at.job)?;
        let (name, output) = if let Some(name) = id? {
            (name, output?)
        } else {
            let name = self.names.derive_id(&spec, place)?;
            values.id = Some(name.to_string());
            (name, self.output(&fields.output, &values, place, at.output)?)
        };
        Some(Job {
            name,
            ordinal: u64::from(self.jobs - 1),
            stream: given(fields.stream)?.unwrap_or_else(|| spec.model.streams_by_default()),
            spec,
            output,
            tags: values.tags,
            priority: given(fields.priority)?.unwrap_or_default(),
        })
    }

    fn explicit_id(&mut self, id: Field<JobName>, place: Place) -> Option<Option<JobName>> {
        let (id, at) = match id {
            Field::Wrong => return None,
            Field::Absent => return Some(None),
            Field::Given(id, at) => (id, at),
        };
        if let Err(first) = self.names.claim_id(&id, place) {
            let shown = excerpt(id.as_str());
            let message = format!(
                "the id {shown} is taken by job {} on line {}; ids are unique",
                first.number, first.line
            );
            self.out.error(at, message);
            return None;
        }
        Some(Some(id))
    }

    /// The job's model, and where it is named: by the manifest or else by the command line.
    fn model(&mut self, model: Field<ModelName>) -> Option<(ModelName, Option<Location>)> {
        match model {
            Field::Wrong => None,
            Field::Given(model, at) => {
                advice::on_model(&model, self.options.today, at, &mut self.out);
                Some((model, Some(at)))
            }
            Field::Absent => {
                let model = self.options.default_model.clone().unwrap_or_else(ModelName::default_model);
                advice::on_model(&model, self.options.today, Location::START, &mut self.out);
                Some((model, None))
            }
        }
    }

    /// A ratio or a size: an open string that is warned of when no page knows it.
    fn open_text(
        &mut self,
        field: Field<String>,
        model: Option<&(ModelName, Option<Location>)>,
        warn: fn(&str, &ModelName, crate::job::Provider, Location, &mut Collector),
    ) -> Option<Option<String>> {
        if let (Field::Given(value, at), Some((model, _))) = (&field, model) {
            warn(value, model, self.options.provider, *at, &mut self.out);
        }
        given(field)
    }

    /// The prompt as it is sent: byte for byte, or filled in where the job asks for it.
    fn prompt(
        &mut self,
        prompt: Field<String>,
        template: Field<bool>,
        values: Option<&Values>,
        at: Places,
    ) -> Option<String> {
        let (prompt, prompt_at) = match prompt {
            Field::Wrong => return None,
            Field::Absent => {
                self.out.error(at.job, "this job has no `prompt`");
                return None;
            }
            Field::Given(prompt, prompt_at) => (prompt, prompt_at),
        };
        if !self.check_prompt(&prompt, prompt_at) {
            return None;
        }
        if !given(template)?.unwrap_or(false) {
            return Some(prompt);
        }
        match self.patterns.render(&prompt, values?) {
            Ok(prompt) => self.check_prompt(&prompt, at.prompt).then_some(prompt),
            Err(why) => {
                self.out.error(at.prompt, format!("the prompt as a template: {why}"));
                None
            }
        }
    }

    fn check_prompt(&mut self, prompt: &str, at: Location) -> bool {
        if prompt.trim().is_empty() {
            self.out.error(at, "the prompt is empty");
        } else if prompt.len() > PROMPT_BYTES_MAX {
            let found = prompt.len();
            self.out
                .error(at, format!("the prompt has {found} bytes; at most {PROMPT_BYTES_MAX} are allowed"));
        } else {
            return true;
        }
        false
    }

    fn check_request_size(&mut self, spec: &Spec, at: Location) -> Option<()> {
        let bytes = request_bytes(spec);
        let bytes_max = self.options.request_bytes_max;
        if bytes > bytes_max {
            let message = format!(
                "the request would have about {bytes} bytes; at most {bytes_max} are allowed (`--max-request-bytes`)"
            );
            self.out.error(at, message);
            return None;
        }
        advice::on_request_size(bytes, at, &mut self.out);
        Some(())
    }

    fn output(
        &mut self,
        pattern: &Field<String>,
        values: &Values,
        place: Place,
        at: Location,
    ) -> Option<OutputName> {
        let (pattern, hint) = match pattern {
            Field::Wrong => return None,
            Field::Absent => (DEFAULT_OUTPUT, "; `output` can give another name than the id"),
            Field::Given(pattern, _) => (pattern.as_str(), ""),
        };
        let id = excerpt(values.id.as_deref().unwrap_or_default());
        let mut wrong = |message: String| {
            self.out.error(at, format!("the output of job {id}: {message}"));
            None
        };
        let text = match self.patterns.render(pattern, values) {
            Ok(text) => text,
            Err(why) => return wrong(format!("{} cannot be filled in: {why}", excerpt(pattern))),
        };
        let shown = excerpt(&text);
        let name = match text.parse::<OutputName>() {
            Ok(name) => name,
            Err(why) => return wrong(format!("{shown}: {why}{hint}")),
        };
        if let Some(extension) = image_folder(&name) {
            return wrong(format!("{shown}: a folder must not end in `{extension}` as image files do"));
        }
        match self.names.claim_output(&name, place) {
            Ok(()) => Some(name),
            Err(first) => wrong(format!(
                "{shown} is the same file as that of job {} on line {} (upper and lower case are one on many disks)",
                first.number, first.line
            )),
        }
    }
}

/// Where the parts of a job stand; a part that comes from the defaults stands where the job
/// begins, since it is this job for which it is wrong.
#[derive(Debug, Clone, Copy)]
struct Places {
    job: Location,
    prompt: Location,
    output: Location,
}

/// What patterns can use, unless one of it is wrong.
fn values(
    id: Option<&Option<JobName>>,
    model: Option<&(ModelName, Option<Location>)>,
    aspect_ratio: Option<Option<String>>,
    image_size: Option<Option<String>>,
    tags: Field<BTreeMap<String, String>>,
) -> Option<Values> {
    Some(Values {
        id: id?.as_ref().map(JobName::to_string),
        model: model?.0.to_string(),
        aspect_ratio: aspect_ratio?,
        image_size: image_size?,
        tags: given(tags)?.unwrap_or_default(),
    })
}

/// A key's value or that there is none; `None` after an error.
fn given<T>(field: Field<T>) -> Option<Option<T>> {
    match field {
        Field::Absent => Some(None),
        Field::Wrong => None,
        Field::Given(value, _) => Some(Some(value)),
    }
}

/// The image extension that a folder of `name` ends in: job `a` may leave the file `a.png`,
/// and then `a.png/b` could not be made.
fn image_folder(name: &OutputName) -> Option<&'static str> {
    let (folders, _) = name.as_str().rsplit_once('/')?;
    let folders = folders.to_ascii_lowercase();
    IMAGE_EXTENSIONS
        .into_iter()
        .find(|extension| folders.split('/').any(|folder| folder.ends_with(extension)))
}

/// About how many bytes a job's request will have.
fn request_bytes(spec: &Spec) -> u64 {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    let prompt: u64 = spec.prompt.bytes().map(escaped).sum();
    let reference = |bytes: u64| bytes.div_ceil(3) * 4 + REFERENCE_OVERHEAD_BYTES;
    let references: u64 = spec.references.iter().map(|one| reference(one.bytes)).sum();
    let extra = if spec.extra.is_empty() { 0 } else { extra_bytes(&spec.extra) };
    REQUEST_OVERHEAD_BYTES + prompt + references + extra
}

fn extra_bytes(extra: &Map<String, Json>) -> u64 {
    extra.iter().map(|(key, value)| (key.len() + value.to_string().len() + 4) as u64).sum()
}
