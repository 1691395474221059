//! Word from other processes: jobs were put in, made pending again or cancelled. What is told is only that
//! something happened; who listens looks for itself, and polls all the same, since word can be lost.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::bounds::CONNECT_MAX;
use super::fault::Doing;
use super::session::{Place, Session};
use crate::queue::QueueError;

/// The channel is the schema's, the payload says which batch.
const TELL: &str = "SELECT pg_notify(current_schema(), $1)";
/// After a connection broke, it is made anew after at least this time.
const PAUSE: Duration = Duration::from_secs(2);
/// After so long without a word, it is seen whether the server is still there.
const QUIET_MAX: Duration = Duration::from_secs(30);

/// Tells all processes that listen, when the transaction is committed.
pub(super) async fn tell(session: &mut Session) -> Result<(), QueueError> {
    let tell = sqlx::query(TELL).bind(session.batch.to_string());
    tell.execute(&mut session.conn).await.doing("telling other workers").map(drop)
}

/// Listens until the queue is closed.
pub(super) async fn listen(place: Arc<Place>, batch: i64, news: Arc<Notify>, closing: CancellationToken) {
    let batch = batch.to_string();
    loop {
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_MAX);
        let pool = pool.connect_lazy_with(place.address.options.clone());
        tokio::select! {
            biased;
            () = closing.cancelled() => {}
            heard = hear((&place, &pool), &batch, &news) => {
                if let Err(error) = heard {
                    tracing::debug!(error = error.to_string(), "word of other workers is not heard for now");
                }
            }
        }
        // A listener that is dropped gives its connection back in a task of its own, for which the pool waits.
        drop(timeout(CONNECT_MAX, pool.close()).await);
        let pause = PAUSE.mul_f64(rand::rng().random_range(1.0..2.0));
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn hear((place, pool): (&Place, &PgPool), batch: &str, news: &Notify) -> Result<(), sqlx::Error> {
    let mut listener = within(async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(&place.schema).await?;
        Ok(listener)
    })
    .await?;
    // What was told meanwhile is not known: somebody must look.
    news.notify_one();
    loop {
        match timeout(QUIET_MAX, listener.try_recv()).await {
            Ok(word) => match word? {
                Some(word) if word.payload() == batch => news.notify_one(),
                Some(_) => {}
                None => return Ok(()),
            },
            // Nobody has anything to say, or nothing gets through any more.
            Err(_) => {
                within(sqlx::raw_sql("SELECT 1").execute(&mut listener)).await?;
            }
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    let late = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    timeout(CONNECT_MAX, work).await.unwrap_or_else(|_| Err(late()))
}
