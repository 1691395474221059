//! `nightpress report`: rebuild the reports from the queue.

use anyhow::Result;
use serde_json::json;

use crate::cli::args::ReportArgs;
use crate::cli::exit::Exit;
use crate::cli::ledger;
use crate::cli::session::Session;
use crate::job::printable;
use crate::output::RunFolder;
use crate::queue::Queue;
use crate::queue::sqlite::Access;
use crate::report::write_reports;

pub(in crate::cli) async fn run(session: Session, args: ReportArgs) -> Result<Exit> {
    let (folder, queue) = session.existing(&args.folder, &args.queue, Access::Existing).await?;
    let written = write(queue.as_ref(), &folder).await;
    queue.close().await;
    written?;
    let files = [folder.usage_csv(), folder.attempts_csv(), folder.summary_json()];
    if args.json {
        let files = files.map(|path| path.display().to_string());
        let done = json!({ "folder": folder.path().display().to_string(), "files": files });
        session.terminal.json(&done.to_string());
        return Ok(Exit::Done);
    }
    for path in files {
        session.terminal.out(&printable(&path.display().to_string()).to_string());
    }
    Ok(Exit::Done)
}

/// A queue that has lost requests must not make the ledger forget them too.
async fn write(queue: &dyn Queue, folder: &RunFolder) -> Result<()> {
    ledger::check(Some(queue), folder).await?;
    Ok(write_reports(queue, folder).await?)
}
