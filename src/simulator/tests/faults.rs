//! Each fault does what its name says.

use serde_json::Value;

use super::super::{Fault, FaultRule, Scenario};
use super::{Ending, Reply, STREAM, body, client, post, read, start, tiny, with_fault};
use crate::job::MediaType;

/// What a client sees of a fault on a streamed request.
struct Seen {
    status: u16,
    ending: Ending,
    /// Result pictures in plain base64 that decode as pictures.
    pictures: usize,
    /// Stands in the body.
    holds: &'static str,
}

const fn whole(status: u16, holds: &'static str) -> Seen {
    Seen { status, ending: Ending::Whole, pictures: 0, holds }
}

const fn picture(holds: &'static str) -> Seen {
    Seen { status: 200, ending: Ending::Whole, pictures: 1, holds }
}

/// A row for every fault: a new one does not compile without it.
fn seen(fault: Fault) -> Seen {
    match fault {
        Fault::Http400 => whole(400, "INVALID_ARGUMENT"),
        Fault::ApiKeyInvalid => whole(400, "Invalid API key: k"),
        Fault::UnsupportedLocation | Fault::BillingPrecondition => whole(400, "FAILED_PRECONDITION"),
        Fault::Http401 => whole(401, "new_api_error"),
        Fault::Http402 => whole(402, "insufficient_quota"),
        Fault::InsufficientUserQuota => whole(403, "insufficient_user_quota"),
        Fault::PreConsumeFailed => whole(403, "pre_consume_token_quota_failed"),
        Fault::Http403Json => whole(403, "PERMISSION_DENIED"),
        Fault::Http403Html => whole(403, "<html>"),
        Fault::Http404 => whole(404, "NOT_FOUND"),
        Fault::ModelNotFound => whole(503, "No available channel"),
        Fault::Http408 => whole(408, "new_api_error"),
        Fault::Http413 => whole(413, "<html>"),
        Fault::Http422 => whole(422, "new_api_error"),
        Fault::Http429 => whole(429, "\"retryDelay\": \"1s\""),
        Fault::Http429NoHint => whole(429, "RESOURCE_EXHAUSTED"),
        Fault::Http429Gateway => whole(429, "retry in 1s. (request id"),
        Fault::Http429Daily => whole(429, "PerDay"),
        Fault::Http500 => whole(500, "INTERNAL"),
        Fault::Http502Html => whole(502, "<html>"),
        Fault::Http503 => whole(503, "MODEL_CAPACITY_EXHAUSTED"),
        Fault::Http504 => whole(504, "DEADLINE_EXCEEDED"),
        Fault::Http520 => whole(520, "<html>"),
        Fault::Http521 => whole(521, "<html>"),
        Fault::Http522 => whole(522, "<html>"),
        Fault::Http523 => whole(523, "<html>"),
        Fault::Http524 => whole(524, "<html>"),
        Fault::Http529 => whole(529, "overloaded"),
        Fault::ResetBefore => Seen { status: 0, ending: Ending::Broken, pictures: 0, holds: "" },
        Fault::StallBefore => Seen { status: 0, ending: Ending::Silent, pictures: 0, holds: "" },
        Fault::ResetMid => Seen { ending: Ending::Broken, ..whole(200, "\"data\":\"") },
        Fault::TruncateClean => whole(200, "\"data\":\""),
        Fault::StallMid => Seen { ending: Ending::Silent, ..whole(200, "\"data\":\"") },
        Fault::NeverEnd => Seen { ending: Ending::Silent, ..picture("totalTokenCount") },
        Fault::BadBase64 => whole(200, "*!*!"),
        Fault::BrokenJson => whole(200, "\"candidates\"=["),
        Fault::Html200 => whole(200, "<html>"),
        Fault::WrongMime => picture("image/png"),
        Fault::CorruptPng => whole(200, "image/png"),
        Fault::TruncatedJpeg => whole(200, "image/jpeg"),
        Fault::ErrorInsteadOfImage => whole(200, "data: {\"error\":{\"code\":503"),
        Fault::ErrorAfterImage => picture("data: {\"error\":{\"code\":503"),
        Fault::BareErrorAfterEvents => whole(200, "\n{\n  \"error\": {"),
        Fault::NoImage => whole(200, "\"finishReason\":\"NO_IMAGE\""),
        Fault::TextOnly => whole(200, "I did not make one"),
        Fault::RefusedSafety => {
            whole(200, "{\"content\":{\"role\":\"model\"},\"finishReason\":\"IMAGE_SAFETY\"")
        }
        Fault::PromptBlocked => whole(200, "{\"promptFeedback\":{\"blockReason\":\"PROHIBITED_CONTENT\""),
        Fault::Recitation => whole(200, "\"finishReason\":\"IMAGE_RECITATION\""),
        Fault::MaxTokens => whole(200, "\"finishReason\":\"MAX_TOKENS\""),
        Fault::UnknownFinish => whole(200, "IMAGE_WANDERED_OFF"),
        Fault::NoCandidates => whole(200, "totalTokenCount"),
        Fault::EmptyParts => whole(200, "\"parts\":[]},\"finishReason\":\"STOP\""),
        Fault::NoUsage => picture("\"finishReason\":\"STOP\""),
        Fault::NoSignal => picture("inlineData"),
        Fault::UsageRepeated | Fault::NoLastBlankLine => picture("totalTokenCount"),
        Fault::StopOnEveryChunk => picture("\"thought\":true}]},\"finishReason\":\"STOP\""),
        Fault::NullFields => picture("\"candidates\":null"),
        Fault::ShuffledKeys => picture("\"inlineData\":{\"data\":"),
        Fault::SnakeCaseAnswer => picture("\"inline_data\":{\"mime_type\":"),
        Fault::HugeSignature => picture("\"thoughtSignature\":\""),
        Fault::ThoughtImages => picture("\"thought\":true,\"inlineData\""),
        Fault::TwoImages | Fault::SameImageTwice => Seen { pictures: 2, ..picture("STOP") },
        Fault::UrlSafeBase64 | Fault::UnpaddedBase64 => whole(200, "inlineData"),
        // Read leniently: a line end is not of the alphabet.
        Fault::EscapedBase64 => whole(200, "\\n"),
        Fault::DataUrlPrefix => whole(200, "\"data:image/"),
        Fault::ImageUrlText => whole(200, "\"text\":\"http://127.0.0.1:"),
        Fault::ImageUrlFileData => whole(200, "\"fileUri\":\"http://127.0.0.1:"),
        Fault::ImageUrlMarkdown => whole(200, "![image](http://127.0.0.1:"),
        Fault::ImageDataUrlMarkdown => whole(200, "![image](data:image/"),
        Fault::ImageUrlMissing => whole(200, "/files/missing.png"),
        Fault::ImageUrlRedirect => whole(200, "/files/redirect.png"),
        Fault::ImageUrlHtml => whole(200, "/files/page.png"),
        Fault::ImageUrlEndless => whole(200, "/files/endless.png"),
        Fault::Array => picture("\n,\r\n{"),
        Fault::Crlf => picture("}\r\n\r\ndata: "),
        Fault::NoBlankLines => picture("}\ndata: "),
        Fault::KeepAlive => picture(": keep-alive\n\nretry: 3000\nid: 1\nevent: message\ndata: "),
        Fault::NoSpace => picture("data:{"),
        Fault::DoneMarker => picture("data: [DONE]\n\n"),
    }
}

