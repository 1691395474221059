//! A picture that can be drawn on: rows, boxes, and words in a fixed font that is blown up by
//! a whole factor.

use std::convert::Infallible;

use embedded_graphics::Drawable;
use embedded_graphics::Pixel;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::FONT_10X20;
use embedded_graphics::pixelcolor::BinaryColor;
use embedded_graphics::text::{Baseline, Text};
use image::{Rgb, RgbImage};

/// A letter's width and height in font pixels.
pub(super) const LETTER: (u32, u32) = (10, 20);

/// The picture under work.
#[derive(Debug)]
pub(super) struct Canvas {
    pixels: RgbImage,
}

/// Where and how large.
#[derive(Debug, Clone, Copy)]
pub(super) struct Area {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) w: u32,
    pub(super) h: u32,
}

impl Canvas {
    pub(super) fn new(w: u32, h: u32) -> Self {
        Self { pixels: RgbImage::new(w, h) }
    }

    pub(super) fn size(&self) -> (u32, u32) {
        self.pixels.dimensions()
    }

    pub(super) fn into_pixels(self) -> RgbImage {
        self.pixels
    }

    /// Fills a box; what lies outside the picture is cut off. Whole rows are copied: this is
    /// what makes a large picture quick even without optimisation.
    pub(super) fn fill(&mut self, area: Area, color: [u8; 3]) {
        let (width, height) = self.size();
        let (left, right) = (area.x.min(width), area.x.saturating_add(area.w).min(width));
        let row = color.repeat((right - left) as usize);
        for y in area.y.min(height)..area.y.saturating_add(area.h).min(height) {
            let from = (y as usize * width as usize + left as usize) * 3;
            if let Some(target) = self.pixels.get_mut(from..from + row.len()) {
                target.copy_from_slice(&row);
            }
        }
    }

    /// Lays a small picture over this one; the caller sees to it that it fits.
    pub(super) fn overlay(&mut self, small: &RgbImage, x: u32, y: u32) {
        let width = self.size().0 as usize;
        let row_bytes = small.width() as usize * 3;
        for (row, y) in small.as_raw().chunks_exact(row_bytes.max(1)).zip(y as usize..) {
            let from = (y * width + x as usize) * 3;
            if let Some(target) = self.pixels.get_mut(from..from + row_bytes) {
                target.copy_from_slice(row);
            }
        }
    }

    /// Writes one line; ASCII, other characters as `?`.
    pub(super) fn write(&mut self, line: &str, at: (u32, u32), ink: Ink) {
        let style = MonoTextStyle::new(&FONT_10X20, BinaryColor::On);
        let mut letters = Letters { canvas: self, at, ink };
        let Ok(_) = Text::with_baseline(line, Point::zero(), style, Baseline::Top).draw(&mut letters);
    }
}

/// How words are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ink {
    pub(super) color: [u8; 3],
    /// Picture pixels for each font pixel.
    pub(super) scale: u32,
}

/// What the font draws on: each of its pixels becomes a box of the canvas.
struct Letters<'a> {
    canvas: &'a mut Canvas,
    at: (u32, u32),
    ink: Ink,
}

impl OriginDimensions for Letters<'_> {
    fn size(&self) -> Size {
        let (w, h) = self.canvas.size();
        Size::new(w / self.ink.scale, h / self.ink.scale)
    }
}

impl DrawTarget for Letters<'_> {
    type Color = BinaryColor;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<BinaryColor>>,
    {
        let (width, height) = self.canvas.size();
        let scale = self.ink.scale;
        for Pixel(point, color) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(point.x), u32::try_from(point.y)) else { continue };
            let (x, y) = (self.at.0 + x * scale, self.at.1 + y * scale);
            if color == BinaryColor::Off || x >= width || y >= height {
                continue;
            }
            if scale == 1 {
                self.canvas.pixels.put_pixel(x, y, Rgb(self.ink.color));
            } else {
                self.canvas.fill(Area { x, y, w: scale, h: scale }, self.ink.color);
            }
        }
        Ok(())
    }
}
