//! One process: the real `work` on a watched queue and a server that is none.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::double::Server;
use super::queue::Watched;
use super::world::World;
use crate::gemini::{Client, Endpoint, ImageFetcher, Key, Timeouts};
use crate::job::{Clock, Provider};
use crate::output::{Buckets, Disk, Free};
use crate::queue::Queue;
use crate::worker::{Ending, Event, Observer, Shutdown, Work, WorkError, work};

/// What all parts of a process share: as long as one of them is left, so is this.
#[derive(Debug)]
pub(super) struct Anchor {
    pub(super) world: Arc<World>,
    pub(super) life: usize,
}

impl Anchor {
    /// Killed: whatever is still left of it does nothing more.
    pub(super) fn is_gone(&self) -> bool {
        self.world.with(|state| state.books.lives[self.life].dead)
    }
}

impl Observer for Anchor {
    fn event(&self, event: &Event) {
        self.world.with(|state| match event {
            Event::Ended { job, outcome, state: became, files, .. } => {
                state.note(self.life, &format!("{job} ended as {outcome}, is {became}, {files:?}"));
            }
            Event::Rescued { lost, published } => {
                state.note(self.life, &format!("rescued: {lost} lost, {published} published"));
            }
            Event::LaneClosed { model, for_, .. } => {
                state.note(self.life, &format!("{model} is closed for {for_:?}"));
            }
            Event::Draining { why, .. } => state.note(self.life, &format!("drains: {why}")),
            Event::LeaseLost { job } => state.note(self.life, &format!("lost its lease on {job}")),
            Event::Warning(text) => state.note(self.life, &format!("warns: {text}")),
            Event::Started { .. } | Event::Lanes(_) => {}
        });
    }
}

/// Free space, drawn anew each time.
#[derive(Debug)]
struct SimulatedDisk(Arc<Anchor>);

impl Disk for SimulatedDisk {
    fn free(&self, _folder: &Path) -> Option<Free> {
        self.0.world.free_bytes().map(|bytes| Free { bytes, files: None })
    }
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) task: AbortHandle,
    pub(super) shutdown: watch::Sender<Shutdown>,
    /// Of its [`Anchor`].
    pub(super) left: std::sync::Weak<Anchor>,
}

/// How a process ended.
pub(super) type Ended = (usize, Result<Ending, WorkError>);

/// Starts the process with the number `life`.
pub(super) fn start(world: &Arc<World>, life: usize, calm: bool, tasks: &mut JoinSet<Ended>) -> Process {
    let anchor = Arc::new(Anchor { world: Arc::clone(world), life });
    let (shutdown, raised) = watch::channel(Shutdown::No);
    let (client, fetcher) = tools();
    let inner = Arc::clone(&world.queue);
    let work_on = Work {
        queue: Arc::new(Watched { anchor: Arc::clone(&anchor), inner }) as Arc<dyn Queue>,
        clients: vec![client.answered_by(Arc::new(Server { anchor: Arc::clone(&anchor) }))],
        fetcher,
        results: world.folder.clone().into(),
        objects: Arc::new(Buckets::patient()),
        disk: Arc::new(SimulatedDisk(Arc::clone(&anchor))),
        clock: Arc::clone(&world.clock) as Arc<dyn Clock>,
        observer: Arc::clone(&anchor) as Arc<dyn Observer>,
        shutdown: raised,
        config: world.plan.config(life as u64, calm),
    };
    let left = Arc::downgrade(&anchor);
    drop(anchor);
    let task = tasks.spawn(async move { (life, work(work_on).await) });
    Process { task, shutdown, left }
}

/// Made once: setting TLS up takes longer than a simulation.
fn tools() -> (Client, ImageFetcher) {
    static TOOLS: OnceLock<(Client, ImageFetcher)> = OnceLock::new();
    let make = || {
        let base_url: url::Url = "http://127.0.0.1:9".parse().expect("a URL");
        let key = Key::new("a-key-of-the-simulation").expect("a key");
        let timeouts = Timeouts {
            idle: std::time::Duration::from_secs(9),
            total: std::time::Duration::from_secs(30),
            ..Timeouts::default()
        };
        let endpoint = Endpoint { provider: Provider::Simulator, base_url: base_url.clone(), key };
        let client = Client::new(endpoint, timeouts).expect("a client");
        (client, ImageFetcher::new(base_url, timeouts).expect("a fetcher"))
    };
    TOOLS.get_or_init(make).clone()
}
