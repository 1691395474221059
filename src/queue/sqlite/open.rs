//! Opening a queue: files, pragmas, and whose queue it is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, params};

use super::engine::{self, Session};
use super::fault::{BUSY_WAIT, Doing, located};
use super::readers::{Readers, off_thread};
use super::row::{get, parsed};
use super::sql::Sql;
use super::{SqliteQueue, migrate, stage};
use crate::job::{Clock, CrashPoint, Provider, crash_point};
use crate::platform;
use crate::queue::{Access, Identity, QueueError};

/// Statements that a connection keeps prepared: all that one is asked for.
const STATEMENTS_MAX: usize = 160;
/// Page cache of the writing connection, in KiB; SQLite spells KiB as a negative number.
const CACHE: i64 = -32_768;
/// Of each reading connection.
const READER_CACHE: i64 = -4096;

const BATCH: &str = "SELECT batch, manifest, provider FROM batch ORDER BY batch LIMIT 1";
/// ?1 manifest, ?2 provider, ?3 now. Of several processes that start at once, one makes the batch.
const MAKE_BATCH: &str = "
INSERT INTO batch (name, manifest, provider, created_at)
SELECT 'default', ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM batch)";

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
        off_thread(move || open(options)).await.map_err(|error| located(error, &path))
    }

    /// An empty queue that leaves nothing behind: what a manifest is compared with when there is
    /// no queue yet.
    pub async fn in_memory(provider: Provider, clock: Arc<dyn Clock>) -> Result<Self, QueueError> {
        off_thread(move || {
            let path = PathBuf::from(":memory:");
            let conn = Connection::open_in_memory().doing("opening a queue in memory")?;
            let conn = set_up(conn)?;
            migrate::migrate(&conn, &path)?;
            let identity = Identity::Of { manifest: None, provider };
            let batch = identify(&conn, &identity, clock.as_ref())?;
            start(Session::new(conn, batch.unwrap_or(1), path, clock), None)
        })
        .await
    }
}

fn start(session: Session, readers: Option<Readers>) -> Result<SqliteQueue, QueueError> {
    session.conn.execute_batch(stage::TABLES).doing("making temporary tables")?;
    let (commands, inbox) = engine::channel();
    let (batch, path, clock) = (session.batch, session.path.clone(), session.clock());
    let engine = std::thread::Builder::new().name("queue".to_owned());
    engine
        .spawn(move || engine::serve(session, inbox))
        .map_err(|error| QueueError::Engine { what: "starting its thread", source: Arc::new(error) })?;
    Ok(SqliteQueue { commands, readers, batch, path, clock })
}

fn open(options: OpenOptions) -> Result<SqliteQueue, QueueError> {
    let OpenOptions { path, access, identity, clock, synchronous } = options;
    if access != Access::Create && !path.exists() {
        return Err(QueueError::Missing { path: path.display().to_string() });
    }
    if path.is_dir() {
        return Err(QueueError::IsAFolder { path: path.display().to_string() });
    }
    if access == Access::ReadOnly {
        return look_at(path, &identity, clock);
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    if let Some(kind) = platform::network_file_system(folder) {
        return Err(QueueError::NetworkDisk { folder: folder.display().to_string(), kind });
    }
    let create = if access == Access::Create { OpenFlags::SQLITE_OPEN_CREATE } else { OpenFlags::empty() };
    let conn = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | create)?;
    let synchronous = match synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    set(&conn, "synchronous", synchronous)?;
    set(&conn, "cache_size", CACHE)?;
    // Where this fails the connection is closed in order, so that nothing is left beside the database.
    let batch = prepare(&conn, &path, access, (&identity, clock.as_ref()))?;
    let readers = Readers::new(path.clone());
    start(Session::new(conn, batch, path, clock), Some(readers))
}

