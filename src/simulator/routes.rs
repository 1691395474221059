//! The HTTP surface: paths, keys, parameters; everything else is decided by the pure parts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::post;

use super::answer::{Composed, Order, compose};
use super::dice::{Dice, Purpose};
use super::encode::EncodeError;
use super::fault::Fault;
use super::files::file;
use super::framing::{Form, Step, Timing, play};
use super::limit::{LimitedLane, Refused};
use super::playback::{Playback, slept};
use super::refusal::{Refusal, Throttle, refusal_of};
use super::request::{Ask, Method, parse_ask};
use super::scenario::Case;
use super::service::{Permit, Service};
use super::socket::Hangup;
use crate::job::{Digest, ModelFacts, ModelName, model_facts};

/// The largest request body that is read: above `--max-request-bytes` of the client.
const REQUEST_BYTES_MAX: usize = 128 << 20;
/// The pages have `v1beta`; Google's own SDK asks for `v1` since its version 3 (2026-11).
const API_VERSIONS: [&str; 2] = ["v1beta", "v1"];
/// Bodies above this are parsed where they hold up nobody else.
const INLINE_BYTES_MAX: usize = 64 << 10;

pub(super) fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/{version}/models/{call}", post(generate))
        .route("/files/{name}", axum::routing::get(file))
        .fallback(unknown_path)
        .with_state(service)
}

async fn unknown_path(request: Request) -> Response {
    respond(&Refusal::no_path(request.method().as_str(), request.uri().path()))
}

type Parameters = HashMap<String, String>;

