//! Whom a run talks to: checked before anything is written, started when all else is ready.

use anyhow::{Context as _, Result, bail};

use super::key::find_keys;
use super::settings::{SendSettings, Settings};
use crate::gemini::{Client, Endpoint, ImageFetcher, Key, Timeouts};
use crate::job::Provider;
use crate::output::open_files_max;
use crate::simulator::{Scenario, Simulator, SimulatorConfig};
use crate::worker::Concurrency;

/// The simulator's seed unless `--seed` says otherwise.
const SIMULATOR_SEED: u64 = 1;

/// Files that are open whatever is sent: the queue's connections, the log, the runtime's own.
const FILES_KEPT: u64 = 40;
/// The connection, what is spooled, and a reference.
const FILES_PER_REQUEST: u64 = 3;

/// An API that has keys and an address, or a scenario.
#[derive(Debug)]
pub(super) struct Api {
    provider: Provider,
    keys: Vec<Key>,
    timeouts: Timeouts,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Url(url::Url),
    /// In this process.
    Simulator(Box<Scenario>, u64),
}

/// An API to send to. The simulator, if there is one, lives as long as this.
#[derive(Debug)]
pub(super) struct LiveApi {
    /// One for each key.
    pub(super) clients: Vec<Client>,
    pub(super) fetcher: ImageFetcher,
    simulator: Option<Simulator>,
}

impl Api {
    /// Finds the keys and reads the scenario. Writes and sends nothing.
    pub(super) fn find(settings: &Settings) -> Result<Self> {
        let provider = settings.load.provider;
        let send = &settings.send;
        within_files(send.concurrency, open_files_max())?;
        let keys = find_keys(provider, &send.api_key_file, |name| std::env::var(name).ok())?;
        let place = match &send.base_url {
            Some(url) => Place::Url(url.clone()),
            None => Place::Simulator(Box::new(scenario(send)?), send.seed.unwrap_or(SIMULATOR_SEED)),
        };
        Ok(Self { provider, keys, timeouts: send.timeouts, place })
    }

    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Starts the simulator where one is asked for, and builds the clients.
    pub(super) async fn start(self) -> Result<LiveApi> {
        let Self { provider, keys, timeouts, place } = self;
        let (base_url, simulator) = match place {
            Place::Url(url) => (url, None),
            Place::Simulator(scenario, seed) => {
                let config = SimulatorConfig { seed, scenario: *scenario, ..SimulatorConfig::default() };
                let simulator = Simulator::start(config).await?;
                let url = simulator.base_url().parse().context("the simulator's address is no URL")?;
                (url, Some(simulator))
            }
        };
        let fetcher = ImageFetcher::new(base_url.clone(), timeouts)?;
        let endpoint = |key| Endpoint { provider, base_url: base_url.clone(), key };
        let clients: Result<_, _> =
            keys.into_iter().map(|key| Client::new(endpoint(key), timeouts)).collect();
        Ok(LiveApi { clients: clients?, fetcher, simulator })
    }
}

impl LiveApi {
    /// Ends the simulator.
    pub(super) async fn stop(self) {
        if let Some(simulator) = self.simulator {
            simulator.stop().await;
        }
    }
}

/// What this process may have open, brought in line with how many requests are wanted. Without it,
/// connections would fail one by one later, and the jobs would be blamed.
pub(super) fn within_files(wanted: Concurrency, files_max: Option<u64>) -> Result<Concurrency> {
    let needed = |requests: u32| FILES_KEPT + FILES_PER_REQUEST * u64::from(requests);
    let Some(files_max) = files_max else { return Ok(wanted) };
    let possible = files_max.saturating_sub(FILES_KEPT) / FILES_PER_REQUEST;
    let possible = u32::try_from(possible).unwrap_or(u32::MAX);
    match wanted {
        Concurrency::Auto { max } if possible > 0 => Ok(Concurrency::Auto { max: max.min(possible) }),
        Concurrency::Fixed(n) if n <= possible => Ok(wanted),
        Concurrency::Fixed(n) if possible > 0 => bail!(
            "--concurrency {n} needs up to {} open files, this process may have {files_max}: raise the limit \
             (`ulimit -n {}`) or use --concurrency {possible}",
            needed(n),
            needed(n)
        ),
        Concurrency::Fixed(_) | Concurrency::Auto { .. } => bail!(
            "this process may have {files_max} open files, and needs {} at least: raise the limit (`ulimit -n {}`)",
            needed(1),
            needed(8)
        ),
    }
}

fn scenario(send: &SendSettings) -> Result<Scenario> {
    match &send.scenario {
        Some(path) => Ok(Scenario::from_file(path)?),
        None => Ok(Scenario::demo()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_open_files_is_told_before_it_is_met() {
        let (auto, eight, many) =
            (Concurrency::Auto { max: 256 }, Concurrency::Fixed(8), Concurrency::Fixed(64));
        assert_eq!(within_files(eight, Some(64)).expect("enough"), eight);
        assert_eq!(within_files(auto, Some(64)).expect("some"), Concurrency::Auto { max: 8 });
        assert_eq!(within_files(auto, None).expect("no limit"), auto);
        let error = within_files(many, Some(64)).expect_err("too few").to_string();
        assert!(error.contains("up to 232 open files") && error.ends_with("--concurrency 8"), "{error}");
        let error = within_files(auto, Some(42)).expect_err("not even one").to_string();
        assert!(error.contains("needs 43 at least"), "{error}");
    }
}
