//! One job: from the values of its keys to a [`Job`], with all that depends on several keys or
//! on the jobs before it.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde_json::{Map, Value as Json};

use super::advice;
use super::diagnostic::{Collector, Location, excerpt};
use super::fields::{Field, Fields, Reported};
use super::keys::IMAGE_EXTENSIONS;
use super::names::{Names, Place};
use super::pattern::{DEFAULT_OUTPUT, Patterns, Values};
use crate::job::{Job, JobName, ModelName, OutputName, Provider, Spec};

/// Bytes of one prompt; the models take some 65,000 tokens.
const PROMPT_BYTES_MAX: usize = 1 << 20;

/// What a request has beside prompt, references and `extra`: generously.
const REQUEST_OVERHEAD_BYTES: u64 = 1024;

/// What a reference adds to a request beside its base64.
const REFERENCE_OVERHEAD_BYTES: u64 = 64;

/// What the command line says about all jobs.
pub(super) struct Settings {
    pub(super) provider: Provider,
    pub(super) default_model: Option<ModelName>,
    pub(super) request_bytes_max: u64,
    pub(super) today: Date,
}

/// Where a job and its parts stand. A part that comes from the defaults stands where the job
/// begins, since it is this job for which it is wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    job: Location,
    prompt: Location,
    output: Location,
    /// The job's number, from 1.
    number: u32,
}

impl Places {
    /// The places of the `number`th job, which begins at `job` and has these keys of its own.
    pub(super) fn of(own: &Fields, job: Location, number: u32) -> Self {
        Self { job, prompt: own.prompt.place_or(job), output: own.output.place_or(job), number }
    }

    const fn place(self) -> Place {
        Place { line: self.job.line, number: self.number }
    }
}

/// Makes jobs, one after another.
pub(super) struct JobBuilder {
    pub(super) settings: Settings,
    pub(super) patterns: Patterns,
    names: Names,
}

/// A job's model, and where the manifest names it; nowhere if the command line does.
type PlacedModel = (ModelName, Option<Location>);

/// An id that the manifest gives.
struct GivenId {
    name: JobName,
    /// Another job has it too; that was reported, and the rest of this one is looked at still.
    is_repeat: bool,
}

