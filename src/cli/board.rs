//! What is known about a run while it goes on: filled by its events, read by whoever draws it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::lane_line::{self, Shown};
use super::terminal::Terminal;
use super::text;
use crate::job::{AttemptId, AttemptOutcome, JobName, JobState, Micros, ModelName, printable};
use crate::worker::{Event, LaneView, Observer, Progress};

/// The rate is that of this time.
const RATE_WINDOW: Duration = Duration::from_secs(120);
/// Ends of jobs that the rate is taken from.
const ENDS_MAX: usize = 4_096;
/// Lines about tries that come again, in each [`NOTES_WINDOW`]: a storm must not bury the rest.
const NOTES_PER_WINDOW_MAX: u32 = 10;
const NOTES_WINDOW: Duration = Duration::from_secs(10);
/// Characters of a server's reason for a wait; the whole of it is in `attempts.csv`.
const WHY_CHARS_MAX: usize = 120;
/// A wait that would be shown as none.
const SOON: Duration = Duration::from_millis(50);
/// A rate over less than this is a guess, and not shown.
const RATE_AFTER: Duration = Duration::from_secs(3);
/// Lines about jobs that failed; the summary groups them all.
const FAILURES_TOLD_MAX: u64 = 50;

/// A run while it goes on.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<State>,
    terminal: Terminal,
    /// Nothing is told line by line.
    quiet: bool,
}

/// The figures of a run.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Jobs in scope.
    pub(super) total: u64,
    /// Jobs that have ended.
    pub(super) done: u64,
    /// Cost so far, over all runs.
    pub(super) cost: Micros,
    /// Requests that were turned away in this run.
    pub(super) throttled: u64,
    /// Jobs that failed or were refused in this run.
    pub(super) failed: u64,
    /// Requests on their way, oldest first.
    pub(super) running: Vec<Running>,
    /// How the lanes are doing.
    pub(super) lanes: Vec<LaneView>,
    /// Jobs that another worker took over.
    pub(super) leases_lost: u64,
    /// No more requests leave.
    pub(super) draining: bool,
    /// When this run began.
    started: Instant,
    /// When jobs ended, and with how many images.
    ends: VecDeque<(Instant, u64)>,
    /// Lines told since, how many.
    notes: (Instant, u32),
    failures_told: u64,
}

/// A request on its way.
#[derive(Debug, Clone)]
pub(super) struct Running {
    attempt: AttemptId,
    pub(super) job: JobName,
    pub(super) model: ModelName,
    pub(super) progress: Arc<Progress>,
}

/// Where a run begins.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Start {
    pub(super) total: u64,
    pub(super) done: u64,
    pub(super) cost: Micros,
}

impl State {
    fn new(start: Start) -> Self {
        let now = Instant::now();
        Self {
            total: start.total,
            done: start.done,
            cost: start.cost,
            throttled: 0,
            failed: 0,
            running: Vec::new(),
            lanes: Vec::new(),
            leases_lost: 0,
            draining: false,
            started: now,
            ends: VecDeque::new(),
            notes: (now, 0),
            failures_told: 0,
        }
    }

    /// Images a minute of late; `None` while that is a guess.
    pub(super) fn images_per_minute(&self) -> Option<f64> {
        let (window, recent) = self.recent();
        let rate = text::per_minute(recent.map(|(_, images)| *images).sum(), window);
        (window >= RATE_AFTER && rate > 0.0).then_some(rate)
    }