#[tokio::test]
async fn every_fault_does_what_it_says() {
    for fault in Fault::ALL.iter().copied() {
        let simulator = start(with_fault(fault)).await;
        let reply = post(&simulator, STREAM, &body("a cat", &["IMAGE"])).await;
        let expected = seen(fault);
        let pictures = reply.pictures().iter().filter(|bytes| image::load_from_memory(bytes).is_ok()).count();
        let start: String = reply.body.chars().take(3000).collect();
        assert_eq!(
            (reply.status, reply.ending, pictures),
            (expected.status, expected.ending, expected.pictures),
            "{fault}: {start}"
        );
        assert!(reply.body.contains(expected.holds), "{fault}: {start}");
        let log = simulator.stop().await;
        assert_eq!(log.entries[0].fault, Some(fault));
        assert_eq!(log.entries[0].complete, expected.ending == Ending::Whole, "{fault}");
    }
}

#[tokio::test]
async fn every_fault_is_survived_by_the_single_object_form() {
    for fault in Fault::ALL.iter().copied() {
        let simulator = start(with_fault(fault)).await;
        let call = "gemini-3-pro-image:generateContent?key=k";
        let reply = post(&simulator, call, &body("a cat", &["IMAGE"])).await;
        let expected = seen(fault);
        assert_eq!((reply.status, reply.ending), (expected.status, expected.ending), "{fault}");
        simulator.stop().await;
    }
}

async fn one(fault: Fault) -> Reply {
    let simulator = start(with_fault(fault)).await;
    post(&simulator, STREAM, &body("a cat", &["IMAGE"])).await
}

