//! Every fault has its class: the tables, and nothing else. The first row that matches counts,
//! so what an error says of itself stands before its status. A row's test is below.
//!
//! Sources: the provider's pages, Google's and new-api's error lists, and answers as recorded
//! by users (2026-11).

use super::decode::DecodeError;
use super::error_body::{ErrorBody, Shape};
use super::fault::Transport;

/// The status of an error that has none.
pub(super) const NO_STATUS: u16 = 0;

/// A class without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Throttled,
    Parked,
    MoneyOut,
    KeyRejected,
    ModelUnavailable,
    Rejected,
    Transient,
    Refused,
    NoImage,
}

/// What a signal means.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) kind: Kind,
    /// The word for reports; empty: `http_<status>`.
    pub(super) code: &'static str,
    /// What happened.
    pub(super) says: &'static str,
    /// What to do about it; empty where nightpress does it.
    pub(super) advice: &'static str,
    /// A firewall stands in front.
    pub(super) lane_cooldown: bool,
    /// The key may merely belong to a group that does not stream.
    pub(super) may_be_group: bool,
}

const fn row(kind: Kind, code: &'static str, says: &'static str, advice: &'static str) -> Row {
    Row { kind, code, says, advice, lane_cooldown: false, may_be_group: false }
}

/// By what an error is known.
enum When {
    /// One of its machine words, in lower case.
    Token(&'static [&'static str]),
    /// A part of its prose, in lower case: the one place where prose decides.
    Says(&'static [&'static str]),
    /// Its status.
    Status(&'static [u16]),
    /// Its status, with a page for people.
    Page(&'static [u16]),
    /// Its status, with plain text or nothing.
    Plain(&'static [u16]),
    /// A page for people, whatever its status.
    AnyPage,
    /// From this status to that one.
    Between(u16, u16),
    /// All that is left.
    Else,
}

const MONEY_OUT: Row = row(
    Kind::MoneyOut,
    "money_out",
    "the account has no money left",
    "top it up, then run the same command again",
);
const PROMPT_BLOCKED: Row =
    row(Kind::Refused, "prompt_blocked", "the prompt was refused by a filter", "change the prompt");
const KEY_REJECTED: Row =
    row(Kind::KeyRejected, "key_rejected", "the API does not accept the key", "check the key and its rights");
const MODEL_UNAVAILABLE: Row = row(
    Kind::ModelUnavailable,
    "model_unavailable",
    "the model is not there",
    "check the model's name and the base URL",
);

/// What a gateway says when no channel of the key's group has the model.
const NO_CHANNEL: Row = Row { may_be_group: true, ..MODEL_UNAVAILABLE };

const ERRORS: &[(When, Row)] = &[
    // What the error says of itself.
    (
        When::Token(&[
            "insufficient_user_quota",
            "pre_consume_token_quota_failed",
            "insufficient_quota",
            "billing_hard_limit_reached",
        ]),
        MONEY_OUT,
    ),
    (
        When::Says(&[
            "quota is not enough",
            "insufficient balance",
            "credits are depleted",
            "用户额度不足",
            "预扣费额度失败",
            "余额不足",
        ]),
        MONEY_OUT,
    ),
    (
        When::Token(&[
            "prompt_blocked",
            "sensitive_words_detected",
            "content_policy_violation",
            "moderation_blocked",
        ]),
        PROMPT_BLOCKED,
    ),
    (
        When::Says(&[
            "prompt could not be submitted",
            "sensitive words",
            "responsible ai",
            "usage guidelines",
        ]),
        PROMPT_BLOCKED,
    ),
    (
        When::Token(&[
            "api_key_invalid",
            "api_key_expired",
            "api_key_service_blocked",
            "api_key_http_referrer_blocked",
            "api_key_ip_address_blocked",
            "invalid_api_key",
            "service_disabled",
            "consumer_invalid",
            "consumer_suspended",
            "billing_disabled",
            "user_project_denied",
            "iam_permission_denied",
        ]),
        KEY_REJECTED,
    ),
    (When::Says(&["api key not valid", "api key expired", "api key was reported as leaked"]), KEY_REJECTED),
    (
        When::Says(&["location is not supported"]),
        row(
            Kind::KeyRejected,
            "location_unsupported",
            "the API does not serve this location",
            "run it from a supported country, or by another provider",
        ),
    ),
    (
        When::Says(&["enable billing", "billing to be enabled", "billing account"]),
        row(
            Kind::KeyRejected,
            "billing_disabled",
            "the key's project has no billing",
            "enable billing for it",
        ),
    ),
    (When::Token(&["model_not_found", "model_not_available"]), NO_CHANNEL),
    (When::Says(&["no available channel", "无可用渠道"]), NO_CHANNEL),
    (When::Says(&["is not found for api version"]), MODEL_UNAVAILABLE),
    // Limits.
    (When::Status(&[429]), RATE_LIMITED),
    (When::Token(&["rate_limit_exceeded", "resource_exhausted"]), RATE_LIMITED),
    // Its status.
    (When::Status(&[402]), MONEY_OUT),
    (When::Page(&[401, 403]), FIREWALL),
    (When::Plain(&[403]), FIREWALL),
    (When::Status(&[404, 410]), MODEL_UNAVAILABLE),
    (When::Status(&[401, 403]), Row { may_be_group: true, ..KEY_REJECTED }),
    (
        When::Status(&[413]),
        row(
            Kind::Rejected,
            "http_413",
            "the request is too large for the API",
            "use fewer or smaller references",
        ),
    ),
    (When::Status(&[408, 409, 425, 499]), row(Kind::Transient, "", "the API gave up on the request", "")),
    (When::Between(500, 599), row(Kind::Transient, "", "the API has a problem of its own", "")),
    (
        When::Between(300, 399),
        row(Kind::Rejected, "", "the server sends the request elsewhere", "check the base URL"),
    ),
    (When::AnyPage, row(Kind::Transient, "html_page", "an HTML page came instead of an answer", "")),
    (When::Between(400, 499), row(Kind::Rejected, "", "the API rejected the request", "change the job")),
    (When::Else, row(Kind::Transient, "error_in_answer", "the answer has an error in it", "")),
];

const FIREWALL: Row = Row {
    lane_cooldown: true,
    ..row(Kind::Transient, "firewall", "a firewall in front of the API turned the request away", "")
};
const RATE_LIMITED: Row = row(Kind::Throttled, "rate_limited", "the rate limit is reached", "");

/// What becomes of a throttling that minutes will not cure.
pub(super) const PARKED: Row = row(
    Kind::Parked,
    "quota_exhausted",
    "the quota is used up",
    "run again when it is refilled, or ask for a higher one",
);

/// The row of an error.
pub(super) fn error_row(body: &ErrorBody, status: u16) -> &'static Row {
    let matches = |when: &When| match when {
        When::Token(words) => body.has_token(words),
        When::Says(phrases) => body.says(phrases),
        When::Status(statuses) => statuses.contains(&status),
        When::Page(statuses) => body.shape == Shape::Page && statuses.contains(&status),
        When::Plain(statuses) => body.shape == Shape::Plain && statuses.contains(&status),
        When::AnyPage => body.shape == Shape::Page,
        When::Between(first, last) => (*first..=*last).contains(&status),
        When::Else => true,
    };
    ERRORS.iter().find(|(when, _)| matches(when)).map_or(&NO_IMAGE, |(_, row)| row)
}

/// A `blockReason`, whatever it is.
pub(super) const BLOCKED: Row = PROMPT_BLOCKED;
/// A stream that stopped before the model did.
pub(super) const ENDED_EARLY: Row =
    row(Kind::Transient, "ended_early", "the answer ended before the image came", "");
/// Nothing, or words only.
pub(super) const NO_IMAGE: Row = row(Kind::NoImage, "no_image", "the answer has no image", "");

const fn refused(code: &'static str) -> Row {
    row(Kind::Refused, code, "the safety filter refused the image", "change the prompt")
}

const fn useless(code: &'static str, says: &'static str) -> Row {
    row(Kind::Rejected, code, says, "change the prompt")
}

const FINISH_REASONS: &[(&str, Row)] = &[
    ("SAFETY", refused("safety")),
    ("IMAGE_SAFETY", refused("image_safety")),
    ("PROHIBITED_CONTENT", refused("prohibited_content")),
    ("IMAGE_PROHIBITED_CONTENT", refused("image_prohibited_content")),
    ("BLOCKLIST", refused("blocklist")),
    ("SPII", refused("spii")),
    ("MODEL_ARMOR", refused("model_armor")),
    ("JAILBREAK", refused("jailbreak")),
    ("RECITATION", useless("recitation", "the answer was too close to a known work")),
    ("IMAGE_RECITATION", useless("image_recitation", "the image was too close to a known work")),
    ("MAX_TOKENS", useless("max_tokens", "the answer was longer than it may be")),
    ("LANGUAGE", useless("language", "the prompt's language is not supported")),
    (
        "MALFORMED_FUNCTION_CALL",
        useless("malformed_function_call", "the model called a tool instead of drawing"),
    ),
    ("UNEXPECTED_TOOL_CALL", useless("unexpected_tool_call", "the model called a tool instead of drawing")),
    ("TOO_MANY_TOOL_CALLS", useless("too_many_tool_calls", "the model called tools instead of drawing")),
    ("STOP", NO_IMAGE),
    ("NO_IMAGE", NO_IMAGE),
    ("OTHER", row(Kind::NoImage, "other", "the model ended without an image", "")),
    ("IMAGE_OTHER", row(Kind::NoImage, "image_other", "the model ended without an image", "")),
];

const PROHIBITED: Row = refused("prohibited_content");
const UNKNOWN_FINISH: Row = row(
    Kind::NoImage,
    "unknown_finish_reason",
    "the model ended without an image for a reason unknown here",
    "",
);

/// The row of a `finishReason` without an image.
pub(super) fn finish_row(reason: &str) -> &'static Row {
    let known = FINISH_REASONS.iter().find(|(known, _)| *known == reason);
    let other = || if reason.contains("PROHIBITED") { &PROHIBITED } else { &UNKNOWN_FINISH };
    known.map_or_else(other, |(_, row)| row)
}

