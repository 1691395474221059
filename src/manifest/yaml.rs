//! YAML text to raw nodes.
//!
//! `serde-saphyr` as a deserializer stops at its first error and hands out values whose style
//! and spelling are gone, so `prompt: no` could not be told from `prompt: "no"`, nor a comment
//! that cut a prompt short be seen. This module therefore reads the events of the parser below
//! it, `granit-parser`, which `serde-saphyr` re-exports: they carry places, styles, the text as
//! written and the comments. Anchors, aliases and merge keys (`<<`) are resolved here.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_saphyr::granit_parser::{
    self, ErrorKind, Event, Marker, Parser, Placement, ScalarStyle, Span, Tag,
};

use super::diagnostic::{Collector, Location, excerpt};
use super::json::{KEPT_DEPTH, Parsed};
use super::plain::plain_kind;
use super::raw::{
    DEPTH_MAX, Entry, Kind, NODES_MAX, Node, Scalar, TOO_MANY_NODES, Value, report_duplicate_keys,
};

/// Nodes that aliases may add to a file of any size …
const ALIASED_NODES_FREE: usize = 100_000;
/// … and for each node that is written out. A job that merges its defaults has a dozen; an
/// alias bomb multiplies without end.
const ALIASED_NODES_EACH: usize = 50;

/// Comment lines in a row; the parser's own 96 would refuse a commented-out part of a manifest.
const COMMENTS_MAX: usize = 1_000_000;

/// Reads the one document of `text`.
pub(super) fn parse<'a>(text: &'a str, out: &mut Collector) -> Parsed<'a> {
    let options = granit_parser::options! {
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        max_buffered_comment_events: COMMENTS_MAX,
    };
    let mut builder = Builder::new(out);
    for event in Parser::new_from_str_with_options(text, options) {
        let stopped = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => Err(Stop { at: place(*error.marker()), message: explain(error.kind()) }),
        };
        if let Err(Stop { at, message }) = stopped {
            builder.out.error(at, message);
            if builder.is_too_large() {
                // What stood before is no manifest that a person wants to hear of value by value.
                return Parsed { root: None, whole: false };
            }
            return Parsed { root: builder.salvage(), whole: false };
        }
    }
    Parsed { root: builder.root, whole: true }
}

/// What the parser found, with what a person most often meant.
fn explain(kind: &ErrorKind) -> String {
    let hint = match kind {
        ErrorKind::MappingValueNotAllowed => "; a text with `: ` in it needs quotes",
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation => "; indent with blanks",
        _ => "",
    };
    format!("YAML: {kind}{hint}")
}

/// Why reading cannot go on.
struct Stop {
    at: Location,
    message: String,
}

fn place(mark: Marker) -> Location {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Location { line: number(mark.line()), column: number(mark.col() + 1) }
}

/// A collection whose end has not come yet.
struct Frame<'a> {
    at: Location,
    anchor: usize,
    open: Open<'a>,
}

enum Open<'a> {
    List(Vec<Node<'a>>),
    Map { entries: Vec<Entry<'a>>, key: Option<Key<'a>>, merges: Vec<Node<'a>> },
}

struct Key<'a> {
    text: Cow<'a, str>,
    at: Location,
    /// `<<`: the value's entries join this mapping.
    merge: bool,
}

struct Builder<'a, 'c> {
    out: &'c mut Collector,
    frames: Vec<Frame<'a>>,
    root: Option<Node<'a>>,
    documents: usize,
    /// Anchored nodes by the parser's number, with their size.
    anchors: HashMap<usize, (Node<'a>, Size)>,
    /// Values that are written out; a key belongs to its value.
    written: usize,
    /// Values that aliases added.
    aliased: usize,
    /// Values that are kept for aliases to come.
    anchored: usize,
    /// The line on which a plain scalar just ended, as a value.
    plain_end: Option<usize>,
}

impl<'a, 'c> Builder<'a, 'c> {
    fn new(out: &'c mut Collector) -> Self {
        Self {
            out,
            frames: Vec::new(),
            root: None,
            documents: 0,
            anchors: HashMap::new(),
            written: 0,
            aliased: 0,
            anchored: 0,
            plain_end: None,
        }
    }

    /// There are more values than a manifest can have, or more that aliases might ask for.
    const fn is_too_large(&self) -> bool {
        self.written + self.aliased > NODES_MAX || self.anchored > NODES_MAX
    }

