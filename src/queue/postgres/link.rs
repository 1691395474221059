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
use sqlx::{Connection as _, Row as _};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::bounds::{
    BEAT_MAX, CONNECT_MAX, GRACE, LOCK_TRIES_MAX, PATIENCE, STATEMENT_MAX, STATEMENT_OF_ALL_MAX, TRIES_MAX,
};
use super::connect::{Role, connect};
use super::fate::{Fate, Transaction, ask, history};
use super::fault::{Doing, Nature, is_read_only, nature_of, no_answer, unknown_commit};
use super::migrate;
use super::patience::{Haste, Outage};
use super::session::{Place, Session};
use crate::queue::QueueError;

/// How long a transaction may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Some jobs, and what others hold is not waited for.
    Brief,
    /// Some jobs.
    Some,
    /// A whole batch.
    All,
}

impl Extent {
    const fn begin(self) -> &'static str {
        match self {
            Self::Brief => "BEGIN; SET LOCAL lock_timeout = '1s'; SELECT pg_current_xact_id()::text AS xid",
            Self::Some => "BEGIN; SELECT pg_current_xact_id()::text AS xid",
            // Between its statements pages of specs are compared here.
            Self::All => {
                "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '60s'; \
                 SELECT pg_current_xact_id()::text AS xid"
            }
        }
    }

    fn bound(self) -> Duration {
        GRACE
            + match self {
                Self::Brief | Self::Some => STATEMENT_MAX * 2,
                Self::All => STATEMENT_OF_ALL_MAX,
            }
    }
}

/// How a transaction failed.
enum Failed<T> {
    /// It is undone, or will be.
    Undone(QueueError),
    /// The connection broke while it was committed.
    Unsure { transaction: Transaction, value: T, error: QueueError },
}

/// The batch of a link while its queue is opened. Batches are numbered from 1.
const UNOPENED: i64 = 0;

/// The tries of one command that others were in the way of.
#[derive(Default)]
struct Tries {
    since: Option<Instant>,
    again: u32,
    locked: u32,
}

/// A connection that is made when it is needed, and made anew when it broke.
pub(super) struct Link {
    place: Arc<Place>,
    role: Role,
    batch: i64,
    session: Option<Session>,
    staging_lost: bool,
    patience: Duration,
    outage: Option<Outage>,
    haste: Haste,
    closing: CancellationToken,
}

