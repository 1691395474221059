//! The writer of `usage.csv` and `attempts.csv`: `cargo bench --bench report`. A job is one row of
//! each, read from the queue page by page.

#![allow(clippy::expect_used, reason = "a bench that fails says so")]

mod stand;

use divan::Bencher;
use divan::counter::ItemsCount;
use nightpress::output::RunFolder;
use nightpress::queue::sqlite::Synchronous;
use nightpress::report::write_reports;
use stand::{Stand, Way};

const SIZES: &[u64] = &[1_000, 20_000];
const TASKS: usize = 64;

fn main() {
    divan::main();
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn reports(bencher: Bencher<'_, '_>, size: u64) {
    let runtime = stand::runtime();
    let stand = runtime.block_on(async {
        let stand = Stand::new(size, Synchronous::Normal).await;
        stand.work(size, TASKS, Way::Published).await;
        stand
    });
    let results = RunFolder::new(stand.folder.path()).into();
    bencher
        .counter(ItemsCount::new(size))
        .bench_local(|| runtime.block_on(write_reports(stand.queue.as_ref(), &results)).expect("writes"));
    drop(runtime.block_on(stand.close()));
}
