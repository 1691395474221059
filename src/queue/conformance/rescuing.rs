//! What dead workers leave behind.

use crate::job::{AttemptOutcome, JobState, Micros};
use crate::queue::{LostPolicy, Next, QueueError};

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
