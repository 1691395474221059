//! What went wrong with a request, and what it means for the batch.
//!
//! Here are the types and the words; which signal has which class stands in `class`. A fault's
//! message says what happened, what the server said (redacted, on one line, shortened) and
//! what to do.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use reqwest::header::HeaderMap;

use super::answer::Answer;
use super::class::{self, Kind, Row};
use super::decode::{DecodeError, Form};
use super::error_body::ErrorBody;
use super::hint::{self, Quota};
use crate::job::{ModelName, model_facts, printable};

/// Longest prose of a server in a message.
const PROSE_CHARS_MAX: usize = 300;
/// A longer hint parks the lane: no worker waits for it.
const SHORT_HINT_MAX: Duration = Duration::from_mins(10);
/// Why streaming is refused where other requests pass (the provider's page of
/// gemini-3.1-flash-image-preview, read 2026-11).
const STREAMING_ADVICE: &str = "streaming needs a key of the Direct group";

/// What a fault means for the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultClass {
    /// The lane cools down for at least `hint`; no attempt is used up.
    Throttled {
        /// How long the server asks to wait.
        hint: Option<Duration>,
        /// The limit that was met.
        quota: Option<Quota>,
    },
    /// The day's share is used up, or the wait is over 10 minutes: the lane is parked. For a
    /// daily quota that is until midnight Pacific even where `hint` is shorter: such hints
    /// were seen to be those of the minute.
    Parked {
        /// How long the server asks to wait.
        hint: Option<Duration>,
        /// The limit that was met.
        quota: Option<Quota>,
    },
    /// The account is empty: the run stops.
    MoneyOut,
    /// The key does not serve: the run stops.
    KeyRejected,
    /// The model is not there: its lane stops.
    ModelUnavailable,
    /// This job fails, its neighbours go on.
    Rejected,
    /// Worth another try after a pause.
    Transient {
        /// How long the server asks to wait.
        hint: Option<Duration>,
    },
    /// The safety filter said no: a person must change the prompt.
    Refused,
    /// An answer without an image: few more tries.
    NoImage,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it means.
    pub class: FaultClass,
    /// A stable word for reports: `rate_limited`, `http_503`, `image_safety` …
    pub code: Cow<'static, str>,
    /// For people: one line, lower case, no full stop.
    pub message: String,
    /// A firewall stands in front: the whole lane had better be quiet for a while.
    pub lane_cooldown: bool,
    /// The provider may have charged for the request.
    pub may_be_billed: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What is known about the request that failed.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Its model.
    pub model: &'a ModelName,
    /// It went to `streamGenerateContent` of a gateway whose keys belong to groups.
    pub streamed: bool,
    /// Takes the key out of a text: servers echo it. Applied before a text is shortened.
    pub redact: &'a (dyn Fn(&str) -> String + Sync),
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("model", self.model).finish_non_exhaustive()
    }
}

/// An answer whose status is not 200.
#[derive(Debug, Clone, Copy)]
pub struct ErrorResponse<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The headers: `Retry-After` and `Date` are read.
    pub headers: &'a HeaderMap,
    /// The body, or its first 64 KiB.
    pub body: &'a [u8],
}

/// How a connection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// No connection came about: name, route, port.
    Connect,
    /// The server could not prove who it is, or TLS failed otherwise.
    Tls,
    /// The whole request took too long.
    Timeout,
    /// Nothing came for too long.
    Idle,
    /// The connection broke.
    Reset,
}

/// The fault of an answer whose status is not 200.
#[must_use]
pub fn of_response(response: &ErrorResponse<'_>, request: &Request<'_>) -> Fault {
    let body = ErrorBody::of_bytes(response.body);
    let status = body.status.unwrap_or(response.status);
    let mut fault = of_error(&body, status, response.headers, request);
    fault.may_be_billed &= !fault.lane_cooldown;
    fault
}

/// The fault of a 200; `None` when it gave at least one image that is no thought, as bytes or
/// by URL. Whether the account of such an answer is complete, [`Answer::is_complete`] says.
///
/// A connection that broke in the middle of the answer is covered: finish the reader with
/// [`BodyEnd::Cut`](super::answer::BodyEnd::Cut) and ask here.
#[must_use]
pub fn of_answer(answer: &Answer, request: &Request<'_>) -> Option<Fault> {
    if let Some(error) = &answer.error {
        let body = ErrorBody::of_value(error);
        let status = body.status.unwrap_or(class::NO_STATUS);
        let mut fault = of_error(&body, status, &HeaderMap::new(), request);
        fault.may_be_billed |= answer.has_parts || !answer.usage.is_empty();
        return Some(fault);
    }
    // A second image that was cut is missing; a broken event behind whole images is not.
    let image_is_missing = answer.broken == Some(DecodeError::Truncated { in_image: true });
    if answer.has_results() && !image_is_missing {
        return None;
    }
    if answer.block_reason.is_some() || (answer.block_message.is_some() && !answer.has_parts) {
        let reason = answer.block_reason.as_deref().unwrap_or("no reason given");
        return Some(of_row(&class::BLOCKED, reason, answer.block_message.as_deref(), request));
    }
    // A refusal stands, whatever became of the bytes behind it.
    let is_decided = answer.finish_reason.as_deref().is_some_and(|reason| reason != "STOP");
    if let Some(broken) = &answer.broken
        && !(is_decided && *broken == DecodeError::Truncated { in_image: false })
    {
        return Some(of_decode(broken, request));
    }
    let message = answer.finish_message.as_deref().filter(|text| !text.is_empty());
    let prose = message.or(Some(answer.caption.as_str())).filter(|text| !text.is_empty());
    Some(match answer.finish_reason.as_deref() {
        Some(reason) => of_row(class::finish_row(reason), reason, prose, request),
        // The gateway ends a stream without a word when its upstream times out.
        None if !answer.has_terminal_signal && answer.has_parts && answer.form != Some(Form::Object) => {
            of_row(&class::ENDED_EARLY, "", None, request)
        }
        None => of_row(&class::NO_IMAGE, "", prose, request),
    })
}

