//! What answers of each shape give.

use super::*;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n pixels";
const JPEG: &[u8] = b"\xff\xd8\xff\xe0 more pixels";

/// Keeps images whole.
#[derive(Debug, Default)]
struct Images(Vec<Vec<u8>>);

impl ImageSink for Images {
    fn image(&mut self, number: usize, bytes: &[u8]) {
        self.0.resize_with(self.0.len().max(number + 1), Vec::new);
        self.0[number].extend_from_slice(bytes);
    }
}

fn base64(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

fn read_until(events: &[String], end: BodyEnd) -> (Answer, Images) {
    let mut reader = AnswerReader::new(Limits::default());
    let mut images = Images::default();
    for event in events {
        if reader.push(format!("data: {event}\n\n").as_bytes(), &mut images).is_err() {
            break;
        }
    }
    (reader.finish(end), images)
}

fn read(events: &[String]) -> (Answer, Images) {
    read_until(events, BodyEnd::Clean)
}

fn parts(parts: &str) -> String {
    format!(r#"{{"candidates":[{{"content":{{"role":"model","parts":[{parts}]}}}}]}}"#)
}

fn inline(bytes: &[u8], more: &str) -> String {
    format!(r#"{{"inlineData":{{"data":"{}","mimeType":"image/png"}}{more}}}"#, base64(bytes))
}

fn usage() -> String {
    r#"{"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":1130,"totalTokenCount":1392,
        "thoughtsTokenCount":254,"candidatesTokensDetails":[{"modality":"TEXT","tokenCount":10},
        {"modality":"IMAGE","tokenCount":1120}]}}"#
        .replace('\n', "")
}

#[test]
fn thoughts_captions_images_and_usage_come_apart() {
    let (answer, images) = read(&[
        parts(r#"{"text":"I think","thought":true}"#),
        parts(&inline(JPEG, r#","thought":true,"thoughtSignature":"xx""#)),
        parts(&format!(r#"{{"text":"A frog "}},{{"text":"on a leaf."}},{}"#, inline(PNG, ""))),
        usage(),
    ]);
    assert_eq!(answer.caption, "A frog on a leaf.");
    assert_eq!(images.0, [JPEG, PNG]);
    let result = AnswerImage {
        number: 1,
        declared: Some("image/png".to_owned()),
        media: Some(MediaType::Png),
        bytes: PNG.len() as u64,
    };
    assert_eq!(answer.images, [result]);
    let [thought] = answer.thought_images.as_slice() else { panic!("one thought image") };
    assert_eq!((thought.number, thought.media), (0, Some(MediaType::Jpeg)), "the declared type lied");
    let expect = Usage {
        prompt: Some(8),
        candidates: Some(1130),
        image: Some(1120),
        thoughts: Some(254),
        total: Some(1392),
    };
    assert_eq!(answer.usage, expect);
    assert!(answer.is_complete() && answer.error.is_none());
}

#[test]
fn several_results_in_one_answer_are_all_kept_in_their_order() {
    let both = format!("{},{},{}", inline(PNG, ""), inline(JPEG, r#","thought":false"#), inline(b"", ""));
    let (answer, _) = read(&[parts(&both), parts(&inline(PNG, "")), usage()]);
    assert_eq!(answer.images.iter().map(|image| image.number).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn usage_is_cumulative_and_the_last_value_of_each_field_counts() {
    let (answer, _) = read(&[
        r#"{"usageMetadata":{"promptTokenCount":8,"totalTokenCount":8}}"#.to_owned(),
        r#"{"usageMetadata":{"promptTokenCount":8,"thoughtsTokenCount":240,"totalTokenCount":248}}"#
            .to_owned(),
        r#"{"usageMetadata":{"trafficType":"ON_DEMAND","promptTokenCount":"many"}}"#.to_owned(),
    ]);
    let expect = Usage { prompt: Some(8), thoughts: Some(240), total: Some(248), ..Usage::default() };
    assert_eq!(answer.usage, expect);
}

#[test]
fn a_terminal_signal_is_a_finish_reason_or_the_usage_of_what_came_out() {
    let thinking =
        r#"{"candidates":[{"content":{"parts":[{"text":"hm","thought":true}]}}],"usageMetadata":USAGE}"#;
    for (events, expect) in
        [
            (vec![parts(&inline(PNG, ""))], false),
            (vec![parts(&inline(PNG, "")), usage()], true),
            (vec![thinking.replace("USAGE", r#"{"trafficType":"ON_DEMAND"}"#)], false),
            (
                vec![thinking.replace(
                    "USAGE",
                    r#"{"promptTokenCount":8,"totalTokenCount":99,"thoughtsTokenCount":91}"#,
                )],
                false,
            ),
            (vec![r#"{"candidates":[{"finishReason":"STOP"}]}"#.to_owned()], true),
            (vec![r#"{"candidates":[{"finishReason":"FINISH_REASON_UNSPECIFIED"}]}"#.to_owned()], false),
        ]
    {
        assert_eq!(read(&events).0.has_terminal_signal, expect, "{events:?}");
    }
}

#[test]
fn stop_on_every_chunk_does_not_hide_why_it_really_ended() {
    let finish = |reason: &str| {
        format!(r#"{{"candidates":[{{"finishReason":"{reason}","finishMessage":"m {reason}"}}]}}"#)
    };
    let (answer, _) = read(&[finish("STOP"), finish("RECITATION"), finish("STOP")]);
    assert_eq!(answer.finish_reason.as_deref(), Some("RECITATION"));
}

#[test]
fn a_block_reason_and_an_error_are_kept_beside_images() {
    let (answer, _) = read(&[
        r#"{"promptFeedback":{"blockReason":"JAILBREAK","blockReasonMessage":"no"},"responseId":"r","modelVersion":"m"}"#
            .to_owned(),
        parts(&inline(PNG, "")),
        r#"{"error":{"code":500}}"#.to_owned(),
        r#"{"error":{"code":429}}"#.to_owned(),
    ]);
    assert_eq!(
        (answer.block_reason.as_deref(), answer.block_message.as_deref()),
        (Some("JAILBREAK"), Some("no"))
    );
    assert_eq!((answer.response_id.as_deref(), answer.model_version.as_deref()), (Some("r"), Some("m")));
    assert_eq!(answer.error, Some(serde_json::json!({"code": 500})));
    assert_eq!(answer.images.len(), 1);
}

#[test]
fn urls_are_found_in_three_shapes_and_never_in_thoughts() {
    let (answer, _) = read(&[
        parts(r#"{"text":"https://x.test/thought.png","thought":true}"#),
        parts(r#"{"fileData":{"mimeType":"image/png","fileUri":"https://x.test/1.png"}}"#),
        parts(r#"{"file_data":{"file_uri":"gs://bucket/2.png"}}"#),
        parts(r#"{"text":"https://x.test/3.png"}"#),
        parts(r#"{"text":"Done ![frog](https://x.test/4.png)"}"#),
    ]);
    assert_eq!(answer.urls, ["https://x.test/1.png", "https://x.test/3.png", "https://x.test/4.png"]);
    assert_eq!(answer.caption, "Done");
}

#[test]
fn a_picture_in_a_data_url_is_a_result_and_quoted_prose_is_none() {
    let picture = format!("![frog](data:image/png;base64,{})", base64(PNG));
    let (answer, images) = read(&[
        parts(r#"{"text":"like data:image/png;base64,QUJD or so"}"#),
        parts(&format!(r#"{{"text":"{picture}"}}"#)),
        parts(&format!(r#"{{"text":"{picture}","thought":true}}"#)),
        parts(&format!(r#"{{"fileData":{{"fileUri":"data:image/jpeg;base64,{}"}}}}"#, base64(JPEG))),
    ]);
    assert_eq!(answer.images.iter().map(|image| image.number).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(answer.thought_images.len(), 1);
    assert_eq!((images.0[1].as_slice(), images.0[3].as_slice()), (PNG, JPEG));
    assert!(answer.urls.is_empty());
    assert_eq!(answer.caption, "like data:image/png;base64,#0 or so");
}

#[test]
fn what_came_before_a_break_is_still_there() {
    let (answer, images) = read(&[parts(&inline(PNG, "")), usage(), "{\"candidates\":[}".to_owned()]);
    assert!(matches!(answer.broken, Some(DecodeError::BadJson(_))), "{:?}", answer.broken);
    assert_eq!((answer.images.len(), images.0.len(), answer.usage.total), (1, 1, Some(1392)));
    assert!(!answer.is_complete());
}

#[test]
fn an_image_whose_event_never_completes_is_no_result() {
    let event = parts(&inline(PNG, ""));
    let (answer, images) = read(&[event[..event.len() - 3].to_owned()]);
    assert_eq!(answer.broken, Some(DecodeError::Truncated { in_image: false }));
    assert_eq!((answer.images.len(), images.0.len()), (0, 1));
}

#[test]
fn a_connection_that_breaks_after_the_terminal_signal_broke_nothing() {
    let (answer, _) = read_until(&[parts(&inline(PNG, "")), usage()], BodyEnd::Cut);
    assert!(answer.is_complete());
    for events in [vec![parts(&inline(PNG, ""))], vec![]] {
        let (answer, _) = read_until(&events, BodyEnd::Cut);
        assert_eq!(answer.broken, Some(DecodeError::Truncated { in_image: false }), "{events:?}");
    }
}
