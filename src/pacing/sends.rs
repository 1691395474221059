//! The log of a lane's own sends: what the server has counted, as far as we can know it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The provider's window: limits are stated in requests per minute.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// How long a send is kept: a minute for the window, five to tell an in-flight limit apart.
const KEPT: Duration = Duration::from_secs(300);

/// Sends that are kept at most, above one minute at the highest rate that a lane believes.
const KEPT_MAX: usize = 16_384;

/// One request that left. It counts whether it was refused or not: some gateways count
/// refusals, and who forgets them believes in a limit that is not there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Send {
    number: u64,
    pub(super) at: Instant,
    /// Other requests on their way when it left.
    pub(super) in_flight: u32,
    pub(super) refused: bool,
    /// Images that it brought; one until that is known.
    images: u32,
}

/// The sends of the last minutes, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Sends {
    log: VecDeque<Send>,
}

impl Sends {
    /// The number of the next one, where nobody else gives it one.
    pub(super) fn next(&self) -> u64 {
        self.log.back().map_or(0, |last| last.number + 1)
    }

    /// Adds one with a number that is higher than all before.
    pub(super) fn add(&mut self, number: u64, at: Instant, in_flight: u32) {
        while self.log.len() >= KEPT_MAX || self.log.front().is_some_and(|send| send.at + KEPT < at) {
            self.log.pop_front();
        }
        // The log is in order even if a caller's clock readings are not.
        let at = self.log.back().map_or(at, |last| last.at.max(at));
        self.log.push_back(Send { number, at, in_flight, refused: false, images: 1 });
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.log.clear();
    }

    /// All that left in the `window` before `now`, with the images that they brought.
    pub(super) fn left_within(&self, now: Instant, window: Duration) -> impl Iterator<Item = (Instant, u32)> {
        self.log.iter().skip(self.left_before(now, window)).map(|send| (send.at, send.images))
    }

    /// The send with this number was refused.
    pub(super) fn refused(&mut self, number: u64) {
        if let Some(send) = self.by_number(number) {
            send.refused = true;
        }
    }

    /// The send with this number brought so many images.
    pub(super) fn brought(&mut self, number: u64, images: u32) {
        if let Some(send) = self.by_number(number) {
            send.images = images.max(1);
        }
    }

    /// The last one that left by then brought so many images.
    pub(super) fn brought_by(&mut self, at: Instant, images: u32) {
        let left = self.log.partition_point(|send| send.at <= at);
        if let Some(send) = left.checked_sub(1).and_then(|last| self.log.get_mut(last)) {
            send.images = send.images.saturating_add(images.saturating_sub(1));
        }
    }

    /// Others on their way when the one with this number left, as far as it is kept.
    pub(super) fn in_flight_of(&self, number: u64) -> Option<u32> {
        let at = self.log.binary_search_by_key(&number, |send| send.number).ok()?;
        self.log.get(at).map(|send| send.in_flight)
    }

    /// How long ago the first one left, as far as it is kept.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.log.front().map_or(Duration::ZERO, |send| now.saturating_duration_since(send.at))
    }

    /// How many left in the `window` before `now`, `now` itself not included.
    pub(super) fn in_window(&self, now: Instant, window: Duration) -> u32 {
        let up_to = self.log.partition_point(|send| send.at < now);
        count(up_to - self.left_before(now, window).min(up_to))
    }

    /// How many left in the minute before the send with this number.
    pub(super) fn before(&self, number: u64, at: Instant) -> u32 {
        let up_to = self.log.partition_point(|send| (send.at, send.number) < (at, number));
        count(up_to.saturating_sub(self.left_before(at, MINUTE)))
    }

    /// How many more may leave at `now` so that no `window` holds more than `limit`, and if
    /// none, when one may.
    pub(super) fn room(&self, now: Instant, window: Duration, limit: u32) -> Result<u32, Instant> {
        let used = count(self.log.len() - self.left_before(now, window));
        match limit.checked_sub(used) {
            Some(room) if room > 0 => Ok(room),
            // When that many have left the window, one less than the limit is in it.
            _ => {
                let newest_that_must_leave = self.log.len().checked_sub(limit.max(1) as usize);
                let leaves = newest_that_must_leave.and_then(|at| self.log.get(at)).map(|send| send.at);
                Err(leaves.map_or(now, |at| at + window))
            }
        }
    }

    /// [`Sends::room`] for a limit of images.
    pub(super) fn room_for_images(&self, now: Instant, window: Duration, limit: u32) -> Result<u32, Instant> {
        let mut used: u32 = 0;
        for send in self.log.iter().rev().take_while(|send| send.at + window > now) {
            used = used.saturating_add(send.images);
            if used >= limit {
                return Err(send.at + window);
            }
        }
        Ok(limit - used)
    }

    /// All that left in `from..to`.
    pub(super) fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Send> {
        let begin = self.log.partition_point(|send| send.at < from);
        self.log.iter().skip(begin).take_while(move |send| send.at < to)
    }

    /// How many of the log have left a window that ends now.
    fn left_before(&self, now: Instant, window: Duration) -> usize {
        self.log.partition_point(|send| send.at + window <= now)
    }

    fn by_number(&mut self, number: u64) -> Option<&mut Send> {
        let at = self.log.binary_search_by_key(&number, |send| send.number).ok()?;
        self.log.get_mut(at)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
