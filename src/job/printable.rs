//! Foreign text on its way to a terminal or a log.

use std::fmt;

/// Shows a text from outside (a prompt, a server's message, a file name) on one line, with
/// everything that could steer a terminal or turn the reading direction written as an escape.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(&'a str);

/// See [`Printable`].
#[must_use]
pub const fn printable(text: &str) -> Printable<'_> {
    Printable(text)
}

/// Characters that must not reach a terminal as they are: controls (C0, DEL, C1), line and
/// paragraph separators, direction marks and overrides, and the byte-order mark.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}' | '\u{feff}'
        )
}

/// JSON text that a terminal cannot be steered by: what [`Printable`] would write as an escape
/// becomes a JSON escape. Line breaks between the values stay.
#[must_use]
pub fn json_safe(json: &str) -> String {
    use fmt::Write as _;
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unsafe(c) && c != '\n' {
            // All of them lie in the first plane, so four digits do. Writing to a text cannot fail.
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    safe
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for c in self.0.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if is_unsafe(c) => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_meaning_and_loses_its_teeth() {
        let json = serde_json::to_string("a\u{9b}31m\u{202e}\u{7f}b").expect("json");
        let safe = json_safe(&json);
        assert_eq!(safe, r#""a\u009b31m\u202e\u007fb""#);
        let back: String = serde_json::from_str(&safe).expect("json");
        assert_eq!(back, "a\u{9b}31m\u{202e}\u{7f}b");
    }

    #[test]
    fn escape_sequences_and_direction_marks_are_shown_not_obeyed() {
        assert_eq!(printable("a\u{1b}[31m\nb\u{202e}c ü").to_string(), "a\\u{1b}[31m\\nb\\u{202e}c ü");
    }
}
