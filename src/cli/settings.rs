//! Options of all layers as one checked whole: what the commands work with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::tz::TimeZone;

use super::config::Config;
use super::options::{LoadOptions, Options, OutputOptions, QueueOptions, ScopeOptions, SendOptions};
use super::value::AtOnce;
use crate::gemini::{Timeouts, is_loopback};
use crate::job::{Clock, Micros, ModelName, PriceTable, Provider, Timestamp};
use crate::pacing::{Backoff, RetryPolicy};
use crate::queue::postgres::{Address, SILENT_AFTER};
use crate::queue::{LoadPolicy, LostPolicy, QueueError, Scope};
use crate::worker::{Concurrency, FailureLimit, PerMinute};

/// Requests in flight at most that `auto` may choose: each holds less than a MiB, so all of
/// them together no more than 256 MiB.
const IN_FLIGHT_MAX: u32 = 256;
/// A request above this is an error of the manifest; the practical bound is about 18 MB (users'
/// reports, 2026-11), and it is warned of.
const REQUEST_BYTES_MAX: u64 = 100_000_000;
/// A worker beats ten times in this; more often, it would do little else.
const SILENT_AFTER_MIN: Duration = Duration::from_millis(500);
/// How long running requests may go on after the first interrupt: longer than a usual answer takes.
const GRACE: Duration = Duration::from_secs(120);

/// What a manifest is read and loaded with.
#[derive(Debug, Clone)]
pub(super) struct LoadSettings {
    pub(super) provider: Provider,
    pub(super) model: Option<ModelName>,
    pub(super) policy: LoadPolicy,
    /// A manifest may shrink as far as it likes.
    pub(super) prune: bool,
    pub(super) request_bytes_max: u64,
    pub(super) prices: PriceTable,
}

/// What is sent where, how fast, and when to stop.
#[derive(Debug, Clone)]
pub(super) struct SendSettings {
    pub(super) concurrency: Concurrency,
    pub(super) rpm: PerMinute,
    pub(super) ipm: PerMinute,
    pub(super) scope: Scope,
    pub(super) retry: RetryPolicy,
    pub(super) lost: LostPolicy,
    pub(super) repair: bool,
    pub(super) wait: bool,
    pub(super) cost_max: Option<Micros>,
    pub(super) failures_max: Option<FailureLimit>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) grace: Duration,
    pub(super) timeouts: Timeouts,
    /// Where requests go; `None` for a simulator of our own.
    pub(super) base_url: Option<url::Url>,
    pub(super) api_key_file: ApiKeyFile,
    pub(super) scenario: Option<PathBuf>,
    pub(super) seed: Option<u64>,
    /// Where health and metrics are served.
    pub(super) listen: Option<SocketAddr>,
}

/// A file that holds the key, and how it was named: a flag goes before the variables that may
/// hold the key itself, everything else after `NIGHTPRESS_API_KEY`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ApiKeyFile(pub(super) Option<PathBuf>);

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Voice {
    pub(super) json: bool,
    pub(super) quiet: bool,
    pub(super) verbose: u8,
}

/// Everything that `run`, `plan` and `work` are told.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) load: LoadSettings,
    pub(super) send: SendSettings,
    pub(super) queue: QueueOptions,
    pub(super) voice: Voice,
}

impl Options {
    /// These, and where they say nothing, `lower`.
    pub(super) fn or(self, lower: Self) -> Self {
        Self {
            load: self.load.or(lower.load),
            scope: self.scope.or(lower.scope),
            send: self.send.or(lower.send),
            queue: self.queue.or(lower.queue),
            output: self.output.or(lower.output),
        }
    }
}

/// `or` for structs of options: each field by itself.
macro_rules! layered {
    ($($name:ident { $($field:ident),+ })+) => {$(
        impl $name {
            /// These, and where they say nothing, `lower`.
            pub(super) fn or(self, lower: Self) -> Self {
                Self { $($field: self.$field.or(lower.$field)),+ }
            }
        }
    )+};
}

layered! {
    LoadOptions { provider, model, keep_changed, prune, max_request_bytes }
    ScopeOptions { first, job }
    QueueOptions { queue, batch, silent_after }
    SendOptions {
        concurrency, max_in_flight, rpm, ipm, wait, base_url, allow_insecure, api_key_file, scenario, seed, max_attempts, backoff_base,
        backoff_cap, lost, repair, max_cost, max_failures, deadline, timeout, idle_timeout, grace, listen
    }
}

impl OutputOptions {
    /// These, and where they say nothing, `lower`.
    pub(super) fn or(self, lower: Self) -> Self {
        let Self { json, quiet, verbose } = lower;
        let verbose = if self.verbose == 0 { verbose } else { self.verbose };
        Self { json: self.json.or(json), quiet: self.quiet.or(quiet), verbose }
    }

