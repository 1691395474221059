//! What an error says of itself, whoever wrote it: Google, the gateway, or a web server's page.

use serde_json::{Map, Value};

/// How often JSON may stand as text in an error's message.
const NESTING_MAX: usize = 3;
/// Details of an error that are looked at.
const DETAILS_MAX: usize = 32;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Shape {
    /// JSON, perhaps cut off.
    #[default]
    Json,
    /// A page for people: not from the API itself.
    Page,
    /// Plain text, or nothing.
    Plain,
}

/// An error, read.
#[derive(Debug, Default)]
pub(super) struct ErrorBody {
    pub(super) shape: Shape,
    /// The innermost HTTP status that it names.
    pub(super) status: Option<u16>,
    /// Its machine words in lower case: reasons, status, the gateway's code and type.
    pub(super) tokens: Vec<String>,
    /// Its prose, from outside to inside.
    pub(super) messages: Vec<String>,
    /// Prose that is for matching only: it may echo the key or a stack trace.
    pub(super) asides: Vec<String>,
    /// Google's typed details.
    pub(super) details: Vec<Value>,
}

impl ErrorBody {
    /// From the first bytes of an answer's body.
    pub(super) fn of_bytes(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let text = text.trim_start_matches('\u{feff}').trim();
        let text = text.strip_prefix("data:").map_or(text, str::trim_start);
        if !text.starts_with(['{', '[']) {
            let (shape, prose) = if text.starts_with('<') {
                (Shape::Page, title(text).unwrap_or_default())
            } else {
                (Shape::Plain, text)
            };
            return Self { shape, messages: vec![prose.to_owned()], ..Self::default() };
        }
        match first_json(text) {
            Some(value) => Self::of_value(&value),
            None => Self { messages: vec![text.to_owned()], ..Self::default() },
        }
    }

    /// From an error, or an object that has one.
    pub(super) fn of_value(value: &Value) -> Self {
        let mut read = Self::default();
        read.add(value, 0);
        read
    }

    /// The prose for people: the innermost that says something.
    pub(super) fn prose(&self) -> &str {
        self.messages.iter().rev().map(|text| text.trim()).find(|text| !text.is_empty()).unwrap_or_default()
    }

    /// Whether a machine word is among `words`.
    pub(super) fn has_token(&self, words: &[&str]) -> bool {
        self.tokens.iter().any(|token| words.contains(&token.as_str()))
    }

    /// Whether the prose has one of `phrases`, which are lower case.
    pub(super) fn says(&self, phrases: &[&str]) -> bool {
        self.messages.iter().chain(&self.asides).any(|text| {
            let lower = text.to_lowercase();
            phrases.iter().any(|phrase| lower.contains(phrase))
        })
    }

    fn add(&mut self, value: &Value, depth: usize) {
        if depth > NESTING_MAX {
            return;
        }
        match value {
            Value::Array(items) => {
                if let Some(first) = items.first() {
                    self.add(first, depth + 1);
                }
            }
            Value::Object(map) => match map.get("error") {
                Some(inner @ (Value::Object(_) | Value::Array(_))) => self.add(inner, depth + 1),
                Some(Value::String(text)) => {
                    self.add_fields(map, depth);
                    self.add_prose(text, depth);
                }
                _ => self.add_fields(map, depth),
            },
            Value::String(text) => self.add_prose(text, depth),
            _ => {}
        }
    }

    fn add_fields(&mut self, map: &Map<String, Value>, depth: usize) {
        for key in ["code", "status", "type", "reason"] {
            match map.get(key) {
                Some(Value::Number(number)) => self.add_status(number.as_u64()),
                Some(Value::String(text)) => {
                    self.add_status(text.parse().ok());
                    self.tokens.push(text.to_lowercase());
                }
                _ => {}
            }
        }
        if let Some(status) = map.get("status").and_then(Value::as_str).and_then(status_of_name)
            && self.status.is_none()
        {
            self.status = Some(status);
        }
        let details = map.get("details").and_then(Value::as_array);
        for detail in details.into_iter().flatten().take(DETAILS_MAX) {
            let field = |key| detail.get(key).and_then(Value::as_str);
            self.tokens.extend(field("reason").map(str::to_lowercase));
            self.asides.extend(["detail", "message"].into_iter().filter_map(field).map(str::to_owned));
            self.details.push(detail.clone());
        }
        for key in ["message", "msg", "detail", "error_description"] {
            if let Some(Value::String(text)) = map.get(key) {
                self.add_prose(text, depth);
            }
        }
    }

