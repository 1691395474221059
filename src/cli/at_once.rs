//! How many requests this process can have in flight: what it may open and the memory it has.

use anyhow::{Result, bail};

use crate::output::{memory_available, open_files_max};
use crate::worker::Concurrency;

/// Files that are open whatever is sent: the queue's connections, the log, the runtime's own.
const FILES_KEPT: u64 = 40;
/// The connection, what is spooled, and a reference.
const FILES_PER_REQUEST: u64 = 3;

/// What a request in flight is reckoned with: buffers of its connection, of the decoder and the spool.
/// Measured: 1.2 MiB with pictures of 30 MB (2026-11).
const REQUEST_BYTES: u64 = 2 << 20;
/// One part in so many of the memory that is there goes to requests; the rest is the page cache's, the
/// queue's and other programs'.
const MEMORY_SHARE: u64 = 2;
/// So many run however little memory there is said to be.
const IN_FLIGHT_MIN: u32 = 4;

/// What a process has to work with; `None` for what cannot be told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Means {
    /// Files that it may have open.
    pub(super) files_max: Option<u64>,
    /// Bytes of memory that it can have.
    pub(super) memory: Option<u64>,
}

impl Means {
    pub(super) fn of_this_process() -> Self {
        Self { files_max: open_files_max(), memory: memory_available() }
    }
}

/// How many requests may be in flight of those wanted: fewer where `auto` has not the files or the memory,
/// an error where a number has not the files. Without it, connections would fail one by one later, and the
/// jobs would be blamed.
pub(super) fn at_once(wanted: Concurrency, means: Means) -> Result<Concurrency> {
    match within_files(wanted, means.files_max)? {
        Concurrency::Auto { max } => {
            let possible = means.memory.map_or(u64::MAX, |bytes| bytes / MEMORY_SHARE / REQUEST_BYTES);
            let possible = u32::try_from(possible).unwrap_or(u32::MAX).max(IN_FLIGHT_MIN);
            Ok(Concurrency::Auto { max: max.min(possible) })
        }
        // Who gives a number knows the machine.
        fixed @ Concurrency::Fixed(_) => Ok(fixed),
    }
}

fn within_files(wanted: Concurrency, files_max: Option<u64>) -> Result<Concurrency> {
    let needed = |requests: u32| FILES_KEPT + FILES_PER_REQUEST * u64::from(requests);
    let Some(files_max) = files_max else { return Ok(wanted) };
    let possible = files_max.saturating_sub(FILES_KEPT) / FILES_PER_REQUEST;
    let possible = u32::try_from(possible).unwrap_or(u32::MAX);
    match wanted {
        Concurrency::Auto { max } if possible > 0 => Ok(Concurrency::Auto { max: max.min(possible) }),
        Concurrency::Fixed(n) if n <= possible => Ok(wanted),
        Concurrency::Fixed(n) if possible > 0 => bail!(
            "--concurrency {n} needs up to {} open files, this process may have {files_max}: raise the limit \
             (`ulimit -n {}`) or use --concurrency {possible}",
            needed(n),
            needed(n)
        ),
        Concurrency::Fixed(_) | Concurrency::Auto { .. } => bail!(
            "this process may have {files_max} open files, and needs {} at least: raise the limit (`ulimit -n {}`)",
            needed(1),
            needed(8)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_open_files_is_told_before_it_is_met() {
        let (auto, eight, many) =
            (Concurrency::Auto { max: 256 }, Concurrency::Fixed(8), Concurrency::Fixed(64));
        assert_eq!(within_files(eight, Some(64)).expect("enough"), eight);
        assert_eq!(within_files(auto, Some(64)).expect("some"), Concurrency::Auto { max: 8 });
        assert_eq!(within_files(auto, None).expect("no limit"), auto);
        let error = within_files(many, Some(64)).expect_err("too few").to_string();
        assert!(error.contains("up to 232 open files") && error.ends_with("--concurrency 8"), "{error}");
        let error = within_files(auto, Some(42)).expect_err("not even one").to_string();
        assert!(error.contains("needs 43 at least"), "{error}");
    }

    #[test]
    fn a_small_machine_has_fewer_in_flight_unless_a_number_is_given() {
        let with = |wanted, mib: u64| {
            at_once(wanted, Means { files_max: None, memory: Some(mib << 20) }).expect("enough files")
        };
        let auto = Concurrency::Auto { max: 256 };
        assert_eq!(with(auto, 24_000), auto);
        assert_eq!(with(auto, 256), Concurrency::Auto { max: 64 });
        assert_eq!(with(auto, 1), Concurrency::Auto { max: 4 });
        assert_eq!(with(Concurrency::Fixed(100), 1), Concurrency::Fixed(100));
        assert_eq!(at_once(auto, Means { files_max: None, memory: None }).expect("no limit"), auto);
    }
}
