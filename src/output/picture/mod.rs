//! Whether some bytes are a whole picture, which format, and how large: checked as they pass,
//! without decoding a pixel.
//!
//! PNG: every chunk's checksum, up to `IEND`. JPEG: every marker segment, up to `EOI`. WebP: the
//! size that its header states. What follows the end is tolerated, since cameras and signers put
//! data there. What this does *not* do: judge the compressed data itself.

mod jpeg;
mod png;
mod webp;

use crate::job::MediaType;
use jpeg::Jpeg;
use png::Png;
use webp::WebP;

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

/// Collects a few bytes across pushes. Returns true when `field` holds `wanted` bytes.
fn collect(field: &mut Vec<u8>, wanted: usize, bytes: &mut &[u8]) -> bool {
    let taken = wanted.saturating_sub(field.len()).min(bytes.len());
    field.extend_from_slice(&bytes[..taken]);
    *bytes = &bytes[taken..];
    field.len() == wanted
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
