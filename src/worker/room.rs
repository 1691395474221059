//! Whether the disk has room for what requests bring. Pure: the free space comes from outside.
//!
//! A request is sent only if its answer has somewhere to land, beside the answers of those that are
//! on their way already. On a small disk this makes fewer of them run at once; without room for
//! one the run pauses. Several processes on one disk do not know of each other: what is too much
//! then is caught where it is written.

/// Kept for the queue and the reports: SQLite's log grows to 1,000 pages of 4 KiB before it is folded.
const KEPT_BYTES: u64 = 4 * MIB;

/// What an answer is expected to need: pictures of 1K and 2K are below it. An answer that was larger
/// teaches the rest of the run.
const ANSWER_BYTES: u64 = 4 * MIB;

const MIB: u64 = 1024 * 1024;

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

    /// How many requests may leave beside those `in_flight`, with so much space free.
    pub(super) fn more(&self, free_bytes: u64, in_flight: usize) -> u32 {
        let answers = free_bytes.saturating_sub(KEPT_BYTES) / self.answer_bytes;
        u32::try_from(answers.saturating_sub(in_flight as u64)).unwrap_or(u32::MAX)
    }

    /// Why not even one may leave.
    pub(super) fn too_little(&self, free_bytes: u64) -> String {
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

    #[test]
    fn a_small_disk_makes_fewer_run_and_a_full_one_none() {
        let room = Room::new();
        assert_eq!(room.more(100 * 1024 * MIB, 0), 25_599);
        assert_eq!(room.more(16 * MIB, 0), 3);
        assert_eq!(room.more(16 * MIB, 2), 1);
        assert_eq!(room.more(8 * MIB, 0), 1);
        assert_eq!(room.more(8 * MIB, 5), 0);
        assert_eq!(room.more(8 * MIB - 1, 0), 0);
        assert_eq!(room.more(0, 0), 0);
        assert_eq!(room.too_little(3 * MIB + MIB / 2), "the disk is full: 3.5 MiB are free, 8.0 are needed");
    }

    #[test]
    fn a_large_answer_is_reckoned_with_from_then_on() {
        let mut room = Room::new();
        room.landed(20 * MIB);
        room.landed(MIB);
        assert_eq!(room.more(44 * MIB, 0), 2);
        assert_eq!(room.more(23 * MIB, 0), 0);
        assert!(room.too_little(0).ends_with("0.0 MiB are free, 24.0 are needed"), "{}", room.too_little(0));
    }
}
