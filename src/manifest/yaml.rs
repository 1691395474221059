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
            // Of millions of small ones, the room to grow would be most of the memory.
            Open::List(mut items) => {
                items.shrink_to_fit();
                Value::List(items)
            }
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
                entries.shrink_to_fit();
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
#[path = "yaml_tests.rs"]
mod tests;
