//! The HTTP client: sends one request, once, and hands its answer over block by block.
//!
//! It never tries again and never follows a redirect: there is one retry loop, and it is in the
//! queue. HTTP/1.1 only, so that a broken connection takes one request with it, not all of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::time::{Instant, timeout_at};

use super::key::Key;
use super::request::{Endpoint, Method, ReferenceGone, RequestBody};
use crate::job::Spec;
use crate::manifest::Objects;
use crate::platform;

/// How long things may take. Silence of 50–120 s is normal for 4K pictures (users' reports,
/// 2026-11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// Longest silence, before the first byte and between two.
    pub idle: Duration,
    /// The whole request.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(180),
            total: Duration::from_secs(600),
        }
    }
}

/// Connections that are kept for reuse are closed by us before servers close them, so that no
/// request is sent into a closing one. Common servers keep them for 60 s and more.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// Why no answer, or no whole answer, came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection stood: nothing was sent, nothing can be billed.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// This process has no file descriptor left for a connection: nothing was sent.
    #[error("cannot connect: {0}")]
    OutOfFiles(String),
    /// The server could not prove who it is, or TLS failed otherwise: nothing was sent.
    #[error("no secure connection: {0}")]
    Tls(String),
    /// Not a byte for too long.
    #[error("silent for {} s", .0.as_secs_f64())]
    Idle(Duration),
    /// The whole request took too long.
    #[error("not finished after {} s", .0.as_secs_f64())]
    Total(Duration),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The request's own body could not be read: the server got a torn one, which it refuses.
    #[error("the request could not be built: {0}")]
    Body(String),
}

/// The client cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct ClientError(String);

impl ClientError {
    pub(super) fn from_reqwest(error: reqwest::Error) -> Self {
        Self(source_chain(error))
    }
}

/// Sends requests to one endpoint.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    timeouts: Timeouts,
    /// Where references in object storage are read from.
    objects: Option<Arc<dyn Objects>>,
    /// Answers in the server's place.
    #[cfg(test)]
    double: Option<Arc<dyn super::double::Double>>,
}

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: ReplyBody,
}

/// The body of an answer, block by block, under the request's timeouts.
#[derive(Debug)]
pub struct ReplyBody {
    response: reqwest::Response,
    key: Key,
    idle: Duration,
    total: Duration,
    deadline: Instant,
}

impl Client {
    /// A client for `endpoint`.
    pub fn new(endpoint: Endpoint, timeouts: Timeouts) -> Result<Self, ClientError> {
        let http = builder(timeouts.connect);
        let is_loopback = is_loopback(&endpoint.base_url);
        let http = if is_loopback { http.no_proxy() } else { http };
        let http = http.build().map_err(ClientError::from_reqwest)?;
        Ok(Self {
            http,
            endpoint,
            timeouts,
            objects: None,
            #[cfg(test)]
            double: None,
        })
    }

    /// As this one, but answered by `double`; nothing goes over a network.
    #[cfg(test)]
    pub(crate) fn answered_by(&self, double: Arc<dyn super::double::Double>) -> Self {
        Self { double: Some(double), ..self.clone() }
    }

    /// The same, which reads references in object storage from there.
    #[must_use]
    pub fn reading_from(self, objects: Arc<dyn Objects>) -> Self {
        Self { objects: Some(objects), ..self }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The timeouts.
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Sends one request and waits for the head of its answer. Dropping the future closes the
    /// connection; the server may go on and bill.
    pub async fn send(&self, spec: &Spec, stream: bool) -> Result<Reply, TransportError> {
        let sent = Arc::new(Mutex::new(Instant::now()));
        let deadline = Instant::now() + self.timeouts.total;
        let response = self.head(self.post(spec, stream, &sent), deadline, &sent).await?;
        Ok(Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: ReplyBody {
                response,
                key: self.endpoint.key.clone(),
                idle: self.timeouts.idle,
                total: self.timeouts.total,
                deadline,
            },
        })
    }