async fn generate(
    State(service): State<Arc<Service>>,
    ConnectInfo(hangup): ConnectInfo<Hangup>,
    Path((version, call)): Path<(String, String)>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Response {
    if !API_VERSIONS.contains(&version.as_str()) {
        return unknown_path(request).await;
    }
    let (model, method) = call.split_once(':').unwrap_or((&call, ""));
    let method = match method {
        "generateContent" => Method::Generate,
        "streamGenerateContent" => Method::Stream,
        _ => return respond(&Refusal::no_model(model, method)),
    };
    let Ok(Query(parameters)) = parameters else {
        return respond(&Refusal::invalid("", "the query is not valid"));
    };
    let number = service.log(|log| log.begin(service.now_ms(), model, method));
    service.log(|log| log.update(number, |entry| entry.api_version = version));
    let call = Call { service, hangup, number, model: model.to_owned(), method, parameters };
    let stop = call.service.stop.clone();
    let service = Arc::clone(&call.service);
    let hangup = call.hangup.clone();
    let answered = tokio::select! {
        answered = call.answer(request) => answered,
        () = stop.cancelled() => Ok(reset(&hangup)),
    };
    answered.unwrap_or_else(|refusal| {
        service.log(|log| {
            log.update(number, |entry| {
                entry.status = Some(refusal.status);
                entry.body_bytes = refusal.body.len() as u64;
                entry.complete = true;
                entry.ended_at_ms = Some(service.now_ms());
            });
        });
        respond(&refusal)
    })
}

/// One request on its way.
struct Call {
    service: Arc<Service>,
    hangup: Hangup,
    number: u64,
    model: String,
    method: Method,
    parameters: Parameters,
}

impl Call {
    async fn answer(self, request: Request) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, REQUEST_BYTES_MAX).await;
        let body = body.map_err(|_| Refusal::too_large(REQUEST_BYTES_MAX))?;
        let key = self.authorised(&parts.headers)?;
        let form = self.form()?;
        let facts = self.facts()?;
        check_content_type(&parts.headers)?;
        let parsed = if body.len() > INLINE_BYTES_MAX {
            let parsing = tokio::task::spawn_blocking(move || parse_ask(facts, &body)).await;
            parsing.map_err(|_| broken())?
        } else {
            parse_ask(facts, &body)
        };
        let ask = parsed?;
        self.note(&ask, &key);
        let lane = LimitedLane { model: self.model.clone(), key: Digest::of(key.as_bytes()).short() };
        let admission = match self.service.admit(&lane, &ask.digest) {
            Ok(admission) => admission,
            Err(refused) => return Err(self.throttled(&ask, refused).await),
        };
        let permit = Permit { service: Arc::clone(&self.service), lane, number: self.number };
        let case = Case {
            model: &self.model,
            prompt: &ask.prompt,
            ask: &ask.digest,
            admitted: admission.admitted,
            nth_try: admission.nth_try,
            now_ms: self.service.now_ms(),
        };
        let config = &self.service.config;
        let fault = config.scenario.fault_of(config.seed, &case);
        self.log(|entry| (entry.nth_try, entry.fault) = (admission.nth_try, fault));
        let latency = config.scenario.latency_of(config.seed, &case);
        let form = match (form, fault) {
            (Form::Sse, Some(Fault::Array)) => Form::Array,
            (form, _) => form,
        };
        let timing = self.timing(latency, form);
        if let Some(refusal) = fault.and_then(|fault| refusal_of(fault, &self.model, &key)) {
            // Who is overloaded says so late, who knows better says so at once.
            let wait = if refusal.status >= 500 { timing.first_byte } else { Duration::ZERO };
            slept(wait, &self.service.stop).await;
            return Err(refusal);
        }
        match fault {
            Some(Fault::ResetBefore) => return Ok(reset(&self.hangup)),
            Some(Fault::StallBefore) => {
                self.service.stop.cancelled().await;
                return Ok(reset(&self.hangup));
            }
            _ => {}
        }
        let files_url = files_url(&parts.headers);
        let started = tokio::time::Instant::now();
        let composed = self.composed(ask, fault, admission.nth_try, files_url).await?;
        let left = timing.first_byte.saturating_sub(started.elapsed());
        slept(left, &self.service.stop).await;
        let steps = play(&composed, form, fault, timing);
        Ok(self.playing(steps, form, permit))
    }

    /// The key, in the query or the header; wrong only where one is configured.
    fn authorised(&self, headers: &HeaderMap) -> Result<String, Refusal> {
        let header = headers.get("x-goog-api-key").and_then(|key| key.to_str().ok());
        let query = self.parameters.get("key").map(String::as_str);
        let key = query.or(header).filter(|key| !key.is_empty()).ok_or_else(Refusal::no_key)?;
        match &self.service.config.api_key {
            Some(required) if !required.is(key) => Err(Refusal::wrong_key(key)),
            _ => Ok(key.to_owned()),
        }
    }

    fn form(&self) -> Result<Form, Refusal> {
        let array = self.service.config.scenario.stream.array_without_alt_sse;
        match (self.method, self.parameters.get("alt").map(String::as_str)) {
            (Method::Generate, None) => Ok(Form::Object),
            (Method::Stream, None) if array => Ok(Form::Array),
            (Method::Stream, None | Some("sse")) => Ok(Form::Sse),
            (Method::Generate, Some("sse")) => {
                Err(Refusal::invalid("alt", "alt=sse goes with streamGenerateContent only"))
            }
            (_, Some(other)) => Err(Refusal::invalid("alt", &format!("Invalid value \"{other}\" for alt"))),
        }
    }

    fn facts(&self) -> Result<&'static ModelFacts, Refusal> {
        let name = self.model.parse::<ModelName>().ok();
        let facts = name.as_ref().and_then(model_facts);
        facts.ok_or_else(|| Refusal::no_model(&self.model, self.method.as_str()))
    }

    fn log(&self, change: impl FnOnce(&mut super::log::LogEntry)) {
        self.service.log(|log| log.update(self.number, change));
    }

    fn note(&self, ask: &Ask, key: &str) {
        self.log(|entry| {
            entry.prompt.clone_from(&ask.prompt);
            entry.references = ask.references.iter().map(|image| image.digest).collect();
            entry.key = Digest::of(key.as_bytes()).short();
        });
    }

    async fn throttled(&self, ask: &Ask, refused: Refused) -> Refusal {
        self.log(|entry| entry.throttled = true);
        let limits = &self.service.config.scenario.limits;
        let Some(rule) = limits.get(refused.rule) else { return broken() };
        let throttle = Throttle {
            rule,
            model: &self.model,
            delay: rule.hinted(refused.wait_ms),
            limit: refused.limit,
            now: self.service.config.clock.now(),
        };
        let refusal = throttle.refusal();
        let mut dice = Dice::new(self.service.config.seed, Purpose::Refusal, &ask.digest, self.number);
        let wait = Duration::from_millis(dice.between(rule.refusal_ms.min, rule.refusal_ms.max));
        slept(wait, &self.service.stop).await;
        refusal
    }

    fn timing(&self, latency: Duration, form: Form) -> Timing {
        if form == Form::Object {
            return Timing { first_byte: latency, ..Timing::default() };
        }
        let shares = &self.service.config.scenario.latency;
        let first_byte = latency.mul_f64(shares.first_byte_share.clamp(0.0, 1.0));
        let thinking = latency.mul_f64(shares.thinking_share.clamp(0.0, 1.0));
        Timing { first_byte, thinking, drawing: latency.saturating_sub(first_byte + thinking) }
    }

    async fn composed(
        &self,
        ask: Ask,
        fault: Option<Fault>,
        nth_try: u64,
        files_url: String,
    ) -> Result<Composed, Refusal> {
        let service = Arc::clone(&self.service);
        let composing = tokio::task::spawn_blocking(move || -> Result<Composed, EncodeError> {
            compose(&Order {
                ask: &ask,
                fault,
                seed: service.config.seed,
                nth_try,
                pictures: &service.config.scenario.pictures,
                files_url: &files_url,
                create_time: &service.config.clock.now().to_string(),
            })
        });
        let mut composed = composing.await.map_err(|_| broken())?.map_err(|_| broken())?;
        if let Some((name, picture)) = composed.file.take() {
            self.service.keep_file(name, picture);
        }
        self.log(|entry| {
            entry.billed = composed.billed.usage();
            entry.images.clone_from(&composed.images);
        });
        Ok(composed)
    }

    fn playing(self, steps: Vec<Step>, form: Form, permit: Permit) -> Response {
        self.log(|entry| entry.status = Some(200));
        let playback = Playback {
            service: self.service,
            number: self.number,
            steps: steps.into(),
            hangup: self.hangup,
            _permit: permit,
            complete: false,
        };
        let mut response = Response::new(playback.into_body());
        response.headers_mut().insert(header::CONTENT_TYPE, value(form.content_type()));
        response
    }
}

/// Resets the connection: nothing of what is returned reaches the client.
fn reset(hangup: &Hangup) -> Response {
    hangup.reset();
    Response::new(Body::empty())
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let declared = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = declared.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Refusal::invalid("", "Invalid JSON payload received: Content-Type must be application/json"))
}

/// Where the client reaches the simulator's files: by the name it used itself.
fn files_url(headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1");
    format!("http://{host}/files")
}

/// The simulator itself failed; a test that sees this has found a bug in it.
fn broken() -> Refusal {
    Refusal::gateway(500, &"simulator_bug".into(), "the simulator failed to make an answer")
}

fn value(text: &str) -> header::HeaderValue {
    header::HeaderValue::from_str(text).unwrap_or(header::HeaderValue::from_static(""))
}

pub(super) fn respond(refusal: &Refusal) -> Response {
    let mut response = Response::new(Body::from(refusal.body.clone()));
    *response.status_mut() = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::IM_A_TEAPOT);
    response.headers_mut().insert(header::CONTENT_TYPE, value(refusal.content_type));
    if let Some(retry_after) = &refusal.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, value(retry_after));
    }
    response
}
