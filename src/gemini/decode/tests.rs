//! Every shape of an answer, at every split.

use proptest::prelude::*;

use super::*;

/// A picture's first bytes are enough here; `+/` and `==` are in it.
const PIXELS: &[u8] = b"\x89PNG\r\n\x1a\n\xfb\xff\xbf pixels";
pub(super) const PIXELS_BASE64: &str = "iVBORw0KGgr7/78gcGl4ZWxz";

/// What came out: images whole, events as text, and the end.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Outcome {
    images: Vec<Vec<u8>>,
    chunks: Vec<String>,
    error: Option<DecodeError>,
}

impl Sink for Outcome {
    fn image(&mut self, number: usize, bytes: &[u8]) {
        if self.images.len() == number {
            self.images.push(Vec::new());
        }
        assert_eq!(self.images.len(), number + 1, "images come one after the other");
        assert!(!bytes.is_empty());
        self.images[number].extend_from_slice(bytes);
    }

    fn chunk(&mut self, chunk: AnswerChunk) {
        self.chunks.push(serde_json::to_string(&chunk).expect("a chunk is JSON"));
    }
}

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new(Limits::default());
    let mut outcome = Outcome::default();
    for piece in pieces {
        if decoder.push(piece, &mut outcome).is_err() {
            break;
        }
    }
    outcome.error = decoder.finish().err();
    outcome
}

/// Decodes `body` in one piece, and checks that every split gives the same.
fn check(body: &[u8]) -> Outcome {
    let whole = decode([body]);
    for at in 0..=body.len() {
        let (left, right) = body.split_at(at);
        assert_eq!(decode([left, right]), whole, "split at {at} of {}", String::from_utf8_lossy(body));
    }
    assert_eq!(decode(body.chunks(1)), whole, "byte by byte: {}", String::from_utf8_lossy(body));
    whole
}

fn expect_good(body: &[u8], images: usize, chunks: usize) -> Outcome {
    let outcome = check(body);
    let text = String::from_utf8_lossy(body);
    assert_eq!(outcome.error, None, "{text}");
    assert_eq!(outcome.images, vec![PIXELS; images], "{text}");
    assert_eq!(outcome.chunks.len(), chunks, "{text}");
    outcome
}

fn expect_error(body: &[u8], error: &DecodeError) -> Outcome {
    let outcome = check(body);
    assert_eq!(outcome.error.as_ref(), Some(error), "{}", String::from_utf8_lossy(body));
    outcome
}

const THOUGHT: &str = r#"{"candidates":[{"content":{"role":"model","parts":[{"text":"a pond, a frog \"there\"","thought":true}]}}],"usageMetadata":{"trafficType":"ON_DEMAND"},"responseId":"r1"}"#;
const USAGE: &str = r#"{"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":1120,"totalTokenCount":1392,"thoughtsTokenCount":264}}"#;

pub(super) fn image_event(data: &str) -> String {
    format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"inlineData":{{"mimeType":"image/png","data":"{data}"}}}}]}}}}]}}"#
    )
}

#[test]
fn lines_of_every_kind_give_the_same_events() {
    let image = image_event(PIXELS_BASE64);
    let plain =
        expect_good(format!("data: {THOUGHT}\n\ndata: {image}\n\ndata: {USAGE}\n\n").as_bytes(), 1, 3);
    for body in [
        format!("data:{THOUGHT}\n\ndata:{image}\n\ndata:{USAGE}\n\n"),
        format!("\u{feff}data: {THOUGHT}\r\n\r\ndata: {image}\r\n\r\ndata: {USAGE}\r\n\r\n"),
        format!("data: {THOUGHT}\r\rdata: {image}\r\rdata: {USAGE}"),
        format!("data: {THOUGHT}\ndata: {image}\ndata: {USAGE}"),
        format!(
            ": keep-alive\n\nevent: message\nid: 7\nretry: 10\ndata: {THOUGHT}\n\n:\n\ndata: {image}\n\n\
             data: {USAGE}\n\ndata: [DONE]\n\n"
        ),
        format!("\n \r\n{THOUGHT}\n{image}\n\n{USAGE}\n"),
        format!("[{THOUGHT},{image},{USAGE}]"),
        format!("\u{feff}[{THOUGHT}\n,\r\n{image}\n,{USAGE}\n]\n"),
        format!("data: [{THOUGHT},{image}, {USAGE}]\n\n"),
    ] {
        assert_eq!(check(body.as_bytes()), plain, "{body}");
    }
}

