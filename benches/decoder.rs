//! The stream decoder in GB/s of an answer's bytes, by the size of its event and of the pieces in
//! which it arrives, against base64 alone.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use nightpress::gemini::decode::{Decoder, Limits, Sink};
use nightpress::gemini::wire::AnswerChunk;

/// Bytes of a picture, before base64.
const PICTURES: &[usize] = &[20_000, 200_000, 2_000_000, 20_000_000];
/// Bytes that arrive at once: a TLS record's worth of a slow line, a read buffer, many of them.
const PIECES: &[usize] = &[1400, 16 << 10, 64 << 10, 400 << 10];

fn main() {
    divan::main();
}

/// Counts what comes out.
#[derive(Default)]
struct Count {
    bytes: usize,
    chunks: usize,
}

impl Sink for Count {
    fn image(&mut self, _number: usize, bytes: &[u8]) {
        self.bytes += black_box(bytes).len();
    }

    fn chunk(&mut self, chunk: AnswerChunk) {
        self.chunks += 1;
        black_box(chunk);
    }
}

fn base64_of(bytes: usize) -> String {
    let noise: Vec<u8> =
        (0..bytes as u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect();
    base64_simd::STANDARD.encode_to_string(noise)
}

fn answer(picture_bytes: usize) -> Vec<u8> {
    let letters = base64_of(picture_bytes);
    format!(
        concat!(
            r#"data: {{"candidates":[{{"content":{{"parts":[{{"inlineData":{{"mimeType":"image/png","#,
            r#""data":"{}"}}}}]}},"finishReason":"STOP"}}],"usageMetadata":{{"totalTokenCount":9}}}}"#,
            "\r\n\r\n",
        ),
        letters
    )
    .into_bytes()
}

fn decoded(body: &[u8], piece_bytes: usize) -> Count {
    let mut decoder = Decoder::new(Limits::default());
    let mut count = Count::default();
    for piece in body.chunks(piece_bytes) {
        let read = decoder.push(piece, &mut count);
        assert!(read.is_ok(), "it is a good answer");
    }
    assert!(decoder.finish().is_ok() && count.chunks == 1, "it is a whole answer");
    count
}

/// Pieces of 64 KiB.
#[divan::bench(args = PICTURES)]
fn by_picture(bencher: Bencher<'_, '_>, picture_bytes: usize) {
    let body = answer(picture_bytes);
    bencher.counter(BytesCount::new(body.len())).bench(|| decoded(black_box(&body), 64 << 10).bytes);
}

/// A picture of 2 MB.
#[divan::bench(args = PIECES)]
fn by_piece(bencher: Bencher<'_, '_>, piece_bytes: usize) {
    let body = answer(2_000_000);
    bencher.counter(BytesCount::new(body.len())).bench(|| decoded(black_box(&body), piece_bytes).bytes);
}

/// What the decoder is held against: the same letters, in blocks that stay in the cache.
#[divan::bench(args = PICTURES)]
fn base64_alone(bencher: Bencher<'_, '_>, picture_bytes: usize) {
    let letters = base64_of(picture_bytes);
    let mut out = vec![0; 64 << 10];
    bencher.counter(BytesCount::new(letters.len())).bench_local(|| {
        use base64_simd::AsOut as _;
        let blocks = black_box(letters.as_bytes()).chunks(64 << 10);
        blocks
            .map(|block| {
                base64_simd::STANDARD
                    .decode(block, out.as_mut_slice().as_out())
                    .map_or(0, |bytes| bytes.len())
            })
            .sum::<usize>()
    });
}
