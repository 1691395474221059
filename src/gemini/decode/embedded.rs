//! One image string on its way to the sink: its head, its number, its caps; and the escapes
//! that JSON may put between its letters.

use super::base64::{BadBase64, Base64};
use super::{DecodeError, Limits, Sink};

/// How an image string may begin.
const DATA_SCHEME: &[u8; 5] = b"data:";
/// Longest `data:image/…;base64,` in front of an image.
const PREFIX_BYTES_MAX: usize = 256;
/// How far back a comma looks for the beginning of a `data:` URL.
const DATA_URL_HEAD_BYTES_MAX: usize = 96;

/// The image strings of one answer, one after the other.
#[derive(Debug)]
pub(super) struct Embedded {
    limits: Limits,
    head: Head,
    base64: Base64,
    /// Images that gave at least one byte: the next one's number.
    images: usize,
    /// The one at hand has given bytes.
    begun: bool,
    letters: u64,
    /// It is no base64: the rest of it is passed over.
    given_up: bool,
}

/// What has been seen of the string's beginning.
#[derive(Debug, Clone, Copy)]
enum Head {
    /// So many letters of `data:`.
    Undecided(usize),
    /// In a `data:` prefix, so long by now.
    Prefix(usize),
    Body,
}

impl Embedded {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            head: Head::Body,
            base64: Base64::new(),
            images: 0,
            begun: false,
            letters: 0,
            given_up: false,
        }
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.base64.buffered_bytes()
    }

    /// A string begins that is base64, perhaps with a `data:` prefix.
    pub(super) fn begin_string(&mut self) -> Result<(), DecodeError> {
        self.begin(Head::Undecided(0))
    }

    /// The base64 itself begins.
    pub(super) fn begin_body(&mut self) -> Result<(), DecodeError> {
        self.begin(Head::Body)
    }

    fn begin(&mut self, head: Head) -> Result<(), DecodeError> {
        if self.images >= self.limits.images_max {
            return Err(DecodeError::too_large("number of images", self.limits.images_max));
        }
        (self.head, self.begun, self.letters, self.given_up) = (head, false, 0, false);
        self.base64.reset();
        Ok(())
    }

    /// What has come is no base64, and where its letters end is still to be seen.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Letters of the string, unescaped. The outer error ends the answer, the inner one only
    /// this image.
    pub(super) fn push(
        &mut self,
        letters: &[u8],
        sink: &mut impl Sink,
    ) -> Result<Result<(), BadBase64>, DecodeError> {
        if self.given_up {
            return Ok(Ok(()));
        }
        self.count(letters.len())?;
        Ok(self.after_head(letters, sink))
    }

    /// Letters from the front of `bytes`, which may reach beyond the image; says how many were read.
    /// None where anything but the bare body is at hand.
    pub(super) fn push_front(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, DecodeError> {
        if self.given_up || !matches!(self.head, Head::Body) {
            return Ok(0);
        }
        let Self { base64, begun, images, .. } = self;
        let read = base64.push_front(bytes, &mut |bytes| hand_over(bytes, begun, images, sink));
        self.count(read).map(|()| read)
    }

    fn count(&mut self, letters: usize) -> Result<(), DecodeError> {
        self.letters += letters as u64;
        if self.letters / 4 * 3 > self.limits.image_bytes_max {
            return Err(DecodeError::TooLarge { what: "size of an image", max: self.limits.image_bytes_max });
        }
        Ok(())
    }

    fn after_head(&mut self, letters: &[u8], sink: &mut impl Sink) -> Result<(), BadBase64> {
        let mut rest = letters;
        while let Some((&letter, tail)) = rest.split_first() {
            match self.head {
                Head::Body => return self.decode(rest, sink),
                Head::Undecided(seen) if letter == DATA_SCHEME[seen] => {
                    let is_prefix = seen + 1 == DATA_SCHEME.len();
                    self.head = if is_prefix { Head::Prefix(0) } else { Head::Undecided(seen + 1) };
                    rest = tail;
                }
                // `data` is good base64 too; only the colon tells.
                Head::Undecided(seen) => {
                    self.head = Head::Body;
                    self.decode(&DATA_SCHEME[..seen], sink)?;
                }
                Head::Prefix(length) => {
                    if length >= PREFIX_BYTES_MAX {
                        return Err(BadBase64);
                    }
                    self.head = if letter == b',' { Head::Body } else { Head::Prefix(length + 1) };
                    rest = tail;
                }
            }
        }
        Ok(())
    }

    fn decode(&mut self, letters: &[u8], sink: &mut impl Sink) -> Result<(), BadBase64> {
        let Self { base64, begun, images, .. } = self;
        base64.push(letters, &mut |bytes| hand_over(bytes, begun, images, sink))
    }

    /// The string is over. Gives what stands in its place for serde; `None` for an empty one.
    pub(super) fn end(&mut self, sink: &mut impl Sink) -> Result<Option<String>, BadBase64> {
        match self.head {
            _ if self.given_up => return Err(BadBase64),
            Head::Undecided(seen) => {
                self.head = Head::Body;
                self.decode(&DATA_SCHEME[..seen], sink)?;
            }
            Head::Prefix(_) => return Err(BadBase64),
            Head::Body => {}
        }
        let Self { base64, begun, images, .. } = self;
        base64.finish(&mut |bytes| hand_over(bytes, begun, images, sink))?;
        Ok(self.begun.then(|| super::placeholder(self.images - 1)))
    }
}

