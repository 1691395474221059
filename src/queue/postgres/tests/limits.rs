//! What the workers of a lane share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Schema;
use crate::job::{AttemptOutcome, Clock as _, ManualClock, Timestamp};
use crate::pacing::{End, Hints, Lane, LaneLimits, Share};
use crate::queue::conformance::{World, new_job};
use crate::queue::{Claim, ClaimRequest, Claimed, LaneEnd, LostPolicy, Next};

const STEP: Duration = Duration::from_millis(100);

/// Nobody is told a limit.
const UNKNOWN: Share = Share {
    limits: LaneLimits {
        requests_per_minute: None,
        images_per_minute: None,
        in_flight: Some(u32::MAX),
        in_flight_max: u32::MAX,
        rest_first: Duration::from_secs(4),
    },
    latency: None,
};

fn given(per_minute: u32) -> Share {
    Share { limits: LaneLimits { requests_per_minute: Some(per_minute), ..UNKNOWN.limits }, latency: None }
}

fn request(world: &World, count: u32, share: Share) -> ClaimRequest {
    let mut request = world.request(count);
    request.permits[0].share = Some(share);
    request
}

async fn claim(world: &World, count: u32, share: Share) -> Claimed {
    world.claim_with(request(world, count, share)).await
}

async fn told(world: &World, claim: &Claim, end: End, share: Share) -> Lane {
    let end = LaneEnd { lane: world.lane, attempt: claim.attempt, end, share, seed: 7 };
    world.queue.lane_ended(end).await.unwrap().expect("it is shared")
}

fn refused(wait: Option<Duration>) -> End {
    End::Refused(Hints { wait, per_minute: None })
}

/// One that keeps to what it is told.
struct Worker {
    world: World,
    asks_at: Timestamp,
    seen: Option<Lane>,
}

impl Worker {
    fn new(world: World) -> Self {
        let asks_at = world.clock_now();
        Self { world, asks_at, seen: None }
    }

    async fn step(&mut self, share: Share) -> Vec<Claim> {
        let now = self.world.clock_now();
        if now < self.asks_at {
            return Vec::new();
        }
        let mut claimed = claim(&self.world, 50, share).await;
        let wait = claimed.waits.first().map_or(Duration::ZERO, |(_, wait)| *wait);
        self.asks_at = now.plus(wait);
        self.seen = claimed.lanes.pop().map(|(_, lane)| lane);
        claimed.claims
    }
}

