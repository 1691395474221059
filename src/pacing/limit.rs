//! The limit that a lane believes in, and how it finds out: measure, hold, probe.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::sends::MINUTE;

/// Where a search begins, per minute: below what the smallest paid tier allows.
const START: f64 = 20.0;
/// The least and the most that is believed, per minute.
const LIMIT_MIN: f64 = 1.0;
pub(super) const LIMIT_MAX: f64 = 120_000.0;

/// Searching for a limit nobody has met yet, the rate doubles in this time.
const RAMP_DOUBLES_IN: f64 = 15.0;
/// Answers that take less are quick; pictures take longer.
const QUICK: Duration = Duration::from_secs(3);
/// So many requests on their way together clock a search at most, however many workers there are: all that leave
/// before the first refusal is back are refused as well.
const TOGETHER_MAX: u32 = 6;
/// What a search that has only begun measures at least: who is refused with the first request
/// (another run used the quota up) must not believe in one a minute.
const SEARCHED_MIN: f64 = 8.0;
/// A lane that began less than this ago has not sent for long enough to count a minute.
const YOUNG: Duration = Duration::from_secs(15);
/// Above a plateau that moved, the rate grows by 2^((t/45 s)²): slowly at first, since most
/// plateaus moved by little.
const GROW_SCALE: f64 = 45.0;
/// Growing, the rate leads what was really sent in the last minute by this factor at most, or a
/// window that is met late would be overshot by a lot.
const LEAD: f64 = 1.8;
/// A probe asks for this share more than the plateau, and at least [`PROBE_MIN`] requests.
const PROBE_STEP: f64 = 0.04;
const PROBE_MIN: f64 = 2.5;
/// The same while we remember better days: a limit that fell comes back.
const BOLD_STEP: f64 = 0.33;
const BOLD_TIME: Duration = Duration::from_secs(35);
/// A plateau this far below the best one, that is younger than [`BEST_AGE_MAX`], fell.
const BOLD_BELOW: f64 = 0.8;
const BEST_AGE_MAX: Duration = Duration::from_secs(30 * 60);
/// A window above the plateau that nobody refused: the plateau has moved.
const PROBE_TIME: Duration = Duration::from_secs(62);
/// How long a plateau is held before it is probed, by how often it was confirmed: seconds, and
/// sends (few sends say little).
const HOLD: [(f64, f64); 3] = [(8.0, 4.0), (60.0, 30.0), (240.0, 90.0)];
const HOLD_MAX: f64 = 600.0;
const CONFIDENT: u32 = 2;
/// Where a refusal costs a long wait, probes are rarer: a plateau is held for this many times the
/// wait that the last refusal asked for.
const COST_SHARE: f64 = 10.0;
/// Refused while holding with so much less in the window than is believed: the limit fell.
const FELL_BELOW: f64 = 0.8;
/// Refused again and again while holding though the window is as wide as it gets: this much less.
const FALL: f64 = 0.02;
/// While held, the window is a little longer than the server's: requests that left evenly
/// arrive unevenly. Widened when that was not enough.
const SLACK_MIN: Duration = Duration::from_millis(750);
const SLACK_MAX: Duration = Duration::from_millis(1_600);
const SLACK_STEP: Duration = Duration::from_millis(400);

/// Where a believed limit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A person gave it.
    Given,
    /// The server stated it.
    Stated,
    /// It was measured.
    Learned,
    /// Nothing has met it yet.
    Unknown,
}

/// What the pace is doing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Mode {
    /// No limit was met yet.
    Ramp,
    /// On a plateau.
    Hold,
    /// A little above it, to see whether it still holds.
    Probe { bold: bool },
    /// It does not: searching upwards from here.
    Grow { from: f64 },
}

/// A refusal in the middle of a search.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Search {
    /// The request's number.
    number: u64,
    /// What had left in the minute before, and what of that had been admitted.
    sent: u32,
    admitted: u32,
    /// That as a rate per minute.
    rate: f64,
    /// The pace that met it.
    pace: f64,
    /// The search had only begun: it goes on.
    is_young: bool,
}

