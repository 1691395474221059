//! Where the objects of a body begin and end: server-sent events, a JSON array, single
//! objects, or all of them mixed, as has been seen.
//!
//! Nothing is asked of the content type. A line is an event's if it begins with `data:`, JSON
//! if it begins with a bracket, and noise (comments, `event:`, `id:`, `retry:`) otherwise.

use memchr::memchr2;

use super::scan::Scanner;
use super::{DecodeError, Form, Sink};

const DATA_FIELD: &[u8; 5] = b"data:";

/// Feeds a body's objects to the scanner.
#[derive(Debug)]
pub(super) struct Framer {
    state: State,
    form: Option<Form>,
    /// Brackets of a top-level array that are still open.
    arrays_open: usize,
    /// The last byte was a CR; a LF after it belongs to the same line end.
    after_cr: bool,
    /// Nothing but blanks in this line so far.
    blank_line: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In front of the first byte that says something.
    Start,
    /// At the beginning of a line, so many letters of `data:` seen.
    Line(usize),
    /// In a line, or the rest of one, that says nothing.
    Noise,
    /// Directly after `data:`, where one space may stand.
    PayloadStart,
    /// In the payload of a `data:` line.
    Payload,
    /// In an object without `data:`, which may have many lines.
    Bare,
    /// In a body that is no answer at all; it is read to its end and dropped.
    Foreign,
}

impl Framer {
    pub(super) fn new() -> Self {
        Self { state: State::Start, form: None, arrays_open: 0, after_cr: false, blank_line: true }
    }

    /// What the body is, by its first byte.
    pub(super) fn form(&self) -> Option<Form> {
        self.form
    }

    /// A top-level array was not closed.
    pub(super) fn is_open(&self) -> bool {
        self.form == Some(Form::Array) && self.arrays_open > 0
    }

    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        scanner: &mut Scanner,
        sink: &mut impl Sink,
    ) -> Result<(), DecodeError> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.state {
                State::Start => self.start(rest[0]),
                State::Line(seen) => self.line(seen, rest[0], scanner)?,
                State::Noise => self.noise(rest),
                State::PayloadStart => self.payload_start(rest[0]),
                State::Payload => self.payload(rest, scanner, sink)?,
                State::Bare => self.bare(rest, scanner, sink)?,
                State::Foreign => rest.len(),
            };
        }
        Ok(())
    }

    fn start(&mut self, byte: u8) -> usize {
        // Blanks and the bytes of a byte-order mark.
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf) {
            return 1;
        }
        let form = match byte {
            b'{' => Form::Object,
            b'[' => Form::Array,
            b'<' => Form::Html,
            _ => Form::Lines,
        };
        self.form = Some(form);
        self.state = if form == Form::Html { State::Foreign } else { State::Line(0) };
        0
    }

    fn line(&mut self, seen: usize, byte: u8, scanner: &Scanner) -> Result<usize, DecodeError> {
        let after_cr = std::mem::take(&mut self.after_cr);
        if byte == b'\n' && after_cr {
            return Ok(1);
        }
        if matches!(byte, b'\n' | b'\r') {
            // A blank line ends an event; one that ends in the middle of its object was cut.
            if self.blank_line && seen == 0 && !scanner.is_idle() {
                return Err(DecodeError::Truncated { in_image: scanner.is_in_image() });
            }
            self.end_line(byte);
            return Ok(1);
        }
        if seen == 0 && matches!(byte, b' ' | b'\t') {
            return Ok(1);
        }
        self.blank_line = false;
        if seen == 0 && !scanner.is_idle() && matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b',') {
            // Only the first line of a pretty-printed object had its `data:`.
            self.state = State::Bare;
            return Ok(0);
        }
        match byte {
            b'{' if seen == 0 => {
                self.state = State::Bare;
                return Ok(0);
            }
            b'[' if seen == 0 => self.arrays_open += 1,
            b']' if seen == 0 => self.arrays_open = self.arrays_open.saturating_sub(1),
            b',' if seen == 0 => {}
            _ if byte == DATA_FIELD[seen] => {
                let complete = seen + 1 == DATA_FIELD.len();
                self.state = if complete { State::PayloadStart } else { State::Line(seen + 1) };
            }
            _ => self.state = State::Noise,
        }
        Ok(1)
    }

    fn noise(&mut self, rest: &[u8]) -> usize {
        let Some(end) = memchr2(b'\n', b'\r', rest) else { return rest.len() };
        self.end_line(rest[end]);
        end + 1
    }

    /// The line end between two lines of one object is dropped, not kept as the standard has it:
    /// between tokens it says nothing, and within a string it would make the JSON invalid.
    fn payload_start(&mut self, byte: u8) -> usize {
        self.state = State::Payload;
        usize::from(byte == b' ')
    }

    fn payload(
        &mut self,
        rest: &[u8],
        scanner: &mut Scanner,
        sink: &mut impl Sink,
    ) -> Result<usize, DecodeError> {
        let letters = scanner.feed_image(rest, sink)?;
        let rest = &rest[letters..];
        let end = memchr2(b'\n', b'\r', rest);
        let mut payload = &rest[..end.unwrap_or(rest.len())];
        while let Some(&byte) = payload.first() {
            if !scanner.is_idle() || byte == b'{' {
                payload = &payload[scanner.feed(payload, sink)?..];
            } else if matches!(byte, b' ' | b'\t' | b'[' | b']' | b',') {
                payload = &payload[1..];
            } else {
                // `[DONE]` and the like.
                self.state = State::Noise;
                break;
            }
        }
        let Some(end) = end else { return Ok(letters + rest.len()) };
        self.end_line(rest[end]);
        Ok(letters + end + 1)
    }

    fn bare(
        &mut self,
        rest: &[u8],
        scanner: &mut Scanner,
        sink: &mut impl Sink,
    ) -> Result<usize, DecodeError> {
        let letters = scanner.feed_image(rest, sink)?;
        let read = letters + scanner.feed(&rest[letters..], sink)?;
        if scanner.is_idle() {
            self.state = State::Line(0);
            self.blank_line = false;
        }
        Ok(read)
    }

    fn end_line(&mut self, byte: u8) {
        self.after_cr = byte == b'\r';
        self.state = State::Line(0);
        self.blank_line = true;
    }
}
