//! JSON text to raw nodes, for `.json`, the lines of `.jsonl` and the JSON cells of a CSV.
//!
//! Not by `serde_json`, which gives places for syntax errors alone, keeps the last of two equal
//! keys in silence and turns numbers into floats. The grammar is small; strings with escapes
//! are still decoded by `serde_json`, and a property test holds the two readers together.

use std::borrow::Cow;

use super::diagnostic::{Collector, Location, excerpt};
use super::raw::{
    Cursor, DEPTH_MAX, Entry, Kind, NODES_MAX, Node, TOO_MANY_NODES, Value, report_duplicate_keys,
};

/// What a text held.
pub(super) struct Parsed<'a> {
    /// The root. After a syntax error, what stood before it: the top level and the list of
    /// jobs without the one that the error is in.
    pub(super) root: Option<Node<'a>>,
    /// There was no syntax error.
    pub(super) whole: bool,
}

/// After a syntax error, containers down to this depth are kept as far as they came: the
/// document is 0, its list of jobs 1.
pub(super) const KEPT_DEPTH: usize = 1;

/// Reads one JSON value that fills `text`, which begins at `at`.
pub(super) fn parse<'a>(text: &'a str, at: Location, out: &mut Collector) -> Parsed<'a> {
    let mut reader = Reader { text, pos: 0, cursor: Cursor::new(at), nodes: 0, out };
    let mut parsed = reader.value(0);
    if reader.nodes > NODES_MAX {
        // What stood before is no manifest that a person wants to hear of value by value.
        return Parsed { root: None, whole: false };
    }
    if parsed.whole {
        reader.skip_blanks();
        if reader.pos < text.len() {
            reader.syntax_error("expected the end after the value");
            parsed.whole = false;
        }
    }
    parsed
}

struct Reader<'a, 'c> {
    text: &'a str,
    pos: usize,
    cursor: Cursor,
    /// Values so far.
    nodes: usize,
    out: &'c mut Collector,
}

