//! Lines of a stream, one at a time, with a limit on each: what JSONL and CSV are read by.

use std::io::{self, BufRead, Read as _};

use super::diagnostic::Location;
use super::text::{self, NotText};

/// Longest line of a JSONL file and longest row of a CSV, in bytes. A prompt of 1 MiB fits many
/// times over; a file without line breaks or with a quote that is never closed does not fill
/// the memory.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;

/// Why a stream cannot be read on.
#[derive(Debug)]
pub(super) enum LineError {
    Io(io::Error),
    NotText(NotText),
}

/// The lines of `input`.
pub(super) struct Lines<'a> {
    input: &'a mut dyn BufRead,
    bytes: Vec<u8>,
    /// Lines read so far.
    number: u32,
}

impl<'a> Lines<'a> {
    pub(super) fn new(input: &'a mut dyn BufRead) -> Self {
        Self { input, bytes: Vec::new(), number: 0 }
    }

    /// The number of the line that was read last, from 1.
    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Appends the next line with its line break to `text`; `false` at the end.
    pub(super) fn read_onto(&mut self, text: &mut String) -> Result<bool, LineError> {
        self.bytes.clear();
        let room = LINE_BYTES_MAX.saturating_sub(text.len());
        let mut limited = (&mut *self.input).take(room as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.bytes).map_err(LineError::Io)?;
        if read == 0 {
            return Ok(false);
        }
        self.number = self.number.saturating_add(1);
        let at = Location { line: self.number, column: 1 };
        let mark = match self.number {
            1 => text::check_start(&self.bytes).map_err(LineError::NotText)?,
            _ => 0,
        };
        let decoded = text::decode(self.bytes.get(mark..).unwrap_or_default(), at);
        if read > room {
            let message = format!(
                "a line or a CSV row is longer than {} MiB here; is a quote never closed, or a line break missing?",
                LINE_BYTES_MAX >> 20
            );
            return Err(LineError::NotText(NotText { at, message }));
        }
        text.push_str(decoded.map_err(LineError::NotText)?);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let mut endless = io::BufReader::new(io::repeat(b'x'));
        let mut lines = Lines::new(&mut endless);
        let error = lines.read_onto(&mut String::new()).expect_err("too long");
        assert!(matches!(error, LineError::NotText(wrong) if wrong.message.contains("16 MiB")));
        assert!(lines.bytes.len() <= LINE_BYTES_MAX + 1);
    }

    #[test]
    fn a_byte_order_mark_and_a_missing_last_break_are_fine() {
        let mut input: &[u8] = b"\xef\xbb\xbfa\r\nb";
        let mut lines = Lines::new(&mut input);
        let mut text = String::new();
        while lines.read_onto(&mut text).expect("reads") {}
        assert_eq!((text.as_str(), lines.number()), ("a\r\nb", 2));
    }
}
