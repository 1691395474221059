//! The key, which is printed nowhere.

use std::fmt;
use std::sync::Arc;

use base64_simd::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::spelling;
use crate::job::DigestWriter;

/// What stands for the key wherever a text contained it.
const REDACTED: &str = "[key]";

/// An API key. It has no `Display`, its `Debug` shows nothing of it, and [`Key::redact`] takes
/// it out of every text that comes from outside.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    text: String,
    /// What [`Key::redact`] looks for.
    secrets: Arc<[String]>,
}

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
            Ok(Self { text: text.to_owned(), secrets: secrets(text) })
        }
    }

    /// For the request alone.
    pub(super) fn expose(&self) -> &str {
        &self.text
    }

    /// A short keyed hash that tells keys apart in the queue and says nothing about them.
    pub fn id(&self) -> String {
        DigestWriter::new("nightpress key id 1").field("key", self.text.as_bytes()).finish().short()
    }

    /// `text` without the key, nor its base64, as it is or escaped in any of the usual ways, and in
    /// whatever case.
    pub fn redact(&self, text: &str) -> String {
        spelling::without(text, &self.secrets, REDACTED)
    }
}

/// The key; its base64 in both alphabets; and what is common to every base64 that begins with the
/// key, as when a line end was encoded with it. Longer ones come before their beginnings.
fn secrets(key: &str) -> Arc<[String]> {
    let whole_letters = key.len() * 8 / 6;
    let encoded = [STANDARD_NO_PAD, URL_SAFE_NO_PAD].map(|base64| base64.encode_to_string(key));
    let beginnings = encoded.clone().map(|text| text.chars().take(whole_letters).collect());
    [key.to_owned()].into_iter().chain(encoded).chain(beginnings).collect()
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
    fn what_web_software_makes_of_a_key_is_taken_out() {
        let key = Key::new("np-<K>&\"E'Y/%+=42ab").expect("a key");
        for text in [
            // HTML, as Go, Python, PHP and Mustache escape it.
            "np-&lt;K&gt;&amp;&#34;E&#39;Y/%&#43;=42ab",
            "np-&lt;K&gt;&amp;&quot;E&#x27;Y/%+=42ab",
            "np-&lt;K&gt;&amp;&quot;E&#039;Y/%+=42ab",
            "np-&lt;K&gt;&amp;&quot;E&#39;Y&#x2F;%+&#x3D;42ab",
            "np-&amp;lt;K&amp;gt;&amp;amp;&amp;quot;E&amp;#39;Y/%+=42ab",
            // encodeURI, encodeURIComponent, and `%` alone.
            "np-%3CK%3E&%22E'Y/%25+=42ab",
            "np-%3CK%3E%26%22E'Y%2F%25%2B%3D42ab",
            "np-<K>&\"E'Y/%25+=42ab",
            // The same twice.
            "np-%253CK%253E%2526%2522E%2527Y%252F%2525%252B%253D42ab",
            "np-%253CK%253E&%2522E'Y/%2525+=42ab",
            // JSON as Go writes it, and JSON in JSON.
            r#"np-\u003cK\u003e\u0026\"E'Y/%+=42ab"#,
            r#"np-\\u003cK\\u003e\\u0026\\\"E'Y\\/%+=42ab"#,
        ] {
            assert_eq!(key.redact(&format!("a {text}.")), "a [key].");
        }
    }

    #[test]
    fn the_base64_of_a_key_is_taken_out() {
        for (key, base64) in [
            ("np-KEY/?>42ab", ["bnAtS0VZLz8+NDJhYg==", "bnAtS0VZLz8-NDJhYg=="]),
            ("np-KEY/?>42abc", ["bnAtS0VZLz8+NDJhYmM=", "bnAtS0VZLz8-NDJhYmM="]),
            ("np-KEY/?>42abcd", ["bnAtS0VZLz8+NDJhYmNk", "bnAtS0VZLz8-NDJhYmNk"]),
        ] {
            let key = Key::new(key).expect("a key");
            for base64 in base64 {
                let clean = key.redact(&format!("Basic {base64}, {}.", base64.trim_end_matches('=')));
                assert_eq!(clean.replace('=', ""), "Basic [key], [key].");
                let clean = key.redact(&base64.replace('+', "%2B").replace('=', "%3D"));
                assert!(clean.starts_with("[key]"), "{clean}");
            }
        }
        // With the line end that `echo` adds.
        let clean = Key::new("np-KEY/?>42ab").expect("a key").redact("bnAtS0VZLz8+NDJhYgo=");
        assert_eq!(clean, "[key]o=");
    }

    #[test]
    fn a_long_text_is_cleaned_in_one_pass() {
        let key = Key::new(&format!("{}b", "a".repeat(40))).expect("a key");
        for text in ["a", "%25", "&amp;", "\\", "%61", "ä"] {
            let text = text.repeat(30_000);
            assert_eq!(key.redact(&text), text);
        }
    }

    #[test]
    fn a_key_that_was_copied_badly_is_refused() {
        assert_eq!(Key::new(" \n"), Err(KeyError::Empty));
        assert_eq!(Key::new("abc"), Err(KeyError::TooShort));
        assert_eq!(Key::new("abcdefgh ijkl"), Err(KeyError::Character));
    }
}
