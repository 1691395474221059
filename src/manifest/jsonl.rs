//! JSONL: one JSON object a line, read as a stream.

use std::io::BufRead;

use super::check::Checker;
use super::diagnostic::Location;
use super::json;
use super::lines::{LineError, Lines};
use super::raw::{Node, Value};

/// Reads all lines; blank ones are skipped. A first object without a prompt may hold `version`
/// and `defaults`. A syntax error spoils its own line only.
pub(super) fn read(input: &mut dyn BufRead, checker: &mut Checker<'_>) -> Result<(), LineError> {
    let mut lines = Lines::new(input);
    let mut line = String::new();
    let mut first = true;
    loop {
        line.clear();
        if !lines.read_onto(&mut line)? {
            return Ok(());
        }
        if line.trim().is_empty() {
            continue;
        }
        let at = Location { line: lines.number(), column: 1 };
        let parsed = json::parse(line.trim_end_matches(['\r', '\n']), at, checker.out());
        if let Some(node) = parsed.root.filter(|_| parsed.whole) {
            if first && is_header(&node) {
                checker.header(node);
            } else if checker.job(node).is_break() {
                return Ok(());
            }
        } else {
            checker.job_was_unreadable();
        }
        first = false;
    }
}

/// Whether a line sets up the others: it has `version` or `defaults` and is no job.
fn is_header(node: &Node<'_>) -> bool {
    let Value::Map(entries) = &node.value else { return false };
    let has = |key: &str| entries.iter().any(|entry| entry.key == key);
    (has("version") || has("defaults")) && !has("prompt")
}
