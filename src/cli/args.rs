//! The command line as it is typed. Every option of `run` and `work` is `None` unless it was
//! given as a flag or in the environment; [`super::config`] adds the file, [`super::settings`]
//! the defaults.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use serde::Deserialize;

use super::config::scalar;
use super::value::{AtOnce, Bytes, Count, Deadline, Failures, Listen, Lost, Span, Usd};
use crate::job::{JobName, JobState, ModelName, Provider};

/// Where all of it comes from, said once.
const LAYERS: &str = "Every option of run and work can also stand in the environment (NIGHTPRESS_CONCURRENCY=4) \
and in nightpress.yaml of the current directory (concurrency: 4). A flag goes before the environment, the \
environment before the file.";

const EXIT_CODES: &str = "Exit codes:
  0    every job succeeded
  1    finished, but some jobs failed, were refused or skipped
  2    wrong usage, key or manifest; nothing was sent
  3    stopped early with jobs left or held (money, key, budget, deadline, disk, a stopped lane)
  130  interrupted by Ctrl-C, resumable (143: by SIGTERM)";

const KEY: &str = "The key is read from NIGHTPRESS_API_KEY, else from ANYFAST_API_KEY or GEMINI_API_KEY by provider, \
or from the file named by --api-key-file. It is never a flag.";

/// Prints a manifest of image prompts over night: a durable, resumable batch runner for the
/// Gemini image API.
#[derive(Debug, Parser)]
#[command(name = "nightpress", version, propagate_version = true, after_help = LAYERS, max_term_width = 110)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Load a manifest and work until it is done; the same command again resumes.
    #[command(after_help = format!("\
Examples:
  nightpress run jobs/demo.yaml --provider simulator     try it out, no key needed
  nightpress run jobs/spring.yaml                        results in out/spring/
  nightpress run jobs/spring.yaml --first 3              a pilot of three jobs; the rest stays pending
  nightpress run jobs/spring.yaml --max-cost 20 --deadline 06:30
  generate-jobs | nightpress run - -o out/tonight        JSON lines from standard input

{KEY}

{EXIT_CODES}"))]
    Run(RunArgs),
    /// Read a manifest, count, compare with the queue, estimate cost and time. Sends and writes nothing.
    #[command(after_help = "\
Takes the flags of `run`, so that a command line can be tried by changing one word.

Examples:
  nightpress plan jobs/spring.yaml
  nightpress plan jobs/spring.yaml --rpm 60 --json")]
    Plan(RunArgs),
    /// Load a manifest into the queue without working on it.
    #[command(after_help = "\
Example:
  nightpress load jobs/spring.yaml && nightpress work -o out/spring")]
    Load(LoadArgs),
    /// Work on a queue until it is empty.
    #[command(after_help = format!("\
Examples:
  nightpress work -o out/spring                several of these may work on one queue
  nightpress work -o out/spring --forever      keep waiting for more jobs

{KEY}

{EXIT_CODES}"))]
    Work(WorkArgs),
    /// How far a batch is: counts, rate, cost, time left.
    #[command(after_help = "\
Examples:
  nightpress status                            when out/ holds one run
  nightpress status -o out/spring --watch
  nightpress status -o out/spring --json | jq .jobs")]
    Status(StatusArgs),
    /// List jobs.
    #[command(after_help = "\
Examples:
  nightpress jobs --state failed
  nightpress jobs --state failed,refused --json | jq -r '.[].job'")]
    Jobs(JobsArgs),
    /// One job with its attempts.
    #[command(after_help = "\
Example:
  nightpress show hero -o out/spring")]
    Show(ShowArgs),
    /// Make jobs pending again, with fresh allowances.
    #[command(after_help = "\
Examples:
  nightpress retry hero cover
  nightpress retry --failed --refused
Then `nightpress run` or `work` sends them.")]
    Retry(RetryArgs),
    /// Cancel jobs; what they made stays.
    #[command(after_help = "\
Examples:
  nightpress cancel hero cover
  nightpress cancel --all")]
    Cancel(CancelArgs),
    /// Who works on a queue: machine, version, since when, how many jobs; `drain HOST` asks them to end.
    #[command(after_help = "\
