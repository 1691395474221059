//! A test per row: what came, and the class and code that it gets.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::{Value, json};

use super::super::answer::{Answer, AnswerImage};
use super::super::decode::{DecodeError, Form};
use super::super::fault::{
    ErrorResponse, Fault, FaultClass, Request, Transport, note_of, of_answer, of_response, of_transport,
};
use crate::job::{ModelName, Usage};

const KEY: &str = "sk-very-secret";

fn with_request<T>(model: &str, streamed: bool, run: impl FnOnce(&Request<'_>) -> T) -> T {
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

fn answer(answer: &Answer) -> Option<Fault> {
    with_request("gemini-3.1-flash-image", true, |request| of_answer(answer, request).map(checked))
}

/// What holds for every fault.
fn checked(fault: Fault) -> Fault {
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

const PAGE: &str = "<!DOCTYPE html><html><head><title>Attention Required!</title></head></html>";

/// Any hint will do.
const TRANSIENT: FaultClass = FaultClass::Transient { hint: None };

fn check(fault: &Fault, class: &FaultClass, code: &str) {
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
    let message = refused("gemini-3-pro-image-preview", true, 404, "{}");
    assert!(message.contains("shut down on 2026-06-25, use gemini-3-pro-image"), "{message}");
    // The key stands where the text would be cut.
    let long = google(400, &format!("{}{KEY} and more", "x".repeat(PROSE_AT)), &json!([]));
    assert!(!refused("gemini-3-pro-image", false, 400, &long).contains("sk-"));
}

/// So that the key would be cut in the middle.
const PROSE_AT: usize = 293;

fn image() -> AnswerImage {
    AnswerImage { number: 0, declared: None, media: None, bytes: 9 }
}

#[test]
fn every_finish_reason_without_an_image_has_its_class() {
    for (reasons, class) in [
        (
            &[
                "SAFETY",
                "IMAGE_SAFETY",
                "PROHIBITED_CONTENT",
                "IMAGE_PROHIBITED_CONTENT",
                "NEW_PROHIBITED_THING",
                "BLOCKLIST",
                "SPII",
                "MODEL_ARMOR",
                "JAILBREAK",
            ][..],
            FaultClass::Refused,
        ),
        (&["STOP", "NO_IMAGE", "IMAGE_OTHER", "OTHER", "SOMETHING_NEW"], FaultClass::NoImage),
        (
            &[
                "RECITATION",
                "IMAGE_RECITATION",
                "MAX_TOKENS",
                "LANGUAGE",
                "MALFORMED_FUNCTION_CALL",
                "UNEXPECTED_TOOL_CALL",
                "TOO_MANY_TOOL_CALLS",
            ],
            FaultClass::Rejected,
        ),
    ] {
        for reason in reasons {
            let mut ended = Answer {
                finish_reason: Some((*reason).to_owned()),
                finish_message: Some("because\nso.".to_owned()),
                has_terminal_signal: true,
                ..Answer::default()
            };
            let fault = answer(&ended).expect("no image");
            assert_eq!(fault.class, class, "{reason}");
            assert!(fault.message.contains(reason) && fault.message.contains("because so"), "{fault}");
            assert!(fault.may_be_billed);
            ended.images.push(image());
            assert_eq!(answer(&ended), None, "an image is an image, {reason}");
        }
    }
    let safety = Answer { finish_reason: Some("IMAGE_SAFETY".to_owned()), ..Answer::default() };
    assert_eq!(answer(&safety).expect("refused").code, "image_safety");
}

#[test]
fn every_answer_without_an_image_has_its_class() {
    let blocked = Answer { block_reason: Some("JAILBREAK".to_owned()), ..Answer::default() };
    let message_only = Answer { block_message: Some("no".to_owned()), ..Answer::default() };
    let text = Answer {
        caption: "I cannot".to_owned(),
        has_parts: true,
        form: Some(Form::Object),
        ..Answer::default()
    };
    let nothing = Answer { form: Some(Form::Lines), ..Answer::default() };
    let thought_image = Answer {
        thought_images: vec![image()],
        has_parts: true,
        has_terminal_signal: true,
        ..Answer::default()
    };
    let ended_early = Answer { form: Some(Form::Lines), ..text.clone() };
    for (given, class, code) in [
        (&blocked, FaultClass::Refused, "prompt_blocked"),
        (&message_only, FaultClass::Refused, "prompt_blocked"),
        (&text, FaultClass::NoImage, "no_image"),
        (&nothing, FaultClass::NoImage, "no_image"),
        (&thought_image, FaultClass::NoImage, "no_image"),
        (&ended_early, TRANSIENT, "ended_early"),
    ] {
        check(&answer(given).expect("no image"), &class, code);
    }
    assert!(answer(&text).expect("no image").message.contains("I cannot"));
}

#[test]
fn every_break_of_a_body_has_its_class() {
    for (broken, class, code) in [
        (DecodeError::Truncated { in_image: true }, TRANSIENT, "cut_in_image"),
        (DecodeError::Truncated { in_image: false }, TRANSIENT, "cut"),
        (DecodeError::BadBase64, TRANSIENT, "bad_base64"),
        (DecodeError::BadJson("expected value".to_owned()), TRANSIENT, "bad_json"),
        (DecodeError::Foreign { html: true, head: PAGE.to_owned() }, TRANSIENT, "html_page"),
        (DecodeError::Foreign { html: false, head: "oops".to_owned() }, TRANSIENT, "not_json"),
        (DecodeError::Empty, TRANSIENT, "empty_answer"),
        (DecodeError::TooLarge { what: "size", max: 7 }, FaultClass::Rejected, "answer_too_large"),
    ] {
        let mut cut = Answer { broken: Some(broken.clone()), has_terminal_signal: true, ..Answer::default() };
        check(&answer(&cut).expect("broken"), &class, code);
        cut.images.push(image());
        let misses_an_image = broken == DecodeError::Truncated { in_image: true };
        assert_eq!(answer(&cut).is_some(), misses_an_image, "whole images are kept: {broken}");
    }
}

#[test]
fn an_error_in_a_200_counts_more_than_its_images() {
    for (error, class, code) in [
        (json!({"code": 503, "message": "overloaded"}), TRANSIENT, "http_503"),
        (json!({"code": 499, "status": "CANCELLED"}), TRANSIENT, "http_499"),
        (json!({"message": "x", "code": "insufficient_user_quota"}), FaultClass::MoneyOut, "money_out"),
        (
            json!({"code": 429, "message": "y"}),
            FaultClass::Throttled { hint: None, quota: None },
            "rate_limited",
        ),
        (json!({"code": 400, "message": "y"}), FaultClass::Rejected, "http_400"),
        (json!("upstream is gone"), TRANSIENT, "error_in_answer"),
    ] {
        let mut with_error = Answer { error: Some(error), images: vec![image()], ..Answer::default() };
        check(&answer(&with_error).expect("an error"), &class, code);
        with_error.usage = Usage { thoughts: Some(240), ..Usage::default() };
        assert!(answer(&with_error).expect("an error").may_be_billed);
    }
}

#[test]
fn urls_are_results_and_say_where_they_come_from() {
    let by_url = Answer { urls: vec!["https://x.test/1.png".to_owned()], ..Answer::default() };
    assert_eq!(answer(&by_url), None);
    assert!(note_of(&by_url).is_some_and(|note| note.contains("Aggregate-NanoUrl")));
    assert_eq!(note_of(&Answer { images: vec![image()], ..by_url }), None);
}

#[test]
fn every_failed_connection_is_transient() {
    for (kind, code, billed) in [
        (Transport::Connect, "connect_failed", false),
        (Transport::Tls, "tls_failed", false),
        (Transport::Timeout, "timed_out", true),
        (Transport::Idle, "idle_timeout", true),
        (Transport::Reset, "connection_reset", true),
    ] {
        let detail = format!("error sending request for url (https://x.test/?key={KEY})");
        let fault = with_request("gemini-3-pro-image", false, |request| {
            checked(of_transport(kind, &detail, request))
        });
        check(&fault, &TRANSIENT, code);
        assert_eq!(fault.may_be_billed, billed, "{kind:?}");
    }
}

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
