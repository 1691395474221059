//! Claims, fences, scopes, allowances, and what a person asks for.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::job::{AttemptOutcome, JobState, Micros, Timestamp};
use crate::queue::{
    Claim, ClaimRequest, Counters, Left, LostPolicy, Next, Permits, QueueError, Scope, Selection,
};

use super::world::{Bench, RESERVED, World, job, jobs, key, lost, named, picture, settlement, stale};

pub(in crate::queue) async fn an_intent_is_on_disk_before_the_claim_returns(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    let other = world.beside(bench).await;
    assert_eq!(other.outcomes(claim.job).await, [AttemptOutcome::Sent]);
    let tally = other.queue.tally().await.unwrap();
    assert_eq!((tally.cost, tally.cost_at_most), (Micros(0), RESERVED));
}

pub(in crate::queue) async fn a_stale_lease_changes_nothing(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    let old = stale(&claim);
    let before = format!("{:?} {:?}", world.all().await, world.queue.tally().await.unwrap());
    assert!(lost(&world.settle(&old, AttemptOutcome::Failed, Next::Fail).await));
    let publish = Next::Publish(vec![picture(1)]);
    assert!(lost(&world.settle(&old, AttemptOutcome::Succeeded, publish).await));
    assert!(lost(&world.queue.published(old.job, old.epoch).await));
    assert!(lost(&world.queue.unpublishable(old.job, old.epoch).await));
    assert!(lost(&world.queue.published(claim.job, claim.epoch).await), "nothing is planned yet");
    assert!(lost(&world.queue.unpublishable(claim.job, claim.epoch).await), "its request is on its way");
    assert_eq!(format!("{:?} {:?}", world.all().await, world.queue.tally().await.unwrap()), before);
    let publication = world.plan(&claim, 1).await;
    let output = publication.files[0].0;
    let renamed = world.queue.rename_planned((old.job, old.epoch), output, "a.png").await;
    assert!(lost(&renamed.map(drop)));
}

pub(in crate::queue) async fn a_settled_attempt_is_not_settled_again(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    let claims = world.claim(2).await;
    world.plan(&claims[0], 1).await;
    assert!(lost(&world.settle(&claims[0], AttemptOutcome::Failed, Next::Fail).await));
    assert_eq!(world.outcomes(claims[0].job).await, [AttemptOutcome::Succeeded]);
    let twice = || world.settle(&claims[1], AttemptOutcome::Failed, Next::Fail);
    let (one, two) = tokio::join!(twice(), twice());
    assert!(lost(&one) != lost(&two), "one of two at once");
}

pub(in crate::queue) async fn two_handles_never_claim_the_same_job(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let names: Vec<String> = (0..1000).map(|n| format!("j{n}")).collect();
    world.load(jobs(&names.iter().map(String::as_str).collect::<Vec<_>>())).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let one = world.beside(bench).await;
        tasks.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claims = one.claim(7).await;
                if claims.is_empty() {
                    return mine;
                }
                mine.extend(claims.iter().map(|claim| (claim.job, claim.epoch, claim.attempt)));
            }
        });
    }
    let all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(all.len(), 1000);
    assert_eq!(all.iter().map(|one| one.0).collect::<HashSet<_>>().len(), 1000);
    assert_eq!(all.iter().map(|one| one.1).collect::<HashSet<_>>().len(), 1000);
    assert_eq!(all.iter().map(|one| one.2).collect::<HashSet<_>>().len(), 1000);
}

pub(in crate::queue) async fn lanes_and_permits_are_respected(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let mut list = jobs(&["a", "b", "c", "d"]);
    list[1].job.spec.model = "other".parse().unwrap();
    list[3].job.spec.model = "other".parse().unwrap();
    world.load(list).await;
    let other = world.queue.lane(&key("other")).await.unwrap().lane;
    assert_eq!(world.queue.lane(&key("other")).await.unwrap().lane, other);
    let models = world.queue.models_left(&Scope::default()).await.unwrap();
    let mut models: Vec<&str> = models.iter().map(|left| left.model.as_str()).collect();
    models.sort_unstable();
    assert_eq!(models, ["gemini-3.1-flash-image", "other"]);
    let mut request = world.request(0);
    request.permits.push(Permits::own(other, 1));
    let claims = world.claim_with(request).await.claims;
    assert_eq!(claims.len(), 1);
    assert_eq!((claims[0].name.as_str(), claims[0].lane), ("b", other));
    let mut request = world.request(9);
    request.permits.push(Permits::own(other, 9));
    assert_eq!(world.claim_with(request).await.claims.len(), 3);
}

