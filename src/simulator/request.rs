//! What a request must look like, by the provider's OpenAPI page: checked field by field,
//! fields of Google's public schema tolerated, everything else refused as Google refuses it.
//! Both spellings of a name are read, as Google reads them.

use serde_json::{Map, Value};

use super::refusal::Refusal;
use crate::job::{Digest, DigestWriter, MediaType, ModelFacts};

/// How it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `generateContent`: one JSON object.
    Generate,
    /// `streamGenerateContent`: a stream of them.
    Stream,
}

impl Method {
    /// As it stands in the path.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generateContent",
            Self::Stream => "streamGenerateContent",
        }
    }
}

/// A request that follows the API.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) model: &'static ModelFacts,
    /// All texts, joined by line ends.
    pub(super) prompt: String,
    pub(super) references: Vec<SentImage>,
    pub(super) ratio: String,
    pub(super) size: String,
    /// A caption is wanted too.
    pub(super) text: bool,
    /// Digest of all of it: equal requests are tries of the same job.
    pub(super) digest: Digest,
}

/// A reference image as it arrived.
#[derive(Debug, Clone)]
pub(super) struct SentImage {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
}

/// Sizes on the pages, for all models; Google's own lists are added by model.
const SIZES_PAGES: &[&str] = &["1K", "2K", "4K"];
/// The ratio of a picture whose request names none.
const RATIO_DEFAULT: &str = "1:1";
/// The size of a picture whose request names none (the pages' parameter table).
const SIZE_DEFAULT: &str = "1K";

// Google's public schema of generateContent (ai.google.dev/api/generate-content, read 2026-11).
const REQUEST_FIELDS: &[&str] = &[
    "model",
    "contents",
    "generationConfig",
    "tools",
    "toolConfig",
    "safetySettings",
    "systemInstruction",
    "cachedContent",
    "labels",
    "serviceTier",
    "store",
];
const CONTENT_FIELDS: &[&str] = &["role", "parts"];
const PART_FIELDS: &[&str] = &[
    "text",
    "inlineData",
    "thought",
    "thoughtSignature",
    "functionCall",
    "functionResponse",
    "fileData",
    "executableCode",
    "codeExecutionResult",
    "toolCall",
    "toolResponse",
    "partMetadata",
    "videoMetadata",
    "mediaResolution",
];
const INLINE_DATA_FIELDS: &[&str] = &["mimeType", "data", "displayName"];
const CONFIG_FIELDS: &[&str] = &[
    "responseModalities",
    "imageConfig",
    "stopSequences",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "candidateCount",
    "maxOutputTokens",
    "temperature",
    "topP",
    "topK",
    "seed",
    "presencePenalty",
    "frequencyPenalty",
    "responseLogprobs",
    "logprobs",
    "enableEnhancedCivicAnswers",
    "speechConfig",
    "thinkingConfig",
    "mediaResolution",
    "audioTimestamp",
    "routingConfig",
    "modelSelectionConfig",
    "personGeneration",
    "enableAffectiveDialog",
    "responseFormat",
];
const IMAGE_CONFIG_FIELDS: &[&str] = &[
    "aspectRatio",
    "imageSize",
    "personGeneration",
    "prominentPeople",
    "imageOutputOptions",
    "outputMimeType",
    "outputCompressionQuality",
    "numberOfImages",
];

/// Checks a request's body.
pub(super) fn parse_ask(model: &'static ModelFacts, body: &[u8]) -> Result<Ask, Refusal> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|error| Refusal::invalid("", &format!("Invalid JSON payload received. {error}")))?;
    let root = Fields::of(&body, "", REQUEST_FIELDS)?;
    let mut ask = Ask {
        model,
        prompt: String::new(),
        references: Vec::new(),
        ratio: RATIO_DEFAULT.to_owned(),
        size: SIZE_DEFAULT.to_owned(),
        text: false,
        digest: Digest::of(b""),
    };
    read_contents(&root, &mut ask)?;
    read_config(&root, &mut ask)?;
    ask.digest = digest(&ask);
    Ok(ask)
}

fn digest(ask: &Ask) -> Digest {
    let writer = DigestWriter::new("simulator ask 1")
        .field("model", ask.model.name.as_bytes())
        .field("prompt", ask.prompt.as_bytes())
        .field("ratio", ask.ratio.as_bytes())
        .field("size", ask.size.as_bytes())
        .field("text", &[u8::from(ask.text)]);
    let with_reference =
        |writer: DigestWriter, image: &SentImage| writer.field("ref", image.digest.to_string().as_bytes());
    ask.references.iter().fold(writer, with_reference).finish()
}

fn read_contents(root: &Fields<'_>, ask: &mut Ask) -> Result<(), Refusal> {
    let contents = root.array("contents")?;
    let mut texts = Vec::new();
    for (number, content) in contents.iter().enumerate() {
        let content = Fields::of(content, &format!("contents[{number}]"), CONTENT_FIELDS)?;
        if let Some(role) = content.get("role") {
            content.one_of("role", role, &["user", "model"])?;
        }
        for (number, part) in content.array("parts")?.iter().enumerate() {
            let part = Fields::of(part, &format!("{}.parts[{number}]", content.path), PART_FIELDS)?;
            match (part.get("text"), part.get("inlineData")) {
                (Some(text), None) => texts.push(part.text("text", text)?.to_owned()),
                (None, Some(image)) => {
                    let path = format!("{}.inline_data", part.path);
                    ask.references.push(read_image(&Fields::of(image, &path, INLINE_DATA_FIELDS)?)?);
                }
                (Some(_), Some(_)) => {
                    return Err(part.wrong("data", "oneof field 'data' is already set: text and inline_data"));
                }
                (None, None) => {
                    return Err(
                        part.wrong("data", "required oneof field 'data' must have one initialized field")
                    );
                }
            }
        }
    }
    ask.prompt = texts.join("\n");
    if ask.prompt.trim().is_empty() {
        return Err(root.wrong("contents", "a text part with a prompt is required"));
    }
    Ok(())
}

