//! How an answer travels: SSE, a JSON array or one object, with the faults that change how its
//! bytes look and what is left of them.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::Composed;
use super::blob::Piece;
use super::fault::Fault;
use super::request::snake;
use crate::gemini::wire::AnswerChunk;
use crate::job::Usage;

/// The three forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Server-sent events.
    Sse,
    /// A JSON array, as Google's endpoint answers without `alt=sse`.
    Array,
    /// One JSON object: `generateContent`.
    Object,
}

impl Form {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Sse => "text/event-stream",
            Self::Array | Self::Object => "application/json; charset=UTF-8",
        }
    }
}

/// One thing to do while a body is played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// These bytes.
    Send(Bytes),
    /// Silence.
    Wait(Duration),
    /// By now the client has been told this.
    Told(Usage),
    /// Silence without end.
    Hang,
    /// The connection is reset.
    Reset,
}

/// How an answer's time is spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Timing {
    /// Before the first byte.
    pub(super) first_byte: Duration,
    /// Spread over the thoughts.
    pub(super) thinking: Duration,
    /// Between the thoughts and the picture.
    pub(super) drawing: Duration,
}

/// Turns an answer into steps. The wait before the first byte is the caller's.
pub(super) fn play(composed: &Composed, form: Form, fault: Option<Fault>, timing: Timing) -> Vec<Step> {
    let frames = frames(composed, form, fault);
    let thinking = frames.iter().filter(|frame| frame.thinking).count();
    let pause = timing.thinking / u32::try_from(thinking.max(1)).unwrap_or(1);
    let mut steps = Vec::new();
    let mut drawn = false;
    for frame in &frames {
        if form != Form::Object && !frame.thinking && !drawn {
            drawn = true;
            let rest = if thinking == 0 { timing.thinking } else { Duration::ZERO };
            steps.push(Scene::Wait(timing.drawing + rest));
        }
        steps.extend(composed.blobs.fill_in(&frame.text).into_iter().map(Scene::Piece));
        if frame.thinking {
            steps.push(Scene::Wait(pause));
        }
        if frame.told {
            steps.push(Scene::Told(composed.billed.usage()));
        }
    }
    cut(steps, fault)
}

enum Scene {
    Piece(Piece),
    Wait(Duration),
    Told(Usage),
}

/// Cuts a body in the middle of its picture where a fault wants it, and ends it as it says.
fn cut(scenes: Vec<Scene>, fault: Option<Fault>) -> Vec<Step> {
    let end = match fault {
        Some(Fault::ResetMid) => vec![Step::Reset],
        Some(Fault::StallMid | Fault::NeverEnd) => vec![Step::Hang],
        _ => vec![],
    };
    let cuts = matches!(fault, Some(Fault::TruncateClean | Fault::ResetMid | Fault::StallMid));
    let mut steps = Vec::new();
    for scene in scenes {
        match scene {
            Scene::Piece(piece) if piece.blob && cuts => {
                steps.push(Step::Send(piece.bytes.slice(..piece.bytes.len() / 2)));
                break;
            }
            Scene::Piece(piece) if piece.bytes.is_empty() => {}
            Scene::Piece(piece) => steps.push(Step::Send(piece.bytes)),
            Scene::Wait(wait) if wait.is_zero() => {}
            Scene::Wait(wait) => steps.push(Step::Wait(wait)),
            Scene::Told(usage) => steps.push(Step::Told(usage)),
        }
    }
    steps.extend(end);
    steps
}

/// One event with all that surrounds it.
struct Frame {
    text: String,
    thinking: bool,
    /// It holds the usage.
    told: bool,
}

fn frames(composed: &Composed, form: Form, fault: Option<Fault>) -> Vec<Frame> {
    let bare = fault == Some(Fault::BareErrorAfterEvents);
    let (errors, chunks): (Vec<_>, Vec<_>) =
        composed.chunks.iter().cloned().partition(|chunk| bare && chunk.error.is_some());
    let chunks = if form == Form::Object { vec![merged(chunks)] } else { chunks };
    let mut events: Vec<(Value, bool, bool)> = chunks
        .iter()
        .map(|chunk| {
            let thinking = chunk.candidates.iter().any(|candidate| {
                candidate
                    .content
                    .iter()
                    .flat_map(|content| &content.parts)
                    .all(|part| part.thought == Some(true))
                    && candidate.finish_reason.is_none()
            });
            let told = chunk.usage_metadata.as_ref().is_some_and(|usage| usage.total_token_count.is_some());
            (as_value(chunk, fault), thinking, told)
        })
        .collect();
    if fault == Some(Fault::NullFields) && form != Form::Object {
        let odd = [
            json!({"candidates": null, "usageMetadata": null, "promptFeedback": null}),
            json!({"candidates": [{"content": {"parts": null, "role": null}, "finishReason": null}]}),
            json!({"candidates": [{"content": {}, "safetyRatings": [{}]}]}),
        ];
        events.splice(0..0, odd.into_iter().map(|value| (value, false, false)));
    }
    let count = events.len();
    let mut frames: Vec<Frame> = events
        .into_iter()
        .enumerate()
        .map(|(number, (value, thinking, told))| {
            let mut json = if form == Form::Sse { value.to_string() } else { format!("{value:#}") };
            if fault == Some(Fault::BrokenJson) && composed.blobs.within(&json) {
                json = json.replacen("\":", "\"=", 1);
            }
            let place = Place { number, last: number + 1 == count };
            let text = match form {
                Form::Sse => sse_event(&json, place, fault),
                Form::Array => array_element(&json, place, bare),
                Form::Object => format!("{json}\n"),
            };
            Frame { text, thinking, told }
        })
        .collect();
    let aside = |text| Frame { text, thinking: false, told: false };
    if fault == Some(Fault::DoneMarker) && form == Form::Sse {
        frames.push(aside("data: [DONE]\n\n".to_owned()));
    }
    let bare_json = |chunk: &AnswerChunk| format!("{:#}\n", json!({"error": chunk.error}));
    frames.extend(errors.iter().map(|chunk| aside(bare_json(chunk))));
    frames
}