impl Link {
    pub(super) fn new(place: Arc<Place>, role: Role, (haste, closing): (Haste, CancellationToken)) -> Self {
        let patience = place.patience_at_start;
        let (session, outage) = (None, None);
        Self { place, role, batch: UNOPENED, session, staging_lost: false, patience, outage, haste, closing }
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
        self.check_hope()?;
        let mut tries = Tries::default();
        loop {
            match self.once(extent.begin(), extent.bound(), &work).await {
                Ok(value) => return Ok(self.answered(value)),
                Err(Failed::Undone(error))
                    if extent == Extent::Brief && nature_of(&error) == Nature::Locked =>
                {
                    return Err(error);
                }
                Err(Failed::Undone(error)) => self.before_next_try(error, &mut tries).await?,
                Err(Failed::Unsure { transaction, value, error }) => {
                    tracing::warn!(
                        error = error.to_string(),
                        ?transaction,
                        "the connection broke over a commit"
                    );
                    if self.is_committed(&transaction, error).await? {
                        return Ok(self.answered(value));
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
        self.check_hope()?;
        let mut tries = Tries::default();
        loop {
            match self.once(begin, Extent::Some.bound(), &work).await {
                // A reading transaction has nothing to lose by a commit that broke.
                Ok(value) | Err(Failed::Unsure { value, .. }) => return Ok(self.answered(value)),
                Err(Failed::Undone(error)) => self.before_next_try(error, &mut tries).await?,
            }
        }
    }

    /// As [`Link::read`] for statements that need no transaction, or have one of their own.
    pub(super) async fn look_up<T, F>(&mut self, extent: Extent, work: F) -> Result<T, QueueError>
    where
        T: Send,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync,
    {
        self.check_hope()?;
        let mut tries = Tries::default();
        let haste = self.haste.clone();
        let bound = if self.role == Role::Pulse { BEAT_MAX } else { extent.bound() };
        loop {
            let result = match self.session().await {
                Err(error) => Err(error),
                Ok(session) => haste.within(bound, work(session)).await,
            };
            match result {
                Ok(value) => return Ok(self.answered(value)),
                Err(error) => {
                    self.drop_if_broken(&error);
                    self.before_next_try(error, &mut tries).await?;
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

    /// Fails where the server was waited for in vain: other commands do not wait for it as long again.
    fn check_hope(&mut self) -> Result<(), QueueError> {
        let is_hopeless = self.outage.as_ref().is_some_and(|outage| outage.is_hopeless(self.patience));
        if self.haste.has_given_up() || is_hopeless { Err(self.given_up(no_answer())) } else { Ok(()) }
    }

    /// The server is there.
    fn answered<T>(&mut self, value: T) -> T {
        self.outage = None;
        self.haste.set_hopeless(false);
        value
    }

    /// The connection, made if there is none.
    async fn session(&mut self) -> Result<&mut Session, QueueError> {
        let session = if let Some(session) = self.session.take() {
            session
        } else {
            let (conn, history) = self.haste.within(CONNECT_MAX, Box::pin(self.connect())).await?;
            let (place, batch, role) = (Arc::clone(&self.place), self.batch, self.role);
            Session { conn, place, batch, role, history, has_staged: false, staging_lost: self.staging_lost }
        };
        Ok(self.session.insert(session))
    }

    async fn connect(&self) -> Result<(PgConnection, Option<String>), QueueError> {
        let what = "connecting";
        let mut conn = connect(&self.place, self.role).await.doing(what)?;
        // A newer program may have come by since the batch was opened.
        if self.batch != UNOPENED {
            migrate::check(&mut conn, &self.place).await?;
        }
        let history = if self.role == Role::Write { history(&mut conn).await.doing(what)? } else { None };
        Ok((conn, history))
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
    async fn once<T, F>(&mut self, begin: &'static str, bound: Duration, work: &F) -> Result<T, Failed<T>>
    where
        T: Send,
        F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>> + Send + Sync,
    {
        let haste = self.haste.clone();
        let session = self.session().await.map_err(Failed::Undone)?;
        let worked = haste.within(bound, in_transaction(session, begin, work)).await;
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
    async fn before_next_try(&mut self, error: QueueError, tries: &mut Tries) -> Result<(), QueueError> {
        let since = *tries.since.get_or_insert_with(Instant::now);
        let again = match nature_of(&error) {
            // Who only looks is told so when it writes; else such a server follows one that was replaced.
            Nature::Away if self.role == Role::Look && is_read_only(&error) => return Err(error),
            Nature::Final => return Err(self.answered(error)),
            Nature::Again => {
                tries.again += 1;
                tracing::debug!(error = error.to_string(), tries.again, "another transaction was in the way");
                self.answered(tries.again < TRIES_MAX && since.elapsed() < PATIENCE)
                    && self.haste.moment().await
            }
            Nature::Locked => {
                tries.locked += 1;
                tracing::warn!(error = error.to_string(), tries.locked, "another transaction holds a lock");
                let may = tries.locked < LOCK_TRIES_MAX && !self.closing.is_cancelled();
                self.answered(may) && self.haste.moment().await
            }
            Nature::Away => {
                tracing::warn!(error = error.to_string(), "the queue's server is away");
                self.wait_out().await
            }
        };
        if again { Ok(()) } else { Err(self.given_up(error)) }
    }

    /// Waits for a server that is away; `false` when patience is at its end.
    async fn wait_out(&mut self) -> bool {
        let outage = self.outage.get_or_insert_with(Outage::begin);
        outage.pause(self.patience, (&self.haste, &self.closing)).await
    }

    /// What is told when patience is at its end.
    fn given_up(&self, error: QueueError) -> QueueError {
        let is_away = nature_of(&error) == Nature::Away;
        match error {
            QueueError::Engine { source, .. } | QueueError::Disk { source, .. } if is_away => {
                let waited = self.outage.as_ref().map(Outage::lasts).unwrap_or_default();
                if self.haste.is_over() {
                    self.haste.give_up();
                } else if waited >= self.patience {
                    self.haste.set_hopeless(true);
                }
                let at = self.place.address.to_string();
                QueueError::Unreachable { at, waited_s: waited.as_secs(), source }
            }
            error => error,
        }
    }

    /// How a transaction ended whose commit was not answered: a paid answer may hang on it, so whatever the server
    /// says instead of an answer, it is asked again.
    async fn is_committed(&mut self, of: &Transaction, error: QueueError) -> Result<bool, QueueError> {
        let mut error = error;
        loop {
            if !self.wait_out().await {
                return Err(self.given_up(error));
            }
            let haste = self.haste.clone();
            let asked = match self.session().await {
                Ok(session) => haste.within(GRACE, ask(session, of)).await,
                Err(error) => Err(error),
            };
            match asked {
                Ok(Fate::Committed) => return Ok(true),
                Ok(Fate::Undone) => return Ok(self.answered(false)),
                Ok(Fate::Unknown) => return Err(self.answered(unknown_commit())),
                Ok(Fate::Open) => {}
                Err(new) => {
                    self.drop_if_broken(&new);
                    error = new;
                }
            }
        }
    }
}

async fn in_transaction<T, F>(
    session: &mut Session,
    begin: &'static str,
    work: &F,
) -> Result<(Transaction, T), QueueError>
where
    F: for<'s> Fn(&'s mut Session) -> BoxFuture<'s, Result<T, QueueError>>,
{
    let what = "beginning a transaction";
    let row = sqlx::raw_sql(begin).fetch_one(&mut session.conn).await.doing(what)?;
    let transaction =
        Transaction { number: row.try_get("xid").doing(what)?, history: session.history.clone() };
    Ok((transaction, work(session).await?))
}
