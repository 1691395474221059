//! Answers against the pages, field by field.

use serde_json::{Value, json};

use super::super::{Pictures, Scenario, Simulator, SimulatorConfig, StreamShape, curl_line};
use super::{Ending, PIXEL, Reply, STREAM, body, client, post, read, start, tiny};
use crate::job::{Digest, MediaType};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_stream_has_thoughts_a_caption_the_picture_and_the_usage() {
    let simulator = start(tiny()).await;
    let reply = post(&simulator, STREAM, &body("a cat", &["TEXT", "IMAGE"])).await;
    assert_eq!((reply.status, reply.ending), (200, Ending::Whole));
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    assert!(reply.body.ends_with("\n\n"));
    let events = reply.events();
    let [thoughts @ .., caption, picture, usage] = events.as_slice() else { panic!("{events:?}") };
    assert!(thoughts.len() >= 2);
    for thought in thoughts {
        let part = &thought["candidates"][0]["content"]["parts"][0];
        assert_eq!(keys(part), ["text", "thought"]);
        assert_eq!(part["thought"], true);
    }
    let shared = ["candidates", "usageMetadata", "modelVersion", "createTime", "responseId"];
    assert_eq!(keys(picture), shared);
    assert_eq!(keys(usage), shared[1..]);
    assert_eq!(caption["candidates"][0]["content"]["parts"][0]["text"], "Here is your image: a cat");
    let candidate = &picture["candidates"][0];
    assert_eq!(candidate["finishReason"], "STOP");
    assert_eq!(candidate["content"]["role"], "model");
    assert_eq!(keys(&candidate["content"]["parts"][0]["inlineData"]), ["mimeType", "data"]);
    assert_eq!(picture["usageMetadata"], json!({"trafficType": "ON_DEMAND"}));
    let usage = &usage["usageMetadata"];
    assert_eq!(
        keys(usage),
        [
            "promptTokenCount",
            "candidatesTokenCount",
            "totalTokenCount",
            "thoughtsTokenCount",
            "trafficType",
            "promptTokensDetails",
            "candidatesTokensDetails"
        ]
    );
    assert_eq!(usage["candidatesTokensDetails"][1], json!({"modality": "IMAGE", "tokenCount": 1120}));
    let count = |name: &str| usage[name].as_u64().expect(name);
    assert_eq!(
        count("totalTokenCount"),
        count("promptTokenCount") + count("candidatesTokenCount") + count("thoughtsTokenCount")
    );
    let log = simulator.stop().await;
    assert_eq!(log.told(), log.billed());
    assert_eq!(log.entries[0].told.total, Some(count("totalTokenCount")));
    assert_eq!(log.entries[0].images, [Digest::of(&reply.pictures()[0])]);
    assert!(log.entries[0].complete);
}

#[tokio::test]
async fn generate_content_is_one_object_with_all_parts_and_usage() {
    let simulator = start(tiny()).await;
    let call = "gemini-3-pro-image:generateContent?key=k";
    let reply = post(&simulator, call, &body("a cat", &["TEXT", "IMAGE"])).await;
    assert_eq!(reply.headers["content-type"], "application/json; charset=UTF-8");
    let answer = reply.json();
    assert_eq!(answer["candidates"].as_array().expect("a list").len(), 1);
    assert_eq!(answer["candidates"][0]["finishReason"], "STOP");
    let parts = answer["candidates"][0]["content"]["parts"].as_array().expect("a list");
    assert_eq!(parts[0]["thought"], true);
    assert!(parts.last().expect("a part")["inlineData"]["data"].is_string());
    assert!(answer["usageMetadata"]["thoughtsTokenCount"].is_u64());
    assert_eq!(answer["modelVersion"], "gemini-3-pro-image");
    assert_eq!(reply.pictures().len(), 1);
}

