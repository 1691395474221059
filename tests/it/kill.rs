//! The kill matrix: the real program dies at every step of its protocol and at random instants, and
//! after each death the books are checked against what the simulator saw.
//!
//! `NIGHTPRESS_KILLS=200` kills as often at random instants, `NIGHTPRESS_SEED=n` from that seed. A
//! failure prints the seed and the case.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use futures_util::StreamExt as _;
use nightpress::job::{AttemptId, AttemptOutcome, CRASH_AT, CrashPoint, Digest, JobState, SystemClock};
use nightpress::output::RunFolder;
use nightpress::queue::sqlite::{OpenOptions, SqliteQueue, Synchronous};
use nightpress::queue::{Access, AttemptRow, Identity, JobFilter, JobRow, Queue as _, QueueError};
use nightpress::simulator::{
    Fault, FaultRule, Latency, LogEntry, Pictures, Scenario, Simulator, SimulatorConfig, StreamShape,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::press::KEY;

/// Requests in flight in one process.
const CONCURRENCY: usize = 3;
/// Attempts of one process that can be open: those that are answered are settled while the next
/// are claimed.
pub(crate) const OPEN_MAX: usize = 2 * CONCURRENCY;
/// Batches that are worked on beside each other.
const BESIDE: usize = 4;
/// Random instants of one batch.
const KILLS_A_BATCH: u64 = 5;
/// What a run folder holds when nobody works on it.
const AT_REST: [&str; 7] =
    ["attempts.csv", "images", "nightpress.log", "queue.db", "spool", "summary.json", "usage.csv"];

pub(crate) const SIGABRT: i32 = 6;
pub(crate) const SIGKILL: i32 = 9;

/// A batch in a folder of its own, and the server that it is printed by.
struct Batch {
    dir: tempfile::TempDir,
    simulator: Simulator,
    /// What a server saw of it before.
    before: Vec<LogEntry>,
    /// Printed when a check fails.
    case: String,
    /// Attempts that were open at a kill, by their numbers.
    open: BTreeMap<AttemptId, Revision>,
    /// Most attempts that can have been open at kills beside others that lived.
    open_beside_max: usize,
}

/// A job's id and the number of its revision.
type Revision = (String, i64);

/// A process that does not outlive its test.
pub(crate) struct Process(pub(crate) Option<Child>);

impl Process {
    pub(crate) fn kill(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().expect("kills");
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.as_mut().is_none_or(|child| child.try_wait().expect("asks").is_some())
    }

    /// Waits without holding up the simulator, which lives on this runtime.
    pub(crate) async fn end(mut self) -> Output {
        let child = self.0.take().expect("not waited for before");
        tokio::task::spawn_blocking(move || child.wait_with_output().expect("ends")).await.expect("joins")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Jobs of every kind that leaves files: as the manifest has them first, and as they are printed.
pub(crate) fn manifest(jobs: &[(&str, &str, &str)]) -> String {
    let line = |(id, prompt, more): &(&str, &str, &str)| {
        format!("{{\"id\": \"{id}\", \"prompt\": \"{prompt}\"{more}}}\n")
    };
    jobs.iter().map(line).collect()
}

const PNG_MODEL: &str = ", \"model\": \"gemini-2.5-flash-image\"";
const FIRST: [(&str, &str, &str); 3] = [
    ("replaced", "a pear", PNG_MODEL),
    ("fewer", "two <two_images> plums", ""),
    ("renamed", "a fig", ", \"output\": \"old/{{ id }}\""),
];
const SECOND: [(&str, &str, &str); 7] = [
    ("replaced", "a ripe pear", PNG_MODEL),
    ("fewer", "a single plum", ""),
    ("renamed", "a fig", ", \"output\": \"new/{{ id }}\""),
    ("edited", "this with a lemon", ", \"references\": [\"ref.png\"]"),
    ("pair", "two <two_images> quinces", ", \"references\": [\"ref.png\"]"),
    ("plain", "a bowl", ", \"output\": \"de/{{ id }}\""),
    ("last", "an empty table", ""),
];

pub(crate) fn scenario() -> Scenario {
    Scenario {
        latency: Latency { median_ms: 4, sigma: 0.5, ..Latency::default() },
        stream: StreamShape { chunk_bytes: 2048, chunk_delay_ms: 1, ..StreamShape::default() },
        pictures: Pictures { tiny: true, bytes: Some(12_000), ..Pictures::default() },
        faults: vec![FaultRule {
            jobs: Some("<two_images>".to_owned()),
            ..FaultRule::always(Fault::TwoImages)
        }],
        ..Scenario::default()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("creates");
    for entry in fs::read_dir(from).expect("lists").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copies");
        }
    }
}

/// All files below a folder; none if it is not there. A file may go while they are listed.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

impl Batch {
    async fn new(scenario: Scenario, jobs: &str) -> Self {
        let simulator = Simulator::start(SimulatorConfig { scenario, ..SimulatorConfig::default() })
            .await
            .expect("the simulator starts");
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join("m.jsonl"), jobs).expect("writes");
        let picture = image::RgbImage::from_pixel(8, 6, image::Rgb([200, 180, 9]));
        picture.save(dir.path().join("ref.png")).expect("writes");
        let (case, open) = (String::new(), BTreeMap::new());
        Self { dir, simulator, before: Vec::new(), case, open, open_beside_max: 0 }
    }

    /// A batch that was printed once and whose manifest has changed since.
    async fn changed() -> Self {
        let batch = Self::new(scenario(), &manifest(&FIRST)).await;
        batch.finish().await;
        fs::write(batch.dir.path().join("m.jsonl"), manifest(&SECOND)).expect("writes");
        batch
    }

    /// The same batch once more, in another folder and with a server that knows nothing of it.
    async fn copy(&self, case: String) -> Self {
        let copy = Self::new(scenario(), "").await;
        copy_folder(self.dir.path(), copy.dir.path());
        Self { before: self.requests(), case, ..copy }
    }

    fn folder(&self) -> RunFolder {
        RunFolder::new(self.dir.path().join("out"))
    }

    fn start(&self, args: &[&str], crash: Option<(CrashPoint, u32)>) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightpress"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("ANYFAST_API_KEY")
            .env_remove("GEMINI_API_KEY")
            .env("NIGHTPRESS_API_KEY", KEY)
            .env("NIGHTPRESS_BASE_URL", self.simulator.base_url())
            .env("NIGHTPRESS_BACKOFF_BASE", "1ms")
            .env("NIGHTPRESS_CONCURRENCY", CONCURRENCY.to_string())
            .env("NIGHTPRESS_RPM", "600000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some((point, passage)) = crash {
            command.env(CRASH_AT, format!("{}:{passage}", point.name()));
        }
        Process(Some(command.spawn().expect("starts")))
    }

    fn run(&self, crash: Option<(CrashPoint, u32)>) -> Process {
        self.start(&["run", "m.jsonl", "-o", "out"], crash)
    }

    /// Runs to the end.
    async fn finish(&self) {
        self.ended_well(&self.run(None).end().await);
    }

    /// Runs until it dies at this point.
    async fn crash_at(&mut self, point: CrashPoint, passage: u32) {
        let output = self.run(Some((point, passage))).end().await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.signal(), Some(SIGABRT), "{}: did not come by: {said}", self.case);
        self.all_are_dead().await;
    }

    /// Notes what the dead leave open.
    async fn all_are_dead(&mut self) {
        self.check_images();
        let (_, attempts) = self.read().await;
        let open: Vec<_> = attempts.iter().filter(|one| one.outcome == AttemptOutcome::Sent).collect();
        assert!(open.len() <= OPEN_MAX, "{}: {} are open", self.case, open.len());
        for attempt in open {
            self.open.insert(attempt.attempt, (attempt.job.to_string(), attempt.revision));
        }
    }

    #[track_caller]
    fn ended_well(&self, output: &Output) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{}: {said}", self.case);
    }

    /// Every request that servers saw of this batch.
    fn requests(&self) -> Vec<LogEntry> {
        let mut all = self.before.clone();
        all.extend(self.simulator.log().entries);
        all
    }

    /// Holds at any time: whatever stands in `images/` is whole and came from the server.
    fn check_images(&self) {
        let sent: HashSet<Digest> = self.requests().into_iter().flat_map(|entry| entry.images).collect();
        for path in files(&self.folder().images()) {
            // Renamed or replaced by one that is alive.
            let Ok(bytes) = fs::read(&path) else { continue };
            let shown = path.display();
            assert!(sent.contains(&Digest::of(&bytes)), "{}: {shown} is foreign or torn", self.case);
            image::load_from_memory(&bytes)
                .unwrap_or_else(|error| panic!("{}: {shown} does not decode: {error}", self.case));
        }
    }

    async fn read(&self) -> (Vec<JobRow>, Vec<AttemptRow>) {
        let options = OpenOptions {
            path: self.folder().queue(),
            access: Access::ReadOnly,
            identity: Identity::AsItIs,
            clock: std::sync::Arc::new(SystemClock),
            synchronous: Synchronous::Full,
        };
        let queue = match SqliteQueue::open(options).await {
            Ok(queue) => queue,
            Err(QueueError::Missing { .. }) => return (vec![], vec![]),
            Err(error) => panic!("{}: {error}", self.case),
        };
        let jobs = queue.jobs(&JobFilter::default(), None, 10_000).await.expect("reads");
        let attempts = queue.attempts(None, None, 10_000).await.expect("reads");
        queue.close().await;
        (jobs, attempts)
    }

    /// Holds when the batch is done and nobody works on it.
    async fn check_books(&self) {
        let case = &self.case;
        self.check_images();
        let (jobs, attempts) = self.read().await;
        self.check_results(&jobs);
        self.check_ledger(&jobs, &attempts);
        let mut left: Vec<_> = fs::read_dir(self.folder().path())
            .expect("lists")
            .map(|entry| entry.expect("lists").file_name().into_string().expect("UTF-8"))
            .collect();
        left.sort();
        assert_eq!(left, AT_REST, "{case}");
        let spooled: Vec<_> = fs::read_dir(self.folder().spool()).expect("lists").flatten().collect();
        assert!(spooled.is_empty(), "{case}: left in the spool: {spooled:?}");
        self.check_reports(attempts.len()).await;
    }

    /// Every job's images once, as the server sent them, and nothing else.
    fn check_results(&self, jobs: &[JobRow]) {
        let case = &self.case;
        let requests = self.requests();
        let mut recorded = Vec::new();
        for job in jobs {
            assert_eq!(job.state, JobState::Succeeded, "{case}: {}", job.name);
            let images = if job.prompt.contains("<two_images>") { 2 } else { 1 };
            assert_eq!(job.outputs.len(), images, "{case}: {}", job.name);
            let sent: HashSet<Digest> = requests
                .iter()
                .filter(|entry| entry.prompt == job.prompt)
                .flat_map(|entry| entry.images.clone())
                .collect();
            for output in &job.outputs {
                let path = self.folder().images().join(&output.name);
                let bytes =
                    fs::read(&path).unwrap_or_else(|error| panic!("{case}: {}: {error}", path.display()));
                assert_eq!(Digest::of(&bytes), output.digest, "{case}: {}", output.name);
                assert!(sent.contains(&output.digest), "{case}: {} is another job's", output.name);
                recorded.push(path);
            }
        }
        recorded.sort();
        assert_eq!(files(&self.folder().images()), recorded, "{case}");
    }

    /// Every request is in the ledger; what is there besides was in flight at a kill; nothing that
    /// was settled was asked for again.
    fn check_ledger(&self, jobs: &[JobRow], attempts: &[AttemptRow]) {
        let case = &self.case;
        let requests = self.requests();
        let mut tries: BTreeMap<Revision, Vec<AttemptOutcome>> = BTreeMap::new();
        for attempt in attempts {
            tries.entry((attempt.job.to_string(), attempt.revision)).or_default().push(attempt.outcome);
        }
        let count = |outcomes: &[AttemptOutcome], one| outcomes.iter().filter(|&&found| found == one).count();
        for (of, outcomes) in &tries {
            assert_eq!(count(outcomes, AttemptOutcome::Sent), 0, "{case}: {of:?} is open");
            assert_eq!(count(outcomes, AttemptOutcome::Succeeded), 1, "{case}: {of:?} was paid twice");
            let lost = count(outcomes, AttemptOutcome::Lost);
            let open = self.open.values().filter(|open| *open == of).count();
            assert!(lost >= open, "{case}: {of:?}: {open} open at kills, {lost} lost");
        }
        let mut prompts: BTreeMap<&str, Revision> =
            FIRST.iter().map(|(id, prompt, _)| (*prompt, ((*id).to_owned(), 1))).collect();
        prompts.extend(jobs.iter().map(|job| (job.prompt.as_str(), (job.name.to_string(), job.revision))));
        // A request whose body had not arrived when its client died has no prompt.
        let mut asked: BTreeMap<&Revision, usize> = BTreeMap::new();
        for entry in requests.iter().filter(|entry| !entry.prompt.is_empty()) {
            *asked.entry(&prompts[entry.prompt.as_str()]).or_default() += 1;
        }
        for (of, outcomes) in &tries {
            let (asked, lost) = (asked.get(of).copied().unwrap_or(0), count(outcomes, AttemptOutcome::Lost));
            let rows = outcomes.len();
            assert!(asked <= rows, "{case}: {of:?}: the server saw {asked}, the ledger has {outcomes:?}");
            assert!(rows - asked <= lost, "{case}: {of:?}: the server saw only {asked} of {outcomes:?}");
        }
        let lost = attempts.iter().filter(|one| one.outcome == AttemptOutcome::Lost).count();
        let open = self.open.len();
        let beside = lost - open;
        assert!(beside <= self.open_beside_max, "{case}: {open} open at kills, {lost} lost");
        let (rows, seen) = (attempts.len(), requests.len());
        assert!(seen <= rows, "{case}: the server saw {seen}, the ledger has {rows}");
        assert!(rows - seen <= lost, "{case}: {rows} rows, {seen} requests, {lost} lost");
    }

    /// Reports are a function of the queue.
    async fn check_reports(&self, attempts: usize) {
        let folder = self.folder();
        let paths = [folder.usage_csv(), folder.attempts_csv(), folder.summary_json()];
        let reports = || paths.each_ref().map(|path| fs::read_to_string(path).expect("reads"));
        let written = reports();
        assert_eq!(written[1].lines().count(), attempts + 1, "{}", self.case);
        for path in &paths {
            fs::remove_file(path).expect("removes");
        }
        self.ended_well(&self.start(&["report", "-o", "out"], None).end().await);
        assert_eq!(reports(), written, "{}", self.case);
    }
}

