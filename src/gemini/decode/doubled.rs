//! Events in which a field stands twice: in both spellings (`responseId` and `response_id`), as
//! gateways that translate answers were seen to send, or in the same one. Serde takes that for an
//! error, which would throw away an image that is paid for.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::gemini::wire::AnswerChunk;

/// Reads an event. Only one that serde does not take costs a second reading.
pub(super) fn read_chunk(text: &str) -> serde_json::Result<AnswerChunk> {
    serde_json::from_str(text).or_else(|error| {
        let merged = serde_json::from_str::<Merged>(text).ok().filter(|_| error.is_data());
        merged.and_then(|Merged(value)| serde_json::from_value(value).ok()).ok_or(error)
    })
}

/// A value in which every field stands once, in camel case: the first one that says something.
struct Merged(Value);

impl<'de> Deserialize<'de> for Merged {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut merged = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            // The details of an error have names of their own, in either case.
            let value = if name == "error" { map.next_value()? } else { map.next_value::<Merged>()?.0 };
            let field = merged.entry(camel_case(&name)).or_insert(Value::Null);
            if says_nothing(field) {
                *field = value;
            }
        }
        Ok(Value::Object(merged))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Merged(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// `finish_reason` as `finishReason`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> AnswerChunk {
        read_chunk(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_field_in_both_spellings_costs_no_image() {
        let chunk = read(
            r##"{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png","mime_type":"image/webp",
            "data":"#1"},"inline_data":null}]},"finish_reason":"STOP","finishReason":"STOP","index":0}],
            "responseId":null,"response_id":"r-1","usageMetadata":{"totalTokenCount":7,"total_token_count":8,
            "promptTokensDetails":[],"prompt_tokens_details":[{"modality":"TEXT","tokenCount":3,"token_count":4}]},
            "usage_metadata":{"total_token_count":9},"modelVersion":"m","model_version":"n"}"##,
        );
        assert_eq!(chunk.response_id.as_deref(), Some("r-1"));
        assert_eq!(chunk.model_version.as_deref(), Some("m"));
        let usage = chunk.usage_metadata.expect("usage");
        assert_eq!(usage.total_token_count, Some(7));
        assert_eq!(usage.prompt_tokens_details[0].token_count, 3);
        let candidate = &chunk.candidates[0];
        assert_eq!(candidate.finish_reason.as_deref(), Some("STOP"));
        let part = &candidate.content.as_ref().expect("content").parts[0];
        let image = part.inline_data.as_ref().expect("an image");
        assert_eq!((image.mime_type.as_deref(), image.data.as_deref()), (Some("image/png"), Some("#1")));
    }

    #[test]
    fn the_same_spelling_twice_is_taken_too_and_an_error_keeps_its_details() {
        let chunk =
            read(r#"{"responseId":"a","responseId":"b","error":{"quota_limit":"x","quotaLimit":1.5}}"#);
        assert_eq!(chunk.response_id.as_deref(), Some("a"));
        assert_eq!(chunk.error.expect("an error")["quota_limit"], "x");
    }

    #[test]
    fn what_is_no_answer_is_still_an_error() {
        for text in [r#"{"candidates":7}"#, r#"{"responseId":"a","responseId":"b","candidates":7}"#, "[", "7"]
        {
            assert!(read_chunk(text).is_err(), "{text}");
        }
    }
}
