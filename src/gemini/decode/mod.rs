//! Bytes of an answer become images and events, without I/O of its own and in flat memory.
//!
//! Three layers, each of which goes over every byte once: `frame` finds the objects in the
//! body, `scan` walks through an object and takes the images out of it, `base64` (steered by
//! `embedded`) decodes them on the way to the [`Sink`]. What is left of an object is small and
//! becomes a [`AnswerChunk`] by serde.
//!
//! The outcome does not depend on where the body was split into reads.

mod base64;
#[cfg(test)]
mod bound_tests;
mod doubled;
mod embedded;
mod frame;
mod scan;
#[cfg(test)]
mod tests;

use crate::gemini::wire::AnswerChunk;

use self::frame::Framer;
use self::scan::Scanner;

/// How much of a body that is no answer is kept for the message.
const HEAD_BYTES_MAX: usize = 1024;

/// What an answer may be at most. A server that goes beyond it is broken or hostile.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the body.
    pub response_bytes_max: u64,
    /// Decoded bytes of one image.
    pub image_bytes_max: u64,
    /// Images, thought images included.
    pub images_max: usize,
    /// Events, which are lines of a stream or elements of an array.
    pub events_max: usize,
    /// Bytes of one event without its images and signatures.
    pub event_text_bytes_max: usize,
    /// Objects in one event; parts are objects.
    pub event_objects_max: usize,
    /// Objects and arrays inside one another.
    pub depth_max: usize,
}

impl Default for Limits {
    /// Five times what has been seen (one image of 40 MB as base64), and more.
    fn default() -> Self {
        Self {
            response_bytes_max: 512 << 20,
            image_bytes_max: 128 << 20,
            images_max: 64,
            events_max: 100_000,
            event_text_bytes_max: 1 << 20,
            event_objects_max: 10_000,
            depth_max: 64,
        }
    }
}

/// Takes what comes out of an answer.
pub trait Sink {
    /// The next bytes of image `number`. Images come one after the other, numbered from 0;
    /// an empty one has no number. Bytes of an image whose event never completes come too.
    fn image(&mut self, number: usize, bytes: &[u8]);

    /// A complete event. Where an image was stands its [`placeholder`].
    fn chunk(&mut self, chunk: AnswerChunk);
}

/// What an event has in place of the base64 of image `number`: `#0`, `#1` …
#[must_use]
pub fn placeholder(number: usize) -> String {
    format!("#{number}")
}

/// The reverse of [`placeholder`].
#[must_use]
pub fn placeholder_number(text: &str) -> Option<usize> {
    let digits = text.strip_prefix('#')?;
    (digits.len() <= 4 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// What the first byte of a body shows it to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Server-sent events, or noise.
    Lines,
    /// A JSON array.
    Array,
    /// One JSON object.
    Object,
    /// A page for people.
    Html,
}

/// Why an answer cannot be read, or not to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body ended too early.
    #[error("the answer ended in the middle of {}", if *in_image { "an image" } else { "an event" })]
    Truncated {
        /// Inside the base64 of an image.
        in_image: bool,
    },
    /// An image's text is no base64.
    #[error("an image of the answer is not valid base64")]
    BadBase64,
    /// An event's text is no JSON, or not the JSON that was expected.
    #[error("an event of the answer is not valid JSON: {0}")]
    BadJson(String),
    /// Neither JSON nor events.
    #[error("the answer is {}", if *html { "an HTML page" } else { "neither JSON nor events" })]
    Foreign {
        /// A page for people.
        html: bool,
        /// How it begins.
        head: String,
    },
    /// Nothing at all, or only comments.
    #[error("the answer is empty")]
    Empty,
    /// Beyond one of the [`Limits`].
    #[error("the answer goes beyond a limit: {what}, at most {max}")]
    TooLarge {
        /// Which limit.
        what: &'static str,
        /// The limit.
        max: u64,
    },
}

impl DecodeError {
    fn too_large(what: &'static str, max: usize) -> Self {
        Self::TooLarge { what, max: max as u64 }
    }
}

/// Decodes one body.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    framer: Framer,
    scanner: Scanner,
    received_bytes: u64,
    head: Vec<u8>,
    fatal: Option<DecodeError>,
}

impl Decoder {
    /// A decoder for one body.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            framer: Framer::new(),
            scanner: Scanner::new(limits),
            received_bytes: 0,
            head: Vec::new(),
            fatal: None,
        }
    }

    /// Takes the next bytes. An error is final: nothing more will come out, and the caller
    /// may hang up. Bad base64 and a bad event are no such errors: what follows may tell what
    /// the answer cost, so they are reported by [`Decoder::finish`].
    pub fn push(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), DecodeError> {
        if let Some(error) = &self.fatal {
            return Err(error.clone());
        }
        let outcome = self.push_checked(bytes, sink);
        self.fatal = outcome.clone().err();
        outcome
    }

    fn push_checked(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), DecodeError> {
        self.received_bytes += bytes.len() as u64;
        if self.received_bytes > self.limits.response_bytes_max {
            return Err(DecodeError::TooLarge {
                what: "size of the body",
                max: self.limits.response_bytes_max,
            });
        }
        let wanted = HEAD_BYTES_MAX - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(wanted)]);
        self.framer.feed(bytes, &mut self.scanner, sink)
    }

    /// The body is over: whether it could be read, and to its end. Events come out as soon as
    /// they are complete, so nothing is left to come out here.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if let Some(error) = self.fatal.as_ref().or_else(|| self.scanner.deferred()) {
            return Err(error.clone());
        }
        if !self.scanner.is_idle() || self.framer.is_open() {
            return Err(DecodeError::Truncated { in_image: self.scanner.is_in_image() });
        }
        if self.scanner.events() > 0 {
            return Ok(());
        }
        let head = String::from_utf8_lossy(&self.head);
        let head = head.trim_start_matches('\u{feff}').trim();
        // Comments, fields and payloads like `[DONE]`: a stream in which nothing came.
        let is_stream = [":", "data:", "event:", "id:", "retry:"].iter().any(|field| head.starts_with(field));
        if head.is_empty() || is_stream || self.form() == Some(Form::Array) {
            return Err(DecodeError::Empty);
        }
        Err(DecodeError::Foreign { html: self.form() == Some(Form::Html), head: head.to_owned() })
    }

    /// What the body is; `None` before its first byte that says something.
    #[must_use]
    pub fn form(&self) -> Option<Form> {
        self.framer.form()
    }

    /// Bytes that have arrived.
    #[must_use]
    pub const fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Bytes held in memory; they grow neither with an image nor with a signature.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.head.capacity() + self.scanner.buffered_bytes()
    }
}
