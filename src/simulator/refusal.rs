//! Answers that refuse: Google's error bodies, the gateway's, and pages of HTML.

use std::time::Duration;

use serde_json::{Value, json};

use super::fault::Fault;
use super::scenario::{ErrorStyle, Hint, LimitRule};
use crate::job::Timestamp;

/// A complete answer that is no success.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// `Retry-After`.
    pub(super) retry_after: Option<String>,
    pub(super) body: String,
}

const JSON: &str = "application/json; charset=UTF-8";
const HTML: &str = "text/html; charset=UTF-8";

impl Refusal {
    fn json(status: u16, body: &Value) -> Self {
        Self { status, content_type: JSON, retry_after: None, body: format!("{body:#}\n") }
    }

    fn html(status: u16, title: &str) -> Self {
        let body = format!(
            "<!DOCTYPE html>\n<html><head><title>{status} {title}</title></head>\n<body><center>\
             <h1>{status} {title}</h1></center><hr><center>cloudflare</center></body></html>\n"
        );
        Self { status, content_type: HTML, retry_after: None, body }
    }

    /// A body as Google writes it.
    pub(super) fn google(status: u16, word: &str, message: &str, details: &[Value]) -> Self {
        Self::json(status, &google_error(status, word, message, details))
    }

    /// A body as the gateway writes it: the details are lost.
    pub(super) fn gateway(status: u16, code: &Value, message: &str) -> Self {
        let message = format!("{message} (request id: 20261120230405120simulator)");
        let body = json!({"error": {"message": message, "type": "new_api_error", "param": "", "code": code}});
        Self::json(status, &body)
    }

    /// A request that does not follow the API.
    pub(super) fn invalid(field: &str, message: &str) -> Self {
        let violations = json!([{"field": field, "description": message}]);
        let details = json!({
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": violations,
        });
        Self::google(400, "INVALID_ARGUMENT", message, &[details])
    }

    /// No key at all.
    pub(super) fn no_key() -> Self {
        let message = "Method doesn't allow unregistered callers (callers without established identity). \
                       Please use API Key or other form of API consumer identity to call this API.";
        Self::google(403, "PERMISSION_DENIED", message, &[])
    }

    /// A key that is not the configured one. Google's text echoes it, and so does this.
    pub(super) fn wrong_key(key: &str) -> Self {
        let message = "API key not valid. Please pass a valid API key.";
        let details = [
            json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": "generativelanguage.googleapis.com"},
            }),
            json!({
                "@type": "type.googleapis.com/google.rpc.DebugInfo",
                "detail": format!("Invalid API key: {key}"),
            }),
        ];
        Self::google(400, "INVALID_ARGUMENT", message, &details)
    }

    /// A model that is not served, or a method that it does not have.
    pub(super) fn no_model(model: &str, method: &str) -> Self {
        let message = format!(
            "models/{model} is not found for API version v1beta, or is not supported for {method}. Call \
             ListModels to see the list of available models and their supported methods."
        );
        Self::google(404, "NOT_FOUND", &message, &[])
    }

    /// A path that is not served, as the gateway says it.
    pub(super) fn no_path(method: &str, path: &str) -> Self {
        Self::gateway(404, &json!(""), &format!("Invalid URL ({method} {path})"))
    }

    /// A body beyond the simulator's cap.
    pub(super) fn too_large(bytes_max: usize) -> Self {
        let message = format!("Request payload size exceeds the limit: {bytes_max} bytes.");
        Self::google(413, "INVALID_ARGUMENT", &message, &[])
    }
}

/// `{"error": …}` as Google writes it.
pub(super) fn google_error(status: u16, word: &str, message: &str, details: &[Value]) -> Value {
    let mut error = json!({"error": {"code": status, "message": message, "status": word}});
    if !details.is_empty() {
        error["error"]["details"] = details.into();
    }
    error
}

/// A rate limit's refusal, as its rule wants it told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Throttle<'a> {
    pub(super) rule: &'a LimitRule,
    pub(super) model: &'a str,
    /// What it says, true or not.
    pub(super) delay: Duration,
    /// The limit of this moment.
    pub(super) limit: u32,
    /// For a hint as a date.
    pub(super) now: Timestamp,
}

