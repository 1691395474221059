//! `nightpress show`: one job with its attempts.

use anyhow::Result;
use serde_json::{Value, json};

use super::jobs::as_json;
use crate::cli::args::ShowArgs;
use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::text;
use crate::job::{JobName, printable};
use crate::queue::{Access, AttemptRow, JobRow, Queue, QueueError};
use crate::report::{Money, Tokens, error_line};

/// Attempts that are shown; a job has a handful, unless a limit turned it away all night.
const ATTEMPTS_MAX: u32 = 1_000;

pub(in crate::cli) async fn run(session: Session, args: ShowArgs) -> Result<Exit> {
    let (_, queue) = session.existing(&args.folder, &args.queue, Access::Look).await?;
    let found = find(queue.as_ref(), &args.job).await;
    queue.close().await;
    let (job, attempts) = found?;
    if args.json {
        let mut shown = as_json(&job);
        if let Value::Object(shown) = &mut shown {
            shown.insert("requests".to_owned(), attempts.iter().map(attempt_json).collect());
        }
        session.terminal.json(&serde_json::to_string_pretty(&shown)?);
    } else {
        session.terminal.out(&lines(&job).join("\n"));
        for attempt in &attempts {
            session.terminal.out(&attempt_line(attempt));
        }
    }
    Ok(Exit::Done)
}

async fn find(queue: &dyn Queue, name: &JobName) -> Result<(JobRow, Vec<AttemptRow>), QueueError> {
    let job = queue.job(name).await?.ok_or_else(|| QueueError::NoSuchJob(name.to_string()))?;
    let attempts = queue.attempts(Some(job.job), None, ATTEMPTS_MAX).await?;
    Ok((job, attempts))
}

fn lines(job: &JobRow) -> Vec<String> {
    let mut lines = vec![format!("{}: {}", job.name, job.state)];
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("  {name:<12} {}", printable(value)));
        }
    };
    line("model", &job.model);
    line("aspect_ratio", job.aspect_ratio.as_deref().unwrap_or_default());
    line("image_size", job.image_size.as_deref().unwrap_or_default());
    line("prompt", &job.prompt);
    line("revision", &job.revision.to_string());
    let tags: Vec<String> = job.tags.iter().map(|(name, value)| format!("{name}={value}")).collect();
    line("tags", &tags.join(", "));
    line("due at", &job.available_at.map_or_else(String::new, |at| at.to_string()));
    line("cost", &job.cost.map_or_else(String::new, |cost| format!("{cost} USD (estimate)")));
    for file in &job.outputs {
        let (width, height, bytes) = (file.width, file.height, text::bytes(file.bytes));
        line("file", &format!("images/{} ({width}×{height}, {bytes})", file.name));
    }
    line("caption", job.last.as_ref().and_then(|last| last.caption.as_deref()).unwrap_or_default());
    lines
}

fn attempt_line(attempt: &AttemptRow) -> String {
    let mut parts = vec![format!("  #{} {} {}", attempt.attempt, attempt.sent_at, attempt.outcome)];
    parts.extend(attempt.total.map(text::span));
    parts.extend(attempt.http_status.map(|status| format!("HTTP {status}")));
    parts.push(error_line(attempt));
    parts.extend(attempt.note.clone());
    parts.retain(|part| !part.is_empty());
    printable(&parts.join(" · ")).to_string()
}

fn attempt_json(attempt: &AttemptRow) -> Value {
    json!({
        "attempt": attempt.attempt.0,
        "revision": attempt.revision,
        "run": attempt.run.0,
        "lane": attempt.lane,
        "model": attempt.model,
        "sent_at": attempt.sent_at.to_string(),
        "ended_at": attempt.ended_at.map(|at| at.to_string()),
        "outcome": attempt.outcome.as_str(),
        "http_status": attempt.http_status,
        "error": Some(error_line(attempt)).filter(|error| !error.is_empty()),
        "note": attempt.note,
        "finish_reason": attempt.finish_reason,
        "response_id": attempt.response_id,
        "caption": attempt.caption,
        "tokens": Tokens::from(attempt.usage),
        "bytes": attempt.bytes,
        "first_byte_ms": attempt.first_byte.map(|span| span.as_millis()),
        "total_ms": attempt.total.map(|span| span.as_millis()),
        "cost_usd_estimate": attempt.cost.map(Money),
        "cost_usd_at_most": attempt.cost_at_most.map(Money),
    })
}
