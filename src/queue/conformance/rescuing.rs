//! What dead workers leave behind.

use std::time::Duration;

use crate::job::{AttemptOutcome, JobState, Micros};
use crate::queue::{
    Claim, Company, LOST_ALONE_MAX, LOST_UNTIL_ALONE, LostPolicy, Next, QueueError, Selection, WorkerStart,
};

use super::world::{Bench, RESERVED, World, jobs, lost, picture};

pub(in crate::queue) async fn a_lost_attempt_is_recorded_and_its_job_retried(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    let heir = world.beside(bench).await;
    assert_eq!(heir.queue.workers().await.unwrap().len(), 2);
    let rescued = heir.queue.rescue(&[world.worker], heir.worker, LostPolicy::Retry).await.unwrap();
    assert_eq!((rescued.lost, rescued.publications.len()), (1, 0));
    assert_eq!(heir.outcomes(claim.job).await, [AttemptOutcome::Lost]);
    let tally = heir.queue.tally().await.unwrap();
    assert_eq!((tally.cost, tally.cost_at_most), (Micros(0), RESERVED), "possibly billed, and counted so");
    let again = heir.claim_one().await;
    assert_eq!(again.counters.lost, 1);
    assert!(again.epoch > claim.epoch);
    assert!(lost(&world.settle(&claim, AttemptOutcome::Succeeded, Next::Publish(vec![picture(1)])).await));
    let rescued = heir.queue.rescue(&[world.worker], heir.worker, LostPolicy::Retry).await.unwrap();
    assert_eq!(rescued.lost, 0, "a second time finds nothing");
}

pub(in crate::queue) async fn a_lost_attempt_can_be_held(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    world.claim(2).await;
    world.load(jobs(&["a"])).await;
    let heir = world.beside(bench).await;
    heir.queue.rescue(&[world.worker], heir.worker, LostPolicy::Hold).await.unwrap();
    assert_eq!(heir.state("a").await, JobState::Held);
    assert_eq!(heir.state("b").await, JobState::Cancelled, "it had left the manifest");
}

pub(in crate::queue) async fn settled_answers_are_published_by_the_heir(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    let first = world.claim_one().await;
    world.finish(&first).await;
    let mut list = jobs(&["a", "b"]);
    list[0].job.spec.prompt.push('!');
    world.load(list).await;
    let claims = world.claim(2).await;
    let planned = world.plan(&claims[0], 2).await;
    let heir = world.beside(bench).await;
    let spooled: Vec<String> = planned.files.iter().map(|(_, _, file)| file.spool.clone()).collect();
    assert_eq!(heir.queue.planned_in_spool().await.unwrap(), spooled);
    let rescued = heir.queue.rescue(&[world.worker], heir.worker, LostPolicy::Retry).await.unwrap();
    assert_eq!(heir.queue.planned_in_spool().await.unwrap(), spooled, "of the heir now, and still to come");
    assert_eq!(rescued.lost, 1);
    let (job, name, epoch, publication) = &rescued.publications[0];
    assert_eq!((job, name.as_str()), (&claims[0].job, "a"));
    assert_eq!(publication, &planned);
    assert!(lost(&world.queue.published(claims[0].job, claims[0].epoch).await));
    heir.queue.published(*job, *epoch).await.unwrap();
    assert_eq!(heir.state("a").await, JobState::Succeeded);
    assert!(heir.queue.planned_in_spool().await.unwrap().is_empty());
}

pub(in crate::queue) async fn a_dead_worker_has_lost_everything(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    world.claim_one().await;
    let heir = world.beside(bench).await;
    heir.queue.rescue(&[world.worker], heir.worker, LostPolicy::Retry).await.unwrap();
    assert!(world.queue.heartbeat(world.worker).await.unwrap().declared_dead);
    let claimed = world.queue.claim(world.request(1)).await;
    assert!(matches!(claimed, Err(QueueError::DeclaredDead(_))), "nobody would ever rescue it");
    let rescued = heir.queue.rescue(&[heir.worker], world.worker, LostPolicy::Retry).await;
    assert!(matches!(rescued, Err(QueueError::DeclaredDead(_))));
    assert!(!heir.queue.heartbeat(heir.worker).await.unwrap().declared_dead, "and nothing was changed");
}

