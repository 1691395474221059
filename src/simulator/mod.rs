//! Floor 8: the image API on loopback. It speaks the wire types that the client speaks, over
//! real HTTP, with limits and faults that a [`Scenario`] chooses from a seed, draws real
//! pictures with the prompt's words on them, and keeps its own account of what it was asked and
//! what it delivered ([`Simulator::log`]).
//!
//! Which fault strikes a request and how long its answer takes depend on the seed, the request
//! and the number of its try, so that a run replays whatever the order of arrival. The
//! exceptions say so: rules that count requests, and limits.
//!
//! From top to bottom: `routes` takes a request, `request` checks it, `limit` and `scenario`
//! decide, `answer` composes, `framing` turns that into bytes and pauses, `playback` plays them.
//! What it does not do: the API's other models and methods, and TLS.

mod answer;
mod blob;
mod canvas;
mod dice;
mod encode;
mod fault;
mod files;
mod framing;
mod limit;
mod log;
mod picture;
mod playback;
mod refusal;
mod request;
#[cfg(test)]
mod request_tests;
mod routes;
mod scenario;
mod scenario_file;
mod service;
mod size;
mod socket;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::job::{Clock, SystemClock};

pub use fault::{Fault, ParseFaultError};
pub use log::{LogEntry, RequestLog};
pub use request::Method;
pub use scenario::{
    ErrorStyle, FaultRule, Hint, Latency, LimitChange, LimitKind, LimitRule, Pictures, RangeMs, Scenario,
    StreamShape,
};
pub use scenario_file::ScenarioError;

use service::Service;
use socket::{Hangup, ResettableListener};

/// How long [`Simulator::stop`] waits for connections before it drops them.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// How a simulator is set up.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// Where it listens; port 0 takes a free one.
    pub bind: SocketAddr,
    /// All chance comes from it.
    pub seed: u64,
    /// How it behaves.
    pub scenario: Scenario,
    /// The one key that it accepts; `None`: any.
    pub api_key: Option<RequiredKey>,
    /// For `createTime` and for hints as dates.
    pub clock: Arc<dyn Clock>,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            seed: 1,
            scenario: Scenario::default(),
            api_key: None,
            clock: Arc::new(SystemClock),
        }
    }
}

/// A key that is compared and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct RequiredKey(String);

impl RequiredKey {
    /// From its text.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    fn is(&self, key: &str) -> bool {
        self.0 == key
    }
}

impl fmt::Debug for RequiredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequiredKey(…)")
    }
}

/// A simulator that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The address is taken or not ours.
    #[error("cannot listen on {addr}; choose another port or 0 for a free one: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The scenario cannot be played.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
}

/// The API on loopback, as long as this value lives.
#[derive(Debug)]
pub struct Simulator {
    addr: SocketAddr,
    service: Arc<Service>,
    tasks: JoinSet<io::Result<()>>,
    /// Ends every connection when the simulator is dropped without [`Simulator::stop`].
    guard: DropGuard,
}

impl Simulator {
    /// Listens and serves. Cancel-safe: nothing is left behind when it is dropped.
    pub async fn start(config: SimulatorConfig) -> Result<Self, SimulatorError> {
        config.scenario.check()?;
        let failed = |source| SimulatorError::Bind { addr: config.bind, source };
        let listener = TcpListener::bind(config.bind).await.map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let stop = CancellationToken::new();
        let service = Arc::new(Service::new(config, stop.clone()));
        let app = routes::router(Arc::clone(&service)).into_make_service_with_connect_info::<Hangup>();
        let serving = axum::serve(ResettableListener(listener), app)
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { serving.await });
        Ok(Self { addr, service, tasks, guard: stop.drop_guard() })
    }

    /// Where it listens.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What a client takes as base URL.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every request so far.
    #[must_use]
    pub fn log(&self) -> RequestLog {
        self.service.log(|log| log.clone())
    }

    /// Ends all answers, waits for the connections to close, and gives the final log. What has
    /// not closed after a second is dropped.
    pub async fn stop(self) -> RequestLog {
        let Self { service, mut tasks, guard, .. } = self;
        drop(guard);
        let joined = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_TIMEOUT, joined).await.is_err() {
            tracing::debug!("a connection to the simulator did not close in time");
        }
        service.log(|log| log.clone())
    }
}

/// A command to try the simulator with, in one line for a shell.
#[must_use]
pub fn curl_line(base_url: &str) -> String {
    let body = r#"{"contents":[{"role":"user","parts":[{"text":"A llama on wet slate"}]}],"generationConfig":{"responseModalities":["TEXT","IMAGE"],"imageConfig":{"aspectRatio":"16:9","imageSize":"1K"}}}"#;
    format!(
        "curl -sN '{base_url}/v1beta/models/gemini-3.1-flash-image:streamGenerateContent?key=any&alt=sse' \
         -H 'Content-Type: application/json' -d '{body}' | cut -c -200"
    )
}
