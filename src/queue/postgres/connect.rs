//! A connection is made and set to what its role asks for.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _};

use super::bounds::{BEAT_LOCK_MAX, BEAT_MAX, IDLE_MAX, LOCK_MAX, STATEMENT_MAX, UNACKNOWLEDGED_MAX, ms};
use super::session::Place;
use super::stage;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything.
    Write,
    /// Heartbeats alone: nothing else may delay them.
    Pulse,
    /// Reading; what others committed.
    Read,
    /// Staging and comparing, while the queue itself stays as it is.
    Look,
}

/// Small statements all go by an index, whatever the planner believes of tables that have just been filled;
/// so they need to be planned once only, and tables are joined in the order in which they stand. Where a
/// condition on a state is no way to find rows, but is to be looked at once they are found by their number,
/// it is written `(state = …) IS TRUE`, which no index serves: the index of running jobs is full of
/// those that ran.
const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off;
    SET enable_mergejoin = off; SET enable_sort = off; SET jit = off; SET plan_cache_mode = force_generic_plan; SET join_collapse_limit = 1;";
/// Takes a slot to count in that no other connection has; see the schema. $1 the schema's name.
const TAKE_SLOT: &str = "
SELECT set_config('nightpress.slot', coalesce((
    SELECT n FROM generate_series(0, 4095) n WHERE pg_try_advisory_lock(hashtext($1 || '.slot'), n) LIMIT 1), -1)::text,
    false)";

/// Makes a connection and sets it up.
pub(super) async fn connect(place: &Place, role: Role) -> Result<PgConnection, sqlx::Error> {
    let mut conn = place.address.options.connect().await?;
    let (statement, lock) = match role {
        Role::Pulse => (BEAT_MAX, BEAT_LOCK_MAX),
        Role::Write | Role::Read | Role::Look => (STATEMENT_MAX, LOCK_MAX),
    };
    let settings = format!(
        "SET search_path = {}; SET client_min_messages = warning; SET statement_timeout = {}; \
         SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}; SET tcp_keepalives_idle = 30; \
         SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; SET tcp_user_timeout = {}; {BY_INDEX}",
        quoted(&place.schema),
        ms(statement),
        ms(lock),
        ms(IDLE_MAX),
        ms(UNACKNOWLEDGED_MAX),
    );
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut conn).await?;
    match role {
        Role::Write => {
            sqlx::query(TAKE_SLOT).bind(place.schema.clone()).execute(&mut conn).await?;
        }
        Role::Pulse | Role::Read => {}
        Role::Look => {
            // Nothing can be made in a read-only transaction, not even what only this connection sees.
            sqlx::raw_sql(stage::TABLES).execute(&mut conn).await?;
            sqlx::raw_sql("SET default_transaction_read_only = on").execute(&mut conn).await?;
        }
    }
    Ok(conn)
}

/// A name as an identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