    pub(super) fn voice(self) -> Voice {
        Voice { json: self.json.unwrap_or(false), quiet: self.quiet.unwrap_or(false), verbose: self.verbose }
    }
}

impl QueueOptions {
    /// When a worker of another machine is dead.
    pub(super) fn silence(&self) -> Duration {
        self.silent_after.map_or(SILENT_AFTER, |span| span.0.max(SILENT_AFTER_MIN))
    }

    /// The database of the queue, unless it is in the run folder.
    pub(super) fn address(&self) -> Result<Option<Address>> {
        match (self.queue.as_deref().filter(|url| !url.is_empty()), &self.batch) {
            (Some(url), batch) => {
                if batch.as_ref().is_some_and(|name| name.trim().is_empty()) {
                    bail!("--batch names no batch");
                }
                // With one slash the parser takes user, password and all for the database's name, which is shown.
                if !Address::is_one(&url.trim_start().to_ascii_lowercase()) {
                    let why = "it does not begin with postgres://".to_owned();
                    return Err(QueueError::BadAddress { why }.into());
                }
                Ok(Some(Address::parse(url)?))
            }
            (None, Some(_)) => bail!("--batch names a batch of a queue for many machines; add --queue URL"),
            (None, None) => Ok(None),
        }
    }
}

impl ScopeOptions {
    pub(super) fn scope(&self) -> Scope {
        Scope { first: self.first.map(|count| u64::from(count.0)), glob: self.job.clone() }
    }
}

impl LoadOptions {
    pub(super) fn settings(&self, config: &Config) -> LoadSettings {
        LoadSettings {
            provider: self.provider.unwrap_or(Provider::Anyfast),
            model: self.model.clone(),
            policy: LoadPolicy { keep_changed: self.keep_changed.unwrap_or(false) },
            prune: self.prune.unwrap_or(false),
            request_bytes_max: self.max_request_bytes.map_or(REQUEST_BYTES_MAX, |size| size.0),
            prices: config.price_table(),
        }
    }
}

impl Settings {
    /// Checks options against each other and fills in what nobody said.
    pub(super) fn new(flags: Options, config: &Config, clock: &dyn Clock) -> Result<Self> {
        let options = flags.or(config.options.clone());
        let queue = options.queue;
        // What is wrong with it is told before anything is done.
        queue.address()?;
        let load = options.load.settings(config);
        let send = options.send;
        if send.scenario.is_some() && load.provider != Provider::Simulator {
            bail!("--scenario is for the simulator; add --provider simulator or leave it out");
        }
        let base_url = base_url(&send, load.provider)?;
        let backoff = backoff(&send)?;
        let deadline = send.deadline.map(|deadline| deadline.resolve(clock.now(), &TimeZone::system()));
        let timeouts = timeouts(&send);
        let retry = RetryPolicy::default();
        Ok(Self {
            queue,
            voice: options.output.voice(),
            send: SendSettings {
                concurrency: match send.concurrency.unwrap_or(AtOnce::Auto) {
                    AtOnce::Auto => {
                        Concurrency::Auto { max: send.max_in_flight.map_or(IN_FLIGHT_MAX, |n| n.0) }
                    }
                    AtOnce::Fixed(n) => Concurrency::Fixed(n),
                },
                rpm: PerMinute { all: send.rpm.map(|n| n.0), by_model: config.rpm_by_model.clone() },
                ipm: PerMinute { all: send.ipm.map(|n| n.0), by_model: config.ipm_by_model.clone() },
                scope: options.scope.scope(),
                retry: RetryPolicy {
                    transient_max: send.max_attempts.map_or(retry.transient_max, |count| count.0),
                    backoff,
                    ..retry
                },
                lost: send.lost.map_or(LostPolicy::default(), |lost| lost.0),
                repair: send.repair.unwrap_or(false),
                wait: send.wait.unwrap_or(false),
                cost_max: send.max_cost.map(|usd| usd.0),
                failures_max: send.max_failures.map(|failures| failures.0),
                deadline: deadline.transpose().context("--deadline lies beyond all time")?,
                grace: send.grace.map_or(GRACE, |span| span.0),
                timeouts,
                base_url,
                api_key_file: ApiKeyFile(send.api_key_file),
                scenario: send.scenario,
                seed: send.seed,
                listen: send.listen.map(|listen| listen.0),
            },
            load,
        })
    }
}

fn timeouts(send: &SendOptions) -> Timeouts {
    let defaults = Timeouts::default();
    let total = send.timeout.map_or(defaults.total, |span| span.0);
    Timeouts { total, idle: send.idle_timeout.map_or(defaults.idle, |span| span.0), ..defaults }
}

