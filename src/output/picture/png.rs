//! PNG: signature, then chunks of length, type, data and CRC (W3C PNG, third edition).

use super::{Picture, PictureError, collect, damaged};
use crate::job::MediaType;

/// How far a Png has come.
#[derive(Debug, Default)]
pub(super) struct Png {
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
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), PictureError> {
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

    pub(super) fn finish(self) -> Result<Picture, PictureError> {
        match (self.step, self.size) {
            (PngStep::End, Some((width, height))) if width > 0 && height > 0 => {
                Ok(Picture { media: MediaType::Png, width, height })
            }
            (PngStep::End, _) => Err(damaged("PNG", "it has no size")),
            _ => Err(PictureError::Truncated("PNG")),
        }
    }
}

fn be_u32(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |n, byte| n << 8 | u32::from(*byte))
}
