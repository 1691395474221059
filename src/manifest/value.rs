//! Raw nodes as JSON values: what `extra` adds to a request.

use serde_json::Map;

use super::diagnostic::{Collector, Location, excerpt};
use super::json;
use super::raw::{Kind, Node, Scalar, Value};

/// A node as JSON, for `extra`; `None` when an error was reported.
pub(super) fn to_json(node: &Node<'_>, out: &mut Collector) -> Option<serde_json::Value> {
    match &node.value {
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(|item| to_json(item, out)).collect();
            items.into_iter().collect::<Option<Vec<_>>>().map(serde_json::Value::Array)
        }
        Value::Map(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|one| Some((one.key.to_string(), to_json(&one.value, out)?))).collect();
            entries.into_iter().collect::<Option<Map<_, _>>>().map(serde_json::Value::Object)
        }
        Value::Scalar(scalar) => scalar_to_json(scalar, node.at, out),
    }
}

fn scalar_to_json(scalar: &Scalar<'_>, at: Location, out: &mut Collector) -> Option<serde_json::Value> {
    let text = scalar.text.as_ref();
    match scalar.kind {
        Kind::Text | Kind::Cell => Some(text.into()),
        Kind::Null => Some(serde_json::Value::Null),
        Kind::Bool => Some(text.eq_ignore_ascii_case("true").into()),
        Kind::YesNo => {
            let message = format!(
                "{} can be text or a truth value; put it in quotes or write true or false",
                excerpt(text)
            );
            out.error(at, message);
            None
        }
        Kind::Number => {
            let number = if json::is_json_number(text) { serde_json::from_str(text).ok() } else { None };
            if number.is_none() {
                let message = format!(
                    "the number {} is none that JSON can hold; put it in quotes if it is text",
                    excerpt(text)
                );
                out.error(at, message);
            }
            number.map(serde_json::Value::Number)
        }
    }
}
