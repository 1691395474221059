//! The schema: forward-only scripts, counted by `user_version`.

use std::path::Path;

use rusqlite::Connection;

use super::fault::{Doing, is_busy};
use super::sql::Sql;
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
pub(super) fn migrate(conn: &Connection, path: &Path) -> Result<(), QueueError> {
    if version(conn, path)? == SCRIPTS.len() {
        return Ok(());
    }
    conn.execute_batch("BEGIN IMMEDIATE").doing("beginning the schema")?;
    let made = make(conn, path);
    let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = conn.execute_batch(end).doing("making the schema");
    made.and(ended)
}

fn make(conn: &Connection, path: &Path) -> Result<(), QueueError> {
    let done = version(conn, path)?;
    for script in SCRIPTS.iter().skip(done) {
        conn.execute_batch(script).doing("making the schema")?;
    }
    conn.execute_batch(MARK).doing("making the schema")?;
    conn.pragma_update(None, "user_version", known()).doing("making the schema")
}

/// Fails unless the schema is that of this program.
pub(super) fn check(conn: &Connection, path: &Path) -> Result<(), QueueError> {
    let path_shown = || path.display().to_string();
    match version(conn, path)? {
        0 => Err(QueueError::Missing { path: path_shown() }),
        found if found < SCRIPTS.len() => {
            let found = i64::try_from(found).unwrap_or(i64::MAX);
            Err(QueueError::OlderSchema { path: path_shown(), found, known: known() })
        }
        _ => Ok(()),
    }
}

/// How many scripts have run on this database.
pub(super) fn version(conn: &Connection, path: &Path) -> Result<usize, QueueError> {
    // Tables first: another process may make them all, with their version, between two looks.
    let tables = pragma(conn, TABLES)?;
    let found = pragma(conn, "PRAGMA user_version")?;
    let known = known();
    let is_ours = match found {
        // Nothing is in it yet, or a program that does not count its schema made it.
        0 => tables == 0,
        _ => pragma(conn, "PRAGMA application_id")? == APPLICATION_ID,
    };
    if !is_ours {
        return Err(QueueError::NotAQueue { path: path.display().to_string() });
    }
    if found > known {
        return Err(QueueError::NewerSchema { path: path.display().to_string(), found, known });
    }
    Ok(usize::try_from(found).unwrap_or(0))
}

/// The version that this program makes.
fn known() -> i64 {
    i64::try_from(SCRIPTS.len()).unwrap_or(i64::MAX)
}

fn pragma(conn: &Connection, sql: &'static str) -> Result<i64, QueueError> {
    conn.value("reading the schema's version", sql, &[])
}

/// How often the switch to the write-ahead log is tried while other processes do the same: SQLite
/// does not wait by itself there.
const WAL_TRIES_MAX: u32 = 200;
const WAL_PAUSE: std::time::Duration = std::time::Duration::from_millis(25);

/// Switches to the write-ahead log, which lets readers and the writer go on side by side.
#[expect(clippy::disallowed_methods, reason = "on a thread that may block")]
pub(super) fn use_wal(conn: &Connection, path: &Path) -> Result<(), QueueError> {
    let mut tries = 0;
    let mode: String = loop {
        tries += 1;
        let asked = conn.query_row("PRAGMA journal_mode = WAL", (), |row| row.get(0));
        match asked {
            Err(error) if is_busy(&error) && tries < WAL_TRIES_MAX => std::thread::sleep(WAL_PAUSE),
            asked => break asked.doing("switching to the write-ahead log")?,
        }
    };
    if mode == "wal" { Ok(()) } else { Err(QueueError::NoWal { path: path.display().to_string() }) }
}
