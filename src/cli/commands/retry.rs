//! `nightpress retry`: make jobs pending again.

use anyhow::Result;

use crate::cli::args::RetryArgs;
use crate::cli::exit::Exit;
use crate::cli::session::Session;
use crate::cli::text;
use crate::job::JobState;
use crate::queue::Selection;
use crate::queue::sqlite::Access;

pub(in crate::cli) async fn run(session: Session, args: RetryArgs) -> Result<Exit> {
    let (_, queue) = session.existing(&args.folder, &args.queue, Access::Existing).await?;
    let named =
        [(args.failed, JobState::Failed), (args.refused, JobState::Refused), (args.held, JobState::Held)];
    let states = named.into_iter().filter(|(asked, _)| *asked).map(|(_, state)| state).collect();
    let changed = queue.retry(&Selection { names: args.jobs, states }).await?;
    queue.close().await;
    session.terminal.out(&format!("{} pending again", text::count(changed, "job")));
    Ok(Exit::Done)
}