Examples:
  nightpress workers --queue postgres://…
  nightpress workers drain blue-1 --queue postgres://…    what runs there is finished, nothing more is claimed")]
    Workers(WorkersArgs),
    /// Rebuild usage.csv, attempts.csv and summary.json from the queue.
    #[command(after_help = "\
Example:
  nightpress report -o out/spring")]
    Report(ReportArgs),
    /// Serve the image API on loopback, for trying things out; ends with Ctrl-C.
    #[command(after_help = "\
Examples:
  nightpress simulate
  nightpress simulate --port 9000 --scenario storm.yaml --seed 7
  nightpress run jobs/demo.yaml --provider simulator --base-url http://127.0.0.1:8787")]
    Simulate(SimulateArgs),
    /// Print a completion script for a shell.
    #[command(after_help = "\
Example:
  nightpress completions bash > ~/.local/share/bash-completion/completions/nightpress")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

impl Command {
    /// It changes nothing: what it prints is all that it is for.
    pub(super) const fn only_shows(&self) -> bool {
        matches!(
            self,
            Self::Plan(_)
                | Self::Status(_)
                | Self::Jobs(_)
                | Self::Show(_)
                | Self::Completions { .. }
                | Self::Workers(WorkersArgs { command: None, .. })
        )
    }
}

/// Which run folder and whom it is for.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct FolderArgs {
    /// The run folder itself; out/<manifest's stem> unless given. Or a bucket for results and reports: s3://,
    /// gs://, az:// or file:///.
    #[arg(short = 'o', long = "output", value_name = "DIR|URL")]
    pub(super) output: Option<PathBuf>,
}

/// Options of all commands that open a queue.
#[derive(Debug, Clone, Default, Args, Deserialize)]
pub(super) struct QueueOptions {
    /// A queue for many machines, as `postgres://user@host/database`; without it, the queue is in the run folder.
    #[arg(long, value_name = "URL", env = "NIGHTPRESS_QUEUE", hide_env_values = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) queue: Option<String>,
    /// The batch in that queue; the run folder's name unless given.
    #[arg(long, value_name = "NAME", env = "NIGHTPRESS_BATCH")]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) batch: Option<String>,
    /// A worker of another machine that was not heard of for so long is dead; the same for all workers of a batch
    /// [default: 30s].
    #[arg(long, value_name = "DURATION", env = "NIGHTPRESS_SILENT_AFTER", hide = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) silent_after: Option<Span>,
}

/// How much is said.
#[derive(Debug, Clone, Copy, Default, Args, Deserialize)]
pub(super) struct OutputOptions {
    /// One JSON object on standard output, and nothing else there.
    #[arg(long, value_name = "BOOL", env = "NIGHTPRESS_JSON", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) json: Option<bool>,
    /// Nothing but errors.
    #[arg(short, long, value_name = "BOOL", env = "NIGHTPRESS_QUIET", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) quiet: Option<bool>,
    /// More in nightpress.log; twice for everything.
    #[arg(short, long, env = "NIGHTPRESS_VERBOSE", action = ArgAction::Count)]
    #[serde(default)]
    pub(super) verbose: u8,
}

/// Options of reading and loading a manifest.
#[derive(Debug, Clone, Default, Args, Deserialize)]
pub(super) struct LoadOptions {
    /// Whom the requests go to: anyfast (default), google or simulator.
    #[arg(long, value_name = "NAME", env = "NIGHTPRESS_PROVIDER")]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) provider: Option<Provider>,
    /// The model of jobs that name none.
    #[arg(long, value_name = "NAME", env = "NIGHTPRESS_MODEL")]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) model: Option<ModelName>,
    /// Keep what was made of jobs whose description changed; without it they are made, and paid, anew.
    #[arg(long, value_name = "BOOL", env = "NIGHTPRESS_KEEP_CHANGED", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) keep_changed: Option<bool>,
    /// Cancel jobs that left the manifest, even if they are more than a fifth of those not yet done.
    #[arg(long, value_name = "BOOL", env = "NIGHTPRESS_PRUNE", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) prune: Option<bool>,
    /// A larger request is an error of the manifest [default: 100MB].
    #[arg(long, value_name = "SIZE", env = "NIGHTPRESS_MAX_REQUEST_BYTES", allow_negative_numbers = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) max_request_bytes: Option<Bytes>,
}