pub(in crate::queue) async fn claims_come_by_losses_then_priority_then_order(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let mut list = jobs(&["lost", "low", "a", "b", "high"]);
    list[0].job.priority = 9;
    list[1].job.priority = -1;
    list[4].job.priority = 5;
    world.load(list).await;
    let claim = world.claim_one().await;
    world.settle(&claim, AttemptOutcome::Lost, Next::Retry(Duration::ZERO)).await.unwrap();
    let claims = world.claim(9).await;
    let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
    assert_eq!(names, ["high", "a", "b", "low", "lost"]);
}

pub(in crate::queue) async fn a_snoozed_job_waits_for_its_time(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    let due = world.clock_now().plus(Duration::from_secs(30));
    world.settle(&claim, AttemptOutcome::Throttled, Next::Retry(due.since(world.clock_now()))).await.unwrap();
    assert_eq!(world.queue.next_due(&Scope::default()).await.unwrap(), Some(due));
    let left = world.queue.left(&Scope::default()).await.unwrap();
    assert_eq!(left, Left { snoozed: 1, ..Left::default() });
    world.clock.advance(Duration::from_millis(29_999));
    assert!(world.claim(1).await.is_empty());
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.queue.left(&Scope::default()).await.unwrap(), Left { ready: 1, ..Left::default() });
    let claim = world.claim_one().await;
    assert_eq!(claim.counters, Counters::default(), "a throttled attempt uses up nothing");
    assert_eq!(world.queue.next_due(&Scope::default()).await.unwrap(), None);
}

pub(in crate::queue) async fn a_clock_that_goes_back_strands_no_snoozed_job(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    let due = world.clock_now().plus(Duration::from_secs(30));
    world.settle(&claim, AttemptOutcome::Throttled, Next::Retry(due.since(world.clock_now()))).await.unwrap();
    world.clock.set(Timestamp::from_ms(world.clock_now().as_ms() - 86_400_000));
    assert_eq!(world.queue.left(&Scope::default()).await.unwrap(), Left { ready: 1, ..Left::default() });
    assert_eq!(world.claim_one().await.name.as_str(), "a", "it would have waited for a day");
    assert!(!world.queue.heartbeat(world.worker).await.unwrap().declared_dead);
}

/// An engine may serve them as one: everyone gets what they asked for, as far as it goes.
pub(in crate::queue) async fn claims_that_come_at_once_are_dealt_out(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let names: Vec<String> = (0..20).map(|n| format!("j{n:02}")).collect();
    world.load(names.iter().zip(0..).map(|(name, n)| job(name, n)).collect()).await;
    let cap = Some(Micros(RESERVED.0 * 12));
    let asked = [1_u32, 3, 1, 4, 2, 9];
    let claimed = join_all(asked.iter().map(|&permits| {
        let request = ClaimRequest { cost_max: cap, ..world.request(permits) };
        world.claim_with(request)
    }))
    .await;
    let mut all = HashSet::new();
    for (claimed, asked) in claimed.iter().zip(asked) {
        let got = u32::try_from(claimed.claims.len()).unwrap();
        assert!(got <= asked, "{got} of {asked}");
        assert_eq!(claimed.capped, got < asked, "only who got less met the cap");
        all.extend(claimed.claims.iter().map(|claim| (claim.job, claim.epoch, claim.attempt)));
    }
    assert_eq!(all.len(), 12, "as many as the cap allows, each to one");

    let dead = world.beside(bench).await;
    dead.queue.rescue(&[dead.worker], world.worker, LostPolicy::Retry).await.unwrap();
    let request = ClaimRequest { worker: dead.worker, ..world.request(1) };
    let (of_dead, of_living) = tokio::join!(world.queue.claim(request), world.claim(2));
    assert!(matches!(of_dead, Err(QueueError::DeclaredDead(worker)) if worker == dead.worker));
    assert_eq!(of_living.len(), 2, "a dead neighbour spoils nothing");
}

