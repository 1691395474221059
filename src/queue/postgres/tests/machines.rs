//! Workers on many machines: who is dead, and what they hear of each other.

use std::pin::pin;
use std::time::Duration;

use super::super::SILENT_AFTER as HORIZON;
use super::Schema;
use crate::job::{AttemptOutcome, JobState, Micros};
use crate::pacing::{LaneLimits, Share};
use crate::queue::conformance::{World, new_job};
use crate::queue::{LoadPolicy, LostPolicy, Next, Queue, QueueError};

const BEAT: Duration = Duration::from_secs(3);

/// Time passes while these workers beat.
async fn pass(time: Duration, beating: &[&World]) {
    let mut passed = Duration::ZERO;
    while passed < time {
        beating[0].clock.advance(BEAT);
        passed += BEAT;
        for world in beating {
            assert!(!world.queue.heartbeat(world.worker).await.unwrap().declared_dead);
        }
    }
}

async fn rescued(world: &World) -> u64 {
    world.queue.rescue_silent(world.worker, LostPolicy::Retry).await.unwrap().lost
}

#[tokio::test]
async fn a_silent_worker_is_taken_over_and_its_late_answer_is_refused() {
    let Some(schema) = Schema::new() else { return };
    let one = World::new(&schema).await;
    one.load(vec![new_job("a", 0)]).await;
    let other = one.beside(&schema).await;
    let claim = one.claim_one().await;
    pass(HORIZON.saturating_sub(BEAT), &[&other]).await;
    assert_eq!(rescued(&other).await, 0, "it may only be slow");
    pass(BEAT * 2, &[&other]).await;
    assert_eq!(rescued(&other).await, 1);
    let again = other.claim_one().await;
    assert!(again.epoch > claim.epoch);
    let late = one.settle(&claim, AttemptOutcome::Failed, Next::Fail).await;
    assert!(matches!(late, Err(QueueError::LeaseLost { .. })), "{late:?}");
    assert!(one.queue.heartbeat(one.worker).await.unwrap().declared_dead);
    other.finish(&again).await;
    assert_eq!(one.state("a").await, JobState::Succeeded);
}

#[tokio::test]
async fn who_beats_lives_and_who_was_away_itself_judges_nobody() {
    let Some(schema) = Schema::new() else { return };
    let one = World::new(&schema).await;
    let other = one.beside(&schema).await;
    pass(HORIZON * 2, &[&one, &other]).await;
    assert_eq!((rescued(&one).await, rescued(&other).await), (0, 0));
    // Nobody could be heard of for an hour; the first that comes back finds the others silent.
    one.clock.advance(Duration::from_secs(3_600));
    assert!(!other.queue.heartbeat(other.worker).await.unwrap().declared_dead);
    other.queue.rescue_silent(other.worker, LostPolicy::Retry).await.unwrap();
    assert!(!one.queue.heartbeat(one.worker).await.unwrap().declared_dead, "it was given no time");
    // Who does not come back within the horizon is dead after all.
    pass(HORIZON + BEAT * 2, &[&other]).await;
    other.queue.rescue_silent(other.worker, LostPolicy::Retry).await.unwrap();
    assert!(one.queue.heartbeat(one.worker).await.unwrap().declared_dead);
}

#[tokio::test]
async fn who_comes_back_first_after_an_outage_of_all_judges_nobody_before_it_has_beaten() {
    let Some(schema) = Schema::new() else { return };
    let one = World::new(&schema).await;
    let other = one.beside(&schema).await;
    pass(HORIZON * 2, &[&one, &other]).await;
    one.clock.advance(Duration::from_secs(3_600));
    other.queue.rescue_silent(other.worker, LostPolicy::Retry).await.unwrap();
    assert!(!one.queue.heartbeat(one.worker).await.unwrap().declared_dead, "it was given no time");
}

