//! A manifest comes in, again and again.

use std::time::Duration;

use crate::job::{AttemptOutcome, Digest, JobState, MediaType, Micros, Modalities, SpecField};
use crate::manifest::DigestEntry;
use crate::queue::{LoadDiff, LoadPolicy, Next, Selection};

use super::world::{Bench, World, job, jobs, named, reference};

pub(in crate::queue) async fn loading_twice_changes_nothing(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let first = world.load(jobs(&["a", "b", "c"])).await;
    assert_eq!((first.new, first.to_send, first.estimate), (3, 3, Micros(180_000)));
    let before = format!("{:?}", world.all().await);
    let second = world.load(jobs(&["a", "b", "c"])).await;
    let expect = LoadDiff {
        total: 3,
        unchanged: 3,
        undone_before: 3,
        to_send: 3,
        estimate: Micros(180_000),
        ..LoadDiff::default()
    };
    assert_eq!(second, expect);
    assert_eq!(format!("{:?}", world.all().await), before);
}

pub(in crate::queue) async fn a_load_says_what_it_will_do_and_does_it(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b", "c", "d"])).await;
    let claim = world.claim_one().await;
    world.finish(&claim).await;
    let mut next = jobs(&["new", "a", "b", "c"]);
    next[2].job.spec.prompt.push('!');
    next[1].job.output = "z".parse().unwrap();
    next[0].estimate = None;
    let diff = world.load(next).await;
    let expect = LoadDiff {
        total: 4,
        new: 1,
        unchanged: 2,
        changed: 1,
        fields: [(SpecField::Prompt, 1)].into(),
        examples: vec![("b".to_owned(), vec![SpecField::Prompt])],
        renamed: 1,
        cancelled: 1,
        undone_before: 3,
        estimate: Micros(120_000),
        unpriced: 1,
        to_send: 3,
        ..LoadDiff::default()
    };
    assert_eq!(diff, expect);
    let names: Vec<String> = world.all().await.iter().map(|row| row.name.to_string()).collect();
    assert_eq!(names, ["new", "a", "b", "c", "d"]);
}

pub(in crate::queue) async fn a_changed_job_is_made_again_and_says_in_which_field(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    let claim = world.claim_one().await;
    world.finish(&claim).await;
    let mut next = jobs(&["a", "b"]);
    let spec = &mut next[0].job.spec;
    spec.aspect_ratio = Some("16:9".to_owned());
    spec.modalities = Modalities::TextImage;
    spec.references.push(reference("/r/one.png"));
    let diff = world.load(next).await;
    assert_eq!((diff.changed, diff.changed_done, diff.to_send), (1, 1, 2));
    let fields: Vec<SpecField> = diff.fields.into_keys().collect();
    assert_eq!(fields, [SpecField::References, SpecField::AspectRatio, SpecField::Modalities]);
    let row = world.row("a").await;
    assert_eq!((row.state, row.revision, row.references), (JobState::Pending, 2, 1));
    assert_eq!(row.outputs.len(), 1, "the old file stays until the new one replaces it");
}

pub(in crate::queue) async fn a_changed_job_that_succeeded_is_kept_when_asked(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    let claim = world.claim_one().await;
    world.finish(&claim).await;
    let mut next = jobs(&["a", "b"]);
    for new in &mut next {
        new.job.spec.prompt.push('!');
    }
    for _ in 0..2 {
        let diff = world.load_by(LoadPolicy { keep_changed: true }, next.clone()).await;
        assert_eq!(diff.kept, 1);
    }
    assert_eq!(world.row("a").await.prompt, "a picture of a");
    assert_eq!(world.state("a").await, JobState::Succeeded);
    assert_eq!(world.row("b").await.prompt, "a picture of b!");
}

pub(in crate::queue) async fn a_job_that_left_is_cancelled_and_comes_back(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b", "c"])).await;
    let claims = world.claim(2).await;
    world.settle(&claims[0], AttemptOutcome::Failed, Next::Fail).await.unwrap();
    world.settle(&claims[1], AttemptOutcome::Lost, Next::Hold).await.unwrap();
    assert_eq!(world.load(jobs(&["c"])).await.cancelled, 2);
    for name in ["a", "b"] {
        assert_eq!(world.state(name).await, JobState::Cancelled);
    }
    let diff = world.load(jobs(&["a", "b", "c"])).await;
    assert_eq!((diff.returned, diff.to_send), (2, 3));
    assert_eq!(world.state("a").await, JobState::Pending);
    assert_eq!(world.claim(9).await.len(), 3);
}

pub(in crate::queue) async fn what_a_person_cancelled_stays_so_until_it_changes(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    assert_eq!(world.queue.cancel(&named(&["a"])).await.unwrap(), 1);
    world.load(jobs(&["b"])).await;
    world.load(jobs(&["a", "b"])).await;
    assert_eq!(world.state("a").await, JobState::Cancelled);
    let mut next = jobs(&["a", "b"]);
    next[0].job.spec.prompt.push('!');
    world.load(next).await;
    assert_eq!(world.state("a").await, JobState::Pending);
}

