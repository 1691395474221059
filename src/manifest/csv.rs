//! CSV: a row a job, read as a stream.
//!
//! The rows are split here and not by the `csv` crate, which cannot say where a cell begins,
//! miscounts lines around blank ones and CRLF, and has no bound on a row: a quote that is never
//! closed would read the rest of the file into memory. A test holds the two together.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::BufRead;

use super::check::Checker;
use super::diagnostic::{Location, excerpt};
use super::fields::{JOB_KEYS, known_keys};
use super::lines::{LineError, Lines};
use super::raw::{Cursor, Entry, Kind, Node, Value};
use super::suggest::nearest;
use super::text::NotText;

/// Columns of a table. A job has some twenty keys, the rest are tags; a row of commas alone must
/// not become millions of cells.
const COLUMNS_MAX: usize = 1_000;

/// Reads the header and all rows. Blank lines and rows of empty cells alone are skipped.
pub(super) fn read(input: &mut dyn BufRead, checker: &mut Checker<'_>) -> Result<(), LineError> {
    let mut rows = Rows { lines: Lines::new(input), text: String::new(), cells: Vec::new() };
    loop {
        if !rows.next()? {
            return Ok(());
        }
        if !rows.text.trim().is_empty() {
            break;
        }
    }
    let Some(columns) = columns(&rows, checker) else {
        checker.job_was_unreadable();
        return Ok(());
    };
    while rows.next()? {
        if rows.cells.iter().all(|cell| rows.cell(cell).is_empty()) {
            continue;
        }
        let (found, expected) = (rows.cells.len(), columns.len());
        if found != expected {
            let message = format!(
                "this row has {found} cells where the header has {expected}; a cell with a comma needs quotes"
            );
            checker.out().error(rows.at(), message);
            checker.job_was_unreadable();
        } else if checker.job(row(&rows, &columns)).is_break() {
            break;
        }
    }
    Ok(())
}

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    /// The job key of that name.
    Key(&'static str),
    /// `reference_1`, `reference_2` …: one path each.
    Reference(u32),
    /// A tag.
    Tag(String),
}

/// What the header says the columns are; `None` when it makes no sense to read on.
fn columns(rows: &Rows<'_>, checker: &mut Checker<'_>) -> Option<Vec<Column>> {
    let names: Vec<(Location, Cow<'_, str>)> =
        rows.cells.iter().map(|cell| (cell.at, rows.cell(cell))).collect();
    let has_prompt = names.iter().any(|(_, name)| name == "prompt");
    let mut usable = has_prompt;
    let mut columns = Vec::with_capacity(names.len());
    let mut seen = HashMap::with_capacity(names.len());
    for (n, (at, name)) in names.iter().enumerate() {
        if name.trim().is_empty() {
            checker.out().error(*at, format!("column {} has no name", n + 1));
            usable = false;
        }
        let first = *seen.entry(name).or_insert(n);
        if first < n {
            let message =
                format!("the column {} stands here twice, as {} and {}", excerpt(name), first + 1, n + 1);
            checker.out().error(*at, message);
            usable = false;
        }
        let column = Column::of(name);
        if let (Column::Tag(_), Some(key)) = (&column, nearest(name, JOB_KEYS.iter().copied())) {
            let name = excerpt(name);
            if has_prompt {
                let message = format!("the column {name} becomes a tag; did you mean `{key}`?");
                checker.out().warning(*at, message);
            } else {
                checker.out().error(*at, format!("unknown column {name}, did you mean `{key}`?"));
            }
        }
        columns.push(column);
    }
    if !has_prompt {
        checker.out().error(rows.at(), no_prompt_column(&names));
    }
    usable.then_some(columns)
}

fn no_prompt_column(names: &[(Location, Cow<'_, str>)]) -> String {
    let separator = match names {
        [(_, only)] if only.contains(';') => Some("semicolons"),
        [(_, only)] if only.contains('\t') => Some("tabs"),
        _ => None,
    };
    separator.map_or_else(
        || {
            format!(
                "the first row must name the columns, and one of them must be `prompt`; known names are {}",
                known_keys()
            )
        },
        |separator| format!("the columns are separated by {separator} here; save the table with commas"),
    )
}

impl Column {
    fn of(name: &str) -> Self {
        if let Some(key) = JOB_KEYS.iter().find(|key| **key == name) {
            return Self::Key(key);
        }
        let number = name.strip_prefix("reference_").and_then(|number| number.parse().ok());
        number.map_or_else(|| Self::Tag(name.to_owned()), Self::Reference)
    }
}

/// A row in the shape that a job has in the other formats. An empty cell is a key not given.
fn row<'a>(rows: &'a Rows<'_>, columns: &'a [Column]) -> Node<'a> {
    let mut entries = Vec::with_capacity(columns.len());
    let mut numbered = Vec::new();
    let mut references = Vec::new();
    let mut references_at = None;
    let mut tags = Vec::new();
    for (column, cell) in columns.iter().zip(&rows.cells) {
        let text = rows.cell(cell);
        if text.is_empty() {
            continue;
        }
        let entry = |key: &'a str, text, kind| Entry {
            key: Cow::Borrowed(key),
            key_at: cell.at,
            value: Node::scalar(cell.at, text, kind),
        };
        match column {
            Column::Key("references") => {
                references_at.get_or_insert(cell.at);
                references.extend(items(&text, cell.at));
            }
            Column::Key("fallback_models") => entries.push(Entry {
                key: Cow::Borrowed("fallback_models"),
                key_at: cell.at,
                value: Node { at: cell.at, value: Value::List(items(&text, cell.at)) },
            }),
            Column::Key(key) => entries.push(entry(key, text, Kind::Cell)),
            Column::Reference(n) => {
                references_at.get_or_insert(cell.at);
                numbered.push((*n, Node::scalar(cell.at, text, Kind::Text)));
            }
            Column::Tag(name) => tags.push(entry(name, text, Kind::Text)),
        }
    }
    numbered.sort_by_key(|(n, _)| *n);
    references.extend(numbered.into_iter().map(|(_, node)| node));
    if let Some(at) = references_at {
        let value = Node { at, value: Value::List(references) };
        entries.push(Entry { key: Cow::Borrowed("references"), key_at: at, value });
    }
    if !tags.is_empty() {
        let value = Node { at: rows.at(), value: Value::Map(tags) };
        entries.push(Entry { key: Cow::Borrowed(TAG_COLUMNS), key_at: rows.at(), value });
    }
    Node { at: rows.at(), value: Value::Map(entries) }
}