impl Throttle<'_> {
    pub(super) fn refusal(self) -> Refusal {
        let hint = self.rule.hint;
        let in_message = matches!(hint, Hint::All | Hint::RetryInfo | Hint::MessageOnly);
        let per_minute = u64::from(self.limit) * 60_000 / self.rule.window_ms.max(1);
        let quota = self
            .rule
            .quota_value
            .then(|| format!("\n* Quota exceeded for metric: {METRIC}, limit: {per_minute}"));
        let retry = in_message.then(|| format!("\nPlease retry in {}s.", seconds(self.delay)));
        let message = "You exceeded your current quota, please check your plan and billing details. For \
                           more information on this error, head over to: \
                           https://ai.google.dev/gemini-api/docs/rate-limits."
            .to_owned()
            + &quota.unwrap_or_default()
            + &retry.unwrap_or_default();
        let mut refusal = match self.rule.style {
            ErrorStyle::Google => {
                let stated = self.rule.quota_value.then_some(per_minute);
                let mut details = vec![quota_failure("PerMinute", self.model, stated)];
                if matches!(hint, Hint::All | Hint::RetryInfo) {
                    details.push(retry_info(self.delay));
                }
                Refusal::google(429, "RESOURCE_EXHAUSTED", &message, &details)
            }
            ErrorStyle::Gateway => Refusal::gateway(429, &json!(429), &message),
        };
        let seconds = self.delay.as_millis().div_ceil(1000);
        refusal.retry_after = match hint {
            Hint::All | Hint::RetryAfterSeconds => Some(seconds.to_string()),
            Hint::RetryAfterDate => {
                let at = self.now.plus(self.delay).as_ms().div_euclid(1000) + 1;
                let at = Duration::from_secs(u64::try_from(at).unwrap_or(0));
                Some(httpdate::fmt_http_date(std::time::UNIX_EPOCH + at))
            }
            Hint::RetryInfo | Hint::MessageOnly | Hint::None => None,
        };
        refusal
    }
}

const METRIC: &str = "generativelanguage.googleapis.com/generate_content_requests";

fn quota_failure(period: &str, model: &str, value: Option<u64>) -> Value {
    let mut violation = json!({
        "quotaMetric": METRIC,
        "quotaId": format!("GenerateRequests{period}PerProjectPerModel"),
        "quotaDimensions": {"location": "global", "model": model},
    });
    if let Some(value) = value {
        violation["quotaValue"] = value.to_string().into();
    }
    json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]})
}

/// `7.96`: milliseconds at most, without the errors of binary fractions.
fn seconds(delay: Duration) -> String {
    let text = format!("{}.{:03}", delay.as_secs(), delay.subsec_millis());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Google cuts the delay to whole seconds here and gives it whole in the message; a delay below
/// a second keeps its fraction.
fn retry_info(delay: Duration) -> Value {
    let text = if delay.as_secs() > 0 {
        format!("{}s", delay.as_secs())
    } else {
        format!("{:.9}s", delay.as_secs_f64())
    };
    json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": text})
}

/// The refusal that a fault stands for; `None` for faults of an answer.
pub(super) fn refusal_of(fault: Fault, model: &str, key: &str) -> Option<Refusal> {
    let google = |status, word, message| Refusal::google(status, word, message, &[]);
    let gateway = |status, code: &str, message| Refusal::gateway(status, &json!(code), message);
    let out_of_money = "user quota is not enough, remaining quota: $0.000000, need quota: $0.134000";
    Some(match fault {
        Fault::Http400 => Refusal::invalid("contents", "Request contains an invalid argument."),
        Fault::ApiKeyInvalid => Refusal::wrong_key(key),
        Fault::UnsupportedLocation => {
            google(400, "FAILED_PRECONDITION", "User location is not supported for the API use.")
        }
        Fault::BillingPrecondition => google(
            400,
            "FAILED_PRECONDITION",
            "Imagen API is only accessible to billed users at this time. Please enable billing.",
        ),
        Fault::Http401 => Refusal::gateway(401, &json!(""), "Invalid token"),
        Fault::Http402 => gateway(402, "insufficient_quota", out_of_money),
        Fault::InsufficientUserQuota => gateway(403, "insufficient_user_quota", out_of_money),
        Fault::PreConsumeFailed => gateway(403, "pre_consume_token_quota_failed", out_of_money),
        Fault::Http403Json => {
            google(403, "PERMISSION_DENIED", "The caller does not have permission to use this model.")
        }
        Fault::Http403Html => Refusal::html(403, "Forbidden"),
        Fault::Http404 => Refusal::no_model(model, "generateContent"),
        Fault::ModelNotFound => {
            let message = format!("No available channel for model {model} under group default (distributor)");
            gateway(503, "model_not_found", message.as_str())
        }
        Fault::Http408 => gateway(408, "request_timeout", "upstream request timed out"),
        Fault::Http413 => Refusal::html(413, "Request Entity Too Large"),
        Fault::Http422 => gateway(422, "invalid_request", "unprocessable entity"),
        Fault::Http429 | Fault::Http429NoHint | Fault::Http429Gateway | Fault::Http429Daily => {
            return throttled(fault, model);
        }
        Fault::Http500 => google(500, "INTERNAL", "An internal error has occurred. Please retry."),
        Fault::Http502Html => Refusal::html(502, "Bad Gateway"),
        Fault::Http503 => Refusal::google(
            503,
            "UNAVAILABLE",
            "The model is overloaded. Please try again later.",
            &[json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "MODEL_CAPACITY_EXHAUSTED",
                "domain": "cloudcode-pa.googleapis.com",
                "metadata": {"model": model},
            })],
        ),
        Fault::Http504 => google(504, "DEADLINE_EXCEEDED", "The request timed out. Please try again."),
        Fault::Http520 => Refusal::html(520, "Web server is returning an unknown error"),
        Fault::Http521 => Refusal::html(521, "Web server is down"),
        Fault::Http522 => Refusal::html(522, "Connection timed out"),
        Fault::Http523 => Refusal::html(523, "Origin is unreachable"),
        Fault::Http524 => Refusal::html(524, "A timeout occurred"),
        Fault::Http529 => gateway(529, "overloaded_error", "the upstream is overloaded"),
        Fault::Html200 => Refusal::html(200, "Just a moment..."),
        _ => return None,
    })
}

