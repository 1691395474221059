//! What is answered: thoughts, a caption, pictures and usage as chunks of the wire types, with
//! the faults that change what an answer holds. How it travels is `framing`'s business.

use bytes::Bytes;
use serde_json::json;

use super::blob::Blobs;
use super::dice::{Dice, Purpose, leading_u64};
use super::encode::{EncodeError, corrupt_png};
use super::fault::Fault;
use super::picture::{Drawing, Picture};
use super::refusal::google_error;
use super::request::Ask;
use super::scenario::Pictures;
use super::tokens::Tally;
use crate::gemini::wire::{
    AnswerChunk, AnswerContent, AnswerPart, Candidate, FileData, InlineData, PromptFeedback, UsageMetadata,
};
use crate::job::{Digest, MediaType};

/// The largest signature that was seen.
const SIGNATURE_BYTES: usize = 3 << 20;
/// One in so many pictures of a 3.x model is a PNG; the others are JPEG.
const PNG_ONE_IN: u64 = 8;
/// Variants that are thought images and no results.
const INTERIM: [u32; 2] = [1, 2];

/// What an answer is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order<'a> {
    pub(super) ask: &'a Ask,
    pub(super) fault: Option<Fault>,
    pub(super) seed: u64,
    pub(super) nth_try: u64,
    pub(super) pictures: &'a Pictures,
    /// Where the simulator's own files lie, without a slash at the end.
    pub(super) files_url: &'a str,
    /// RFC 3339.
    pub(super) create_time: &'a str,
}

/// A composed answer.
#[derive(Debug)]
pub(super) struct Composed {
    pub(super) chunks: Vec<AnswerChunk>,
    pub(super) blobs: Blobs,
    /// What the provider bills for it, told or not.
    pub(super) billed: Tally,
    /// A picture to be served by URL, under its name.
    pub(super) file: Option<(String, Picture)>,
    /// Digests of the result pictures.
    pub(super) images: Vec<Digest>,
}

/// Composes an answer. Blocks while pictures are drawn.
pub(super) fn compose(order: &Order<'_>) -> Result<Composed, EncodeError> {
    let mut composer = Composer {
        order,
        blobs: Blobs::new(&order.ask.digest),
        images: Vec::new(),
        file: None,
        dice: Dice::new(order.seed, Purpose::Answer, &order.ask.digest, 0),
    };
    let mut chunks = composer.thoughts();
    let mut tally = Tally::of(order.ask, order.seed);
    chunks.extend(composer.result()?);
    tally.images(order.ask, composer.images.len() as u64);
    if matches!(order.fault, Some(Fault::StopOnEveryChunk)) {
        for candidate in chunks.iter_mut().flat_map(|chunk| &mut chunk.candidates) {
            candidate.finish_reason = Some("STOP".to_owned());
        }
    }
    composer.add_usage(&mut chunks, &tally);
    composer.sign(&mut chunks);
    Ok(Composed {
        chunks,
        blobs: composer.blobs,
        billed: tally,
        file: composer.file,
        images: composer.images,
    })
}

struct Composer<'a> {
    order: &'a Order<'a>,
    blobs: Blobs,
    images: Vec<Digest>,
    file: Option<(String, Picture)>,
    dice: Dice,
}