impl<'a> Reader<'a, '_> {
    fn value(&mut self, depth: usize) -> Parsed<'a> {
        self.skip_blanks();
        let at = self.cursor.advance(self.text, self.pos);
        let whole = |value| Parsed { root: Some(Node { at, value }), whole: true };
        let failed = Parsed { root: None, whole: false };
        let scalar =
            |text: Cow<'a, str>, kind| Parsed { root: Some(Node::scalar(at, text, kind)), whole: true };
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            self.out.error(at, TOO_MANY_NODES);
            return failed;
        }
        match self.peek() {
            Some(b'{' | b'[') if depth >= DEPTH_MAX => {
                self.out.error(at, format!("more than {DEPTH_MAX} levels of nesting"));
                failed
            }
            Some(b'{') => {
                let mut entries = Vec::new();
                let done = self.map(depth, &mut entries);
                report_duplicate_keys(&entries, self.out);
                // Of millions of small ones, the room to grow would be most of the memory.
                entries.shrink_to_fit();
                close(whole(Value::Map(entries)), done, depth)
            }
            Some(b'[') => {
                let mut items = Vec::new();
                let done = self.list(depth, &mut items);
                items.shrink_to_fit();
                close(whole(Value::List(items)), done, depth)
            }
            Some(b'"') => self.string().map_or(failed, |text| scalar(text, Kind::Text)),
            Some(b'-' | b'0'..=b'9') => {
                self.number().map_or(failed, |text| scalar(Cow::Borrowed(text), Kind::Number))
            }
            Some(b'a'..=b'z' | b'A'..=b'Z') => match self.word() {
                word @ ("true" | "false") => scalar(Cow::Borrowed(word), Kind::Bool),
                word @ "null" => scalar(Cow::Borrowed(word), Kind::Null),
                word => {
                    let found = excerpt(word);
                    self.out.error(at, format!("expected a JSON value, found {found}; put text in quotes"));
                    failed
                }
            },
            _ => {
                self.syntax_error("expected a JSON value");
                failed
            }
        }
    }

    /// The entries of an object, from its `{`; `false` after a syntax error.
    fn map(&mut self, depth: usize, entries: &mut Vec<Entry<'a>>) -> bool {
        self.pos += 1;
        self.skip_blanks();
        if self.eat(b'}') {
            return true;
        }
        loop {
            self.skip_blanks();
            if self.peek() != Some(b'"') {
                return self.syntax_error("expected a key in double quotes");
            }
            let key_at = self.cursor.advance(self.text, self.pos);
            let Some(key) = self.string() else { return false };
            self.skip_blanks();
            if !self.eat(b':') {
                return self.syntax_error("expected `:` after the key");
            }
            let value = self.value(depth + 1);
            entries.extend(value.root.map(|value| Entry { key, key_at, value }));
            if !value.whole {
                return false;
            }
            self.skip_blanks();
            if self.eat(b'}') {
                return true;
            }
            if !self.eat(b',') {
                return self.syntax_error("expected `,` or `}`");
            }
        }
    }

    /// The items of an array, from its `[`; `false` after a syntax error.
    fn list(&mut self, depth: usize, items: &mut Vec<Node<'a>>) -> bool {
        self.pos += 1;
        self.skip_blanks();
        if self.eat(b']') {
            return true;
        }
        loop {
            let item = self.value(depth + 1);
            items.extend(item.root);
            if !item.whole {
                return false;
            }
            self.skip_blanks();
            if self.eat(b']') {
                return true;
            }
            if !self.eat(b',') {
                return self.syntax_error("expected `,` or `]`");
            }
        }
    }

    /// A string, from its `"`.
    fn string(&mut self) -> Option<Cow<'a, str>> {
        let start = self.pos;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        let mut escaped = false;
        loop {
            let rest = bytes.get(end..).unwrap_or_default();
            match memchr::memchr2(b'"', b'\\', rest) {
                Some(n) if rest.get(n) == Some(&b'\\') => {
                    escaped = true;
                    end += n + 2;
                }
                Some(n) => {
                    end += n;
                    break;
                }
                None => {
                    self.syntax_error("a string begins here whose `\"` at the end is missing");
                    return None;
                }
            }
        }
        let inner = self.text.get(start + 1..end).unwrap_or_default();
        if let Some(n) = inner.bytes().position(|byte| byte < 0x20) {
            self.pos = start + 1 + n;
            self.syntax_error("expected an escape such as `\\n`: a string cannot hold a control character");
            return None;
        }
        self.pos = end + 1;
        if !escaped {
            return Some(Cow::Borrowed(inner));
        }
        let quoted = self.text.get(start..=end).unwrap_or_default();
        if let Ok(text) = serde_json::from_str::<String>(quoted) {
            return Some(Cow::Owned(text));
        }
        self.pos = start;
        self.syntax_error("a string with an escape that JSON does not know begins here");
        None
    }

    fn number(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.pos..).unwrap_or_default();
        let end = rest.find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'));
        let number = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if !is_json_number(number) {
            self.syntax_error("expected a number as JSON writes it");
            return None;
        }
        self.pos += number.len();
        Some(number)
    }

    fn word(&mut self) -> &'a str {
        let rest = self.text.get(self.pos..).unwrap_or_default();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        self.pos += end;
        rest.get(..end).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.pos).copied()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.pos += usize::from(there);
        there
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.pos += 1;
        }
    }

    /// Reports what stands at the current place; always `false`, to be returned.
    fn syntax_error(&mut self, expected: &str) -> bool {
        let at = self.cursor.advance(self.text, self.pos);
        let rest = self.text.get(self.pos..).unwrap_or_default();
        let line = rest.lines().next().unwrap_or_default();
        let found = match (rest.is_empty(), line.char_indices().nth(20)) {
            (true, _) => "the end".to_owned(),
            (false, Some((end, _))) => excerpt(&line[..end]),
            (false, None) if line.is_empty() => "the end of the line".to_owned(),
            (false, None) => excerpt(line),
        };
        self.out.error(at, format!("JSON: {expected}; found {found}"));
        false
    }
}