/// A believed limit in requests per minute. `T` is how a time is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Limit<T = Instant> {
    believed: f64,
    /// The limit of the last hold.
    plateau: f64,
    /// What was given or stated: never more than that.
    most: f64,
    pub(super) source: Source,
    mode: Mode,
    /// Time in this mode while the pace was what held us up; other time proves nothing.
    since: Duration,
    /// How often the plateau was confirmed; more than [`CONFIDENT`] is as good as that.
    confidence: u32,
    best: Option<(f64, T)>,
    slack: Duration,
    /// The last refusals while holding.
    held: VecDeque<T>,
    /// The last one in all.
    refused_at: Option<T>,
    /// What the last measurement said and the pace then, if it met the search.
    search: Option<Search>,
    /// What the last refusal asked to wait.
    pub(super) cost: Duration,
}

impl<T> Limit<T> {
    /// The same with its times kept otherwise.
    pub(super) fn with_times<U>(self, time: impl Fn(T) -> U) -> Limit<U> {
        Limit {
            believed: self.believed,
            plateau: self.plateau,
            most: self.most,
            source: self.source,
            mode: self.mode,
            since: self.since,
            confidence: self.confidence,
            best: self.best.map(|(best, at)| (best, time(at))),
            slack: self.slack,
            held: self.held.into_iter().map(&time).collect(),
            refused_at: self.refused_at.map(&time),
            search: self.search,
            cost: self.cost,
        }
    }
}

impl Limit {
    /// A limit that is given.
    pub(super) fn given(per_minute: u32) -> Self {
        let per_minute = f64::from(per_minute).clamp(LIMIT_MIN, LIMIT_MAX);
        Self { most: per_minute, source: Source::Given, ..Self::learned(per_minute, CONFIDENT, false) }
    }

    /// A limit that an earlier run learned with this much confidence, or was told by the server.
    pub(super) fn learned(per_minute: f64, confidence: u32, is_stated: bool) -> Self {
        let per_minute = if per_minute.is_finite() { per_minute.clamp(LIMIT_MIN, LIMIT_MAX) } else { START };
        Self {
            believed: per_minute,
            plateau: per_minute,
            most: if is_stated { per_minute } else { LIMIT_MAX },
            source: if is_stated { Source::Stated } else { Source::Learned },
            mode: Mode::Hold,
            since: Duration::ZERO,
            confidence,
            best: None,
            slack: SLACK_MIN,
            held: VecDeque::new(),
            refused_at: None,
            search: None,
            cost: Duration::ZERO,
        }
    }

    /// Nothing is known.
    pub(super) fn unknown() -> Self {
        Self { mode: Mode::Ramp, source: Source::Unknown, ..Self::learned(START, 0, false) }
    }

    pub(super) fn per_minute(&self) -> f64 {
        self.believed
    }

    pub(super) fn confidence(&self) -> u32 {
        self.confidence
    }

    /// What a person gave, if it is that.
    pub(super) fn given_per_minute(&self) -> Option<u32> {
        (self.source == Source::Given).then(|| whole(self.most))
    }

    /// A search that quick answers clock.
    pub(super) fn is_searching(&self) -> bool {
        self.mode == Mode::Ramp
    }

    /// The window in which no more than [`Limit::count`] may leave.
    pub(super) fn window(&self) -> Duration {
        match self.mode {
            // Above the plateau the question is what the server's own window holds.
            Mode::Probe { .. } | Mode::Grow { .. } => MINUTE,
            Mode::Ramp | Mode::Hold => MINUTE + self.slack,
        }
    }

    /// Requests per window; `None` while no limit was met.
    pub(super) fn count(&self) -> Option<u32> {
        (self.mode != Mode::Ramp).then(|| whole(self.believed))
    }

    /// The time between two requests.
    pub(super) fn gap(&self) -> Duration {
        self.window().div_f64(self.believed)
    }

    /// `for_` has passed in which only the pace held us up; `sent` left in the last window.
    pub(super) fn passed(&mut self, now: Instant, for_: Duration, sent: u32) {
        self.since += for_;
        let since = self.since.as_secs_f64();
        match self.mode {
            Mode::Ramp => self.believed *= (for_.as_secs_f64() / RAMP_DOUBLES_IN).exp2(),
            Mode::Hold => self.held_for(now, since),
            Mode::Probe { bold } => {
                let time = if bold { BOLD_TIME } else { PROBE_TIME };
                if self.since >= time {
                    self.enter(Mode::Grow { from: self.believed });
                }
            }
            Mode::Grow { from } => {
                let curve = from * (since / GROW_SCALE).powi(2).exp2();
                let led = LEAD * f64::from(sent) + 2.0;
                self.believed = self.believed.max(curve.min(led));
            }
        }
        if self.believed >= self.most && self.mode != Mode::Hold {
            self.believed = self.most;
            self.confidence = CONFIDENT;
            self.enter(Mode::Hold);
        }
    }

