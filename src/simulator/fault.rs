//! The names of everything that can go wrong on purpose.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! faults {
    ($($variant:ident = $name:literal, $doc:literal;)*) => {
        /// A fault that the simulator can inject, by the name that scenario files use.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "&'static str")]
        #[expect(clippy::doc_markdown, reason = "the lines are shown to people as they are")]
        pub enum Fault { $(#[doc = $doc] $variant,)* }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As scenario files spell it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One line about it.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

faults! {
    // Refused before anything is generated.
    Http400 = "http_400", "Google's INVALID_ARGUMENT";
    ApiKeyInvalid = "api_key_invalid", "400 with API_KEY_INVALID, its text echoing the key";
    UnsupportedLocation = "unsupported_location", "400 FAILED_PRECONDITION: user location not supported";
    BillingPrecondition = "billing_precondition", "400 FAILED_PRECONDITION: billing is not enabled";
    Http401 = "http_401", "the gateway's invalid token";
    Http402 = "http_402", "402 of the gateway: insufficient quota, the money is out";
    InsufficientUserQuota = "insufficient_user_quota", "403 of the gateway: insufficient_user_quota";
    PreConsumeFailed = "pre_consume_failed", "403 of the gateway: pre_consume_token_quota_failed";
    Http403Json = "http_403_json", "Google's PERMISSION_DENIED";
    Http403Html = "http_403_html", "403 page of a firewall in front";
    Http404 = "http_404", "Google's NOT_FOUND for the model";
    ModelNotFound = "model_not_found", "503 of the gateway: no channel for the model";
    Http408 = "http_408", "408 of the gateway";
    Http413 = "http_413", "413 page of a proxy";
    Http422 = "http_422", "422 of the gateway";
    Http429 = "http_429", "429 with RetryInfo and Retry-After of 1 s, and the limit of 60 a minute";
    Http429NoHint = "http_429_no_hint", "429 that says nothing of when";
    Http429Gateway = "http_429_gateway", "429 of the gateway: the hint is in its prose only";
    Http429Daily = "http_429_daily", "429 with a quota per day";
    Http500 = "http_500", "Google's INTERNAL";
    Http502Html = "http_502_html", "502 page";
    Http503 = "http_503", "503 UNAVAILABLE with MODEL_CAPACITY_EXHAUSTED";
    Http504 = "http_504", "Google's DEADLINE_EXCEEDED";
    Http520 = "http_520", "520 page";
    Http521 = "http_521", "521 page";
    Http522 = "http_522", "522 page";
    Http523 = "http_523", "523 page";
    Http524 = "http_524", "524 page";
    Http529 = "http_529", "529 of the gateway: overloaded";
    // The connection.
    ResetBefore = "reset_before", "the connection is reset instead of an answer";
    ResetMid = "reset_mid", "the connection is reset in the middle of the picture";
    TruncateClean = "truncate_clean", "the body ends without an error in the middle of the picture";
    StallBefore = "stall_before", "no answer, ever";
    StallMid = "stall_mid", "silence from the middle of the picture on";
    NeverEnd = "never_end", "a whole answer whose body is not ended";
    // The bytes.
    BadBase64 = "bad_base64", "characters in the picture that are not base64";
    BrokenJson = "broken_json", "the picture's event is not JSON";
    Html200 = "html_200", "a page with status 200";
    WrongMime = "wrong_mime", "JPEG bytes declared as image/png";
    CorruptPng = "corrupt_png", "a PNG with a flipped byte in its data";
    TruncatedJpeg = "truncated_jpeg", "a JPEG without its last third";
    // An error inside a 200.
    ErrorInsteadOfImage = "error_in_200_before_image", "an error event instead of the picture";
    ErrorAfterImage = "error_in_200_after_image", "an error event after the picture";
    BareErrorAfterEvents = "bare_error_after_events", "bare multi-line JSON error after good events";
    // Answers without a picture.
    NoImage = "no_image", "finishReason NO_IMAGE";
    TextOnly = "text_only", "a text, STOP, and no picture";
    RefusedSafety = "refused_safety", "finishReason IMAGE_SAFETY, content without parts";
    PromptBlocked = "prompt_blocked", "promptFeedback.blockReason, no candidates";
    Recitation = "recitation", "finishReason IMAGE_RECITATION";
    MaxTokens = "max_tokens", "finishReason MAX_TOKENS";
    UnknownFinish = "unknown_finish", "a finishReason that nobody knows yet, no picture";
    NoCandidates = "no_candidates", "a usage chunk alone";
    EmptyParts = "empty_parts", "STOP with an empty list of parts";
    // Whole answers in odd shapes.
    NoUsage = "no_usage", "no usage chunk";
    NoSignal = "no_signal", "a picture, but neither finishReason nor usage";
    UsageRepeated = "usage_repeated", "cumulative usage on every chunk";
    StopOnEveryChunk = "stop_on_every_chunk", "finishReason STOP on every chunk";
    NullFields = "null_fields", "nulls and empty objects wherever they were ever seen";
    ShuffledKeys = "shuffled_keys", "keys in reverse: data before mimeType, thought last";
    SnakeCaseAnswer = "snake_case_answer", "inline_data, mime_type and so on";
    HugeSignature = "huge_signature", "a thoughtSignature of 3 MB beside the picture";
    ThoughtImages = "thought_images", "two interim pictures with thought: true before the result";
    TwoImages = "two_images", "two different pictures";
    SameImageTwice = "same_image_twice", "the same pixels twice with different metadata";
    UrlSafeBase64 = "url_safe_base64", "base64 with - and _";
    UnpaddedBase64 = "unpadded_base64", "base64 without =";
    EscapedBase64 = "escaped_base64", "base64 with JSON escapes inside";
    DataUrlPrefix = "data_url_prefix", "base64 behind data:image/…;base64,";
    // Pictures by URL.
    ImageUrlText = "image_url_text", "a bare URL in a text part";
    ImageUrlFileData = "image_url_file_data", "a URL in fileData.fileUri";
    ImageUrlMarkdown = "image_url_markdown", "a URL in ![…](…)";
    ImageDataUrlMarkdown = "image_data_url_markdown", "the picture itself as a data: URL in ![…](…)";
    ImageUrlMissing = "image_url_missing", "a URL that answers 404";
    ImageUrlRedirect = "image_url_redirect", "a URL that redirects to a private address";
    ImageUrlHtml = "image_url_html", "a URL that answers a page";
    ImageUrlEndless = "image_url_endless", "a URL whose picture grows to 1 GiB";
    // Framing.
    Array = "array", "a JSON array instead of SSE";
    Crlf = "crlf", "CRLF line ends";
    NoLastBlankLine = "no_last_blank_line", "no blank line after the last event";
    NoBlankLines = "no_blank_lines", "no blank lines between the events";
    KeepAlive = "keepalive", "comments, event:, id: and retry: lines between the events";
    NoSpace = "no_space", "data: without the space";
    DoneMarker = "done_marker", "a data: line with the marker DONE at the end";
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<Fault> for &'static str {
    fn from(fault: Fault) -> Self {
        fault.name()
    }
}

/// A text that names no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault `{found}`, did you mean `{nearest}`?")]
pub struct ParseFaultError {
    found: String,
    nearest: Fault,
}

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let distance = |fault: &&Self| strsim::osa_distance(fault.name(), text);
        match Self::ALL.iter().min_by_key(distance) {
            Some(fault) if fault.name() == text => Ok(*fault),
            nearest => Err(ParseFaultError {
                found: text.to_owned(),
                nearest: nearest.copied().unwrap_or(Self::Http503),
            }),
        }
    }
}

impl TryFrom<String> for Fault {
    type Error = ParseFaultError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_a_wrong_one_gets_a_suggestion() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse::<Fault>().expect("a name"), *fault);
        }
        let error = "http_53".parse::<Fault>().expect_err("no such fault");
        assert_eq!(error.to_string(), "there is no fault `http_53`, did you mean `http_503`?");
    }
}
