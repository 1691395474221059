//! Opening a queue: files, pragmas, and whose queue it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use tokio_util::task::TaskTracker;

use super::engine::{self, Session};
use super::fault::{BUSY_WAIT, Doing, get, located};
use super::{SqliteQueue, migrate, stage};
use crate::job::{Clock, CrashPoint, Provider, crash_point};
use crate::platform;
use crate::queue::QueueError;

pub use crate::queue::open::{Access, Identity};

/// Connections that only read.
const READERS_MAX: u32 = 3;
/// Statements that a connection keeps prepared: all there are, in every size of a set.
const STATEMENTS_MAX: usize = 384;
/// Rows that a connection's thread may be ahead of the reader.
const ROWS_AHEAD: usize = 256;
/// Page cache of the writing connection, in KiB; SQLite spells KiB as a negative number.
const CACHE: &str = "-32768";
/// Of each reading connection.
const READER_CACHE: &str = "-4096";

const BATCH: &str = "SELECT batch, manifest, provider FROM batch ORDER BY batch LIMIT 1";
/// $1 manifest, $2 provider, $3 now. Of several processes that start at once, one makes the batch.
const MAKE_BATCH: &str = "
INSERT INTO batch (name, manifest, provider, created_at)
SELECT 'default', $1, $2, $3 WHERE NOT EXISTS (SELECT 1 FROM batch)";

/// How a manifest from standard input is called in an error.
const STANDARD_INPUT: &str = "-";

/// How sure a commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Synchronous {
    /// It outlives a power failure.
    #[default]
    Full,
    /// It outlives the process only: for measurements.
    Normal,
}

/// How a queue is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The database.
    pub path: PathBuf,
    /// What for.
    pub access: Access,
    /// Whose it must be.
    pub identity: Identity,
    /// Judges due times, leases and heartbeats.
    pub clock: Arc<dyn Clock>,
    /// How sure a commit is.
    pub synchronous: Synchronous,
}

impl SqliteQueue {
    /// Opens a queue, makes or updates its schema and starts its engine. Not cancel-safe in that
    /// the file may exist afterwards, whole.
    pub async fn open(options: OpenOptions) -> Result<Self, QueueError> {
        let path = options.path.clone();
        open(options).await.map_err(|error| located(error, &path))
    }

    /// An empty queue that leaves nothing behind: what a manifest is compared with when there is
    /// no queue yet.
    pub async fn in_memory(provider: Provider, clock: Arc<dyn Clock>) -> Result<Self, QueueError> {
        let path = PathBuf::from(":memory:");
        let mut conn = connect(base(&path).in_memory(true), "opening a queue in memory").await?;
        migrate::migrate(&mut conn, &path).await?;
        let identity = Identity::Of { manifest: None, provider };
        let batch = identify(&mut conn, &identity, clock.as_ref()).await?;
        Self::start(Session::new(conn, batch.unwrap_or(1), path, clock), None).await
    }

    async fn start(mut session: Session, readers: Option<sqlx::SqlitePool>) -> Result<Self, QueueError> {
        let what = "making temporary tables";
        sqlx::raw_sql(stage::TABLES).execute(&mut session.conn).await.doing(what)?;
        let (commands, inbox) = engine::channel();
        let (batch, path, clock) = (session.batch, session.path.clone(), session.clock());
        let engine = TaskTracker::new();
        engine.spawn(engine::serve(session, inbox));
        engine.close();
        Ok(Self { commands, readers, batch, path, clock, engine })
    }
}