impl JobBuilder {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, patterns: Patterns::new(), names: Names::default() }
    }

    /// The job that `fields` describe. What can be looked at is looked at before the first
    /// `?`, so that one mistake does not hide another.
    pub(super) fn build(&mut self, fields: Fields, at: Places, out: &mut Collector) -> Result<Job, Reported> {
        let id = self.explicit_id(fields.id, at, out);
        let model = self.model(fields.model, out);
        if let Ok((model, _)) = &model {
            self.advise(&fields.aspect_ratio, model, advice::on_ratio, out);
            self.advise(&fields.image_size, model, advice::on_size, out);
        }
        let values = values(&id, &model, fields.aspect_ratio, fields.image_size, fields.tags);
        let output = match (&id, &values) {
            (Ok(Some(id)), Ok(values)) if !id.is_repeat || fields.output.is_given() => {
                self.output(&fields.output, values, at, out)
            }
            _ => Err(Reported),
        };
        let prompt = match (prompt_text(fields.prompt, at, out), fields.template.checked(), &values) {
            (Ok(prompt), Ok(None | Some(false)), _) => Ok(prompt),
            (Ok(prompt), Ok(Some(true)), Ok(values)) => self.filled_in(&prompt, values, at.prompt, out),
            _ => Err(Reported),
        };
        let references = fields.references.checked();
        if let (Ok(Some(references)), Ok((model, model_at))) = (&references, &model) {
            advice::on_references(references, model, model_at.unwrap_or(at.job), out);
        }

        let fallback_models = self.fallback_models(fields.fallback_models, &model, at, out);

        let mut values = values?;
        let spec = Spec {
            prompt: prompt?,
            references: references?.unwrap_or_default(),
            model: model?.0,
            aspect_ratio: values.aspect_ratio.clone(),
            image_size: values.image_size.clone(),
            modalities: fields.modalities.checked()?.unwrap_or_default(),
            extra: fields.extra.checked()?.unwrap_or_default(),
        };
        self.check_request_size(&spec, at.job, out)?;
        let (name, output) = if let Some(id) = id? {
            (id.name, output?)
        } else {
            let name = self.names.derive_id(&spec, at.place()).ok_or(Reported)?;
            values.id = Some(name.to_string());
            (name, self.output(&fields.output, &values, at, out)?)
        };
        Ok(Job {
            name,
            ordinal: u64::from(at.number - 1),
            fallback_models: fallback_models?,
            stream: fields.stream.checked()?.unwrap_or_else(|| spec.model.streams_by_default()),
            spec,
            output,
            tags: values.tags,
            priority: fields.priority.checked()?.unwrap_or_default(),
        })
    }

    fn explicit_id(
        &mut self,
        id: Field<JobName>,
        job: Places,
        out: &mut Collector,
    ) -> Result<Option<GivenId>, Reported> {
        let id_at = id.place_or(job.job);
        let Some(name) = id.checked()? else { return Ok(None) };
        let first = self.names.claim_id(&name, job.place()).err();
        if let Some(Place { line, number }) = first {
            let shown = excerpt(name.as_str());
            out.error(
                id_at,
                format!("the id {shown} is already taken by job {number} on line {line}; ids are unique"),
            );
        }
        Ok(Some(GivenId { name, is_repeat: first.is_some() }))
    }

    fn model(&self, model: Field<ModelName>, out: &mut Collector) -> Result<PlacedModel, Reported> {
        let (model, at) = match model {
            Field::Wrong => return Err(Reported),
            Field::Given(model, at) => (model, Some(at)),
            Field::Absent => {
                (self.settings.default_model.clone().unwrap_or_else(ModelName::default_model), None)
            }
        };
        advice::on_model(&model, self.settings.today, at.unwrap_or(Location::START), out);
        Ok((model, at))
    }

    /// Models that stand in, each once and none of them the job's own.
    fn fallback_models(
        &self,
        models: Field<Vec<ModelName>>,
        own: &Result<PlacedModel, Reported>,
        job: Places,
        out: &mut Collector,
    ) -> Result<Vec<ModelName>, Reported> {
        let at = models.place_or(job.job);
        let mut others = Vec::new();
        for model in models.checked()?.unwrap_or_default() {
            advice::on_model(&model, self.settings.today, at, out);
            // From the defaults, the list names the model of some jobs: no mistake.
            let is_own = own.as_ref().is_ok_and(|(own, _)| *own == model);
            if !is_own && !others.contains(&model) {
                others.push(model);
            }
        }
        Ok(others)
    }

    /// A ratio or a size: an open string that is warned of when no page knows it.
    fn advise(
        &self,
        field: &Field<String>,
        model: &ModelName,
        warn: fn(&str, &ModelName, Provider, Location, &mut Collector),
        out: &mut Collector,
    ) {
        if let Field::Given(value, at) = field {
            warn(value, model, self.settings.provider, *at, out);
        }
    }

    /// A prompt that asks to be filled in.
    fn filled_in(
        &mut self,
        prompt: &str,
        values: &Values,
        at: Location,
        out: &mut Collector,
    ) -> Result<String, Reported> {
        let prompt = self.patterns.render(prompt, values).map_err(|why| {
            out.error(at, format!("the prompt as a template: {why}"));
            Reported
        })?;
        check_prompt(&prompt, at, out)?;
        Ok(prompt)
    }

    fn check_request_size(&self, spec: &Spec, at: Location, out: &mut Collector) -> Result<(), Reported> {
        let bytes = request_bytes(spec);
        let bytes_max = self.settings.request_bytes_max;
        if bytes > bytes_max {
            let message = format!(
                "the request would have about {bytes} bytes; at most {bytes_max} are allowed (`--max-request-bytes`)"
            );
            out.error(at, message);
            return Err(Reported);
        }
        advice::on_request_size(bytes, at, out);
        Ok(())
    }

    fn output(
        &mut self,
        pattern: &Field<String>,
        values: &Values,
        job: Places,
        out: &mut Collector,
    ) -> Result<OutputName, Reported> {
        let pattern = match pattern {
            Field::Wrong => return Err(Reported),
            Field::Absent => DEFAULT_OUTPUT,
            Field::Given(pattern, _) => pattern.as_str(),
        };
        self.output_name(pattern, values, job.place()).map_err(|why| {
            let id = excerpt(values.id.as_deref().unwrap_or_default());
            out.error(job.output, format!("the output of job {id}: {why}"));
            Reported
        })
    }

    fn output_name(&mut self, pattern: &str, values: &Values, place: Place) -> Result<OutputName, String> {
        let text = self
            .patterns
            .render(pattern, values)
            .map_err(|why| format!("{} cannot be filled in: {why}", excerpt(pattern)))?;
        let name: OutputName = text.parse().map_err(|why| {
            let by_id = pattern == DEFAULT_OUTPUT;
            let hint = if by_id { "; `output` can give another name than the id" } else { "" };
            format!("{}: {why}{hint}", excerpt(&text))
        })?;
        if let Some(extension) = image_folder(&name) {
            let shown = excerpt(&text);
            return Err(format!("{shown}: a folder must not end in `{extension}` as image files do"));
        }
        self.names.claim_output(&name, place).map_err(|Place { line, number }| {
            format!(
                "{} is the same file as that of job {number} on line {line} (upper and lower case are one on many disks)",
                excerpt(&text)
            )
        })?;
        Ok(name)
    }
}

/// What patterns can use, unless one of it is wrong.
fn values(
    id: &Result<Option<GivenId>, Reported>,
    model: &Result<PlacedModel, Reported>,
    aspect_ratio: Field<String>,
    image_size: Field<String>,
    tags: Field<BTreeMap<String, String>>,
) -> Result<Values, Reported> {
    let id = id.as_ref().map_err(|reported| *reported)?;
    let (model, _) = model.as_ref().map_err(|reported| *reported)?;
    Ok(Values {
        id: id.as_ref().map(|id| id.name.to_string()),
        model: model.to_string(),
        aspect_ratio: aspect_ratio.checked()?,
        image_size: image_size.checked()?,
        tags: tags.checked()?.unwrap_or_default(),
    })
}

/// The prompt as the manifest gives it, byte for byte.
fn prompt_text(prompt: Field<String>, job: Places, out: &mut Collector) -> Result<String, Reported> {
    let at = prompt.place_or(job.prompt);
    let Some(prompt) = prompt.checked()? else {
        out.error(job.job, "this job has no `prompt`");
        return Err(Reported);
    };
    check_prompt(&prompt, at, out)?;
    Ok(prompt)
}

fn check_prompt(prompt: &str, at: Location, out: &mut Collector) -> Result<(), Reported> {
    if prompt.trim().is_empty() {
        out.error(at, "the prompt is empty");
    } else if prompt.len() > PROMPT_BYTES_MAX {
        let found = prompt.len();
        out.error(at, format!("the prompt has {found} bytes; at most {PROMPT_BYTES_MAX} are allowed"));
    } else {
        return Ok(());
    }
    Err(Reported)
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
    REQUEST_OVERHEAD_BYTES + prompt + references + extra_bytes(&spec.extra)
}

fn extra_bytes(extra: &Map<String, Json>) -> u64 {
    extra.iter().map(|(key, value)| (key.len() + value.to_string().len() + 4) as u64).sum()
}
