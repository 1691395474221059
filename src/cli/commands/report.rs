//! `nightpress report`: rebuild the reports from the queue.

use anyhow::Result;
use serde_json::json;

use crate::cli::args::ReportArgs;
use crate::cli::exit::Exit;
use crate::cli::ledger;
use crate::cli::session::Session;
use crate::cli::site::Site;
use crate::job::printable;
use crate::output::Results;
use crate::queue::{Access, Queue};
use crate::report::{REPORTS, write_last_reports};

pub(in crate::cli) async fn run(session: Session, args: ReportArgs) -> Result<Exit> {
    let (site, queue) = session.existing(&args.folder, &args.queue, Access::Look).await?;
    let written = write(queue.as_ref(), &site).await;
    queue.close().await;
    let results = written?;
    let files = REPORTS.map(|name| format!("{results}/{name}"));
    if args.json {
        let folder = results.folder().path().display().to_string();
        let done = json!({ "folder": folder, "results": results.to_string(), "files": files });
        session.terminal.json(&done.to_string());
        return Ok(Exit::Done);
    }
    for path in files {
        session.terminal.out(&printable(&path).to_string());
    }
    Ok(Exit::Done)
}

/// A queue that has lost requests must not make the ledger forget them too.
async fn write(queue: &dyn Queue, site: &Site) -> Result<Results> {
    let results = site.results(Some(queue)).await?;
    ledger::check(Some(queue), &results).await?;
    write_last_reports(queue, &results).await?;
    Ok(results)
}
