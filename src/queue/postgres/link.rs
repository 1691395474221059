//! A connection that comes back: what it is set to, how it is made again with patience when the server
//! restarts, and how a transaction ends for certain even if the connection broke over its commit.
//!
//! Nothing here runs in a future that a caller may drop: the engine's tasks alone own links. Where a
//! connection is given up half-way (a server that does not answer any more), it is thrown away with all
//! that was going on in it, and never used again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::fault::{Doing, Nature, is_read_only, nature_of, no_answer};
use super::patience::{Haste, Patience};
use super::stage;
use crate::job::Clock;
use crate::queue::QueueError;

/// A connection that does not stand by then is tried anew.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How often a transaction is begun anew that others were in the way of.
const TRIES_MAX: u32 = 20;
/// How long a server is waited for once work has begun: longer than a restart or a failover takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// The usual [`Place::patience_at_start`].
pub(super) const PATIENCE_AT_START: Duration = Duration::from_secs(20);

/// A server's own bounds on a statement, a lock and a transaction that nobody goes on with.
const STATEMENT_MAX: Duration = Duration::from_secs(60);
const LOCK_MAX: Duration = Duration::from_secs(20);
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The same for what goes over a whole batch: a load of a million jobs.
pub(super) const STATEMENT_OF_ALL_MAX: Duration = Duration::from_secs(30 * 60);
/// What a bound of the server's should have ended is given up on by then.
const GRACE: Duration = Duration::from_secs(15);

/// What time it is.
#[derive(Debug, Clone)]
pub(super) enum Time {
    /// The server knows: one clock for all machines.
    Server,
    /// A test does.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests hand in a clock"))]
    Given(Arc<dyn Clock>),
}

/// Where the queue is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) address: Address,
    pub(super) schema: String,
    pub(super) time: Time,
    /// How long the server is waited for while the program starts: a person may be watching.
    pub(super) patience_at_start: Duration,
    /// A worker that was not heard of for so long is dead.
    pub(super) silence: Duration,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything.
    Write,
    /// Reading; what others committed.
    Read,
    /// Staging and comparing, while the queue itself stays as it is.
    Look,
}

/// How long a transaction may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Some jobs.
    Some,
    /// A whole batch.
    All,
}

/// A connection that stands, with what every statement needs.
pub(super) struct Session {
    pub(super) conn: PgConnection,
    pub(super) batch: i64,
    pub(super) role: Role,
    pub(super) silence: Duration,
    time: Time,
    /// Jobs were staged in this connection's temporary tables.
    pub(super) has_staged: bool,
    /// Jobs were staged in one that broke.
    staging_lost: bool,
}

impl Session {
    /// What `now_ms` is called with: the server's time is taken where this is `None`.
    pub(super) fn now(&self) -> Option<i64> {
        now(&self.time)
    }

    /// Runs statements that have no parameters and no answer; several may stand in one text.
    pub(super) async fn run(&mut self, what: &'static str, sql: &'static str) -> Result<(), QueueError> {
        sqlx::raw_sql(sql).execute(&mut self.conn).await.doing(what).map(drop)
    }

    /// Fails where staged jobs went down with their connection: a load without them would cancel them.
    pub(super) fn check_staging(&self) -> Result<(), QueueError> {
        if self.staging_lost { Err(QueueError::StagingLost) } else { Ok(()) }
    }
}

fn now(time: &Time) -> Option<i64> {
    match time {
        Time::Server => None,
        Time::Given(clock) => Some(clock.now().as_ms()),
    }
}

/// How a transaction failed.
enum Failed<T> {
    /// It is undone, or will be.
    Undone(QueueError),
    /// The connection broke while it was committed.
    Unsure { transaction: String, value: T, error: QueueError },
}

/// A connection that is made when it is needed, and made anew when it broke.
pub(super) struct Link {
    place: Arc<Place>,
    role: Role,
    batch: i64,
    session: Option<Session>,
    staging_lost: bool,
    patience: Duration,
    haste: Haste,
    closing: CancellationToken,
}

impl Link {
    pub(super) fn new(place: Arc<Place>, role: Role, (haste, closing): (Haste, CancellationToken)) -> Self {
        let patience = place.patience_at_start;
        Self { place, role, batch: 0, session: None, staging_lost: false, patience, haste, closing }
    }

    /// From now on it works on this batch, and is patient.
    pub(super) fn works_on(&mut self, batch: i64) {
        (self.batch, self.patience) = (batch, PATIENCE);
        if let Some(session) = &mut self.session {
            session.batch = batch;
        }
    }