#[test]
fn one_object_may_be_spread_over_lines() {
    let pretty = format!(
        "{{\n  \"candidates\": [\n    {{\n      \"content\": {{\n        \"parts\": [ {{ \"inline_data\": {{ \"data\": \
         \"{PIXELS_BASE64}\",\n \"mime_type\": \"image/png\" }} }} ]\n      }}\n    }}\n  ]\n}}"
    );
    let plain = expect_good(pretty.as_bytes(), 1, 1);
    assert!(plain.chunks[0].contains(r##""data":"#0""##), "{plain:?}");
    let prefixed = format!("data: {}\n", pretty.replace('\n', "\ndata: "));
    for body in [
        format!("[{pretty}\n]\n"),
        format!("data: {pretty}\n\n"),
        format!("{prefixed}\n"),
        prefixed.replace('\n', "\r\n"),
    ] {
        assert_eq!(check(body.as_bytes()), plain, "{body}");
    }
}

#[test]
fn a_string_may_go_on_in_the_next_line_of_its_event() {
    for body in ["data: {\"responseId\":\"ab\ndata: cd\"}\n\n", "data:{\"responseId\":\"ab\r\ndata:cd\"}"] {
        let outcome = expect_good(body.as_bytes(), 0, 1);
        assert_eq!(outcome.chunks, [r#"{"responseId":"abcd"}"#]);
    }
}

#[test]
fn an_error_without_data_after_good_events_is_an_event() {
    let error = "{\n  \"error\": {\n    \"code\": 499,\n\n    \"status\": \"CANCELLED\"\n  }\n}\n";
    for body in [format!("data: {THOUGHT}\r\n\r\n{error}"), format!("data: {THOUGHT}\n\n[{error}]\n")] {
        let outcome = expect_good(body.as_bytes(), 0, 2);
        assert!(outcome.chunks[1].contains("CANCELLED"), "{outcome:?}");
    }
}

#[test]
fn base64_is_read_however_it_is_written() {
    for data in [
        PIXELS_BASE64.to_owned(),
        PIXELS_BASE64.replace('/', "_"),
        PIXELS_BASE64.replace('/', r"\/"),
        PIXELS_BASE64.replace('/', r"\u002F").replace('i', r"\u0069"),
        PIXELS_BASE64.replace("GX", r"G\nX\r\n"),
        format!("data:image/png;base64,{PIXELS_BASE64}"),
        format!(r"data:image\/png;base64,{PIXELS_BASE64}"),
    ] {
        let outcome = expect_good(image_event(&data).as_bytes(), 1, 1);
        assert!(outcome.chunks[0].contains(r##""data":"#0""##), "{outcome:?}");
    }
    let short = check(image_event(r"aGVsbG8\u003d").as_bytes());
    assert_eq!((short.images, short.error), (vec![b"hello".to_vec()], None));
    // `data` is good base64: only a colon behind it makes a prefix.
    let word = check(image_event("data").as_bytes());
    assert_eq!((word.images.len(), word.error), (1, None));
}

#[test]
fn an_empty_image_is_no_image() {
    for data in ["", "data:image/png;base64,", r"\n"] {
        let outcome = expect_good(image_event(data).as_bytes(), 0, 1);
        assert!(outcome.chunks[0].contains(r#""data":"""#), "{outcome:?}");
    }
}

#[test]
fn bad_base64_is_told_at_the_end_and_the_usage_behind_it_is_read() {
    for data in ["aGVs*G8=", "aGVsb", r"aGVs\u00e9", r"aGVs\b", "data:image/png", "data:"] {
        let body = format!("data: {}\n\ndata: {USAGE}\n\n", image_event(data));
        let outcome = expect_error(body.as_bytes(), &DecodeError::BadBase64);
        assert!(outcome.chunks[1].contains("1392"), "{data}: {outcome:?}");
        assert!(!outcome.chunks[0].contains('#'), "{data}: {outcome:?}");
    }
}

#[test]
fn a_data_url_in_a_text_goes_to_the_sink_and_the_words_around_it_stay() {
    for (text, expect) in [
        (format!("![a, b](data:image/png;base64,{PIXELS_BASE64})"), "![a, b](data:image/png;base64,#0)"),
        (
            format!(r"data:image\/png;base64,{}", PIXELS_BASE64.replace('/', r"\/")),
            "data:image/png;base64,#0",
        ),
        (
            format!(r#"![](data:image/png;base64,{PIXELS_BASE64}\n) and \"more\""#),
            r#"![](data:image/png;base64,#0\n) and \"more\""#,
        ),
    ] {
        let body = format!(r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}}}}]}}"#);
        let outcome = expect_good(body.as_bytes(), 1, 1);
        assert!(outcome.chunks[0].contains(expect), "{outcome:?}");
    }
    for text in ["use data:image/png;base64, please", r"a data:image/png;base64,\u00fc"] {
        let body = format!(r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}}}}]}}"#);
        expect_good(body.as_bytes(), 0, 1);
    }
    let body = format!(
        r#"{{"candidates":[{{"content":{{"parts":[{{"fileData":{{"fileUri":"data:image/png;base64,{PIXELS_BASE64}"}}}}]}}}}]}}"#
    );
    expect_good(body.as_bytes(), 1, 1);
}

