//! The picture check in GB/s, by format and by the size of the blocks in which a picture arrives.

use std::hint::black_box;
use std::io::Cursor;

use divan::Bencher;
use divan::counter::BytesCount;
use image::{ImageFormat, RgbImage};
use nightpress::output::PictureCheck;

/// Bytes that are checked at once; the spool's blocks are the large ones.
const BLOCKS: &[usize] = &[4 << 10, 64 << 10, 256 << 10];
/// Pixels of a side; noise cannot be compressed, so that this is about 3 MB as PNG.
const SIDE: u32 = 1024;

fn main() {
    divan::main();
}

fn noise(format: ImageFormat) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    let picture = RgbImage::from_fn(SIDE, SIDE, |_, _| image::Rgb([next(), next(), next()]));
    let mut bytes = Cursor::new(Vec::new());
    assert!(picture.write_to(&mut bytes, format).is_ok(), "it can be encoded");
    bytes.into_inner()
}

fn check(bencher: Bencher<'_, '_>, picture: &[u8], block_bytes: usize) {
    bencher.counter(BytesCount::new(picture.len())).bench(|| {
        let mut check = PictureCheck::default();
        black_box(picture).chunks(block_bytes).for_each(|block| check.push(block));
        let outcome = check.finish();
        assert!(outcome.is_ok(), "it is whole");
        outcome
    });
}

/// Every chunk's checksum.
#[divan::bench(args = BLOCKS)]
fn png(bencher: Bencher<'_, '_>, block_bytes: usize) {
    check(bencher, &noise(ImageFormat::Png), block_bytes);
}

/// Every marker.
#[divan::bench(args = BLOCKS)]
fn jpeg(bencher: Bencher<'_, '_>, block_bytes: usize) {
    check(bencher, &noise(ImageFormat::Jpeg), block_bytes);
}
