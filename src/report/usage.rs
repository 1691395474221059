//! `usage.csv`: one row a job, in manifest order. Columns only ever get appended.

use super::rows::{ReportError, Rows};
use super::{PAGE_ROWS, cell, error_line};
use crate::job::JobState;
use crate::queue::{AttemptRow, JobFilter, JobRow, OutputKind, OutputRow, Queue};

const COLUMNS: [&str; 28] = [
    "job",
    "state",
    "model",
    "aspect_ratio",
    "image_size",
    "images",
    "width",
    "height",
    "attempts",
    "throttles",
    "prompt_tokens",
    "candidates_tokens",
    "image_tokens",
    "thoughts_tokens",
    "total_tokens",
    "cost_usd_estimate",
    "first_byte_ms",
    "total_ms",
    "bytes",
    "finish_reason",
    "error",
    "files",
    "caption",
    "prompt",
    "tags",
    "started_at",
    "finished_at",
    "note",
];

pub(super) async fn write(queue: &dyn Queue, rows: &mut Rows) -> Result<(), ReportError> {
    rows.add([COLUMNS]).await?;
    let filter = JobFilter::default();
    let mut after = None;
    loop {
        let page = queue.jobs(&filter, after, PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.cursor);
        rows.add(page.iter().map(row)).await?;
    }
    Ok(())
}

/// The model that made the pictures, or is to make them: another one may have stood in.
fn made_by(job: &JobRow) -> &str {
    let made = job.last.as_ref().filter(|_| job.state == JobState::Succeeded);
    made.map_or(&job.model, |last| &last.model)
}

fn row(job: &JobRow) -> [String; COLUMNS.len()] {
    let originals = || job.outputs.iter().filter(|output| output.kind == OutputKind::Original);
    let first: Option<&OutputRow> = originals().next();
    let last = job.last.as_ref();
    let text_of = |field: fn(&AttemptRow) -> Option<&str>| cell::optional_foreign(last.and_then(field));
    [
        cell::text(job.name.as_str()),
        job.state.to_string(),
        cell::text(made_by(job)),
        cell::optional(job.aspect_ratio.as_deref()),
        cell::optional(job.image_size.as_deref()),
        originals().count().to_string(),
        cell::number(first.map(|output| output.width)),
        cell::number(first.map(|output| output.height)),
        job.attempts.to_string(),
        job.throttles.to_string(),
        cell::number(job.usage.prompt),
        cell::number(job.usage.candidates),
        cell::number(job.usage.image),
        cell::number(job.usage.thoughts),
        cell::number(job.usage.total),
        cell::money(job.cost),
        cell::ms(last.and_then(|last| last.first_byte)),
        cell::ms(last.and_then(|last| last.total)),
        cell::number(first.map(|_| job.outputs.iter().map(|output| output.bytes).sum::<u64>())),
        text_of(|last| last.finish_reason.as_deref()),
        error(job),
        cell::text(&files(job)),
        text_of(|last| last.caption.as_deref()),
        cell::text(&job.prompt),
        cell::text(&tags(job)),
        cell::time(last.map(|last| last.sent_at)),
        cell::time(last.and_then(|last| last.ended_at)),
        text_of(|last| last.note.as_deref()),
    ]
}

/// `code: message` of the last attempt of a job that did not succeed.
fn error(job: &JobRow) -> String {
    match &job.last {
        Some(last) if job.state != JobState::Succeeded => cell::foreign(&error_line(last)),
        _ => String::new(),
    }
}

fn files(job: &JobRow) -> String {
    let names: Vec<String> = job.outputs.iter().map(|output| format!("images/{}", output.name)).collect();
    names.join(";")
}

fn tags(job: &JobRow) -> String {
    let tags = job.tags.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
    serde_json::Value::Object(tags.collect()).to_string()
}