/// Which jobs.
#[derive(Debug, Clone, Default, Args, Deserialize)]
pub(super) struct ScopeOptions {
    /// Only the first N jobs of the manifest; the rest stays pending.
    #[arg(long, value_name = "N", env = "NIGHTPRESS_FIRST", allow_negative_numbers = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) first: Option<Count>,
    /// Only jobs whose id matches (`*`, `?`, `[a-z]`); the rest stays pending.
    #[arg(long, value_name = "GLOB", env = "NIGHTPRESS_JOB")]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) job: Option<String>,
}

/// Options of sending.
#[derive(Debug, Clone, Default, Args, Deserialize)]
pub(super) struct SendOptions {
    /// Requests in flight in this process: `auto` for as many as rate and latency need, or a number
    /// [default: auto].
    #[arg(
        long,
        value_name = "auto|N",
        env = "NIGHTPRESS_CONCURRENCY",
        allow_negative_numbers = true,
        help_heading = "Pace"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) concurrency: Option<AtOnce>,
    /// The most that `--concurrency auto` may choose, within half of the free memory [default: 256].
    #[arg(
        long,
        value_name = "N",
        env = "NIGHTPRESS_MAX_IN_FLIGHT",
        allow_negative_numbers = true,
        help_heading = "Pace"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) max_in_flight: Option<Count>,
    /// Requests a minute for each key and model: in this process, with --queue of all workers together; without it
    /// the limit is found out.
    #[arg(
        long,
        value_name = "N",
        env = "NIGHTPRESS_RPM",
        allow_negative_numbers = true,
        help_heading = "Pace"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) rpm: Option<Count>,
    /// Images a minute for each key and model, counted as --rpm is.
    #[arg(
        long,
        value_name = "N",
        env = "NIGHTPRESS_IPM",
        allow_negative_numbers = true,
        help_heading = "Pace"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) ipm: Option<Count>,
    /// Sleep while the provider is out for long, instead of ending with exit code 3.
    #[arg(long, value_name = "BOOL", env = "NIGHTPRESS_WAIT", num_args = 0..=1, require_equals = true, help_heading = "Pace",
          default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) wait: Option<bool>,
    /// Where requests go: origin with an optional prefix, without a version.
    #[arg(long, value_name = "URL", env = "NIGHTPRESS_BASE_URL", help_heading = "Provider")]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) base_url: Option<String>,
    /// Accept a base URL without TLS that is not on this machine.
    #[arg(long, value_name = "BOOL", env = "NIGHTPRESS_ALLOW_INSECURE", num_args = 0..=1, require_equals = true,
          help_heading = "Provider",
          default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) allow_insecure: Option<bool>,
    /// A file that holds the key.
    #[arg(long, value_name = "FILE", env = "NIGHTPRESS_API_KEY_FILE", help_heading = "Provider")]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) api_key_file: Option<PathBuf>,
    /// How the simulator behaves: a YAML file; the demo's limits and faults unless given.
    #[arg(long, value_name = "FILE", env = "NIGHTPRESS_SCENARIO", help_heading = "Provider")]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) scenario: Option<PathBuf>,
    /// Seed of the simulator and of jitter, for runs that replay.
    #[arg(
        long,
        value_name = "N",
        env = "NIGHTPRESS_SEED",
        allow_negative_numbers = true,
        help_heading = "Provider"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) seed: Option<u64>,
    /// Sends of one job that may end in a transient error [default: 5].
    #[arg(
        long,
        value_name = "N",
        env = "NIGHTPRESS_MAX_ATTEMPTS",
        allow_negative_numbers = true,
        help_heading = "Failures"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) max_attempts: Option<Count>,
    /// The first wait after a transient error is drawn from zero to this [default: 2s].
    #[arg(
        long,
        value_name = "DURATION",
        env = "NIGHTPRESS_BACKOFF_BASE",
        allow_negative_numbers = true,
        help_heading = "Failures"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) backoff_base: Option<Span>,
    /// No wait after a transient error is longer than this [default: 1m].
    #[arg(
        long,
        value_name = "DURATION",
        env = "NIGHTPRESS_BACKOFF_CAP",
        allow_negative_numbers = true,
        help_heading = "Failures"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) backoff_cap: Option<Span>,
    /// Jobs whose request was cut off by a crash: send them again, or hold them for a person.
    #[arg(long, value_name = "retry|hold", env = "NIGHTPRESS_LOST", help_heading = "Failures")]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) lost: Option<Lost>,
    /// Make results again that are gone from images/, or whose machine is gone before it uploaded them.
    #[arg(long, value_name = "BOOL", env = "NIGHTPRESS_REPAIR", num_args = 0..=1, require_equals = true,
          help_heading = "Failures",
          default_missing_value = "true", value_parser = BoolishValueParser::new(), hide_possible_values = true)]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) repair: Option<bool>,
    /// The most that the batch may cost since it was created, by list prices.
    #[arg(
        long,
        value_name = "USD",
        env = "NIGHTPRESS_MAX_COST",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) max_cost: Option<Usd>,
    /// Stop when so many jobs have failed in this run, or such a share of those that ended (from 20 on).
    #[arg(
        long,
        value_name = "N|P%",
        env = "NIGHTPRESS_MAX_FAILURES",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) max_failures: Option<Failures>,
    /// Send nothing after this time: 06:30, 6h, or 2026-11-20T06:30:00Z.
    #[arg(
        long,
        value_name = "TIME|DURATION",
        env = "NIGHTPRESS_DEADLINE",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) deadline: Option<Deadline>,
    /// The longest that one request may take [default: 10m].
    #[arg(
        long,
        value_name = "DURATION",
        env = "NIGHTPRESS_TIMEOUT",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) timeout: Option<Span>,
    /// The longest silence within a request [default: 3m].
    #[arg(
        long,
        value_name = "DURATION",
        env = "NIGHTPRESS_IDLE_TIMEOUT",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) idle_timeout: Option<Span>,
    /// How long running requests may go on after the first Ctrl-C [default: 2m].
    #[arg(
        long,
        value_name = "DURATION",
        env = "NIGHTPRESS_GRACE",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) grace: Option<Span>,
    /// Serve `/healthz` and `/metrics` (Prometheus) there, like 127.0.0.1:9464; off unless given.
    #[arg(long, value_name = "ADDR", env = "NIGHTPRESS_LISTEN", help_heading = "Watching")]
    #[serde(default, deserialize_with = "scalar")]
    pub(super) listen: Option<Listen>,
}