pub(in crate::queue) async fn a_running_job_that_changed_is_made_again_when_its_attempt_ends(
    bench: &dyn Bench,
) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    let claims = world.claim(2).await;
    let mut next = jobs(&["a", "b"]);
    for new in &mut next {
        new.job.spec.prompt.push('!');
    }
    world.load(next).await;
    assert_eq!(world.state("a").await, JobState::Running);
    world.finish(&claims[0]).await;
    world.settle(&claims[1], AttemptOutcome::Transient, Next::Fail).await.unwrap();
    for name in ["a", "b"] {
        assert_eq!(world.state(name).await, JobState::Pending, "{name}");
    }
    let claims = world.claim(2).await;
    assert_eq!(claims[0].spec.prompt, "a picture of a!");
    assert_eq!(claims[1].counters.transient, 0, "the old revision's failure is not the new one's");
}

pub(in crate::queue) async fn a_running_job_that_left_is_cancelled_when_its_attempt_ends(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b", "c", "d"])).await;
    let claims = world.claim(3).await;
    assert_eq!(world.load(jobs(&["d"])).await.cancelled, 3);
    assert_eq!(world.queue.heartbeat(world.worker).await.unwrap().cancelled.len(), 3);
    world.settle(&claims[0], AttemptOutcome::Aborted, Next::Retry(Duration::ZERO)).await.unwrap();
    world.finish(&claims[1]).await;
    assert_eq!(world.state("a").await, JobState::Cancelled);
    assert_eq!(world.state("b").await, JobState::Succeeded, "it has its images");
    world.load(jobs(&["a", "b", "c", "d"])).await;
    world.settle(&claims[2], AttemptOutcome::Transient, Next::Retry(Duration::ZERO)).await.unwrap();
    assert_eq!(world.state("c").await, JobState::Pending, "it came back while it was running");
}

pub(in crate::queue) async fn a_succeeded_job_that_left_stays_succeeded_and_sorts_last(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a", "b"])).await;
    let claim = world.claim_one().await;
    world.finish(&claim).await;
    assert_eq!(world.load(jobs(&["b"])).await.cancelled, 0);
    let rows = world.all().await;
    assert_eq!(rows[1].name.as_str(), "a");
    assert_eq!(rows[1].state, JobState::Succeeded);
    assert!(rows[1].cursor.left);
}

pub(in crate::queue) async fn everything_about_a_job_survives_the_queue(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let mut new = job("a", 7);
    let it = &mut new.job;
    it.name = "ü \"quoted\" \\ '".parse().unwrap();
    it.spec.prompt = "line\nbreak \u{0} {{ brace }} 猫 '\"".to_owned();
    it.spec.references = vec![reference("/r/two.png"), reference("/r/one.png")];
    it.spec.aspect_ratio = Some("16:9".to_owned());
    it.spec.image_size = Some("2K".to_owned());
    it.spec.modalities = Modalities::TextImage;
    it.spec.extra = serde_json::from_str(r#"{"z":{"b":1.5,"a":[null,"x"]},"a":9007199254740993}"#).unwrap();
    it.stream = false;
    it.output = "de/Über v2.1".parse().unwrap();
    it.tags = [("locale".to_owned(), "=de".to_owned())].into();
    it.priority = -3;
    world.load(vec![new.clone()]).await;
    let claim = world.claim_one().await;
    assert_eq!(claim.name, new.job.name);
    assert_eq!(claim.spec, new.job.spec);
    assert_eq!((claim.stream, &claim.output), (false, &new.job.output));
    assert_eq!(claim.reservation, new.reservation.unwrap());
    let row = world.row(new.job.name.as_str()).await;
    assert_eq!((row.prompt, row.tags, row.references), (new.job.spec.prompt, new.job.tags, 2));
}

pub(in crate::queue) async fn a_failed_load_changes_nothing(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    world.queue.stage(vec![job("b", 0), job("c", 1), job("c", 2)]).await.unwrap();
    assert!(world.queue.apply_load(LoadPolicy::default()).await.is_err(), "two jobs of one name");
    assert_eq!(world.state("a").await, JobState::Pending);
    assert_eq!(world.all().await.len(), 1);
}

pub(in crate::queue) async fn stamps_are_replaced(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let stamp = |path: &str| DigestEntry {
        path: path.into(),
        bytes: 5,
        modified_ns: -7,
        inode: u64::MAX,
        digest: Digest::of(b"x"),
        media: MediaType::WebP,
    };
    world.queue.save_reference_stamps(vec![stamp("/a"), stamp("/b")]).await.unwrap();
    world.queue.save_reference_stamps(vec![stamp("/b"), stamp("/c")]).await.unwrap();
    assert_eq!(world.queue.reference_stamps().await.unwrap(), [stamp("/b"), stamp("/c")]);
    assert_eq!(world.queue.cancel(&Selection::default()).await.unwrap(), 0, "nothing selected, nothing done");
}
