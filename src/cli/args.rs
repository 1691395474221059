//! The command line as it is typed: the commands, and what each takes. What they share is in
//! [`super::options`]; [`super::config`] adds the file, [`super::settings`] the defaults.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::options::{FolderArgs, LoadOptions, Options, OutputOptions, QueueOptions, ScopeOptions};
use crate::job::{JobName, JobState};

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
    /// Ask a machine's workers on this batch to end: what runs is finished, nothing more is claimed. They hear of it
    /// within seconds. Those of other batches go on: drain each. One that starts later works: stop what starts it first.
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
