//! Places at which a test kills the program: before and after every step whose order matters.
//!
//! `NIGHTPRESS_CRASH_AT=claim_committed:2` ends the process when it comes to that place for the
//! second time. It aborts: like SIGKILL, that runs no destructor and flushes no buffer, but it needs
//! neither `unsafe` nor a dependency, and no other step can be taken meanwhile. Only builds with
//! debug assertions look at the variable; in a release there is nothing of this.

macro_rules! crash_points {
    ($($variant:ident = $name:literal, $passages:literal, $doc:literal;)*) => {
        /// A place to die at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum CrashPoint { $(#[doc = $doc] $variant,)* }

        impl CrashPoint {
            /// All of them, in the order in which a run comes by.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As the environment variable spells it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How often a run of several jobs comes by at least.
            #[must_use]
            pub const fn passages(self) -> u32 {
                match self { $(Self::$variant => $passages,)* }
            }
        }
    };
}

crash_points! {
    QueueOpened = "queue_opened", 1, "the database is there, perhaps without a schema";
    SchemaMade = "schema_made", 1, "the schema is there, perhaps without a batch";
    Staged = "staged", 1, "the manifest is staged, nothing applied";
    LoadWritten = "load_written", 1, "the load is in a transaction";
    LoadCommitted = "load_committed", 1, "the load is committed";
    MovesBegun = "moves_begun", 1, "results are about to be renamed, and the queue knows";
    FileMoved = "file_moved", 1, "a result has its new name, the queue does not know";
    SpoolMade = "spool_made", 1, "a spool folder without a worker in the queue";
    WorkerRegistered = "worker_registered", 1, "the worker is in the queue";
    RescueWritten = "rescue_written", 1, "what dead workers left is taken over, in a transaction";
    RescueCommitted = "rescue_committed", 1, "what dead workers left is taken over";
    Rescued = "rescued", 1, "what dead workers had planned is published";
    Swept = "swept", 1, "dead workers' folders are gone";
    BeforeClaim = "before_claim", 2, "permits are granted, nothing is claimed";
    ClaimWritten = "claim_written", 2, "intents are in a transaction";
    ClaimCommitted = "claim_committed", 2, "intents are committed, nothing is sent";
    BeforeSend = "before_send", 2, "references are checked, the request is about to leave";
    HeadReceived = "head_received", 2, "the answer's head is there";
    MidStream = "mid_stream", 2, "a part of an image is there";
    SpoolWritten = "spool_written", 2, "an image is whole in the spool, not durable";
    SpoolSynced = "spool_synced", 2, "its bytes are durable, its name is not";
    SpoolFolderSynced = "spool_folder_synced", 2, "the spool's folder is durable";
    BeforeSettle = "before_settle", 2, "the way on is decided, nothing is recorded";
    SettleWritten = "settle_written", 2, "the settlement is in a transaction";
    SettleCommitted = "settle_committed", 2, "the settlement is committed";
    BeforeLink = "before_link", 2, "the image is about to get its name";
    Linked = "linked", 2, "it stands in both places";
    Replaced = "replaced", 1, "it stands in its predecessor's place";
    Moved = "moved", 2, "it left the spool, its name is not durable";
    Placed = "placed", 2, "its name is durable";
    ReplacedRemoved = "replaced_removed", 1, "a file that nothing stands in the place of is removed";
    PublishedWritten = "published_written", 2, "the success is in a transaction";
    PublishedCommitted = "published_committed", 2, "the success is committed";
    RunEnded = "run_ended", 1, "the run's end is recorded";
    WorkerRetired = "worker_retired", 1, "the worker has ended, its folder is there";
    ReportWritten = "report_written", 2, "a report is whole under its temporary name";
    ReportReplaced = "report_replaced", 2, "a report is in place, the next is not";
}

/// The variable that names the place and, behind a colon, which passage.
pub const CRASH_AT: &str = "NIGHTPRESS_CRASH_AT";

#[cfg(test)]
thread_local! {
    /// What a simulation does on its thread when it comes by.
    pub(crate) static CRASH_HOOK: std::cell::Cell<Option<fn(CrashPoint)>> =
        const { std::cell::Cell::new(None) };
}

/// Dies here if that is asked for.
#[cfg(debug_assertions)]
pub fn crash_point(here: CrashPoint) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static AT: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSAGES: AtomicU32 = AtomicU32::new(0);
    #[cfg(test)]
    if let Some(hook) = CRASH_HOOK.get() {
        return hook(here);
    }
    let at = AT.get_or_init(|| {
        let at = std::env::var(CRASH_AT).ok()?;
        let (name, passage) = at.split_once(':').unwrap_or((&at, "1"));
        Some((name.to_owned(), passage.parse().ok()?))
    });
    if let Some((name, passage)) = at
        && name == here.name()
        && PASSAGES.fetch_add(1, Ordering::Relaxed) + 1 == *passage
    {
        std::process::abort();
    }
}

/// Nothing, in a release.
#[cfg(not(debug_assertions))]
pub const fn crash_point(_: CrashPoint) {}
