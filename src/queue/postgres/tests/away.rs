//! The server goes away and comes back, and connections break at the worst moment.

use std::sync::Arc;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::connect::Role;
use super::super::link::{Extent, Link};
use super::super::patience::Haste;
use super::super::session::{Place, Time};
use super::proxy::{Cut, Proxy};
use super::{Disk, Schema, simulator, support};
use crate::job::{AttemptOutcome, JobState};
use crate::queue::conformance::{World, new_job};
use crate::queue::{Access, LoadPolicy, Queue, QueueError};

/// What a test of these waits for at most: a restart takes some seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// Claims, settles and publishes until nothing is left; how many jobs that was.
async fn work(world: Arc<World>) -> u64 {
    let mut done = 0;
    loop {
        let claims = world.claim(3).await;
        if claims.is_empty() {
            return done;
        }
        for claim in claims {
            world.finish(&claim).await;
            done += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_loses_nothing_and_is_waited_for() {
    let Some(server) = support::start(Disk::Durable) else { return };
    let world = Arc::new(World::new(&Schema::on(&server)).await);
    world.load((0..600).map(|n| new_job(&format!("j{n}"), n)).collect()).await;
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        tasks.spawn(work(Arc::clone(&world)));
    }
    for _ in 0..3 {
        let done = world.queue.tally().await.unwrap().jobs_in(JobState::Succeeded);
        // As soon as some more are done, in the middle of it.
        while done < 560 && world.queue.tally().await.unwrap().jobs_in(JobState::Succeeded) < done + 20 {}
        block_in_place(|| server.restart_at_once());
    }
    let done: u64 = tokio::time::timeout(PATIENCE, tasks.join_all()).await.expect("ends").iter().sum();
    assert_eq!(done, 600, "each job is done once");
    let tally = world.queue.tally().await.unwrap();
    assert_eq!(tally.jobs_in(JobState::Succeeded), 600);
    // A claim that was committed and not answered is found again by its number: none is lost.
    assert_eq!(tally.attempts_with(AttemptOutcome::Succeeded), 600);
    assert_eq!(tally.attempts_with(AttemptOutcome::Sent), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_not_answered_is_looked_up_and_not_done_twice() {
    let Some(server) = support::shared() else { return };
    for cut in [Cut::Before, Cut::After] {
        let proxy = Proxy::to(server.socket());
        let schema = Schema { url: proxy.url(), name: support::unique("test") };
        let world = World::new(&schema).await;
        world.load(vec![new_job("a", 0), new_job("b", 1)]).await;
        proxy.cut_at_next_commit(cut);
        let claims = world.claim(1).await;
        assert!(proxy.was_cut());
        assert_eq!(claims.len(), 1, "{cut:?}");
        let tally = world.queue.tally().await.unwrap();
        assert_eq!(tally.attempts_with(AttemptOutcome::Sent), 1, "{cut:?}: a claim that nobody knows of");
        proxy.cut_at_next_commit(cut);
        let publication = world.plan(&claims[0], 1).await;
        assert!(proxy.was_cut());
        assert_eq!(publication.files.len(), 1, "{cut:?}");
        proxy.cut_at_next_commit(cut);
        world.queue.published(claims[0].job, claims[0].epoch).await.unwrap();
        assert_eq!(world.outcomes(claims[0].job).await, [AttemptOutcome::Succeeded], "{cut:?}");
        assert_eq!(world.state("a").await, JobState::Succeeded);
    }
}

#[tokio::test]
async fn a_commit_is_asked_about_until_the_server_lets_us_in_again() {
    let Some(server) = support::shared() else { return };
    let proxy = Proxy::to(server.socket());
    let name = support::unique("test");
    let schema = Schema { url: proxy.url_of(&name), name: name.clone() };
    let mut admin = Schema::on(server).raw().await;
    let make = AssertSqlSafe(format!("CREATE ROLE {name} SUPERUSER LOGIN"));
    sqlx::raw_sql(make).execute(&mut admin).await.unwrap();
    let world = World::new(&schema).await;
    world.load(vec![new_job("a", 0)]).await;
    let claims = world.claim(1).await;
    proxy.cut_at_next_commit(Cut::After);
    let before = proxy.accepted();
    let forbid = AssertSqlSafe(format!("ALTER ROLE {name} NOLOGIN"));
    let allow = AssertSqlSafe(format!("ALTER ROLE {name} LOGIN"));
    sqlx::raw_sql(forbid).execute(&mut admin).await.unwrap();
    let let_in = async {
        // With the second try the first one was refused.
        while proxy.accepted() < before + 2 {
            tokio::task::yield_now().await;
        }
        sqlx::raw_sql(allow).execute(&mut admin).await.unwrap();
    };
    let (publication, ()) = tokio::join!(world.plan(&claims[0], 1), let_in);
    assert_eq!(publication.files.len(), 1);
    assert_eq!(world.outcomes(claims[0].job).await, [AttemptOutcome::Succeeded]);
}

#[tokio::test]
async fn patience_is_that_of_an_outage_and_not_of_each_command() {
    let Some(schema) = Schema::new() else { return };
    let nowhere = Schema { url: "postgres://ann@127.0.0.1:1/press".to_owned(), name: "x".to_owned() };
    let patience = Duration::from_millis(300);
    let place = Arc::new(Place { patience_at_start: patience, ..nowhere.place(Time::Server) });
    let haste = Haste::none();
    let link = |place| Link::new(place, Role::Read, (haste.clone(), CancellationToken::new()));
    let (mut one, mut other) = (link(Arc::clone(&place)), link(place));
    let ask = async |link: &mut Link| {
        let begun = Instant::now();
        let asked = link.look_up(Extent::Some, |session| Box::pin(session.run("asking", "SELECT 1"))).await;
        assert!(matches!(asked, Err(QueueError::Unreachable { .. })), "{asked:?}");
        begun.elapsed()
    };
    assert!(ask(&mut one).await >= patience);
    assert!(ask(&mut one).await < patience, "the next command waited as long again");
    assert!(ask(&mut other).await < patience, "another connection waited as long again");
    // Where the server is, it is found.
    let mut there = link(Arc::new(schema.place(Time::Server)));
    there.look_up(Extent::Some, |session| Box::pin(session.run("asking", "SELECT 1"))).await.unwrap();
}

#[tokio::test]
async fn staged_jobs_that_went_down_with_their_connection_cancel_nothing() {
    let Some(server) = support::shared() else { return };
    let name = support::unique("test");
    let schema = Schema { url: format!("{}?application_name={name}", server.url()), name };
    let queue = schema.open().await;
    let jobs = || vec![new_job("a", 0), new_job("b", 1)];
    queue.stage(jobs()).await.unwrap();
    queue.apply_load(LoadPolicy::default()).await.unwrap();
    queue.stage(jobs()).await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = $1 AND pid <> pg_backend_pid()";
    sqlx::query(kill).bind(&schema.name).execute(&mut schema.raw().await).await.unwrap();
    let applied = queue.apply_load(LoadPolicy::default()).await;
    assert!(matches!(applied, Err(QueueError::StagingLost)), "{applied:?}");
    assert_eq!(queue.tally().await.unwrap().jobs_in(JobState::Pending), 2, "they were taken for gone");
}

#[tokio::test]
async fn a_server_that_does_not_come_back_is_named_without_its_password() {
    if support::shared().is_none() {
        return;
    }
    let nowhere = Schema { url: "postgres://ann:s3cr3t@127.0.0.1:1/press".to_owned(), name: "x".to_owned() };
    let error = nowhere.open_as("default", Access::Create, simulator()).await.unwrap_err();
    assert!(matches!(error, QueueError::Unreachable { .. }), "{error:?}");
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("postgres://ann@127.0.0.1:1/press") && !shown.contains("s3cr3t"), "{shown}");
}

#[tokio::test]
async fn a_lock_that_stays_is_not_waited_for_for_ever() {
    let Some(schema) = Schema::new() else { return };
    let queue = schema.open().await;
    queue.stage(vec![new_job("a", 0)]).await.unwrap();
    queue.apply_load(LoadPolicy::default()).await.unwrap();
    let hurry = "SET lock_timeout = '20ms'";
    queue.write(move |session| Box::pin(session.run("hurrying", hurry))).await.unwrap();
    let mut other = schema.raw().await;
    sqlx::raw_sql("BEGIN; SELECT * FROM batch FOR UPDATE").execute(&mut other).await.unwrap();
    let held = queue.save_reference_stamps(vec![]).await;
    assert!(matches!(held, Err(QueueError::Engine { .. })), "{held:?}");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    queue.save_reference_stamps(vec![]).await.unwrap();
    let drop_it = AssertSqlSafe(format!("DROP SCHEMA {} CASCADE", schema.name));
    queue.close().await;
    sqlx::raw_sql(drop_it).execute(&mut other).await.unwrap();
}
