//! Word from other processes: jobs were put in, made pending again or cancelled. What is told is only that
//! something happened; who listens looks for itself, and polls all the same, since word can be lost.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::fault::Doing;
use super::link::{Place, Session};
use crate::queue::QueueError;

/// The channel is the schema's, the payload says which batch.
const TELL: &str = "SELECT pg_notify(current_schema(), $1)";
/// After a connection broke, it is made anew after at least this time.
const PAUSE: Duration = Duration::from_secs(2);
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Tells all processes that listen, when the transaction is committed.
pub(super) async fn tell(session: &mut Session) -> Result<(), QueueError> {
    let tell = sqlx::query(TELL).bind(session.batch.to_string());
    tell.execute(&mut session.conn).await.doing("telling other workers").map(drop)
}

/// Listens until the queue is closed.
pub(super) async fn listen(place: Arc<Place>, batch: i64, news: Arc<Notify>, closing: CancellationToken) {
    let batch = batch.to_string();
    loop {
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            heard = hear(&place, &batch, &news) => {
                if let Err(error) = heard {
                    tracing::debug!(error = error.to_string(), "word of other workers is not heard for now");
                }
            }
        }
        // What was told meanwhile is not known: somebody must look.
        news.notify_one();
        let pause = PAUSE.mul_f64(rand::rng().random_range(1.0..2.0));
        tokio::select! {
            biased;
            () = closing.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn hear(place: &Place, batch: &str, news: &Notify) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_MAX);
    let pool = pool.connect_lazy_with(place.address.options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(&place.schema).await?;
    while let Some(word) = listener.try_recv().await? {
        if word.payload() == batch {
            news.notify_one();
        }
    }
    Ok(())
}
