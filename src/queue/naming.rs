//! Names of result files, whatever the engine: numbers behind a stem, and the order of renamings.

use std::collections::HashSet;

use super::text::broken;
use super::{OutputMove, QueueError};
use crate::job::OutputName;

/// Numbers that are tried for one file before the batch is taken to be broken.
pub(in crate::queue) const NUMBER_MAX: usize = 1_000_000;

/// Which number `stem` has among the names of `wanted`; 1 when it is none of them.
pub(in crate::queue) fn number_of(wanted: &str, stem: &str) -> usize {
    stem.strip_prefix(wanted).and_then(|rest| rest.strip_prefix('-')?.parse().ok()).unwrap_or(1)
}

pub(in crate::queue) fn numbered(stem: &str, n: usize) -> Result<String, QueueError> {
    if n > NUMBER_MAX {
        return Err(broken("output.name", &format!("no free name for `{stem}`")));
    }
    let name: OutputName = stem.parse().map_err(|error| broken("job_detail.output", &error))?;
    Ok(name.numbered(n).to_string())
}

/// A file's name without its extension.
pub(in crate::queue) fn stem_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Marks the name of a file that only steps aside for another one: it is still to be renamed.
const ASIDE: &str = ".moving.";

/// Renamings in an order in which they can be done one by one: a name that another file gives up comes
/// after that file. With each come the files that have its name, or 0 for a job that wants it; what
/// waits for a name that somebody keeps is left out.
pub(in crate::queue) fn in_order(mut waiting: Vec<(Vec<i64>, OutputMove)>) -> Vec<OutputMove> {
    let mut gone = HashSet::new();
    let mut moves = Vec::new();
    loop {
        let before = waiting.len();
        waiting.retain(|(owners, one)| {
            let is_free = owners.iter().all(|owner| gone.contains(owner));
            if is_free {
                gone.insert(one.output.0);
                moves.push(one.clone());
            }
            !is_free
        });
        if waiting.len() < before {
            continue;
        }
        // Names that are swapped: one of the files steps aside, and the next look finds the rest.
        let ids: HashSet<i64> = waiting.iter().map(|(_, one)| one.output.0).collect();
        let swapped = |owners: &[i64]| owners.iter().all(|owner| gone.contains(owner) || ids.contains(owner));
        let Some((_, one)) = waiting.iter_mut().find(|(owners, _)| swapped(owners)) else { return moves };
        let (stem, extension) = one.from.rsplit_once('.').unwrap_or((&one.from, ""));
        let aside = format!("{stem}{ASIDE}{extension}");
        moves.push(OutputMove { to: aside.clone(), ..one.clone() });
        gone.insert(one.output.0);
        one.from = aside;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_in_a_name_is_read_back() {
        assert_eq!(number_of("hero", "hero"), 1);
        assert_eq!(number_of("hero", "hero-12"), 12);
        assert_eq!(number_of("hero-2", "hero-2"), 1);
        assert_eq!(stem_of("de/v2.1/hero.png"), "de/v2.1/hero");
    }
}
