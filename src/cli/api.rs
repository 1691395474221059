//! Whom a run talks to: checked before anything is written, started when all else is ready.

use anyhow::{Context as _, Result};

use super::at_once::{Means, at_once};
use super::key::find_keys;
use super::settings::{SendSettings, Settings};
use crate::gemini::{Client, Endpoint, ImageFetcher, Key, Timeouts};
use crate::job::Provider;
use crate::simulator::{Scenario, Simulator, SimulatorConfig};

/// The simulator's seed unless `--seed` says otherwise.
const SIMULATOR_SEED: u64 = 1;

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
        at_once(send.concurrency, Means::of_this_process())?;
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

fn scenario(send: &SendSettings) -> Result<Scenario> {
    match &send.scenario {
        Some(path) => Ok(Scenario::from_file(path)?),
        None => Ok(Scenario::demo()),
    }
}
