//! From the events of an answer to what it gave: images, URLs, words, tokens, and how it ended.
//!
//! What this does *not* do: judge. Whether an answer is a success is decided by
//! [`fault::of_answer`](super::fault::of_answer). All texts are the server's own, unredacted.

use std::mem;

use serde_json::Value;

use super::caption::{self, bare_url};
use super::decode::{DecodeError, Decoder, Form, Limits, Sink, placeholder_number};
use super::wire::{AnswerChunk, AnswerPart, Candidate, UsageMetadata};
use crate::job::{MediaType, Usage};

/// Bytes of text that are kept of an answer.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Image URLs that are kept of an answer.
const URLS_MAX: usize = 16;

/// Where the bytes of images go while they arrive.
pub trait ImageSink {
    /// The next bytes of image `number`. Images come one after the other, numbered from 0.
    /// Which of them are results is known when the answer is over.
    fn image(&mut self, number: usize, bytes: &[u8]);
}

/// An image that came as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerImage {
    /// Its number at the [`ImageSink`].
    pub number: usize,
    /// The type that the server declared. It lies at times.
    pub declared: Option<String>,
    /// The type by the first bytes.
    pub media: Option<MediaType>,
    /// Its size.
    pub bytes: u64,
}

/// How a body came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyEnd {
    /// As HTTP says it should.
    Clean,
    /// The connection broke, or we hung up.
    Cut,
}

/// What an answer gave.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// The results that came as bytes. Images of the sink that are not among them (thoughts,
    /// or halves) are to be dropped.
    pub images: Vec<AnswerImage>,
    /// Interim images of thinking. They are no results.
    pub thought_images: Vec<AnswerImage>,
    /// Where images lie that did not come as bytes: `http` and `https`, untrusted.
    pub urls: Vec<String>,
    /// Text for people, thoughts excluded; at most 64 KiB.
    pub caption: String,
    /// The last word on why it ended; `STOP` does not replace another one.
    pub finish_reason: Option<String>,
    /// The same as prose.
    pub finish_message: Option<String>,
    /// Why the prompt was refused.
    pub block_reason: Option<String>,
    /// The same as prose.
    pub block_message: Option<String>,
    /// Tokens: the last value of each field.
    pub usage: Usage,
    /// The provider's id for the answer.
    pub response_id: Option<String>,
    /// Who answered.
    pub model_version: Option<String>,
    /// An error inside the answer, before or after images.
    pub error: Option<Value>,
    /// A finish reason or the final usage was seen: the model came to its end.
    pub has_terminal_signal: bool,
    /// At least one part of whatever kind was seen.
    pub has_parts: bool,
    /// What the body is; `None` for an empty one.
    pub form: Option<Form>,
    /// Why the body could not be read, or not to its end. All else is what came before.
    pub broken: Option<DecodeError>,
}

impl Answer {
    /// Nothing is missing: the model came to its end, and so did the body. An answer with
    /// images that is not complete may have cost more than its `usage` says.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.has_terminal_signal && self.broken.is_none()
    }

    /// At least one image that is no thought, as bytes or by URL.
    #[must_use]
    pub fn has_results(&self) -> bool {
        !self.images.is_empty() || !self.urls.is_empty()
    }
}

/// Reads one answer: bytes in, image bytes out to the sink, the [`Answer`] at the end.
#[derive(Debug)]
pub struct AnswerReader {
    decoder: Decoder,
    draft: Draft,
}