/// The first bytes of an image give it its number.
fn hand_over(bytes: &[u8], begun: &mut bool, images: &mut usize, sink: &mut impl Sink) {
    if !bytes.is_empty() {
        *images += usize::from(!*begun);
        *begun = true;
        sink.image(*images - 1, bytes);
    }
}

/// A JSON escape inside an image string, perhaps split over two reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Escape {
    raw: [u8; 6],
    length: usize,
}

/// Stands for a character that can be no letter of base64.
const NO_LETTER: u8 = 0;

impl Escape {
    /// After a backslash.
    pub(super) fn open() -> Self {
        Self { raw: *b"\\\0\0\0\0\0", length: 1 }
    }

    pub(super) fn is_open(self) -> bool {
        self.length > 0
    }

    /// The escape as it was written.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw[..self.length]
    }

    /// Takes the next byte; gives the letter once the escape is complete.
    pub(super) fn push(&mut self, byte: u8) -> Option<u8> {
        self.raw[self.length] = byte;
        self.length += 1;
        match (self.raw[1], self.length) {
            (b'u', 6) => Some(self.code_point()),
            (b'u', _) => None,
            (b'n' | b'r' | b't', _) => Some(b' '),
            (b'/', _) => Some(b'/'),
            _ => Some(NO_LETTER),
        }
    }

    fn code_point(self) -> u8 {
        std::str::from_utf8(&self.raw[2..])
            .ok()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
            .filter(u8::is_ascii)
            .unwrap_or(NO_LETTER)
    }
}

/// Whether a text that ends with this comma has come to the base64 of a `data:image/…` URL.
pub(super) fn opens_data_url(text: &[u8]) -> bool {
    const MARK: &[u8] = b";base64,";
    let ends_with_mark =
        text.len() >= MARK.len() && text[text.len() - MARK.len()..].eq_ignore_ascii_case(MARK);
    if !ends_with_mark {
        return false;
    }
    let tail = text[text.len().saturating_sub(DATA_URL_HEAD_BYTES_MAX)..].to_ascii_lowercase();
    // The slash may be escaped.
    let Some(start) = memchr::memmem::rfind(&tail, b"data:image") else { return false };
    let legal = |byte: &u8| byte.is_ascii_alphanumeric() || br"/\.+-;=_:,".contains(byte);
    tail[start..].iter().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_url_is_known_by_its_head() {
        for text in [
            "data:image/png;base64,",
            "![x](data:image/png;base64,",
            r"DATA:image\/jpeg;charset=utf-8;BASE64,",
        ] {
            assert!(opens_data_url(text.as_bytes()), "{text}");
        }
        for text in
            ["data:text/plain;base64,", ";base64,", "data:image/png,", "data:image is nice;base64,", ","]
        {
            assert!(!opens_data_url(text.as_bytes()), "{text}");
        }
    }
}
