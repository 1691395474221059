//! Operations of the queue by the size of its table: `cargo bench --bench queue`.
//!
//! What is measured is the engine's own work, at NORMAL: the disk would hide it. Costs are compared
//! between sizes; `throughput` measures jobs a second, and at FULL, and up to a million jobs.

#![allow(clippy::expect_used, reason = "a bench that fails says so")]

mod stand;

use std::hint::black_box;
use std::sync::LazyLock;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use nightpress::job::AttemptOutcome;
use nightpress::queue::sqlite::Synchronous;
use nightpress::queue::{JobFilter, Next, Queue, Scope};
use stand::{Stand, settlement};
use tokio::runtime::Runtime;

/// Jobs in the queue.
const SIZES: &[u64] = &[1_000, 10_000, 100_000];
/// As many as are in flight with the largest usual concurrency.
const AT_ONCE: u32 = 64;
const LOADED: u64 = 10_000;
const PAGE: u32 = 500;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(stand::runtime);

fn main() {
    divan::main();
}

/// 64 jobs claimed in one commit and sent back in another.
#[divan::bench(args = SIZES)]
fn claim_and_settle_64(bencher: Bencher<'_, '_>, size: u64) {
    let stand = RUNTIME.block_on(Stand::new(size, Synchronous::Normal));
    bencher.counter(ItemsCount::new(AT_ONCE)).bench_local(|| RUNTIME.block_on(there_and_back(&stand)));
    drop(RUNTIME.block_on(stand.close()));
}

async fn there_and_back(stand: &Stand) {
    let claimed = stand.queue.claim(stand.request(AT_ONCE)).await.expect("claims");
    let back = claimed.claims.iter().map(|claim| {
        stand.queue.settle(settlement(claim, AttemptOutcome::Throttled, Next::Retry(Duration::ZERO)))
    });
    for settled in futures_util::future::join_all(back).await {
        settled.expect("settles");
    }
}

/// 10,000 jobs into a queue that has none of them, or all.
#[divan::bench(args = [0, LOADED], sample_count = 10, sample_size = 1)]
fn load_10_000(bencher: Bencher<'_, '_>, before: u64) {
    bencher
        .counter(ItemsCount::new(LOADED))
        .with_inputs(|| RUNTIME.block_on(Stand::new(before, Synchronous::Normal)))
        .bench_local_values(|stand| {
            RUNTIME.block_on(stand::load(&stand.queue, LOADED));
            stand
        });
}

/// What `status` reads.
#[divan::bench(args = SIZES)]
fn figures(bencher: Bencher<'_, '_>, size: u64) {
    let stand = RUNTIME.block_on(Stand::new(size, Synchronous::Normal));
    bencher.bench_local(|| {
        RUNTIME.block_on(async {
            black_box(stand.queue.tally().await.expect("reads"));
            black_box(stand.queue.left(&Scope::default()).await.expect("reads"));
        });
    });
    drop(RUNTIME.block_on(stand.close()));
}

/// A page of a listing.
#[divan::bench(args = SIZES)]
fn page_of_500(bencher: Bencher<'_, '_>, size: u64) {
    let stand = RUNTIME.block_on(Stand::new(size, Synchronous::Normal));
    let filter = JobFilter::default();
    bencher
        .counter(ItemsCount::new(PAGE))
        .bench_local(|| black_box(RUNTIME.block_on(stand.queue.jobs(&filter, None, PAGE)).expect("reads")));
    drop(RUNTIME.block_on(stand.close()));
}
