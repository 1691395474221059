//! What SQLite's engine must keep beyond the contract's suite.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tempfile::TempDir;

use super::{OpenOptions, SqliteQueue, Synchronous};
use crate::job::{Clock, Provider, SystemClock};
use crate::queue::conformance::{Bench, conformance_suite};
use crate::queue::{Access, Identity, LoadPolicy, NewJob, Queue, QueueError, Scope};

use super::engine::Session;
use super::fault::Doing as _;
use super::{claim, migrate, names, publish, settle, stage};

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("queue.db")
    }

    fn files(&self) -> BTreeSet<String> {
        let names = std::fs::read_dir(self.0.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A connection past the engine.
    fn raw(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }
}

fn options(path: &Path) -> OpenOptions {
    OpenOptions {
        path: path.to_owned(),
        access: Access::Create,
        identity: Identity::Of { manifest: Some("m.yaml".to_owned()), provider: Provider::Simulator },
        clock: Arc::new(SystemClock),
        synchronous: Synchronous::Full,
    }
}

#[async_trait]
impl Bench for Folder {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Queue> {
        let queue = SqliteQueue::open(OpenOptions { clock, ..options(&self.path()) }).await;
        Arc::new(queue.unwrap())
    }
}

conformance_suite!(Some(Folder::new()));

async fn open(options: OpenOptions) -> Result<SqliteQueue, QueueError> {
    SqliteQueue::open(options).await
}

fn new_job(name: &str, ordinal: u64) -> NewJob {
    crate::queue::conformance::new_job(name, ordinal)
}

/// Every statement of the way from claim to success, as SQLite means to run it.
#[tokio::test]
async fn no_statement_of_a_jobs_way_reads_a_whole_table() {
    let folder = Folder::new();
    open(options(&folder.path())).await.unwrap().close().await;
    let conn = folder.raw();
    conn.execute_batch(stage::TABLES).unwrap();
    let single = [
        claim::DUE,
        claim::DUE_FIRST,
        claim::LEASED,
        claim::LEASED_REFERENCES,
        settle::FENCE,
        settle::FINE,
        names::TAKEN,
        publish::STANDING,
        publish::PLANNED,
        publish::FENCE,
        publish::FINE,
    ];
    let several: [&[&str]; 4] = [&claim::PROMOTE_DUE, &claim::LEASE, &settle::SETTLE, &publish::PUBLISH];
    let mut seen = 0;
    for statement in single.iter().chain(several.iter().copied().flatten()) {
        for step in plan(&conn, statement) {
            // A table that the statement does not name is a guarded check of a foreign key.
            let whole =
                ["job", "j", "n", "attempt", "a", "output", "o", "revision", "r", "reference", "f", "d"]
                    .iter()
                    .filter(|table| statement.split_whitespace().any(|word| word == **table))
                    .any(|table| {
                        step == format!("SCAN {table}") || step.starts_with(&format!("SCAN {table} "))
                    });
            assert!(!whole, "{step}\n{statement}");
            seen += 1;
        }
    }
    assert!(seen > 20, "the plans were read");
    let steps = plan(&conn, claim::DUE);
    let head = "USING INDEX job_ready (batch=? AND model=? AND turn>? AND turn<?)";
    assert!(steps.iter().any(|step| step.contains(head)), "{steps:?}");
    assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "in the order of the index: {steps:?}");
}

