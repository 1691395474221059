//! How many operations the queue takes. Not a test of the usual run: `cargo test --release --lib postgres --
//! --ignored --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::{Disk, Schema, support};
use crate::job::JobState;
use crate::queue::conformance::{World, new_job};

/// Requests in flight.
const SLOTS: u64 = 64;
const JOBS: u64 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn operations_a_second_with_64_slots() {
    let Some(server) = support::start(Disk::Durable) else { return };
    let world = Arc::new(World::new(&Schema::on(&server)).await);
    let begun = Instant::now();
    world.load((0..JOBS).map(|n| new_job(&format!("j{n}"), n)).collect()).await;
    println!("{JOBS} jobs loaded in {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..SLOTS {
        let world = Arc::clone(&world);
        tasks.spawn(async move {
            let mut claims = world.claim(1).await;
            while let Some(claim) = claims.pop() {
                world.finish(&claim).await;
                claims = world.claim(1).await;
            }
        });
    }
    tasks.join_all().await;
    let took = begun.elapsed();
    assert_eq!(world.queue.tally().await.unwrap().jobs_in(JobState::Succeeded), JOBS);
    let operations = JOBS * 3;
    println!("{operations} operations in {took:?}: {:.0}/s", operations as f64 / took.as_secs_f64());
}