    /// Runs `work` in a transaction, again where it may do better, and answers when it is committed. `work`
    /// may so be called several times; only what its last call did is kept.
    pub(super) async fn transact<T, F>(&mut self, extent: Extent, work: F) -> Result<T, QueueError>
    where
        T: Send,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync,
    {
        let mut patience = self.patience()?;
        let mut tries = 0;
        loop {
            match self.once("BEGIN; SELECT pg_current_xact_id()::text AS xid", extent, &work).await {
                Ok(value) => return Ok(value),
                Err(Failed::Undone(error)) => self.before_next_try(error, &mut patience, &mut tries).await?,
                Err(Failed::Unsure { transaction, value, error }) => {
                    tracing::warn!(
                        error = error.to_string(),
                        transaction,
                        "the connection broke over a commit"
                    );
                    if self.is_committed(&transaction, error, &mut patience).await? {
                        return Ok(value);
                    }
                }
            }
        }
    }

    /// Runs `work` on one state of the database, again where the connection broke.
    pub(super) async fn read<T, F>(&mut self, work: F) -> Result<T, QueueError>
    where
        T: Send,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync,
    {
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT '0' AS xid";
        let mut patience = self.patience()?;
        let mut tries = 0;
        loop {
            match self.once(begin, Extent::Some, &work).await {
                // A reading transaction has nothing to lose by a commit that broke.
                Ok(value) | Err(Failed::Unsure { value, .. }) => return Ok(value),
                Err(Failed::Undone(error)) => self.before_next_try(error, &mut patience, &mut tries).await?,
            }
        }
    }

    /// As [`Link::read`] for a single statement, which needs no transaction of its own.
    pub(super) async fn look_up<T, F>(&mut self, work: F) -> Result<T, QueueError>
    where
        T: Send,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync,
    {
        let mut patience = self.patience()?;
        let mut tries = 0;
        let haste = self.haste.clone();
        loop {
            let result = match self.session().await {
                Err(error) => Err(error),
                Ok(session) => haste.within(STATEMENT_MAX + GRACE, work(session)).await,
            };
            match result {
                Ok(value) => return Ok(value),
                Err(error) => {
                    self.drop_if_broken(&error);
                    self.before_next_try(error, &mut patience, &mut tries).await?;
                }
            }
        }
    }

    /// Ends the connection in order.
    pub(super) async fn close(mut self) {
        if let Some(session) = self.session.take()
            && let Ok(Err(error)) = timeout(CONNECT_MAX, session.conn.close()).await
        {
            tracing::debug!(error = error.to_string(), "a connection did not close in order");
        }
    }

    /// How long to wait for the server; an error where it was waited for in vain and there is no more time.
    fn patience(&self) -> Result<Patience, QueueError> {
        let patience = Patience::new(self.patience, self.haste.clone());
        if self.haste.has_given_up() { Err(self.given_up(no_answer(), &patience)) } else { Ok(patience) }
    }

    /// The connection, made if there is none.
    async fn session(&mut self) -> Result<&mut Session, QueueError> {
        let session = if let Some(session) = self.session.take() {
            session
        } else {
            let connect = async { connect(&self.place, self.role).await.doing("connecting") };
            let conn = self.haste.within(CONNECT_MAX, connect).await?;
            let (time, staging_lost) = (self.place.time.clone(), self.staging_lost);
            let (batch, role, silence) = (self.batch, self.role, self.place.silence);
            Session { conn, batch, role, silence, time, has_staged: false, staging_lost }
        };
        Ok(self.session.insert(session))
    }

    fn drop_session(&mut self) {
        if let Some(session) = self.session.take() {
            self.staging_lost |= session.has_staged;
        }
    }

    fn drop_if_broken(&mut self, error: &QueueError) {
        if nature_of(error) == Nature::Away {
            self.drop_session();
        }
    }