fn read_image(image: &Fields<'_>) -> Result<SentImage, Refusal> {
    let mime = image.required("mimeType")?;
    let mime = image.one_of("mimeType", mime, &["image/jpeg", "image/png", "image/webp"])?;
    let data = image.required("data")?;
    let bytes = decode_base64(image.text("data", data)?)
        .ok_or_else(|| image.wrong("data", "Invalid value (TYPE_BYTES), Base64 decoding failed"))?;
    match MediaType::of(&bytes) {
        Some(found) if found.mime() == mime => Ok(SentImage { digest: Digest::of(&bytes), bytes }),
        Some(found) => {
            Err(image
                .wrong("data", &format!("Unable to process input image: declared {mime}, found {found}")))
        }
        None => Err(image.wrong("data", "Unable to process input image: not a JPEG, PNG or WebP")),
    }
}

/// Google takes both alphabets, with and without padding; its own SDK sends the URL-safe one.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let engines = [
        base64_simd::STANDARD,
        base64_simd::URL_SAFE,
        base64_simd::STANDARD_NO_PAD,
        base64_simd::URL_SAFE_NO_PAD,
    ];
    engines.iter().find_map(|engine| engine.decode_to_vec(text).ok())
}

fn read_config(root: &Fields<'_>, ask: &mut Ask) -> Result<(), Refusal> {
    let config = Fields::of(root.required("generationConfig")?, "generation_config", CONFIG_FIELDS)?;
    let modalities = config.array("responseModalities")?;
    let mut image = false;
    for modality in modalities {
        match config.one_of("responseModalities", modality, &["TEXT", "IMAGE"])? {
            "TEXT" => ask.text = true,
            _ => image = true,
        }
    }
    if !image {
        return Err(config.wrong("responseModalities", "must contain IMAGE for an image model"));
    }
    let Some(image_config) = config.get("imageConfig") else { return Ok(()) };
    let fields = Fields::of(image_config, "generation_config.image_config", IMAGE_CONFIG_FIELDS)?;
    if let Some(ratio) = fields.get("aspectRatio") {
        let known = [ask.model.ratios_documented, ask.model.ratios_google].concat();
        ask.ratio = fields.one_of("aspectRatio", ratio, &known)?.to_owned();
    }
    if let Some(size) = fields.get("imageSize") {
        let known = [SIZES_PAGES, ask.model.sizes].concat();
        ask.size = fields.one_of("imageSize", size, &known)?.to_owned();
    }
    Ok(())
}

/// An object whose names have been checked.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: String,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, path: &str, known: &[&str]) -> Result<Self, Refusal> {
        let Value::Object(map) = value else {
            let message = format!("Invalid value at '{path}', expected an object");
            return Err(Refusal::invalid(path, &message));
        };
        let unknown = map.keys().find(|key| !known.iter().any(|name| *key == name || **key == snake(name)));
        if let Some(key) = unknown {
            let at = if path.is_empty() { String::new() } else { format!(" at '{path}'") };
            let message =
                format!("Invalid JSON payload received. Unknown name \"{key}\"{at}: Cannot find field.");
            return Err(Refusal::invalid(path, &message));
        }
        Ok(Self { map, path: path.to_owned() })
    }

    /// A field by its camelCase name, in either spelling. `null` is as if it were absent.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).or_else(|| self.map.get(&snake(name))).filter(|value| !value.is_null())
    }

    fn required(&self, name: &str) -> Result<&'a Value, Refusal> {
        self.get(name).ok_or_else(|| self.wrong(name, "is required"))
    }

    /// A list that must be there and not be empty.
    fn array(&self, name: &str) -> Result<&'a [Value], Refusal> {
        match self.required(name)? {
            Value::Array(items) if !items.is_empty() => Ok(items),
            Value::Array(_) => Err(self.wrong(name, "must not be empty")),
            _ => Err(self.wrong(name, "expected a list")),
        }
    }

    fn text(&self, name: &str, value: &'a Value) -> Result<&'a str, Refusal> {
        value.as_str().ok_or_else(|| self.wrong(name, "expected a text (TYPE_STRING)"))
    }

    fn one_of(&self, name: &str, value: &'a Value, known: &[&str]) -> Result<&'a str, Refusal> {
        let text = self.text(name, value)?;
        let expected = || format!("invalid value \"{text}\", expected one of {}", known.join(", "));
        if known.contains(&text) { Ok(text) } else { Err(self.wrong(name, &expected())) }
    }

    fn wrong(&self, name: &str, what: &str) -> Refusal {
        let dot = if self.path.is_empty() { "" } else { "." };
        let field = format!("{}{dot}{}", self.path, snake(name));
        Refusal::invalid(&field, &format!("* GenerateContentRequest.{field}: {what}"))
    }
}

/// `inlineData` → `inline_data`.
pub(super) fn snake(camel: &str) -> String {
    let mut out = String::with_capacity(camel.len() + 4);
    for c in camel.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