    fn event(&mut self, event: Event<'a>, span: Span) -> Result<(), Stop> {
        let at = place(span.start);
        if self.is_too_large() {
            return Err(Stop { at, message: TOO_MANY_NODES.to_owned() });
        }
        let plain_end = self.plain_end.take();
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let message = "a second YAML document begins here; a manifest is one document";
                    return Err(Stop { at, message: message.to_owned() });
                }
            }
            Event::Comment(_, Placement::Right) if plain_end == Some(span.start.line()) => {
                self.mark_cut_by_comment();
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind =
                    scalar_kind(&text, style, tag.as_deref()).map_err(|message| Stop { at, message })?;
                let plain = style == ScalarStyle::Plain;
                if self.needs_key() {
                    let merge = plain && text == "<<";
                    self.anchor(anchor, &Node::scalar(at, text.clone(), kind));
                    self.set_key(Key { text, at, merge });
                } else {
                    self.written += 1;
                    self.plain_end = plain.then(|| span.end.line());
                    self.add(Node::scalar(at, text, kind), anchor)?;
                }
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(Frame { at, anchor, open: Open::List(Vec::new()) }, tag.as_deref())?;
            }
            Event::MappingStart(_, anchor, tag) => {
                let open = Open::Map { entries: Vec::new(), key: None, merges: Vec::new() };
                self.open(Frame { at, anchor, open }, tag.as_deref())?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.frames.pop() {
                    let anchor = frame.anchor;
                    let node = self.close(frame);
                    self.add(node, anchor)?;
                }
            }
            Event::Alias(id) => self.alias(id, at)?,
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, frame: Frame<'a>, tag: Option<&Tag>) -> Result<(), Stop> {
        let at = frame.at;
        let stop = |message: String| Err(Stop { at, message });
        let core = |tag: &Tag| tag.is_yaml_core_schema_tag("map") || tag.is_yaml_core_schema_tag("seq");
        self.written += 1;
        match tag.filter(|tag| !core(tag)) {
            Some(tag) => stop(unknown_tag(tag)),
            None if self.frames.len() >= DEPTH_MAX => {
                stop(format!("more than {DEPTH_MAX} levels of nesting"))
            }
            None if self.needs_key() => stop("a key must be text, not a list or a mapping".to_owned()),
            None => {
                self.frames.push(frame);
                Ok(())
            }
        }
    }

    /// The top frame is a mapping between two entries.
    fn needs_key(&self) -> bool {
        matches!(self.frames.last(), Some(Frame { open: Open::Map { key: None, .. }, .. }))
    }

    fn set_key(&mut self, new: Key<'a>) {
        if let Some(Frame { open: Open::Map { key, .. }, .. }) = self.frames.last_mut() {
            *key = Some(new);
        }
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, node: Node<'a>, anchor: usize) -> Result<(), Stop> {
        self.anchor(anchor, &node);
        match self.frames.last_mut().map(|frame| &mut frame.open) {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map { entries, key, merges }) => match key.take() {
                Some(Key { merge: true, .. }) => {
                    check_merge(&node)?;
                    merges.push(node);
                }
                Some(Key { text, at, .. }) => entries.push(Entry { key: text, key_at: at, value: node }),
                None => {}
            },
        }
        Ok(())
    }

    fn anchor(&mut self, anchor: usize, node: &Node<'a>) {
        if anchor > 0 {
            let size = Size::of(node);
            self.anchored += size.nodes;
            // Nested anchors keep what is in the innermost once for each of them.
            if !self.is_too_large() {
                self.anchors.insert(anchor, (node.clone(), size));
            }
        }
    }

    fn alias(&mut self, id: usize, at: Location) -> Result<(), Stop> {
        let stop = |message: &str| Err(Stop { at, message: message.to_owned() });
        let Some((node, size)) = self.anchors.get(&id) else {
            return stop("this alias stands inside of what it stands for");
        };
        self.aliased += size.nodes;
        if self.aliased > ALIASED_NODES_FREE + self.written.saturating_mul(ALIASED_NODES_EACH) {
            return stop("the aliases up to here multiply the file too often; write the values out");
        }
        if self.is_too_large() {
            return stop(TOO_MANY_NODES);
        }
        // Aliases in aliases nest deeper than any text does.
        if self.frames.len() + size.depth > DEPTH_MAX {
            return stop(&format!("more than {DEPTH_MAX} levels of nesting by this alias"));
        }
        let node = node.clone();
        if !self.needs_key() {
            return self.add(node, 0);
        }
        let Value::Scalar(Scalar { text, .. }) = node.value else {
            return stop("a key must be text, not a list or a mapping");
        };
        self.set_key(Key { text, at, merge: false });
        Ok(())
    }

    fn close(&mut self, frame: Frame<'a>) -> Node<'a> {
        let value = match frame.open {
            Open::List(items) => Value::List(items),
            Open::Map { mut entries, merges, .. } => {
                report_duplicate_keys(&entries, self.out);
                if let [first, second, ..] = merges.as_slice() {
                    let message =
                        format!("the key `<<` was given before on line {}; merge a list", first.at.line);
                    self.out.error(second.at, message);
                }
                for node in merges {
                    merge(&mut entries, node);
                }
                Value::Map(entries)
            }
        };
        Node { at: frame.at, value }
    }

    fn mark_cut_by_comment(&mut self) {
        let last = match self.frames.last_mut().map(|frame| &mut frame.open) {
            Some(Open::List(items)) => items.last_mut(),
            Some(Open::Map { entries, .. }) => entries.last_mut().map(|entry| &mut entry.value),
            None => None,
        };
        if let Some(Node { value: Value::Scalar(scalar), .. }) = last {
            scalar.cut_by_comment = true;
        }
    }

    /// What stood before a syntax error: the document and its jobs without the broken one.
    fn salvage(mut self) -> Option<Node<'a>> {
        self.frames.truncate(KEPT_DEPTH + 1);
        while let Some(frame) = self.frames.pop() {
            let node = self.close(frame);
            self.add(node, 0).ok()?;
        }
        self.root
    }
}

