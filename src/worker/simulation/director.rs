//! Starts processes, does to them what the plan has, and judges how they end.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinError, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until};

use super::fate::Fate;
use super::life::{self, Ended, Process};
use super::plan::Act;
use super::world::World;
use crate::job::JobState;
use crate::queue::{LoadPolicy, LostPolicy, QueueError, Scope, Selection};
use crate::worker::{Ending, Shutdown, Stop, WorkError};

/// Virtual time in which everything must be over.
const TIME_MAX: Duration = Duration::from_hours(6);
/// Acts in one simulation: who describes jobs anew for ever, faster than a slow lane makes them, is never
/// done.
const ACTS_MAX: u32 = 60;
/// Polls in which the parts of a process that was killed are gone.
const POLLS_MAX: u32 = 200;
/// How old an act of a person can be that a process did not hear of before it ended.
const JUST_NOW: Duration = Duration::from_secs(2);

/// See the module's documentation.
pub(super) struct Director {
    world: Arc<World>,
    dead: UnboundedReceiver<usize>,
    tasks: JoinSet<Ended>,
    /// By number.
    processes: Vec<Process>,
    /// Descriptions of jobs, by ordinal.
    descriptions: Vec<u64>,
    /// When a person last gave work back.
    returned: Option<Instant>,
    acts: u32,
}

impl Director {
    pub(super) fn new(world: Arc<World>, dead: UnboundedReceiver<usize>) -> Self {
        let descriptions = vec![1; world.plan.jobs as usize];
        Self {
            world,
            dead,
            tasks: JoinSet::new(),
            processes: Vec::new(),
            descriptions,
            returned: None,
            acts: 0,
        }
    }

    /// From an empty queue to the end of the last process.
    pub(super) async fn run(mut self) -> Result<(), QueueError> {
        self.load().await?;
        let end = Instant::now() + TIME_MAX;
        let mut next_act = self.next_act();
        loop {
            if self.tasks.is_empty() {
                if self.world.with(|state| state.calm || !state.violations.is_empty()) {
                    break;
                }
                let calm = self.processes.len() >= self.world.plan.lives;
                self.begin_anew(calm);
                let left = self.world.plan.lives - self.processes.len().min(self.world.plan.lives);
                for _ in 0..left.clamp(1, self.world.plan.beside) {
                    self.start();
                }
            }
            tokio::select! {
                biased;
                Some(life) = self.dead.recv() => self.bury_parts(life).await,
                Some(joined) = self.tasks.join_next() => self.ended(joined).await?,
                () = sleep_until(next_act) => {
                    self.act().await?;
                    next_act = self.next_act();
                }
                () = sleep_until(end) => {
                    self.world.with(|state| state.violation(0, "it never ends"));
                    break;
                }
            }
        }
        self.tasks.shutdown().await;
        let is_sound = self.world.with(|state| state.violations.is_empty());
        if is_sound { self.world.last_audit().await } else { Ok(()) }
    }

    fn next_act(&self) -> Instant {
        let pause = self.world.with(|state| state.rng.random_range(50..9_000));
        Instant::now() + Duration::from_millis(pause)
    }

    async fn load(&mut self) -> Result<(), QueueError> {
        let plan = &self.world.plan;
        let jobs = (0..).zip(&self.descriptions).map(|(n, description)| plan.job(n, *description)).collect();
        let _turn = self.world.turn().await;
        self.world.queue.stage(jobs).await?;
        self.world.queue.apply_load(LoadPolicy::default()).await.map(drop)
    }

    /// Between two starts somebody may have paid, or mended the key; before the last, all is well.
    fn begin_anew(&self, calm: bool) {
        self.world.with(|state| {
            state.calm = calm;
            if calm || state.rng.random_bool(0.7) {
                state.weather = None;
            }
        });
    }

    fn start(&mut self) {
        let life = self.processes.len();
        let calm = self.world.with(|state| {
            state.books.lives.push(super::books::Life::default());
            let calm = state.calm;
            state.note(life, if calm { "starts, the last one" } else { "starts" });
            calm
        });
        self.processes.push(life::start(&self.world, life, calm, &mut self.tasks));
    }

    fn living(&self) -> Vec<usize> {
        self.world.with(|state| {
            let lives = state.books.lives.iter().enumerate();
            lives.filter(|(_, life)| !life.dead && !life.over).map(|(n, _)| n).collect()
        })
    }

    /// A process has died: waits until nothing is left of it, so that its locks are free.
    async fn bury_parts(&mut self, life: usize) {
        let turn = self.world.turn().await;
        self.processes[life].task.abort();
        drop(turn);
        for _ in 0..POLLS_MAX {
            if self.processes[life].left.strong_count() == 0 {
                return;
            }
            yield_now().await;
        }
        self.world.with(|state| state.violation(life, "something of it goes on after its death"));
    }

