//! Whose queue it is, who makes it, and what the database itself keeps.

use sqlx::{AssertSqlSafe, Connection as _};

use super::{Schema, simulator, support};
use crate::job::{JobState, Provider};
use crate::queue::conformance::{World, new_job};
use crate::queue::{Access, Identity, LoadPolicy, Queue, QueueError, Scope, Selection};

#[tokio::test]
async fn a_queue_knows_whose_it_is() {
    let Some(schema) = Schema::new() else { return };
    for access in [Access::Existing, Access::Look, Access::ReadOnly] {
        let missing = schema.open_as("spring", access, Identity::AsItIs).await;
        assert!(
            matches!(&missing, Err(QueueError::Missing { path }) if path.contains("batch `spring`")),
            "{missing:?}"
        );
    }
    let mut conn = schema.raw().await;
    let find = "SELECT count(*) FROM pg_namespace WHERE nspname = $1";
    let made: i64 = sqlx::query_scalar(find).bind(&schema.name).fetch_one(&mut conn).await.unwrap();
    assert_eq!(made, 0, "looking for a queue makes none");
    schema.open_as("spring", Access::Create, simulator()).await.unwrap().close().await;
    schema.open_as("spring", Access::Existing, Identity::AsItIs).await.unwrap().close().await;
    let of = |manifest: &str, provider| Identity::Of { manifest: Some(manifest.to_owned()), provider };
    let other = schema.open_as("spring", Access::Create, of("m.yaml", Provider::Google)).await;
    assert!(matches!(other, Err(QueueError::OtherProvider { found: Provider::Simulator, .. })));
    let other = schema.open_as("spring", Access::Create, of("n.yaml", Provider::Simulator)).await;
    assert!(matches!(other, Err(QueueError::OtherManifest { found, .. }) if found == "m.yaml"));
}

#[tokio::test]
async fn batches_of_one_database_know_nothing_of_each_other() {
    let Some(schema) = Schema::new() else { return };
    let spring = schema.open_as("spring", Access::Create, simulator()).await.unwrap();
    let autumn = schema.open_as("autumn", Access::Create, simulator()).await.unwrap();
    for queue in [&spring, &autumn] {
        queue.stage(vec![new_job("a", 0), new_job("b", 1)]).await.unwrap();
        queue.apply_load(LoadPolicy::default()).await.unwrap();
    }
    spring.cancel(&Selection { names: vec!["a".parse().unwrap()], states: vec![] }).await.unwrap();
    assert_eq!(autumn.left(&Scope::default()).await.unwrap().ready, 2);
    assert_eq!(autumn.tally().await.unwrap().jobs_in(JobState::Cancelled), 0);
    assert_eq!(spring.left(&Scope::default()).await.unwrap().ready, 1);
    spring.stage(vec![new_job("b", 0)]).await.unwrap();
    let diff = spring.apply_load(LoadPolicy::default()).await.unwrap();
    assert_eq!((diff.unchanged, diff.cancelled), (1, 0));
    assert_eq!(autumn.left(&Scope::default()).await.unwrap().ready, 2, "another batch's load cancelled them");
}

#[tokio::test]
async fn a_newer_schema_and_a_foreign_one_are_left_alone() {
    let Some(schema) = Schema::new() else { return };
    schema.open().await.close().await;
    let mut conn = schema.raw().await;
    sqlx::raw_sql("INSERT INTO migration (version, program) VALUES (99, 'later')")
        .execute(&mut conn)
        .await
        .unwrap();
    for access in [Access::Create, Access::Existing, Access::Look, Access::ReadOnly] {
        let newer = schema.open_as("default", access, Identity::AsItIs).await;
        let Err(error @ QueueError::NewerSchema { found: 99, known: 2, .. }) = newer else {
            panic!("{newer:?}")
        };
        assert!(error.to_string().contains("use the newer nightpress"), "{error}");
    }
    let Some(foreign) = Schema::new() else { return };
    let make = format!("CREATE SCHEMA {0}; CREATE TABLE {0}.theirs (x int)", foreign.name);
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut conn).await.unwrap();
    let error = foreign.open_as("default", Access::Create, simulator()).await.unwrap_err();
    assert!(matches!(error, QueueError::NotAQueue { .. }), "{error:?}");
}

