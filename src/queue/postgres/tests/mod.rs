//! What PostgreSQL's engine must keep beyond the contract's suite.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Connection as _, PgConnection};

use super::session::{Place, Time};
use super::{Address, PostgresQueue};
use crate::job::{Clock, Provider};
use crate::queue::conformance::{Bench, conformance_suite};
use crate::queue::{Access, Identity, Queue, QueueError};

mod away;
mod database;
mod limits;
mod machines;
mod proxy;
mod speed;
#[allow(dead_code, reason = "the tests of the program use the rest")]
#[path = "../../../../tests/support/postgres.rs"]
mod support;

use support::{Disk, Server};

/// A schema of a test's own.
struct Schema {
    url: String,
    name: String,
}

impl Schema {
    /// In the server of all tests; `None` where there is none.
    fn new() -> Option<Self> {
        Some(Self::on(support::shared()?))
    }

    fn on(server: &Server) -> Self {
        Self { url: server.url(), name: support::unique("test") }
    }

    fn place(&self, time: Time) -> Place {
        Place {
            address: Address::parse(&self.url).unwrap(),
            schema: self.name.clone(),
            time,
            patience_at_start: Duration::from_secs(1),
            silence: super::SILENT_AFTER,
        }
    }

    async fn open(&self) -> PostgresQueue {
        self.open_as("default", Access::Create, simulator()).await.unwrap()
    }

    async fn open_as(
        &self,
        batch: &str,
        access: Access,
        identity: Identity,
    ) -> Result<PostgresQueue, QueueError> {
        PostgresQueue::open_at(self.place(Time::Server), batch.to_owned(), (access, identity)).await
    }

    /// A connection past the engine.
    async fn raw(&self) -> PgConnection {
        let mut conn = PgConnection::connect(&self.url).await.unwrap();
        let set = sqlx::AssertSqlSafe(format!("SET search_path = {}", self.name));
        sqlx::raw_sql(set).execute(&mut conn).await.unwrap();
        conn
    }
}

fn simulator() -> Identity {
    Identity::Of { manifest: Some("m.yaml".to_owned()), provider: Provider::Simulator }
}

#[async_trait]
impl Bench for Schema {
    async fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Queue> {
        let place = self.place(Time::Given(clock));
        let queue = PostgresQueue::open_at(place, "default".to_owned(), (Access::Create, simulator())).await;
        Arc::new(queue.unwrap())
    }
}

conformance_suite!(Schema::new());
