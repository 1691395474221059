//! The log of a lane's own sends: what the server has counted, as far as we can know it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The provider's window: limits are stated in requests per minute.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// How long a send is kept: a minute for the window, five to tell an in-flight limit apart.
const KEPT: Duration = Duration::from_secs(300);

/// Of more sends than these, those are kept that a window may still hold.
const KEPT_MAX: usize = 16_384;
/// Longer than the widest window.
pub(super) const WINDOW_MAX: Duration = Duration::from_millis(62_500);

/// One request that left, or some that left together and are not told apart any more. It counts whether it was
/// refused or not: some gateways count refusals, and who forgets them believes in a limit that is not there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Send {
    /// The last one's.
    number: u64,
    /// How many these are.
    pub(super) count: u32,
    pub(super) at: Instant,
    /// Other requests on their way when it left.
    pub(super) in_flight: u32,
    /// How many of them were refused.
    pub(super) refused: u32,
    /// Images that it brought; one each until that is known.
    pub(super) images: u32,
    /// How many had left since the log began, these included.
    total: u64,
}

/// The sends of the last minutes, oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Sends {
    log: VecDeque<Send>,
    /// It was recalled, and its numbers are none of the ledger's.
    is_recalled: bool,
}

impl Sends {
    /// The number of the next one, where nobody else gives it one.
    pub(super) fn next(&self) -> u64 {
        self.log.back().map_or(0, |last| last.number + 1)
    }

    /// Adds one with a number that is higher than all before.
    pub(super) fn add(&mut self, number: u64, at: Instant, in_flight: u32) {
        self.push(Send { number, count: 1, at, in_flight, refused: 0, images: 1, total: 0 });
    }

    /// Adds `count` that left together, of which some were refused, and brought so many images.
    pub(super) fn add_many(&mut self, at: Instant, (count, refused, images): (u32, u32, u32)) {
        self.is_recalled = true;
        let number = self.log.back().map_or(0, |last| last.number + u64::from(count));
        self.push(Send { number, count, at, in_flight: 0, refused, images, total: 0 });
    }

    fn push(&mut self, mut send: Send) {
        while let Some(first) = self.log.front()
            && (first.at + KEPT < send.at || self.log.len() >= KEPT_MAX && first.at + WINDOW_MAX < send.at)
        {
            self.log.pop_front();
        }
        if let Some(last) = self.log.back() {
            // The log is in order even if a caller's clock readings are not.
            send.at = send.at.max(last.at);
            send.total = last.total;
        }
        send.total += u64::from(send.count);
        self.log.push_back(send);
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.log.clear();
        self.is_recalled = false;
    }

    /// All that left in the `window` before `now`.
    pub(super) fn left_within(&self, now: Instant, window: Duration) -> impl Iterator<Item = &Send> {
        self.log.iter().skip(self.left_before(now, window))
    }

    /// The send with this number was refused.
    pub(super) fn refused(&mut self, number: u64) {
        if let Some(send) = self.by_number(number) {
            send.refused = 1;
        }
    }

    /// One more of those that left by then was refused.
    pub(super) fn refused_by(&mut self, at: Instant) {
        let left = self.log.partition_point(|send| send.at <= at);
        if let Some(send) = left.checked_sub(1).and_then(|last| self.log.get_mut(last)) {
            send.refused = send.refused.saturating_add(1).min(send.count);
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
        self.count(self.left_before(now, window), up_to)
    }

    /// How many left in the minute before the send with this number.
    pub(super) fn before(&self, number: u64, at: Instant) -> u32 {
        let up_to = self.log.partition_point(|send| (send.at, send.number) < (at, number));
        self.count(self.left_before(at, MINUTE), up_to)
    }

    /// How many of those were not refused.
    pub(super) fn admitted_before(&self, number: u64, at: Instant) -> u32 {
        let from = at.checked_sub(MINUTE).unwrap_or(at);
        let refused = self.between(from, at).map(|send| send.refused).fold(0, u32::saturating_add);
        self.before(number, at).saturating_sub(refused)
    }

    /// How many more may leave at `now` so that no `window` holds more than `limit`, and if
    /// none, when one may.
    pub(super) fn room(&self, now: Instant, window: Duration, limit: u32) -> Result<u32, Instant> {
        let used = self.count(self.left_before(now, window), self.log.len());
        match limit.checked_sub(used) {
            Some(room) if room > 0 => Ok(room),
            // When that many have left the window, one less than the limit is in it.
            _ => {
                let all = self.log.back().map_or(0, |last| last.total);
                let must_leave = (all + 1).saturating_sub(u64::from(limit.max(1)));
                let newest = self.log.partition_point(|send| send.total < must_leave);
                Err(self.log.get(newest).map_or(now, |send| send.at + window))
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

    /// How many requests are in this part of the log.
    fn count(&self, from: usize, to: usize) -> u32 {
        let total =
            |end: usize| end.checked_sub(1).and_then(|last| self.log.get(last)).map(|send| send.total);
        let before = total(from).or_else(|| self.log.front().map(|send| send.total - u64::from(send.count)));
        let count = total(to).unwrap_or_default().saturating_sub(before.unwrap_or_default());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn by_number(&mut self, number: u64) -> Option<&mut Send> {
        if self.is_recalled {
            return None;
        }
        let at = self.log.binary_search_by_key(&number, |send| send.number).ok()?;
        self.log.get_mut(at)
    }
}