#[tokio::test]
async fn the_2_5_model_does_not_think_and_answers_png() {
    let simulator = start(tiny()).await;
    let call = "gemini-2.5-flash-image:streamGenerateContent?key=k&alt=sse";
    let reply = post(&simulator, call, &body("a cat", &["IMAGE"])).await;
    let events = reply.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[1]["usageMetadata"]["thoughtsTokenCount"].is_null());
    assert_eq!(events[1]["usageMetadata"]["candidatesTokenCount"], 1290);
    assert_eq!(MediaType::of(&reply.pictures()[0]), Some(MediaType::Png));
}

#[tokio::test]
async fn without_alt_the_pages_stream_sse_and_google_streams_an_array() {
    let without_alt = "gemini-3.1-flash-image:streamGenerateContent?key=k";
    let simulator = start(tiny()).await;
    let reply = post(&simulator, without_alt, &body("a cat", &["IMAGE"])).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    let stream = StreamShape { array_without_alt_sse: true, ..StreamShape::default() };
    let google = start(Scenario { stream, ..tiny() }).await;
    let array = post(&google, without_alt, &body("a cat", &["IMAGE"])).await;
    assert!(array.json().is_array());
    assert_eq!(array.pictures(), reply.pictures());
    let sse = post(&google, STREAM, &body("a cat", &["IMAGE"])).await;
    assert_eq!(sse.headers["content-type"], "text/event-stream");
}

#[tokio::test]
async fn pictures_have_the_asked_size_and_are_the_same_on_every_simulator() {
    let quarter =
        || Scenario { pictures: Pictures { scale: 0.25, ..Pictures::default() }, ..Scenario::default() };
    let simulator = start(quarter()).await;
    for (ratio, size, expected) in
        [("16:9", "1K", (344, 192)), ("3:4", "2K", (448, 600)), ("1:1", "512", (128, 128))]
    {
        let mut body = body("two cats, ünïcode 猫 and a very long word: incomprehensibilities", &["IMAGE"]);
        body["generationConfig"]["imageConfig"] = json!({"aspectRatio": ratio, "imageSize": size});
        body["contents"][0]["parts"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"inline_data": {"mime_type": "image/png", "data": PIXEL}}));
        let picture = post(&simulator, STREAM, &body).await.pictures().remove(0);
        let decoded = image::load_from_memory(&picture).expect("decodes");
        assert_eq!((decoded.width(), decoded.height()), expected, "{ratio} {size}");
        let again = start(quarter()).await;
        assert_eq!(post(&again, STREAM, &body).await.pictures(), [picture]);
    }
    let log = simulator.log();
    assert_eq!(log.entries[0].references.len(), 1);
    assert_eq!(log.entries[0].told.prompt, Some(258 + 12));
}

#[tokio::test]
async fn another_seed_draws_another_picture() {
    let mut seen = Vec::new();
    for seed in [1, 2] {
        let config = SimulatorConfig { seed, scenario: tiny(), ..SimulatorConfig::default() };
        let simulator = Simulator::start(config).await.expect("starts");
        seen.push(post(&simulator, STREAM, &body("a cat", &["IMAGE"])).await.pictures());
    }
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn googles_sdk_finds_its_version_and_its_header() {
    let simulator = start(tiny()).await;
    let url = format!("{}/v1/models/gemini-3-pro-image:generateContent", simulator.base_url());
    let request = client()
        .post(url)
        .header("x-goog-api-key", "k")
        .header("content-type", "application/json; charset=utf-8")
        .body(body("a cat", &["IMAGE"]).to_string());
    let reply: Reply = read(request).await;
    assert_eq!(reply.status, 200);
    assert_eq!(simulator.log().entries[0].api_version, "v1");
    assert_eq!(simulator.log().entries[0].key, Digest::of(b"k").short());
}

#[test]
fn the_curl_line_holds_a_request_that_passes() {
    let line = curl_line("http://127.0.0.1:1");
    let json = line.split("-d '").nth(1).and_then(|rest| rest.split('\'').next()).expect("a body");
    let body: Value = serde_json::from_str(json).expect("JSON");
    assert!(body["contents"][0]["parts"][0]["text"].is_string());
    assert!(line.contains("http://127.0.0.1:1/v1beta/models/gemini-3.1-flash-image:stream"));
}
