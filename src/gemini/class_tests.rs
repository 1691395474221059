//! A test per row of the error table: what came, and the class and code that it gets.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::{Value, json};

use super::super::fault::{ErrorResponse, Fault, FaultClass, Request, of_response};
use crate::job::ModelName;

pub(in crate::gemini) const KEY: &str = "sk-very-secret";

pub(in crate::gemini) fn with_request<T>(
    model: &str,
    streamed: bool,
    run: impl FnOnce(&Request<'_>) -> T,
) -> T {
    let model: ModelName = model.parse().expect("a model's name");
    run(&Request { model: &model, streamed, redact: &|text| text.replace(KEY, "[key]") })
}

fn response_with(status: u16, retry_after: Option<&str>, body: &str) -> Fault {
    let mut headers = HeaderMap::new();
    if let Some(value) = retry_after {
        headers.insert(RETRY_AFTER, value.parse().expect("a header"));
    }
    let response = ErrorResponse { status, headers: &headers, body: body.as_bytes() };
    with_request("gemini-3.1-flash-image", false, |request| checked(of_response(&response, request)))
}

fn response(status: u16, body: &str) -> Fault {
    response_with(status, None, body)
}

/// What holds for every fault.
pub(in crate::gemini) fn checked(fault: Fault) -> Fault {
    let message = fault.to_string();
    assert!(!message.contains(KEY) && !message.contains(['\n', '\u{1b}']), "{message}");
    assert!(!message.ends_with('.') && message.starts_with(char::is_lowercase), "{message}");
    assert!(message.chars().count() < 800, "{message}");
    assert!(
        fault.code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
        "{}",
        fault.code
    );
    assert!(!fault.code.is_empty());
    fault
}

fn google(code: u16, message: &str, details: &Value) -> String {
    json!({"error": {"code": code, "message": message, "status": "X", "details": details}}).to_string()
}

fn gateway(message: &str, code: &Value) -> String {
    json!({"error": {"message": message, "type": "new_api_error", "param": "", "code": code}}).to_string()
}

fn reason(reason: &str) -> Value {
    json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}])
}

pub(in crate::gemini) const PAGE: &str =
    "<!DOCTYPE html><html><head><title>Attention Required!</title></head></html>";

/// Any hint will do.
pub(in crate::gemini) const TRANSIENT: FaultClass = FaultClass::Transient { hint: None };

pub(in crate::gemini) fn check(fault: &Fault, class: &FaultClass, code: &str) {
    assert_eq!((&fault.class, fault.code.as_ref()), (class, code), "{fault}");
}

