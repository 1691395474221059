//! What the workers of a lane share.

use std::time::Duration;

use super::Schema;
use crate::job::Timestamp;
use crate::queue::ClaimRequest;
use crate::queue::conformance::{World, new_job};

const STEP: Duration = Duration::from_millis(100);

/// Asks with a limit that all share.
fn request(world: &World, count: u32, per_minute: Option<u32>) -> ClaimRequest {
    let mut request = world.request(count);
    request.permits[0].per_minute = per_minute;
    request
}

/// One that keeps to what it is told.
struct Worker {
    world: World,
    asks_at: Timestamp,
}

impl Worker {
    async fn step(&mut self, per_minute: u32) {
        let now = self.world.clock_now();
        if now >= self.asks_at {
            let claimed = self.world.claim_with(request(&self.world, 5, Some(per_minute))).await;
            let wait = claimed.waits.first().map_or(Duration::ZERO, |(_, wait)| *wait);
            self.asks_at = now.plus(wait);
        }
    }
}

#[tokio::test]
async fn the_total_never_passes_the_limit_whoever_joins_or_dies() {
    let Some(schema) = Schema::new() else { return };
    for per_minute in [7, 60, 240] {
        let first = World::new(&schema).await;
        let clock = std::sync::Arc::clone(&first.clock);
        let tag = format!("r{per_minute}");
        first.load((0..900).map(|n| new_job(&format!("{tag}-{n}"), n)).collect()).await;
        let begun = first.clock_now();
        let mut workers = vec![Worker { world: first, asks_at: begun }];
        for step in 0..1_500 {
            match step {
                300 => {
                    for _ in 0..3 {
                        let world = workers[0].world.beside(&schema).await;
                        workers.push(Worker { world, asks_at: begun });
                    }
                }
                // Dead in the middle of it: what it was about to ask, nobody asks.
                700 => workers.truncate(2),
                _ => {}
            }
            for worker in &mut workers {
                worker.step(per_minute).await;
            }
            clock.advance(STEP);
        }
        let rows = workers[0].world.queue.attempts(None, None, 5_000).await.unwrap();
        let sent: Vec<i64> = rows
            .iter()
            .filter(|row| row.job.as_str().starts_with(&tag))
            .map(|row| row.sent_at.as_ms())
            .collect();
        for from in &sent {
            let n = sent.iter().filter(|at| (*from..from + 60_000).contains(at)).count();
            assert!(n <= per_minute as usize, "{n} in a minute of {per_minute}");
        }
        let share = sent.len() as f64 / (f64::from(per_minute) * 2.5);
        assert!(share > 0.94, "only {} of {per_minute} a minute in 150 s", sent.len());
        clock.advance(Duration::from_secs(120));
    }
}

#[tokio::test]
async fn a_cooldown_holds_for_all_and_one_goes_first() {
    let Some(schema) = Schema::new() else { return };
    let one = World::new(&schema).await;
    one.load((0..20).map(|n| new_job(&format!("j{n}"), n)).collect()).await;
    let other = one.beside(&schema).await;
    one.queue.close_lane(one.lane, Duration::from_secs(10)).await.unwrap();
    one.queue.close_lane(one.lane, Duration::from_secs(3)).await.unwrap();
    one.clock.advance(Duration::from_millis(9_999));
    let claimed = other.claim_with(request(&other, 5, None)).await;
    assert_eq!(
        (claimed.claims.len(), claimed.waits.as_slice()),
        (0, &[(one.lane, Duration::from_millis(1))][..])
    );
    one.clock.advance(Duration::from_millis(1));
    let first = other.claim_with(request(&other, 5, None)).await;
    assert_eq!((first.claims.len(), first.waits[0].1), (1, Duration::from_secs(2)));
    assert!(one.claim(5).await.is_empty(), "two probes");
    one.clock.advance(Duration::from_secs(2));
    assert_eq!(one.claim(5).await.len(), 5);
}

#[tokio::test]
async fn what_found_no_job_is_given_back() {
    let Some(schema) = Schema::new() else { return };
    let world = World::new(&schema).await;
    assert!(world.claim_with(request(&world, 5, Some(60))).await.claims.is_empty());
    world.load(vec![new_job("a", 0)]).await;
    assert_eq!(world.claim_with(request(&world, 5, Some(60))).await.claims.len(), 1);
}