/// What is left of a container: all of it, or what is worth keeping after a syntax error.
fn close(parsed: Parsed<'_>, whole: bool, depth: usize) -> Parsed<'_> {
    if whole { parsed } else { Parsed { root: parsed.root.filter(|_| depth <= KEPT_DEPTH), whole: false } }
}

/// Whether `text` is a number of JSON's grammar: `-1.5e3`, and neither `007` nor `1.`.
pub(super) fn is_json_number(text: &str) -> bool {
    fn digits(text: &str) -> &str {
        text.trim_start_matches(|c: char| c.is_ascii_digit())
    }
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let mut rest = digits(unsigned);
    let integer = &unsigned[..unsigned.len() - rest.len()];
    if integer.is_empty() || (integer.len() > 1 && integer.starts_with('0')) {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix('.') {
        rest = digits(fraction);
        if rest.len() == fraction.len() {
            return false;
        }
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        rest = digits(exponent);
        if rest.len() == exponent.len() {
            return false;
        }
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::manifest::value::to_json;

    fn read(text: &str) -> (Option<serde_json::Value>, String) {
        let mut out = Collector::new("x.json".into());
        let parsed = parse(text, Location::START, &mut out);
        let value = parsed.root.filter(|_| parsed.whole).and_then(|root| to_json(&root, &mut out));
        (value, out.finish().0.to_string())
    }

    #[test]
    fn more_values_than_a_manifest_can_have_are_an_error_of_one_line() {
        let (value, errors) = read(&format!("[{}0]", "0,".repeat(NODES_MAX)));
        assert_eq!(value, None);
        assert_eq!(errors, format!("x.json:1:{}: error: {TOO_MANY_NODES}", 2 * NODES_MAX));
    }

    #[test]
    fn json_is_read_as_serde_json_reads_it() {
        let text = r#" {"a": [1, -2.5e3, true, null, "x\u00e4\n\ud83d\ude00"], "b": {"": {}}, "c": []} "#;
        let (value, errors) = read(text);
        assert_eq!(errors, "");
        assert_eq!(value, Some(serde_json::from_str(text).expect("json")));
    }

    #[test]
    fn a_syntax_error_says_what_was_expected_where() {
        let check = |text: &str, expect: &str| assert_eq!(read(text).1, format!("x.json:{expect}"), "{text}");
        check("{\"a\": 1,}", "1:9: error: JSON: expected a key in double quotes; found `}`");
        check("{\n \"a\" 1}", "2:6: error: JSON: expected `:` after the key; found `1}`");
        check("[1 2]", "1:4: error: JSON: expected `,` or `]`; found `2]`");
        check("[cat]", "1:2: error: expected a JSON value, found `cat`; put text in quotes");
        check("[1", "1:3: error: JSON: expected `,` or `]`; found the end");
        check("{} x", "1:4: error: JSON: expected the end after the value; found `x`");
        check("[007]", "1:2: error: JSON: expected a number as JSON writes it; found `007]`");
        check("", "1:1: error: JSON: expected a JSON value; found the end");
    }

    #[test]
    fn equal_keys_are_an_error_at_any_level() {
        let (_, errors) = read("{\"a\": {\"b\": 1,\n \"b\": 2}}");
        assert_eq!(errors, "x.json:2:2: error: the key `b` was given before on line 1; keep one of them");
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_stack_overflow() {
        let (_, errors) = read(&"[".repeat(100_000));
        assert!(errors.contains("more than 64 levels"), "{errors}");
    }

    #[test]
    fn what_stands_before_a_syntax_error_is_kept() {
        let mut out = Collector::new("x".into());
        let parsed = parse(r#"{"jobs": [{"id": "a"}, {"id": "b", !"#, Location::START, &mut out);
        assert!(!parsed.whole);
        let root = to_json(&parsed.root.expect("kept"), &mut out);
        assert_eq!(root, Some(json!({"jobs": [{"id": "a"}]})));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|b| json!(b)),
            any::<i64>().prop_map(|n| json!(n)),
            any::<String>().prop_map(|s| json!(s)),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_json_value_is_read_back(value in any_json(), pretty in any::<bool>()) {
            let text = if pretty { format!("{value:#}") } else { value.to_string() };
            prop_assert_eq!(read(&text), (Some(value), String::new()));
        }

        #[test]
        fn text_is_accepted_if_and_only_if_serde_json_accepts_it(text in r#"[\[\]{}",:a01.e\\u\- \n-]{0,12}"#) {
            let mut out = Collector::new("x".into());
            let ours = parse(&text, Location::START, &mut out).whole;
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            // 1e999 is JSON, but no number that serde_json can hold.
            let theirs = theirs.map_or_else(|error| error.to_string().contains("out of range"), |_| true);
            prop_assert_eq!(ours, theirs, "{}", text);
        }
    }
}
