//! The real program on a manifest of its own, with the durable queue and the ledger at FULL.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use serde_json::json;

use super::case::Case;
use super::measure::{Cost, cost_of};

/// Runs the case once in `folder`.
pub(crate) fn cost(
    case: &Case,
    program: &Path,
    (base_url, references): (&str, &[PathBuf]),
    folder: &Path,
) -> Result<Cost> {
    let manifest = folder.join("jobs.jsonl");
    let lines: Vec<String> = (0..case.jobs)
        .map(|number| {
            let references = case.references_of(number, references);
            let prompt = format!("A press at night, number {number}");
            json!({ "id": format!("job-{number:04}"), "prompt": prompt, "references": references })
                .to_string()
        })
        .collect();
    std::fs::write(&manifest, lines.join("\n"))?;
    let out = folder.join("out");
    let mut command = Command::new(program);
    command.arg("run").arg(&manifest).arg("-o").arg(&out);
    command.args(["--base-url", base_url, "--rpm", "1000000", "--quiet"]);
    command.args(["--concurrency", &case.concurrency.to_string()]);
    command.env("NIGHTPRESS_API_KEY", "any-key-will-do").stdin(Stdio::null()).stdout(Stdio::null());
    command.current_dir(folder);
    let cost = cost_of(&mut command)?;
    let made = std::fs::read_dir(out.join("images"))?.count();
    ensure!(u32::try_from(made)? == case.jobs, "{made} images of {} jobs", case.jobs);
    Ok(cost)
}
