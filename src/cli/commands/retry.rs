//! `nightpress retry`: make jobs pending again.

use anyhow::Result;
use serde_json::json;

use crate::cli::args::RetryArgs;
use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::text;
use crate::job::{JobName, JobState};
use crate::queue::{Access, Queue, QueueError, Selection};

pub(in crate::cli) async fn run(session: Session, args: RetryArgs) -> Result<Exit> {
    let (site, queue) = session.existing(&args.folder, &args.queue, Access::Existing).await?;
    let named =
        [(args.failed, JobState::Failed), (args.refused, JobState::Refused), (args.held, JobState::Held)];
    let states = named.into_iter().filter(|(asked, _)| *asked).map(|(_, state)| state).collect();
    let done = retry(queue.as_ref(), Selection { names: args.jobs, states }).await;
    queue.close().await;
    let Retried { jobs, paid_again } = done?;
    if args.json {
        let folder = site.folder.path().display().to_string();
        let paid_again: Vec<&str> = paid_again.iter().map(JobName::as_str).collect();
        let done = json!({ "folder": folder, "pending": jobs, "paid_again": paid_again });
        session.terminal.json(&done.to_string());
        return Ok(Exit::Done);
    }
    session.terminal.out(&format!("{} pending again", text::count(jobs, "job")));
    for name in paid_again {
        session.terminal.out(&format!("{name} had succeeded: the next run makes it, and pays it, again"));
    }
    Ok(Exit::Done)
}

struct Retried {
    jobs: u64,
    /// Jobs that have their images already.
    paid_again: Vec<JobName>,
}

async fn retry(queue: &dyn Queue, selection: Selection) -> Result<Retried, QueueError> {
    let mut paid_again = Vec::new();
    for name in &selection.names {
        let job = queue.job(name).await?;
        if job.is_some_and(|job| job.state == JobState::Succeeded) && !paid_again.contains(name) {
            paid_again.push(name.clone());
        }
    }
    Ok(Retried { jobs: queue.retry(&selection).await?, paid_again })
}