/// The text of the first `data` string, unescaped.
fn data(reply: &Reply) -> String {
    let of = |event: &Value| {
        event.pointer("/candidates/0/content/parts/0/inlineData/data")?.as_str().map(str::to_owned)
    };
    reply.events().iter().find_map(of).expect("a picture")
}

#[tokio::test]
async fn odd_base64_is_the_same_picture_in_another_dress() {
    let plain = one(Fault::NoSpace).await.pictures().remove(0);
    let url_safe = data(&one(Fault::UrlSafeBase64).await);
    assert!(url_safe.contains(['-', '_']) && !url_safe.contains(['+', '/']));
    assert_eq!(base64_simd::URL_SAFE.decode_to_vec(&url_safe).expect("decodes"), plain);
    let unpadded = data(&one(Fault::UnpaddedBase64).await);
    assert_ne!(unpadded.len() % 4, 0);
    let escaped = one(Fault::EscapedBase64).await;
    assert!(escaped.body.contains("\\/") && escaped.body.contains("\\n"));
    let escaped = data(&escaped).replace('\n', "");
    assert_eq!(base64_simd::STANDARD.decode_to_vec(escaped).expect("decodes"), plain);
    let prefixed = data(&one(Fault::DataUrlPrefix).await);
    let (prefix, rest) = prefixed.split_once(',').expect("a prefix");
    assert!(prefix.ends_with(";base64"));
    assert_eq!(base64_simd::STANDARD.decode_to_vec(rest).expect("decodes"), plain);
}

#[tokio::test]
async fn doubled_pictures_differ_as_their_names_say() {
    let two = one(Fault::TwoImages).await.pictures();
    let twice = one(Fault::SameImageTwice).await.pictures();
    let pixels = |bytes: &[u8]| image::load_from_memory(bytes).expect("decodes").into_rgb8();
    assert_ne!(pixels(&two[0]), pixels(&two[1]));
    assert_ne!(twice[0], twice[1]);
    assert_eq!(pixels(&twice[0]), pixels(&twice[1]));
    let wrong = one(Fault::WrongMime).await.pictures();
    assert_eq!(MediaType::of(&wrong[0]), Some(MediaType::Jpeg));
    assert!(one(Fault::HugeSignature).await.body.len() > 3 << 20);
    assert!(!one(Fault::NoLastBlankLine).await.body.ends_with("\n\n"));
    assert!(!one(Fault::NoUsage).await.body.contains("totalTokenCount"));
    assert!(!one(Fault::NoSignal).await.body.contains("finishReason"));
}

#[tokio::test]
async fn a_picture_by_url_can_be_fetched_and_the_traps_are_traps() {
    let simulator = start(with_fault(Fault::ImageUrlText)).await;
    let reply = post(&simulator, STREAM, &body("a cat", &["IMAGE"])).await;
    let text = |event: &Value| {
        let part = event.pointer("/candidates/0/content/parts/0")?;
        part["thought"].is_null().then(|| part["text"].as_str().map(str::to_owned))?
    };
    let url = reply.events().iter().find_map(text).expect("a URL");
    let response = client().get(&url).send().await.expect("answers");
    assert_eq!(response.status(), 200);
    let bytes = response.bytes().await.expect("bytes");
    assert!(image::load_from_memory(&bytes).is_ok());
    let at = |name: &str| client().get(format!("{}/files/{name}", simulator.base_url()));
    assert_eq!(read(at("missing.png")).await.status, 404);
    let redirect = read(at("redirect.png")).await;
    assert_eq!(redirect.status, 302);
    assert!(redirect.headers["location"].to_str().expect("text").starts_with("http://169.254."));
    assert!(read(at("page.png")).await.body.contains("<html>"));
    let mut endless = at("endless.png").send().await.expect("answers");
    let mut bytes = 0;
    while bytes < 10 << 20 {
        bytes += endless.chunk().await.expect("a chunk").expect("more").len();
    }
}

#[tokio::test]
async fn a_job_that_fails_twice_succeeds_at_its_third_try() {
    let twice =
        FaultRule { jobs: Some("cat".to_owned()), times: Some(2), ..FaultRule::always(Fault::Http503) };
    let simulator = start(Scenario { faults: vec![twice], ..tiny() }).await;
    let mut statuses = Vec::new();
    for prompt in ["a cat", "a dog", "a cat", "a cat"] {
        statuses.push(post(&simulator, STREAM, &body(prompt, &["IMAGE"])).await.status);
    }
    assert_eq!(statuses, [503, 200, 503, 200]);
    let tries: Vec<u64> = simulator.log().entries.iter().map(|entry| entry.nth_try).collect();
    assert_eq!(tries, [1, 1, 2, 3]);
}
