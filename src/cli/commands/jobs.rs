//! `nightpress jobs`: list jobs.

use anyhow::Result;
use serde_json::{Value, json};

use crate::cli::args::JobsArgs;
use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::text;
use crate::job::printable;
use crate::queue::{Access, JobFilter, JobRow};
use crate::report::{Money, Tokens, error_line};

const PAGE_ROWS: u32 = 500;
const ID_COLUMNS: usize = 32;
const ERROR_CHARS_MAX: usize = 120;

pub(in crate::cli) async fn run(session: Session, args: JobsArgs) -> Result<Exit> {
    let (_, queue) = session.existing(&args.folder, &args.queue, Access::Look).await?;
    let filter = JobFilter { states: args.states, scope: args.scope.scope() };
    let terminal = &session.terminal;
    let mut after = None;
    let mut separator = "[";
    while !terminal.is_broken() {
        let page = queue.jobs(&filter, after, PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.cursor);
        for job in &page {
            if args.json {
                terminal.json(&format!("{separator}{}", as_json(job)));
                separator = ",";
            } else {
                terminal.out(&line(job));
            }
        }
    }
    if args.json {
        terminal.out(if separator == "[" { "[]" } else { "]" });
    }
    queue.close().await;
    Ok(Exit::Done)
}

fn line(job: &JobRow) -> String {
    let id = text::cut(job.name.as_str(), ID_COLUMNS);
    let said = match (&job.last, job.outputs.as_slice()) {
        (Some(last), []) => text::cut(&printable(&error_line(last)).to_string(), ERROR_CHARS_MAX),
        (_, outputs) => outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>().join(" "),
    };
    let attempts = text::count(job.attempts, "request");
    let line = format!(
        "{:<9}  {id:<ID_COLUMNS$}  {:<30}  {attempts:>10}  {said}",
        job.state,
        printable(&job.model).to_string()
    );
    line.trim_end().to_owned()
}

/// A job as scripts see it; `show --json` has the same keys.
pub(super) fn as_json(job: &JobRow) -> Value {
    let last = job.last.as_ref();
    let files = job.outputs.iter().map(|output| {
        json!({
            "name": format!("images/{}", output.name), "bytes": output.bytes, "width": output.width,
            "height": output.height, "sha256": output.digest.to_string(), "media": output.media.mime(),
        })
    });
    json!({
        "job": job.name.as_str(),
        "state": job.state.as_str(),
        "revision": job.revision,
        "model": job.model,
        "aspect_ratio": job.aspect_ratio,
        "image_size": job.image_size,
        "prompt": job.prompt,
        "references": job.references,
        "tags": job.tags,
        "attempts": job.attempts,
        "throttles": job.throttles,
        "tokens": Tokens::from(job.usage),
        "cost_usd_estimate": job.cost.map(Money),
        "available_at": job.available_at.map(|at| at.to_string()),
        "error": last.map(error_line).filter(|error| !error.is_empty()),
        "files": files.collect::<Vec<_>>(),
    })
}
