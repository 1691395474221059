//! Which requests pass, and with which words the others are refused.

use serde_json::{Value, json};

use super::request::{Ask, parse_ask};
use crate::gemini::wire::{GenerateRequest, GenerationConfig, RequestContent, RequestPart};
use crate::job::{ModelName, model_facts};

/// The pages' own pixel.
const PIXEL: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

fn parse(body: &Value) -> Result<Ask, String> {
    let facts = model_facts(&ModelName::default_model()).expect("the default model is known");
    parse_ask(facts, body.to_string().as_bytes()).map_err(|refusal| {
        assert_eq!(refusal.status, 400);
        assert!(refusal.body.contains("INVALID_ARGUMENT"), "{}", refusal.body);
        refusal.body
    })
}

fn page_example() -> Value {
    json!({
        "contents": [{"role": "user", "parts": [
            {"text": "Can you add a llama next to me?"},
            {"inline_data": {"mime_type": "image/png", "data": PIXEL}},
        ]}],
        "generationConfig": {
            "responseModalities": ["TEXT", "IMAGE"],
            "imageConfig": {"aspectRatio": "16:9", "imageSize": "1K"},
        },
    })
}

#[test]
fn the_pages_example_passes_in_both_spellings() {
    let ask = parse(&page_example()).expect("passes");
    assert_eq!((ask.ratio.as_str(), ask.size.as_str(), ask.text), ("16:9", "1K", true));
    assert_eq!(ask.references.len(), 1);
    let other = json!({
        "contents": [{"parts": [
            {"text": "Can you add a llama next to me?"},
            {"inlineData": {"mimeType": "image/png", "data": PIXEL.replace('/', "_").replace('+', "-")}},
        ]}],
        "generation_config": {
            "response_modalities": ["TEXT", "IMAGE"], "temperature": 1.0,
            "image_config": {"aspect_ratio": "16:9", "image_size": "1K"},
        },
        "safetySettings": [], "tools": [{"google_search": {}}], "system_instruction": {"parts": []},
    });
    assert_eq!(parse(&other).expect("passes").digest, ask.digest);
}

#[test]
fn what_the_client_writes_is_what_is_read() {
    let request = GenerateRequest {
        contents: vec![RequestContent {
            role: Some("user".to_owned()),
            parts: vec![RequestPart { text: Some("a cat".to_owned()), inline_data: None }],
        }],
        generation_config: GenerationConfig {
            response_modalities: vec!["IMAGE".to_owned()],
            ..GenerationConfig::default()
        },
        rest: serde_json::Map::default(),
    };
    let ask = parse(&serde_json::to_value(request).expect("json")).expect("passes");
    assert_eq!((ask.prompt.as_str(), ask.ratio.as_str(), ask.size.as_str()), ("a cat", "1:1", "1K"));
}

#[test]
fn what_deviates_is_refused_with_its_place() {
    let check = |pointer: &str, value: Value, expected: &str| {
        let mut body = page_example();
        *body.pointer_mut(pointer).expect(pointer) = value;
        let refusal = parse(&body).expect_err(pointer);
        assert!(refusal.contains(expected), "{pointer}: {refusal}");
    };
    check("", json!([]), "expected an object");
    check("/contents", Value::Null, "contents: is required");
    check("/contents", json!([]), "contents: must not be empty");
    check("/contents/0/role", json!("system"), "contents[0].role: invalid value");
    check("/contents/0/parts", json!([]), "contents[0].parts: must not be empty");
    check("/contents/0/parts/0", json!({}), "contents[0].parts[0].data: required oneof");
    check("/contents/0/parts/0/text", json!(7), "expected a text");
    check("/contents/0/parts/0/text", json!("  "), "a prompt is required");
    check("/contents/0/parts/1/inline_data/mime_type", json!("image/gif"), "mime_type: invalid value");
    check("/contents/0/parts/1/inline_data/mime_type", json!("image/jpeg"), "found image/png");
    check("/contents/0/parts/1/inline_data/data", json!("%%%%"), "Base64 decoding failed");
    check("/contents/0/parts/1/inline_data/data", json!("Y2F0"), "not a JPEG, PNG or WebP");
    check("/generationConfig", Value::Null, "generation_config: is required");
    check("/generationConfig/responseModalities", Value::Null, "response_modalities: is required");
    check("/generationConfig/responseModalities", json!(["TEXT"]), "must contain IMAGE");
    check("/generationConfig/responseModalities", json!(["IMAGE", "AUDIO"]), "invalid value");
    check("/generationConfig/imageConfig/aspectRatio", json!("7:5"), "aspect_ratio: invalid value");
    check("/generationConfig/imageConfig/imageSize", json!("1k"), "image_size: invalid value");
}

#[test]
fn unknown_names_are_refused_as_google_does() {
    let mut body = page_example();
    body["promt"] = json!("x");
    let refusal = parse(&body).expect_err("unknown");
    assert!(refusal.contains("Unknown name \\\"promt\\\": Cannot find field."), "{refusal}");
    let mut body = page_example();
    body["generationConfig"]["imageConfig"]["ratio"] = json!("1:1");
    let refusal = parse(&body).expect_err("unknown");
    assert!(refusal.contains("at 'generation_config.image_config'"), "{refusal}");
}

#[test]
fn googles_wider_lists_pass() {
    for (name, value) in [("aspectRatio", "8:1"), ("aspectRatio", "21:9"), ("imageSize", "512")] {
        let mut body = page_example();
        body["generationConfig"]["imageConfig"][name] = json!(value);
        assert!(parse(&body).is_ok(), "{name} {value}");
    }
}
