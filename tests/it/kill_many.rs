//! The kill matrix on PostgreSQL: four machines print one batch into one place, die at every step and at random
//! instants, and so does the database; then the books are checked against what the simulator saw.
//!
//! `NIGHTPRESS_SEED=n` begins at that seed, `NIGHTPRESS_KILLS=200` kills as often. A failure prints the case.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use futures_util::StreamExt as _;
use nightpress::job::{AttemptOutcome, CRASH_AT, CrashPoint, Digest, JobState};
use nightpress::queue::postgres::{Address, OpenOptions, PostgresQueue, SILENT_AFTER};
use nightpress::queue::{Access, AttemptRow, Identity, JobFilter, JobRow, Queue as _};
use nightpress::simulator::{Fault, FaultRule, LogEntry, Simulator, SimulatorConfig};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::kill::{OPEN_MAX, Process, SIGABRT, SIGKILL, files, from_env, manifest, scenario};
use crate::postgres::{self, Disk, Server};
use crate::press::KEY;

const MACHINES: usize = 4;
const JOBS: usize = 12;
/// Batches that are worked on beside each other.
const BESIDE: usize = 2;
/// Random instants of one batch: too few for any job to be taken for `poison`, which is another test's subject.
const KILLS_A_BATCH: u64 = 4;

/// A batch of four machines, each with a folder of its own.
struct Studio {
    dir: tempfile::TempDir,
    simulator: Simulator,
    url: String,
    batch: String,
    /// Printed when a check fails.
    case: String,
    /// Most attempts that can have been lost.
    lost_max: usize,
}

impl Studio {
    /// A batch that is loaded.
    async fn new(server: &Server, case: String) -> Self {
        let mut wild = scenario();
        wild.latency.median_ms = 12;
        wild.faults.push(FaultRule { probability: Some(0.1), ..FaultRule::always(Fault::Http503) });
        let simulator = Simulator::start(SimulatorConfig { scenario: wild, ..SimulatorConfig::default() });
        let simulator = simulator.await.expect("the simulator starts");
        let dir = tempfile::tempdir().expect("temp dir");
        for machine in 0..MACHINES {
            fs::create_dir(dir.path().join(format!("m{machine}"))).expect("creates");
        }
        let mut jobs = String::new();
        for n in 0..JOBS {
            let two = if n % 5 == 0 { " <two_images>" } else { "" };
            jobs += &manifest(&[(&format!("j{n:02}"), &format!("picture {n}{two}"), "")]);
        }
        fs::write(dir.path().join("m0/m.jsonl"), jobs).expect("writes");
        let url = server.url();
        let studio = Self { dir, simulator, url, batch: postgres::unique("kill"), case, lost_max: 0 };
        let results = format!("file://{}", studio.dir.path().join("results").display());
        let loaded = studio.start(0, &["load", "m.jsonl", "-o", &results], None).end().await;
        studio.ended_well(&loaded);
        studio
    }