/// Two processes and restarts, random prices of answers: whatever happens, a claim is made only while
/// what may be spent, with its reservation, is within the cap.
pub(in crate::queue) async fn the_cap_is_passed_only_by_what_was_in_flight(bench: &dyn Bench) {
    // Two handles for all seeds: to open one may take longer than all that is done with it.
    let world = World::new(bench).await;
    let mut workers = [world.beside(bench).await, world];
    for seed in 0..12 {
        let random = StdRng::seed_from_u64(seed);
        spend(&mut workers, random, Micros(RESERVED.0 * 7 + 1_000)).await;
    }
}

async fn spend(workers: &mut [World; 2], mut random: StdRng, cap: Micros) {
    let world = &workers[0];
    let batch = format!("{:x}", random.random::<u64>());
    let names: Vec<String> = (0..60).map(|n| format!("{batch}-{n}")).collect();
    world.load(jobs(&names.iter().map(String::as_str).collect::<Vec<_>>())).await;
    let base = world.queue.cost_at_most().await.unwrap();
    let cap = Micros(cap.0 + base.0);
    let mut leased: Vec<Claim> = Vec::new();
    // What answers cost above their reservation is all that the cap may be passed by.
    let mut above = 0;
    for step in 0..120 {
        let who = random.random_range(0..workers.len());
        let before = workers[who].queue.cost_at_most().await.unwrap();
        match random.random_range(0..8) {
            0..=3 => {
                let mut request = workers[who].request(random.random_range(1..5));
                request.cost_max = Some(cap);
                let claims = workers[who].claim_with(request).await.claims;
                let after = workers[who].queue.cost_at_most().await.unwrap();
                assert!(
                    claims.is_empty() || after <= cap,
                    "{before} + {} claims at step {step}",
                    claims.len()
                );
                leased.extend(claims);
            }
            4 => {
                // A process dies and starts again: its reservations stay spent.
                let heir = workers[who].again().await;
                let dead = workers[who].worker;
                heir.queue.rescue(&[dead], heir.worker, LostPolicy::Retry).await.unwrap();
                assert_eq!(heir.queue.cost_at_most().await.unwrap(), before);
                workers[who] = heir;
            }
            _ => {
                let Some(claim) = leased.pop() else { continue };
                let cost = Micros(random.random_range(0..RESERVED.0 * 2));
                let mut end = settlement(&claim, AttemptOutcome::Failed, Next::Fail);
                (end.facts.cost, end.facts.cost_at_most) = (Some(cost), cost);
                if workers[who].queue.settle(end).await.is_ok() {
                    above += (cost.0 - RESERVED.0).max(0);
                }
            }
        }
        let spent = workers[who].queue.cost_at_most().await.unwrap();
        assert!(spent.0 <= cap.0 + above, "{spent} of {cap} at step {step}");
    }
    let after = workers[0].queue.cost_at_most().await.unwrap();
    assert!(after > base, "nothing was spent");
}

pub(in crate::queue) async fn a_scope_hides_the_rest(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a1", "b1", "a2", "b2", "a3"])).await;
    let check = async |scope: Scope, expect: &[&str]| {
        let left = world.queue.left(&scope).await.unwrap();
        assert_eq!(left.ready, expect.len() as u64, "{scope:?}");
        let mut request = world.request(9);
        request.scope = scope;
        let claims = world.claim_with(request).await.claims;
        let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
        assert_eq!(names, expect);
        for claim in &claims {
            world.settle(claim, AttemptOutcome::Aborted, Next::Retry(Duration::ZERO)).await.unwrap();
        }
    };
    check(Scope { first: Some(2), glob: None }, &["a1", "b1"]).await;
    check(Scope { first: None, glob: Some("b*".to_owned()) }, &["b1", "b2"]).await;
    check(Scope { first: Some(4), glob: Some("a?".to_owned()) }, &["a1", "a2"]).await;
    check(Scope { first: None, glob: Some("[c-z]*".to_owned()) }, &[]).await;
    let nothing = Scope { first: None, glob: Some("x".to_owned()) };
    assert!(world.queue.models_left(&nothing).await.unwrap().is_empty());
}

