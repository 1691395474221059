//! What can go wrong in the queue.

use std::sync::Arc;

use crate::job::{JobId, Provider, UnknownText, WorkerId};

/// What the database beneath said, whichever it is.
pub type EngineError = Arc<dyn std::error::Error + Send + Sync>;

/// What can go wrong in the queue. Cloneable, since one failed commit answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QueueError {
    /// The lease of this job is not ours any more: another worker has it, or it was settled.
    #[error("the lease of job {job} was lost; its result is not recorded")]
    LeaseLost {
        /// The job.
        job: JobId,
    },
    /// The run folder was made from another manifest.
    #[error(
        "this run folder belongs to the manifest `{found}`, not to `{asked}`; use another folder with -o, or \
         the manifest that it was made from"
    )]
    OtherManifest {
        /// The manifest it belongs to, relative to the folder.
        found: String,
        /// The one that was asked for.
        asked: String,
    },
    /// The run folder was made with another provider.
    #[error(
        "this run folder belongs to the provider `{found}`, not to `{asked}`; a rehearsal must not make the \
         real run done: use another folder with -o"
    )]
    OtherProvider {
        /// The provider it belongs to.
        found: Provider,
        /// The one that was asked for.
        asked: Provider,
    },
    /// There is no queue where one was expected.
    #[error(
        "there is no queue at {path}; make one with `nightpress load MANIFEST` or `nightpress run MANIFEST`"
    )]
    Missing {
        /// Where it was looked for.
        path: String,
    },
    /// A newer program has written this queue.
    #[error(
        "the queue at {path} has schema {found}, this program knows up to {known}; use the newer nightpress \
         that wrote it"
    )]
    NewerSchema {
        /// The database.
        path: String,
        /// Its schema.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// An older program has written this queue, and who only looks does not update it.
    #[error(
        "the queue at {path} has schema {found}, this program reads {known}; look at it with the nightpress that \
         works on it, or update it with `nightpress load` or `work` of this version when no older worker is left"
    )]
    OlderSchema {
        /// The database.
        path: String,
        /// Its schema.
        found: i64,
        /// The one that this program reads.
        known: i64,
    },
    /// A database that is not one of ours.
    #[error("{path} is a database of another program, not a queue; use another folder with -o")]
    NotAQueue {
        /// The database.
        path: String,
    },
    /// A folder has the database's name.
    #[error("{path} is a folder, not a queue; move it away, or use another run folder with -o")]
    IsAFolder {
        /// The folder.
        path: String,
    },
    /// The disk cannot keep a write-ahead log.
    #[error(
        "the queue at {path} cannot keep a write-ahead log there (a network file system?); use a folder on a \
         local disk with -o"
    )]
    NoWal {
        /// The database.
        path: String,
    },
    /// The folder is on a network file system.
    #[error(
        "{folder} is on {kind}, where neither SQLite's write-ahead log nor the locks of the spool hold; use \
         a folder on a local disk with -o, and copy the results when the run has ended"
    )]
    NetworkDisk {
        /// The run folder.
        folder: String,
        /// What it is on.
        kind: &'static str,
    },
    /// Another process declared this worker dead, so it may not claim or take over anything.
    #[error("worker {0} was declared dead, since it was not heard of for too long; start the program again")]
    DeclaredDead(WorkerId),
    /// A job that a person named does not exist.
    #[error("there is no job `{0}` in this queue; `nightpress jobs` lists them")]
    NoSuchJob(String),
    /// The database holds a text that means nothing to this program.
    #[error("the queue holds something that this program does not know")]
    Unknown(#[from] UnknownText),
    /// The database holds a value that cannot be read.
    #[error("the queue holds a broken value in {what}: {detail}")]
    Broken {
        /// Table and column.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Another program holds the database.
    #[error(
        "the queue is locked by another program and stayed so for {waited_s} s; end that program or try later"
    )]
    Locked {
        /// How long it was waited for.
        waited_s: u64,
    },
    /// The disk is full or cannot be written.
    #[error("the queue cannot be written while {what}: {source}")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// The engine's error.
        source: EngineError,
    },
    /// The file is not a database or is damaged.
    #[error(
        "the queue at {path} is damaged or not a database ({source}); restore it from a copy, or move the run \
         folder aside and begin anew: that makes, and pays, all jobs again, the images stay in the old folder"
    )]
    Corrupt {
        /// The database.
        path: String,
        /// The engine's error.
        source: EngineError,
    },
    /// Any other error of the engine.
    #[error("the queue failed while {what}: {source}")]
    Engine {
        /// What was tried.
        what: &'static str,
        /// The engine's error.
        source: EngineError,
    },
    /// An address that cannot be used. It is not quoted, since it may hold a password.
    #[error("--queue is no address of a PostgreSQL database: {why}; write postgres://user@host/database")]
    BadAddress {
        /// What is wrong with it.
        why: String,
    },
    /// The database server cannot be reached, and was not back in time.
    #[error("the queue at {at} cannot be reached and was waited for during {waited_s} s: {source}")]
    Unreachable {
        /// The database, without a password.
        at: String,
        /// How long it was waited for.
        waited_s: u64,
        /// What the last try said.
        source: EngineError,
    },
    /// The server answers, and does not let us into the database.
    #[error("cannot open the queue at {at}: {why}")]
    NotLetIn {
        /// The database, without a password.
        at: String,
        /// What the server says, and what may be done about it.
        why: String,
    },
    /// The database cannot hold all that a prompt may say.
    #[error(
        "the database {at} has the encoding {encoding}, and prompts need UTF8; make another one with \
         `createdb -E UTF8 -T template0`, and name it"
    )]
    OtherEncoding {
        /// The database, without a password.
        at: String,
        /// As the server calls it.
        encoding: String,
    },
    /// The connection that held the staged jobs broke.
    #[error(
        "the connection to the queue broke while jobs were loaded; nothing was changed, load the manifest again"
    )]
    StagingLost,
    /// The engine has ended.
    #[error("the queue is closed")]
    Closed,
}