    /// So many requests were on their way together, and the slowest one so far took this long. A
    /// search that is answered quickly is clocked by the answers, not by time: twice what is
    /// answered already.
    pub(super) fn answered(&mut self, together: u32, slowest: Duration) {
        if self.mode == Mode::Ramp && slowest < QUICK {
            let per_minute = 60.0 * f64::from(together.min(TOGETHER_MAX)) / slowest.as_secs_f64().max(0.001);
            self.believed = self.believed.max((2.0 * per_minute).min(LIMIT_MAX));
        }
    }

    fn held_for(&mut self, now: Instant, since: f64) {
        if self.confidence > 0
            && self.since >= MINUTE
            && self.best.is_none_or(|(best, _)| self.believed >= 0.97 * best)
        {
            self.best = Some((self.believed, now));
        }
        let bold = self.confidence > 0
            && self.best.is_some_and(|(best, at)| {
                self.believed < BOLD_BELOW * best && now.saturating_duration_since(at) < BEST_AGE_MAX
            });
        let level = if bold { 1 } else { self.confidence.min(CONFIDENT) };
        let (seconds, sends) = HOLD.get(level as usize).copied().unwrap_or((HOLD_MAX, 0.0));
        let dear = if self.confidence > 0 { COST_SHARE * self.cost.as_secs_f64() } else { 0.0 };
        let hold = seconds.max(sends * 60.0 / self.believed).max(dear).min(HOLD_MAX);
        if self.believed >= self.most || since < hold {
            return;
        }
        self.plateau = self.believed;
        if self.confidence == 0 {
            self.enter(Mode::Grow { from: self.believed });
        } else {
            let step = if bold { BOLD_STEP } else { PROBE_STEP };
            self.believed += (step * self.believed).max(PROBE_MIN);
            self.enter(Mode::Probe { bold });
        }
    }

    /// A request was refused after `sent` others in the minute before it: that is the limit. Of them, `admitted` were not
    /// refused; `age` is how long ago the first one left.
    pub(super) fn refused(&mut self, now: Instant, number: u64, (sent, admitted): (u32, u32), age: Duration) {
        if self.source == Source::Given {
            return self.met_though_given(now);
        }
        let (left, sent) = (sent, f64::from(sent.max(1)));
        let again_soon = self.refused_at.is_some_and(|at| now.saturating_duration_since(at) < MINUTE);
        self.refused_at = Some(now);
        // Of a few seconds the rate is told, not the count: one refusal among the first requests says little.
        let is_young = age < YOUNG && self.mode == Mode::Ramp;
        let rate = if is_young { sent * MINUTE.div_duration_f64(age.max(SECOND)) } else { sent };
        self.search = (self.mode != Mode::Hold || age < MINUTE).then_some(Search {
            number,
            sent: left,
            admitted,
            rate,
            pace: self.believed,
            is_young,
        });
        match self.mode {
            Mode::Ramp => self.start_over(sent.max(SEARCHED_MIN)),
            Mode::Probe { .. } | Mode::Grow { .. } => self.met_above_the_plateau(sent),
            Mode::Hold => self.met_while_holding(now, sent, again_soon),
        }
        if self.source == Source::Unknown {
            self.source = Source::Learned;
        }
        self.believed = self.believed.clamp(LIMIT_MIN, self.most);
        self.plateau = self.believed;
        self.enter(Mode::Hold);
    }

    /// Another request was refused, which had left before and was taken for admitted till now.
    pub(super) fn also_refused(&mut self, number: u64) {
        if let Some(search) = self.search.as_mut().filter(|search| number < search.number) {
            search.admitted = search.admitted.saturating_sub(1);
        }
    }

    /// Who gave the limit knows it: what is refused below it has other reasons, and the closure heeds
    /// them. But a window that is a little too short for the network shows here too.
    fn met_though_given(&mut self, now: Instant) {
        let before = self.held.back().copied();
        self.held.clear();
        self.held.push_back(now);
        if before.is_some_and(|at| now.saturating_duration_since(at) < 300 * SECOND) && self.slack < SLACK_MAX
        {
            self.slack += SLACK_STEP;
        }
    }