#[derive(Debug, Clone, Copy)]
struct Place {
    number: usize,
    last: bool,
}

fn sse_event(json: &str, place: Place, fault: Option<Fault>) -> String {
    let eol = if fault == Some(Fault::Crlf) { "\r\n" } else { "\n" };
    let space = if fault == Some(Fault::NoSpace) { "" } else { " " };
    let before = match fault {
        Some(Fault::KeepAlive) => {
            format!(": keep-alive\n\nretry: 3000\nid: {}\nevent: message\n", place.number)
        }
        _ => String::new(),
    };
    let after = match fault {
        Some(Fault::NoBlankLines) => "",
        Some(Fault::NoLastBlankLine) if place.last => "",
        _ => eol,
    };
    format!("{before}data:{space}{json}{eol}{after}")
}

/// As Google's endpoint breaks its lines. A bare error that follows comes in the array's place.
fn array_element(json: &str, place: Place, bare_error_follows: bool) -> String {
    let before = if place.number == 0 { "[" } else { "\n,\r\n" };
    let after = if place.last && !bare_error_follows { "\n]\n" } else { "" };
    format!("{before}{json}{after}")
}

/// All chunks as one answer.
fn merged(chunks: Vec<AnswerChunk>) -> AnswerChunk {
    let mut whole = AnswerChunk::default();
    for chunk in chunks {
        if chunk.error.is_some() && whole.candidates.iter().all(|candidate| candidate.finish_reason.is_none())
        {
            // An error instead of a picture leaves nothing of the thoughts.
            return chunk;
        }
        for candidate in chunk.candidates {
            let Some(first) = whole.candidates.first_mut() else {
                whole.candidates.push(candidate);
                continue;
            };
            let parts = candidate.content.map(|content| content.parts).unwrap_or_default();
            first.content.get_or_insert_default().parts.extend(parts);
            first.finish_reason = candidate.finish_reason.or(first.finish_reason.take());
            first.finish_message = candidate.finish_message.or(first.finish_message.take());
        }
        whole.prompt_feedback = chunk.prompt_feedback.or(whole.prompt_feedback);
        whole.usage_metadata = chunk.usage_metadata.or(whole.usage_metadata);
        whole.model_version = chunk.model_version.or(whole.model_version);
        whole.create_time = chunk.create_time.or(whole.create_time);
        whole.response_id = chunk.response_id.or(whole.response_id);
        whole.error = chunk.error.or(whole.error);
    }
    whole
}

/// A chunk as JSON, with the faults that change names, order and nulls.
fn as_value(chunk: &AnswerChunk, fault: Option<Fault>) -> Value {
    let mut value = serde_json::to_value(chunk).unwrap_or_default();
    let candidates = value.get_mut("candidates").and_then(Value::as_array_mut);
    for candidate in candidates.into_iter().flatten().filter_map(Value::as_object_mut) {
        let content = candidate.get_mut("content").and_then(Value::as_object_mut);
        // A refused answer has a content without parts.
        if let (Some(content), true) = (content, fault != Some(Fault::EmptyParts)) {
            let empty = content.get("parts").and_then(Value::as_array).is_some_and(Vec::is_empty);
            if empty {
                content.remove("parts");
            }
        }
        if fault == Some(Fault::NullFields) {
            add_nulls(candidate);
        }
    }
    match fault {
        Some(Fault::SnakeCaseAnswer) => renamed(value),
        Some(Fault::ShuffledKeys) => reversed(value),
        _ => value,
    }
}

fn add_nulls(candidate: &mut Map<String, Value>) {
    candidate.insert("safetyRatings".to_owned(), json!([{}]));
    candidate.insert("citationMetadata".to_owned(), Value::Null);
    if let Some(parts) =
        candidate.get_mut("content").and_then(|content| content.get_mut("parts")?.as_array_mut())
    {
        parts.insert(0, json!({}));
        parts.push(json!({"text": null, "inlineData": null}));
    }
}

fn renamed(value: Value) -> Value {
    mapped(value, &|map| map.into_iter().map(|(key, value)| (snake(&key), value)).collect())
}

fn reversed(value: Value) -> Value {
    mapped(value, &|map| map.into_iter().rev().collect())
}

/// Changes every object of a value.
fn mapped(value: Value, change: &impl Fn(Map<String, Value>) -> Map<String, Value>) -> Value {
    match value {
        Value::Object(map) => {
            let inner = map.into_iter().map(|(key, value)| (key, mapped(value, change))).collect();
            Value::Object(change(inner))
        }
        Value::Array(items) => items.into_iter().map(|item| mapped(item, change)).collect(),
        scalar => scalar,
    }
}
