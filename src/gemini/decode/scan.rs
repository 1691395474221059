//! The JSON of an event, byte by byte and each byte once. Images go to the sink as they pass,
//! signatures go nowhere, and only the small rest is collected for serde.
//!
//! What this does *not* do: check the JSON's grammar. It keeps count of brackets and strings;
//! serde judges the collected text.

use std::mem;

use memchr::{memchr2, memchr3};

use super::doubled::read_chunk;
use super::embedded::{Embedded, Escape, opens_data_url};
use super::{DecodeError, Limits, Sink};

/// Capacity that the text buffer keeps from one event to the next.
const TEXT_BYTES_KEPT: usize = 16 << 10;

/// Reads one top-level object after the other.
#[derive(Debug)]
pub(super) struct Scanner {
    limits: Limits,
    stack: Vec<Frame>,
    objects: usize,
    events: usize,
    /// The event without its images.
    text: Vec<u8>,
    /// Where in `text` the string at hand begins.
    string_start: usize,
    /// The key whose value comes next.
    key: Key,
    expects_key: bool,
    mode: Mode,
    image: Embedded,
    /// The first fault that did not keep the rest from being read.
    deferred: Option<DecodeError>,
    #[cfg(test)]
    pub(super) scanned_bytes: usize,
}

/// An object or array that is open.
#[derive(Debug, Clone, Copy)]
struct Frame {
    is_object: bool,
    /// The key under which it stands.
    under: Key,
}

/// The keys that make a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    InlineData,
    Data,
    Signature,
    Text,
    Other,
}

impl Key {
    fn of(name: &[u8]) -> Self {
        match name {
            b"inlineData" | b"inline_data" => Self::InlineData,
            b"data" => Self::Data,
            b"thoughtSignature" | b"thought_signature" => Self::Signature,
            b"text" | b"fileUri" | b"file_uri" => Self::Text,
            _ => Self::Other,
        }
    }
}

/// Where the scanner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Between strings.
    Structure,
    /// In a string that is collected.
    Collected { kind: Collected, escaped: bool },
    /// In a string that nobody needs.
    Skipped { escaped: bool },
    /// In the string of an image.
    Image(Escape),
    /// In the base64 of a `data:` URL inside a text.
    TextImage(Escape),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Collected {
    Key,
    Plain,
    /// May have a `data:` URL in it.
    Text,
}