#[tokio::test]
async fn who_only_looks_leaves_an_older_schema_as_it_is() {
    let Some(schema) = Schema::new() else { return };
    schema.open().await.close().await;
    let mut conn = schema.raw().await;
    let older = "DELETE FROM migration WHERE version = 2; ALTER TABLE batch DROP COLUMN results";
    sqlx::raw_sql(older).execute(&mut conn).await.unwrap();
    for access in [Access::Look, Access::ReadOnly] {
        let looked = schema.open_as("default", access, Identity::AsItIs).await;
        let Err(error @ QueueError::OlderSchema { found: 1, known: 2, .. }) = looked else {
            panic!("{looked:?}")
        };
        assert!(error.to_string().contains("when no older worker is left"), "{error}");
    }
    schema.open_as("default", Access::Existing, Identity::AsItIs).await.unwrap().close().await;
    schema.open_as("default", Access::Look, Identity::AsItIs).await.unwrap().close().await;
}

#[tokio::test]
async fn a_worker_whose_schema_a_newer_program_has_changed_refuses_it_when_it_connects_again() {
    let Some(server) = support::shared() else { return };
    let name = support::unique("test");
    let schema = Schema { url: format!("{}?application_name={name}", server.url()), name };
    let world = World::new(&schema).await;
    world.load(vec![new_job("a", 0)]).await;
    assert!(!world.queue.heartbeat(world.worker).await.unwrap().declared_dead);
    let mut conn = schema.raw().await;
    let newer = "INSERT INTO migration (version, program) VALUES (99, 'later')";
    sqlx::raw_sql(newer).execute(&mut conn).await.unwrap();
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = $1 AND pid <> pg_backend_pid()";
    sqlx::query(kill).bind(&schema.name).execute(&mut conn).await.unwrap();
    let refused =
        |error: Option<QueueError>| matches!(error, Some(QueueError::NewerSchema { found: 99, .. }));
    assert!(refused(world.queue.heartbeat(world.worker).await.err()));
    assert!(refused(world.queue.claim(world.request(1)).await.err()));
    assert!(refused(world.queue.tally().await.err()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_make_the_same_queue_at_once() {
    let Some(schema) = Schema::new() else { return };
    let opened = futures_util::future::join_all((0..8).map(|_| schema.open())).await;
    for queue in opened {
        queue.close().await;
    }
    let mut conn = schema.raw().await;
    let batches: i64 = sqlx::query_scalar("SELECT count(*) FROM batch").fetch_one(&mut conn).await.unwrap();
    assert_eq!(batches, 1);
}

#[tokio::test]
async fn the_database_itself_keeps_the_ledger() {
    let Some(schema) = Schema::new() else { return };
    let world = World::new(&schema).await;
    world.load(vec![new_job("a", 0)]).await;
    let claim = world.claim_one().await;
    world.finish(&claim).await;
    let mut conn = schema.raw().await;
    for forbidden in ["UPDATE attempt SET cost = 1", "DELETE FROM attempt", "TRUNCATE attempt CASCADE"] {
        let error = sqlx::raw_sql(forbidden).execute(&mut conn).await.unwrap_err();
        assert!(error.to_string().contains("an attempt is never changed"), "{forbidden}: {error}");
    }
    conn.close().await.unwrap();
}

#[tokio::test]
async fn looking_only_changes_nothing() {
    let Some(schema) = Schema::new() else { return };
    let queue = schema.open().await;
    queue.stage(vec![new_job("a", 0)]).await.unwrap();
    queue.apply_load(LoadPolicy::default()).await.unwrap();
    let reader = schema.open_as("default", Access::ReadOnly, simulator()).await.unwrap();
    reader.stage(vec![new_job("a", 0), new_job("b", 1)]).await.unwrap();
    let diff = reader.staged_diff(LoadPolicy::default()).await.unwrap();
    assert_eq!((diff.unchanged, diff.new), (1, 1));
    let write = reader.apply_load(LoadPolicy::default()).await;
    assert!(matches!(write, Err(QueueError::Disk { .. })), "{write:?}");
    assert_eq!(queue.left(&Scope::default()).await.unwrap().ready, 1);
}

/// a ← b ← c: no manifest makes them yet, so they are put in by hand.
async fn chain(schema: &Schema) -> World {
    let world = World::new(schema).await;
    world.load(vec![new_job("a", 0), new_job("b", 1), new_job("c", 2)]).await;
    let link = "INSERT INTO dependency SELECT b.job, a.job FROM job a, job b
                WHERE (a.name, b.name) IN (VALUES ('a', 'b'), ('b', 'c'));
                UPDATE job SET state = 'waiting', needs = 1 WHERE name IN ('b', 'c')";
    sqlx::raw_sql(link).execute(&mut schema.raw().await).await.unwrap();
    world
}

#[tokio::test]
async fn a_success_promotes_what_waited_for_it() {
    use crate::job::JobState::{Pending, Succeeded, Waiting};
    let Some(schema) = Schema::new() else { return };
    let world = chain(&schema).await;
    let claims = world.claim(9).await;
    assert_eq!(claims.len(), 1, "only the first can be claimed");
    world.finish(&claims[0]).await;
    for (name, state) in [("a", Succeeded), ("b", Pending), ("c", Waiting)] {
        assert_eq!(world.state(name).await, state, "{name}");
    }
}

#[tokio::test]
async fn a_failure_skips_what_waited_for_it_and_retry_makes_it_wait_again() {
    use crate::job::AttemptOutcome;
    use crate::queue::Next;
    let Some(schema) = Schema::new() else { return };
    let world = chain(&schema).await;
    let claim = world.claim_one().await;
    world.settle(&claim, AttemptOutcome::Failed, Next::Fail).await.unwrap();
    assert_eq!(world.state("b").await, JobState::Skipped);
    assert_eq!(world.state("c").await, JobState::Skipped);
    let all = Selection { names: vec![], states: vec![JobState::Failed, JobState::Skipped] };
    assert_eq!(world.queue.retry(&all).await.unwrap(), 3);
    assert_eq!(world.state("b").await, JobState::Waiting);
    let claim = world.claim_one().await;
    world.finish(&claim).await;
    assert_eq!(world.claim_one().await.name.as_str(), "b");
}

/// SQLite's GLOB is the meaning of `--job`; here the server's own matching is held to it.
#[tokio::test]
async fn a_glob_matches_as_it_does_in_sqlite() {
    let Some(schema) = Schema::new() else { return };
    let mut conn = schema.raw().await;
    let sqlite = rusqlite::Connection::open_in_memory().unwrap();
    let globs = [
        "*", "a*", "*b", "a?c", "[ab]*", "[^a]*", "[a-c]x", "[]x]", "a.c", "a+c", "[", "a[", "*猫*", "a\\*",
        "[z-a]", "[^z-a]", "[z-ab]*", "[a-]*", "[-a]*", "[]-a]", "[a-c-x]*", "[^-]*",
    ];
    let names =
        ["a", "abc", "a.c", "a+c", "bx", "cx", "x", "]", "猫", "a猫c", "a\\b", "aXc", "[", "-", "z", "^"];
    for glob in globs {
        for name in names {
            let here: bool = sqlx::query_scalar("SELECT $1::text ~ $2")
                .bind(name)
                .bind(super::super::glob::pattern(glob))
                .fetch_one(&mut conn)
                .await
                .unwrap();
            let there: bool = sqlite.query_row("SELECT ?1 GLOB ?2", (name, glob), |row| row.get(0)).unwrap();
            assert_eq!(here, there, "{name} by {glob}");
        }
    }
}
