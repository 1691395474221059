//! What is kept about lanes, and lanes that stand in for another model.

use std::time::Duration;

use super::world::{Bench, NOON, World, jobs, key};
use crate::job::{LaneId, ModelName};
use crate::queue::{
    KnownLimit, LaneNote, LaneState, LimitSource, LostPolicy, ModelLeft, NewJob, Permits, Scope,
};

fn state() -> LaneState {
    LaneState {
        sent_last_minute: 57,
        per_minute: Some(60.5),
        source: LimitSource::Learned,
        in_flight: 12,
        in_flight_max: 40,
        closed: None,
    }
}

fn known(per_minute: f64) -> KnownLimit {
    KnownLimit { per_minute, source: LimitSource::Learned, confidence: 2, in_flight_max: Some(20) }
}

pub(in crate::queue) async fn what_was_learned_about_a_lane_is_there_for_the_next_run(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let find = async || world.queue.lane(&key("gemini-3.1-flash-image")).await.unwrap();
    assert_eq!(find().await.known, None);
    let note = |known| LaneNote { lane: world.lane, known, state: state() };
    world.queue.note_lanes(world.worker, vec![note(Some(known(60.5)))]).await.unwrap();
    world.clock.advance(Duration::from_secs(5));
    world.queue.note_lanes(world.worker, vec![note(None)]).await.unwrap();
    assert_eq!(find().await.known, Some((known(60.5), NOON)), "it was forgotten or made younger");
    let stated = KnownLimit { source: LimitSource::Stated, in_flight_max: None, ..known(100.0) };
    world.queue.note_lanes(world.worker, vec![note(Some(stated))]).await.unwrap();
    assert_eq!(find().await.known, Some((stated, NOON.plus(Duration::from_secs(5)))));
    assert_eq!(world.queue.lane(&key("other")).await.unwrap().known, None, "another lane learned from it");
}

pub(in crate::queue) async fn lanes_are_shown_while_their_worker_lives(bench: &dyn Bench) {
    let (one, other) = (World::new(bench).await, World::new(bench).await);
    let closed = LaneState { closed: Some((NOON, "as asked by the server".to_owned())), ..state() };
    let note = |state| vec![LaneNote { lane: one.lane, known: None, state }];
    one.queue.note_lanes(one.worker, note(state())).await.unwrap();
    one.queue.note_lanes(one.worker, note(closed.clone())).await.unwrap();
    let other = one.beside(bench).await.worker.max(other.worker);
    one.queue.note_lanes(other, note(state())).await.unwrap();
    let shown = async || {
        let rows = one.queue.lane_states().await.unwrap();
        rows.into_iter().map(|row| (row.worker, row.model, row.key_id, row.state)).collect::<Vec<_>>()
    };
    let row = |worker, state| (worker, "gemini-3.1-flash-image".to_owned(), "k1".to_owned(), state);
    assert_eq!(shown().await, [row(one.worker, closed.clone()), row(other, state())]);
    one.queue.rescue(&[other], one.worker, LostPolicy::Retry).await.unwrap();
    one.queue.note_lanes(other, note(state())).await.unwrap();
    assert_eq!(shown().await, [row(one.worker, closed)], "a dead worker's lane is shown");
    one.queue.retire_worker(one.worker).await.unwrap();
    assert_eq!(shown().await, []);
}

fn with_fallback(mut job: NewJob, models: &[&str]) -> NewJob {
    job.job.fallback_models = models.iter().map(|model| model.parse().unwrap()).collect();
    job
}

fn instead(lane: LaneId, count: u32) -> Permits {
    Permits { also_for: vec![ModelName::default_model()], ..Permits::own(lane, count) }
}

pub(in crate::queue) async fn a_lane_that_stands_in_takes_only_jobs_that_allow_it(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let mut list = jobs(&["a", "b", "c", "d"]);
    list[1] = with_fallback(list[1].clone(), &["third", "other"]);
    list[2] = with_fallback(list[2].clone(), &["third"]);
    list[3] = with_fallback(list[3].clone(), &["other"]);
    world.load(list).await;
    let left = world.queue.models_left(&Scope::default()).await.unwrap();
    let own = "gemini-3.1-flash-image".to_owned();
    assert_eq!(left, [ModelLeft { model: own, fallbacks: vec!["other".to_owned(), "third".to_owned()] }]);
    let other = world.queue.lane(&key("other")).await.unwrap().lane;
    let claim = async |permits: Vec<Permits>, scope: Scope| {
        let mut request = world.request(0);
        request.permits = permits;
        request.scope = scope;
        let claims = world.claim_with(request).await.claims;
        let shown = |claim: &crate::queue::Claim| {
            assert_eq!(claim.lane, other);
            format!("{} {}", claim.name, claim.spec.model)
        };
        claims.iter().map(shown).collect::<Vec<_>>()
    };
    assert!(claim(vec![Permits::own(other, 9)], Scope::default()).await.is_empty(), "it took another's jobs");
    let pilot = Scope { first: Some(2), glob: None };
    assert_eq!(claim(vec![instead(other, 9)], pilot).await, ["b other"]);
    assert_eq!(claim(vec![instead(other, 9)], Scope::default()).await, ["d other"]);
    assert_eq!(world.claim(9).await.len(), 2, "what nobody took is its own lane's still");
}

pub(in crate::queue) async fn a_lane_serves_its_own_jobs_before_it_stands_in(bench: &dyn Bench) {
    let world = World::new(bench).await;
    let mut list = jobs(&["a", "b", "c"]);
    for one in [0, 1] {
        list[one] = with_fallback(list[one].clone(), &["other"]);
    }
    list[2].job.spec.model = "other".parse().unwrap();
    world.load(list).await;
    let other = world.queue.lane(&key("other")).await.unwrap().lane;
    let mut request = world.request(0);
    request.permits = vec![instead(other, 2)];
    let claims = world.claim_with(request).await.claims;
    let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
    assert_eq!(names, ["c", "a"]);
}

pub(in crate::queue) async fn a_load_may_change_who_stands_in(bench: &dyn Bench) {
    let world = World::new(bench).await;
    world.load(jobs(&["a"])).await;
    let other = world.queue.lane(&key("other")).await.unwrap().lane;
    let claimed = async || {
        let mut request = world.request(0);
        request.permits = vec![instead(other, 1)];
        world.claim_with(request).await.claims.len()
    };
    assert_eq!(claimed().await, 0);
    let again = vec![with_fallback(jobs(&["a"]).remove(0), &["other"])];
    let diff = world.load(again).await;
    assert_eq!((diff.unchanged, diff.changed), (1, 0), "it is no part of the description");
    assert_eq!(claimed().await, 1);
}