pub(in crate::queue) async fn a_machine_is_drained_once_and_for_all_its_workers(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let other = world.beside(bench).await;
    let host = |worker| WorkerStart {
        run: world.run,
        token: format!("w-{worker}"),
        host: "blue".to_owned(),
        pid: 7,
    };
    let blue = world.queue.register_worker(host(1)).await.unwrap();
    assert_eq!(world.queue.drain("green").await.unwrap(), 0, "nobody is there");
    assert_eq!(other.queue.drain("blue").await.unwrap(), 1);
    assert_eq!(other.queue.drain("blue").await.unwrap(), 1, "again is no other");
    assert!(world.queue.heartbeat(blue).await.unwrap().draining);
    assert!(!world.queue.heartbeat(world.worker).await.unwrap().draining);
    let later = world.queue.register_worker(host(2)).await.unwrap();
    assert!(!world.queue.heartbeat(later).await.unwrap().draining, "it began later");
    let rows = world.queue.workers().await.unwrap();
    let of_blue: Vec<_> = rows.iter().filter(|row| row.host == "blue").collect();
    assert_eq!(of_blue.iter().map(|row| row.draining).collect::<Vec<_>>(), [true, false]);
    assert!(rows.iter().all(|row| !row.version.is_empty()), "{rows:?}");
    world.queue.retire_worker(blue).await.unwrap();
    assert_eq!(world.queue.drain("blue").await.unwrap(), 1, "who has ended is not counted");
}

pub(in crate::queue) async fn how_long_a_worker_is_silent_is_told_by_the_clock_of_the_queue(
    bench: &dyn Bench,
) {
    let world = World::new(bench).await;
    world.clock.advance(Duration::from_secs(8));
    world.queue.heartbeat(world.worker).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    let row = world.queue.workers().await.unwrap().remove(0);
    assert_eq!((row.works_for(), row.silent_for()), (Duration::from_secs(13), Duration::from_secs(5)));
}

pub(in crate::queue) async fn a_worker_with_leases_does_not_retire(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    world.queue.retire_worker(world.worker).await.unwrap();
    assert_eq!(world.queue.workers().await.unwrap()[0].running, 1);
    world.finish(&claim).await;
    world.queue.retire_worker(world.worker).await.unwrap();
    assert!(world.queue.workers().await.unwrap().is_empty());
    world.queue.end_run(world.run, "done").await.unwrap();
    let run = world.queue.runs().await.unwrap().remove(0);
    assert_eq!((run.ended_at, run.end_reason.as_deref()), (Some(world.clock_now()), Some("done")));
}

pub(in crate::queue) async fn rescued_jobs_queue_behind_untried_ones(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    world.claim_one().await;
    let heir = world.beside(bench).await;
    heir.queue.rescue(&[world.worker], heir.worker, LostPolicy::Retry).await.unwrap();
    let claims = heir.claim(2).await;
    let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
}

/// Claims by one process that dies of it, as often as `times`, each time rescued by the next.
async fn lose(bench: &dyn Bench, world: World, times: u32) -> World {
    let mut world = world;
    for _ in 0..times {
        assert!(!world.claim(9).await.is_empty());
        let heir = world.beside(bench).await;
        heir.queue.rescue(&[world.worker], heir.worker, LostPolicy::Retry).await.unwrap();
        world = heir;
    }
    world
}

async fn claim_alone(world: &World) -> Option<Claim> {
    let mut request = world.request(9);
    request.company = Company::Alone;
    let mut claims = world.claim_with(request).await.claims;
    assert!(claims.len() <= 1, "alone is one");
    claims.pop()
}

