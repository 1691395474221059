//! What all processes of a simulation share: time, chance, the folder, the queue, the books and
//! the trace.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::books::Books;
use super::fate::Fate;
use super::plan::{NOON, Plan};
use crate::job::{Clock, JobState, Timestamp};
use crate::output::RunFolder;
use crate::queue::{JobFilter, Queue, QueueError};

/// Calls of the queue in one simulation, beyond which it goes in circles.
const STEPS_MAX: u64 = 60_000;

/// The wall clock of all processes: it goes with virtual time, and jumps.
#[derive(Debug)]
pub(super) struct WallClock {
    /// Virtual time is that of a runtime, and the engine of SQLite has a thread of its own.
    runtime: tokio::runtime::Handle,
    began: Instant,
    jumped_ms: AtomicI64,
}

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let _virtual = self.runtime.enter();
        let jumped = Timestamp::from_ms(NOON.as_ms() + self.jumped_ms.load(Ordering::Relaxed));
        jumped.plus(self.began.elapsed())
    }
}

impl WallClock {
    pub(super) fn new() -> Self {
        Self {
            runtime: tokio::runtime::Handle::current(),
            began: Instant::now(),
            jumped_ms: AtomicI64::new(0),
        }
    }

    pub(super) fn jump(&self, ms: i64) {
        self.jumped_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

/// What happens to a call of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strike {
    None,
    DeathBefore,
    DeathAfter,
    Disk,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) clock: Arc<WallClock>,
    pub(super) folder: RunFolder,
    pub(super) queue: Arc<dyn Queue>,
    state: Mutex<State>,
    turn: tokio::sync::Mutex<()>,
    deaths: mpsc::UnboundedSender<usize>,
    /// The queue works in real time, which virtual time must wait for.
    holds_time: bool,
}

/// What changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: StdRng,
    pub(super) books: Books,
    /// What the server says to everything until somebody acts.
    pub(super) weather: Option<Fate>,
    /// The last process runs: nothing is done to it any more.
    pub(super) calm: bool,
    /// When the server admitted requests, by model.
    pub(super) admitted: BTreeMap<String, Vec<Instant>>,
    pub(super) trace: Vec<String>,
    pub(super) violations: Vec<String>,
    began: Instant,
    steps: u64,
}

impl State {
    /// Adds a line to the trace.
    pub(super) fn note(&mut self, life: usize, what: &str) {
        let at = self.began.elapsed().as_millis();
        self.trace.push(format!("{at:>8} ms  process {life}  {what}"));
    }

    /// Something does not fit.
    pub(super) fn violation(&mut self, life: usize, what: &str) {
        self.note(life, &format!("VIOLATION: {what}"));
        self.violations.push(what.to_owned());
    }
}

/// The turn to use the queue: one call at a time, so that their order is the seed's.
#[derive(Debug)]
pub(super) struct Turn<'w> {
    _turn: tokio::sync::MutexGuard<'w, ()>,
    /// See [`hold_time`].
    _hold: Option<std::sync::mpsc::Sender<()>>,
}

/// As long as the answer lives, a thread waits for its end, and virtual time for the thread.
pub(super) fn hold_time() -> std::sync::mpsc::Sender<()> {
    let (hold, wait) = std::sync::mpsc::channel::<()>();
    drop(tokio::task::spawn_blocking(move || wait.recv()));
    hold
}

impl World {
    pub(super) fn new(
        plan: Plan,
        folder: RunFolder,
        (queue, holds_time): (Arc<dyn Queue>, bool),
        clock: Arc<WallClock>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<usize>) {
        let (deaths, dead) = mpsc::unbounded_channel();
        let state = State {
            rng: StdRng::seed_from_u64(plan.seed.wrapping_mul(31).wrapping_add(7)),
            books: Books::default(),
            weather: None,
            calm: false,
            admitted: BTreeMap::new(),
            trace: Vec::new(),
            violations: Vec::new(),
            began: Instant::now(),
            steps: 0,
        };
        let turn = tokio::sync::Mutex::new(());
        let state = Mutex::new(state);
        (Arc::new(Self { plan, clock, folder, queue, state, turn, deaths, holds_time }), dead)
    }