/// The fault of a body that cannot be read.
#[must_use]
pub fn of_decode(error: &DecodeError, request: &Request<'_>) -> Fault {
    let prose = match error {
        DecodeError::Foreign { head, .. } => ErrorBody::of_bytes(head.as_bytes()).prose().to_owned(),
        DecodeError::BadJson(detail) => detail.clone(),
        DecodeError::TooLarge { what, max } => format!("{what}, at most {max}"),
        _ => String::new(),
    };
    of_row(class::decode_row(error), "", Some(&prose), request)
}

/// The fault of a connection; `detail` is the library's own text.
#[must_use]
pub fn of_transport(kind: Transport, detail: &str, request: &Request<'_>) -> Fault {
    let mut fault = of_row(class::transport_row(kind), "", Some(detail), request);
    fault.may_be_billed = !matches!(kind, Transport::Connect | Transport::Tls);
    fault
}

/// What a person should know about an answer that is no fault.
#[must_use]
pub fn note_of(answer: &Answer) -> Option<&'static str> {
    (answer.images.is_empty() && !answer.urls.is_empty()).then_some(
        "the images came as URLs, as they do for a key of the group Aggregate-NanoUrl; \
         a key of another group gets the bytes themselves",
    )
}

fn of_error(body: &ErrorBody, status: u16, headers: &HeaderMap, request: &Request<'_>) -> Fault {
    let row = class::error_row(body, status);
    let hint = hint::delay(headers, &body.details, &body.messages);
    let quota = hint::quota(&body.details, &body.messages);
    let is_long =
        hint.is_some_and(|hint| hint > SHORT_HINT_MAX) || quota.as_ref().is_some_and(Quota::is_exhausted);
    let row = if row.kind == Kind::Throttled && is_long { &class::PARKED } else { row };
    let where_from = if status == class::NO_STATUS { String::new() } else { format!("HTTP {status}") };
    let mut fault = of_row(row, &where_from, Some(body.prose()), request);
    fault.class = match fault.class {
        FaultClass::Throttled { .. } => FaultClass::Throttled { hint, quota },
        FaultClass::Parked { .. } => FaultClass::Parked { hint, quota },
        FaultClass::Transient { .. } => FaultClass::Transient { hint },
        other => other,
    };
    if row.code.is_empty() {
        fault.code = Cow::Owned(format!("http_{status}"));
    }
    fault.may_be_billed = row.kind == Kind::Transient;
    fault
}

fn of_row(row: &'static Row, reason: &str, prose: Option<&str>, request: &Request<'_>) -> Fault {
    let mut message = row.says.to_owned();
    if !reason.is_empty() {
        message.push_str(" (");
        message.push_str(&foreign(reason, request));
        message.push(')');
    }
    let prose = foreign(prose.unwrap_or_default(), request);
    if !prose.is_empty() {
        message.push_str(": ");
        message.push_str(&prose);
    }
    let more = advice_of(row, request);
    for advice in [Some(row.advice), more.as_deref()].into_iter().flatten().filter(|text| !text.is_empty()) {
        message.push_str("; ");
        message.push_str(advice);
    }
    let class = match row.kind {
        Kind::Throttled => FaultClass::Throttled { hint: None, quota: None },
        Kind::Parked => FaultClass::Parked { hint: None, quota: None },
        Kind::MoneyOut => FaultClass::MoneyOut,
        Kind::KeyRejected => FaultClass::KeyRejected,
        Kind::ModelUnavailable => FaultClass::ModelUnavailable,
        Kind::Rejected => FaultClass::Rejected,
        Kind::Transient => FaultClass::Transient { hint: None },
        Kind::Refused => FaultClass::Refused,
        Kind::NoImage => FaultClass::NoImage,
    };
    Fault {
        class,
        code: Cow::Borrowed(row.code),
        message,
        lane_cooldown: row.lane_cooldown,
        may_be_billed: true,
    }
}

/// Causes that the pages explain.
fn advice_of(row: &Row, request: &Request<'_>) -> Option<String> {
    let model = request.model;
    let shutdown = model_facts(model).and_then(|facts| facts.shutdown);
    match row.kind {
        Kind::ModelUnavailable if shutdown.is_some() => {
            shutdown.map(|(day, successor)| format!("{model} was shut down on {day}, use {successor}"))
        }
        _ if row.may_be_group && request.streamed => Some(STREAMING_ADVICE.to_owned()),
        _ => None,
    }
}

/// A server's text, fit for a message: without the key, on one line, printable, not too long,
/// without a full stop.
fn foreign(text: &str, request: &Request<'_>) -> String {
    let redacted = (request.redact)(text);
    let line = redacted.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = printable(line.trim_end_matches('.')).to_string();
    match line.char_indices().nth(PROSE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod tests;
