//! Pixels to PNG and JPEG, with metadata that makes a file unique or as large as is wanted.

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use crate::job::MediaType;

const JPEG_QUALITY: u8 = 85;
/// What one JPEG segment holds besides its length.
const SEGMENT_BYTES_MAX: usize = 65_533;
/// Bytes of a PNG chunk around its data: length, type, checksum.
const CHUNK_FRAME_BYTES: usize = 12;
/// The header and the IHDR chunk of a PNG.
const PNG_HEAD_BYTES: usize = 8 + 13 + CHUNK_FRAME_BYTES;

/// A picture that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode the picture: {0}")]
pub(super) struct EncodeError(#[from] image::ImageError);

/// Encodes, with a comment, padded to about `bytes_wanted` if that is more than it takes.
pub(super) fn encode(
    pixels: &RgbImage,
    media: MediaType,
    comment: &str,
    bytes_wanted: Option<u64>,
) -> Result<Vec<u8>, EncodeError> {
    let (w, h) = pixels.dimensions();
    let mut file = Vec::new();
    let color = ExtendedColorType::Rgb8;
    if media == MediaType::Jpeg {
        JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY).write_image(pixels, w, h, color)?;
    } else {
        PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Up)
            .write_image(pixels, w, h, color)?;
    }
    let wanted = usize::try_from(bytes_wanted.unwrap_or(0)).unwrap_or(usize::MAX);
    let padding = wanted.saturating_sub(file.len() + comment.len());
    Ok(if media == MediaType::Jpeg {
        with_segments(&file, comment, padding)
    } else {
        with_chunks(&file, comment, padding)
    })
}

/// Comments after a JPEG's SOI marker.
fn with_segments(file: &[u8], comment: &str, padding: usize) -> Vec<u8> {
    let filler = filler(padding);
    let mut out = Vec::with_capacity(file.len() + comment.len() + padding + 1024);
    let (soi, rest) = file.split_at(file.len().min(2));
    out.extend_from_slice(soi);
    for data in std::iter::once(comment.as_bytes()).chain(filler.chunks(SEGMENT_BYTES_MAX)) {
        out.extend_from_slice(&[0xff, 0xfe]);
        out.extend_from_slice(&u16::try_from(data.len() + 2).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(data);
    }
    out.extend_from_slice(rest);
    out
}

/// A comment and a private ancillary chunk after a PNG's IHDR.
fn with_chunks(file: &[u8], comment: &str, padding: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(file.len() + comment.len() + padding + 1024);
    let (head, rest) = file.split_at(file.len().min(PNG_HEAD_BYTES));
    out.extend_from_slice(head);
    push_chunk(&mut out, *b"tEXt", &[b"Comment\0", comment.as_bytes()].concat());
    if padding > 0 {
        push_chunk(&mut out, *b"npPd", &filler(padding));
    }
    out.extend_from_slice(rest);
    out
}

fn push_chunk(out: &mut Vec<u8>, kind: [u8; 4], data: &[u8]) {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&kind);
    sum.update(data);
    out.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&kind);
    out.extend_from_slice(data);
    out.extend_from_slice(&sum.finalize().to_be_bytes());
}

/// Bytes that make nothing of themselves; no 0xff, which means something in a JPEG.
fn filler(bytes: usize) -> Vec<u8> {
    let text = b"nightpress simulator padding. ";
    let mut filler = text.repeat(bytes / text.len() + 1);
    filler.truncate(bytes);
    filler
}

/// Flips a byte in the middle of a PNG's first IDAT chunk, so that its checksum is wrong.
pub(super) fn corrupt_png(file: &mut [u8]) {
    let Some(idat) = memchr::memmem::find(file, b"IDAT") else { return };
    let length = idat.checked_sub(4).and_then(|at| file.get(at..idat)?.try_into().ok());
    let length = length.map_or(0, u32::from_be_bytes) as usize;
    if let Some(byte) = file.get_mut(idat + 4 + length / 2) {
        *byte ^= 0xff;
    }
}