impl AnswerReader {
    /// A reader for one answer.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { decoder: Decoder::new(limits), draft: Draft::default() }
    }

    /// Takes the next bytes of the body. After an error nothing more will come: hang up, and
    /// call [`AnswerReader::finish`] for what came before.
    pub fn push(&mut self, bytes: &[u8], images: &mut impl ImageSink) -> Result<(), DecodeError> {
        self.decoder.push(bytes, &mut Tee { draft: &mut self.draft, images })
    }

    /// Bytes of the body that have arrived.
    #[must_use]
    pub const fn received_bytes(&self) -> u64 {
        self.decoder.received_bytes()
    }

    /// What came so far, for a progress display and for knowing that the model has come to its
    /// end though the body has not. Caption and the URLs of texts are not in it yet.
    #[must_use]
    pub const fn so_far(&self) -> &Answer {
        &self.draft.answer
    }

    /// The body is over.
    #[must_use]
    pub fn finish(self, end: BodyEnd) -> Answer {
        let mut answer = self.draft.finish();
        answer.form = self.decoder.form();
        let outcome = self.decoder.finish();
        answer.broken = match (end, outcome) {
            // The model had come to its end: what the break cost was the line ends.
            (BodyEnd::Cut, Ok(())) if answer.has_terminal_signal => None,
            (BodyEnd::Cut, Ok(()) | Err(DecodeError::Empty)) => {
                Some(DecodeError::Truncated { in_image: false })
            }
            (_, outcome) => outcome.err(),
        };
        answer
    }
}

/// Gives image bytes to both: the caller's sink and the draft, which looks at the first few.
struct Tee<'a, S> {
    draft: &'a mut Draft,
    images: &'a mut S,
}

impl<S: ImageSink> Sink for Tee<'_, S> {
    fn image(&mut self, number: usize, bytes: &[u8]) {
        self.draft.image(number, bytes);
        self.images.image(number, bytes);
    }

    fn chunk(&mut self, chunk: AnswerChunk) {
        self.draft.chunk(chunk);
    }
}

/// An answer while it arrives.
#[derive(Debug, Default)]
struct Draft {
    answer: Answer,
    /// Texts that are no thoughts, in their order.
    texts: Vec<String>,
    text_bytes: usize,
    /// Images of the event at hand, until its parts say what they are.
    arriving: Vec<Arriving>,
}

#[derive(Debug)]
struct Arriving {
    number: usize,
    prefix: Vec<u8>,
    bytes: u64,
}

impl Draft {
    fn image(&mut self, number: usize, bytes: &[u8]) {
        if self.arriving.last().is_none_or(|last| last.number != number) {
            self.arriving.push(Arriving { number, prefix: Vec::new(), bytes: 0 });
        }
        if let Some(image) = self.arriving.last_mut() {
            image.bytes += bytes.len() as u64;
            let wanted = MediaType::PREFIX_BYTES - image.prefix.len();
            image.prefix.extend_from_slice(&bytes[..bytes.len().min(wanted)]);
        }
    }

    fn chunk(&mut self, chunk: AnswerChunk) {
        let is_last = chunk.candidates.is_empty();
        if let Some(usage) = chunk.usage_metadata {
            self.usage(&usage, is_last);
        }
        let answer = &mut self.answer;
        if let Some(feedback) = chunk.prompt_feedback {
            keep_last(&mut answer.block_reason, feedback.block_reason);
            keep_last(&mut answer.block_message, feedback.block_reason_message);
        }
        keep_last(&mut answer.response_id, chunk.response_id);
        keep_last(&mut answer.model_version, chunk.model_version);
        // The first error is the cause.
        if answer.error.is_none() {
            answer.error = chunk.error.filter(says_something);
        }
        for candidate in chunk.candidates {
            self.candidate(candidate);
        }
        // Images that no part claims are nobody's.
        self.arriving.clear();
    }

    fn candidate(&mut self, candidate: Candidate) {
        let answer = &mut self.answer;
        if let Some(reason) = candidate.finish_reason.filter(|reason| !is_unspecified(reason)) {
            answer.has_terminal_signal = true;
            let has_other = answer.finish_reason.as_deref().is_some_and(|known| known != "STOP");
            if !(reason == "STOP" && has_other) {
                answer.finish_reason = Some(reason);
            }
        }
        keep_last(&mut answer.finish_message, candidate.finish_message);
        let parts = candidate.content.map(|content| content.parts).unwrap_or_default();
        for part in parts {
            self.part(part);
        }
    }

