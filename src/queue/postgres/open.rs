//! Opening a queue: the schema, and whose batch it is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address::Address;
use super::bounds::{PATIENCE_AT_START, SILENT_AFTER};
use super::connect::Role;
use super::engine::{self, serve_tasks};
use super::fault::{Doing, at_the_door, get, parsed};
use super::link::{Extent, Link};
use super::patience::Haste;
use super::session::{Place, Session, Time};
use super::{PostgresQueue, migrate};
use crate::job::{CrashPoint, Provider, crash_point};
use crate::queue::{Access, Identity, QueueError};

/// Connections that only read; made when they are needed.
const READERS_MAX: usize = 2;
/// The schema that holds all our tables.
const SCHEMA: &str = "nightpress";

/// $1 name.
const BATCH: &str = "SELECT batch, manifest, provider FROM batch WHERE name = $1";
/// Of several processes that start at once, one makes the batch.
const MAKE_BATCH: &str = "
INSERT INTO batch (name, manifest, provider, created_at) VALUES ($1, $2, $3, now_ms($4)) ON CONFLICT DO NOTHING";
const ENCODING: &str = "SELECT current_setting('server_encoding')";
const BATCHES: &str = "SELECT name FROM batch ORDER BY batch";

/// How a manifest from standard input is called in an error.
const STANDARD_INPUT: &str = "-";

/// How a queue is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The database.
    pub address: Address,
    /// Which of its batches.
    pub batch: String,
    /// What for. [`Access::Look`] and [`Access::ReadOnly`] make nothing, not even the schema.
    pub access: Access,
    /// Whose it must be.
    pub identity: Identity,
    /// A worker of another machine that was not heard of for so long is dead: the same for all workers of a
    /// batch, [`SILENT_AFTER`] as a rule.
    pub silent_after: Duration,
}

impl PostgresQueue {
    /// Opens a queue, makes or updates its schema and starts its engine. Not cancel-safe in that the schema
    /// and the batch may exist afterwards, whole.
    pub async fn open(options: OpenOptions) -> Result<Self, QueueError> {
        let OpenOptions { address, batch, access, identity, silent_after } = options;
        let place = Place { silence: silent_after, ..usual(address) };
        Self::open_at(place, batch, (access, identity)).await
    }

    /// The names of a database's batches, oldest first; none where there is no queue yet.
    pub async fn batches(address: Address) -> Result<Vec<String>, QueueError> {
        let place = Arc::new(usual(address));
        let alone = (Haste::none(), CancellationToken::new());
        let mut link = Link::new(Arc::clone(&place), Role::Read, alone);
        let batches = link
            .look_up(Extent::Some, |session| {
                let place = Arc::clone(&place);
                Box::pin(async move {
                    if migrate::version(&mut session.conn, &place).await? == 0 {
                        return Ok(Vec::new());
                    }
                    sqlx::query_scalar(BATCHES).fetch_all(&mut session.conn).await.doing("listing batches")
                })
            })
            .await;
        link.close().await;
        batches.map_err(|error| at_the_door(error, &place.address))
    }

    pub(super) async fn open_at(
        place: Place,
        name: String,
        (access, identity): (Access, Identity),
    ) -> Result<Self, QueueError> {
        let (place, closing, haste) = (Arc::new(place), CancellationToken::new(), Haste::none());
        let role = match access {
            Access::Create | Access::Existing => Role::Write,
            Access::Look | Access::ReadOnly => Role::Look,
        };
        let ends = || (haste.clone(), closing.clone());
        let mut link = Link::new(Arc::clone(&place), role, ends());
        let batch = match prepare(&mut link, &place, (name, access, identity)).await {
            Ok(batch) => batch,
            Err(error) => {
                link.close().await;
                return Err(at_the_door(error, &place.address));
            }
        };
        link.works_on(batch);
        let (commands, inboxes) = engine::channels();
        let engine = TaskTracker::new();
        let link_of = |role| {
            let mut link = Link::new(Arc::clone(&place), role, ends());
            link.works_on(batch);
            link
        };
        for _ in 0..READERS_MAX {
            engine.spawn(serve_tasks(inboxes.reads(), link_of(Role::Read), closing.clone()));
        }
        engine.spawn(serve_tasks(inboxes.pulse(), link_of(Role::Pulse), closing.clone()));
        engine.spawn(inboxes.serve(link));
        let news = Arc::new(Notify::new());
        let listening = std::sync::Once::new();
        Ok(Self { commands, batch, place, news, haste, listening, closing, engine })
    }
}

