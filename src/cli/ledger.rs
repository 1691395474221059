//! Whether a run folder's queue still tells of all that its reports and pictures tell of. A queue
//! that was lost, emptied or restored from an older copy would have all of it paid again.

use anyhow::{Context as _, Result, bail};

use super::text;
use crate::job::printable;
use crate::output::RunFolder;
use crate::queue::Queue;
use crate::report::last_reported_attempt;

/// Fails where the folder tells of requests or results that `queue` does not know; `None` is a
/// queue that does not exist.
pub(super) async fn check(queue: Option<&dyn Queue>, folder: &RunFolder) -> Result<()> {
    let known: u64 = match queue {
        Some(queue) => queue.tally().await?.attempts.values().sum(),
        None => 0,
    };
    let path = folder.attempts_csv();
    let reported = last_reported_attempt(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let at = printable(&folder.path().display().to_string()).to_string();
    let found = if reported > known {
        format!("attempts.csv tells of {}", text::count(reported, "request"))
    } else if known == 0 && holds_files(folder) {
        "there are files in images/".to_owned()
    } else {
        return Ok(());
    };
    let instead = if known == 0 {
        "queue.db is missing or empty".to_owned()
    } else {
        format!("queue.db knows of {known} only")
    };
    bail!(
        "{at} has lost its queue, or a part of it: {found}, but {instead}. What was made would be paid again. Put the \
         right queue.db back (with queue.db-wal, where there is one); or, to begin anew, use another folder with -o, \
         or move attempts.csv and images/ away"
    )
}

fn holds_files(folder: &RunFolder) -> bool {
    std::fs::read_dir(folder.images()).is_ok_and(|mut entries| entries.next().is_some())
}
