//! Options that several commands share. Those of `run` and `work` may also stand in the environment and in
//! `nightpress.yaml`: each is `None` unless it was given, and has the same name everywhere.

use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use serde::Deserialize;

use super::config::scalar;
use super::value::{AtOnce, Bytes, Count, Deadline, Failures, Listen, Lost, Span, Usd};
use crate::job::{ModelName, Provider};

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