/// The row of a body that cannot be read.
pub(super) const fn decode_row(error: &DecodeError) -> &'static Row {
    const CUT_IN_IMAGE: Row =
        row(Kind::Transient, "cut_in_image", "the answer was cut off in the middle of an image", "");
    const CUT: Row = row(Kind::Transient, "cut", "the answer was cut off", "");
    const BAD_BASE64: Row =
        row(Kind::Transient, "bad_base64", "an image of the answer is not valid base64", "");
    const BAD_JSON: Row = row(Kind::Transient, "bad_json", "the answer is not valid JSON", "");
    const PAGE: Row = row(Kind::Transient, "html_page", "an HTML page came instead of an answer", "");
    const NOT_JSON: Row = row(Kind::Transient, "not_json", "something else came instead of an answer", "");
    const COMPRESSED: Row =
        row(Kind::Transient, "compressed_answer", "a compressed answer came, which was not asked for", "");
    const EMPTY: Row = row(Kind::Transient, "empty_answer", "the answer is empty", "");
    const TOO_LARGE: Row = row(
        Kind::Rejected,
        "answer_too_large",
        "the answer goes beyond a limit",
        "look at the job by hand: another try costs money again",
    );
    match error {
        DecodeError::Truncated { in_image: true } => &CUT_IN_IMAGE,
        DecodeError::Truncated { in_image: false } => &CUT,
        DecodeError::BadBase64 => &BAD_BASE64,
        DecodeError::BadJson(_) => &BAD_JSON,
        DecodeError::Foreign { html: true, .. } => &PAGE,
        // RFC 1952 begins with 1f 8b. It is not unpacked: who asked for nothing gets no bomb.
        DecodeError::Foreign { html: false, head } if matches!(head.as_bytes(), [0x1f, ..]) => &COMPRESSED,
        DecodeError::Foreign { html: false, .. } => &NOT_JSON,
        DecodeError::Empty => &EMPTY,
        DecodeError::TooLarge { .. } => &TOO_LARGE,
    }
}

/// The row of a connection that failed.
pub(super) const fn transport_row(kind: Transport) -> &'static Row {
    const CONNECT: Row = row(Kind::Transient, "connect_failed", "the API cannot be reached", "");
    const TLS: Row = row(
        Kind::Transient,
        "tls_failed",
        "no trusted connection to the API",
        "check the base URL and the machine's clock",
    );
    const TIMEOUT: Row = row(Kind::Transient, "timed_out", "the request took too long", "");
    const IDLE: Row = row(Kind::Transient, "idle_timeout", "nothing came from the API for too long", "");
    const RESET: Row = row(Kind::Transient, "connection_reset", "the connection broke", "");
    match kind {
        Transport::Connect => &CONNECT,
        Transport::Tls => &TLS,
        Transport::Timeout => &TIMEOUT,
        Transport::Idle => &IDLE,
        Transport::Reset => &RESET,
    }
}

#[cfg(test)]
#[path = "class_tests.rs"]
pub(super) mod tests;
