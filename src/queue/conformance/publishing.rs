//! From a settled answer to files that stand.

use crate::job::{AttemptOutcome, JobState};
use crate::queue::{Next, OldOutput};

use super::world::{Bench, World, jobs, picture};

fn names(publication: &crate::queue::Publication) -> Vec<&str> {
    publication.files.iter().map(|(_, name, _)| name.as_str()).collect()
}

pub(in crate::queue) async fn a_job_succeeds_when_its_files_stand(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    let publication = world.plan(&claim, 2).await;
    assert_eq!(names(&publication), ["a.png", "a-2.png"]);
    assert_eq!(publication.files[1].2, picture(2));
    assert_eq!(world.state("a").await, JobState::Running);
    assert_eq!(world.queue.tally().await.unwrap().images, 0);
    world.queue.published(claim.job, claim.epoch).await.unwrap();
    let row = world.row("a").await;
    assert_eq!((row.state, row.outputs.len()), (JobState::Succeeded, 2));
    assert_eq!(world.queue.tally().await.unwrap().images, 2);
    let files = world.queue.outputs(None, 9).await.unwrap();
    assert_eq!(files[1].2.name, "a-2.png");
}

pub(in crate::queue) async fn names_are_never_shared(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "A-2", "b"])).await;
    let claims = world.claim(3).await;
    let publication = world.plan(&claims[0], 3).await;
    assert_eq!(names(&publication), ["a.png", "a-3.png", "a-4.png"], "A-2 is wanted by another job");
    world.queue.published(claims[0].job, claims[0].epoch).await.unwrap();
    world.load(jobs(&["A-2", "b"])).await;
    let mut list = jobs(&["A-2", "b", "other"]);
    list[2].job.output = "A".parse().unwrap();
    world.load(list).await;
    let other = world.claim_one().await;
    let publication = world.plan(&other, 1).await;
    assert_eq!(names(&publication), ["A-5.png"], "a job that left still has its files");
}

pub(in crate::queue) async fn a_foreign_file_gets_a_planned_one_renamed(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "a-3"])).await;
    let claim = world.claim_one().await;
    let publication = world.plan(&claim, 2).await;
    let (output, name, _) = &publication.files[0];
    let lease = (claim.job, claim.epoch);
    let renamed = world.queue.rename_planned(lease, *output, name).await.unwrap();
    assert_eq!(renamed, "a-4.png", "-2 is its own, -3 is wanted by another job");
    let renamed = world.queue.rename_planned(lease, *output, &renamed).await.unwrap();
    assert_eq!(renamed, "a-5.png");
    world.queue.published(claim.job, claim.epoch).await.unwrap();
    assert_eq!(world.row("a").await.outputs[0].name, "a-5.png");
    assert!(world.queue.moves().await.unwrap().is_empty(), "the job's wish has not changed");
}

pub(in crate::queue) async fn a_new_revision_replaces_the_old_files(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    world.plan(&claim, 2).await;
    world.queue.published(claim.job, claim.epoch).await.unwrap();
    let mut list = jobs(&["a"]);
    list[0].job.spec.prompt.push('!');
    world.load(list).await;
    let claim = world.claim_one().await;
    let publication = world.plan(&claim, 1).await;
    assert_eq!(names(&publication), ["a.png"]);
    let (one, two) = (picture(1), picture(2));
    let old = |name: &str, of: &crate::queue::PlannedOutput| OldOutput {
        name: name.to_owned(),
        bytes: of.bytes,
        digest: of.digest,
    };
    assert_eq!(publication.replaces, [old("a.png", &one), old("a-2.png", &two)]);
    world.queue.published(claim.job, claim.epoch).await.unwrap();
    assert_eq!(world.row("a").await.outputs.len(), 1);
    assert_eq!(world.queue.tally().await.unwrap().images, 1);
    assert_eq!(world.outcomes(claim.job).await.len(), 2, "the ledger keeps both");
}

pub(in crate::queue) async fn only_a_new_name_moves_the_file(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    world.finish(&claim).await;
    let mut list = jobs(&["a"]);
    list[0].job.output = "new/b".parse().unwrap();
    let diff = world.load(list).await;
    assert_eq!((diff.renamed, diff.to_send), (1, 0));
    let moves = world.queue.moves().await.unwrap();
    assert_eq!((moves[0].from.as_str(), moves[0].to.as_str()), ("a.png", "new/b.png"));
    world.queue.moved(moves[0].output, &moves[0].to).await.unwrap();
    assert!(world.queue.moves().await.unwrap().is_empty());
    assert_eq!(world.row("a").await.outputs[0].name, "new/b.png");
}

pub(in crate::queue) async fn a_renaming_that_was_begun_is_known_after_a_crash(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    for claim in world.claim(2).await {
        world.finish(&claim).await;
    }
    let wish = async |name: &str| {
        let mut list = jobs(&["a", "b"]);
        list[0].job.output = name.parse().unwrap();
        world.load(list).await;
        world.queue.moves().await.unwrap()
    };
    let moves = wish("new/c").await;
    world.queue.begin_moves(&moves).await.unwrap();
    assert_eq!(world.queue.moves_begun().await.unwrap(), moves);
    // The crash; then a person wants the old name again, but the file has the new one.
    assert!(wish("a").await.is_empty());
    let begun = world.queue.moves_begun().await.unwrap();
    world.queue.moved(begun[0].output, "new/c.png").await.unwrap();
    assert!(world.queue.moves_begun().await.unwrap().is_empty());
    let back = world.queue.moves().await.unwrap();
    assert_eq!((back[0].from.as_str(), back[0].to.as_str()), ("new/c.png", "a.png"));
    world.queue.moved(back[0].output, "a.png").await.unwrap();
    assert!(world.queue.moves().await.unwrap().is_empty());
}

pub(in crate::queue) async fn names_that_move_in_a_chain_come_in_order(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    for claim in world.claim(2).await {
        world.finish(&claim).await;
    }
    let mut list = jobs(&["a", "b"]);
    list[0].job.output = "b".parse().unwrap();
    list[1].job.output = "c".parse().unwrap();
    world.load(list).await;
    let moves = world.queue.moves().await.unwrap();
    let shown: Vec<(&str, &str)> = moves.iter().map(|one| (one.from.as_str(), one.to.as_str())).collect();
    assert_eq!(shown, [("b.png", "c.png"), ("a.png", "b.png")]);
}

pub(in crate::queue) async fn unpublishable_files_send_the_job_back(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let claim = world.claim_one().await;
    world.plan(&claim, 1).await;
    world.queue.unpublishable(claim.job, claim.epoch).await.unwrap();
    assert_eq!(world.state("a").await, JobState::Pending);
    assert_eq!(world.outcomes(claim.job).await, [AttemptOutcome::Succeeded], "it was paid");
    let again = world.claim_one().await;
    assert_eq!(names(&world.plan(&again, 1).await), ["a.png"]);
    let refused = world.settle(&again, AttemptOutcome::Failed, Next::Fail).await;
    assert!(refused.is_err());
}