    fn part(&mut self, part: AnswerPart) {
        self.answer.has_parts |=
            part.text.is_some() || part.inline_data.is_some() || part.file_data.is_some();
        let is_thought = part.thought == Some(true);
        if let Some(inline) = part.inline_data
            && let Some(number) = inline.data.as_deref().and_then(placeholder_number)
        {
            self.claim(number, inline.mime_type, is_thought);
        }
        if let Some(file) = part.file_data
            && let Some(uri) = file.file_uri
        {
            self.claim_embedded(&uri, is_thought);
            if !is_thought
                && self.answer.urls.len() < URLS_MAX
                && let Some(url) = bare_url(&uri)
            {
                self.answer.urls.push(url.to_owned());
            }
        }
        if let Some(text) = part.text {
            self.claim_embedded(&text, is_thought);
            if !is_thought && !text.is_empty() && self.text_bytes + text.len() <= TEXT_BYTES_MAX {
                self.text_bytes += text.len();
                self.texts.push(text);
            }
        }
    }

    /// Images that stood in a text as `data:` URLs. Prose can quote such a URL, so only what
    /// begins like a picture counts.
    fn claim_embedded(&mut self, text: &str, is_thought: bool) {
        for number in caption::embedded_images(text) {
            let is_picture = |image: &Arriving| MediaType::of(&image.prefix).is_some();
            if self.arriving.iter().any(|image| image.number == number && is_picture(image)) {
                self.claim(number, None, is_thought);
            }
        }
    }

    fn claim(&mut self, number: usize, declared: Option<String>, is_thought: bool) {
        let Some(at) = self.arriving.iter().position(|image| image.number == number) else { return };
        let Arriving { number, prefix, bytes } = self.arriving.swap_remove(at);
        let image = AnswerImage { number, declared, media: MediaType::of(&prefix), bytes };
        let list = if is_thought { &mut self.answer.thought_images } else { &mut self.answer.images };
        list.push(image);
    }

    fn usage(&mut self, wire: &UsageMetadata, is_last: bool) {
        let usage = &mut self.answer.usage;
        keep_last_count(&mut usage.prompt, wire.prompt_token_count);
        keep_last_count(&mut usage.candidates, wire.candidates_token_count);
        keep_last_count(&mut usage.thoughts, wire.thoughts_token_count);
        keep_last_count(&mut usage.total, wire.total_token_count);
        let of_images = wire.candidates_tokens_details.iter().filter(|one| one.modality == "IMAGE");
        keep_last_count(&mut usage.image, of_images.map(|one| one.token_count).reduce(u64::saturating_add));
        // While it thinks, a model reports counts too, but none of what it gives out.
        let has_counts = wire.total_token_count.is_some() || wire.thoughts_token_count.is_some();
        self.answer.has_terminal_signal |= wire.candidates_token_count.is_some() || (is_last && has_counts);
    }

    fn finish(mut self) -> Answer {
        let texts = caption::take_apart(&mem::take(&mut self.texts));
        self.answer.caption = texts.caption;
        self.answer.urls.extend(texts.urls);
        self.answer.urls.truncate(URLS_MAX);
        self.answer
    }
}

fn keep_last(kept: &mut Option<String>, new: Option<String>) {
    if let Some(new) = new.filter(|text| !is_unspecified(text)) {
        *kept = Some(new);
    }
}

/// More tokens than any answer can have: such a count says nothing, and sums of it overflow.
const TOKENS_MAX: u64 = 1_000_000_000;

fn keep_last_count(kept: &mut Option<u64>, new: Option<u64>) {
    *kept = new.filter(|count| *count <= TOKENS_MAX).or(*kept);
}

/// How the API spells "nothing" where it must say something.
fn is_unspecified(text: &str) -> bool {
    text.is_empty() || text.ends_with("_UNSPECIFIED")
}

fn says_something(error: &Value) -> bool {
    match error {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
