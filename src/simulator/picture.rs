//! The pictures: the prompt's words on a ground whose colours come from the request's digest,
//! so that one sees at a glance which picture belongs to which job. The same request with the
//! same seed gives the same bytes.

use bytes::Bytes;
use image::{DynamicImage, ImageReader, Limits, RgbImage};

use super::canvas::{Area, Canvas, Ink, LETTER};
use super::encode::{EncodeError, encode};
use super::request::SentImage;
use super::scenario::Pictures;
use super::size::pixels;
use crate::job::{Digest, DigestWriter, MediaType};

/// References above this are not decoded for a thumbnail; a box of their colour stands for them.
const THUMBNAIL_BYTES_MAX: usize = 4 << 20;
const THUMBNAIL_SIDE_MAX: u32 = 4096;
const WHITE: [u8; 3] = [255, 255, 255];

/// What a picture is drawn from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drawing<'a> {
    pub(super) model: &'a str,
    pub(super) prompt: &'a str,
    pub(super) ratio: &'a str,
    pub(super) size: &'a str,
    pub(super) references: &'a [SentImage],
    /// Digest of the request.
    pub(super) ask: &'a Digest,
    pub(super) seed: u64,
    /// 0 for the result, others for interim pictures and second ones.
    pub(super) variant: u32,
    pub(super) media: MediaType,
    pub(super) pictures: &'a Pictures,
}

/// A picture as a file.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    pub(super) media: MediaType,
    pub(super) bytes: Bytes,
}

impl Drawing<'_> {
    /// Draws and encodes it; another note gives the same pixels with other metadata. Blocks: some
    /// 10 ms for 1K, half a second for 4K.
    pub(super) fn picture(&self, note: &str) -> Result<Picture, EncodeError> {
        let digest = DigestWriter::new("simulator picture 1")
            .field("ask", self.ask.to_string().as_bytes())
            .field("seed", &self.seed.to_le_bytes())
            .field("variant", &self.variant.to_le_bytes())
            .finish();
        let canvas = self.draw(&digest);
        // The digest stands in the metadata, so that even two tiny pictures differ.
        let comment = format!("nightpress simulator {digest} {note}");
        let pixels = canvas.into_pixels();
        let bytes = encode(&pixels, self.media, &comment, self.pictures.bytes)?;
        Ok(Picture { media: self.media, bytes: bytes.into() })
    }

    fn draw(&self, digest: &Digest) -> Canvas {
        let (w, h) = pixels(self.model, self.ratio, self.size, self.pictures);
        let mut canvas = Canvas::new(w, h);
        draw_ground(&mut canvas, digest);
        if !self.pictures.tiny {
            self.draw_words(&mut canvas);
        }
        canvas
    }

    fn draw_words(&self, canvas: &mut Canvas) {
        let (w, h) = canvas.size();
        let scale = (w.min(h) / 256).max(1);
        let margin = LETTER.0 * scale;
        let line_height = (LETTER.1 + 4) * scale;
        let columns = (w.saturating_sub(2 * margin) / (LETTER.0 * scale)).max(1);
        let ink = Ink { color: WHITE, scale };
        // Half of the height for the prompt, the lower part for what it was made from.
        let lines_max = (h / 2 / line_height).max(1) as usize;
        let words = wrap(&deunicode::deunicode(self.prompt), columns as usize, lines_max);
        for (line, y) in words.iter().zip((margin..h).step_by(line_height as usize)) {
            canvas.write(line, (margin, y), ink);
        }
        let small = Ink { color: WHITE, scale: scale.div_ceil(2) };
        let small_height = (LETTER.1 + 4) * small.scale;
        let mut foot = vec![format!("{} {} {}", self.model, self.ratio, self.size)];
        if !self.references.is_empty() {
            let count = self.references.len();
            let noun = if count == 1 { "reference" } else { "references" };
            foot.push(format!("edited from {count} {noun}"));
        }
        let mut y = h.saturating_sub(margin + small_height);
        for line in foot {
            canvas.write(&line, (margin, y), small);
            y = y.saturating_sub(small_height);
        }
        let side = (h / 6).max(8);
        self.draw_references(canvas, Area { x: margin, y: y.saturating_sub(side), w: side, h: side });
    }

    /// A row of thumbnails from `first` on, as many as fit.
    fn draw_references(&self, canvas: &mut Canvas, first: Area) {
        let step = first.w + first.w / 8;
        let room = (canvas.size().0.saturating_sub(2 * first.x) / step.max(1)) as usize;
        for (number, reference) in (0..).zip(self.references.iter().take(room)) {
            let area = Area { x: first.x + number * step, ..first };
            canvas.fill(area, color_of(&reference.digest, 0));
            if let Some(small) = thumbnail(&reference.bytes, area.w, area.h) {
                canvas.overlay(&small, area.x, area.y);
            }
        }
    }
}

