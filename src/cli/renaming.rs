//! Results whose job only got another output name: they are renamed, and nothing is made again.

use std::collections::HashSet;

use anyhow::Result;

use super::terminal::Terminal;
use crate::job::{CrashPoint, crash_point, printable};
use crate::output::{PublishError, Published, Results};
use crate::queue::{OutputMove, Queue};

/// Renamings that are begun in one commit.
const BEGUN_MAX: usize = 500;

/// Renames published files whose job only got another output name. What cannot be renamed now is
/// told and tried again by the next load.
pub(super) async fn rename_outputs(queue: &dyn Queue, results: &Results, terminal: &Terminal) -> Result<u64> {
    end_what_was_begun(queue, results).await?;
    let mut renamed = 0;
    let mut moves = queue.moves().await?;
    // A name that is taken may become free by another move.
    loop {
        let mut taken = Vec::new();
        let before = renamed;
        let mut left = moves.as_slice();
        while !left.is_empty() {
            let (set, rest) = left.split_at(begun_at_once(left));
            queue.begin_moves(set).await?;
            crash_point(CrashPoint::MovesBegun);
            for one in set {
                match rename(queue, results, one, terminal).await? {
                    Renaming::Done => renamed += 1,
                    Renaming::Taken => taken.push(one.clone()),
                    Renaming::Impossible => {}
                }
            }
            left = rest;
        }
        moves = taken;
        if renamed == before {
            break;
        }
    }
    for one in moves {
        terminal.note(&format!(
            "warning: {} keeps its name: {} is taken",
            printable(&one.from),
            printable(&one.to)
        ));
    }
    Ok(renamed)
}

/// How many of these can be begun in one commit: one file is not begun twice, for it may step
/// aside before it gets its name.
fn begun_at_once(moves: &[OutputMove]) -> usize {
    let mut seen = HashSet::new();
    let set = moves.iter().take(BEGUN_MAX);
    set.take_while(|one| seen.insert(one.output)).count()
}

/// After a crash in the middle of renaming: a file stands under its old name or its new one, and
/// the queue is told which.
async fn end_what_was_begun(queue: &dyn Queue, results: &Results) -> Result<()> {
    for one in queue.moves_begun().await? {
        let is_moved = results.is_renamed((&one.from, &one.to), (one.bytes, one.digest)).await?;
        queue.moved(one.output, if is_moved { &one.to } else { &one.from }).await?;
    }
    Ok(())
}

/// What became of a renaming.
enum Renaming {
    Done,
    /// Another file has that name, perhaps not for long.
    Taken,
    /// There is nothing to rename, or the disk said no.
    Impossible,
}

async fn rename(
    queue: &dyn Queue,
    results: &Results,
    one: &OutputMove,
    terminal: &Terminal,
) -> Result<Renaming> {
    match results.rename((&one.from, &one.to), (one.bytes, one.digest)).await {
        Ok(Published::Done) => {
            crash_point(CrashPoint::FileMoved);
            queue.moved(one.output, &one.to).await?;
            Ok(Renaming::Done)
        }
        Ok(Published::Occupied) => {
            queue.moved(one.output, &one.from).await?;
            Ok(Renaming::Taken)
        }
        // A person deleted it; that is told when results are counted.
        Err(PublishError::NoSuchResult { .. }) => {
            queue.moved(one.output, &one.from).await?;
            Ok(Renaming::Impossible)
        }
        Err(error) => {
            queue.moved(one.output, &one.from).await?;
            terminal.note(&format!("warning: {}", printable(&error.to_string())));
            Ok(Renaming::Impossible)
        }
    }
}
