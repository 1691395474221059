//! `nightpress cancel`: cancel jobs that are not finished.

use anyhow::Result;
use serde_json::json;

use crate::cli::args::CancelArgs;
use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::text;
use crate::job::JobState;
use crate::queue::{Access, Selection};

pub(in crate::cli) async fn run(session: Session, args: CancelArgs) -> Result<Exit> {
    let (site, queue) = session.existing(&args.folder, &args.queue, Access::Existing).await?;
    let open = [JobState::Waiting, JobState::Pending, JobState::Running, JobState::Held];
    let states = if args.all { open.to_vec() } else { vec![] };
    let changed = queue.cancel(&Selection { names: args.jobs, states }).await;
    queue.close().await;
    let changed = changed?;
    if args.json {
        let done = json!({ "folder": site.folder.path().display().to_string(), "cancelled": changed });
        session.terminal.json(&done.to_string());
    } else {
        session.terminal.out(&format!("{} cancelled", text::count(changed, "job")));
    }
    Ok(Exit::Done)
}