/// Bands of colour from top to bottom.
fn draw_ground(canvas: &mut Canvas, digest: &Digest) {
    let (w, h) = canvas.size();
    let (top, bottom) = (color_of(digest, 0), color_of(digest, 3));
    let bands = 48.min(h);
    for band in 0..bands {
        let (from, to) = (band * h / bands, (band + 1) * h / bands);
        let mix = |channel: usize| {
            let (a, b) = (u32::from(top[channel]), u32::from(bottom[channel]));
            u8::try_from((a * (bands - band) + b * band) / bands).unwrap_or(u8::MAX)
        };
        let area = Area { x: 0, y: from, w, h: to - from };
        canvas.fill(area, [mix(0), mix(1), mix(2)]);
    }
}

/// Three channels from the digest's bytes at `from`, dark enough for white letters.
fn color_of(digest: &Digest, from: usize) -> [u8; 3] {
    let hex = digest.to_string();
    let channel = |number: usize| {
        let at = (from + number) * 2;
        u8::from_str_radix(hex.get(at..at + 2).unwrap_or("40"), 16).unwrap_or(64) / 2 + 16
    };
    [channel(0), channel(1), channel(2)]
}

fn thumbnail(bytes: &[u8], w: u32, h: u32) -> Option<RgbImage> {
    if bytes.len() > THUMBNAIL_BYTES_MAX {
        return None;
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(THUMBNAIL_SIDE_MAX);
    limits.max_image_height = Some(THUMBNAIL_SIDE_MAX);
    let mut reader = ImageReader::new(std::io::Cursor::new(bytes)).with_guessed_format().ok()?;
    reader.limits(limits);
    let picture: DynamicImage = reader.decode().ok()?;
    Some(picture.thumbnail(w, h).into_rgb8())
}

/// Breaks a text at its spaces into lines of at most `columns`; what does not fit into
/// `lines_max` of them ends in dots.
fn wrap(text: &str, columns: usize, lines_max: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        for piece in word.as_bytes().chunks(columns.max(1)) {
            let piece = String::from_utf8_lossy(piece);
            let line = lines.last_mut().map_or(0, |line| line.len());
            if line > 0 && line + 1 + piece.len() > columns {
                lines.push(String::new());
            }
            if let Some(line) = lines.last_mut() {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(&piece);
            }
        }
    }
    if lines.len() > lines_max {
        lines.truncate(lines_max);
        if let Some(last) = lines.last_mut() {
            last.truncate(columns.saturating_sub(3));
            last.push_str("...");
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(prompt: &str, media: MediaType, pictures: &Pictures) -> Bytes {
        let drawing = Drawing {
            model: "gemini-3.1-flash-image",
            prompt,
            ratio: "16:9",
            size: "1K",
            references: &[],
            ask: &Digest::of(prompt.as_bytes()),
            seed: 1,
            variant: 0,
            media,
            pictures,
        };
        drawing.picture("").expect("drawn").bytes
    }

    #[test]
    fn the_same_request_gives_the_same_bytes_of_the_right_kind_and_size() {
        for media in [MediaType::Png, MediaType::Jpeg] {
            let bytes = draw("a cat", media, &Pictures::default());
            assert_eq!(bytes, draw("a cat", media, &Pictures::default()));
            assert_ne!(bytes, draw("a dog", media, &Pictures::default()));
            assert_eq!(MediaType::of(&bytes), Some(media));
            let decoded = image::load_from_memory(&bytes).expect("decodes");
            assert_eq!((decoded.width(), decoded.height()), (1376, 768));
        }
    }

    #[test]
    fn tiny_pictures_differ_too() {
        let tiny = Pictures { tiny: true, ..Pictures::default() };
        let bytes = draw("a cat", MediaType::Png, &tiny);
        assert!(bytes.len() < 2000, "{}", bytes.len());
        assert_ne!(bytes, draw("a dog", MediaType::Png, &tiny));
    }

    #[test]
    fn padding_reaches_the_wanted_size_and_the_picture_still_decodes() {
        let pictures = Pictures { bytes: Some(2_000_000), ..Pictures::default() };
        for media in [MediaType::Png, MediaType::Jpeg] {
            let bytes = draw("a cat", media, &pictures);
            assert!((1_999_000..2_001_000).contains(&bytes.len()), "{media}: {}", bytes.len());
            assert!(image::load_from_memory(&bytes).is_ok());
        }
    }

    #[test]
    fn words_are_wrapped_and_what_does_not_fit_ends_in_dots() {
        assert_eq!(wrap("a cat on a mat", 6, 9), ["a cat", "on a", "mat"]);
        assert_eq!(wrap("abcdefgh", 3, 9), ["abc", "def", "gh"]);
        assert_eq!(wrap("one two three four", 8, 2), ["one two", "three..."]);
    }
}
