//! Whether the disk has room for what requests bring. Pure: the free space comes from outside.
//!
//! A request is sent only if its answer has somewhere to land, beside the answers of those that are
//! on their way already. On a small disk this makes fewer of them run at once; without room for
//! one the run pauses. Several processes on one disk do not know of each other: what is too much
//! then is caught where it is written.

use crate::output::Free;

/// Kept for the queue and the reports: SQLite's log grows to 1,000 pages of 4 KiB before it is folded.
const KEPT_BYTES: u64 = 4 * MIB;

/// What an answer is expected to need: pictures of 1K and 2K are below it. An answer that was larger
/// teaches the rest of the run.
const ANSWER_BYTES: u64 = 4 * MIB;

const MIB: u64 = 1024 * 1024;

/// Files that are kept for the queue's log, the reports and folders.
const KEPT_FILES: u64 = 64;
/// Files of one answer: pictures in the spool, their names in `images/`.
const ANSWER_FILES: u64 = 4;

/// Reckons with the largest answer so far.
#[derive(Debug)]
pub(super) struct Room {
    answer_bytes: u64,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { answer_bytes: ANSWER_BYTES }
    }

    /// An answer brought so many bytes.
    pub(super) fn landed(&mut self, bytes: u64) {
        self.answer_bytes = self.answer_bytes.max(bytes);
    }

    /// How many requests may leave beside those `in_flight`, with so much room.
    pub(super) fn more(&self, free: Free, in_flight: usize) -> u32 {
        let by_bytes = free.bytes.saturating_sub(KEPT_BYTES) / self.answer_bytes;
        let by_files = free.files.map_or(u64::MAX, |files| files.saturating_sub(KEPT_FILES) / ANSWER_FILES);
        let answers = by_bytes.min(by_files);
        u32::try_from(answers.saturating_sub(in_flight as u64)).unwrap_or(u32::MAX)
    }

    /// Why not even one may leave.
    pub(super) fn too_little(&self, free: Free) -> String {
        let needed_files = KEPT_FILES + ANSWER_FILES;
        if let Some(files) = free.files.filter(|files| *files < needed_files) {
            return format!("the disk takes only {files} more files (inodes), {needed_files} are needed");
        }
        let free_bytes = free.bytes;
        let needed = mib((10 * (KEPT_BYTES + self.answer_bytes)).div_ceil(MIB));
        format!(
            "the disk is full: {} MiB are free, {needed} are needed",
            mib(free_bytes.saturating_mul(10) / MIB)
        )
    }
}

/// Tenths of a MiB as a number with one decimal.
fn mib(tenths: u64) -> String {
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(bytes: u64) -> Free {
        Free { bytes, files: None }
    }

    #[test]
    fn a_small_disk_makes_fewer_run_and_a_full_one_none() {
        let room = Room::new();
        assert_eq!(room.more(free(100 * 1024 * MIB), 0), 25_599);
        assert_eq!(room.more(free(16 * MIB), 0), 3);
        assert_eq!(room.more(free(16 * MIB), 2), 1);
        assert_eq!(room.more(free(8 * MIB), 0), 1);
        assert_eq!(room.more(free(8 * MIB), 5), 0);
        assert_eq!(room.more(free(8 * MIB - 1), 0), 0);
        assert_eq!(room.more(free(0), 0), 0);
        assert_eq!(
            room.too_little(free(3 * MIB + MIB / 2)),
            "the disk is full: 3.5 MiB are free, 8.0 are needed"
        );
    }

    #[test]
    fn a_disk_that_takes_no_more_files_is_full_whatever_its_bytes() {
        let room = Room::new();
        let files = |files| Free { bytes: u64::MAX, files: Some(files) };
        assert_eq!(room.more(files(1_000_000), 3), 249_981);
        assert_eq!(room.more(files(72), 1), 1);
        assert_eq!(room.more(files(67), 0), 0);
        let why = room.too_little(files(67));
        assert_eq!(why, "the disk takes only 67 more files (inodes), 68 are needed");
    }

    #[test]
    fn a_large_answer_is_reckoned_with_from_then_on() {
        let mut room = Room::new();
        room.landed(20 * MIB);
        room.landed(MIB);
        assert_eq!(room.more(free(44 * MIB), 0), 2);
        assert_eq!(room.more(free(23 * MIB), 0), 0);
        assert!(
            room.too_little(free(0)).ends_with("0.0 MiB are free, 24.0 are needed"),
            "{}",
            room.too_little(free(0))
        );
    }
}