    /// One transaction.
    async fn once<T, F>(&mut self, begin: &'static str, extent: Extent, work: &F) -> Result<T, Failed<T>>
    where
        T: Send,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync,
    {
        let bound = match extent {
            Extent::Some => STATEMENT_MAX * 2,
            Extent::All => STATEMENT_OF_ALL_MAX,
        };
        let haste = self.haste.clone();
        let session = self.session().await.map_err(Failed::Undone)?;
        let worked = haste.within(bound + GRACE, in_transaction(session, begin, work)).await;
        let (transaction, value) = match worked {
            Ok(worked) => worked,
            Err(error) => {
                self.undo(&error).await;
                return Err(Failed::Undone(error));
            }
        };
        let Some(session) = &mut self.session else { return Err(Failed::Undone(QueueError::Closed)) };
        let committed = haste.within(STATEMENT_MAX + GRACE, session.run("committing", "COMMIT")).await;
        match committed {
            Ok(()) => Ok(value),
            Err(error) if nature_of(&error) == Nature::Away => {
                self.drop_session();
                Err(Failed::Unsure { transaction, value, error })
            }
            Err(error) => {
                self.undo(&error).await;
                Err(Failed::Undone(error))
            }
        }
    }

    async fn undo(&mut self, error: &QueueError) {
        self.drop_if_broken(error);
        let Some(session) = &mut self.session else { return };
        let undone = timeout(GRACE, session.run("rolling back", "ROLLBACK")).await;
        if !matches!(undone, Ok(Ok(()))) {
            self.drop_session();
        }
    }

    /// Waits as the error asks for, or gives it back.
    async fn before_next_try(
        &mut self,
        error: QueueError,
        patience: &mut Patience,
        tries: &mut u32,
    ) -> Result<(), QueueError> {
        let again = match nature_of(&error) {
            // Who only looks is told so when it writes; else such a server follows one that was replaced.
            Nature::Away if self.role == Role::Look && is_read_only(&error) => return Err(error),
            Nature::Final => return Err(error),
            Nature::Again => {
                *tries += 1;
                tracing::debug!(error = error.to_string(), tries, "another transaction was in the way");
                *tries < TRIES_MAX && patience.short_pause(&self.closing).await
            }
            Nature::Away => {
                tracing::warn!(error = error.to_string(), "the queue's server is away");
                patience.pause(&self.closing).await
            }
        };
        if again { Ok(()) } else { Err(self.given_up(error, patience)) }
    }

    /// What is told when patience is at its end.
    fn given_up(&self, error: QueueError, patience: &Patience) -> QueueError {
        let is_away = nature_of(&error) == Nature::Away;
        match error {
            QueueError::Engine { source, .. } | QueueError::Disk { source, .. } if is_away => {
                if self.haste.is_over() {
                    self.haste.give_up();
                }
                let at = self.place.address.to_string();
                QueueError::Unreachable { at, waited_s: patience.since.elapsed().as_secs(), source }
            }
            error => error,
        }
    }

    /// How a transaction ended whose commit was not answered. The server knows it by its number; one that
    /// does not know the number lost the transaction in a failover.
    async fn is_committed(
        &mut self,
        transaction: &str,
        error: QueueError,
        patience: &mut Patience,
    ) -> Result<bool, QueueError> {
        let mut error = error;
        loop {
            if !patience.pause(&self.closing).await {
                return Err(self.given_up(error, patience));
            }
            let asked = match self.session().await {
                Ok(session) => {
                    let status = sqlx::query("SELECT pg_xact_status($1::text::xid8) AS status");
                    let row = status.bind(transaction.to_owned()).fetch_one(&mut session.conn).await;
                    row.and_then(|row| row.try_get::<Option<String>, _>("status"))
                        .doing("asking for a commit")
                }
                Err(error) => Err(error),
            };
            match asked.as_ref().map(|status| status.as_deref()) {
                Ok(Some("committed")) => return Ok(true),
                // The server has not noticed yet that we are gone: the next look will tell.
                Ok(Some("in progress")) | Err(_) => {}
                Ok(_) => return Ok(false),
            }
            if let Err(new) = asked {
                if nature_of(&new) == Nature::Final {
                    return Ok(false);
                }
                self.drop_if_broken(&new);
                error = new;
            }
        }
    }
}

async fn in_transaction<T, F>(
    session: &mut Session,
    begin: &'static str,
    work: &F,
) -> Result<(String, T), QueueError>
where
    F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>>,
{
    let what = "beginning a transaction";
    let row = sqlx::raw_sql(begin).fetch_one(&mut session.conn).await.doing(what)?;
    let transaction = row.try_get("xid").doing(what)?;
    Ok((transaction, work(session).await?))
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
    let ms = |bound: Duration| bound.as_millis();
    let settings = format!(
        "SET search_path = {}; SET client_min_messages = warning; SET statement_timeout = {}; \
         SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}; SET tcp_keepalives_idle = 30; \
         SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; {BY_INDEX}",
        quoted(&place.schema),
        ms(STATEMENT_MAX),
        ms(LOCK_MAX),
        ms(IDLE_MAX),
    );
    sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut conn).await?;
    match role {
        Role::Write => {
            sqlx::query(TAKE_SLOT).bind(place.schema.clone()).execute(&mut conn).await?;
        }
        Role::Read => {}
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