/// Points that only a run that takes over comes by.
fn is_of_rescue(point: CrashPoint) -> bool {
    matches!(point, CrashPoint::RescueWritten | CrashPoint::RescueCommitted | CrashPoint::Rescued)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_a_run_loses_nothing_and_pays_nothing_twice() {
    let changed = Batch::changed().await;
    let cases = CrashPoint::ALL.iter().flat_map(|&point| (1..=point.passages()).map(move |n| (point, n)));
    let cases = cases.map(async |(point, passage)| {
        let mut batch = changed.copy(format!("{}:{passage}", point.name())).await;
        if is_of_rescue(point) {
            batch.crash_at(CrashPoint::SettleCommitted, 1).await;
        }
        batch.crash_at(point, passage).await;
        batch.finish().await;
        batch.check_books().await;
    });
    futures_util::stream::iter(cases).buffer_unordered(BESIDE).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_its_queue_is_made_a_run_begins_anew() {
    for point in
        [CrashPoint::QueueOpened, CrashPoint::SchemaMade, CrashPoint::Staged, CrashPoint::LoadWritten]
    {
        let mut batch = Batch::new(scenario(), &manifest(&FIRST)).await;
        batch.case = format!("first of all, {}", point.name());
        batch.crash_at(point, 1).await;
        batch.ended_well(&batch.start(&["plan", "m.jsonl", "-o", "out"], None).end().await);
        batch.finish().await;
        batch.check_books().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_dies_at_every_step_and_the_others_finish() {
    let changed = Batch::changed().await;
    let cases = CrashPoint::ALL.iter().map(async |&point| {
        let mut batch = changed.copy(format!("one of three at {}", point.name())).await;
        if is_of_rescue(point) {
            batch.crash_at(CrashPoint::SettleCommitted, 1).await;
        }
        batch.open_beside_max += OPEN_MAX;
        let dying = batch.run(Some((point, 1)));
        let others = [batch.run(None), batch.run(None)];
        // The others may have been faster, so that it never came by.
        let dead = dying.end().await;
        assert!(dead.status.signal() == Some(SIGABRT) || dead.status.code() == Some(0), "{}", batch.case);
        batch.check_images();
        for other in others {
            let output = other.end().await;
            batch.ended_well(&output);
        }
        batch.finish().await;
        batch.check_books().await;
    });
    futures_util::stream::iter(cases).buffer_unordered(2 * BESIDE).collect::<Vec<()>>().await;
}

/// When to kill: no time, but something that has happened.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The server has seen so many requests.
    Requests(usize),
    /// The answer to this request has had so many bytes.
    Bytes(usize, u64),
    /// The log has so many lines.
    LogLines(usize),
    /// The write-ahead log is that long.
    Committed(u64),
    /// So many files stand in `images/`.
    Images(usize),
    /// So many files and folders lie in the spool.
    Spooled(usize),
}

impl Moment {
    fn choose(batch: &Batch, rng: &mut StdRng) -> Self {
        let seen = batch.requests().len();
        match rng.random_range(0..6) {
            0 => Self::Requests(seen + rng.random_range(1..6)),
            1 => Self::Bytes(seen + rng.random_range(0..4), rng.random_range(1..18_000)),
            2 => Self::LogLines(log_lines(batch) + rng.random_range(1..12)),
            3 => Self::Committed(rng.random_range(1..600_000)),
            4 => Self::Images(files(&batch.folder().images()).len() + rng.random_range(1..4)),
            _ => Self::Spooled(rng.random_range(1..4)),
        }
    }

    fn has_come(self, batch: &Batch) -> bool {
        match self {
            Self::Requests(n) => batch.requests().len() >= n,
            Self::Bytes(at, bytes) => batch.requests().get(at).is_some_and(|entry| entry.body_bytes >= bytes),
            Self::LogLines(n) => log_lines(batch) >= n,
            Self::Committed(bytes) => {
                let log = batch.folder().path().join("queue.db-wal");
                fs::metadata(log).is_ok_and(|log| log.len() >= bytes)
            }
            Self::Images(n) => files(&batch.folder().images()).len() >= n,
            Self::Spooled(n) => files(&batch.folder().spool()).len() >= n,
        }
    }
}

fn log_lines(batch: &Batch) -> usize {
    fs::read_to_string(batch.folder().log()).map_or(0, |text| text.lines().count())
}

pub(crate) fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Prints a batch with so many processes, of which one or all are killed now and then and replaced.
async fn kill_at_random(seed: u64, processes: usize) -> u64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut jobs = String::new();
    for n in 0..14 {
        let two = if n % 5 == 0 { " <two_images>" } else { "" };
        let more = if n % 4 == 0 { ", \"references\": [\"ref.png\"]" } else { "" };
        jobs += &manifest(&[(&format!("j{n:02}"), &format!("picture {n}{two}"), more)]);
    }
    let mut scenario = scenario();
    scenario.latency.median_ms = 12;
    scenario.faults.push(FaultRule { probability: Some(0.1), ..FaultRule::always(Fault::Http503) });
    scenario.faults.push(FaultRule { probability: Some(0.1), ..FaultRule::always(Fault::ResetMid) });
    let mut batch = Batch::new(scenario, &jobs).await;
    let mut running: Vec<Process> = Vec::new();
    let mut kills = 0;
    for _ in 0..KILLS_A_BATCH {
        while running.len() < processes {
            running.push(batch.run(None));
        }
        let moment = Moment::choose(&batch, &mut rng);
        batch.case = format!("seed {seed}, {processes} at once, kill {} at {moment:?}", kills + 1);
        let mut look = tokio::time::interval(Duration::from_millis(1));
        while !moment.has_come(&batch) && !running.iter_mut().all(Process::has_ended) {
            look.tick().await;
        }
        let victims = if rng.random_bool(0.3) { processes } else { 1 };
        for _ in 0..victims {
            let mut victim = running.swap_remove(rng.random_range(0..running.len()));
            victim.kill();
            let output = victim.end().await;
            if output.status.signal() == Some(SIGKILL) {
                kills += 1;
                if processes > 1 {
                    batch.open_beside_max += OPEN_MAX;
                }
            } else {
                batch.ended_well(&output);
            }
        }
        if processes == 1 {
            batch.all_are_dead().await;
        } else {
            batch.check_images();
        }
    }
    for process in running {
        batch.ended_well(&process.end().await);
    }
    batch.finish().await;
    batch.check_books().await;
    let sent = batch.requests().len();
    batch.finish().await;
    assert_eq!(batch.requests().len(), sent, "{}: a batch that was done was sent again", batch.case);
    kills
}

async fn kill_often(processes: usize, wanted: u64) {
    let first = from_env("NIGHTPRESS_SEED", 1);
    let wanted = from_env("NIGHTPRESS_KILLS", wanted);
    let (mut kills, mut seed) = (0, first);
    while kills < wanted {
        let seeds = seed..seed + BESIDE as u64;
        let batches = seeds.clone().map(|seed| kill_at_random(seed, processes));
        let done: Vec<u64> = futures_util::stream::iter(batches).buffer_unordered(BESIDE).collect().await;
        kills += done.iter().sum::<u64>();
        seed = seeds.end;
        assert!(seed - first <= 10 * wanted, "hardly a process was still alive when it was to be killed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_a_run_loses_nothing_and_pays_nothing_twice() {
    kill_often(1, 40).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_processes_any_may_be_killed_at_random() {
    kill_often(3, 20).await;
}
