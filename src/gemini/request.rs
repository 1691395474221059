//! A job's spec as a request: where it goes and what its body is.
//!
//! A reference image is read and encoded while the request is sent. Its base64 is never held,
//! and the body's length is known before the first byte leaves.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, Stream, TryStreamExt as _};
use serde_json::{Map, Value, json};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::io::StreamReader;
use url::Url;

use super::key::Key;
use crate::job::{Provider, Reference, Spec, merge_json};
use crate::manifest::Objects;

/// How much of a reference is read and encoded at once; a multiple of 3, so that only the last
/// block is padded.
const REFERENCE_BLOCK_BYTES: usize = 96 * 1024;

/// Where requests go and how they are authenticated.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Decides authentication.
    pub provider: Provider,
    /// Origin with an optional prefix, without a version.
    pub base_url: Url,
    /// The key.
    pub key: Key,
}

impl Endpoint {
    /// The URL of a request, with the key where the provider takes it from the query. Never to
    /// be printed.
    pub(super) fn url(&self, model: &str, method: Method) -> Url {
        let mut url = self.base_url.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{prefix}/v1beta/models/{model}:{}", method.as_str()));
        url.set_query(None);
        {
            let mut query = url.query_pairs_mut();
            if self.key_in_query() {
                query.append_pair("key", self.key.expose());
            }
            if method == Method::Stream {
                query.append_pair("alt", "sse");
            }
        }
        if url.query() == Some("") {
            url.set_query(None);
        }
        url
    }

    pub(super) fn key_in_query(&self) -> bool {
        self.provider != Provider::Google
    }
}

/// The two methods of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `generateContent`: one JSON object.
    Once,
    /// `streamGenerateContent` with `alt=sse`.
    Stream,
}

impl Method {
    /// The method that a job's `stream` asks for.
    pub const fn of(stream: bool) -> Self {
        if stream { Self::Stream } else { Self::Once }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Once => "generateContent",
            Self::Stream => "streamGenerateContent",
        }
    }
}

/// A request's body: pieces of JSON with files between them.
#[derive(Debug)]
pub struct RequestBody {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Json(Bytes),
    Picture(Reference),
}

impl RequestBody {
    /// The body for `spec`: the prompt, then the references, in one `parts` array.
    pub fn new(spec: &Spec) -> Self {
        let mut pieces = vec![Piece::Json(
            format!(r#"{{"contents":[{{"role":"user","parts":[{}"#, json!({ "text": spec.prompt })).into(),
        )];
        for reference in &spec.references {
            let head = format!(r#",{{"inline_data":{{"mime_type":"{}","data":""#, reference.media.mime());
            pieces.push(Piece::Json(head.into()));
            pieces.push(Piece::Picture(reference.clone()));
            pieces.push(Piece::Json(Bytes::from_static(br#""}}"#)));
        }
        let mut tail = String::from("]}]");
        for (name, value) in options(spec) {
            tail = format!("{tail},{}:{value}", Value::from(name));
        }
        tail.push('}');
        pieces.push(Piece::Json(tail.into()));
        Self { pieces }
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Json(json) => json.len() as u64,
                Piece::Picture(reference) => reference.bytes.div_ceil(3) * 4,
            })
            .sum()
    }

    /// Its bytes, read and encoded as they are asked for; from `objects` what is in object storage. Fails if a
    /// reference is not as long as it was when the manifest was read.
    pub fn into_stream(
        self,
        objects: Option<Arc<dyn Objects>>,
    ) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
        let start = (self.pieces.into_iter(), None::<OpenReference>, objects);
        stream::try_unfold(start, |(mut pieces, mut open, objects)| async move {
            loop {
                if let Some(mut file) = open.take()
                    && let Some(block) = file.next_block().await?
                {
                    return Ok(Some((block, (pieces, Some(file), objects))));
                }
                match pieces.next() {
                    None => return Ok(None),
                    Some(Piece::Json(json)) => return Ok(Some((json, (pieces, None, objects)))),
                    Some(Piece::Picture(reference)) => {
                        open = Some(OpenReference::open(reference, objects.as_ref()).await?);
                    }
                }
            }
        })
    }
}

/// Everything of the body but `contents`: `generationConfig` and what `extra` adds. Objects are
/// merged key by key; anything else in `extra` wins over what the job's own keys say.
fn options(spec: &Spec) -> Map<String, Value> {
    let mut config = Map::new();
    config.insert("responseModalities".to_owned(), json!(spec.modalities.as_array()));
    let mut image = Map::new();
    if let Some(ratio) = &spec.aspect_ratio {
        image.insert("aspectRatio".to_owned(), json!(ratio));
    }
    if let Some(size) = &spec.image_size {
        image.insert("imageSize".to_owned(), json!(size));
    }
    if !image.is_empty() {
        config.insert("imageConfig".to_owned(), Value::Object(image));
    }
    let mut options = Map::new();
    options.insert("generationConfig".to_owned(), Value::Object(config));
    for (name, value) in &spec.extra {
        merge_json(options.entry(name).or_insert(Value::Null), value);
    }
    options.remove("contents");
    options
}

/// A reference that could not be read to the length it had when the manifest was read.
#[derive(Debug, thiserror::Error)]
#[error("reference {} changed while it was sent: {error}", path.display())]
pub(super) struct ReferenceGone {
    path: PathBuf,
    error: std::io::Error,
}

fn gone(path: PathBuf, error: std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), ReferenceGone { path, error })
}

