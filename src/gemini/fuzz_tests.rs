//! Whatever a server sends: no panic, no more than was sent, the same at every split, and words that
//! are fit to be shown.

use proptest::prelude::*;
use proptest::sample::Index;
use reqwest::header::{HeaderMap, HeaderName, RETRY_AFTER};
use serde_json::json;

use super::answer::{Answer, AnswerReader, BodyEnd, ImageSink};
use super::class::tests::{checked, with_request};
use super::decode::Limits;
use super::fault::{ErrorResponse, of_answer, of_response};
use crate::fuzz;

/// Images as they came, and how many bytes they had.
#[derive(Debug, Default, PartialEq)]
struct Images(Vec<Vec<u8>>);

impl ImageSink for Images {
    fn image(&mut self, number: usize, bytes: &[u8]) {
        self.0.resize_with(self.0.len().max(number + 1), Vec::new);
        self.0[number].extend_from_slice(bytes);
    }
}

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, end: BodyEnd) -> (Answer, Images) {
    let mut reader = AnswerReader::new(Limits::default());
    let mut images = Images::default();
    for piece in pieces {
        if reader.push(piece, &mut images).is_err() {
            break;
        }
    }
    (reader.finish(end), images)
}

proptest! {
    #![proptest_config(fuzz::config())]

    #[test]
    fn any_answer_is_read_alike_at_any_split_and_brings_no_more_than_it_has(
        fuzz::Input { bytes: body, .. } in fuzz::mutated("answers"),
        cut in any::<Index>(),
        is_whole in any::<bool>(),
    ) {
        let end = if is_whole { BodyEnd::Clean } else { BodyEnd::Cut };
        let (answer, images) = read([body.as_slice()], end);
        let (left, right) = body.split_at(cut.index(body.len() + 1));
        let split = read([left, right], end);
        prop_assert_eq!((format!("{:?}", split.0), &split.1), (format!("{answer:?}"), &images));
        let bytewise = read(body.chunks(1), end);
        prop_assert_eq!((format!("{:?}", bytewise.0), &bytewise.1), (format!("{answer:?}"), &images));
        let brought: usize = images.0.iter().map(Vec::len).sum();
        prop_assert!(brought <= body.len());
        with_request("gemini-3.1-flash-image", true, |request| {
            if let Some(fault) = of_answer(&answer, request) {
                checked(fault);
            }
        });
    }

    #[test]
    fn any_error_has_a_class_and_words_that_are_fit_to_be_shown(
        fuzz::Input { bytes: body, .. } in fuzz::mutated("errors"),
        fuzz::Input { bytes: delay, .. } in fuzz::mutated("delays"),
        status in 300u16..600,
    ) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = reqwest::header::HeaderValue::from_bytes(&delay) {
            headers.insert(RETRY_AFTER, value.clone());
            headers.insert(HeaderName::from_static("retry-after-ms"), value);
        }
        let response = ErrorResponse { status, headers: &headers, body: &body };
        with_request("gemini-3-pro-image", false, |request| checked(of_response(&response, request)));
    }

    #[test]
    fn any_delay_is_read_or_left_and_never_longer_than_a_hint_may_be(
        fuzz::Input { bytes: text, .. } in fuzz::mutated("delays"),
        fuzz::Input { bytes: header, .. } in fuzz::mutated("delays"),
    ) {
        let text = String::from_utf8_lossy(&text).into_owned();
        let details = [json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": text})];
        let mut headers = HeaderMap::new();
        if let Ok(value) = reqwest::header::HeaderValue::from_bytes(&header) {
            headers.insert(RETRY_AFTER, value);
        }
        // Added to an instant, it must not overflow.
        if let Some(delay) = super::hint::delay(&headers, &details, &[text]) {
            prop_assert!(tokio::time::Instant::now().checked_add(delay).is_some(), "{:?}", delay);
        }
    }
}
