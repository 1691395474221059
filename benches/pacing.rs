//! How near the program comes to a limit that it does not know, in real time: the release binary against
//! the simulator, 1,200 requests a minute and answers of 0.6 s, all cases side by side.
//!
//! `cargo bench --bench pacing` takes ten minutes and prints, as the simulator counted them, what was
//! admitted of what the limit allows and the refusals for each success. The targets are those of the
//! table on a virtual clock (`cargo test --lib virtual_clock -- --nocapture`), less two points.
//! `NIGHTPRESS_MINUTES=3` is a shorter look.

use std::error::Error;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nightpress::simulator::{
    Hint, Latency, LimitKind, LimitRule, LogEntry, Pictures, Scenario, Simulator, SimulatorConfig,
};

const PER_MINUTE: u32 = 1_200;
const MINUTES: u64 = 10;
const LATENCY: Latency = Latency { median_ms: 600, sigma: 0.6, first_byte_share: 0.3, thinking_share: 0.4 };
/// Goodput of the limit at least, and refusals for each success at most.
const GIVEN: (f64, f64) = (0.963, 0.022);
const UNKNOWN: (f64, f64) = (0.953, 0.033);

struct Case {
    name: &'static str,
    limit: LimitRule,
    is_given: bool,
    target: (f64, f64),
}

struct Running {
    case: Case,
    folder: PathBuf,
    simulator: Simulator,
    program: Child,
}

fn cases() -> Vec<Case> {
    let rule = |kind, hint| LimitRule { kind, hint, per_window: PER_MINUTE, ..LimitRule::default() };
    let case = |name, limit| Case { name, limit, is_given: false, target: UNKNOWN };
    let bucket = LimitRule { burst: Some(PER_MINUTE / 6), ..rule(LimitKind::Bucket, Hint::None) };
    let sliding = || rule(LimitKind::SlidingWindow, Hint::None);
    vec![
        Case { is_given: true, target: GIVEN, ..case("--rpm, sliding window", sliding()) },
        case("bucket", bucket),
        case("fixed window", rule(LimitKind::FixedWindow, Hint::None)),
        case("sliding window", sliding()),
        case("sliding window, hints", rule(LimitKind::SlidingWindow, Hint::All)),
        case("fixed window, dates as hints", rule(LimitKind::FixedWindow, Hint::RetryAfterDate)),
        case(
            "fixed window, hints of half",
            LimitRule { hint_factor: 0.5, ..rule(LimitKind::FixedWindow, Hint::All) },
        ),
        case("refusals count", LimitRule { count_refused: true, ..sliding() }),
        Case {
            target: GIVEN,
            ..case(
                "stated, sliding window",
                LimitRule { quota_value: true, ..rule(LimitKind::SlidingWindow, Hint::All) },
            )
        },
    ]
}

#[expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench talks, and time is what it measures"
)]
fn main() -> Result<(), Box<dyn Error>> {
    let minutes = std::env::var("NIGHTPRESS_MINUTES").ok().and_then(|n| n.parse().ok()).unwrap_or(MINUTES);
    let runtime = tokio::runtime::Runtime::new()?;
    let root = std::env::temp_dir().join(format!("nightpress-pacing-{}", std::process::id()));
    fs::create_dir_all(&root)?;
    let manifest = manifest(&root, u64::from(PER_MINUTE) * (minutes + 1) * 5 / 4)?;
    let mut running = Vec::new();
    for (number, case) in cases().into_iter().enumerate() {
        let folder = root.join(format!("case-{number}"));
        running.push(start(&runtime, case, folder, &manifest)?);
    }
    println!("{} cases at {PER_MINUTE}/min for {minutes} min", running.len());
    thread::sleep(Duration::from_secs(60 * minutes) + Duration::from_secs(5));
    println!("{:<30} {:>9} {:>9} {:>9} {:>13}", "case", "goodput %", "429s %", "429s", "first 3 min %");
    let mut missed = 0;
    for run in running {
        let (line, reached) = end(&runtime, run, minutes)?;
        println!("{line}");
        missed += usize::from(!reached);
    }
    fs::remove_dir_all(&root)?;
    if missed > 0 { Err(format!("{missed} missed their targets").into()) } else { Ok(()) }
}

fn manifest(root: &Path, jobs: u64) -> Result<PathBuf, Box<dyn Error>> {
    let path = root.join("jobs.jsonl");
    let mut lines = String::new();
    for n in 0..jobs {
        writeln!(lines, r#"{{"id":"j{n}","prompt":"thing {n}"}}"#)?;
    }
    fs::write(&path, lines)?;
    Ok(path)
}

fn start(
    runtime: &tokio::runtime::Runtime,
    case: Case,
    folder: PathBuf,
    manifest: &Path,
) -> Result<Running, Box<dyn Error>> {
    let scenario = Scenario {
        latency: LATENCY,
        pictures: Pictures { tiny: true, ..Pictures::default() },
        limits: vec![case.limit.clone()],
        ..Scenario::default()
    };
    let config = SimulatorConfig { scenario, ..SimulatorConfig::default() };
    let simulator = runtime.block_on(Simulator::start(config))?;
    fs::create_dir_all(&folder)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_nightpress"));
    command.arg("run").arg(manifest).arg("-o").arg(folder.join("out")).arg("--base-url");
    command.arg(simulator.base_url()).args(["--provider", "simulator"]).env("NIGHTPRESS_API_KEY", "bench");
    if case.is_given {
        command.args(["--rpm", &PER_MINUTE.to_string()]);
    }
    let told = File::create(folder.join("told.txt"))?;
    let program = command.stdin(Stdio::null()).stdout(told.try_clone()?).stderr(told).spawn()?;
    Ok(Running { case, folder, simulator, program })
}

/// Ends the program; the case's line of the table, and whether it reached its target.
fn end(
    runtime: &tokio::runtime::Runtime,
    mut run: Running,
    minutes: u64,
) -> Result<(String, bool), Box<dyn Error>> {
    if let Some(status) = run.program.try_wait()? {
        let told = fs::read_to_string(run.folder.join("told.txt"))?;
        return Err(format!("{}: the program ended early, {status}: {told}", run.case.name).into());
    }
    run.program.kill()?;
    run.program.wait()?;
    let entries = run.simulator.log().entries;
    runtime.block_on(run.simulator.stop());
    let begin = entries.first().map_or(0, |entry| entry.at_ms);
    let within = |minutes: u64| {
        entries.iter().filter(move |entry| entry.at_ms < begin + 60_000 * minutes).collect::<Vec<&LogEntry>>()
    };
    let admitted = |entries: &[&LogEntry]| entries.iter().filter(|entry| !entry.throttled).count();
    let (all, first) = (within(minutes), within(minutes.min(3)));
    let refused = all.len() - admitted(&all);
    let share = share(admitted(&all), minutes);
    let refusals = ratio(refused, admitted(&all));
    let (least, most) = run.case.target;
    let reached = share >= least && refusals <= most;
    let line = format!(
        "{:<30} {:>9.1} {:>9.2} {refused:>9} {:>13.1}{}",
        run.case.name,
        100.0 * share,
        100.0 * refusals,
        100.0 * self::share(admitted(&first), minutes.min(3)),
        if reached { "" } else { "  missed" },
    );
    Ok((line, reached))
}

/// Of what the limit allows.
fn share(admitted: usize, minutes: u64) -> f64 {
    let allowed = usize::try_from(minutes * u64::from(PER_MINUTE)).unwrap_or(usize::MAX);
    ratio(admitted, allowed)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / (whole as f64).max(1.0)
}