    /// How long the rest will take at the present rate.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let (window, recent) = self.recent();
        let rate = text::per_minute(recent.count() as u64, window);
        let left = self.total.saturating_sub(self.done);
        text::time_left(left, rate, self.lanes.iter().map(|lane| lane.state.limit_per_minute))
            .filter(|_| window >= RATE_AFTER)
    }

    fn recent(&self) -> (Duration, impl Iterator<Item = &(Instant, u64)>) {
        let window = self.started.elapsed().min(RATE_WINDOW);
        let kept_all = self.ends.len() < ENDS_MAX;
        let window = match self.ends.front() {
            Some((oldest, _)) if !kept_all => oldest.elapsed().min(window),
            _ => window,
        };
        (window, self.ends.iter().filter(move |(at, _)| at.elapsed() <= window))
    }

    fn ended(&mut self, state: JobState, outcome: AttemptOutcome, images: u64) {
        self.throttled += u64::from(outcome == AttemptOutcome::Throttled);
        self.failed += u64::from(matches!(state, JobState::Failed | JobState::Refused));
        match state {
            JobState::Cancelled => self.total = self.total.saturating_sub(1),
            state if state.is_final() => {
                self.done += 1;
                self.ends.push_back((Instant::now(), images));
                if self.ends.len() > ENDS_MAX {
                    self.ends.pop_front();
                }
            }
            _ => {}
        }
    }

    /// Whether one more line may be told now.
    fn may_note(&mut self) -> bool {
        if self.notes.0.elapsed() > NOTES_WINDOW {
            self.notes = (Instant::now(), 0);
        }
        self.notes.1 += 1;
        self.notes.1 <= NOTES_PER_WINDOW_MAX
    }
}