pub(in crate::queue) async fn the_cap_stops_claims(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b", "c"])).await;
    let mut request = world.request(9);
    request.cost_max = Some(Micros(RESERVED.0 * 2));
    let claimed = world.claim_with(request.clone()).await;
    assert_eq!((claimed.claims.len(), claimed.capped), (2, true));
    let claimed = world.claim_with(request.clone()).await;
    assert_eq!((claimed.claims.len(), claimed.capped), (0, true));
    assert_eq!(world.queue.cost_at_most().await.unwrap(), Micros(RESERVED.0 * 2));
    request.cost_max = Some(Micros(RESERVED.0 * 3));
    let claimed = world.claim_with(request).await;
    assert_eq!((claimed.claims.len(), claimed.capped), (1, false));
}

/// Or a lane in trouble would be probed with the same job for an hour, which may itself be what fails.
pub(in crate::queue) async fn a_job_that_was_spared_goes_behind_the_untried(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    for expected in ["a", "b", "a"] {
        let claim = world.claim_one().await;
        assert_eq!(claim.name.as_str(), expected);
        world.settle(&claim, AttemptOutcome::Transient, Next::Spare(Duration::ZERO)).await.unwrap();
    }
    let all = Selection { names: vec!["a".parse().unwrap()], states: vec![] };
    assert_eq!(world.queue.cancel(&all).await.unwrap(), 1);
    assert_eq!(world.queue.retry(&all).await.unwrap(), 1);
    assert_eq!(world.claim_one().await.name.as_str(), "a", "made pending by a person, it is as good as new");
}

pub(in crate::queue) async fn cancelling_reaches_a_running_job_by_its_heartbeat(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    let claim = world.claim_one().await;
    let all = Selection { names: vec![], states: vec![JobState::Running, JobState::Pending] };
    assert_eq!(world.queue.cancel(&all).await.unwrap(), 2);
    assert_eq!(world.queue.cancel(&all).await.unwrap(), 0, "once is enough");
    assert_eq!(world.state("a").await, JobState::Running);
    let beat = world.queue.heartbeat(world.worker).await.unwrap();
    assert_eq!(beat.cancelled, [(claim.job, claim.epoch)]);
    world.settle(&claim, AttemptOutcome::Aborted, Next::Retry(Duration::ZERO)).await.unwrap();
    assert_eq!(world.state("a").await, JobState::Cancelled);
    assert_eq!(world.state("b").await, JobState::Cancelled);
    assert!(world.claim(9).await.is_empty());
}

pub(in crate::queue) async fn retry_gives_fresh_allowances(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    let claims = world.claim(2).await;
    world.settle(&claims[0], AttemptOutcome::Transient, Next::Fail).await.unwrap();
    world.settle(&claims[1], AttemptOutcome::Refused, Next::Refuse).await.unwrap();
    let failed = Selection { names: vec![], states: vec![JobState::Failed] };
    assert_eq!(world.queue.retry(&failed).await.unwrap(), 1);
    assert_eq!(world.queue.retry(&failed).await.unwrap(), 0);
    assert_eq!(world.state("b").await, JobState::Refused);
    assert_eq!(world.claim_one().await.counters, Counters::default());
}

pub(in crate::queue) async fn retry_makes_a_succeeded_job_again_only_by_name(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    world.finish(&claim).await;
    let done = Selection { names: vec![], states: vec![JobState::Succeeded] };
    assert_eq!(world.queue.retry(&done).await.unwrap(), 0);
    assert_eq!(world.queue.cancel(&named(&["a"])).await.unwrap(), 0, "what succeeded is left alone");
    assert_eq!(world.queue.retry(&named(&["a"])).await.unwrap(), 1);
    let again = world.claim_one().await;
    let publication = world.finish(&again).await;
    assert_eq!(publication.files[0].1, "a.png", "its own old name is free to it");
    assert_eq!(publication.replaces[0].name, "a.png");
    assert_eq!(world.row("a").await.outputs.len(), 1);
}

pub(in crate::queue) async fn an_unknown_name_changes_nothing(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let cancelled = world.queue.cancel(&named(&["a", "nobody"])).await;
    assert!(matches!(cancelled, Err(QueueError::NoSuchJob(name)) if name == "nobody"));
    assert_eq!(world.state("a").await, JobState::Pending);
}