    fn start(&self, machine: usize, args: &[&str], crash: Option<(CrashPoint, u32)>) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightpress"));
        command
            .args(args)
            .current_dir(self.dir.path().join(format!("m{machine}")))
            .env_remove("ANYFAST_API_KEY")
            .env_remove("GEMINI_API_KEY")
            .env("NIGHTPRESS_API_KEY", KEY)
            .env("NIGHTPRESS_PROVIDER", "anyfast")
            .env("NIGHTPRESS_BASE_URL", self.simulator.base_url())
            .env("NIGHTPRESS_QUEUE", &self.url)
            .env("NIGHTPRESS_BATCH", &self.batch)
            .env("NIGHTPRESS_SILENT_AFTER", "1s")
            .env("NIGHTPRESS_BACKOFF_BASE", "1ms")
            .env("NIGHTPRESS_CONCURRENCY", "3")
            .env("NIGHTPRESS_RPM", "600000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some((point, passage)) = crash {
            command.env(CRASH_AT, format!("{}:{passage}", point.name()));
        }
        Process(Some(command.spawn().expect("starts")))
    }

    fn work(&self, machine: usize) -> Process {
        self.start(machine, &["work"], None)
    }

    /// All machines work until nothing is left.
    async fn finish(&self) {
        for process in (0..MACHINES).map(|machine| self.work(machine)).collect::<Vec<_>>() {
            self.ended_well(&process.end().await);
        }
        // Whoever was taken for dead in the meantime leaves the rest to one that is not.
        self.ended_well(&self.work(0).end().await);
    }

    #[track_caller]
    fn ended_well(&self, output: &Output) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{}: {said}", self.case);
    }

    fn requests(&self) -> Vec<LogEntry> {
        self.simulator.log().entries
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("results/images")
    }

    async fn read(&self) -> (Vec<JobRow>, Vec<AttemptRow>) {
        let options = OpenOptions {
            address: Address::parse(&self.url).expect("an address"),
            batch: self.batch.clone(),
            access: Access::ReadOnly,
            identity: Identity::AsItIs,
            silent_after: SILENT_AFTER,
        };
        let queue = PostgresQueue::open(options).await.expect("opens");
        let jobs = queue.jobs(&JobFilter::default(), None, 10_000).await.expect("reads");
        let attempts = queue.attempts(None, None, 10_000).await.expect("reads");
        queue.close().await;
        (jobs, attempts)
    }

    /// Every job's images stand once, as the server sent them, and nothing else does.
    fn check_results(&self, jobs: &[JobRow]) {
        let case = &self.case;
        let requests = self.requests();
        let mut recorded = Vec::new();
        assert_eq!(jobs.len(), JOBS, "{case}");
        for job in jobs {
            assert_eq!(job.state, JobState::Succeeded, "{case}: {}", job.name);
            let images = if job.prompt.contains("<two_images>") { 2 } else { 1 };
            assert_eq!(job.outputs.len(), images, "{case}: {}", job.name);
            let of_job = requests.iter().filter(|entry| entry.prompt == job.prompt);
            let sent: HashSet<Digest> = of_job.flat_map(|entry| entry.images.clone()).collect();
            for output in &job.outputs {
                let path = self.images().join(&output.name);
                let bytes =
                    fs::read(&path).unwrap_or_else(|error| panic!("{case}: {}: {error}", path.display()));
                assert_eq!(Digest::of(&bytes), output.digest, "{case}: {}", output.name);
                assert!(sent.contains(&output.digest), "{case}: {} is another job's", output.name);
                recorded.push(path);
            }
        }
        recorded.sort();
        assert_eq!(files(&self.images()), recorded, "{case}: published twice");
    }

    /// Every request is in the ledger, and what is there besides was lost; every job was paid for once.
    fn check_ledger(&self, jobs: &[JobRow], attempts: &[AttemptRow]) {
        let case = &self.case;
        let requests = self.requests();
        let mut tries: BTreeMap<&str, Vec<AttemptOutcome>> = BTreeMap::new();
        for attempt in attempts {
            tries.entry(attempt.job.as_str()).or_default().push(attempt.outcome);
        }
        let count = |of: &[AttemptOutcome], one| of.iter().filter(|&&found| found == one).count();
        for job in jobs {
            let outcomes = tries.get(job.name.as_str()).map_or(&[][..], Vec::as_slice);
            assert_eq!(count(outcomes, AttemptOutcome::Sent), 0, "{case}: {} is open", job.name);
            assert_eq!(count(outcomes, AttemptOutcome::Succeeded), 1, "{case}: {} {outcomes:?}", job.name);
            let (rows, lost) = (outcomes.len(), count(outcomes, AttemptOutcome::Lost));
            // A request whose body had not arrived when its client died has no prompt.
            let asked = requests.iter().filter(|entry| entry.prompt == job.prompt).count();
            assert!(asked <= rows, "{case}: {}: the server saw {asked}, recorded are {outcomes:?}", job.name);
            assert!(
                rows - asked <= lost,
                "{case}: {}: the server saw only {asked} of {outcomes:?}",
                job.name
            );
        }
        let lost = attempts.iter().filter(|one| one.outcome == AttemptOutcome::Lost).count();
        assert!(lost <= self.lost_max, "{case}: {lost} were lost, at most {} can be", self.lost_max);
        let (rows, seen) = (attempts.len(), requests.len());
        assert!(seen <= rows && rows - seen <= lost, "{case}: {rows} rows, {seen} requests, {lost} lost");
    }

    async fn check_books(&self) {
        let (jobs, attempts) = self.read().await;
        self.check_results(&jobs);
        self.check_ledger(&jobs, &attempts);
        let sent = self.requests().len();
        self.ended_well(&self.work(1).end().await);
        assert_eq!(self.requests().len(), sent, "{}: a batch that was done was sent again", self.case);
    }
}

