//! Whom a run talks to: checked before anything is written, started when all else is ready.

use anyhow::{Context as _, Result, bail};

use super::key::find_key;
use super::settings::{SendSettings, Settings};
use crate::gemini::{Client, Endpoint, ImageFetcher, Key, Timeouts};
use crate::job::Provider;
use crate::output::open_files_max;
use crate::simulator::{Scenario, Simulator, SimulatorConfig};

/// The simulator's seed unless `--seed` says otherwise.
const SIMULATOR_SEED: u64 = 1;

/// Files that are open whatever is sent: the queue's connections, the log, the runtime's own.
const FILES_KEPT: u64 = 40;
/// The connection, what is spooled, and a reference.
const FILES_PER_REQUEST: u64 = 3;

/// An API that has a key and an address, or a scenario.
#[derive(Debug)]
pub(super) struct Api {
    provider: Provider,
    key: Key,
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
    pub(super) client: Client,
    pub(super) fetcher: ImageFetcher,
    simulator: Option<Simulator>,
}

impl Api {
    /// Finds the key and reads the scenario. Writes and sends nothing.
    pub(super) fn find(settings: &Settings) -> Result<Self> {
        let provider = settings.load.provider;
        let send = &settings.send;
        check_open_files(send.concurrency, open_files_max())?;
        let key = find_key(provider, &send.api_key_file, |name| std::env::var(name).ok())?;
        let place = match &send.base_url {
            Some(url) => Place::Url(url.clone()),
            None => Place::Simulator(Box::new(scenario(send)?), send.seed.unwrap_or(SIMULATOR_SEED)),
        };
        Ok(Self { provider, key, timeouts: send.timeouts, place })
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Starts the simulator where one is asked for, and builds the clients.
    pub(super) async fn start(self) -> Result<LiveApi> {
        let Self { provider, key, timeouts, place } = self;
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
        let client = Client::new(Endpoint { provider, base_url, key }, timeouts)?;
        Ok(LiveApi { client, fetcher, simulator })
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

/// Without this, connections would fail one by one later, and the jobs would be blamed.
fn check_open_files(concurrency: u32, files_max: Option<u64>) -> Result<()> {
    let needed = FILES_KEPT + FILES_PER_REQUEST * u64::from(concurrency);
    match files_max {
        Some(max) if max < needed => {
            let instead = match max.saturating_sub(FILES_KEPT) / FILES_PER_REQUEST {
                0 => String::new(),
                fewer => format!(" or use --concurrency {fewer}"),
            };
            bail!(
                "--concurrency {concurrency} needs up to {needed} open files, this process may have {max}: raise \
                 the limit (`ulimit -n {needed}`){instead}"
            )
        }
        _ => Ok(()),
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
        assert!(check_open_files(8, Some(64)).is_ok());
        assert!(check_open_files(10_000, None).is_ok());
        let error = check_open_files(64, Some(64)).expect_err("too few").to_string();
        assert!(error.contains("up to 232 open files") && error.ends_with("--concurrency 8"), "{error}");
        assert!(!error.contains("  "), "{error}");
        let error = check_open_files(64, Some(42)).expect_err("too few").to_string();
        assert!(error.ends_with("(`ulimit -n 232`)"), "not even one request fits: {error}");
    }
}