fn usual(address: Address) -> Place {
    Place {
        address,
        schema: SCHEMA.to_owned(),
        time: Time::Server,
        patience_at_start: PATIENCE_AT_START,
        silence: SILENT_AFTER,
    }
}

/// Brings a database to where the engine can begin; answers with its batch. Each step finds what the last
/// one left, so that a server may restart between them.
async fn prepare(
    link: &mut Link,
    place: &Arc<Place>,
    (name, access, identity): (String, Access, Identity),
) -> Result<i64, QueueError> {
    let missing = || QueueError::Missing { path: format!("{}, batch `{name}`", place.address) };
    let is_there = link
        .look_up(Extent::All, |session| {
            let place = Arc::clone(place);
            Box::pin(async move {
                let encoding: String = sqlx::query_scalar(ENCODING)
                    .fetch_one(&mut session.conn)
                    .await
                    .doing("asking for the encoding")?;
                if encoding != "UTF8" {
                    return Err(QueueError::OtherEncoding { at: place.address.to_string(), encoding });
                }
                let version = migrate::version(&mut session.conn, &place).await?;
                if access != Access::Create && version == 0 {
                    return Ok(false);
                }
                match access {
                    Access::Create | Access::Existing => migrate::migrate(&mut session.conn, &place).await?,
                    Access::Look | Access::ReadOnly => migrate::check(&mut session.conn, &place).await?,
                }
                Ok(true)
            })
        })
        .await?;
    if !is_there {
        return Err(missing());
    }
    crash_point(CrashPoint::SchemaMade);
    let whose = (name.clone(), identity);
    let batch = if access == Access::Create {
        link.transact(Extent::Some, |session| Box::pin(identify(session, whose.clone()))).await?
    } else {
        link.look_up(Extent::Some, |session| Box::pin(find(session, whose.clone()))).await?
    };
    batch.ok_or_else(missing)
}

type Whose = (String, Identity);

/// The batch of this name, made when there is none and it is known whose it is.
async fn identify(session: &mut Session, whose: Whose) -> Result<Option<i64>, QueueError> {
    if let Some(batch) = find(session, whose.clone()).await? {
        return Ok(Some(batch));
    }
    let (name, Identity::Of { manifest, provider }) = whose.clone() else { return Ok(None) };
    let make = sqlx::query(MAKE_BATCH).bind(name).bind(manifest).bind(provider.as_str()).bind(session.now());
    make.execute(&mut session.conn).await.doing("making the batch")?;
    find(session, whose).await
}

async fn find(session: &mut Session, (name, identity): Whose) -> Result<Option<i64>, QueueError> {
    let row = sqlx::query(BATCH).bind(name).fetch_optional(&mut session.conn).await;
    let Some(row) = row.doing("reading whose queue it is")? else { return Ok(None) };
    if let Identity::Of { manifest, provider } = identity {
        let found: Provider = parsed(&row, "provider")?;
        if found != provider {
            return Err(QueueError::OtherProvider { found, asked: provider });
        }
        let found: Option<String> = get(&row, "manifest")?;
        if found != manifest {
            let shown = |name: Option<String>| name.unwrap_or_else(|| STANDARD_INPUT.to_owned());
            return Err(QueueError::OtherManifest { found: shown(found), asked: shown(manifest) });
        }
    }
    get(&row, "batch").map(Some)
}