pub(in crate::queue) async fn a_job_that_was_lost_three_times_is_handed_out_alone(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    let world = lose(bench, world, LOST_UNTIL_ALONE - 1).await;
    assert!(claim_alone(&world).await.is_none(), "twice may be chance");
    let world = lose(bench, world, 1).await;
    assert!(world.claim(9).await.is_empty(), "beside others it could take them with it");
    let mut pilot = world.request(9);
    pilot.scope.first = Some(2);
    assert!(world.claim_with(pilot).await.claims.is_empty(), "nor in a pilot");
    let claim = claim_alone(&world).await.expect("due");
    assert_eq!((claim.name.as_str(), claim.company), ("a", Company::Alone));
    world.load(jobs(&["a", "b", "c"])).await;
    let other = world.claim_one().await;
    assert_eq!((other.name.as_str(), other.company), ("c", Company::Shared));
    world.settle(&claim, AttemptOutcome::Aborted, Next::Retry(Duration::ZERO)).await.unwrap();
    assert!(claim_alone(&world).await.is_some(), "an end in order changes nothing about it");
}

pub(in crate::queue) async fn two_losses_alone_fail_a_job_and_retry_forgives_it(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let mut world = lose(bench, world, LOST_UNTIL_ALONE).await;
    for nth in 1..=LOST_ALONE_MAX {
        let job = claim_alone(&world).await.expect("due").job;
        let heir = world.beside(bench).await;
        let rescued = heir.queue.rescue(&[world.worker], heir.worker, LostPolicy::Retry).await.unwrap();
        assert_eq!(rescued.poisoned.len(), usize::from(nth == LOST_ALONE_MAX));
        assert_eq!(heir.outcomes(job).await, vec![AttemptOutcome::Lost; (LOST_UNTIL_ALONE + nth) as usize]);
        world = heir;
    }
    let row = world.row("a").await;
    let last = row.last.unwrap();
    assert_eq!((row.state, last.error_code.as_deref()), (JobState::Failed, Some("poison")));
    assert!(last.error.unwrap().contains("2 times while this job ran alone (5 times in all)"));
    assert_eq!(
        world.queue.tally().await.unwrap().cost_at_most,
        Micros(RESERVED.0 * 5),
        "the ledger keeps all"
    );
    let failed = Selection { names: vec![], states: vec![JobState::Failed] };
    assert_eq!(world.queue.retry(&failed).await.unwrap(), 1);
    assert_eq!(world.claim_one().await.counters.lost, 0, "forgiven");
    let heir = world.beside(bench).await;
    let rescued = heir.queue.rescue(&[world.worker], heir.worker, LostPolicy::Retry).await.unwrap();
    assert!(rescued.poisoned.is_empty());
    assert_eq!(heir.claim_one().await.counters.lost, 1);
}

pub(in crate::queue) async fn losses_in_company_never_fail_a_job(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["innocent", "poison"])).await;
    let world = lose(bench, world, LOST_UNTIL_ALONE).await;
    let innocent = claim_alone(&world).await.expect("due");
    assert_eq!((innocent.name.as_str(), innocent.counters.lost), ("innocent", LOST_UNTIL_ALONE));
    world.finish(&innocent).await;
    // Another process' death is not this job's either: only its own losses alone count.
    assert_eq!(world.state("innocent").await, JobState::Succeeded);
    assert_eq!(world.state("poison").await, JobState::Pending);
}

pub(in crate::queue) async fn with_hold_a_person_decides_on_poison_too(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let mut world = lose(bench, world, LOST_UNTIL_ALONE).await;
    for (policy, state) in [(LostPolicy::Retry, JobState::Pending), (LostPolicy::Hold, JobState::Held)] {
        claim_alone(&world).await.expect("due");
        let heir = world.beside(bench).await;
        heir.queue.rescue(&[world.worker], heir.worker, policy).await.unwrap();
        assert_eq!(heir.state("a").await, state);
        world = heir;
    }
    assert_eq!(world.row("a").await.last.unwrap().error_code.as_deref(), Some("lost"));
}
