//! How many operations the queue takes. Not a test of the usual run: `cargo test --release --lib postgres --
//! --ignored --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use super::{Disk, Schema, support};
use crate::job::JobState;
use crate::pacing::{LaneLimits, Share};
use crate::queue::conformance::{World, new_job};

/// Requests in flight.
const SLOTS: u64 = 64;
const JOBS: u64 = 20_000;

/// One job at a time from claim to success, until none is left.
async fn work(world: Arc<World>, share: Option<Share>) {
    let mut request = world.request(1);
    request.permits[0].share = share;
    loop {
        let claimed = world.claim_with(request.clone()).await;
        for claim in &claimed.claims {
            world.finish(claim).await;
        }
        match claimed.waits.first() {
            // The clock is the test's.
            Some((_, wait)) => world.clock.advance(*wait),
            None if claimed.claims.is_empty() => return,
            None => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn operations_a_second_with_64_slots() {
    let Some(server) = support::start(Disk::Durable) else { return };
    // With a limit that is never met, so that what is measured is the asking.
    let limits =
        LaneLimits { requests_per_minute: Some(120_000), in_flight: Some(u32::MAX), ..LaneLimits::default() };
    for (name, share) in [("alone", None), ("sharing a lane", Some(Share { limits, latency: None }))] {
        let world = Arc::new(World::new(&Schema::on(&server)).await);
        let begun = Instant::now();
        world.load((0..JOBS).map(|n| new_job(&format!("j{n}"), n)).collect()).await;
        println!("{JOBS} jobs loaded in {:?}", begun.elapsed());
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..SLOTS {
            tasks.spawn(work(Arc::clone(&world), share));
        }
        tasks.join_all().await;
        let took = begun.elapsed();
        assert_eq!(world.queue.tally().await.unwrap().jobs_in(JobState::Succeeded), JOBS);
        let operations = JOBS * 3;
        println!(
            "{name}: {operations} operations in {took:?}, {:.0}/s",
            operations as f64 / took.as_secs_f64()
        );
    }
}
