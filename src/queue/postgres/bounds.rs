//! How long what may take, and what must hold between these times.

use std::time::Duration;

/// A worker that was not heard of for so long is dead, for all that other machines can know. Ten heartbeats:
/// longer than a restart of the server or a slow commit takes.
pub const SILENT_AFTER: Duration = Duration::from_secs(30);
/// Heartbeats in that time.
const BEATS: u32 = 10;
/// A gap of so many heartbeats makes who beats unfit to judge others: it was away itself.
const GAP_BEATS: u32 = 4;

/// A connection that does not stand by then is tried anew.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);
/// How long a server is waited for once work has begun: longer than a restart or a failover takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(5 * 60);
/// The usual [`super::session::Place::patience_at_start`].
pub(super) const PATIENCE_AT_START: Duration = Duration::from_secs(20);
/// How often a transaction is begun anew that others were in the way of, in [`PATIENCE`] at most.
pub(super) const TRIES_MAX: u32 = 20;
/// The same where a lock was waited for in vain: a load of a whole batch may hold it.
pub(super) const LOCK_TRIES_MAX: u32 = 90;

/// The server's own bounds on a statement and a lock.
pub(super) const STATEMENT_MAX: Duration = Duration::from_secs(60);
pub(super) const LOCK_MAX: Duration = Duration::from_secs(20);
/// A transaction that nobody goes on with: its machine is gone, and with it goes the lane's row.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(5);
/// What was sent and not acknowledged for so long will not be.
pub(super) const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);
/// The same for what goes over a whole batch: a load of a million jobs.
pub(super) const STATEMENT_OF_ALL_MAX: Duration = Duration::from_secs(30 * 60);
/// What a bound of the server's should have ended is given up on by then.
pub(super) const GRACE: Duration = Duration::from_secs(15);
/// A heartbeat that is not answered by then is tried on another connection.
pub(super) const BEAT_MAX: Duration = Duration::from_secs(5);
/// The server's own bound on a lock that a heartbeat waits for.
pub(super) const BEAT_LOCK_MAX: Duration = Duration::from_secs(2);

/// How often a worker beats.
pub(super) const fn beat_every(silence: Duration) -> Duration {
    Duration::from_millis(whole_ms(silence) / BEATS as u64)
}

/// Who did not beat for so long judges nobody.
pub(super) const fn gap(silence: Duration) -> Duration {
    Duration::from_millis(whole_ms(silence) / BEATS as u64 * GAP_BEATS as u64)
}

/// As the server takes it.
pub(super) fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "no bound is longer than millions of years")]
const fn whole_ms(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// One machine that dies with a row of others in its hands is gone before any of them can be taken for dead, and a
/// heartbeat whose connection broke unseen comes again in time.
const _: () = {
    let (beat, gap) = (whole_ms(beat_every(SILENT_AFTER)), whole_ms(gap(SILENT_AFTER)));
    assert!(beat < whole_ms(IDLE_MAX) && whole_ms(IDLE_MAX) < gap);
    assert!(gap < whole_ms(SILENT_AFTER) / 2);
    assert!(whole_ms(BEAT_LOCK_MAX) < whole_ms(BEAT_MAX));
    assert!(beat + whole_ms(BEAT_MAX) + whole_ms(CONNECT_MAX) < whole_ms(SILENT_AFTER));
    assert!(whole_ms(LOCK_MAX) * LOCK_TRIES_MAX as u64 >= whole_ms(STATEMENT_OF_ALL_MAX));
};
