//! JPEG: markers and segments up to EOI (ITU-T T.81, annex B).

use super::{Picture, PictureError, collect, damaged};
use crate::job::MediaType;

/// How far a Jpeg has come.
#[derive(Debug, Default)]
pub(super) struct Jpeg {
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
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), PictureError> {
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

    pub(super) fn finish(self) -> Result<Picture, PictureError> {
        match (self.step, self.size) {
            (JpegStep::End, Some((width, height))) if width > 0 && height > 0 => {
                Ok(Picture { media: MediaType::Jpeg, width, height })
            }
            (JpegStep::End, _) => Err(damaged("JPEG", "it has no size")),
            _ => Err(PictureError::Truncated("JPEG")),
        }
    }
}