/// Points that a worker comes by, from where it has something to lose; what a rescue comes by is met by the others.
fn points() -> impl Iterator<Item = CrashPoint> {
    let begins = CrashPoint::ALL.iter().position(|point| point.name() == CrashPoint::WorkerRegistered.name());
    CrashPoint::ALL.iter().copied().skip(begins.expect("there"))
}

/// Whoever works comes by, also where nothing is left to do.
fn is_always_met(point: CrashPoint) -> bool {
    ["worker_registered", "swept", "before_claim", "run_ended", "worker_retired"].contains(&point.name())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_four_machines_dies_at_every_step_and_the_others_finish() {
    let Some(server) = postgres::shared() else { return };
    let cases = points().map(async |point| {
        let mut studio = Studio::new(server, format!("one of four at {}", point.name())).await;
        // All of them may be taken for dead where the machine of the test stands still.
        studio.lost_max = MACHINES * OPEN_MAX;
        let dying = studio.start(0, &["work"], Some((point, 1)));
        let others: Vec<Process> = (1..MACHINES).map(|machine| studio.work(machine)).collect();
        // The others may have been faster, so that it never came by.
        let dead = dying.end().await;
        let has_died = dead.status.signal() == Some(SIGABRT);
        let is_right = has_died || (dead.status.code() == Some(0) && !is_always_met(point));
        assert!(is_right, "{}: {}", studio.case, String::from_utf8_lossy(&dead.stderr));
        for other in others {
            let output = other.end().await;
            studio.ended_well(&output);
        }
        studio.finish().await;
        studio.check_books().await;
        has_died
    });
    let died: Vec<bool> = futures_util::stream::iter(cases).buffer_unordered(BESIDE).collect().await;
    let deaths = died.iter().filter(|died| **died).count();
    assert!(deaths >= 10, "{deaths} of {} came by their point", died.len());
}

/// Prints a batch whose machines are killed now and then, one or all, and whose database goes down at once.
async fn kill_at_random(server: &Server, seed: u64) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut studio = Studio::new(server, format!("seed {seed}")).await;
    let mut running: Vec<(usize, Process)> = Vec::new();
    let mut kills = 0;
    for _ in 0..KILLS_A_BATCH {
        for machine in 0..MACHINES {
            if running.iter().all(|(of, _)| *of != machine) {
                running.push((machine, studio.work(machine)));
            }
        }
        let moment = studio.requests().len() + rng.random_range(1..7);
        let what = rng.random_range(0..10);
        studio.case = format!("seed {seed}, {what} at request {moment}");
        let mut look = tokio::time::interval(Duration::from_millis(1));
        while studio.requests().len() < moment && !running.iter_mut().all(|(_, process)| process.has_ended())
        {
            look.tick().await;
        }
        if what < 3 {
            tokio::task::block_in_place(|| server.restart_at_once());
            continue;
        }
        let victims = if what < 5 { running.len() } else { 1 };
        for _ in 0..victims {
            let (_, mut victim) = running.swap_remove(rng.random_range(0..running.len()));
            victim.kill();
            let output = victim.end().await;
            if output.status.signal() == Some(SIGKILL) {
                kills += 1;
                studio.lost_max += OPEN_MAX;
            } else {
                studio.ended_well(&output);
            }
        }
    }
    for (_, process) in running {
        studio.ended_well(&process.end().await);
    }
    studio.finish().await;
    // Each may have been taken for dead once besides.
    studio.lost_max += MACHINES * OPEN_MAX;
    studio.check_books().await;
    kills
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_four_machines_any_may_be_killed_and_their_database_too() {
    let wanted = from_env("NIGHTPRESS_KILLS", 12);
    let first = from_env("NIGHTPRESS_SEED", 1);
    let (mut kills, mut seed) = (0, first);
    let Some(server) = postgres::start(Disk::Durable) else { return };
    while kills < wanted {
        kills += kill_at_random(&server, seed).await;
        seed += 1;
        assert!(seed - first <= 10 * wanted, "hardly a process was still alive when it was to be killed");
    }
}