impl Scanner {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            stack: Vec::new(),
            objects: 0,
            events: 0,
            text: Vec::new(),
            string_start: 0,
            key: Key::Other,
            expects_key: false,
            mode: Mode::Structure,
            image: Embedded::new(limits),
            deferred: None,
            #[cfg(test)]
            scanned_bytes: 0,
        }
    }

    /// Between two objects.
    pub(super) fn is_idle(&self) -> bool {
        self.stack.is_empty()
    }

    /// In the middle of an image.
    pub(super) fn is_in_image(&self) -> bool {
        matches!(self.mode, Mode::Image(_) | Mode::TextImage(_))
    }

    /// Objects that were complete.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// The first fault that did not keep the rest from being read.
    pub(super) fn deferred(&self) -> Option<&DecodeError> {
        self.deferred.as_ref()
    }

    /// Bytes held in memory.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.text.capacity() + self.image.buffered_bytes() + self.stack.capacity() * size_of::<Frame>()
    }

    /// Reads letters from the front of `bytes` if an image is at hand, and says how many. Neither the
    /// end of the string nor that of the line is looked for: what is no letter stops it. So the bulk of
    /// an answer is gone over once, by the decoder of base64.
    pub(super) fn feed_image(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, DecodeError> {
        let (Mode::Image(escape) | Mode::TextImage(escape)) = self.mode else { return Ok(0) };
        if escape.is_open() {
            return Ok(0);
        }
        let read = self.image.push_front(bytes, sink)?;
        #[cfg(test)]
        {
            self.scanned_bytes += read;
        }
        Ok(read)
    }

    /// Reads until the object at hand is complete or `bytes` are used up, and says how many
    /// were read. The first byte of an object must be its `{`.
    pub(super) fn feed(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, DecodeError> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let read = match self.mode {
                Mode::Structure => self.structure(rest[0], sink)?,
                Mode::Collected { kind, escaped } => self.collected(kind, escaped, rest)?,
                Mode::Skipped { escaped } => self.skipped(escaped, rest),
                Mode::Image(escape) => self.image(escape, rest, sink)?,
                Mode::TextImage(escape) => self.text_image(escape, rest, sink)?,
            };
            at += read;
            #[cfg(test)]
            {
                self.scanned_bytes += read;
            }
            if self.stack.is_empty() {
                break;
            }
        }
        Ok(at)
    }

    fn structure(&mut self, byte: u8, sink: &mut impl Sink) -> Result<usize, DecodeError> {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => return Ok(1),
            b'"' => {
                self.collect(b"\"")?;
                self.begin_string()?;
                return Ok(1);
            }
            b'{' | b'[' => self.open(byte == b'{')?,
            b'}' | b']' => {
                self.collect(&[byte])?;
                return self.close(byte == b'}', sink).map(|()| 1);
            }
            b',' => self.expects_key = self.stack.last().is_some_and(|frame| frame.is_object),
            b':' => self.expects_key = false,
            _ => {}
        }
        self.collect(&[byte]).map(|()| 1)
    }

    fn open(&mut self, is_object: bool) -> Result<(), DecodeError> {
        if self.stack.len() >= self.limits.depth_max {
            return Err(DecodeError::too_large("nesting of an event", self.limits.depth_max));
        }
        self.objects += usize::from(is_object);
        if self.objects > self.limits.event_objects_max {
            return Err(DecodeError::too_large(
                "number of objects in an event",
                self.limits.event_objects_max,
            ));
        }
        let under = mem::replace(&mut self.key, Key::Other);
        self.stack.push(Frame { is_object, under });
        self.expects_key = is_object;
        Ok(())
    }

    fn close(&mut self, is_object: bool, sink: &mut impl Sink) -> Result<(), DecodeError> {
        if self.stack.pop().is_none_or(|frame| frame.is_object != is_object) {
            return Err(DecodeError::BadJson("brackets that do not match".to_owned()));
        }
        self.expects_key = false;
        if self.stack.is_empty() { self.complete(sink) } else { Ok(()) }
    }

    fn complete(&mut self, sink: &mut impl Sink) -> Result<(), DecodeError> {
        if self.events >= self.limits.events_max {
            return Err(DecodeError::too_large("number of events", self.limits.events_max));
        }
        self.events += 1;
        // Broken UTF-8 in a caption must not cost the image that stands beside it.
        match read_chunk(&String::from_utf8_lossy(&self.text)) {
            Ok(chunk) => sink.chunk(chunk),
            // The brackets matched, so the next event can still be read.
            Err(error) => self.defer(DecodeError::BadJson(error.to_string())),
        }
        self.objects = 0;
        self.text.clear();
        self.text.shrink_to(TEXT_BYTES_KEPT);
        Ok(())
    }

    fn begin_string(&mut self) -> Result<(), DecodeError> {
        self.string_start = self.text.len();
        let collected = |kind| Mode::Collected { kind, escaped: false };
        let parent = self.stack.last();
        self.mode = if self.expects_key {
            collected(Collected::Key)
        } else if parent.is_none_or(|frame| !frame.is_object) {
            collected(Collected::Plain)
        } else {
            match self.key {
                Key::Data if parent.is_some_and(|frame| frame.under == Key::InlineData) => {
                    self.image.begin_string()?;
                    Mode::Image(Escape::default())
                }
                Key::Signature => Mode::Skipped { escaped: false },
                Key::Text => collected(Collected::Text),
                Key::InlineData | Key::Data | Key::Other => collected(Collected::Plain),
            }
        };
        Ok(())
    }

    fn collected(&mut self, kind: Collected, escaped: bool, rest: &[u8]) -> Result<usize, DecodeError> {
        let now = |escaped| Mode::Collected { kind, escaped };
        if escaped {
            self.mode = now(false);
            return self.collect(&rest[..1]).map(|()| 1);
        }
        let found = match kind {
            Collected::Text => memchr3(b'"', b'\\', b',', rest),
            Collected::Key | Collected::Plain => memchr2(b'"', b'\\', rest),
        };
        let Some(end) = found else {
            return self.collect(rest).map(|()| rest.len());
        };
        self.collect(&rest[..=end])?;
        match rest[end] {
            b'"' => {
                if kind == Collected::Key {
                    self.key = Key::of(&self.text[self.string_start..self.text.len() - 1]);
                }
                self.mode = Mode::Structure;
            }
            b'\\' => self.mode = now(true),
            _ if opens_data_url(&self.text[self.string_start..]) => {
                self.image.begin_body()?;
                self.mode = Mode::TextImage(Escape::default());
            }
            _ => {}
        }
        Ok(end + 1)
    }

    fn skipped(&mut self, escaped: bool, rest: &[u8]) -> usize {
        if escaped {
            self.mode = Mode::Skipped { escaped: false };
            return 1;
        }
        let Some(end) = memchr2(b'"', b'\\', rest) else { return rest.len() };
        if rest[end] == b'"' {
            self.text.push(b'"');
            self.mode = Mode::Structure;
        } else {
            self.mode = Mode::Skipped { escaped: true };
        }
        end + 1
    }

    fn image(&mut self, mut escape: Escape, rest: &[u8], sink: &mut impl Sink) -> Result<usize, DecodeError> {
        if escape.is_open() {
            let fault = match escape.push(rest[0]) {
                None => {
                    self.mode = Mode::Image(escape);
                    return Ok(1);
                }
                Some(letter) => self.image.push(&[letter], sink)?,
            };
            self.mode = Mode::Image(Escape::default());
            return Ok(self.after_image_letters(fault.is_err(), 1));
        }
        let end = memchr2(b'"', b'\\', rest);
        let letters = &rest[..end.unwrap_or(rest.len())];
        if self.image.push(letters, sink)?.is_err() {
            return Ok(self.after_image_letters(true, letters.len()));
        }
        let Some(end) = end else { return Ok(rest.len()) };
        if rest[end] == b'\\' {
            self.mode = Mode::Image(Escape::open());
        } else {
            match self.image.end(sink) {
                Ok(placeholder) => self.collect(placeholder.unwrap_or_default().as_bytes())?,
                Err(_) => self.defer(DecodeError::BadBase64),
            }
            self.collect(b"\"")?;
            self.mode = Mode::Structure;
        }
        Ok(end + 1)
    }

    /// After bad base64 the rest of the string is skipped, so that the usage that comes
    /// behind it is still read.
    fn after_image_letters(&mut self, bad: bool, read: usize) -> usize {
        if bad {
            self.defer(DecodeError::BadBase64);
            self.mode = Mode::Skipped { escaped: false };
        }
        read
    }

    /// In prose a `data:` URL ends where its base64 ends. Bad base64 there is no fault of the
    /// answer, merely no image.
    fn text_image(
        &mut self,
        mut escape: Escape,
        rest: &[u8],
        sink: &mut impl Sink,
    ) -> Result<usize, DecodeError> {
        if escape.is_open() {
            let letter = escape.push(rest[0]);
            self.mode = Mode::TextImage(if letter.is_some() { Escape::default() } else { escape });
            match letter {
                Some(letter) if super::base64::is_base64(letter) => self.text_letters(&[letter], sink)?,
                Some(_) => {
                    self.end_text_image(sink)?;
                    self.collect(escape.raw())?;
                }
                None => {}
            }
            return Ok(1);
        }
        let end = rest.iter().position(|&byte| !super::base64::is_base64(byte));
        self.text_letters(&rest[..end.unwrap_or(rest.len())], sink)?;
        let Some(end) = end else { return Ok(rest.len()) };
        if rest[end] == b'\\' {
            self.mode = Mode::TextImage(Escape::open());
            return Ok(end + 1);
        }
        self.end_text_image(sink)?;
        Ok(end)
    }

    /// What is no base64 is passed over to where its letters end, however they were split.
    fn text_letters(&mut self, letters: &[u8], sink: &mut impl Sink) -> Result<(), DecodeError> {
        if self.image.push(letters, sink)?.is_err() {
            self.image.give_up();
        }
        Ok(())
    }

    fn end_text_image(&mut self, sink: &mut impl Sink) -> Result<(), DecodeError> {
        if let Ok(Some(placeholder)) = self.image.end(sink) {
            self.collect(placeholder.as_bytes())?;
        }
        self.mode = Mode::Collected { kind: Collected::Text, escaped: false };
        Ok(())
    }

    fn collect(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        if self.text.len() + bytes.len() > self.limits.event_text_bytes_max {
            return Err(DecodeError::too_large("text of an event", self.limits.event_text_bytes_max));
        }
        self.text.extend_from_slice(bytes);
        Ok(())
    }

    fn defer(&mut self, error: DecodeError) {
        self.deferred.get_or_insert(error);
    }
}