/// Brings a database to where the engine can begin; answers with its batch.
fn prepare(
    conn: &Connection,
    path: &Path,
    access: Access,
    (identity, clock): (&Identity, &dyn Clock),
) -> Result<i64, QueueError> {
    let missing = || QueueError::Missing { path: path.display().to_string() };
    match access {
        Access::Create => {}
        Access::Existing if migrate::version(conn, path)? > 0 => {}
        Access::Existing => return Err(missing()),
        Access::Look | Access::ReadOnly => migrate::check(conn, path)?,
    }
    migrate::use_wal(conn, path)?;
    crash_point(CrashPoint::QueueOpened);
    migrate::migrate(conn, path)?;
    crash_point(CrashPoint::SchemaMade);
    identify(conn, identity, clock)?.ok_or_else(missing)
}

/// Opens a queue to read only.
///
/// SQLite makes `-wal` and `-shm` beside a database in WAL mode even for a reader, and a reader
/// cannot remove them. Without a log there is nothing in it to be read, so the database is
/// declared immutable, which makes nothing. A process that begins to write in that very moment may
/// then show the reader a mixed state; a comparison lasts for an instant, and nothing is kept of it.
fn look_at(path: PathBuf, identity: &Identity, clock: Arc<dyn Clock>) -> Result<SqliteQueue, QueueError> {
    let mut log = path.clone().into_os_string();
    log.push("-wal");
    let conn = if Path::new(&log).exists() {
        connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?
    } else {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        connect(Path::new(&immutable(&path)), flags)?
    };
    migrate::check(&conn, &path)?;
    let batch = find(&conn, identity)?;
    let batch = batch.ok_or_else(|| QueueError::Missing { path: path.display().to_string() })?;
    start(Session::new(conn, batch, path, clock), None)
}

/// The address of a database that nobody writes (sqlite.org/uri.html, read 2026-11).
fn immutable(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_encoded_bytes() {
        // A slash too: what begins with two of them would be taken for the name of a machine.
        if byte.is_ascii_alphanumeric() {
            uri.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(uri, "%{byte:02x}");
        }
    }
    uri.push_str("?immutable=1");
    uri
}

/// A connection that only reads, for [`Readers`].
pub(super) fn reader(path: &Path) -> Result<Connection, QueueError> {
    let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    set(&conn, "query_only", true)?;
    set(&conn, "cache_size", READER_CACHE)?;
    Ok(conn)
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, QueueError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    set_up(Connection::open_with_flags(path, flags).doing("opening the queue")?)
}

/// What holds for every connection.
fn set_up(conn: Connection) -> Result<Connection, QueueError> {
    let what = "opening the queue";
    conn.busy_timeout(BUSY_WAIT).doing(what)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    set(&conn, "foreign_keys", true)?;
    Ok(conn)
}

fn set(conn: &Connection, name: &str, value: impl rusqlite::ToSql) -> Result<(), QueueError> {
    conn.pragma_update(None, name, value).doing("opening the queue")
}

/// The batch of this queue, made when there is none and it is known whose it is.
fn identify(conn: &Connection, identity: &Identity, clock: &dyn Clock) -> Result<Option<i64>, QueueError> {
    if let Some(batch) = find(conn, identity)? {
        return Ok(Some(batch));
    }
    let Identity::Of { manifest, provider } = identity else { return Ok(None) };
    let params = params![manifest, provider.as_str(), clock.now().as_ms()];
    conn.run("making the batch", MAKE_BATCH, params)?;
    find(conn, identity)
}

fn find(conn: &Connection, identity: &Identity) -> Result<Option<i64>, QueueError> {
    conn.row_or_none("reading whose queue it is", BATCH, &[], |row| {
        if let Identity::Of { manifest, provider } = identity {
            let found: Provider = parsed(row, "provider")?;
            if found != *provider {
                return Err(QueueError::OtherProvider { found, asked: *provider });
            }
            let found: Option<String> = get(row, "manifest")?;
            if found != *manifest {
                let shown = |name: &Option<String>| name.clone().unwrap_or_else(|| STANDARD_INPUT.to_owned());
                return Err(QueueError::OtherManifest { found: shown(&found), asked: shown(manifest) });
            }
        }
        get(row, "batch")
    })
}
