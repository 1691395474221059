//! Pages, sums and counters.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::job::{AttemptOutcome, JobState, Micros};
use crate::queue::{Claim, JobFilter, LostPolicy, Next, Scope, Selection, Tally};

use super::world::{Bench, World, jobs, named};

pub(in crate::queue) async fn pages_show_every_job_once_and_in_order(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["x", "y", "a", "b", "c", "d", "e"])).await;
    world.load(jobs(&["e", "d", "c", "b", "a"])).await;
    let check = async |filter: JobFilter, expect: &str| {
        let (mut shown, mut after) = (String::new(), None);
        loop {
            let page = world.queue.jobs(&filter, after, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.cursor);
            shown.extend(page.iter().map(|row| row.name.as_str()));
        }
        assert_eq!(shown, expect, "{filter:?}");
    };
    check(JobFilter::default(), "edcbaxy").await;
    check(JobFilter { states: vec![JobState::Cancelled], ..JobFilter::default() }, "xy").await;
    let scope = Scope { first: Some(3), glob: Some("[cd]".to_owned()) };
    check(JobFilter { states: vec![], scope }, "dc").await;
}

pub(in crate::queue) async fn a_row_sums_over_all_attempts(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    assert_eq!(world.row("b").await.cost, None, "nothing is known about what was not sent");
    for outcome in [AttemptOutcome::Throttled, AttemptOutcome::NoImage] {
        let claim = world.claim_one().await;
        world.settle(&claim, outcome, Next::Retry(Duration::ZERO)).await.unwrap();
    }
    let claim = world.claim_one().await;
    world.clock.advance(Duration::from_secs(1));
    world.finish(&claim).await;
    let row = world.row("a").await;
    assert_eq!((row.attempts, row.throttles), (3, 1));
    assert_eq!((row.usage.total, row.usage.prompt), (Some(2000), None));
    assert_eq!(row.cost, Some(Micros(100_000)));
    let last = row.last.expect("it was sent");
    assert_eq!((last.outcome, last.ended_at), (AttemptOutcome::Succeeded, Some(world.clock_now())));
    assert_eq!(last.lane, "simulator/gemini-3.1-flash-image/k1");
}

pub(in crate::queue) async fn the_ledger_is_read_page_by_page(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b", "c"])).await;
    world.claim(3).await;
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = world.queue.attempts(None, after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.attempt);
        seen.extend(page.iter().map(|row| row.job.to_string()));
    }
    assert_eq!(seen, ["a", "b", "c"]);
    for (limit, expected) in [(2, &seen[1..]), (100, &seen[..])] {
        let latest = world.queue.latest_attempts(limit).await.unwrap();
        assert_eq!(latest.iter().map(|row| row.job.to_string()).collect::<Vec<_>>(), expected);
    }
}

/// What the counters should say, from the rows.
async fn recount(world: &World) -> Tally {
    let mut tally = Tally::default();
    for row in world.all().await {
        *tally.jobs.entry(row.state).or_default() += 1;
        tally.images += row.outputs.len() as u64;
    }
    let mut total = None;
    for row in world.queue.attempts(None, None, 100_000).await.unwrap() {
        *tally.attempts.entry(row.outcome).or_default() += 1;
        tally.cost += row.cost.unwrap_or_default();
        tally.cost_at_most += row.cost_at_most.unwrap_or_default();
        total = match (total, row.usage.total) {
            (None, one) => one,
            (sum, one) => sum.map(|sum: u64| sum + one.unwrap_or(0)),
        };
    }
    tally.usage.total = total;
    tally
}

pub(in crate::queue) async fn the_counters_equal_a_recount_after_anything(bench: &dyn Bench) {
    const SEED: u64 = 7;
    println!("seed {SEED}");
    let mut random = StdRng::seed_from_u64(SEED);
    let mut world = World::new(bench).await;
    let names: Vec<String> = (0..12).map(|n| format!("j{n}")).collect();
    let mut leased: Vec<Claim> = Vec::new();
    for step in 0..250 {
        match random.random_range(0..10) {
            0 => {
                let present: Vec<&str> =
                    names.iter().filter(|_| random.random_bool(0.8)).map(String::as_str).collect();
                let mut list = jobs(&present);
                for new in &mut list {
                    if random.random_bool(0.2) {
                        new.job.spec.prompt = format!("step {step}");
                    }
                }
                world.load(list).await;
            }
            1..=4 => leased.extend(world.claim(random.random_range(1..4)).await),
            5 => {
                let heir = world.beside(bench).await;
                heir.queue.rescue(&[world.worker], heir.worker, LostPolicy::Retry).await.unwrap();
                world = heir;
            }
            6 => drop(world.queue.retry(&named(&[&names[random.random_range(0..12)]])).await),
            7 => drop(world.queue.cancel(&named(&[&names[random.random_range(0..12)]])).await),
            _ => {
                let Some(claim) = leased.pop() else { continue };
                let (outcome, next) = match random.random_range(0..4) {
                    0 => (AttemptOutcome::Throttled, Next::Retry(Duration::ZERO)),
                    1 => (AttemptOutcome::NoImage, Next::Fail),
                    2 => (AttemptOutcome::Lost, Next::Hold),
                    _ => (AttemptOutcome::Succeeded, Next::Publish(vec![super::world::picture(step)])),
                };
                if world.settle(&claim, outcome, next).await.is_ok() {
                    drop(world.queue.published(claim.job, claim.epoch).await);
                }
            }
        }
        world.clock.advance(Duration::from_secs(1));
        assert_eq!(world.queue.tally().await.unwrap(), recount(&world).await, "step {step}, seed {SEED}");
        consistent(&world, step).await;
    }
    let all = Selection { names: vec![], states: JobState::ALL.to_vec() };
    world.queue.cancel(&all).await.unwrap();
    assert_eq!(world.queue.tally().await.unwrap(), recount(&world).await);
}

/// What holds after every step: leases and attempts agree, names are unique.
async fn consistent(world: &World, step: u64) {
    let mut names: BTreeMap<String, u32> = BTreeMap::new();
    for (_, _, output) in world.queue.outputs(None, 1000).await.unwrap() {
        *names.entry(output.name).or_default() += 1;
    }
    assert!(names.values().all(|n| *n == 1), "step {step}: {names:?}");
    for row in world.all().await {
        let in_flight = row.last.is_some_and(|last| last.outcome == AttemptOutcome::Sent);
        assert!(!in_flight || row.state == JobState::Running, "step {step}: {}", row.name);
    }
}
