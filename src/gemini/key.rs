//! The key, which is printed nowhere.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_encode};

use crate::job::DigestWriter;

/// What stands for the key wherever a text contained it.
const REDACTED: &str = "[key]";

/// An API key. It has no `Display`, its `Debug` shows nothing of it, and [`Key::redact`] takes
/// it out of every text that comes from outside.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

/// Why a text cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing, or blanks.
    #[error("the key is empty")]
    Empty,
    /// Shorter than any real one. Redacting it would tear harmless text apart.
    #[error("the key has fewer than 8 characters; it was probably cut off")]
    TooShort,
    /// A line break, a blank or a letter beyond ASCII in the middle.
    #[error(
        "the key contains a blank, a line break or a character beyond ASCII; it was probably copied badly"
    )]
    Character,
}

impl Key {
    /// From the text of a variable or a file; blanks and line ends around it are dropped.
    pub fn new(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.is_empty() {
            Err(KeyError::Empty)
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Err(KeyError::Character)
        } else if text.len() < 8 {
            Err(KeyError::TooShort)
        } else {
            Ok(Self(text.to_owned()))
        }
    }

    /// For the request alone.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// A short keyed hash that tells keys apart in the queue and says nothing about them.
    pub fn id(&self) -> String {
        DigestWriter::new("nightpress key id 1").field("key", self.0.as_bytes()).finish().short()
    }

    /// `text` without the key: as it is, percent-encoded by any of the usual rules, and as JSON
    /// would escape it, all of them in whatever case.
    pub fn redact(&self, text: &str) -> String {
        self.spellings().fold(text.to_owned(), |text, spelling| without(&text, &spelling))
    }

    fn spellings(&self) -> impl Iterator<Item = String> {
        /// What `application/x-www-form-urlencoded` leaves as it is besides letters and digits.
        const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');
        /// RFC 3986 unreserved.
        const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        /// The WHATWG query set.
        const QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');
        let encoded = [NON_ALPHANUMERIC, FORM, UNRESERVED, QUERY]
            .map(|set| percent_encode(self.0.as_bytes(), set).to_string());
        let json = self.0.replace('\\', "\\\\").replace('"', "\\\"");
        let slashes = json.replace('/', "\\/");
        encoded.into_iter().chain([self.0.clone(), json, slashes])
    }
}

/// `text` with [`REDACTED`] for every `secret`, in whatever case. Lower-casing ASCII keeps every
/// byte in its place.
fn without(text: &str, secret: &str) -> String {
    let (folded, secret) = (text.to_ascii_lowercase(), secret.to_ascii_lowercase());
    let mut clean = String::with_capacity(text.len());
    let mut end = 0;
    for (at, _) in folded.match_indices(&secret) {
        clean.push_str(&text[end..at]);
        clean.push_str(REDACTED);
        end = at + secret.len();
    }
    clean.push_str(&text[end..]);
    clean
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_taken_out_of_texts_in_every_spelling() {
        let key = Key::new(" np-KEY/+=42ab\n").expect("a key");
        for text in [
            "Invalid API key: np-KEY/+=42ab.",
            "https://x/v1?key=np-KEY%2F%2B%3D42ab&alt=sse",
            "https://x/v1?key=np-KEY%2f%2b%3d42ab",
            "https://x/v1?KEY=NP-key%2f%2B%3d42AB",
            "np%2DKEY%2F%2B%3D42ab",
            r#"{"key":"np-KEY\/+=42ab"}"#,
        ] {
            let clean = key.redact(text);
            assert!(clean.contains("[key]"), "{clean}");
            assert!(!clean.to_ascii_lowercase().contains("42ab"), "{clean}");
        }
        assert_eq!(format!("{key:?}"), "Key(…)");
        assert!(!key.id().is_empty());
    }

    #[test]
    fn a_key_that_was_copied_badly_is_refused() {
        assert_eq!(Key::new(" \n"), Err(KeyError::Empty));
        assert_eq!(Key::new("abc"), Err(KeyError::TooShort));
        assert_eq!(Key::new("abcdefgh ijkl"), Err(KeyError::Character));
    }
}