/// `<<` takes a mapping or a list of mappings.
fn check_merge(node: &Node<'_>) -> Result<(), Stop> {
    let map = |node: &Node<'_>| matches!(node.value, Value::Map(_));
    let fits = match &node.value {
        Value::List(items) => items.iter().all(map),
        _ => map(node),
    };
    let message = || format!("`<<` takes a mapping or a list of mappings, found {}", node.value.describe());
    if fits { Ok(()) } else { Err(Stop { at: node.at, message: message() }) }
}

/// Adds the entries of a merged mapping whose keys are not there yet; the first one wins.
fn merge<'a>(entries: &mut Vec<Entry<'a>>, node: Node<'a>) {
    match node.value {
        Value::Map(merged) => {
            let mut keys: HashSet<Cow<'a, str>> = entries.iter().map(|one| one.key.clone()).collect();
            entries.extend(merged.into_iter().filter(|entry| keys.insert(entry.key.clone())));
        }
        Value::List(maps) => maps.into_iter().for_each(|map| merge(entries, map)),
        Value::Scalar(_) => {}
    }
}

/// How many nodes an alias adds, and how deep they nest.
struct Size {
    nodes: usize,
    depth: usize,
}

impl Size {
    fn of(node: &Node<'_>) -> Self {
        let mut size = Self { nodes: 1, depth: 0 };
        match &node.value {
            Value::Scalar(_) => {}
            Value::List(items) => items.iter().for_each(|item| size.add(item)),
            Value::Map(entries) => entries.iter().for_each(|entry| size.add(&entry.value)),
        }
        size
    }

    fn add(&mut self, child: &Node<'_>) {
        let child = Self::of(child);
        self.nodes += child.nodes;
        self.depth = self.depth.max(child.depth + 1);
    }
}

fn unknown_tag(tag: &Tag) -> String {
    format!(
        "the YAML tag {} is not known here; put text that begins with `!` in quotes",
        excerpt(&tag.original())
    )
}