pub(in crate::queue) async fn allowances_count_their_own_outcomes(bench: &dyn Bench) {
    use AttemptOutcome::{Aborted, Lost, NoImage, Throttled, Transient};
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    for outcome in [Transient, Transient, NoImage, Lost, Throttled, Aborted] {
        let claim = world.claim_one().await;
        world.settle(&claim, outcome, Next::Retry(Duration::ZERO)).await.unwrap();
    }
    assert_eq!(world.claim_one().await.counters, Counters { transient: 2, no_image: 1, lost: 1 });
}

pub(in crate::queue) async fn what_the_provider_is_to_blame_for_uses_up_no_allowance(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    let due = world.clock_now().plus(Duration::from_secs(30));
    world.settle(&claim, AttemptOutcome::Transient, Next::Spare(due.since(world.clock_now()))).await.unwrap();
    assert_eq!(world.queue.next_due(&Scope::default()).await.unwrap(), Some(due));
    world.clock.advance(Duration::from_secs(30));
    let claim = world.claim_one().await;
    assert_eq!(claim.counters, Counters::default());
    world.settle(&claim, AttemptOutcome::Transient, Next::Retry(Duration::ZERO)).await.unwrap();
    assert_eq!(world.claim_one().await.counters.transient, 1);
    assert_eq!(world.outcomes(claim.job).await[..2], [AttemptOutcome::Transient; 2], "the ledger has both");
}

pub(in crate::queue) async fn a_dropped_future_tears_nothing(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b", "c", "d", "e", "f"])).await;
    for claim in world.claim(5).await {
        // Polled once, so that the command is on its way, then dropped.
        let settle = world.settle(&claim, AttemptOutcome::Failed, Next::Fail);
        tokio::select! {
            biased;
            _ = settle => {}
            () = std::future::ready(()) => {}
        }
    }
    let claim = world.queue.claim(world.request(1));
    tokio::select! {
        biased;
        _ = claim => {}
        () = std::future::ready(()) => {}
    }
    let tally = world.queue.lane(&key("a-later-command")).await.and(world.queue.tally().await).unwrap();
    assert_eq!(tally.jobs_in(JobState::Failed), 5, "what was asked for happened");
    assert_eq!(tally.attempts_with(AttemptOutcome::Sent), tally.jobs_in(JobState::Running));
}

pub(in crate::queue) async fn one_failure_does_not_undo_its_neighbours(bench: &dyn Bench) {
    let world = Arc::new(World::new(bench).await);
    let names: Vec<String> = (0..20).map(|n| format!("j{n}")).collect();
    world.load(jobs(&names.iter().map(String::as_str).collect::<Vec<_>>())).await;
    let claims = world.claim(20).await;
    let mut futures = Vec::new();
    for (i, claim) in claims.iter().enumerate() {
        let claim = if i == 3 { stale(claim) } else { claim.clone() };
        let mut settlement = settlement(&claim, AttemptOutcome::Failed, Next::Fail);
        if i == 5 {
            settlement.outcome = AttemptOutcome::Sent;
        }
        futures.push(world.queue.settle(settlement));
    }
    let unknown = named(&["nobody"]);
    let cancel = world.queue.cancel(&unknown);
    let (settled, cancelled) = tokio::join!(futures_util::future::join_all(futures), cancel);
    assert!(cancelled.is_err());
    assert!(lost(&settled[3]));
    assert!(matches!(settled[5], Err(QueueError::Broken { .. })), "an end is never `sent`");
    assert_eq!(settled.iter().filter(|result| result.is_ok()).count(), 18);
    assert_eq!(world.state("j3").await, JobState::Running);
    assert_eq!(world.state("j5").await, JobState::Running);
    assert_eq!(world.state("j4").await, JobState::Failed);
}

pub(in crate::queue) async fn a_closed_queue_says_so(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(vec![job("a", 0)]).await;
    world.queue.close().await;
    assert!(matches!(world.queue.tally().await, Err(QueueError::Closed)));
    assert!(matches!(world.queue.claim(world.request(1)).await, Err(QueueError::Closed)));
    world.queue.close().await;
    assert_eq!(world.beside(bench).await.state("a").await, JobState::Pending);
}