    /// A message, or JSON that stands in it as text.
    fn add_prose(&mut self, text: &str, depth: usize) {
        let inner = text.find('{').and_then(|at| Some((at, first_json(&text[at..])?)));
        match inner {
            Some((at, value @ Value::Object(_))) if depth < NESTING_MAX => {
                self.messages.push(text[..at].to_owned());
                self.add(&value, depth + 1);
            }
            _ => self.messages.push(text.to_owned()),
        }
    }

    /// What is further inside is nearer to the cause.
    fn add_status(&mut self, number: Option<u64>) {
        if let Some(status) = number.filter(|number| (400..600).contains(number)) {
            self.status = u16::try_from(status).ok();
        }
    }
}

/// The first JSON value of a text, whatever comes after it.
fn first_json(text: &str) -> Option<Value> {
    serde_json::Deserializer::from_str(text).into_iter::<Value>().next()?.ok()
}

/// The title of an HTML page.
fn title(page: &str) -> Option<&str> {
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<title>")? + "<title>".len();
    let end = start + lower[start..].find("</title>")?;
    Some(&page[start..end])
}

/// The HTTP status of a gRPC status by its name (google.rpc.Code, read 2026-11).
fn status_of_name(name: &str) -> Option<u16> {
    Some(match name {
        "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE" => 400,
        "UNAUTHENTICATED" => 401,
        "PERMISSION_DENIED" => 403,
        "NOT_FOUND" => 404,
        "ABORTED" | "ALREADY_EXISTS" => 409,
        "RESOURCE_EXHAUSTED" => 429,
        "CANCELLED" => 499,
        "INTERNAL" | "UNKNOWN" | "DATA_LOSS" => 500,
        "UNIMPLEMENTED" => 501,
        "UNAVAILABLE" => 503,
        "DEADLINE_EXCEEDED" => 504,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, status: Option<u16>, prose: &str) -> ErrorBody {
        let read = ErrorBody::of_bytes(body.as_bytes());
        assert_eq!((read.status, read.prose()), (status, prose), "{body}: {read:?}");
        read
    }

    #[test]
    fn errors_of_every_family_are_read() {
        let read = check(
            r#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"x.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#,
            Some(400),
            "API key not valid.",
        );
        assert!(read.has_token(&["api_key_invalid"]));
        check(r#"[{"error":{"status":"UNAVAILABLE","message":"busy"}}]"#, Some(503), "busy");
        check(r#"data: {"error":{"code":"503","message":"busy"}}"#, Some(503), "busy");
        let read = check(
            r#"{"error":{"message":"no","type":"new_api_error","param":"","code":"insufficient_user_quota"}}"#,
            None,
            "no",
        );
        assert!(read.has_token(&["insufficient_user_quota"]));
        check(r#"{"error":"just text","code":429}"#, Some(429), "just text");
        check(r#"{"success":false,"message":"no"}"#, None, "no");
        check(r#"{"error":{"code":7,"message":""}}"#, None, "");
        check(r#"{"error":{"code":500,"mess"#, None, r#"{"error":{"code":500,"mess"#);
    }

    #[test]
    fn json_in_the_message_is_unwrapped_and_the_inner_status_counts() {
        let inner = r#"{"error":{"code":429,"message":"Please retry in 7s","details":[{"@type":"x.RetryInfo","retryDelay":"7s"}]}}"#;
        for message in [inner.to_owned(), format!("upstream said: {inner} (request id: 1)")] {
            let body =
                serde_json::json!({"error": {"message": message, "type": "new_api_error", "code": ""}})
                    .to_string();
            let read = check(&body, Some(429), "Please retry in 7s");
            assert_eq!(read.details.len(), 1);
            assert_eq!(
                read.says(&["upstream said"]),
                message.starts_with("upstream"),
                "prose around it counts"
            );
        }
        check(r#"{"error":{"message":"use {braces} freely"}}"#, None, "use {braces} freely");
    }

    #[test]
    fn a_page_gives_its_title_and_a_text_itself() {
        assert_eq!(check("<html><TITLE>502 Bad Gateway</TITLE>", None, "502 Bad Gateway").shape, Shape::Page);
        assert_eq!(check("<html><body>x", None, "").shape, Shape::Page);
        assert_eq!(check("error code: 1020", None, "error code: 1020").shape, Shape::Plain);
        assert_eq!(check("", None, "").shape, Shape::Plain);
    }
}