#[test]
fn bad_base64_in_a_text_is_passed_over_to_its_end_at_every_split() {
    let one_letter_is_missing = format!("data:image/png;base64,{}zg==)", &PIXELS_BASE64[1..]);
    let outcome = check(
        format!(r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{one_letter_is_missing}"}}]}}}}]}}"#)
            .as_bytes(),
    );
    assert_eq!(outcome.error, None);
    assert!(outcome.chunks[0].contains(r#""data:image/png;base64,)""#), "{outcome:?}");
}

#[test]
fn odd_but_seen_shapes_are_not_fatal() {
    for body in [
        r#"{"candidates":null,"promptFeedback":null,"usageMetadata":null}"#,
        r#"{"candidates":[{"content":{"parts":null}}]}"#,
        r#"{"candidates":[{"content":{}}]}"#,
        r#"{"candidates":[{"content":{"parts":[{}]},"safetyRatings":[{}]}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"inlineData":null},{"inlineData":{"data":null}}]}}]}"#,
        r#"{"candidates":[{"finishReason":"SOMETHING_NEW","groundingMetadata":{"data":"x","a":[1.5e3,true,"y"]}}]}"#,
        r#"{"this":[{"is":{"not":[{"a":"answer"}]}}]}"#,
        "{}",
        "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"line\u{2028}separator ü\u{1f438}\"}]}}]}",
    ] {
        expect_good(body.as_bytes(), 0, 1);
    }
    let outcome = check(b"{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"\xff\xfe\"}]}}]}");
    assert_eq!(outcome.error, None);
}

#[test]
fn keys_may_come_in_any_order_and_data_elsewhere_is_no_image() {
    let body = format!(
        r#"{{"responseId":"a","data":"top","candidates":[{{"content":{{"parts":[{{"inlineData":{{"data":"{PIXELS_BASE64}","x":{{"data":"q"}},"mimeType":"image/png"}},"thoughtSignature":"s\"{PIXELS_BASE64}","thought":true}}]}}}}]}}"#
    );
    let outcome = expect_good(body.as_bytes(), 1, 1);
    assert!(outcome.chunks[0].contains(r#""thought":true"#), "{outcome:?}");
    assert!(outcome.chunks[0].contains(r#""thoughtSignature":"""#), "{outcome:?}");
}

#[test]
fn a_body_that_is_cut_says_where() {
    let image = image_event(PIXELS_BASE64);
    let in_image = image.find("cGl4").expect("it is there");
    let body = format!("data: {THOUGHT}\n\ndata: {}", &image[..in_image]);
    let outcome = expect_error(body.as_bytes(), &DecodeError::Truncated { in_image: true });
    assert_eq!(outcome.chunks.len(), 1);
    expect_error(format!("{body}\n\n").as_bytes(), &DecodeError::Truncated { in_image: true });
    let elsewhere = DecodeError::Truncated { in_image: false };
    expect_error(&image.as_bytes()[..image.len() - 1], &elsewhere);
    let outcome = expect_error(format!("[{image}").as_bytes(), &elsewhere);
    assert_eq!((outcome.images.len(), outcome.chunks.len()), (1, 1), "what came before is there");
}

#[test]
fn what_is_no_answer_is_told_apart() {
    for body in ["", "\r\n \n", ": keep-alive\n\n: keep-alive\n\n", "data: [DONE]\n\n", "[]", "data:\n\n"] {
        expect_error(body.as_bytes(), &DecodeError::Empty);
    }
    for (body, html) in [
        ("\u{feff}\n<!DOCTYPE html><html><title>502</title></html>", true),
        ("upstream connect error", false),
        ("\"a text\"", false),
        ("null", false),
    ] {
        let outcome = check(body.as_bytes());
        assert!(
            matches!(outcome.error, Some(DecodeError::Foreign { html: is, .. }) if is == html),
            "{outcome:?}"
        );
    }
}

#[test]
fn broken_json_is_an_error_and_a_bad_event_does_not_hide_the_next() {
    let bad = expect_error_kind(format!("data: {{\"candidates\":[tru]}}\n\ndata: {USAGE}\n\n").as_bytes());
    assert_eq!(bad.chunks.len(), 1);
    expect_error_kind(b"{\"a\":[}]}");
    expect_error_kind(b"{\"candidates\":7}");
}

fn expect_error_kind(body: &[u8]) -> Outcome {
    let outcome = check(body);
    assert!(matches!(outcome.error, Some(DecodeError::BadJson(_))), "{outcome:?}");
    outcome
}

/// Pieces of answers, so that random bodies come near the interesting places.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<Vec<u8>> = [
        "data: ",
        "data:",
        "\n",
        "\r\n",
        "\r",
        "\n\n",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u003d",
        "\\/",
        r#""inlineData":{"data":""#,
        r#""text":""#,
        r#""thoughtSignature":""#,
        "data:image/png;base64,",
        "iVBO",
        "Rw0=",
        "-_",
        "<html>",
        "null",
        "12",
        "\u{feff}",
        "\u{2028}",
        r#"{"candidates":[{"content":{"parts":[{"#,
        r#""}}]}}]}"#,
        r#"{"error":{"code":500}}"#,
        ": x",
        "[DONE]",
    ]
    .map(|word| word.as_bytes().to_vec())
    .to_vec();
    prop_oneof![8 => proptest::sample::select(words), 1 => proptest::collection::vec(any::<u8>(), 1..4)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_bytes_give_the_same_outcome_at_any_split(
        fragments in proptest::collection::vec(fragment(), 0..40),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let body = fragments.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.push(body.len());
        cuts.sort_unstable();
        let mut start = 0;
        let pieces: Vec<&[u8]> = cuts.iter().map(|&end| &body[std::mem::replace(&mut start, end)..end]).collect();
        let whole = decode([body.as_slice()]);
        prop_assert_eq!(&decode(pieces), &whole);
        prop_assert_eq!(&decode(body.chunks(1)), &whole);
    }
}