/// The parts of a cell that holds several, separated by semicolons.
fn items<'a>(cell: &str, at: Location) -> Vec<Node<'a>> {
    let items = cell.split(';').map(str::trim).filter(|item| !item.is_empty());
    items.map(|item| Node::scalar(at, Cow::Owned(item.to_owned()), Kind::Text)).collect()
}

/// The key under which the columns that are no job key reach the checks; a `tags` column, with
/// a JSON object in each cell, may stand beside them.
pub(super) const TAG_COLUMNS: &str = "\0tag columns";

/// The rows of a file, one at a time.
struct Rows<'a> {
    lines: Lines<'a>,
    /// The row's text with its line breaks.
    text: String,
    cells: Vec<Cell>,
}

/// A cell as a range of the row's text.
#[derive(Debug)]
struct Cell {
    at: Location,
    start: usize,
    end: usize,
    /// Holds `""`, which stands for one quote.
    doubled: bool,
}

impl Rows<'_> {
    /// Where the row begins.
    fn at(&self) -> Location {
        self.cells.first().map_or(Location::START, |cell| Location { column: 1, ..cell.at })
    }

    fn cell(&self, cell: &Cell) -> Cow<'_, str> {
        let text = self.text.get(cell.start..cell.end).unwrap_or_default();
        if cell.doubled { Cow::Owned(text.replace("\"\"", "\"")) } else { Cow::Borrowed(text) }
    }

    /// Reads the next row that is not a blank line; `false` at the end.
    fn next(&mut self) -> Result<bool, LineError> {
        loop {
            self.text.clear();
            self.cells.clear();
            if !self.lines.read_onto(&mut self.text)? {
                return Ok(false);
            }
            if !matches!(self.text.as_str(), "\n" | "\r\n" | "\r") {
                break;
            }
        }
        let mut cursor = Cursor::new(Location { line: self.lines.number(), column: 1 });
        let mut start = 0;
        loop {
            let at = cursor.advance(&self.text, start);
            if self.cells.len() == COLUMNS_MAX {
                let message = format!("more than {COLUMNS_MAX} columns; delete those that no job needs");
                return Err(LineError::NotText(NotText { at, message }));
            }
            let quoted = self.text.as_bytes().get(start) == Some(&b'"');
            let next = if quoted { self.quoted_cell(start, at)? } else { self.plain_cell(start, at) };
            match next {
                Some(next) => start = next,
                None => return Ok(true),
            }
        }
    }

    /// A cell without quotes around it; returns where the next one begins.
    fn plain_cell(&mut self, start: usize, at: Location) -> Option<usize> {
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let length = memchr::memchr2(b',', b'\n', rest).unwrap_or(rest.len());
        let comma = rest.get(length) == Some(&b',');
        let end = start + length;
        let carriage_return = !comma && rest.get(..length).is_some_and(|cell| cell.ends_with(b"\r"));
        self.cells.push(Cell { at, start, end: end - usize::from(carriage_return), doubled: false });
        comma.then_some(end + 1)
    }

    /// A cell in quotes, which may go over several lines; returns where the next one begins.
    fn quoted_cell(&mut self, quote: usize, at: Location) -> Result<Option<usize>, LineError> {
        let stop = |at, message: &str| Err(LineError::NotText(NotText { at, message: message.to_owned() }));
        let start = quote + 1;
        let mut doubled = false;
        let mut from = start;
        let end = loop {
            let rest = self.text.as_bytes().get(from..).unwrap_or_default();
            match memchr::memchr(b'"', rest) {
                Some(n) if rest.get(n + 1) == Some(&b'"') => {
                    doubled = true;
                    from += n + 2;
                }
                Some(n) => break from + n,
                None => {
                    from = self.text.len();
                    if !self.lines.read_onto(&mut self.text)? {
                        return stop(at, "the quote that begins this cell is never closed");
                    }
                }
            }
        };
        self.cells.push(Cell { at, start, end, doubled });
        match self.text.as_bytes().get(end + 1..).unwrap_or_default() {
            [b',', ..] => Ok(Some(end + 2)),
            [] | b"\n" | b"\r\n" | b"\r" => Ok(None),
            _ => stop(
                at,
                "there is text after this cell's closing quote; a quote inside a quoted cell is written twice",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(text: &[u8]) -> Result<Vec<Vec<String>>, LineError> {
        let mut input = text;
        let mut rows = Rows { lines: Lines::new(&mut input), text: String::new(), cells: Vec::new() };
        let mut all = Vec::new();
        while rows.next()? {
            all.push(rows.cells.iter().map(|cell| rows.cell(cell).into_owned()).collect());
        }
        Ok(all)
    }

    #[test]
    fn cells_keep_their_bytes() {
        let rows = split(b"a,\" b \"\"c\"\",\nd\",5\" x 7\"\r\n\r\n,\"\"\nlast,\"x\"").expect("reads");
        assert_eq!(rows, [vec!["a", " b \"c\",\nd", "5\" x 7\""], vec!["", ""], vec!["last", "x"]]);
    }

    #[test]
    fn a_cell_knows_where_it_begins() {
        let mut input: &[u8] = b"\n\"x\ny\",b\n";
        let mut rows = Rows { lines: Lines::new(&mut input), text: String::new(), cells: Vec::new() };
        assert!(rows.next().expect("reads"));
        let places: Vec<_> = rows.cells.iter().map(|cell| (cell.at.line, cell.at.column)).collect();
        assert_eq!(places, [(2, 1), (3, 4)]);
    }

    #[test]
    fn wrong_quotes_are_errors_with_a_place() {
        let check = |text: &[u8], line, column, expect: &str| match split(text) {
            Err(LineError::NotText(wrong)) => {
                assert_eq!(wrong.at, Location { line, column });
                assert!(wrong.message.contains(expect), "{}", wrong.message);
            }
            other => panic!("{other:?}"),
        };
        check(b"a\nb,\"c\nd\n", 2, 3, "never closed");
        check(b"\"a\"b,c\n", 1, 1, "closing quote");
    }

    proptest! {
        #[test]
        fn what_the_csv_crate_writes_is_read_back(
            table in prop::collection::vec(prop::collection::vec("[a,\"\r\n \u{e4};]{0,6}", 2), 1..5)
        ) {
            let mut writer = ::csv::Writer::from_writer(Vec::new());
            for row in &table {
                writer.write_record(row).expect("writes");
            }
            let bytes = writer.into_inner().expect("flushes");
            prop_assert_eq!(split(&bytes).expect("reads"), table);
        }
    }
}