impl Composer<'_> {
    fn is(&self, fault: Fault) -> bool {
        self.order.fault == Some(fault)
    }

    /// The 2.5 model does not think.
    fn thoughts(&mut self) -> Vec<AnswerChunk> {
        if self.order.ask.model.name.starts_with("gemini-2.5") {
            return Vec::new();
        }
        let excerpt: String = self.order.ask.prompt.chars().take(120).collect();
        let all = [
            format!("**Considering the Request**\n\nI'm looking at what is asked: \"{excerpt}\".\n\n\n"),
            "**Planning the Composition**\n\nI'm placing the subject and choosing the light.\n\n\n"
                .to_owned(),
            "**Rendering the Scene**\n\nThe palette is settled; now I'm working on details.\n\n\n".to_owned(),
            "**Assessing the Outcome**\n\nI'm checking the picture against the request.\n\n\n".to_owned(),
        ];
        let count = usize::try_from(self.dice.between(2, 4)).unwrap_or(2);
        let thought = |text| AnswerPart { text: Some(text), thought: Some(true), ..AnswerPart::default() };
        all.into_iter().take(count).map(|text| chunk(vec![thought(text)], None)).collect()
    }

    /// All chunks between the thoughts and the usage.
    fn result(&mut self) -> Result<Vec<AnswerChunk>, EncodeError> {
        let ends = |reason: &str, message: &str| {
            let mut chunk = chunk(Vec::new(), Some(reason));
            chunk.candidates[0].finish_message = Some(message.to_owned());
            Ok(vec![chunk])
        };
        match self.order.fault {
            Some(Fault::NoImage) => ends("NO_IMAGE", "The model did not generate the image."),
            Some(Fault::RefusedSafety) => ends(
                "IMAGE_SAFETY",
                "Unable to show the generated image. The image was filtered out because it violated Google's \
                 Responsible AI practices.",
            ),
            Some(Fault::Recitation) => {
                ends("IMAGE_RECITATION", "The image resembles existing content too closely.")
            }
            Some(Fault::MaxTokens) => ends("MAX_TOKENS", "The token limit was reached."),
            Some(Fault::UnknownFinish) => ends("IMAGE_WANDERED_OFF", "Something new."),
            Some(Fault::NoCandidates) => Ok(Vec::new()),
            Some(Fault::EmptyParts) => Ok(vec![chunk(Vec::new(), Some("STOP"))]),
            Some(Fault::TextOnly) => Ok(vec![chunk(
                vec![text_part("I can describe this picture for you, but I did not make one.".to_owned())],
                Some("STOP"),
            )]),
            Some(Fault::PromptBlocked) => Ok(vec![AnswerChunk {
                prompt_feedback: Some(PromptFeedback {
                    block_reason: Some("PROHIBITED_CONTENT".to_owned()),
                    block_reason_message: Some("The prompt was blocked.".to_owned()),
                }),
                ..AnswerChunk::default()
            }]),
            Some(Fault::ErrorInsteadOfImage) => Ok(vec![error_chunk()]),
            Some(Fault::BareErrorAfterEvents) => {
                Ok(vec![chunk(vec![text_part("Here it comes.".to_owned())], None), error_chunk()])
            }
            _ => self.pictures(),
        }
    }

    fn pictures(&mut self) -> Result<Vec<AnswerChunk>, EncodeError> {
        let mut chunks = Vec::new();
        if self.order.ask.text {
            let caption = format!("Here is your image: {}", self.order.ask.prompt);
            chunks.push(chunk(vec![text_part(caption)], None));
        }
        if self.is(Fault::ThoughtImages) {
            for variant in INTERIM {
                let mut part = self.image_part(variant, "")?;
                part.thought = Some(true);
                chunks.push(chunk(vec![part], None));
            }
        }
        let mut parts = vec![self.picture_part()?];
        if self.is(Fault::TwoImages) {
            parts.push(self.image_part(3, "")?);
        }
        if self.is(Fault::SameImageTwice) {
            parts.push(self.image_part(0, "the same again")?);
        }
        if let (true, Some(part)) = (self.is(Fault::HugeSignature), parts.first_mut()) {
            let signature = base64_simd::STANDARD.encode_to_string(vec![0x5a; SIGNATURE_BYTES / 4 * 3]);
            part.thought_signature = Some(self.blobs.add(signature.into()));
        }
        let last = parts.len() - 1;
        for (number, part) in parts.into_iter().enumerate() {
            let ends = number == last && !self.is(Fault::NoSignal);
            chunks.push(chunk(vec![part], ends.then_some("STOP")));
        }
        if self.is(Fault::ErrorAfterImage) {
            chunks.push(error_chunk());
        }
        Ok(chunks)
    }

    /// The part that holds the result, or says where it lies.
    fn picture_part(&mut self) -> Result<AnswerPart, EncodeError> {
        let by_url = |url: String| (url.clone(), text_part(url));
        let base = self.order.files_url;
        let (_, part) = match self.order.fault {
            Some(Fault::ImageUrlMissing) => by_url(format!("{base}/missing.png")),
            Some(Fault::ImageUrlRedirect) => by_url(format!("{base}/redirect.png")),
            Some(Fault::ImageUrlHtml) => by_url(format!("{base}/page.png")),
            Some(Fault::ImageUrlEndless) => by_url(format!("{base}/endless.png")),
            Some(Fault::ImageUrlText) => by_url(self.store()?.0),
            Some(Fault::ImageUrlMarkdown) => {
                let (url, _) = self.store()?;
                (String::new(), text_part(format!("![image]({url})")))
            }
            Some(Fault::ImageUrlFileData) => {
                let (url, media) = self.store()?;
                let file = FileData { mime_type: Some(media.mime().to_owned()), file_uri: Some(url.clone()) };
                (url, AnswerPart { file_data: Some(file), ..AnswerPart::default() })
            }
            Some(Fault::ImageDataUrlMarkdown) => {
                let picture = self.draw(0, "")?;
                let data = self.blobs.add(base64_simd::STANDARD.encode_to_string(&picture.bytes).into());
                let text = format!("![image](data:{};base64,{data})", picture.media);
                (String::new(), text_part(text))
            }
            _ => return self.image_part(0, ""),
        };
        Ok(part)
    }

    /// Draws the result and keeps it to be served; its URL and format.
    fn store(&mut self) -> Result<(String, MediaType), EncodeError> {
        let picture = self.draw(0, "")?;
        let name = format!("{}.{}", self.order.ask.digest, picture.media.extension());
        let found = (format!("{}/{name}", self.order.files_url), picture.media);
        self.file = Some((name, picture));
        Ok(found)
    }

    fn image_part(&mut self, variant: u32, note: &str) -> Result<AnswerPart, EncodeError> {
        let picture = self.draw(variant, note)?;
        let declared = if self.is(Fault::WrongMime) { MediaType::Png } else { picture.media };
        let data = self.blobs.add(self.encoded(&picture));
        let inline = InlineData { mime_type: Some(declared.mime().to_owned()), data: Some(data) };
        Ok(AnswerPart { inline_data: Some(inline), ..AnswerPart::default() })
    }

    fn draw(&mut self, variant: u32, note: &str) -> Result<Picture, EncodeError> {
        let Order { ask, seed, pictures, .. } = *self.order;
        let of_2_5 = ask.model.name.starts_with("gemini-2.5");
        let media = match self.order.fault {
            Some(Fault::WrongMime | Fault::TruncatedJpeg) => MediaType::Jpeg,
            Some(Fault::CorruptPng) => MediaType::Png,
            _ if of_2_5 || leading_u64(&ask.digest).is_multiple_of(PNG_ONE_IN) => MediaType::Png,
            _ => MediaType::Jpeg,
        };
        let drawing = Drawing {
            model: ask.model.name,
            prompt: &ask.prompt,
            ratio: &ask.ratio,
            size: &ask.size,
            references: &ask.references,
            ask: &ask.digest,
            seed,
            variant,
            media,
            pictures,
        };
        let mut picture = drawing.picture(note)?;
        if self.is(Fault::UnpaddedBase64) && picture.bytes.len().is_multiple_of(3) {
            // Nothing would be missing; a longer comment makes it so.
            picture = drawing.picture(&format!("{note}."))?;
        }
        match self.order.fault {
            Some(Fault::CorruptPng) => {
                let mut bytes = picture.bytes.to_vec();
                corrupt_png(&mut bytes);
                picture.bytes = bytes.into();
            }
            Some(Fault::TruncatedJpeg) => picture.bytes.truncate(picture.bytes.len() / 3 * 2),
            _ => {}
        }
        if !INTERIM.contains(&variant) {
            self.images.push(Digest::of(&picture.bytes));
        }
        Ok(picture)
    }

    /// The picture as the text between the quotes of `data`.
    fn encoded(&self, picture: &Picture) -> Bytes {
        let engine = match self.order.fault {
            Some(Fault::UrlSafeBase64) => base64_simd::URL_SAFE,
            Some(Fault::UnpaddedBase64) => base64_simd::STANDARD_NO_PAD,
            _ => base64_simd::STANDARD,
        };
        let mut text = engine.encode_to_string(&picture.bytes);
        match self.order.fault {
            Some(Fault::BadBase64) => {
                let middle = text.len() / 2;
                text.replace_range(middle..middle + 4, "*!*!");
            }
            Some(Fault::EscapedBase64) => {
                text.insert(text.len() / 2, '\n');
                text = text.replace('/', "\\/").replace('=', "\\u003d").replace('\n', "\\n");
            }
            Some(Fault::DataUrlPrefix) => text.insert_str(0, &format!("data:{};base64,", picture.media)),
            _ => {}
        }
        text.into()
    }

    fn add_usage(&self, chunks: &mut Vec<AnswerChunk>, tally: &Tally) {
        let in_progress =
            || UsageMetadata { traffic_type: Some("ON_DEMAND".to_owned()), ..UsageMetadata::default() };
        for chunk in chunks.iter_mut().filter(|chunk| !chunk.candidates.is_empty()) {
            let repeated = self.is(Fault::UsageRepeated);
            chunk.usage_metadata = Some(if repeated { tally.metadata() } else { in_progress() });
        }
        let silent = [
            Fault::NoUsage,
            Fault::NoSignal,
            Fault::ErrorInsteadOfImage,
            Fault::ErrorAfterImage,
            Fault::BareErrorAfterEvents,
        ];
        if !silent.iter().any(|fault| self.is(*fault)) {
            let usage_metadata = Some(tally.metadata());
            chunks.push(AnswerChunk { usage_metadata, ..AnswerChunk::default() });
        }
    }

    /// Who answered, when, and under which id.
    fn sign(&self, chunks: &mut [AnswerChunk]) {
        let Order { ask, nth_try, seed, .. } = *self.order;
        let id = Digest::of(format!("{} {seed} {nth_try}", ask.digest).as_bytes()).to_string();
        for chunk in chunks.iter_mut().filter(|chunk| chunk.error.is_none()) {
            chunk.model_version = Some(ask.model.name.to_owned());
            chunk.create_time = Some(self.order.create_time.to_owned());
            chunk.response_id = id.get(..22).map(str::to_owned);
        }
    }
}

fn chunk(parts: Vec<AnswerPart>, finish_reason: Option<&str>) -> AnswerChunk {
    let content = AnswerContent { role: Some("model".to_owned()), parts };
    let candidate = Candidate {
        content: Some(content),
        finish_reason: finish_reason.map(str::to_owned),
        ..Candidate::default()
    };
    AnswerChunk { candidates: vec![candidate], ..AnswerChunk::default() }
}

fn text_part(text: String) -> AnswerPart {
    AnswerPart { text: Some(text), ..AnswerPart::default() }
}

fn error_chunk() -> AnswerChunk {
    let error = google_error(503, "UNAVAILABLE", "The model is overloaded. Please try again later.", &[]);
    AnswerChunk { error: error.get("error").cloned().or(Some(json!({}))), ..AnswerChunk::default() }
}
