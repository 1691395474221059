//! Where a queue is, and a connection to it that stands.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;

use super::address::Address;
use super::connect::Role;
use super::fault::Doing;
use crate::job::Clock;
use crate::queue::QueueError;

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

/// A connection that stands, with what every statement needs.
pub(super) struct Session {
    pub(super) conn: PgConnection,
    pub(super) place: Arc<Place>,
    pub(super) batch: i64,
    pub(super) role: Role,
    /// Which history its transactions are of.
    pub(super) history: Option<String>,
    /// Jobs were staged in this connection's temporary tables.
    pub(super) has_staged: bool,
    /// Jobs were staged in one that broke.
    pub(super) staging_lost: bool,
}

impl Session {
    /// What `now_ms` is called with: the server's time is taken where this is `None`.
    pub(super) fn now(&self) -> Option<i64> {
        match &self.place.time {
            Time::Server => None,
            Time::Given(clock) => Some(clock.now().as_ms()),
        }
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