/// `run` and `plan`.
#[derive(Debug, Clone, Args)]
pub(super) struct RunArgs {
    /// A .yaml, .json, .jsonl or .csv file, or its address (s3://…); `-` for JSON lines from standard input.
    pub(super) manifest: PathBuf,
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    #[command(flatten)]
    pub(super) options: Options,
}

/// `load`.
#[derive(Debug, Clone, Args)]
pub(super) struct LoadArgs {
    /// A .yaml, .json, .jsonl or .csv file, or its address (s3://…); `-` for JSON lines from standard input.
    pub(super) manifest: PathBuf,
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    #[command(flatten)]
    pub(super) load: LoadOptions,
    #[command(flatten)]
    pub(super) queue: QueueOptions,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// `work`.
#[derive(Debug, Clone, Args)]
pub(super) struct WorkArgs {
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    /// Keep waiting for more jobs when the queue is empty.
    #[arg(long)]
    pub(super) forever: bool,
    #[command(flatten)]
    pub(super) options: Options,
}

/// All options of `run` and `work`.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Options {
    #[command(flatten)]
    pub(super) load: LoadOptions,
    #[command(flatten)]
    pub(super) scope: ScopeOptions,
    #[command(flatten)]
    pub(super) send: SendOptions,
    #[command(flatten)]
    pub(super) queue: QueueOptions,
    #[command(flatten)]
    pub(super) output: OutputOptions,
}