    async fn act(&mut self) -> Result<(), QueueError> {
        let world = Arc::clone(&self.world);
        if world.plan.acts.is_empty() || world.with(|state| state.calm) || self.acts >= ACTS_MAX {
            return Ok(());
        }
        self.acts += 1;
        let living = self.living();
        let (act, one, job, jump) = world.with(|state| {
            let rng = &mut state.rng;
            let act = world.plan.acts[rng.random_range(0..world.plan.acts.len())];
            let one = living[rng.random_range(0..living.len())];
            let hours = rng.random_range(-30..30) * 3_600_000;
            (act, one, rng.random_range(0..world.plan.jobs), hours)
        });
        let named = Selection { names: vec![format!("j{job}").parse().expect("legal")], states: vec![] };
        world.with(|state| state.note(one, &format!("{act:?}, job {job}")));
        match act {
            Act::Kill => world.dies(one, "by force"),
            Act::StartBeside => {
                if living.len() < world.plan.beside && self.processes.len() < world.plan.lives {
                    self.start();
                }
            }
            Act::Drain => self.interrupt(one, Shutdown::Drain),
            Act::Abort => self.interrupt(one, Shutdown::Abort),
            Act::Cancel => {
                let _turn = world.turn().await;
                world.queue.cancel(&named).await?;
                let row = world.queue.job(&named.names[0]).await?;
                world.with(|state| {
                    let running = row.filter(|row| row.state == JobState::Running);
                    let now = Instant::now();
                    running.map(|row| state.books.cancelled.entry(row.job.0).or_insert(now));
                });
            }
            Act::Retry => {
                use JobState::{Cancelled, Failed, Held, Refused};
                let states = vec![Failed, Refused, Held, Cancelled];
                world.reads(world.queue.retry(&Selection { names: vec![], states })).await?;
                self.returned = Some(Instant::now());
            }
            Act::Redescribe => {
                self.descriptions[job as usize] += 1;
                self.load().await?;
                self.returned = Some(Instant::now());
            }
            Act::ClockJump => world.clock.jump(jump),
            Act::Bury => self.bury_alive(one).await?,
        }
        Ok(())
    }

    fn interrupt(&self, life: usize, how: Shutdown) {
        self.world.with(|state| {
            let life = &mut state.books.lives[life];
            life.interrupted = true;
            life.enough.get_or_insert(Instant::now());
        });
        self.processes[life].shutdown.send_if_modified(|now| {
            let raised = how > *now;
            *now = how.max(*now);
            raised
        });
    }

    /// Another process takes one for dead that is not, as when its lock was lost.
    async fn bury_alive(&self, life: usize) -> Result<(), QueueError> {
        let heir = self.living().into_iter().find(|other| *other != life);
        let turn = self.world.turn().await;
        let ids = self.world.with(|state| {
            let worker =
                |life: usize| state.books.lives[life].worker.filter(|_| !state.books.lives[life].buried);
            // What it had planned, the heir would not know of.
            let plans = state.books.leases_of(life).any(|lease| lease.settled);
            heir.filter(|_| !plans).and_then(|heir| Some((heir, worker(heir)?, worker(life)?)))
        });
        let Some((heir, heir_id, id)) = ids else { return Ok(()) };
        let rescued = self.world.queue.rescue(&[id], heir_id, LostPolicy::Retry).await;
        self.world.with(|state| {
            // Who has retired meanwhile cannot inherit.
            let Ok(rescued) = rescued else { return };
            state.books.lives[life].buried = true;
            state.note(life, "is taken for dead");
            if let Err(violation) = state.books.rescued(heir, &[id], &rescued) {
                state.violation(heir, &violation);
            }
        });
        drop(turn);
        Ok(())
    }

    /// Judges how a process ended.
    async fn ended(&mut self, joined: Result<Ended, JoinError>) -> Result<(), QueueError> {
        let (life, result) = match joined {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => return Ok(()),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let left = self.world.reads(self.world.queue.left(&Scope::default())).await?;
        let just_returned = self.returned.is_some_and(|at| at.elapsed() < JUST_NOW);
        self.world.with(|state| {
            let it = &mut state.books.lives[life];
            if it.dead {
                return;
            }
            it.over = true;
            let (buried, disk_failed, interrupted) = (it.buried, it.disk_failed, it.interrupted);
            let text = match &result {
                Ok(ending) => format!("{ending:?}"),
                Err(error) => format!("error: {error}"),
            };
            state.note(life, &format!("ends: {text}"));
            let met = |fate| {
                let mine = state.books.attempts.values().filter(|one| one.life == life);
                mine.filter_map(|one| one.request.as_ref()).any(|request| request.fate == fate)
            };
            let plan = &self.world.plan;
            let explained = match &result {
                Ok(Ending::Done) => {
                    just_returned || left.ready + left.snoozed + left.running + left.held == 0
                }
                Ok(Ending::Interrupted) => interrupted,
                Ok(Ending::Stopped(stop)) => match stop {
                    Stop::MoneyOut(_) => met(Fate::MoneyOut),
                    Stop::KeyRejected(_) => met(Fate::KeyRejected),
                    Stop::ModelUnavailable(_) => met(Fate::ModelGone),
                    Stop::CostCap { .. } => plan.cap.is_some() && !state.calm,
                    Stop::Failures { .. } => plan.failures_max.is_some() && !state.calm,
                    Stop::Parked { .. } => met(Fate::DayIsUsedUp),
                    Stop::Disk(_) => disk_failed || (plan.small_disk && !state.calm),
                    Stop::Held(_) => plan.lost == LostPolicy::Hold,
                    Stop::SameError { .. }
                    | Stop::Unreachable(_)
                    | Stop::Deadline
                    | Stop::Drained
                    | Stop::Prices { .. }
                    | Stop::Blocked { .. }
                    | Stop::OutOfFiles(_)
                    | Stop::Bucket(_) => false,
                },
                Err(WorkError::DeclaredDead | WorkError::Queue(QueueError::DeclaredDead(_))) => buried,
                Err(_) => false,
            };
            if !explained {
                state.violation(life, &format!("it ends without a reason: {text}; {left:?}"));
            }
            let leases = state.books.leases_of(life).count();
            if leases > 0 && !disk_failed {
                state.violation(life, &format!("it ends with {leases} leases"));
            }
            if state.books.lives[life].open > 0 {
                state.violation(life, "it ends with requests under way");
            }
        });
        Ok(())
    }
}
