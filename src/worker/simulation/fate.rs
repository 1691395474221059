//! What can become of a request, as the server's side knows it, and the bytes that tell of it.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::job::{AttemptOutcome, Digest, Micros, PriceTable, Spec, Usage};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Good,
    TwoImages,
    NoUsage,
    NeverEnds,
    Refused,
    Blocked,
    NoImage,
    Damaged,
    CutInImage,
    BrokenInImage,
    SilentInImage,
    ErrorInside,
    LimitInside,
    NoConnection,
    Reset,
    SilentHead,
    ServerError,
    Limit,
    DayIsUsedUp,
    MoneyOut,
    KeyRejected,
    ModelGone,
    Rejected,
    Firewall,
}

/// All but the first, which is what happens when nothing else does.
pub(super) const FATES: [Fate; 23] = [
    Fate::TwoImages,
    Fate::NoUsage,
    Fate::NeverEnds,
    Fate::Refused,
    Fate::Blocked,
    Fate::NoImage,
    Fate::Damaged,
    Fate::CutInImage,
    Fate::BrokenInImage,
    Fate::SilentInImage,
    Fate::ErrorInside,
    Fate::LimitInside,
    Fate::NoConnection,
    Fate::Reset,
    Fate::SilentHead,
    Fate::ServerError,
    Fate::Limit,
    Fate::DayIsUsedUp,
    Fate::MoneyOut,
    Fate::KeyRejected,
    Fate::ModelGone,
    Fate::Rejected,
    Fate::Firewall,
];

impl Fate {
    /// How an attempt with this fate ends unless we cut it off.
    pub(super) fn outcome(self) -> AttemptOutcome {
        match self {
            Self::Good | Self::TwoImages | Self::NoUsage | Self::NeverEnds => AttemptOutcome::Succeeded,
            Self::Refused | Self::Blocked => AttemptOutcome::Refused,
            Self::NoImage => AttemptOutcome::NoImage,
            Self::Limit | Self::DayIsUsedUp | Self::LimitInside => AttemptOutcome::Throttled,
            Self::MoneyOut | Self::KeyRejected | Self::ModelGone | Self::Rejected => AttemptOutcome::Failed,
            _ => AttemptOutcome::Transient,
        }
    }

    /// The run ends of it with jobs left.
    pub(super) fn stops_the_run(self) -> bool {
        matches!(self, Self::DayIsUsedUp | Self::MoneyOut | Self::KeyRejected | Self::ModelGone)
    }
}

/// What the server answers: after each pause, a block or the connection's end.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) blocks: Vec<(Duration, Result<Bytes, std::io::ErrorKind>)>,
    /// What the server charges, whatever becomes of its answer.
    pub(super) billed: Micros,
    /// The wait that it asks for.
    pub(super) hint: Option<Duration>,
    /// Digests of the pictures, if they are whole.
    pub(super) pictures: Vec<Digest>,
}

/// A small picture that no other request gets.
fn picture(id: u64, nth: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut pixels = id.to_le_bytes().to_vec();
    pixels.push(nth);
    let image = image::RgbImage::from_raw(3, 1, pixels).expect("three pixels");
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("encodes");
    bytes.into_inner()
}

fn part(picture: &[u8]) -> Value {
    json!({"inlineData": {"mimeType": "image/png", "data": base64_simd::STANDARD.encode_to_string(picture)}})
}

fn metadata(usage: &Usage) -> Value {
    json!({
        "promptTokenCount": usage.prompt,
        "candidatesTokenCount": usage.candidates,
        "thoughtsTokenCount": usage.thoughts,
        "totalTokenCount": usage.total,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": usage.image}],
    })
}

fn error(code: u16, status: &str, details: &Value) -> Value {
    json!({"error": {"code": code, "status": status, "message": "not now", "details": details}})
}

