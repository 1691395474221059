//! What travels on the wire, field by field as the provider's pages have it. The client writes
//! requests and reads answers; the simulator does the reverse with the same types.
//!
//! Requests are snake case inside parts (`inline_data`, `mime_type`) and camel case outside, as
//! the pages send them. Answers are camel case, and both spellings are read. Every field of an
//! answer may be missing or `null`; unknown fields are ignored.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// `null` where a list, an object or a text is expected means: nothing.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Beside an image that was paid for, a count or an id of the wrong kind is worth no error: it
/// reads as absent.
fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + DeserializeOwned,
{
    Ok(T::deserialize(Value::deserialize(deserializer)?).unwrap_or_default())
}

/// The body of a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// Turns of the conversation; nightpress sends one.
    pub contents: Vec<RequestContent>,
    /// How to answer.
    #[serde(rename = "generationConfig")]
    pub generation_config: GenerationConfig,
    /// Whatever the manifest's `extra` adds.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestContent {
    /// `user` or `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Text and reference images.
    pub parts: Vec<RequestPart>,
}

/// One part of a turn: a text or an image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RequestPart {
    /// A prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A reference image.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "inlineData")]
    pub inline_data: Option<RequestImage>,
}

/// A reference image in a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RequestImage {
    /// `image/png`, `image/jpeg` or `image/webp`.
    #[serde(alias = "mimeType")]
    pub mime_type: String,
    /// Base64, standard alphabet, padded.
    pub data: String,
}

/// How to answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GenerationConfig {
    /// `["IMAGE"]` or `["TEXT", "IMAGE"]`.
    #[serde(rename = "responseModalities")]
    pub response_modalities: Vec<String>,
    /// Shape and size.
    #[serde(rename = "imageConfig", default, skip_serializing_if = "Option::is_none")]
    pub image_config: Option<ImageConfig>,
    /// Whatever the manifest's `extra` adds.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Shape and size of the picture.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `16:9` …
    #[serde(rename = "aspectRatio", default, skip_serializing_if = "Option::is_none")]
    pub aspect_ratio: Option<String>,
    /// `1K`, `2K`, `4K`.
    #[serde(rename = "imageSize", default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<String>,
    /// Whatever the manifest's `extra` adds.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One event of a stream, one element of an array, or the whole answer of `generateContent`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerChunk {
    /// Present in thinking and image chunks, absent in the final usage chunk.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// Why the prompt was refused.
    #[serde(
        rename = "promptFeedback",
        alias = "prompt_feedback",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub prompt_feedback: Option<PromptFeedback>,
    /// Tokens so far: cumulative, the last value of each field counts.
    #[serde(
        rename = "usageMetadata",
        alias = "usage_metadata",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub usage_metadata: Option<UsageMetadata>,
    /// Who answered.
    #[serde(
        rename = "modelVersion",
        alias = "model_version",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub model_version: Option<String>,
    /// When, RFC 3339.
    #[serde(
        rename = "createTime",
        alias = "create_time",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub create_time: Option<String>,
    /// The provider's id for the answer.
    #[serde(
        rename = "responseId",
        alias = "response_id",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub response_id: Option<String>,
    /// An error inside a 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
}

/// One proposed answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Candidate {
    /// Its parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<AnswerContent>,
    /// Why it ended; an open set of words.
    #[serde(
        rename = "finishReason",
        alias = "finish_reason",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub finish_reason: Option<String>,
    /// The same as prose.
    #[serde(
        rename = "finishMessage",
        alias = "finish_message",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub finish_message: Option<String>,
    /// Its number.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
}

/// The parts of an answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerContent {
    /// `model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Thoughts, captions, images.
    #[serde(deserialize_with = "null_as_default")]
    pub parts: Vec<AnswerPart>,
}

/// One part of an answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerPart {
    /// A caption, a thought, or a URL.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// True on thinking: neither its text nor its image is a result.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub thought: Option<bool>,
    /// An image as base64.
    #[serde(
        rename = "inlineData",
        alias = "inline_data",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub inline_data: Option<InlineData>,
    /// An image by URL.
    #[serde(
        rename = "fileData",
        alias = "file_data",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub file_data: Option<FileData>,
    /// Opaque; can be larger than the image. Never collected.
    #[serde(
        rename = "thoughtSignature",
        alias = "thought_signature",
        skip_serializing_if = "Option::is_none"
    )]
    pub thought_signature: Option<String>,
}

/// An image in an answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InlineData {
    /// The declared type. It lies at times; the bytes decide.
    #[serde(
        rename = "mimeType",
        alias = "mime_type",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub mime_type: Option<String>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

/// An image by URL.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FileData {
    /// The declared type.
    #[serde(
        rename = "mimeType",
        alias = "mime_type",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub mime_type: Option<String>,
    /// Where it lies.
    #[serde(
        rename = "fileUri",
        alias = "file_uri",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub file_uri: Option<String>,
}

/// Why a prompt was refused.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptFeedback {
    /// An open set of words; absent when the prompt passed.
    #[serde(
        rename = "blockReason",
        alias = "block_reason",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub block_reason: Option<String>,
    /// The same as prose.
    #[serde(
        rename = "blockReasonMessage",
        alias = "block_reason_message",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub block_reason_message: Option<String>,
}

/// Tokens of an answer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UsageMetadata {
    /// Tokens of the request.
    #[serde(
        alias = "prompt_token_count",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub prompt_token_count: Option<u64>,
    /// Tokens of the answer without thoughts.
    #[serde(
        alias = "candidates_token_count",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub candidates_token_count: Option<u64>,
    /// All of them.
    #[serde(
        alias = "total_token_count",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub total_token_count: Option<u64>,
    /// Tokens of thinking.
    #[serde(
        alias = "thoughts_token_count",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub thoughts_token_count: Option<u64>,
    /// Tokens of the request that were cached.
    #[serde(
        alias = "cached_content_token_count",
        deserialize_with = "lenient",
        skip_serializing_if = "Option::is_none"
    )]
    pub cached_content_token_count: Option<u64>,
    /// `ON_DEMAND` …
    #[serde(alias = "traffic_type", deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub traffic_type: Option<String>,
    /// The request's tokens by kind.
    #[serde(
        alias = "prompt_tokens_details",
        deserialize_with = "lenient",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub prompt_tokens_details: Vec<ModalityTokens>,
    /// The answer's tokens by kind; need not add up to the count.
    #[serde(
        alias = "candidates_tokens_details",
        deserialize_with = "lenient",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub candidates_tokens_details: Vec<ModalityTokens>,
}

/// Tokens of one kind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModalityTokens {
    /// `TEXT`, `IMAGE` …
    #[serde(deserialize_with = "lenient")]
    pub modality: String,
    /// How many.
    #[serde(rename = "tokenCount", alias = "token_count", deserialize_with = "lenient")]
    pub token_count: u64,
}