impl Board {
    pub(super) fn new(start: Start, terminal: Terminal, quiet: bool) -> Self {
        Self { state: Mutex::new(State::new(start)), terminal, quiet }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Figures for a person: none of them can be torn.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The figures as they are now.
    pub(super) fn state(&self) -> State {
        self.lock().clone()
    }

    fn tell(&self, line: fmt::Arguments<'_>) {
        if !self.quiet {
            self.terminal.note(&line.to_string());
        }
    }
}

impl Observer for Board {
    fn event(&self, event: &Event) {
        match event {
            Event::Rescued { lost, published } => {
                let lost = text::count(*lost, "request");
                let published = text::count(*published, "job");
                self.tell(format_args!(
                    "an earlier run was cut off: {lost} lost (possibly billed), {published} finished from the spool"
                ));
            }
            Event::Started { attempt, job, model, progress } => self.lock().running.push(Running {
                attempt: *attempt,
                job: job.clone(),
                model: model.clone(),
                progress: Arc::clone(progress),
            }),
            Event::Ended { attempt, job, outcome, state, message, again_in, files, cost, .. } => {
                let line = {
                    let mut board = self.lock();
                    board.running.retain(|one| one.attempt != *attempt);
                    board.ended(*state, *outcome, files.len() as u64);
                    board.cost += cost.unwrap_or_default();
                    ending_line(&mut board, (job, *state, *outcome), message.as_deref(), *again_in)
                };
                if let Some(line) = line {
                    self.tell(format_args!("{line}"));
                }
            }
            Event::LaneClosed { model, for_, why } => {
                if self.lock().may_note() {
                    let why = text::cut(why, WHY_CHARS_MAX);
                    self.tell(format_args!("{model} waits {}: {}", text::span(*for_), printable(&why)));
                }
            }
            Event::Lanes(lanes) => self.lock().lanes.clone_from(lanes),
            Event::Draining { why, in_flight } => {
                self.lock().draining = true;
                let requests = text::count(*in_flight as u64, "request");
                self.tell(format_args!(
                    "nothing more is sent: {}; {requests} still on the way",
                    printable(why)
                ));
            }
            Event::LeaseLost { job } => {
                self.lock().leases_lost += 1;
                self.terminal
                    .note(&format!("warning: job {job}: its lease was lost, so its result is not recorded"));
            }
            // A warning is worth a line even to those who want none.
            Event::Warning(text) => self.terminal.note(&format!("warning: {}", printable(text))),
        }
    }
}

/// A lane as a line for a person.
pub(super) fn lane_line(lane: &LaneView) -> String {
    lane_line::line(&Shown {
        model: lane.model.as_str(),
        key_id: lane.key_id.as_deref(),
        sent_last_minute: lane.state.rate_per_minute,
        per_minute: lane.state.limit_per_minute,
        source: lane.source,
        in_flight: lane.state.in_flight,
        in_flight_max: lane.state.ceiling,
        waits: lane.waits.as_ref().map(|(wait, why)| (*wait, why.as_str())),
    })
}

/// What is told about the end of an attempt, if anything.
fn ending_line(
    board: &mut State,
    (job, state, outcome): (&JobName, JobState, AttemptOutcome),
    message: Option<&str>,
    again_in: Option<Duration>,
) -> Option<String> {
    let message = message.map_or_else(|| outcome.to_string(), |text| printable(text).to_string());
    match state {
        JobState::Failed | JobState::Refused | JobState::Held | JobState::Skipped => {
            board.failures_told += 1;
            match board.failures_told {
                ..=FAILURES_TOLD_MAX => Some(format!("{job} {state}: {message}")),
                n if n == FAILURES_TOLD_MAX + 1 => {
                    Some("more jobs failed; the summary has them, as has `nightpress jobs`".to_owned())
                }
                _ => None,
            }
        }
        // The lane says when a throttled job goes on.
        JobState::Pending if outcome != AttemptOutcome::Throttled && outcome != AttemptOutcome::Aborted => {
            let again = match again_in {
                // Nothing more is sent, or its lane is shut for good.
                wait if board.draining || wait == Some(Duration::ZERO) => {
                    "; waits for the next run".to_owned()
                }
                Some(wait) if wait < SOON => "; again at once".to_owned(),
                Some(wait) => format!("; again in {}", text::span(wait)),
                None => String::new(),
            };
            board.may_note().then(|| format!("{job}: {message}{again}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(job: &str, state: JobState, outcome: AttemptOutcome) -> Event {
        Event::Ended {
            attempt: AttemptId(1),
            job: job.parse().expect("an id"),
            outcome,
            state,
            message: Some("http_503: \u{1b}[31moverloaded".to_owned()),
            again_in: Some(Duration::from_millis(1_300)),
            files: vec!["a.png".to_owned()],
            cost: Some(Micros(1_000)),
            took: Duration::from_secs(1),
        }
    }

    #[test]
    fn every_end_is_counted_once_and_where_it_belongs() {
        let start = Start { total: 10, done: 4, cost: Micros(500) };
        let board = Board::new(start, Terminal::default(), true);
        board.event(&ended("a", JobState::Succeeded, AttemptOutcome::Succeeded));
        board.event(&ended("b", JobState::Pending, AttemptOutcome::Throttled));
        board.event(&ended("c", JobState::Failed, AttemptOutcome::Failed));
        board.event(&ended("d", JobState::Cancelled, AttemptOutcome::Aborted));
        let state = board.state();
        assert_eq!((state.total, state.done, state.throttled, state.failed), (9, 6, 1, 1));
        assert_eq!(state.cost, Micros(4_500));
    }

    #[test]
    fn lines_are_harmless_and_bounded() {
        let mut state = State::new(Start::default());
        let job = "hero".parse().expect("an id");
        let what = (&job, JobState::Pending, AttemptOutcome::Transient);
        let mut line = || ending_line(&mut state, what, Some("\u{1b}[2J"), Some(Duration::from_secs(2)));
        assert_eq!(line().as_deref(), Some("hero: \\u{1b}[2J; again in 2.0 s"));
        let told = (0..100).filter_map(|_| line()).count();
        assert_eq!(told, 9, "a storm is cut short");
        let what = (&job, JobState::Failed, AttemptOutcome::Failed);
        let told = (0..200).filter_map(|_| ending_line(&mut state, what, None, None)).count();
        assert_eq!(told, 51);
    }

    #[test]
    fn a_job_that_is_not_sent_again_in_this_run_is_said_to_wait_for_the_next() {
        let job = "hero".parse().expect("an id");
        let line = |draining, outcome, wait_ms| {
            let mut state = State { draining, ..State::new(Start::default()) };
            let wait = Some(Duration::from_millis(wait_ms));
            ending_line(&mut state, (&job, JobState::Pending, outcome), Some("no"), wait).unwrap_or_default()
        };
        assert_eq!(line(false, AttemptOutcome::Transient, 2_000), "hero: no; again in 2.0 s");
        assert_eq!(line(false, AttemptOutcome::Transient, 20), "hero: no; again at once");
        assert_eq!(line(true, AttemptOutcome::Transient, 2_000), "hero: no; waits for the next run");
        assert_eq!(line(false, AttemptOutcome::Failed, 0), "hero: no; waits for the next run");
    }
}