impl Script {
    fn plain(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            blocks: vec![(Duration::ZERO, Ok(body.into()))],
            billed: Micros(0),
            hint: None,
            pictures: Vec::new(),
        }
    }

    fn error(code: u16, status: &str, details: &Value) -> Self {
        Self::plain(code, error(code, status, details).to_string())
    }

    /// The answer to request `id`.
    pub(super) fn of(fate: Fate, id: u64, (spec, stream): (&Spec, bool), rng: &mut StdRng) -> Self {
        match fate {
            Fate::Limit => Self::limit(rng),
            Fate::DayIsUsedUp => {
                let violation = json!([{
                    "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                    "violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel"}],
                }]);
                Self::error(429, "RESOURCE_EXHAUSTED", &violation)
            }
            Fate::MoneyOut => Self::error(402, "PAYMENT_REQUIRED", &json!([])),
            Fate::KeyRejected => Self::error(401, "UNAUTHENTICATED", &json!([])),
            Fate::ModelGone => Self::error(404, "NOT_FOUND", &json!([])),
            Fate::Rejected => Self::error(400, "INVALID_ARGUMENT", &json!([])),
            Fate::Firewall => Self::plain(403, "<html><title>Just a moment</title></html>"),
            Fate::ServerError => {
                let billed = full_bill(spec).filter(|_| rng.random_bool(0.3));
                Self { billed: billed.unwrap_or_default(), ..Self::error(503, "UNAVAILABLE", &json!([])) }
            }
            _ => Self::answer(fate, id, (spec, stream), rng),
        }
    }

    fn limit(rng: &mut StdRng) -> Self {
        let hint = Duration::from_millis(rng.random_range(500..6_000));
        match rng.random_range(0..3) {
            0 => Self::error(429, "RESOURCE_EXHAUSTED", &json!([])),
            1 => {
                let hint = Duration::from_secs(hint.as_secs());
                let headers = vec![("retry-after", hint.as_secs().to_string())];
                Self { headers, hint: Some(hint), ..Self::error(429, "RESOURCE_EXHAUSTED", &json!([])) }
            }
            _ => {
                let info = json!([{
                    "@type": "type.googleapis.com/google.rpc.RetryInfo",
                    "retryDelay": format!("{}.{:03}s", hint.as_secs(), hint.subsec_millis()),
                }]);
                Self { hint: Some(hint), ..Self::error(429, "RESOURCE_EXHAUSTED", &info) }
            }
        }
    }

    fn answer(fate: Fate, id: u64, (spec, stream): (&Spec, bool), rng: &mut StdRng) -> Self {
        let mut usage = full_usage();
        let mut bytes: Vec<Vec<u8>> = vec![picture(id, 0)];
        if fate == Fate::TwoImages {
            bytes.push(picture(id, 1));
        }
        let digests = bytes.iter().map(|one| Digest::of(one)).collect();
        if fate == Fate::Damaged {
            let middle = bytes[0].len() / 2;
            bytes[0][middle] ^= 0x10;
        }
        let parts: Vec<Value> = bytes.iter().map(|one| part(one)).collect();
        let mut events = vec![json!({"candidates": [{"content": {"parts": parts}}], "responseId": "r"})];
        let reason = |reason: &str, usage: &Usage| json!({"candidates": [{"finishReason": reason}], "usageMetadata": metadata(usage)});
        match fate {
            Fate::NoUsage => events.push(json!({"candidates": [{"finishReason": "STOP"}]})),
            Fate::Refused | Fate::NoImage => {
                usage = Usage { candidates: Some(0), image: None, ..usage };
                let why = if fate == Fate::Refused { "IMAGE_SAFETY" } else { "STOP" };
                events = vec![reason(why, &usage)];
            }
            Fate::Blocked => {
                usage = Usage { prompt: Some(9), ..Usage::default() };
                let feedback = json!({"blockReason": "SAFETY"});
                events = vec![json!({"promptFeedback": feedback, "usageMetadata": metadata(&usage)})];
            }
            Fate::ErrorInside => events.push(error(503, "UNAVAILABLE", &json!([]))),
            Fate::LimitInside => events = vec![error(429, "RESOURCE_EXHAUSTED", &json!([]))],
            _ => events.push(reason("STOP", &usage)),
        }
        let body = if stream {
            events.iter().map(|event| format!("data: {event}\r\n\r\n")).collect::<Vec<_>>().concat()
        } else {
            merged(&events).to_string()
        };
        let mut billed = PriceTable::default().cost(&spec.model, &usage).unwrap_or_default();
        let maybe = matches!(fate, Fate::ErrorInside | Fate::Reset | Fate::SilentHead);
        if matches!(fate, Fate::LimitInside | Fate::NoConnection) || (maybe && rng.random_bool(0.5)) {
            billed = Micros(0);
        }
        let mut script = Self { billed, pictures: digests, ..Self::plain(200, "") };
        script.blocks = blocks(body.into_bytes(), fate, rng);
        if fate.outcome() != AttemptOutcome::Succeeded {
            script.pictures.clear();
        }
        script
    }
}

/// What a picture costs in tokens; less than what is set aside for it.
fn full_usage() -> Usage {
    Usage {
        prompt: Some(9),
        candidates: Some(1_120),
        image: Some(1_120),
        thoughts: Some(200),
        total: Some(1_329),
    }
}

fn full_bill(spec: &Spec) -> Option<Micros> {
    PriceTable::default().cost(&spec.model, &full_usage())
}

/// One object with all that stands in several.
fn merged(events: &[Value]) -> Value {
    let mut whole = json!({});
    for event in events {
        let mut event = event.clone();
        // The reason belongs to the candidate that has the image.
        if let (Some(_), Some(reason)) =
            (whole.get("candidates"), event.pointer("/candidates/0/finishReason"))
        {
            whole["candidates"][0]["finishReason"] = reason.clone();
            event.as_object_mut().expect("an object").remove("candidates");
        }
        crate::job::merge_json(&mut whole, &event);
    }
    whole
}

/// Cuts a body into blocks that arrive one after the other, and lets it end as its fate has it.
fn blocks(
    mut body: Vec<u8>,
    fate: Fate,
    rng: &mut StdRng,
) -> Vec<(Duration, Result<Bytes, std::io::ErrorKind>)> {
    const FOREVER: Duration = Duration::from_secs(3_600);
    let cut = matches!(fate, Fate::CutInImage | Fate::BrokenInImage | Fate::SilentInImage);
    if cut {
        // Behind the head of the image and before its end.
        body.truncate(110);
    }
    let mut blocks = Vec::new();
    while !body.is_empty() {
        let rest = body.split_off(rng.random_range(1..=body.len()).max(40).min(body.len()));
        blocks.push((Duration::from_millis(rng.random_range(0..700)), Ok(Bytes::from(body))));
        body = rest;
    }
    match fate {
        Fate::BrokenInImage => {
            blocks.push((Duration::from_millis(5), Err(std::io::ErrorKind::ConnectionReset)));
        }
        Fate::SilentInImage | Fate::NeverEnds => blocks.push((FOREVER, Ok(Bytes::new()))),
        _ => {}
    }
    blocks
}
