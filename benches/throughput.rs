//! How many jobs a second go through the queue alone, beside what the disk can do.
//!
//! `cargo bench --bench throughput`. 64 tasks take a job each, without any request: jobs/s at FULL and
//! at NORMAL, an fdatasync probe, and what claim and settle cost with 1,000,000 jobs in the queue in
//! units of what they cost with 1,000. All in turns; figures are medians. `NIGHTPRESS_ROUNDS` (5),
//! `NIGHTPRESS_JOBS` (20,000 a round) and `NIGHTPRESS_LARGE` (1,000,000) change the sizes.

#![expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a bench prints, and one that fails says so")]

mod stand;

use std::io::Write as _;
use std::time::{Duration, Instant};

use nightpress::queue::sqlite::Synchronous;
use stand::{Stand, Way, median};

const TASKS: usize = 64;
/// Commits of the probe.
const PROBES: u32 = 200;
const PAGE_BYTES: usize = 4096;
const SMALL: u64 = 1_000;

fn main() {
    let is_test = std::env::args().any(|arg| arg == "--test");
    let set = |name: &str, usual: u64, of_test: u64| {
        let given = std::env::var(name).ok().and_then(|value| value.parse().ok());
        given.unwrap_or(if is_test { of_test } else { usual })
    };
    let rounds = set("NIGHTPRESS_ROUNDS", 5, 1);
    let jobs = set("NIGHTPRESS_JOBS", 20_000, 500);
    let large = set("NIGHTPRESS_LARGE", 1_000_000, 5_000);
    stand::runtime().block_on(async {
        throughput(rounds, jobs).await;
        if large > 0 {
            table_size(rounds, jobs, large).await;
        }
    });
}

/// jobs/s by durability and way, in turns.
async fn throughput(rounds: u64, jobs: u64) {
    let cells = [
        ("claim + settle,           FULL  ", Synchronous::Full, Way::Settled),
        ("claim + settle,           NORMAL", Synchronous::Normal, Way::Settled),
        ("claim + settle + publish, FULL  ", Synchronous::Full, Way::Published),
        ("claim + settle + publish, NORMAL", Synchronous::Normal, Way::Published),
    ];
    let mut rates = vec![(Vec::new(), Vec::new()); cells.len()];
    let (mut probes, mut loads, mut loads_cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        for ((rates, cpus), (_, synchronous, way)) in rates.iter_mut().zip(&cells) {
            let (start, cpu) = (Instant::now(), cpu_time());
            let stand = Stand::new(jobs, *synchronous).await;
            loads.push(jobs as f64 / start.elapsed().as_secs_f64());
            loads_cpu.push(micros_per(jobs, cpu));
            probes.push(probe(stand.folder.path()));
            let cpu = cpu_time();
            let took = stand.work(jobs, TASKS, *way).await;
            rates.push(jobs as f64 / took.as_secs_f64());
            cpus.push(micros_per(jobs, cpu));
            drop(stand.close().await);
        }
    }
    println!("fdatasync of one page appended: {:.0}/s", median(probes));
    let (rate, cpu) = (median(loads), median(loads_cpu));
    println!("load of {jobs} jobs, the engine alone:       {rate:>7.0} jobs/s, {cpu:>5.1} µs CPU a job");
    for ((rates, cpus), (name, ..)) in rates.into_iter().zip(cells) {
        let (rate, cpu) = (median(rates), median(cpus));
        println!("{name} {TASKS} tasks: {rate:>7.0} jobs/s, {cpu:>5.1} µs CPU a job");
    }
}

/// What this process has used of the CPU, user and system; nothing where the kernel does not tell.
fn cpu_time() -> Duration {
    let ticks = || -> Option<u64> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // Behind the name, which may hold blanks: state is the first field, utime the 12th.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    };
    // Linux counts hundredths of a second, whatever the machine.
    Duration::from_millis(ticks().unwrap_or(0) * 10)
}

fn micros_per(jobs: u64, since: Duration) -> f64 {
    cpu_time().saturating_sub(since).as_secs_f64() * 1e6 / jobs as f64
}

/// Appends pages and waits for each to be on the disk: the least that a commit at FULL can cost.
fn probe(folder: &std::path::Path) -> f64 {
    let mut file = std::fs::File::create(folder.join("probe")).expect("the disk serves");
    let page = vec![7; PAGE_BYTES];
    let start = Instant::now();
    for _ in 0..PROBES {
        file.write_all(&page).expect("the disk serves");
        file.sync_data().expect("the disk serves");
    }
    f64::from(PROBES) / start.elapsed().as_secs_f64()
}

/// The same number of jobs from queues of [`SMALL`] and out of one of `large`.
async fn table_size(rounds: u64, jobs: u64, large: u64) {
    let jobs = jobs.min(large / 4);
    let of_small = Stand::new(SMALL, Synchronous::Normal).await.close().await;
    let of_large = Stand::new(large, Synchronous::Normal).await.close().await;
    let (mut ratios, mut smalls, mut larges) = (Vec::new(), Vec::new(), Vec::new());
    for way in [Way::Settled, Way::Published] {
        for _ in 0..rounds {
            let mut small = 0.0;
            for _ in 0..(jobs / SMALL).max(1) {
                let stand = Stand::copy_of(&of_small.path().join("queue.db"), Synchronous::Normal).await;
                small += stand.work(SMALL, TASKS, way).await.as_secs_f64();
                drop(stand.close().await);
            }
            let stand = Stand::copy_of(&of_large.path().join("queue.db"), Synchronous::Normal).await;
            let large = stand.work((jobs / SMALL).max(1) * SMALL, TASKS, way).await.as_secs_f64();
            drop(stand.close().await);
            let micros = 1e6 / ((jobs / SMALL).max(1) * SMALL) as f64;
            smalls.push(small * micros);
            larges.push(large * micros);
            ratios.push(large / small);
        }
        println!(
            "{way:?}: {:.1} µs a job at {SMALL} jobs, {:.1} µs at {large}: {:.2} x",
            median(std::mem::take(&mut smalls)),
            median(std::mem::take(&mut larges)),
            median(std::mem::take(&mut ratios)),
        );
    }
}
