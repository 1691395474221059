//! What the four formats are read into: a tree of text with places. It knows nothing of jobs.
//!
//! Scalars keep their text as written and what the format takes them for, so that the checks
//! can tell `prompt: no` from `prompt: "no"` and keep a tag's `007` as it is.

use std::borrow::Cow;
use std::collections::HashMap;

use super::diagnostic::{Collector, Location, excerpt};

/// Mappings and lists inside one another. A manifest needs four; `extra` may need some more.
pub(super) const DEPTH_MAX: usize = 64;

/// Values of a YAML or JSON document, those that aliases add included: a hundred thousand jobs of
/// twenty keys with tags and references, in half a gigabyte. A file of `0,0,0…` has fifty times as
/// many values to the byte as a manifest.
pub(super) const NODES_MAX: usize = 5_000_000;

/// What is said of a document with more values than [`NODES_MAX`].
pub(super) const TOO_MANY_NODES: &str =
    "more than 5 million values up to here; use JSONL or CSV for a manifest of that size, or split it";

/// Mappings up to this size are searched for equal keys without building a table.
const SMALL_MAP: usize = 16;

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    pub(super) at: Location,
    pub(super) value: Value<'a>,
}

#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Scalar(Scalar<'a>),
    List(Vec<Node<'a>>),
    Map(Vec<Entry<'a>>),
}

/// A key with its value, in the order of the file.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) key: Cow<'a, str>,
    pub(super) key_at: Location,
    pub(super) value: Node<'a>,
}

#[derive(Debug, Clone)]
pub(super) struct Scalar<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) kind: Kind,
    /// YAML: a comment follows on the same line, which may have been meant as text.
    pub(super) cut_by_comment: bool,
}

/// What the format takes a scalar for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text: quoted, a block, or nothing else that it could be.
    Text,
    /// `null`, `~` or nothing at all.
    Null,
    /// `true` or `false`.
    Bool,
    /// `yes`, `no`, `on`, `off`: text for YAML 1.2, truth for YAML 1.1 and most people.
    YesNo,
    /// A number.
    Number,
    /// A CSV cell, which may be anything that its column takes.
    Cell,
}

impl Kind {
    /// For a message: "found the boolean `no`".
    pub(super) const fn noun(self) -> &'static str {
        match self {
            Self::Text | Self::Cell => "the text",
            Self::Null => "the null",
            Self::Bool | Self::YesNo => "the boolean",
            Self::Number => "the number",
        }
    }
}

impl<'a> Scalar<'a> {
    pub(super) const fn new(text: Cow<'a, str>, kind: Kind) -> Self {
        Self { text, kind, cut_by_comment: false }
    }
}

impl<'a> Node<'a> {
    pub(super) const fn scalar(at: Location, text: Cow<'a, str>, kind: Kind) -> Self {
        Self { at, value: Value::Scalar(Scalar::new(text, kind)) }
    }
}

impl Value<'_> {
    /// For a message: "expected text, found a list".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Scalar(Scalar { kind: Kind::Null, .. }) => "null".to_owned(),
            Self::Scalar(scalar) => format!("{} {}", scalar.kind.noun(), excerpt(&scalar.text)),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Reports every key that stands in a mapping for a second time, with both places.
pub(super) fn report_duplicate_keys(entries: &[Entry<'_>], out: &mut Collector) {
    let mut report = |first: &Entry<'_>, second: &Entry<'_>| {
        out.error(
            second.key_at,
            format!(
                "the key {} was given before on line {}; keep one of them",
                excerpt(&second.key),
                first.key_at.line
            ),
        );
    };
    if entries.len() <= SMALL_MAP {
        for (n, entry) in entries.iter().enumerate() {
            if let Some(first) = entries[..n].iter().find(|one| one.key == entry.key) {
                report(first, entry);
            }
        }
        return;
    }
    let mut seen: HashMap<&str, &Entry<'_>> = HashMap::with_capacity(entries.len());
    for entry in entries {
        match seen.get(entry.key.as_ref()) {
            Some(first) => report(first, entry),
            None => {
                seen.insert(&entry.key, entry);
            }
        }
    }
}

/// Turns byte offsets of a text into places. It only goes forward, so all places of a text
/// together cost one pass over it.
#[derive(Debug)]
pub(super) struct Cursor {
    offset: usize,
    at: Location,
}

impl Cursor {
    /// A cursor on the first byte of a text that begins at `at`.
    pub(super) const fn new(at: Location) -> Self {
        Self { offset: 0, at }
    }

    /// The place of byte `offset`, which must not lie before the last one asked for.
    pub(super) fn advance(&mut self, text: &str, offset: usize) -> Location {
        let passed = text.as_bytes().get(self.offset..offset).unwrap_or_default();
        for byte in passed {
            if *byte == b'\n' {
                self.at = Location { line: self.at.line.saturating_add(1), column: 1 };
            } else if byte & 0b1100_0000 != 0b1000_0000 {
                self.at.column = self.at.column.saturating_add(1);
            }
        }
        self.offset = self.offset.max(offset);
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_counts_lines_and_characters_not_bytes() {
        let text = "äb\ncd";
        let mut cursor = Cursor::new(Location { line: 7, column: 1 });
        assert_eq!(cursor.advance(text, 2), Location { line: 7, column: 2 });
        assert_eq!(cursor.advance(text, 5), Location { line: 8, column: 2 });
    }

    #[test]
    fn duplicate_keys_are_found_in_small_and_large_mappings() {
        for size in [2, 40] {
            let mut entries: Vec<Entry<'_>> = (0..size)
                .map(|n| Entry {
                    key: n.to_string().into(),
                    key_at: Location { line: n + 1, column: 1 },
                    value: Node::scalar(Location::START, "".into(), Kind::Text),
                })
                .collect();
            entries[size as usize - 1].key = "0".into();
            let mut out = Collector::new("x".into());
            report_duplicate_keys(&entries, &mut out);
            let text = out.finish().0.to_string();
            assert_eq!(
                text,
                format!("x:{size}:1: error: the key `0` was given before on line 1; keep one of them")
            );
        }
    }
}