/// A reference that is being sent.
struct OpenReference {
    source: Box<dyn AsyncRead + Send + Unpin>,
    path: PathBuf,
    left: u64,
}

impl OpenReference {
    async fn open(reference: Reference, objects: Option<&Arc<dyn Objects>>) -> std::io::Result<Self> {
        let source: Box<dyn AsyncRead + Send + Unpin> = match (reference.object(), objects) {
            (Some(url), Some(objects)) => {
                let found = objects.stamp(&url).await.map_err(std::io::Error::other)?;
                if found.bytes != reference.bytes {
                    return Err(gone(reference.path, std::io::ErrorKind::UnexpectedEof.into()));
                }
                let blocks = objects.read(&url, &found).await.map_err(std::io::Error::other)?;
                Box::new(StreamReader::new(blocks.map_err(std::io::Error::other)))
            }
            _ => Box::new(File::open(&reference.path).await?),
        };
        Ok(Self { source, path: reference.path, left: reference.bytes })
    }

    async fn next_block(&mut self) -> std::io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(REFERENCE_BLOCK_BYTES);
        let mut block = vec![0; wanted];
        self.source.read_exact(&mut block).await.map_err(|error| gone(self.path.clone(), error))?;
        self.left -= wanted as u64;
        Ok(Some(base64_simd::STANDARD.encode_to_string(&block).into()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::gemini::wire::GenerateRequest;
    use crate::job::{Digest, MediaType, Modalities, ModelName, Reference};

    fn spec(prompt: &str) -> Spec {
        Spec::new(prompt, ModelName::default_model())
    }

    async fn sent(spec: &Spec) -> Vec<u8> {
        let body = RequestBody::new(spec);
        let announced = body.bytes();
        let blocks: Vec<Bytes> = body.into_stream(None).try_collect().await.expect("streams");
        let bytes = blocks.concat();
        assert_eq!(bytes.len() as u64, announced, "the announced length is wrong");
        bytes
    }

    fn endpoint(provider: Provider, base: &str) -> Endpoint {
        Endpoint {
            provider,
            base_url: base.parse().expect("url"),
            key: Key::new("secret/+key").expect("key"),
        }
    }

    #[tokio::test]
    async fn a_prompt_travels_byte_for_byte_and_nothing_is_sent_that_was_not_given() {
        let prompt = " “quoted” {{ braces }} \u{2028} \\ \"\t\u{1} 猫 ";
        let value: Value = serde_json::from_slice(&sent(&spec(prompt)).await).expect("json");
        assert_eq!(
            value,
            json!({
                "contents": [{ "role": "user", "parts": [{ "text": prompt }] }],
                "generationConfig": { "responseModalities": ["IMAGE"] },
            })
        );
    }

    #[tokio::test]
    async fn references_follow_the_text_in_one_parts_array() {
        let mut file = tempfile::NamedTempFile::new().expect("temp file");
        // Longer than a block and no multiple of 3, so that blocks and padding are seen.
        let content: Vec<u8> = (0..=REFERENCE_BLOCK_BYTES * 2).map(|n| (n % 251) as u8).collect();
        file.write_all(&content).expect("writes");
        let mut spec = spec("edit");
        spec.modalities = Modalities::TextImage;
        spec.aspect_ratio = Some("16:9".to_owned());
        spec.references = vec![Reference {
            path: file.path().to_owned(),
            digest: Digest::of(&content),
            bytes: content.len() as u64,
            media: MediaType::Jpeg,
        }];
        let request: GenerateRequest = serde_json::from_slice(&sent(&spec).await).expect("json");
        let parts = &request.contents[0].parts;
        assert_eq!(parts[0].text.as_deref(), Some("edit"));
        let image = parts[1].inline_data.as_ref().expect("an image");
        assert_eq!(image.mime_type, "image/jpeg");
        assert_eq!(base64_simd::STANDARD.decode_to_vec(&image.data).expect("base64"), content);
        assert_eq!(request.generation_config.response_modalities, ["TEXT", "IMAGE"]);
    }

    #[tokio::test]
    async fn extra_is_merged_into_the_body_and_cannot_replace_the_contents() {
        let mut spec = spec("a cat");
        spec.image_size = Some("2K".to_owned());
        spec.extra = serde_json::from_value(json!({
            "contents": [],
            "generationConfig": { "temperature": 0.5, "imageConfig": { "personGeneration": "ALLOW_ALL" } },
            "safetySettings": [{ "category": "X" }],
        }))
        .expect("json");
        let value: Value = serde_json::from_slice(&sent(&spec).await).expect("json");
        assert_eq!(value["contents"][0]["parts"][0]["text"], "a cat");
        assert_eq!(value["generationConfig"]["temperature"], 0.5);
        assert_eq!(
            value["generationConfig"]["imageConfig"],
            json!({ "imageSize": "2K", "personGeneration": "ALLOW_ALL" })
        );
        assert_eq!(value["safetySettings"][0]["category"], "X");
    }

    #[tokio::test]
    async fn a_reference_that_became_shorter_stops_the_request() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        let mut spec = spec("edit");
        spec.references = vec![Reference {
            path: file.path().to_owned(),
            digest: Digest::of(b""),
            bytes: 10,
            media: MediaType::Png,
        }];
        let result: Result<Vec<Bytes>, _> = RequestBody::new(&spec).into_stream(None).try_collect().await;
        assert!(result.expect_err("too short").to_string().contains("changed while it was sent"));
    }

    #[test]
    fn the_key_is_in_the_query_for_the_gateway_and_not_for_google() {
        let gateway = endpoint(Provider::Anyfast, "https://www.anyfast.ai");
        assert_eq!(
            gateway.url("gemini-2.5-flash-image", Method::Stream).as_str(),
            "https://www.anyfast.ai/v1beta/models/gemini-2.5-flash-image:streamGenerateContent?key=secret%2F%2Bkey&alt=sse"
        );
        let google = endpoint(Provider::Google, "https://host.test/prefix/");
        assert_eq!(
            google.url("gemini-3-pro-image", Method::Once).as_str(),
            "https://host.test/prefix/v1beta/models/gemini-3-pro-image:generateContent"
        );
    }
}