#[test]
fn every_row_of_the_error_table_has_its_class() {
    let none = json!([]);
    for (status, body, class, code) in [
        // Money.
        (403, gateway("no", &json!("insufficient_user_quota")), FaultClass::MoneyOut, "money_out"),
        (429, gateway("no", &json!("pre_consume_token_quota_failed")), FaultClass::MoneyOut, "money_out"),
        (
            403,
            gateway("user quota is not enough (request id: 1)", &json!("")),
            FaultClass::MoneyOut,
            "money_out",
        ),
        (403, gateway("用户额度不足", &json!(1)), FaultClass::MoneyOut, "money_out"),
        (402, String::new(), FaultClass::MoneyOut, "money_out"),
        // The filter in front of the model.
        (
            400,
            google(
                400,
                "The prompt could not be submitted. It contains sensitive words that violate Responsible AI practices.",
                &none,
            ),
            FaultClass::Refused,
            "prompt_blocked",
        ),
        (400, gateway("no", &json!("sensitive_words_detected")), FaultClass::Refused, "prompt_blocked"),
        // The key.
        (
            400,
            google(400, "API key not valid.", &reason("API_KEY_INVALID")),
            FaultClass::KeyRejected,
            "key_rejected",
        ),
        (
            400,
            gateway("API key not valid. Please pass a valid API key.", &json!(400)),
            FaultClass::KeyRejected,
            "key_rejected",
        ),
        (403, google(403, "disabled", &reason("SERVICE_DISABLED")), FaultClass::KeyRejected, "key_rejected"),
        (
            400,
            google(400, "User location is not supported for the API use.", &none),
            FaultClass::KeyRejected,
            "location_unsupported",
        ),
        (
            400,
            google(
                400,
                "$x",
                &json!([{"@type": "x.DebugInfo", "detail": "generic: User location is not supported"}]),
            ),
            FaultClass::KeyRejected,
            "location_unsupported",
        ),
        (
            400,
            google(400, "Please enable billing on project 7", &none),
            FaultClass::KeyRejected,
            "billing_disabled",
        ),
        (401, gateway("invalid token", &json!("")), FaultClass::KeyRejected, "key_rejected"),
        (401, String::new(), FaultClass::KeyRejected, "key_rejected"),
        (403, google(403, "Permission denied", &none), FaultClass::KeyRejected, "key_rejected"),
        // A firewall.
        (403, PAGE.to_owned(), TRANSIENT, "firewall"),
        (403, "error code: 1020".to_owned(), TRANSIENT, "firewall"),
        (401, PAGE.to_owned(), TRANSIENT, "firewall"),
        // The model.
        (
            404,
            google(404, "models/x is not found for API version v1beta", &none),
            FaultClass::ModelUnavailable,
            "model_unavailable",
        ),
        (503, gateway("x", &json!("model_not_found")), FaultClass::ModelUnavailable, "model_unavailable"),
        (
            503,
            gateway("No available channel for model x under group y", &json!("")),
            FaultClass::ModelUnavailable,
            "model_unavailable",
        ),
        (404, PAGE.to_owned(), FaultClass::ModelUnavailable, "model_unavailable"),
        (410, String::new(), FaultClass::ModelUnavailable, "model_unavailable"),
        // The job.
        (400, google(400, "Request contains an invalid argument.", &none), FaultClass::Rejected, "http_400"),
        (400, "Bad Request".to_owned(), FaultClass::Rejected, "http_400"),
        (413, PAGE.to_owned(), FaultClass::Rejected, "http_413"),
        (422, gateway("no", &json!("")), FaultClass::Rejected, "http_422"),
        (301, PAGE.to_owned(), FaultClass::Rejected, "http_301"),
        // The weather.
        (408, String::new(), TRANSIENT, "http_408"),
        (500, google(500, "Internal error", &none), TRANSIENT, "http_500"),
        (502, PAGE.to_owned(), TRANSIENT, "http_502"),
        (503, google(503, "overloaded", &reason("MODEL_CAPACITY_EXHAUSTED")), TRANSIENT, "http_503"),
        (504, String::new(), TRANSIENT, "http_504"),
        (520, PAGE.to_owned(), TRANSIENT, "http_520"),
        (524, PAGE.to_owned(), TRANSIENT, "http_524"),
        (529, gateway("overloaded", &json!(529)), TRANSIENT, "http_529"),
        (400, PAGE.to_owned(), TRANSIENT, "html_page"),
    ] {
        check(&response(status, &body), &class, code);
    }
}

#[test]
fn the_inner_error_counts_before_the_outer_status() {
    let inner = google(400, "API key not valid", &reason("API_KEY_INVALID"));
    check(&response(500, &gateway(&inner, &json!(""))), &FaultClass::KeyRejected, "key_rejected");
    let inner = google(429, "slow down, retry in 3s", &json!([]));
    let hint = Some(Duration::from_secs(3));
    check(
        &response(500, &gateway(&inner, &json!(""))),
        &FaultClass::Throttled { hint, quota: None },
        "rate_limited",
    );
}