#[tokio::test]
async fn who_waits_for_a_lane_that_another_machine_holds_beats_all_the_same() {
    let Some(schema) = Schema::new() else { return };
    let world = World::new(&schema).await;
    world.load(vec![new_job("a", 0)]).await;
    let mut gone = schema.raw().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM lane FOR UPDATE").execute(&mut gone).await.unwrap();
    let mut request = world.request(1);
    request.permits[0].share = Some(Share { limits: LaneLimits::default(), latency: None });
    let mut claim = pin!(world.queue.claim(request.clone()));
    let mut look = schema.raw().await;
    let waiting = "SELECT xact_start::text FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))";
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut gone).await.unwrap();
    let mut waits = async || -> Option<String> {
        sqlx::query_scalar(waiting).bind(pid).fetch_optional(&mut look).await.unwrap()
    };
    let beat = async {
        let begun = loop {
            if let Some(begun) = waits().await {
                break begun;
            }
        };
        let beat = world.queue.heartbeat(world.worker).await.unwrap();
        assert_eq!(waits().await, Some(begun), "it beat after the claim, not beside it");
        beat
    };
    tokio::select! {
        claimed = &mut claim => panic!("nobody may claim now: {claimed:?}"),
        beat = beat => assert!(!beat.declared_dead),
    }
    let claimed = claim.await.unwrap();
    assert!(claimed.claims.is_empty() && !claimed.waits.is_empty(), "it asks again: {claimed:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut gone).await.unwrap();
    assert_eq!(world.claim_with(request).await.claims.len(), 1);
}

#[tokio::test]
async fn what_is_settled_does_not_wait_with_a_claim_for_what_others_hold() {
    let Some(schema) = Schema::new() else { return };
    let world = World::new(&schema).await;
    world.load(vec![new_job("a", 0), new_job("b", 1)]).await;
    let claim = world.claim_one().await;
    // As a load does, for as long as it takes.
    let mut loads = schema.raw().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM batch FOR NO KEY UPDATE").execute(&mut loads).await.unwrap();
    let mut request = world.request(1);
    request.cost_max = Some(Micros(1_000_000));
    let (claimed, settled) = tokio::join!(
        world.queue.claim(request.clone()),
        world.settle(&claim, AttemptOutcome::Failed, Next::Fail)
    );
    settled.unwrap();
    let claimed = claimed.unwrap();
    assert!(claimed.claims.is_empty() && !claimed.waits.is_empty(), "it asks again: {claimed:?}");
    assert_eq!(world.state("a").await, JobState::Failed);
    sqlx::raw_sql("ROLLBACK").execute(&mut loads).await.unwrap();
    assert_eq!(world.claim_with(request).await.claims.len(), 1);
}

#[tokio::test]
async fn a_load_is_heard_of_by_who_waits_for_work() {
    let Some(schema) = Schema::new() else { return };
    let (one, other) = (schema.open().await, schema.open().await);
    let heard = async || tokio::time::timeout(Duration::from_secs(60), one.news()).await.expect("was told");
    // The first word says that it listens now.
    heard().await;
    other.stage(vec![new_job("a", 0)]).await.unwrap();
    other.apply_load(LoadPolicy::default()).await.unwrap();
    heard().await;
}

#[tokio::test]
async fn where_results_go_is_decided_once_for_all_and_before_the_first_of_them() {
    let Some(schema) = Schema::new() else { return };
    let one = World::new(&schema).await;
    let other = one.beside(&schema).await;
    assert_eq!(one.queue.results().await.unwrap(), None);
    let bucket = Some("s3://studio/spring".to_owned());
    assert_eq!(one.queue.decide_results("s3://studio/spring").await.unwrap(), bucket);
    assert_eq!(other.queue.decide_results("s3://studio/autumn").await.unwrap(), bucket);
    assert_eq!(other.queue.results().await.unwrap(), bucket);

    let Some(schema) = Schema::new() else { return };
    let one = World::new(&schema).await;
    one.load(vec![new_job("a", 0)]).await;
    let claim = one.claim_one().await;
    one.finish(&claim).await;
    assert_eq!(one.queue.decide_results("s3://studio/spring").await.unwrap(), None, "there are results");
}

#[tokio::test]
async fn only_workers_of_this_batch_that_have_ended_are_known_to_have() {
    let Some(schema) = Schema::new() else { return };
    let one = World::new(&schema).await;
    let other = one.beside(&schema).await;
    let tokens: Vec<String> =
        one.queue.workers().await.unwrap().into_iter().map(|worker| worker.token).collect();
    let asked: Vec<String> = tokens.iter().cloned().chain(["nobody".to_owned()]).collect();
    assert_eq!(tokens.len(), 2);
    assert_eq!(one.queue.ended(&asked).await.unwrap(), Vec::<String>::new());
    assert!(other.queue.retire_worker(other.worker).await.unwrap());
    let left = one.queue.workers().await.unwrap();
    let gone: Vec<String> =
        tokens.into_iter().filter(|token| left.iter().all(|one| one.token != *token)).collect();
    assert_eq!(one.queue.ended(&asked).await.unwrap(), gone);
    assert_eq!(gone.len(), 1);
}
