//! Whether some bytes are a whole picture, which format, and how large: checked as they pass,
//! without decoding a pixel.
//!
//! PNG: every chunk's checksum, up to `IEND`. JPEG: every marker segment, up to `EOI`. WebP: the
//! size that its header states. What follows the end is tolerated, since cameras and signers put
//! data there. What this does *not* do: judge the compressed data itself.

use crate::job::MediaType;

/// A picture that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picture {
    /// Format.
    pub media: MediaType,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// Why some bytes are not a whole picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// Neither PNG, JPEG nor WebP.
    #[error("the bytes are no PNG, JPEG or WebP")]
    Unknown,
    /// It ends too early.
    #[error("the {0} ends too early")]
    Truncated(&'static str),
    /// Something in it is wrong.
    #[error("the {format} is damaged: {what}")]
    Damaged {
        /// The format.
        format: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

/// Checks a picture block by block.
#[derive(Debug)]
pub struct PictureCheck {
    state: State,
    /// First bytes, until the format is known.
    head: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Head,
    Png(Png),
    Jpeg(Jpeg),
    WebP(WebP),
    Failed(PictureError),
}

impl Default for PictureCheck {
    fn default() -> Self {
        Self { state: State::Head, head: Vec::with_capacity(MediaType::PREFIX_BYTES) }
    }
}

impl PictureCheck {
    /// Takes the next bytes. What is wrong is remembered and told by [`PictureCheck::finish`].
    pub fn push(&mut self, mut bytes: &[u8]) {
        if matches!(self.state, State::Head) {
            let wanted = MediaType::PREFIX_BYTES - self.head.len();
            let (head, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if self.head.len() < MediaType::PREFIX_BYTES {
                return;
            }
            self.state = match MediaType::of(&self.head) {
                Some(MediaType::Png) => State::Png(Png::default()),
                Some(MediaType::Jpeg) => State::Jpeg(Jpeg::default()),
                Some(MediaType::WebP) => State::WebP(WebP::default()),
                None => State::Failed(PictureError::Unknown),
            };
            let head = std::mem::take(&mut self.head);
            self.advance(&head);
        }
        self.advance(bytes);
    }

    /// The picture, if it is whole.
    pub fn finish(self) -> Result<Picture, PictureError> {
        match self.state {
            State::Head => Err(PictureError::Unknown),
            State::Png(png) => png.finish(),
            State::Jpeg(jpeg) => jpeg.finish(),
            State::WebP(webp) => webp.finish(),
            State::Failed(error) => Err(error),
        }
    }

    fn advance(&mut self, bytes: &[u8]) {
        let result = match &mut self.state {
            State::Png(png) => png.push(bytes),
            State::Jpeg(jpeg) => jpeg.push(bytes),
            State::WebP(webp) => {
                webp.push(bytes);
                Ok(())
            }
            State::Head | State::Failed(_) => Ok(()),
        };
        if let Err(error) = result {
            self.state = State::Failed(error);
        }
    }
}

fn damaged(format: &'static str, what: &'static str) -> PictureError {
    PictureError::Damaged { format, what }
}

fn be_u32(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |n, byte| n << 8 | u32::from(*byte))
}

/// Collects a few bytes across pushes. Returns true when `field` holds `wanted` bytes.
fn collect(field: &mut Vec<u8>, wanted: usize, bytes: &mut &[u8]) -> bool {
    let taken = wanted.saturating_sub(field.len()).min(bytes.len());
    field.extend_from_slice(&bytes[..taken]);
    *bytes = &bytes[taken..];
    field.len() == wanted
}

/// PNG: signature, then chunks of length, type, data and CRC (W3C PNG, third edition).
#[derive(Debug, Default)]
struct Png {
    field: Vec<u8>,
    step: PngStep,
    crc: crc32fast::Hasher,
    size: Option<(u32, u32)>,
    has_data: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum PngStep {
    #[default]
    Signature,
    Header,
    Size {
        left: u32,
    },
    Data {
        kind: [u8; 4],
        left: u32,
    },
    Crc {
        kind: [u8; 4],
    },
    End,
}

impl Png {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), PictureError> {
        while !bytes.is_empty() {
            match self.step {
                PngStep::Signature => {
                    if collect(&mut self.field, 8, &mut bytes) {
                        self.next(PngStep::Header);
                    }
                }
                PngStep::Header => {
                    if collect(&mut self.field, 8, &mut bytes) {
                        self.begin_chunk()?;
                    }
                }
                PngStep::Size { left } => {
                    if collect(&mut self.field, 8, &mut bytes) {
                        self.crc.update(&self.field);
                        self.size = Some((be_u32(&self.field), be_u32(&self.field[4..])));
                        self.next(PngStep::Data { kind: *b"IHDR", left: left - 8 });
                    }
                }
                PngStep::Data { kind, left: 0 } => self.next(PngStep::Crc { kind }),
                PngStep::Data { kind, left } => {
                    let taken = bytes.len().min(left as usize);
                    self.crc.update(&bytes[..taken]);
                    bytes = &bytes[taken..];
                    self.step = PngStep::Data { kind, left: left - u32::try_from(taken).unwrap_or(left) };
                }
                PngStep::Crc { kind } => {
                    if collect(&mut self.field, 4, &mut bytes) {
                        self.end_chunk(kind)?;
                    }
                }
                PngStep::End => return Ok(()),
            }
        }
        Ok(())
    }

    fn next(&mut self, step: PngStep) {
        self.field.clear();
        self.step = step;
    }

    fn begin_chunk(&mut self) -> Result<(), PictureError> {
        let left = be_u32(&self.field);
        let mut kind = [0; 4];
        kind.copy_from_slice(&self.field[4..8]);
        if left > i32::MAX.cast_unsigned() {
            return Err(damaged("PNG", "a chunk is longer than the format allows"));
        }
        self.crc = crc32fast::Hasher::new();
        self.crc.update(&kind);
        match (&kind, self.size) {
            (b"IHDR", None) if left >= 8 => self.next(PngStep::Size { left }),
            (_, None) => return Err(damaged("PNG", "it does not begin with IHDR")),
            _ => {
                self.has_data |= &kind == b"IDAT";
                self.next(PngStep::Data { kind, left });
            }
        }
        Ok(())
    }

    fn end_chunk(&mut self, kind: [u8; 4]) -> Result<(), PictureError> {
        let crc = std::mem::take(&mut self.crc);
        if crc.finalize() != be_u32(&self.field) {
            return Err(damaged("PNG", "a chunk's checksum is wrong"));
        }
        if &kind == b"IEND" && !self.has_data {
            return Err(damaged("PNG", "it has no image data"));
        }
        self.next(if &kind == b"IEND" { PngStep::End } else { PngStep::Header });
        Ok(())
    }

    fn finish(self) -> Result<Picture, PictureError> {
        match (self.step, self.size) {
            (PngStep::End, Some((width, height))) if width > 0 && height > 0 => {
                Ok(Picture { media: MediaType::Png, width, height })
            }
            (PngStep::End, _) => Err(damaged("PNG", "it has no size")),
            _ => Err(PictureError::Truncated("PNG")),
        }
    }
}

/// JPEG: markers and segments up to EOI (ITU-T T.81, annex B).
#[derive(Debug, Default)]
struct Jpeg {
    field: Vec<u8>,
    step: JpegStep,
    size: Option<(u32, u32)>,
    has_scan: bool,
}

#[derive(Debug, Default, Clone, Copy)]
enum JpegStep {
    /// Before a marker's 0xFF.
    #[default]
    Marker,
    /// After it, before its code.
    Code,
    Length {
        code: u8,
    },
    /// In a frame header: precision, height, width.
    Frame {
        left: usize,
    },
    Skip {
        code: u8,
        left: usize,
    },
    /// In entropy-coded data.
    Scan,
    /// In it, after a 0xFF.
    ScanCode,
    End,
}

impl Jpeg {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), PictureError> {
        while let Some((&first, rest)) = bytes.split_first() {
            match self.step {
                JpegStep::Marker if first == 0xff => (self.step, bytes) = (JpegStep::Code, rest),
                JpegStep::Marker => return Err(damaged("JPEG", "a marker is missing")),
                JpegStep::Code => (self.step, bytes) = (self.after_code(first)?, rest),
                JpegStep::Length { code } => {
                    if collect(&mut self.field, 2, &mut bytes) {
                        self.step = self.begin_segment(code)?;
                    }
                }
                JpegStep::Frame { left } => {
                    if collect(&mut self.field, 5, &mut bytes) {
                        let side = |at: usize| u32::from(self.field[at]) << 8 | u32::from(self.field[at + 1]);
                        self.size = Some((side(3), side(1)));
                        self.field.clear();
                        self.step = JpegStep::Skip { code: 0xc0, left: left - 5 };
                    }
                }
                JpegStep::Skip { code, left } => {
                    let taken = left.min(bytes.len());
                    bytes = &bytes[taken..];
                    self.step = Self::after_skip(code, left - taken);
                }
                JpegStep::Scan => match memchr::memchr(0xff, bytes) {
                    Some(at) => (self.step, bytes) = (JpegStep::ScanCode, &bytes[at + 1..]),
                    None => return Ok(()),
                },
                JpegStep::ScanCode => {
                    bytes = rest;
                    // 0xFF00 is a stuffed byte, 0xFFD0–D7 restart the scan, 0xFFFF is fill.
                    self.step = match first {
                        0x00 | 0xd0..=0xd7 => JpegStep::Scan,
                        0xff => JpegStep::ScanCode,
                        code => self.after_code(code)?,
                    };
                }
                JpegStep::End => return Ok(()),
            }
        }
        Ok(())
    }

    fn after_code(&self, code: u8) -> Result<JpegStep, PictureError> {
        match code {
            0xff => Ok(JpegStep::Code),
            0xd8 | 0x01 => Ok(JpegStep::Marker),
            0xd9 if self.has_scan => Ok(JpegStep::End),
            0xd9 => Err(damaged("JPEG", "it ends before its picture")),
            0x00 | 0xd0..=0xd7 => Err(damaged("JPEG", "a marker is wrong")),
            code => Ok(JpegStep::Length { code }),
        }
    }

    fn begin_segment(&mut self, code: u8) -> Result<JpegStep, PictureError> {
        let length = usize::from(self.field[0]) << 8 | usize::from(self.field[1]);
        self.field.clear();
        let left = length.checked_sub(2).ok_or(damaged("JPEG", "a segment has no length"))?;
        // SOF0–SOF15 without DHT, JPG and DAC carry the size.
        let is_frame = matches!(code, 0xc0..=0xcf) && !matches!(code, 0xc4 | 0xc8 | 0xcc);
        if is_frame && left < 5 {
            return Err(damaged("JPEG", "a frame header is too short"));
        }
        self.has_scan |= code == 0xda;
        Ok(if is_frame { JpegStep::Frame { left } } else { Self::after_skip(code, left) })
    }

    fn after_skip(code: u8, left: usize) -> JpegStep {
        match (left, code) {
            (0, 0xda) => JpegStep::Scan,
            (0, _) => JpegStep::Marker,
            _ => JpegStep::Skip { code, left },
        }
    }

    fn finish(self) -> Result<Picture, PictureError> {
        match (self.step, self.size) {
            (JpegStep::End, Some((width, height))) if width > 0 && height > 0 => {
                Ok(Picture { media: MediaType::Jpeg, width, height })
            }
            (JpegStep::End, _) => Err(damaged("JPEG", "it has no size")),
            _ => Err(PictureError::Truncated("JPEG")),
        }
    }
}

/// WebP: a RIFF file that states its size; the first chunk has the picture's (RFC 9649).
#[derive(Debug, Default)]
struct WebP {
    head: Vec<u8>,
    bytes: u64,
}

impl WebP {
    /// RIFF header, first chunk's header, and as much of it as any of the three kinds needs.
    const HEAD_BYTES: usize = 30;

    fn push(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        collect(&mut self.head, Self::HEAD_BYTES, &mut bytes);
    }

    fn finish(self) -> Result<Picture, PictureError> {
        let head = self.head;
        if head.len() < Self::HEAD_BYTES {
            return Err(PictureError::Truncated("WebP"));
        }
        let le = |at: usize, n: usize| (0..n).fold(0u32, |sum, i| sum | u32::from(head[at + i]) << (8 * i));
        if u64::from(le(4, 4)) + 8 > self.bytes {
            return Err(PictureError::Truncated("WebP"));
        }
        let (width, height) = match &head[12..16] {
            b"VP8X" => (le(24, 3) + 1, le(27, 3) + 1),
            b"VP8L" => ((le(21, 4) & 0x3fff) + 1, (le(21, 4) >> 14 & 0x3fff) + 1),
            b"VP8 " => (le(26, 2) & 0x3fff, le(28, 2) & 0x3fff),
            _ => return Err(damaged("WebP", "its first chunk is unknown")),
        };
        if width == 0 || height == 0 {
            return Err(damaged("WebP", "it has no size"));
        }
        Ok(Picture { media: MediaType::WebP, width, height })
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb, RgbImage};

    use super::*;

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let picture = RgbImage::from_fn(37, 21, |x, y| Rgb([(x * 7) as u8, (y * 11) as u8, 90]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).expect("encodes");
        bytes.into_inner()
    }

    /// The smallest lossless WebP header that states a size of 3 × 2, padded to what it says.
    fn webp() -> Vec<u8> {
        let mut bytes = b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\x02\x40\0\0".to_vec();
        bytes.resize(34, 0);
        bytes
    }

    fn check(bytes: &[u8]) -> Result<Picture, PictureError> {
        let mut check = PictureCheck::default();
        check.push(bytes);
        check.finish()
    }

    #[test]
    fn whole_pictures_pass_at_every_split() {
        for (bytes, media, size) in [
            (encoded(ImageFormat::Png), MediaType::Png, (37, 21)),
            (encoded(ImageFormat::Jpeg), MediaType::Jpeg, (37, 21)),
            (webp(), MediaType::WebP, (3, 2)),
        ] {
            let whole = Picture { media, width: size.0, height: size.1 };
            for split in 0..bytes.len() {
                let mut check = PictureCheck::default();
                check.push(&bytes[..split]);
                check.push(&bytes[split..]);
                assert_eq!(check.finish(), Ok(whole), "{media} split at {split}");
            }
        }
    }

    #[test]
    fn a_picture_that_is_cut_anywhere_is_not_whole() {
        for bytes in [encoded(ImageFormat::Png), encoded(ImageFormat::Jpeg), webp()] {
            for end in 0..bytes.len() {
                assert!(check(&bytes[..end]).is_err(), "cut at {end} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn any_changed_byte_of_a_png_is_noticed() {
        let bytes = encoded(ImageFormat::Png);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(check(&changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_html_page_is_no_picture() {
        assert_eq!(check(b"<!DOCTYPE html><html></html>"), Err(PictureError::Unknown));
        assert_eq!(check(b""), Err(PictureError::Unknown));
    }

    #[test]
    fn what_follows_the_end_is_tolerated() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let mut bytes = encoded(format);
            bytes.extend_from_slice(b"trailing data");
            assert!(check(&bytes).is_ok(), "{format:?}");
        }
    }
}
