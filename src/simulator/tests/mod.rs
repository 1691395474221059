//! The simulator over real HTTP, as a client sees it.

mod faults;
mod limits;
mod refusals;
mod shapes;

use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Fault, FaultRule, Pictures, Scenario, Simulator, SimulatorConfig};
use crate::gemini::wire::AnswerChunk;

/// How long a body may be silent before it counts as silent for ever.
const SILENCE: Duration = Duration::from_millis(250);
/// The pages' own pixel.
pub(super) const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const STREAM: &str = "gemini-3.1-flash-image:streamGenerateContent?key=k&alt=sse";

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Whole,
    Broken,
    Silent,
}

/// What came back; status 0: nothing.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: reqwest::header::HeaderMap,
    pub(super) body: String,
    pub(super) ending: Ending,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect(&self.body)
    }

    /// The events of an SSE body that are JSON, leniently.
    pub(super) fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data:"));
        data.filter_map(|json| serde_json::from_str(json.trim()).ok()).collect()
    }

    /// Result pictures in the events, or in the one object, that are plain base64.
    pub(super) fn pictures(&self) -> Vec<Vec<u8>> {
        let mut values = self.events();
        match serde_json::from_str(&self.body) {
            Ok(Value::Array(elements)) => values.extend(elements),
            Ok(object) => values.push(object),
            Err(_) => {}
        }
        let chunks = values.into_iter().map(|value| serde_json::from_value(value).expect("a chunk"));
        let candidates = chunks.flat_map(|chunk: AnswerChunk| chunk.candidates);
        let parts = candidates.filter_map(|candidate| candidate.content).flat_map(|content| content.parts);
        parts
            .filter(|part| part.thought != Some(true))
            .filter_map(|part| part.inline_data?.data)
            .filter_map(|data| base64_simd::STANDARD.decode_to_vec(data).ok())
            .collect()
    }
}

pub(super) fn body(prompt: &str, modalities: &[&str]) -> Value {
    json!({
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
        "generationConfig": {"responseModalities": modalities, "imageConfig": {"aspectRatio": "16:9"}},
    })
}

/// A calm scenario with tiny pictures.
pub(super) fn tiny() -> Scenario {
    Scenario { pictures: Pictures { tiny: true, ..Pictures::default() }, ..Scenario::default() }
}

pub(super) fn with_fault(fault: Fault) -> Scenario {
    Scenario { faults: vec![FaultRule::always(fault)], ..tiny() }
}

pub(super) async fn start(scenario: Scenario) -> Simulator {
    let config = SimulatorConfig { scenario, ..SimulatorConfig::default() };
    Simulator::start(config).await.expect("starts")
}

/// A client that reads no proxy from the environment and keeps no connection: it serves tests
/// on many runtimes, since building one takes longer than most of them.
pub(super) fn client() -> reqwest::Client {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        // Where TLS has a provider already, a second one is not installed.
        let _already = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client")
    });
    CLIENT.clone()
}

pub(super) async fn post(simulator: &Simulator, call: &str, body: &Value) -> Reply {
    let url = format!("{}/v1beta/models/{call}", simulator.base_url());
    let request = client().post(url).header("content-type", "application/json").body(body.to_string());
    read(request).await
}

pub(super) async fn read(request: reqwest::RequestBuilder) -> Reply {
    let nothing = |ending| Reply {
        status: 0,
        headers: reqwest::header::HeaderMap::default(),
        body: String::new(),
        ending,
    };
    let mut response = match tokio::time::timeout(SILENCE * 4, request.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => return nothing(Ending::Broken),
        Err(_) => return nothing(Ending::Silent),
    };
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let mut bytes = Vec::new();
    let ending = loop {
        match tokio::time::timeout(SILENCE, response.chunk()).await {
            Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
            Ok(Ok(None)) => break Ending::Whole,
            Ok(Err(_)) => break Ending::Broken,
            Err(_) => break Ending::Silent,
        }
    };
    Reply { status, headers, body: String::from_utf8(bytes).expect("UTF-8"), ending }
}
