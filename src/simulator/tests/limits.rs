//! Limits as a client meets them.

use serde_json::Value;

use super::super::{ErrorStyle, Fault, FaultRule, Hint, LimitKind, LimitRule, Scenario};
use super::{STREAM, body, post, start, tiny, with_fault};

fn one_per_minute() -> LimitRule {
    LimitRule { kind: LimitKind::SlidingWindow, per_window: 1, ..LimitRule::default() }
}

fn limited(rule: LimitRule) -> Scenario {
    Scenario { limits: vec![rule], ..tiny() }
}

#[tokio::test]
async fn a_limit_answers_429_with_retry_info_and_retry_after() {
    let simulator = start(limited(LimitRule { quota_value: true, ..one_per_minute() })).await;
    let request = body("a cat", &["IMAGE"]);
    assert_eq!(post(&simulator, STREAM, &request).await.status, 200);
    let reply = post(&simulator, STREAM, &request).await;
    assert_eq!(reply.status, 429);
    let error = &reply.json()["error"];
    assert_eq!(error["status"], "RESOURCE_EXHAUSTED");
    let details = error["details"].as_array().expect("a list");
    let of_type = |name: &str| {
        let ends = |detail: &&Value| detail["@type"].as_str().is_some_and(|kind| kind.ends_with(name));
        details.iter().find(ends).expect(name)
    };
    assert_eq!(of_type("QuotaFailure")["violations"][0]["quotaValue"], "1");
    let delay = of_type("RetryInfo")["retryDelay"].as_str().expect("a delay");
    assert!(["58s", "59s", "60s"].contains(&delay), "{delay}");
    let header: u64 = reply.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((59..=60).contains(&header), "{header}");
    let other = "gemini-2.5-flash-image:streamGenerateContent?key=k&alt=sse";
    assert_eq!(post(&simulator, other, &request).await.status, 200, "another model has its own limit");
    let other = "gemini-3.1-flash-image:streamGenerateContent?key=k2&alt=sse";
    assert_eq!(post(&simulator, other, &request).await.status, 200, "another key has its own limit");
    let log = simulator.stop().await;
    assert_eq!(log.throttled(), 1);
    assert_eq!(log.entries[1].nth_try, 0, "a throttled request is no try");
}

#[tokio::test]
async fn the_gateway_hints_in_prose_and_a_lying_hint_lies() {
    let rule = LimitRule {
        style: ErrorStyle::Gateway,
        hint: Hint::MessageOnly,
        hint_constant_ms: Some(7500),
        ..one_per_minute()
    };
    let simulator = start(limited(rule)).await;
    let request = body("a cat", &["IMAGE"]);
    post(&simulator, STREAM, &request).await;
    let reply = post(&simulator, STREAM, &request).await;
    assert_eq!(reply.json()["error"]["type"], "new_api_error");
    assert!(reply.body.contains("Please retry in 7.5s."), "{}", reply.body);
    assert!(!reply.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_stalled_answer_holds_its_place_in_flight_until_its_client_leaves() {
    let rule = LimitRule { kind: LimitKind::InFlight, per_window: 1, ..LimitRule::default() };
    let never_ends = FaultRule { requests: vec![1], ..FaultRule::always(Fault::NeverEnd) };
    let simulator = start(Scenario { faults: vec![never_ends], ..limited(rule) }).await;
    let url = format!("{}/v1beta/models/{STREAM}", simulator.base_url());
    let mut held = super::client()
        .post(url)
        .header("content-type", "application/json")
        .body(body("one", &["IMAGE"]).to_string())
        .send()
        .await
        .expect("answers");
    assert!(held.chunk().await.expect("a chunk").is_some());
    assert_eq!(post(&simulator, STREAM, &body("two", &["IMAGE"])).await.status, 429);
    drop(held);
    // The simulator notices when its side of the connection closes.
    while simulator.log().entries[0].ended_at_ms.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(post(&simulator, STREAM, &body("two", &["IMAGE"])).await.status, 200);
}

#[tokio::test]
async fn stopping_ends_answers_that_never_end() {
    let simulator = start(with_fault(Fault::NeverEnd)).await;
    let url = format!("{}/v1beta/models/{STREAM}", simulator.base_url());
    let request = super::client()
        .post(url)
        .header("content-type", "application/json")
        .body(body("one", &["IMAGE"]).to_string());
    let mut held = request.send().await.expect("answers");
    assert!(held.chunk().await.expect("a chunk").is_some());
    let log = simulator.stop().await;
    assert!(!log.entries[0].complete);
    while let Ok(Some(_)) = held.chunk().await {}
}