fn backoff(send: &SendOptions) -> Result<Backoff> {
    let defaults = Backoff::default();
    let cap = send.backoff_cap.map_or(defaults.cap, |span| span.0);
    // A smaller cap alone is no contradiction: the base follows it.
    let base = send.backoff_base.map_or(defaults.base.min(cap), |span| span.0);
    if base > cap {
        bail!("--backoff-base is longer than --backoff-cap; make the cap longer or the base shorter");
    }
    Ok(Backoff { base, cap })
}

fn base_url(send: &SendOptions, provider: Provider) -> Result<Option<url::Url>> {
    let Some(text) = send.base_url.as_deref().or(provider.default_base_url()) else { return Ok(None) };
    let url = url::Url::parse(text).map_err(|error| {
        anyhow::anyhow!("--base-url is no URL ({error}); expected one such as https://host/prefix")
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        bail!("--base-url must begin with https:// (or http:// on this machine) and name a host");
    }
    if url.query().is_some()
        || url.fragment().is_some()
        || !url.username().is_empty()
        || url.password().is_some()
    {
        bail!(
            "--base-url is an origin with an optional prefix: no user, no `?` and no `#`; the key is never part of it"
        );
    }
    if ["/v1", "/v1beta"].iter().any(|version| url.path().trim_end_matches('/').ends_with(version)) {
        bail!("--base-url must not end with a version; /v1beta/models/… is added to it");
    }
    if url.scheme() != "https" && !is_loopback(&url) && !send.allow_insecure.unwrap_or(false) {
        bail!("--base-url has no TLS: the key would be sent in the clear; use https:// or --allow-insecure");
    }
    Ok(Some(url))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::job::ManualClock;

    fn flags(line: &str) -> Options {
        let words = ["nightpress", "run", "m.yaml"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).expect("parses").command {
            Command::Run(args) => args.options,
            other => panic!("{other:?}"),
        }
    }

    fn settings(line: &str, yaml: &str) -> Result<Settings, String> {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("nightpress.yaml"), yaml).expect("writes");
        let config = Config::read(dir.path()).expect("reads");
        Settings::new(flags(line), &config, &ManualClock::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let got = settings("--concurrency 2", "concurrency: 4\nrpm: 60\nkeep_changed: true\nverbose: 1\n");
        let got = got.expect("is right");
        assert_eq!(got.send.concurrency, Concurrency::Fixed(2));
        assert_eq!(got.send.rpm.all, Some(60));
        assert!(got.load.policy.keep_changed);
        assert_eq!(got.voice.verbose, 1);
        assert_eq!(got.send.retry, RetryPolicy::default());
        let off = settings("--keep-changed=false", "keep_changed: true\n").expect("is right");
        assert!(!off.load.policy.keep_changed, "a flag turns off what the file turns on");
    }

    #[test]
    fn a_base_url_that_would_give_the_key_away_is_refused() {
        let check = |line: &str, expect: Option<&str>| {
            let got = settings(line, "");
            match (got, expect) {
                (Ok(_), None) => {}
                (Err(error), Some(expect)) => assert!(error.contains(expect), "{error}"),
                (got, expect) => panic!("{line}: {got:?} instead of {expect:?}"),
            }
        };
        check("--base-url http://example.org", Some("--allow-insecure"));
        check("--base-url http://example.org --allow-insecure", None);
        check("--base-url http://127.0.0.1:9", None);
        check("--base-url https://example.org/prefix", None);
        check("--base-url https://example.org/v1beta", Some("version"));
        check("--base-url https://u:p@example.org", Some("no user"));
        check("--base-url ftp://example.org", Some("https://"));
        check("--base-url example.org", Some("no URL"));
        check("--scenario x.yaml", Some("--provider simulator"));
        check("--queue postgres://x", None);
        check("--queue mysql://x", Some("--queue"));
        check("--queue postgres://ann:s3cr3t@x:y/z", Some("postgres://user@host/database"));
        check("--batch spring", Some("--queue"));
        check("--backoff-base 2m", Some("--backoff-cap"));
        check("--backoff-cap 1s", None);
    }

    #[test]
    fn without_a_word_from_anyone_the_defaults_of_the_contract_hold() {
        let got = settings("", "").expect("is right");
        assert_eq!(got.load.provider, Provider::Anyfast);
        assert_eq!(got.send.concurrency, Concurrency::Auto { max: 256 });
        assert_eq!(got.send.retry.transient_max, 5);
        assert_eq!(got.send.base_url.expect("default").as_str(), "https://www.anyfast.ai/");
        assert_eq!(got.send.scope, Scope::default());
    }
}
