//! Requests that never reach a model.

use serde_json::json;

use super::super::{RequiredKey, Simulator, SimulatorConfig, SimulatorError};
use super::{STREAM, body, client, post, read, start, tiny};

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_refused_as_google_does() {
    let simulator = start(tiny()).await;
    let good = body("a cat", &["IMAGE"]);
    for (call, status, word) in [
        ("gemini-9:generateContent?key=k", 404, "NOT_FOUND"),
        ("gemini-3-pro-image:countTokens?key=k", 404, "NOT_FOUND"),
        ("gemini-3-pro-image?key=k", 404, "NOT_FOUND"),
        ("gemini-3-pro-image:generateContent", 403, "PERMISSION_DENIED"),
        ("gemini-3-pro-image:generateContent?key=", 403, "PERMISSION_DENIED"),
        ("gemini-3-pro-image:generateContent?key=k&alt=sse", 400, "INVALID_ARGUMENT"),
        ("gemini-3-pro-image:streamGenerateContent?key=k&alt=json", 400, "INVALID_ARGUMENT"),
    ] {
        let reply = post(&simulator, call, &good).await;
        assert_eq!(reply.status, status, "{call}: {}", reply.body);
        let error = &reply.json()["error"];
        assert_eq!((&error["code"], &error["status"]), (&json!(status), &json!(word)), "{call}");
    }
    let reply = post(&simulator, STREAM, &json!({"contents": []})).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["details"][0]["fieldViolations"][0]["field"], "contents");
    assert_eq!(simulator.log().billed().total, None, "a refusal costs nothing");
}

#[tokio::test]
async fn a_path_that_is_not_served_and_a_form_are_refused() {
    let simulator = start(tiny()).await;
    for path in ["v1/chat", "v2/models/gemini-3-pro-image:generateContent"] {
        let reply = read(client().post(format!("{}/{path}", simulator.base_url()))).await;
        assert_eq!(reply.status, 404);
        assert_eq!(reply.json()["error"]["type"], "new_api_error");
    }
    let url = format!("{}/v1beta/models/{STREAM}", simulator.base_url());
    let reply = read(client().post(url).body(body("a cat", &["IMAGE"]).to_string())).await;
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("Content-Type must be application/json"), "{}", reply.body);
}

#[tokio::test]
async fn a_wrong_key_is_refused_and_echoed_as_google_does() {
    let api_key = Some(RequiredKey::new("right"));
    let config = SimulatorConfig { api_key, scenario: tiny(), ..SimulatorConfig::default() };
    assert!(!format!("{config:?}").contains("right"));
    let simulator = Simulator::start(config).await.expect("starts");
    let good = body("a cat", &["IMAGE"]);
    let reply = post(&simulator, "gemini-3-pro-image:generateContent?key=wrong", &good).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["details"][0]["reason"], "API_KEY_INVALID");
    assert!(reply.body.contains("Invalid API key: wrong"));
    let reply = post(&simulator, "gemini-3-pro-image:generateContent?key=right", &good).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let simulator = start(tiny()).await;
    let config = SimulatorConfig { bind: simulator.addr(), ..SimulatorConfig::default() };
    let error = Simulator::start(config).await.expect_err("taken");
    assert!(matches!(error, SimulatorError::Bind { .. }));
    assert!(error.to_string().contains(&simulator.addr().to_string()), "{error}");
}