fn throttled(fault: Fault, model: &str) -> Option<Refusal> {
    let rule = |hint, style| LimitRule { hint, style, ..LimitRule::default() };
    let rule = match fault {
        // As Google's usually does, it states the limit.
        Fault::Http429 => LimitRule { quota_value: true, ..rule(Hint::All, ErrorStyle::Google) },
        Fault::Http429NoHint => rule(Hint::None, ErrorStyle::Google),
        Fault::Http429Gateway => rule(Hint::MessageOnly, ErrorStyle::Gateway),
        Fault::Http429Daily => {
            let message = "You exceeded your current quota. Quota exceeded for metric: \
                           generativelanguage.googleapis.com/generate_requests_per_model_per_day, limit: 0\n\
                           Please retry in 10h17m5.7s.";
            let details =
                [quota_failure("PerDay", model, Some(0)), retry_info(Duration::from_millis(37_025_700))];
            return Some(Refusal::google(429, "RESOURCE_EXHAUSTED", message, &details));
        }
        _ => return None,
    };
    let delay = Duration::from_secs(1);
    Some(Throttle { rule: &rule, model, delay, limit: rule.per_window, now: Timestamp::default() }.refusal())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(rule: &LimitRule) -> Refusal {
        let delay = Duration::from_millis(7960);
        let now = Timestamp::from_ms(1_795_129_445_120);
        Throttle { rule, model: "gemini-3.1-flash-image", delay, limit: 60, now }.refusal()
    }

    #[test]
    fn each_hint_stands_where_it_says() {
        let check = |hint, in_body: &[&str], header: Option<&str>| {
            let refusal = refused(&LimitRule { hint, ..LimitRule::default() });
            for (part, expected) in [
                ("\"retryDelay\": \"7s\"", in_body.contains(&"info")),
                ("retry in 7.96s", !in_body.is_empty()),
            ] {
                assert_eq!(refusal.body.contains(part), expected, "{hint:?}: {}", refusal.body);
            }
            assert_eq!(refusal.retry_after.as_deref(), header, "{hint:?}");
        };
        check(Hint::All, &["info", "message"], Some("8"));
        check(Hint::RetryInfo, &["info", "message"], None);
        check(Hint::RetryAfterSeconds, &[], Some("8"));
        check(Hint::RetryAfterDate, &[], Some("Thu, 19 Nov 2026 23:04:14 GMT"));
        check(Hint::MessageOnly, &["message"], None);
        check(Hint::None, &[], None);
    }

    #[test]
    fn the_gateway_loses_the_details() {
        let rule = LimitRule { style: ErrorStyle::Gateway, quota_value: true, ..LimitRule::default() };
        let refusal = refused(&rule);
        assert!(
            refusal.body.contains("new_api_error") && !refusal.body.contains("\"details\""),
            "{refusal:?}"
        );
        assert!(refusal.body.contains("limit: 60"), "{refusal:?}");
    }
}
