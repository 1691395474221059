//! The schema: forward-only scripts in a schema of their own, counted in its table `migration`.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::connect::quoted;
use super::fault::Doing;
use super::session::Place;
use crate::queue::QueueError;

/// Scripts in their order; the number of those that ran is the schema's version.
const SCRIPTS: &[&str] = &[
    include_str!("../../../migrations/postgres/0001_queue.sql"),
    include_str!("../../../migrations/postgres/0002_results.sql"),
];

/// $1 schema.
const TABLES: &str = "
SELECT count(*) FILTER (WHERE c.relname = 'migration') AS ours, count(*) AS all_tables
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'";
const VERSION: &str = "SELECT coalesce(max(version), 0) FROM migration";
const MADE: &str = "
CREATE TABLE IF NOT EXISTS migration (
    version bigint PRIMARY KEY,
    program text NOT NULL,                       -- the nightpress that made it
    made_at timestamptz NOT NULL DEFAULT now())";
const RECORD: &str = "INSERT INTO migration (version, program) VALUES ($1, $2)";
/// Of several processes that start at once, one makes the schema, and the others find it made. $1 schema.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext($1), hashtext('migration'))";
/// A statement of a script may take long on a large queue, and so may the wait for who runs it.
const BOUNDS: &str = "SET LOCAL statement_timeout = '30min'; SET LOCAL lock_timeout = '30min'";
/// A script that waits for a table has all others wait behind it: it lets them pass, and comes again.
const STEP_BACK: &str = "SET LOCAL lock_timeout = '5s'";

/// Brings the schema up to date in one transaction.
pub(super) async fn migrate(conn: &mut PgConnection, place: &Place) -> Result<(), QueueError> {
    if version(conn, place).await? == SCRIPTS.len() {
        return Ok(());
    }
    let what = "making the schema";
    sqlx::raw_sql("BEGIN").execute(&mut *conn).await.doing(what)?;
    let made = make(conn, place).await;
    let end = if made.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = sqlx::raw_sql(end).execute(&mut *conn).await.doing(what);
    made.and(ended.map(drop))
}

async fn make(conn: &mut PgConnection, place: &Place) -> Result<(), QueueError> {
    let what = "making the schema";
    sqlx::raw_sql(BOUNDS).execute(&mut *conn).await.doing(what)?;
    sqlx::query(LOCK).bind(place.schema.clone()).execute(&mut *conn).await.doing(what)?;
    sqlx::raw_sql(STEP_BACK).execute(&mut *conn).await.doing(what)?;
    let done = version(conn, place).await?;
    if done == 0 {
        let create = format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(&place.schema));
        sqlx::raw_sql(AssertSqlSafe(create)).execute(&mut *conn).await.doing(what)?;
    }
    sqlx::raw_sql(MADE).execute(&mut *conn).await.doing(what)?;
    for (script, version) in SCRIPTS.iter().zip(1_i64..).skip(done) {
        sqlx::raw_sql(*script).execute(&mut *conn).await.doing(what)?;
        let record = sqlx::query(RECORD).bind(version).bind(env!("CARGO_PKG_VERSION"));
        record.execute(&mut *conn).await.doing(what)?;
    }
    Ok(())
}

/// Fails unless the schema is that of this program.
pub(super) async fn check(conn: &mut PgConnection, place: &Place) -> Result<(), QueueError> {
    match version(conn, place).await? {
        0 => Err(QueueError::Missing { path: path(place) }),
        found if found < SCRIPTS.len() => Err(QueueError::OlderSchema {
            path: path(place),
            found: number(found),
            known: number(SCRIPTS.len()),
        }),
        _ => Ok(()),
    }
}

/// How many scripts have run.
pub(super) async fn version(conn: &mut PgConnection, place: &Place) -> Result<usize, QueueError> {
    let what = "reading the schema's version";
    let tables = sqlx::query_as::<_, (i64, i64)>(TABLES).bind(place.schema.clone());
    let (ours, all) = tables.fetch_one(&mut *conn).await.doing(what)?;
    if ours == 0 {
        return if all == 0 { Ok(0) } else { Err(QueueError::NotAQueue { path: path(place) }) };
    }
    let found: i64 = sqlx::query_scalar(VERSION).fetch_one(conn).await.doing(what)?;
    let known = number(SCRIPTS.len());
    if found > known {
        return Err(QueueError::NewerSchema { path: path(place), found, known });
    }
    Ok(usize::try_from(found).unwrap_or(0))
}

fn path(place: &Place) -> String {
    format!("{} (schema {})", place.address, place.schema)
}

fn number(version: usize) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}
