//! What an image costs, in counted work and never in time: the real worker on the real queue, against a
//! server in other threads. The allocator counts what the client's own thread asks of it.
//!
//! `benches/end_to_end` measures the same in CPU and memory of the whole process.

#![allow(clippy::expect_used, reason = "a test panics when it fails")]

mod client;
#[path = "../../benches/end_to_end/picture.rs"]
mod picture;
#[path = "../../benches/end_to_end/server.rs"]
mod server;

use client::{Batch, counted};

const MB: u64 = 1_000_000;

/// Images at once.
const JOBS: u32 = 8;
/// What an image that fills the buffers on its way may take beyond one that does not: the block of the
/// spool and the read buffer of the connection, in part.
const BUFFERS_BYTES_MAX: u64 = 384 << 10;

/// What large images ask for beyond small ones, by each megabyte.
const ALLOCATIONS_PER_MB_MAX: u64 = 30;
/// The same in bytes. It is about 30 KB; a copy of what passes would be a whole megabyte, and a read
/// buffer that the connection cannot use again a quarter of one.
const ALLOCATED_BYTES_PER_MB_MAX: u64 = MB / 8;

#[test]
fn an_image_of_20_mb_takes_no_more_memory_than_one_of_200_kb() {
    let at_most = |image_bytes| counted(&Batch { jobs: JOBS, image_bytes, ..Batch::default() }).bytes_max;
    let (small, medium, large) = (at_most(200_000), at_most(2_000_000), at_most(20_000_000));
    let buffers = u64::from(JOBS) * BUFFERS_BYTES_MAX;
    assert!(large <= small + buffers, "{large} bytes at the most, {small} with small images");
    assert!(large <= medium + buffers / 2, "{large} bytes at the most, {medium} with images of 2 MB");
}

#[test]
fn what_passes_is_neither_collected_nor_copied_into_fresh_memory() {
    let small = counted(&Batch { jobs: 4, image_bytes: 200_000, ..Batch::default() });
    let large = counted(&Batch { jobs: 4, image_bytes: 20_200_000, ..Batch::default() });
    let megabytes = 4 * 20;
    let allocations = large.count_total.saturating_sub(small.count_total) / megabytes;
    let bytes = large.bytes_total.saturating_sub(small.bytes_total) / megabytes;
    assert!(allocations <= ALLOCATIONS_PER_MB_MAX, "{allocations} allocations per MB");
    assert!(bytes <= ALLOCATED_BYTES_PER_MB_MAX, "{bytes} bytes allocated per MB");
}

#[test]
fn references_are_sent_without_being_held() {
    const REFERENCES: usize = 4;
    let without = counted(&Batch { jobs: 4, ..Batch::default() });
    let with =
        counted(&Batch { jobs: 4, references: REFERENCES, reference_bytes: 5_000_000, ..Batch::default() });
    let more = with.bytes_max.saturating_sub(without.bytes_max);
    // Four jobs at once with 20 MB each would be 107 MB as base64.
    assert!(more < 8 * MB, "{more} bytes more with references");
}