    pub(super) fn with<T>(&self, step: impl FnOnce(&mut State) -> T) -> T {
        step(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn turn(&self) -> Turn<'_> {
        let turn = self.turn.lock().await;
        Turn { _turn: turn, _hold: self.holds_time.then(hold_time) }
    }

    /// Asks the queue something for the simulation itself.
    pub(super) async fn reads<T>(&self, call: impl Future<Output = T>) -> T {
        let _turn = self.turn().await;
        call.await
    }

    /// How long a call of the queue takes, and what happens to it.
    pub(super) fn step(&self, life: usize) -> (Duration, Strike, Duration) {
        self.with(|state| {
            state.steps += 1;
            if state.steps > STEPS_MAX {
                if state.steps == STEPS_MAX + 1 {
                    state.violation(life, "it goes in circles");
                }
                return (Duration::from_hours(1), Strike::None, Duration::ZERO);
            }
            let (calm, rng) = (state.calm, &mut state.rng);
            let strike = match () {
                () if !calm && rng.random_bool(self.plan.death) => {
                    if rng.random_bool(0.5) {
                        Strike::DeathBefore
                    } else {
                        Strike::DeathAfter
                    }
                }
                () if !calm && rng.random_bool(self.plan.disk) => Strike::Disk,
                () => Strike::None,
            };
            let mut pause = || Duration::from_millis(rng.random_range(0..4));
            (pause(), strike, pause())
        })
    }

    /// How long a step on the disk takes, and after how many crash points the process dies of it.
    pub(super) fn disk_step(&self) -> (Duration, Option<u32>, Duration) {
        self.with(|state| {
            let rng = &mut state.rng;
            let dies = !state.calm && rng.random_bool((self.plan.death * 4.0).min(1.0));
            let fuse = dies.then(|| rng.random_range(0..5));
            let mut pause = || Duration::from_millis(rng.random_range(1..30));
            (pause(), fuse, pause())
        })
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        const MIB: u64 = 1024 * 1024;
        if !self.plan.small_disk {
            return None;
        }
        self.with(|state| {
            let mib = [100, 100, 40, 17, 9, 5][state.rng.random_range(0..6)];
            (!state.calm).then_some(mib * MIB)
        })
    }

    /// Whether a process was told of a cap.
    pub(super) fn is_capped(&self, _life: usize) -> bool {
        self.plan.cap.is_some() && !self.with(|state| state.calm)
    }

    /// The one process that lives, if it is one.
    pub(super) fn only_life(&self) -> Option<usize> {
        self.with(|state| {
            let mut living = (0..).zip(&state.books.lives).filter(|(_, life)| !life.dead && !life.over);
            let (only, _) = living.next()?;
            living.next().is_none().then_some(only)
        })
    }

    /// A process dies now; what is left of it is removed as soon as possible and does nothing.
    pub(super) fn dies(&self, life: usize, where_: &str) {
        self.with(|state| {
            state.note(life, &format!("dies {where_}"));
            state.books.lives[life].dead = true;
        });
        let _ = self.deaths.send(life);
    }

    /// Compares the queue with the books.
    pub(super) async fn audit(&self) {
        let turn = self.turn().await;
        let running = JobFilter { states: vec![JobState::Running], ..JobFilter::default() };
        let rows = self.queue.jobs(&running, None, 1_000).await.unwrap_or_default();
        let ledger = self.queue.attempts(None, None, 10_000).await.unwrap_or_default();
        drop(turn);
        self.with(|state| {
            let held: Vec<i64> = state.books.leases.keys().copied().collect();
            let mut found: Vec<i64> = rows.iter().map(|row| row.job.0).collect();
            found.sort_unstable();
            if held != found {
                state.violation(0, &format!("jobs {found:?} run, the books have {held:?}"));
            }
            let differs = ledger.iter().find(|row| {
                let known = state.books.attempts.get(&row.attempt.0);
                known.is_none_or(|known| known.outcome != row.outcome || known.name != row.job)
            });
            if let Some(row) = differs {
                let known = state.books.attempts.get(&row.attempt.0).map(|one| one.outcome);
                let (attempt, outcome) = (row.attempt, row.outcome);
                state.violation(0, &format!("attempt {attempt} is {outcome}, in the books {known:?}"));
            }
            if ledger.len() != state.books.attempts.len() {
                state.violation(0, "the ledger has not as many attempts as the books");
            }
        });
    }

    /// What must hold when all is over.
    pub(super) async fn last_audit(&self) -> Result<(), QueueError> {
        self.audit().await;
        let _turn = self.turn().await;
        let jobs = self.queue.jobs(&JobFilter::default(), None, 1_000).await?;
        let ledger = self.queue.attempts(None, None, 100_000).await?;
        let tally = self.queue.tally().await?;
        self.with(|state| {
            let mut wrong = super::closing::of_ledger(&state.books, &ledger, &tally);
            wrong.extend(super::closing::of_jobs(&self.plan, &state.books, &jobs, &ledger));
            wrong.extend(super::closing::of_files(&self.plan, &self.folder, &jobs));
            for violation in &wrong {
                state.violation(0, violation);
            }
        });
        Ok(())
    }
}

/// The engine of SQLite asks from a thread of its own, where tokio's time would be the machine's.
#[tokio::test(start_paused = true)]
async fn the_clock_is_virtual_on_every_thread() {
    let clock = Arc::new(WallClock::new());
    tokio::time::advance(std::time::Duration::from_hours(1)).await;
    let asked = Arc::clone(&clock);
    let there = std::thread::spawn(move || asked.now()).join().expect("no panic");
    assert_eq!(there, clock.now());
}