async fn open(options: OpenOptions) -> Result<SqliteQueue, QueueError> {
    let OpenOptions { path, access, identity, clock, synchronous } = options;
    if access != Access::Create && !path.exists() {
        return Err(QueueError::Missing { path: path.display().to_string() });
    }
    if path.is_dir() {
        return Err(QueueError::IsAFolder { path: path.display().to_string() });
    }
    if access == Access::ReadOnly {
        return look_at(path, &identity, clock).await;
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    if let Some(kind) = platform::network_file_system(folder) {
        return Err(QueueError::NetworkDisk { folder: folder.display().to_string(), kind });
    }
    let synchronous = match synchronous {
        Synchronous::Full => SqliteSynchronous::Full,
        Synchronous::Normal => SqliteSynchronous::Normal,
    };
    let writer = base(&path)
        .create_if_missing(access == Access::Create)
        .synchronous(synchronous)
        .pragma("cache_size", CACHE);
    let mut conn = connect(writer, "opening the queue").await?;
    let batch = match prepare(&mut conn, &path, access, (&identity, clock.as_ref())).await {
        Ok(batch) => batch,
        Err(error) => {
            // Closed in order, so that nothing is left beside the database.
            drop(conn.close().await);
            return Err(error);
        }
    };
    let reader = base(&path).pragma("query_only", "1").pragma("cache_size", READER_CACHE);
    let readers = SqlitePoolOptions::new().max_connections(READERS_MAX).connect_lazy_with(reader);
    SqliteQueue::start(Session::new(conn, batch, path, clock), Some(readers)).await
}

/// Brings a database to where the engine can begin; answers with its batch.
async fn prepare(
    conn: &mut SqliteConnection,
    path: &Path,
    access: Access,
    (identity, clock): (&Identity, &dyn Clock),
) -> Result<i64, QueueError> {
    let missing = || QueueError::Missing { path: path.display().to_string() };
    if access == Access::Existing && migrate::version(conn, path).await? == 0 {
        return Err(missing());
    }
    migrate::use_wal(conn, path).await?;
    crash_point(CrashPoint::QueueOpened);
    migrate::migrate(conn, path).await?;
    crash_point(CrashPoint::SchemaMade);
    identify(conn, identity, clock).await?.ok_or_else(missing)
}

/// Opens a queue to read only.
///
/// SQLite makes `-wal` and `-shm` beside a database in WAL mode even for a reader, and a reader
/// cannot remove them. Without a log there is nothing in it to be read, so the database is
/// declared immutable, which makes nothing. A process that begins to write in that very moment may
/// then show the reader a mixed state; a comparison lasts for an instant, and nothing is kept of it.
async fn look_at(
    path: PathBuf,
    identity: &Identity,
    clock: Arc<dyn Clock>,
) -> Result<SqliteQueue, QueueError> {
    let mut log = path.clone().into_os_string();
    log.push("-wal");
    let quiet = !Path::new(&log).exists();
    let options = base(&path).read_only(true).immutable(quiet);
    let mut conn = connect(options, "opening the queue to read it").await?;
    if migrate::version(&mut conn, &path).await? == 0 {
        return Err(QueueError::Missing { path: path.display().to_string() });
    }
    let batch = find(&mut conn, identity).await?;
    let batch = batch.ok_or_else(|| QueueError::Missing { path: path.display().to_string() })?;
    SqliteQueue::start(Session::new(conn, batch, path, clock), None).await
}

fn base(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(BUSY_WAIT)
        .statement_cache_capacity(STATEMENTS_MAX)
        .row_buffer_size(ROWS_AHEAD)
        // Statements carry prompts as values only, but a log of each is nobody's news.
        .disable_statement_logging()
}

async fn connect(options: SqliteConnectOptions, what: &'static str) -> Result<SqliteConnection, QueueError> {
    options.connect().await.doing(what)
}

/// The batch of this queue, made when there is none and it is known whose it is.
async fn identify(
    conn: &mut SqliteConnection,
    identity: &Identity,
    clock: &dyn Clock,
) -> Result<Option<i64>, QueueError> {
    if let Some(batch) = find(conn, identity).await? {
        return Ok(Some(batch));
    }
    let Identity::Of { manifest, provider } = identity else { return Ok(None) };
    let make =
        sqlx::query(MAKE_BATCH).bind(manifest.clone()).bind(provider.as_str()).bind(clock.now().as_ms());
    make.execute(&mut *conn).await.doing("making the batch")?;
    find(conn, identity).await
}

async fn find(conn: &mut SqliteConnection, identity: &Identity) -> Result<Option<i64>, QueueError> {
    let row = sqlx::query(BATCH).fetch_optional(conn).await.doing("reading whose queue it is")?;
    let Some(row) = row else { return Ok(None) };
    if let Identity::Of { manifest, provider } = identity {
        let found: Provider = super::fault::parsed(&row, "provider")?;
        if found != *provider {
            return Err(QueueError::OtherProvider { found, asked: *provider });
        }
        let found: Option<String> = get(&row, "manifest")?;
        if found != *manifest {
            let shown = |name: &Option<String>| name.clone().unwrap_or_else(|| STANDARD_INPUT.to_owned());
            return Err(QueueError::OtherManifest { found: shown(&found), asked: shown(manifest) });
        }
    }
    get(&row, "batch").map(Some)
}