    fn met_above_the_plateau(&mut self, sent: f64) {
        let plateau = self.plateau;
        let is_same = sent >= plateau - (0.05 * plateau).max(2.0) && sent <= 1.06 * plateau + 0.5;
        if !is_same {
            // It fell or rose.
            return self.start_over(sent);
        }
        // Once it is confirmed, refusals move it up alone, and halfway: what a bucket saved up while
        // it was held is no limit.
        self.believed = if self.confidence == 0 { sent } else { plateau.max(f64::midpoint(plateau, sent)) };
        self.confidence = self.confidence.saturating_add(1);
    }

    fn met_while_holding(&mut self, now: Instant, sent: f64, again_soon: bool) {
        let before = self.held.back().copied();
        self.held.push_back(now);
        let many = self.held.len() > 2
            && self.held.pop_front().is_some_and(|first| now.saturating_duration_since(first) < 40 * SECOND);
        if sent < FELL_BELOW * self.believed - 1.0 || many {
            self.start_over(if again_soon {
                sent.min(0.75 * self.believed)
            } else {
                sent.min(self.believed)
            });
        } else if self.confidence == 0 {
            self.believed = sent.min(0.98 * self.believed);
        } else if before.is_some_and(|at| now.saturating_duration_since(at) < 300 * SECOND) {
            // One alone is jitter; the second is a window too short.
            if self.slack < SLACK_MAX {
                self.slack += SLACK_STEP;
            } else {
                self.believed *= 1.0 - FALL;
                self.confidence = self.confidence.saturating_sub(1).max(1);
            }
        }
    }

    fn start_over(&mut self, per_minute: f64) {
        self.believed = per_minute;
        self.confidence = 0;
    }

    /// The request that was to prove the lane open was refused as well: what left in the minute
    /// before it is too much.
    pub(super) fn probe_refused(&mut self, sent: u32) {
        if self.source == Source::Given {
            return;
        }
        let sent = f64::from(sent).max(if self.confidence == 0 { SEARCHED_MIN } else { LIMIT_MIN });
        self.believed = self.believed.min(sent);
        self.plateau = self.plateau.min(self.believed);
    }

    /// The first request after a refusal was admitted although more had left in the minute before it than in that
    /// before the refusal: a bucket. Among the first requests those that were refused are no proof of one, since a
    /// quick search has many of them. Its rate is between what was measured and the pace that met it.
    pub(super) fn readmitted(&mut self, (sent, admitted): (u32, u32)) {
        if let Some(search) = self.search
            && self.confidence == 0
            && sent > search.sent
            && (admitted >= search.admitted || !search.is_young)
        {
            let between = (search.rate * search.pace).sqrt().min(0.9 * search.pace);
            self.believed = self.believed.max(between).min(self.most);
            self.plateau = self.believed;
            if search.is_young {
                self.enter(Mode::Ramp);
            }
        }
    }

    /// The server says its limit. That is believed when it is news; refused below it later, we
    /// know better (others use it as well).
    pub(super) fn stated(&mut self, per_minute: u32) {
        let stated = f64::from(per_minute).clamp(LIMIT_MIN, LIMIT_MAX);
        if self.source == Source::Given {
            return;
        }
        let is_news = self.source != Source::Stated || (self.most - stated).abs() > 0.5;
        self.source = Source::Stated;
        self.most = stated;
        self.confidence = CONFIDENT;
        self.believed = if is_news { stated } else { self.believed.min(stated) };
        self.plateau = self.believed;
    }

    /// What was refused was not the rate: search on from at least `at_least`.
    pub(super) fn was_not_it(&mut self, at_least: f64) {
        self.believed = self.believed.max(at_least).min(self.most);
        self.confidence = 0;
        self.enter(Mode::Grow { from: self.believed });
    }

    fn enter(&mut self, mode: Mode) {
        self.mode = mode;
        self.since = Duration::ZERO;
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Rounded to a number of requests, at least one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
pub(super) fn whole(n: f64) -> u32 {
    n.round().clamp(1.0, f64::from(u32::MAX)) as u32
}