/// `status`.
#[derive(Debug, Clone, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    #[command(flatten)]
    pub(super) queue: QueueOptions,
    /// Look again every two seconds until nothing is left to do.
    #[arg(long)]
    pub(super) watch: bool,
    /// One JSON object (with --watch, one a line).
    #[arg(long)]
    pub(super) json: bool,
}

/// `jobs`.
#[derive(Debug, Clone, Args)]
pub(super) struct JobsArgs {
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    #[command(flatten)]
    pub(super) queue: QueueOptions,
    /// Only jobs in these states.
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',')]
    pub(super) states: Vec<JobState>,
    #[command(flatten)]
    pub(super) scope: ScopeOptions,
    /// A JSON array, one job a line.
    #[arg(long)]
    pub(super) json: bool,
}

/// `show`.
#[derive(Debug, Clone, Args)]
pub(super) struct ShowArgs {
    /// The job's id.
    pub(super) job: JobName,
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    #[command(flatten)]
    pub(super) queue: QueueOptions,
    /// One JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// `retry`.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that is typed")]
#[group(id = "which", required = true, multiple = true, args = ["jobs", "failed", "refused", "held"])]
pub(super) struct RetryArgs {
    /// Ids of jobs.
    #[arg(value_name = "JOB")]
    pub(super) jobs: Vec<JobName>,
    /// All that failed.
    #[arg(long)]
    pub(super) failed: bool,
    /// All that were refused.
    #[arg(long)]
    pub(super) refused: bool,
    /// All that are held.
    #[arg(long)]
    pub(super) held: bool,
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    #[command(flatten)]
    pub(super) queue: QueueOptions,
    /// One JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// `cancel`.
#[derive(Debug, Clone, Args)]
#[group(id = "which", required = true, args = ["jobs", "all"])]
pub(super) struct CancelArgs {
    /// Ids of jobs.
    #[arg(value_name = "JOB")]
    pub(super) jobs: Vec<JobName>,
    /// All that are not finished.
    #[arg(long)]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    #[command(flatten)]
    pub(super) queue: QueueOptions,
    /// One JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// `workers`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct WorkersArgs {
    #[command(subcommand)]
    pub(super) command: Option<WorkersCommand>,
    #[command(flatten)]
    pub(super) of: CrewArgs,
}

/// Whose workers.
#[derive(Debug, Clone, Args)]
pub(super) struct CrewArgs {
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    #[command(flatten)]
    pub(super) queue: QueueOptions,
    /// One JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// What is done with workers.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum WorkersCommand {
    /// Ask all workers of a machine to end: what runs is finished, nothing more is claimed. They hear of it within
    /// seconds. One that starts later works: stop what starts it first.
    Drain {
        /// The machine, as `workers` and `status` call it.
        #[arg(value_name = "HOST")]
        host: String,
        #[command(flatten)]
        of: CrewArgs,
    },
}

/// `report`.
#[derive(Debug, Clone, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    pub(super) folder: FolderArgs,
    #[command(flatten)]
    pub(super) queue: QueueOptions,
    /// One JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

/// `simulate`.
#[derive(Debug, Clone, Args)]
pub(super) struct SimulateArgs {
    /// Where to listen on 127.0.0.1; 0 takes a free port.
    #[arg(long, default_value_t = 8787)]
    pub(super) port: u16,
    /// How it behaves: a YAML file; without it, no limits and no faults.
    #[arg(long, value_name = "FILE")]
    pub(super) scenario: Option<PathBuf>,
    /// All chance comes from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_switch_is_on_when_it_is_named_and_can_be_turned_off() {
        let parse = |flag: &str| match Cli::try_parse_from(["nightpress", "run", flag, "m.yaml"]) {
            Ok(Cli { command: Command::Run(args) }) => args.options.send.wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(parse("--wait"), Some(true));
        assert_eq!(parse("--wait=no"), Some(false));
        assert_eq!(parse("--prune"), None);
    }
}
