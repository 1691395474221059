//! A test per row of the tables for answers and connections.

use serde_json::json;

use super::super::answer::AnswerImage;
use super::super::class::tests::{KEY, PAGE, TRANSIENT, check, checked, with_request};
use super::*;
use crate::job::Usage;

fn answer(answer: &Answer) -> Option<Fault> {
    with_request("gemini-3.1-flash-image", true, |request| of_answer(answer, request).map(checked))
}

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
    let refused_and_cut = Answer {
        finish_reason: Some("IMAGE_SAFETY".to_owned()),
        broken: Some(DecodeError::Truncated { in_image: false }),
        ..Answer::default()
    };
    check(&answer(&refused_and_cut).expect("no image"), &FaultClass::Refused, "image_safety");
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
        (
            DecodeError::Foreign { html: false, head: "\u{1f}\u{fffd}\u{8}".to_owned() },
            TRANSIENT,
            "compressed_answer",
        ),
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