#[test]
fn a_429_throttles_and_a_long_or_daily_one_parks() {
    let quota = |id: &str, value: &str, delay: &str| {
        google(
            429,
            "Quota exceeded",
            &json!([
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": id, "quotaValue": value}]},
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
            ]),
        )
    };
    let is_throttled =
        |fault: &Fault| matches!(fault.class, FaultClass::Throttled { .. }) && fault.code == "rate_limited";
    let is_parked =
        |fault: &Fault| matches!(fault.class, FaultClass::Parked { .. }) && fault.code == "quota_exhausted";
    for fault in [
        response(429, ""),
        response(429, PAGE),
        response(429, &quota("RequestsPerMinute", "10", "34.5s")),
        response_with(429, Some("600"), ""),
        response(503, &json!({"error": {"status": "RESOURCE_EXHAUSTED"}}).to_string()),
    ] {
        assert!(is_throttled(&fault), "{fault:?}");
        assert!(!fault.may_be_billed);
    }
    for fault in [
        response(429, &quota("RequestsPerDay", "100", "34.5s")),
        response(429, &quota("RequestsPerMinute", "0", "34.5s")),
        response(429, &google(429, "Quota exceeded, limit: 0. Please retry in 5s", &json!([]))),
        response(429, &gateway("Quota exceeded. Please retry in 10h17m5.7s (request id: 7)", &json!(""))),
        response_with(429, Some("601"), ""),
    ] {
        assert!(is_parked(&fault), "{fault:?}");
    }
    let FaultClass::Throttled { hint, quota } =
        response(429, &quota("RequestsPerMinute", "10", "34.5s")).class
    else {
        panic!("throttled");
    };
    assert_eq!(hint, Some(Duration::from_millis(34_500)));
    assert_eq!(quota.and_then(|quota| quota.requests_per_minute()), Some(10));
    let hint = Some(Duration::from_secs(20));
    check(&response_with(503, Some("20"), ""), &FaultClass::Transient { hint }, "http_503");
}

#[test]
fn a_firewall_cools_the_lane_and_only_a_problem_of_the_api_may_be_billed() {
    let firewall = response(403, PAGE);
    assert!(firewall.lane_cooldown && !firewall.may_be_billed, "{firewall:?}");
    assert!(firewall.message.contains("Attention Required!"), "{firewall}");
    let broken = response(503, "");
    assert!(!broken.lane_cooldown && broken.may_be_billed, "{broken:?}");
    assert!(!response(400, "{}").may_be_billed);
}

#[test]
fn messages_name_the_cause_that_the_pages_explain_and_never_the_key() {
    let refused = |model: &str, streamed, status, body: &str| {
        let response = ErrorResponse { status, headers: &HeaderMap::new(), body: body.as_bytes() };
        with_request(model, streamed, |request| checked(of_response(&response, request)).message)
    };
    let denied = google(403, &format!("key {KEY} may not\n\u{1b}[31m do this."), &json!([]));
    let message = refused("gemini-3.1-flash-image", true, 403, &denied);
    assert!(message.contains("key [key] may not \\u{1b}[31m do this;"), "{message}");
    assert!(message.contains("streaming needs a key of the Direct group"), "{message}");
    assert!(!refused("gemini-3-pro-image", false, 403, &denied).contains("Direct"));
    let no_channel = gateway("No available channel for model x under group y", &json!("model_not_found"));
    assert!(refused("gemini-3.1-flash-image", true, 503, &no_channel).contains("Direct"));
    let bad_key = google(400, "no", &reason("API_KEY_INVALID"));
    assert!(!refused("gemini-3.1-flash-image", true, 400, &bad_key).contains("Direct"));
    let message = refused("gemini-3-pro-image-preview", true, 404, "{}");
    assert!(message.contains("shut down on 2026-06-25, use gemini-3-pro-image"), "{message}");
    // The key stands where the text would be cut.
    let long = google(400, &format!("{}{KEY} and more", "x".repeat(PROSE_AT)), &json!([]));
    assert!(!refused("gemini-3-pro-image", false, 400, &long).contains("sk-"));
}

/// So that the key would be cut in the middle.
const PROSE_AT: usize = 293;

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        #[test]
        fn no_body_makes_it_panic_and_every_fault_is_fit_to_be_shown(
            status in 300u16..600,
            body in "(\\PC{0,6}|[\\x00-\\x1f]|\\{\"error\":|\"message\":\"|\"code\":|[0-9]{1,4}|\"|\\}|,|<title>|\u{1b}\\[31m){0,12}",
        ) {
            response(status, &body);
        }
    }
}
