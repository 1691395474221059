//! Values as cells of a CSV file.

use std::time::Duration;

use crate::job::{Micros, Timestamp, printable};

/// Text from outside. A spreadsheet would run a cell that begins like a formula; a leading `'`
/// makes it text again.
pub(super) fn text(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

/// Text of a server: on one line, with no control character in it as it is.
pub(super) fn foreign(words: &str) -> String {
    text(&printable(words).to_string())
}

/// As [`foreign`]; nothing for what was not said.
pub(super) fn optional_foreign(words: Option<&str>) -> String {
    words.map_or_else(String::new, foreign)
}

/// As [`text`]; nothing for what is not known.
pub(super) fn optional(value: Option<&str>) -> String {
    value.map_or_else(String::new, text)
}

/// A figure; nothing for one that is not known.
pub(super) fn number<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Dollars with six decimals.
pub(super) fn money(value: Option<Micros>) -> String {
    number(value)
}

/// Milliseconds.
pub(super) fn ms(value: Option<Duration>) -> String {
    number(value.map(|value| value.as_millis()))
}

/// RFC 3339 in UTC.
pub(super) fn time(value: Option<Timestamp>) -> String {
    number(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_would_be_a_formula_is_made_text() {
        let check = |cell: &str, expect: &str| assert_eq!(text(cell), expect);
        check("=1+1", "'=1+1");
        check("+49", "'+49");
        check("-x", "'-x");
        check("@SUM(A1)", "'@SUM(A1)");
        check("\tx", "'\tx");
        check("\rx", "'\rx");
        check("a=b", "a=b");
        check("'quoted'", "'quoted'");
        check("", "");
    }

    #[test]
    fn a_servers_words_bring_no_control_character() {
        let all = (0..=0x9f).filter_map(char::from_u32).chain(['\u{202e}', 'ü']).collect::<String>();
        let cell = foreign(&all);
        assert!(!cell.chars().any(char::is_control), "{cell:?}");
        assert!(cell.contains("\\u{1b}") && cell.contains("\\u{7f}\\u{80}") && cell.ends_with("\\u{202e}ü"));
        assert_eq!(foreign("=1\n2"), "'=1\\n2");
        assert_eq!(optional_foreign(None), "");
    }

    #[test]
    fn what_is_not_known_is_empty_and_never_zero() {
        assert_eq!(money(None), "");
        assert_eq!(money(Some(Micros(67_200))), "0.067200");
        assert_eq!(ms(Some(Duration::from_micros(1_234_567))), "1234");
        assert_eq!(time(Some(Timestamp::from_ms(0))), "1970-01-01T00:00:00.000Z");
    }
}
