//! The schema: forward-only scripts, counted by `user_version`.

use std::path::Path;

use sqlx::SqliteConnection;

use super::fault::{Doing, is_busy};
use crate::queue::QueueError;

/// Scripts in their order; the number of those that ran is the schema's version.
const SCRIPTS: &[&str] = &[include_str!("../../../migrations/sqlite/0001_queue.sql")];

/// "NPQ1" in the header of every queue, so that another program's database is not taken for one.
const APPLICATION_ID: i64 = 0x4e50_5131;
const MARK: &str = "PRAGMA application_id = 1313886513";

/// Two processes may start at once. Schema and pragmas are made in one transaction, so the second sees
/// all of them or none.
const TABLES: &str = "SELECT count(*) FROM sqlite_schema";

/// Brings the schema up to date in one transaction. Several processes may do so at once.
pub(super) async fn migrate(conn: &mut SqliteConnection, path: &Path) -> Result<(), QueueError> {
    if version(conn, path).await? == SCRIPTS.len() {
        return Ok(());
    }
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *conn).await.doing("beginning the schema")?;
    let made = make(conn, path).await;
    let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = sqlx::raw_sql(end).execute(&mut *conn).await.doing("making the schema");
    made.and(ended.map(drop))
}

async fn make(conn: &mut SqliteConnection, path: &Path) -> Result<(), QueueError> {
    let done = version(conn, path).await?;
    for script in SCRIPTS.iter().skip(done) {
        sqlx::raw_sql(*script).execute(&mut *conn).await.doing("making the schema")?;
    }
    let version = format!("PRAGMA user_version = {}", SCRIPTS.len());
    sqlx::raw_sql(MARK).execute(&mut *conn).await.doing("making the schema")?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(version)).execute(&mut *conn).await.doing("making the schema")?;
    Ok(())
}

/// How many scripts have run on this database.
pub(super) async fn version(conn: &mut SqliteConnection, path: &Path) -> Result<usize, QueueError> {
    // Tables first: another process may make them all, with their version, between two looks.
    let tables = pragma(conn, TABLES).await?;
    let found = pragma(conn, "PRAGMA user_version").await?;
    let known = i64::try_from(SCRIPTS.len()).unwrap_or(i64::MAX);
    let is_ours = match found {
        // Nothing is in it yet, or a program that does not count its schema made it.
        0 => tables == 0,
        _ => pragma(conn, "PRAGMA application_id").await? == APPLICATION_ID,
    };
    if !is_ours {
        return Err(QueueError::NotAQueue { path: path.display().to_string() });
    }
    if found > known {
        return Err(QueueError::NewerSchema { path: path.display().to_string(), found, known });
    }
    Ok(usize::try_from(found).unwrap_or(0))
}

async fn pragma(conn: &mut SqliteConnection, sql: &'static str) -> Result<i64, QueueError> {
    sqlx::query_scalar(sql).fetch_one(conn).await.doing("reading the schema's version")
}

/// How often the switch to the write-ahead log is tried while other processes do the same: SQLite
/// does not wait by itself there.
const WAL_TRIES_MAX: u32 = 200;
const WAL_PAUSE: std::time::Duration = std::time::Duration::from_millis(25);

/// Switches to the write-ahead log, which lets readers and the writer go on side by side.
pub(super) async fn use_wal(conn: &mut SqliteConnection, path: &Path) -> Result<(), QueueError> {
    let mut tries = 0;
    let mode: String = loop {
        tries += 1;
        let asked = sqlx::query_scalar("PRAGMA journal_mode = WAL").fetch_one(&mut *conn).await;
        match asked {
            Err(error) if is_busy(&error) && tries < WAL_TRIES_MAX => tokio::time::sleep(WAL_PAUSE).await,
            asked => break asked.doing("switching to the write-ahead log")?,
        }
    };
    if mode == "wal" { Ok(()) } else { Err(QueueError::NoWal { path: path.display().to_string() }) }
}