/// What a scalar is by its style, its tag and its text.
fn scalar_kind(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Kind, String> {
    match tag {
        None if style == ScalarStyle::Plain => Ok(plain_kind(text)),
        None => Ok(Kind::Text),
        Some(tag) if tag.is_yaml_core_schema_tag("str") || tag.original() == "!" => Ok(Kind::Text),
        Some(tag) if ["int", "float", "bool", "null"].iter().any(|one| tag.is_yaml_core_schema_tag(one)) => {
            Ok(plain_kind(text))
        }
        Some(tag) => Err(unknown_tag(tag)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::value::to_json;

    fn read(text: &str) -> (Option<serde_json::Value>, String) {
        let mut out = Collector::new("x.yaml".into());
        let parsed = parse(text, &mut out);
        let value = parsed.root.and_then(|root| to_json(&root, &mut out));
        (value, out.finish().0.to_string())
    }

    #[test]
    fn anchors_aliases_and_merge_keys_work() {
        let text = "base: &base {a: x, b: {c: [1]}}\nother: &other {d: z, a: w}\n\
                    one: {<<: *base, a: y}\ntwo: {<<: [*base, *other], e: *base}\nk: &k key\nm: {*k : 1}\n";
        let (value, errors) = read(text);
        assert_eq!(errors, "");
        let value = value.expect("reads");
        assert_eq!(value["one"], json!({"a": "y", "b": {"c": [1]}}));
        assert_eq!(value["two"]["d"], "z");
        assert_eq!(value["two"]["a"], "x");
        assert_eq!(value["two"]["e"], value["base"]);
        assert_eq!(value["m"], json!({"key": 1}));
    }

    #[test]
    fn an_alias_bomb_is_an_error() {
        let mut lines = vec!["a0: &a0 [x, x, x, x, x, x, x, x, x, x]".to_owned()];
        for n in 1..12 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
            lines.push(format!("a{n}: &a{n} [{aliases}]"));
        }
        let (_, errors) = read(&lines.join("\n"));
        assert!(errors.contains("multiply the file too often"), "{errors}");
    }

    #[test]
    fn more_values_than_a_manifest_can_have_are_an_error_of_one_line() {
        // Written out that would be a file of ten megabytes, and some seconds.
        let row = vec!["x"; 1_000].join(", ");
        let rows = vec!["*r"; 300].join(", ");
        let zeros = "0, ".repeat(200_000);
        let many = vec!["*s"; 30].join(", ");
        let (value, errors) = read(&format!("a: [{zeros}]\nr: &r [{row}]\ns: &s [{rows}]\njobs: [{many}]"));
        assert!(value.is_none());
        let place = errors.strip_suffix(&format!(": error: {TOO_MANY_NODES}")).unwrap_or_default();
        assert!(place.starts_with("x.yaml:4:"), "{errors}");
    }

    #[test]
    fn nested_anchors_do_not_fill_the_memory() {
        let (depth, items) = (60, "0,".repeat(100_000));
        let open: String = (0..depth).map(|n| format!("&a{n} [")).collect();
        let (_, errors) = read(&format!("jobs: {open}{items}0{}", "]".repeat(depth)));
        assert!(errors.ends_with(TOO_MANY_NODES), "{errors}");
    }

    #[test]
    fn aliases_cannot_nest_deeper_than_text() {
        let mut lines = vec!["a0: &a0 [x]".to_owned()];
        lines.extend((1..200).map(|n| format!("a{n}: &a{n} [*a{}]", n - 1)));
        let (_, errors) = read(&lines.join("\n"));
        assert!(errors.contains("more than 64 levels of nesting by this alias"), "{errors}");
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_stack_overflow() {
        for text in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(100_000)] {
            let (_, errors) = read(&text);
            assert!(errors.starts_with("x.yaml:1:"), "{errors}");
        }
    }

    #[test]
    fn duplicate_keys_are_errors_with_both_lines() {
        let (_, errors) = read("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n");
        assert_eq!(
            errors,
            "x.yaml:4:3: error: the key `c` was given before on line 3; keep one of them\n\
             x.yaml:5:1: error: the key `a` was given before on line 1; keep one of them"
        );
    }

    #[test]
    fn what_this_reader_does_not_take_is_said() {
        let check = |text: &str, expect: &str| {
            let (_, errors) = read(text);
            assert!(errors.contains(expect), "{text}: {errors}");
        };
        check("a: 1\n---\nb: 2\n", "x.yaml:2:1: error: a second YAML document");
        check("a: !secret x\n", "x.yaml:1:12: error: the YAML tag `!secret` is not known");
        check("? [a, b]\n: 1\n", "a key must be text");
        check("a: &a [*a]\n", "inside of what it stands for");
        check("a: *b\n", "x.yaml:1:4: error: YAML:");
        check("a: {<<: x}\n", "`<<` takes a mapping");
        check("a: [1\nb: 2\n", "error: YAML:");
        check(
            "a: x: y\n",
            "error: YAML: mapping values are not allowed in this context; a text with `: ` in it needs quotes",
        );
    }

    #[test]
    fn what_stands_before_a_syntax_error_is_kept() {
        let (value, errors) = read("version: 1\njobs:\n- id: a\n- id: b\n- id: c\n  prompt: x: y\n");
        assert!(errors.starts_with("x.yaml:6:"), "{errors}");
        assert_eq!(value, Some(json!({"version": 1, "jobs": [{"id": "a"}, {"id": "b"}]})));
    }

    #[test]
    fn a_long_commented_out_part_is_no_error() {
        let comments = "# - id: old\n".repeat(5000);
        let (value, errors) = read(&format!("a:\n{comments}  - 1\n{comments}"));
        assert_eq!((value, errors), (Some(json!({"a": [1]})), String::new()));
    }
}