/// What SQLite means to do, step by step.
fn plan(conn: &Connection, statement: &str) -> Vec<String> {
    let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {statement}")).unwrap();
    // Values that are not given are NULL.
    explain.raw_query().mapped(|row| row.get("detail")).collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn the_database_itself_keeps_the_ledger() {
    let folder = Folder::new();
    let queue = open(options(&folder.path())).await.unwrap();
    queue.close().await;
    let conn = folder.raw();
    let fill = "PRAGMA foreign_keys = OFF;
        INSERT INTO attempt (attempt, job, revision, run, lane, worker, epoch, alone, outcome, sent_at, cost_at_most)
        VALUES (1, 1, 1, 1, 1, 1, 1, 0, 'sent', 0, 0);
        UPDATE attempt SET outcome = 'lost'";
    conn.execute_batch(fill).unwrap();
    for forbidden in
        ["UPDATE attempt SET outcome = 'succeeded'", "UPDATE attempt SET cost = 1", "DELETE FROM attempt"]
    {
        let error = conn.execute_batch(forbidden).unwrap_err();
        assert!(error.to_string().contains("an attempt is never"), "{forbidden}: {error}");
    }
}

#[tokio::test]
async fn a_queue_knows_whose_it_is() {
    let folder = Folder::new();
    let path = folder.path();
    let existing = OpenOptions { access: Access::Existing, identity: Identity::AsItIs, ..options(&path) };
    assert!(matches!(open(existing.clone()).await, Err(QueueError::Missing { .. })));
    assert!(folder.files().is_empty(), "looking for a queue makes none");
    open(options(&path)).await.unwrap().close().await;
    open(existing).await.unwrap().close().await;
    let of = |manifest: &str, provider| Identity::Of { manifest: Some(manifest.to_owned()), provider };
    let other = OpenOptions { identity: of("m.yaml", Provider::Google), ..options(&path) };
    assert!(matches!(open(other).await, Err(QueueError::OtherProvider { found: Provider::Simulator, .. })));
    let other = OpenOptions { identity: of("n.yaml", Provider::Simulator), ..options(&path) };
    assert!(matches!(open(other).await, Err(QueueError::OtherManifest { found, .. }) if found == "m.yaml"));
    assert_eq!(folder.files(), ["queue.db".to_owned()].into());
}

#[tokio::test]
async fn what_is_no_queue_of_ours_is_left_alone() {
    let folder = Folder::new();
    open(options(&folder.path())).await.unwrap().close().await;
    folder.raw().execute_batch("PRAGMA user_version = 99").unwrap();
    let newer = open(options(&folder.path())).await;
    assert!(matches!(newer, Err(QueueError::NewerSchema { found: 99, known: 1, .. })), "{newer:?}");

    let foreign = folder.0.path().join("foreign.db");
    std::fs::write(&foreign, "").unwrap();
    let conn = Connection::open(&foreign).unwrap();
    conn.execute_batch("CREATE TABLE theirs (x)").unwrap();
    conn.close().unwrap();
    for access in [Access::Create, Access::Existing, Access::Look, Access::ReadOnly] {
        let error = open(OpenOptions { access, ..options(&foreign) }).await.unwrap_err();
        assert!(matches!(error, QueueError::NotAQueue { .. }), "{access:?} {error:?}");
        let error = open(OpenOptions { access, ..options(folder.0.path()) }).await.unwrap_err();
        assert!(matches!(error, QueueError::IsAFolder { .. }), "{access:?} {error:?}");
    }

    let text = folder.0.path().join("text.db");
    std::fs::write(&text, "a letter to grandmother, long enough to be taken for a header of a database")
        .unwrap();
    let error = open(options(&text)).await.unwrap_err();
    assert!(matches!(&error, QueueError::Corrupt { path, .. } if path.ends_with("text.db")), "{error:?}");

    let nowhere = open(options(Path::new("/nonexistent/folder/queue.db"))).await.unwrap_err();
    assert!(matches!(nowhere, QueueError::Disk { .. }), "{nowhere:?}");
}

#[tokio::test]
async fn reading_only_leaves_the_folder_as_it_was() {
    let folder = Folder::new();
    let read = OpenOptions { access: Access::ReadOnly, ..options(&folder.path()) };
    assert!(matches!(open(read.clone()).await, Err(QueueError::Missing { .. })));
    let queue = open(options(&folder.path())).await.unwrap();
    queue.stage(vec![new_job("a", 0)]).await.unwrap();
    queue.apply_load(LoadPolicy::default()).await.unwrap();

    let look = async || {
        let bytes = || std::fs::read(folder.path()).unwrap();
        let (files, before) = (folder.files(), bytes());
        let reader = open(read.clone()).await.unwrap();
        reader.stage(vec![new_job("a", 0), new_job("b", 1)]).await.unwrap();
        let diff = reader.staged_diff(LoadPolicy::default()).await.unwrap();
        assert_eq!((diff.unchanged, diff.new), (1, 1));
        assert_eq!(reader.left(&Scope::default()).await.unwrap().ready, 1);
        let write = reader.apply_load(LoadPolicy::default()).await;
        assert!(matches!(write, Err(QueueError::Disk { .. })), "{write:?}");
        reader.close().await;
        assert_eq!(folder.files(), files);
        assert_eq!(bytes(), before);
    };
    look().await; // while another process works
    queue.close().await;
    assert_eq!(folder.files(), ["queue.db".to_owned()].into());
    look().await; // when nobody does
}

/// The quiet database is opened by an address, in which these mean something.
#[tokio::test]
async fn a_folder_may_have_any_name() {
    let folder = Folder::new();
    for name in ["a b", "c#d", "e?f", "%41", "g:h", "猫"] {
        let path = folder.0.path().join(name).join("queue.db");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let twice = format!("/{}", path.display());
        for path in [path.as_path(), Path::new(&twice)] {
            open(options(path)).await.unwrap().close().await;
            let look = OpenOptions { access: Access::ReadOnly, ..options(path) };
            open(look).await.unwrap().close().await;
        }
        assert!(path.is_file(), "{name}");
    }
}

#[tokio::test]
async fn a_manifest_is_compared_with_nothing() {
    let queue = SqliteQueue::in_memory(Provider::Simulator, Arc::new(SystemClock)).await.unwrap();
    queue.stage(vec![new_job("a", 0), new_job("b", 1)]).await.unwrap();
    let diff = queue.staged_diff(LoadPolicy::default()).await.unwrap();
    assert_eq!((diff.total, diff.new, diff.to_send), (2, 2, 2));
    assert!(queue.tally().await.unwrap().jobs.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_make_the_same_queue_at_once() {
    let folder = Folder::new();
    let opened = futures_util::future::join_all((0..8).map(|_| open(options(&folder.path())))).await;
    for queue in opened {
        queue.unwrap().close().await;
    }
    let conn = folder.raw();
    let batches: i64 = conn.query_row("SELECT count(*) FROM batch", (), |row| row.get(0)).unwrap();
    assert_eq!(batches, 1);
}

/// a ← b ← c: no manifest makes them yet, so they are put in by hand.
async fn chain(folder: &Folder) -> crate::queue::conformance::World {
    let world = crate::queue::conformance::World::new(folder).await;
    world.load(vec![new_job("a", 0), new_job("b", 1), new_job("c", 2)]).await;
    let link = "INSERT INTO dependency SELECT b.job, a.job FROM job a, job b
                WHERE (a.name, b.name) IN (VALUES ('a', 'b'), ('b', 'c'));
                UPDATE job SET state = 'waiting', needs = 1 WHERE name IN ('b', 'c')";
    folder.raw().execute_batch(link).unwrap();
    world
}

#[tokio::test]
async fn a_success_promotes_what_waited_for_it() {
    use crate::job::JobState::{Pending, Succeeded, Waiting};
    let folder = Folder::new();
    let world = chain(&folder).await;
    let claims = world.claim(9).await;
    assert_eq!(claims.len(), 1, "only the first can be claimed");
    world.finish(&claims[0]).await;
    for (name, state) in [("a", Succeeded), ("b", Pending), ("c", Waiting)] {
        assert_eq!(world.state(name).await, state, "{name}");
    }
}

#[tokio::test]
async fn a_failure_skips_what_waited_for_it_and_retry_makes_it_wait_again() {
    use crate::job::{AttemptOutcome, JobState};
    let folder = Folder::new();
    let world = chain(&folder).await;
    let claim = world.claim_one().await;
    world.settle(&claim, AttemptOutcome::Failed, crate::queue::Next::Fail).await.unwrap();
    assert_eq!(world.state("b").await, JobState::Skipped);
    assert_eq!(world.state("c").await, JobState::Skipped);
    let all = crate::queue::Selection { names: vec![], states: vec![JobState::Failed, JobState::Skipped] };
    assert_eq!(world.queue.retry(&all).await.unwrap(), 3);
    assert_eq!(world.state("b").await, JobState::Waiting);
    let claim = world.claim_one().await;
    world.finish(&claim).await;
    assert_eq!(world.claim_one().await.name.as_str(), "b");
}

#[tokio::test]
async fn a_lock_of_another_program_is_waited_for_then_told_and_nothing_is_lost() {
    let folder = Folder::new();
    let queue = open(options(&folder.path())).await.unwrap();
    queue.stage(vec![new_job("a", 0)]).await.unwrap();
    // A test need not wait as long as a night may.
    let hurry = |session: &Session| session.conn.busy_timeout(Duration::from_millis(50)).doing("hurrying");
    queue.write(hurry).await.unwrap();
    let other = folder.raw();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = queue.apply_load(LoadPolicy::default()).await.unwrap_err();
    assert!(matches!(error, QueueError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("end that program or try later"), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(queue.apply_load(LoadPolicy::default()).await.unwrap().new, 1);
}

/// What a disk is like that has no shared memory for the log: SQLite answers with another mode.
#[tokio::test]
async fn a_disk_that_keeps_no_log_is_refused() {
    let conn = Connection::open_in_memory().unwrap();
    let error = migrate::use_wal(&conn, Path::new("far/queue.db")).unwrap_err();
    assert!(matches!(&error, QueueError::NoWal { path } if path == "far/queue.db"), "{error}");
    assert!(error.to_string().contains("use a folder on a local disk with -o"), "{error}");
}

#[tokio::test]
async fn closing_waits_for_no_lock_of_another_program() {
    let folder = Folder::new();
    let queue = open(options(&folder.path())).await.unwrap();
    let other = folder.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let patience = super::fault::BUSY_WAIT / 3;
    tokio::time::timeout(patience, queue.close()).await.expect("closing waited for the lock");
    other.execute_batch("ROLLBACK").unwrap();
}
