//! WebP: a RIFF file that states its size; the first chunk has the picture's (RFC 9649).

use super::{Picture, PictureError, collect, damaged};
use crate::job::MediaType;

/// How far a WebP has come.
#[derive(Debug, Default)]
pub(super) struct WebP {
    head: Vec<u8>,
    bytes: u64,
}

impl WebP {
    /// RIFF header, first chunk's header, and as much of it as any of the three kinds needs.
    const HEAD_BYTES: usize = 30;

    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        collect(&mut self.head, Self::HEAD_BYTES, &mut bytes);
    }

    pub(super) fn finish(self) -> Result<Picture, PictureError> {
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
