//! What an answer may be at most, and what it costs in memory and work.

use super::tests::{Outcome, PIXELS_BASE64, image_event};
use super::*;

#[test]
fn every_limit_holds() {
    let limits = Limits {
        response_bytes_max: 4000,
        image_bytes_max: 30,
        images_max: 2,
        events_max: 3,
        event_text_bytes_max: 600,
        event_objects_max: 20,
        depth_max: 10,
    };
    let image = image_event(PIXELS_BASE64);
    let long = "x".repeat(700);
    for (body, expect) in [
        (" ".repeat(5000), "size of the body"),
        (image_event(&PIXELS_BASE64.repeat(3)), "size of an image"),
        (format!("{image}\n").repeat(3), "number of images"),
        ("{}\n".repeat(4), "number of events"),
        (format!("{{\"a\":\"{long}\"}}"), "text of an event"),
        (format!("{{\"{long}\":1}}"), "text of an event"),
        (format!("{{\"a\":[{}]}}", "{},".repeat(30)), "number of objects in an event"),
        (format!("{{\"a\":{}", "[".repeat(20)), "nesting of an event"),
    ] {
        for size in [1, 7, body.len()] {
            let mut decoder = Decoder::new(limits);
            let mut sink = Outcome::default();
            let _ = body.as_bytes().chunks(size).try_for_each(|piece| decoder.push(piece, &mut sink));
            let error = decoder.finish().expect_err("beyond the limit");
            assert!(
                matches!(error, DecodeError::TooLarge { what, .. } if what == expect),
                "{error} for {expect}"
            );
        }
    }
}

/// Counts bytes and keeps none.
#[derive(Default)]
struct Counter {
    bytes: usize,
    chunks: usize,
}

impl Sink for Counter {
    fn image(&mut self, _: usize, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn chunk(&mut self, _: AnswerChunk) {
        self.chunks += 1;
    }
}

#[test]
fn a_line_of_20_mb_is_gone_over_once_and_kept_nowhere() {
    const PIECE: usize = 16 << 10;
    const BUFFERED_BYTES_MAX: usize = 64 << 10;
    let letters = 20_046_248;
    let data = "iVBO".repeat(letters / 4);
    let in_text = "iVBO".repeat(1 << 20);
    let body = format!(
        "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"thoughtSignature\":\"{data}\",\
         \"inlineData\":{{\"data\":\"{data}\"}}}},{{\"text\":\"data:image/png;base64,{in_text}\"}}]}}}}]}}\n\n"
    );
    let mut decoder = Decoder::new(Limits::default());
    let mut counter = Counter::default();
    for piece in body.as_bytes().chunks(PIECE) {
        decoder.push(piece, &mut counter).expect("decodes");
        assert!(decoder.buffered_bytes() < BUFFERED_BYTES_MAX, "{} bytes", decoder.buffered_bytes());
    }
    decoder.finish().expect("whole");
    assert_eq!((counter.bytes, counter.chunks), ((letters + in_text.len()) / 4 * 3, 1));
    assert_eq!(decoder.scanner.scanned_bytes, body.trim_start_matches("data: ").trim_end().len());
}