#[tokio::test]
async fn the_total_never_passes_the_limit_whoever_joins_or_dies() {
    for per_minute in [7, 60, 240] {
        let Some(schema) = Schema::new() else { return };
        let first = World::new(&schema).await;
        let clock = Arc::clone(&first.clock);
        let tag = format!("r{per_minute}");
        first.load((0..900).map(|n| new_job(&format!("{tag}-{n}"), n)).collect()).await;
        let mut workers = vec![Worker::new(first)];
        for step in 0..1_500 {
            match step {
                300 => {
                    for _ in 0..3 {
                        let world = workers[0].world.beside(&schema).await;
                        workers.push(Worker::new(world));
                    }
                }
                // Dead in the middle of it: what it was about to ask, nobody asks.
                700 => workers.truncate(2),
                _ => {}
            }
            for worker in &mut workers {
                worker.step(given(per_minute)).await;
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

/// A server that admits so many in any minute, as far as it is asked at instants of the test's clock.
struct Server {
    per_minute: usize,
    admitted: VecDeque<Timestamp>,
    refused: u32,
}

impl Server {
    fn admits(&mut self, now: Timestamp) -> bool {
        while self.admitted.front().is_some_and(|at| now.since(*at) >= Duration::from_secs(60)) {
            self.admitted.pop_front();
        }
        let admits = self.admitted.len() < self.per_minute;
        if admits {
            self.admitted.push_back(now);
        } else {
            self.refused += 1;
        }
        admits
    }
}

/// What so many workers come to in ten minutes that know of no limit: admitted in the last five, and refused in all.
async fn ten_minutes(count: usize) -> Option<(usize, u32)> {
    const PER_MINUTE: usize = 60;
    let schema = Schema::new()?;
    let first = World::new(&schema).await;
    let clock: Arc<ManualClock> = Arc::clone(&first.clock);
    first.load((0..1_000).map(|n| new_job(&format!("j{n}"), n)).collect()).await;
    let mut workers = Vec::new();
    for _ in 1..count {
        workers.push(Worker::new(first.beside(&schema).await));
    }
    workers.push(Worker::new(first));
    let mut server = Server { per_minute: PER_MINUTE, admitted: VecDeque::new(), refused: 0 };
    // By when, whose, what.
    let mut under_way: VecDeque<(Timestamp, usize, Claim)> = VecDeque::new();
    let (begun, mut late) = (clock.now(), 0);
    while clock.now().since(begun) < Duration::from_secs(600) {
        let now = clock.now();
        for (at, worker) in workers.iter_mut().enumerate() {
            for claim in worker.step(UNKNOWN).await {
                if server.admits(now) {
                    late += usize::from(now.since(begun) >= Duration::from_secs(300));
                    under_way.push_back((now.plus(Duration::from_secs(8)), at, claim));
                } else {
                    worker.seen = Some(told(&worker.world, &claim, refused(None), UNKNOWN).await);
                    let again = Next::Retry(Duration::from_secs(1));
                    worker.world.settle(&claim, AttemptOutcome::Throttled, again).await.unwrap();
                }
            }
        }
        while under_way.front().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, at, claim)) = under_way.pop_front() else { break };
            let worker = &mut workers[at];
            let end = End::Answered { images: 1, slowest: Some(Duration::from_secs(8)) };
            if worker.seen.as_ref().is_none_or(|seen| seen.heeds(end, tokio::time::Instant::now())) {
                worker.seen = Some(told(&worker.world, &claim, end, UNKNOWN).await);
            }
            worker.world.settle(&claim, AttemptOutcome::NoImage, Next::Fail).await.unwrap();
        }
        clock.advance(STEP);
    }
    Some((late, server.refused))
}

#[tokio::test]
async fn many_workers_find_a_limit_out_as_one_does() {
    let Some((goodput, refused)) = ten_minutes(1).await else { return };
    assert!(goodput >= 291, "one worker alone: {goodput} of 300");
    for count in [2, 4] {
        let Some((many, many_refused)) = ten_minutes(count).await else { return };
        assert!(many >= 291, "{count} workers: {many} of 300");
        assert!(many_refused <= refused + 2, "{count} workers: {many_refused} refusals, one alone {refused}");
    }
}

#[tokio::test]
async fn a_cooldown_holds_for_all_and_one_goes_first() {
    let Some(schema) = Schema::new() else { return };
    let one = World::new(&schema).await;
    one.load((0..20).map(|n| new_job(&format!("j{n}"), n)).collect()).await;
    let other = one.beside(&schema).await;
    let claims = claim(&one, 2, UNKNOWN).await.claims;
    let seen = told(&one, &claims[0], refused(Some(Duration::from_secs(10))), UNKNOWN).await;
    assert!(seen.closed(tokio::time::Instant::now()).is_some());
    told(&other, &claims[1], refused(Some(Duration::from_secs(3))), UNKNOWN).await;
    one.clock.advance(Duration::from_secs(10));
    let claimed = claim(&other, 5, UNKNOWN).await;
    assert_eq!(claimed.claims.len(), 0, "never earlier than asked");
    assert!(claimed.waits[0].1 < Duration::from_secs(1), "{:?}", claimed.waits);
    assert!(claimed.lanes[0].1.is_closed());
    one.clock.advance(Duration::from_secs(1));
    assert_eq!(claim(&other, 5, UNKNOWN).await.claims.len(), 1);
    assert!(claim(&one, 5, UNKNOWN).await.claims.is_empty(), "two probes");
    // Nobody refused it: the lane is open, and goes on at its pace.
    one.clock.advance(Duration::from_secs(9));
    assert_eq!(claim(&one, 5, UNKNOWN).await.claims.len(), 1);
}

#[tokio::test]
async fn what_found_no_job_is_not_counted() {
    let Some(schema) = Schema::new() else { return };
    let world = World::new(&schema).await;
    assert!(claim(&world, 5, given(60)).await.claims.is_empty());
    world.load(vec![new_job("a", 0)]).await;
    assert_eq!(claim(&world, 5, given(60)).await.claims.len(), 1);
}

#[tokio::test]
async fn an_overloaded_server_is_left_alone_by_all_and_a_dead_probe_is_followed_by_another() {
    let Some(schema) = Schema::new() else { return };
    let one = World::new(&schema).await;
    one.load((0..20).map(|n| new_job(&format!("j{n}"), n)).collect()).await;
    let other = one.beside(&schema).await;
    let claims = claim(&one, 4, UNKNOWN).await.claims;
    one.clock.advance(Duration::from_secs(9));
    let more = claim(&other, 1, UNKNOWN).await.claims;
    for claim in claims.iter().chain(&more) {
        told(&one, claim, End::Overloaded(None), UNKNOWN).await;
        let again = Next::Retry(Duration::ZERO);
        one.settle(claim, AttemptOutcome::Transient, again).await.unwrap();
    }
    assert!(claim(&other, 1, UNKNOWN).await.claims.is_empty(), "five in a row, whoever met them");
    one.clock.advance(Duration::from_secs(6));
    let probe = claim(&other, 5, UNKNOWN).await.claims;
    assert_eq!(probe.len(), 1);
    one.clock.advance(Duration::from_secs(60));
    assert!(claim(&one, 5, UNKNOWN).await.claims.is_empty(), "only an answer proves it well");
    one.queue.rescue(&[other.worker], one.worker, LostPolicy::Retry).await.unwrap();
    let probe = claim(&one, 5, UNKNOWN).await.claims;
    assert_eq!(probe.len(), 1, "nobody waits for the dead");
    told(&one, &probe[0], End::Answered { images: 1, slowest: None }, UNKNOWN).await;
    one.clock.advance(Duration::from_secs(9));
    assert_eq!(claim(&one, 1, UNKNOWN).await.claims.len(), 1);
}

#[tokio::test]
async fn images_beyond_the_first_of_an_answer_count_for_all() {
    let Some(schema) = Schema::new() else { return };
    let one = World::new(&schema).await;
    one.load((0..20).map(|n| new_job(&format!("j{n}"), n)).collect()).await;
    let other = one.beside(&schema).await;
    let share = Share { limits: LaneLimits { images_per_minute: Some(6), ..UNKNOWN.limits }, latency: None };
    let first = claim(&one, 1, share).await.claims;
    assert!(
        one.queue
            .lane_ended(LaneEnd {
                lane: one.lane,
                attempt: first[0].attempt,
                end: End::Answered { images: 6, slowest: None },
                share,
                seed: 1,
            })
            .await
            .unwrap()
            .is_some()
    );
    one.clock.advance(Duration::from_secs(55));
    assert!(claim(&other, 1, share).await.claims.is_empty(), "the minute's images are made");
    one.clock.advance(Duration::from_secs(7));
    assert_eq!(claim(&other, 1, share).await.claims.len(), 1);
}

/// Claims each second for so long, as these workers do in turn; how many there were.
async fn each_second(worlds: &[(&World, Share)], seconds: u64) -> usize {
    let mut claims = 0;
    for _ in 0..seconds {
        for (world, share) in worlds {
            claims += claim(world, 50, *share).await.claims.len();
        }
        worlds[0].0.clock.advance(Duration::from_secs(1));
    }
    claims
}

#[tokio::test]
async fn a_limit_that_one_was_given_holds_for_all_as_long_as_he_works() {
    let Some(schema) = Schema::new() else { return };
    let told = World::new(&schema).await;
    told.load((0..2_000).map(|n| new_job(&format!("j{n}"), n)).collect()).await;
    let untold = told.beside(&schema).await;
    // What is found out before is kept for later.
    let first = claim(&untold, 1, UNKNOWN).await.claims;
    let stated = End::Refused(Hints { wait: None, per_minute: Some(30) });
    self::told(&untold, &first[0], stated, UNKNOWN).await;
    told.clock.advance(Duration::from_secs(120));
    let both = [(&told, given(12)), (&untold, UNKNOWN)];
    let sent = each_second(&both, 300).await;
    assert!((55..=60).contains(&sent), "{sent} in 5 minutes at 12 a minute");
    // The smallest holds.
    let sent = each_second(&[(&told, given(12)), (&untold, given(600))], 300).await;
    assert!((55..=60).contains(&sent), "{sent} in 5 minutes at 12 a minute");
    // Who was given it has left: after a while the others go by what they know.
    each_second(&[(&untold, UNKNOWN)], 240).await;
    let sent = each_second(&[(&untold, UNKNOWN)], 300).await;
    assert!((120..=155).contains(&sent), "{sent} in 5 minutes at 30 a minute");
}