    /// The request itself. Notes in `sent` when the connection took a block from us.
    async fn post(
        &self,
        spec: &Spec,
        stream: bool,
        sent: &Arc<Mutex<Instant>>,
    ) -> Result<reqwest::Response, TransportError> {
        #[cfg(test)]
        if let Some(double) = &self.double {
            return double.answer(spec, stream).await;
        }
        let body = RequestBody::new(spec);
        let url = self.endpoint.url(spec.model.as_str(), Method::of(stream));
        let mut request = self
            .http
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(CONTENT_LENGTH, body.bytes());
        if !self.endpoint.key_in_query() {
            let mut value = HeaderValue::from_str(self.endpoint.key.expose())
                .map_err(|_| TransportError::Body("the key cannot stand in a header".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(HeaderName::from_static("x-goog-api-key"), value);
        }
        let touched = Arc::clone(sent);
        let upload = body.into_stream(self.objects.clone()).inspect_ok(move |_| touch(&touched));
        let response = request.body(reqwest::Body::wrap_stream(upload)).send().await;
        response.map_err(|error| self.transport_error(error))
    }

    /// Waits for the head of an answer. Silence is counted from the last block that the
    /// connection took from us: an upload may be long.
    async fn head(
        &self,
        response: impl Future<Output = Result<reqwest::Response, TransportError>>,
        deadline: Instant,
        sent: &Mutex<Instant>,
    ) -> Result<reqwest::Response, TransportError> {
        tokio::pin!(response);
        loop {
            let silent_at = *sent.lock().unwrap_or_else(PoisonError::into_inner) + self.timeouts.idle;
            match timeout_at(deadline.min(silent_at), &mut response).await {
                Ok(response) => return response,
                Err(_) if Instant::now() >= deadline => {
                    return Err(TransportError::Total(self.timeouts.total));
                }
                Err(_) => {
                    let last = *sent.lock().unwrap_or_else(PoisonError::into_inner);
                    if last.elapsed() >= self.timeouts.idle {
                        return Err(TransportError::Idle(self.timeouts.idle));
                    }
                }
            }
        }
    }

    fn transport_error(&self, error: reqwest::Error) -> TransportError {
        let (connect, tls) = (error.is_connect(), is_caused_by::<rustls::Error>(&error));
        let body = is_caused_by::<ReferenceGone>(&error);
        let out_of_files = causes(&error)
            .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(platform::is_out_of_files));
        let text = source_chain(error);
        let text = self.endpoint.key.redact(&text);
        if tls {
            TransportError::Tls(text)
        } else if out_of_files {
            TransportError::OutOfFiles(text)
        } else if connect {
            TransportError::Connect(text)
        } else if body {
            TransportError::Body(text)
        } else {
            TransportError::Broken(text)
        }
    }
}

impl ReplyBody {
    /// The next block; `None` at the end. Not cancel-safe: a dropped call may lose a block.
    pub async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        self.next_within(self.idle).await
    }

    /// As [`ReplyBody::next`], with a shorter patience for silence.
    pub async fn next_within(&mut self, idle: Duration) -> Result<Option<Bytes>, TransportError> {
        let idle = idle.min(self.idle);
        let idle_deadline = Instant::now() + idle;
        match timeout_at(self.deadline.min(idle_deadline), self.response.chunk()).await {
            Ok(Ok(block)) => Ok(block),
            Ok(Err(error)) => Err(TransportError::Broken(self.key.redact(&source_chain(error)))),
            Err(_) if self.deadline <= idle_deadline => Err(TransportError::Total(self.total)),
            Err(_) => Err(TransportError::Idle(idle)),
        }
    }

    /// At most `max` first bytes of the body, for an error's text; what came before a fault
    /// counts as much as a whole body.
    pub async fn prefix(&mut self, max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < max {
            match self.next().await {
                Ok(Some(block)) => bytes.extend_from_slice(&block[..block.len().min(max - bytes.len())]),
                Ok(None) | Err(_) => break,
            }
        }
        bytes
    }
}

fn touch(at: &Mutex<Instant>) {
    *at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
}

/// What all clients of this crate have in common.
pub(super) fn builder(connect: Duration) -> reqwest::ClientBuilder {
    // Installed once per process; a second call is refused and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .http1_only()
        .connect_timeout(connect)
        .pool_idle_timeout(POOL_IDLE)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .user_agent(concat!("nightpress/", env!("CARGO_PKG_VERSION")))
}

/// An error with all its causes, without the URL: that may hold the key.
pub(super) fn source_chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Whether an error of type `E` stands in the chain of causes, by itself or inside an I/O error.
fn is_caused_by<E: std::error::Error + 'static>(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
        let inside = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause.is::<E>() || inside.is_some_and(<dyn std::error::Error + Send + Sync>::is::<E>)
    })
}

/// An error and all that caused it, outermost first.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |cause| cause.source())
}

/// Whether a URL points at this machine.
pub fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        None => false,
    }
}
