//! What a refusal says about when to come back, and about the limit it met.
//!
//! Delays come in four places and many spellings, and they disagree: 48.94 s in the message
//! and 48 s beside it was seen. The largest counts. What is negative or unreadable is absent;
//! zero is a hint.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use serde_json::Value;

/// Longest delay that is believed. The API's longest period is a day; a server that asks for
/// more must not close a lane for good.
const DELAY_MAX: Duration = Duration::from_hours(24);
/// The first number that no `u64` can hold.
const BEYOND_U64: f64 = 18_446_744_073_709_551_616.0;
/// Longest id of a quota that is kept.
const QUOTA_ID_CHARS_MAX: usize = 200;

/// A limit as a refusal states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The provider's name for it, empty when only the message speaks.
    pub id: String,
    /// How much is allowed.
    pub limit: Option<u64>,
    /// In what time.
    pub period: QuotaPeriod,
}

/// In what time a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaPeriod {
    /// It is refilled at midnight Pacific.
    Day,
    /// It is refilled all the time.
    Minute,
    /// The refusal does not say.
    Unknown,
}

impl Quota {
    /// Waiting some minutes will not do: the day's share is used up, or there is none at all.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.period == QuotaPeriod::Day || self.limit == Some(0)
    }

    /// The limit, when it is one of requests in a minute (there are others, of tokens).
    #[must_use]
    pub fn requests_per_minute(&self) -> Option<u64> {
        let is_requests = self.id.to_ascii_lowercase().contains("requests");
        self.limit.filter(|&limit| limit > 0 && is_requests && self.period == QuotaPeriod::Minute)
    }
}

/// The largest delay in `headers`, the error's `details` and its `messages`; at most a day.
pub(super) fn delay(headers: &HeaderMap, details: &[Value], messages: &[String]) -> Option<Duration> {
    let in_details = details.iter().filter(|one| is_type(one, "RetryInfo")).filter_map(|one| {
        let delay = one.get("retryDelay").or_else(|| one.get("retry_delay"))?;
        match delay {
            Value::String(text) => duration(text),
            Value::Object(_) => seconds_and_nanos(delay),
            _ => None,
        }
    });
    let in_messages = messages.iter().filter_map(|message| in_prose(message));
    in_details
        .chain(in_messages)
        .chain(retry_after_ms(headers))
        .chain(retry_after(headers))
        .max()
        .map(|delay| delay.min(DELAY_MAX))
}

/// The limit that was met. Of several the daily one: while it holds, the others do not matter.
pub(super) fn quota(details: &[Value], messages: &[String]) -> Option<Quota> {
    let mut found: Vec<Quota> = Vec::new();
    for detail in details {
        if is_type(detail, "QuotaFailure") {
            let violations = detail.get("violations").and_then(Value::as_array);
            found.extend(violations.into_iter().flatten().filter_map(|violation| {
                stated(
                    violation.get("quotaId").or_else(|| violation.get("quotaMetric"))?,
                    violation.get("quotaValue"),
                )
            }));
        }
        if is_type(detail, "ErrorInfo")
            && let Some(metadata) = detail.get("metadata")
            && let Some(id) = metadata.get("quota_limit")
        {
            found.extend(stated(id, metadata.get("quota_limit_value")));
        }
    }
    let in_prose = messages.iter().find_map(|message| limit_in_prose(message));
    if found.is_empty()
        && let Some(limit) = in_prose
    {
        found.push(Quota { id: String::new(), limit: Some(limit), period: QuotaPeriod::Unknown });
    }
    // `limit: 0` in the prose says more than the name beside it.
    if in_prose == Some(0)
        && let Some(first) = found.first_mut()
    {
        first.limit = first.limit.or(Some(0));
    }
    let daily = found.iter().position(|quota| quota.period == QuotaPeriod::Day);
    let none = found.iter().position(|quota| quota.limit == Some(0));
    let at = daily.or(none).unwrap_or(0);
    (at < found.len()).then(|| found.swap_remove(at))
}

fn stated(id: &Value, limit: Option<&Value>) -> Option<Quota> {
    let id: String = id.as_str()?.chars().filter(char::is_ascii_graphic).take(QUOTA_ID_CHARS_MAX).collect();
    let limit = match limit {
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(value) => value.as_u64(),
        None => None,
    };
    let plain: String = id.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let period = if plain.contains("perday") {
        QuotaPeriod::Day
    } else if plain.contains("perminute") {
        QuotaPeriod::Minute
    } else {
        QuotaPeriod::Unknown
    };
    Some(Quota { id, limit, period })
}

/// Whether an error's detail is of this type; the key was seen with a blank in it.
pub(super) fn is_type(detail: &Value, name: &str) -> bool {
    ["@type", " @type"]
        .iter()
        .filter_map(|key| detail.get(key)?.as_str())
        .any(|found| found.rsplit('.').next() == Some(name))
}

fn retry_after_ms(headers: &HeaderMap) -> Option<Duration> {
    let (whole, nanos) = decimal(headers.get("retry-after-ms")?.to_str().ok()?.trim())?;
    Some(Duration::from_millis(whole).saturating_add(Duration::from_nanos(nanos / 1000)))
}

/// Seconds, or a date, which counts from the answer's own: clocks differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Some((whole, nanos)) = decimal(text) {
        return Some(Duration::from_secs(whole).saturating_add(Duration::from_nanos(nanos)));
    }
    let then = httpdate::parse_http_date(text).ok()?;
    let now = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?.trim()).ok()?;
    then.duration_since(now).ok()
}

fn seconds_and_nanos(delay: &Value) -> Option<Duration> {
    let count = |key| match delay.get(key) {
        None | Some(Value::Null) => Some(0),
        Some(Value::String(text)) => whole(text),
        // What is beyond 64 bits is a float for serde_json.
        Some(value) => {
            value.as_u64().or_else(|| Some(u64::MAX).filter(|_| value.as_f64() >= Some(BEYOND_U64)))
        }
    };
    Some(Duration::from_secs(count("seconds")?).saturating_add(Duration::from_nanos(count("nanos")?)))
}

/// `12` or `12.5`, as whole and billionths; nothing else around it.
fn decimal(text: &str) -> Option<(u64, u64)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let billionths: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((self::whole(whole)?, billionths.parse().ok()?))
}

/// Digits, and nothing else. A number beyond 64 bits is as long a delay as there is: to read it as
/// none would ask a server again and again that wants to be left alone.
fn whole(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// `34.5s`, `900ms`, `10h17m5.7s`: the whole text.
fn duration(text: &str) -> Option<Duration> {
    let (delay, rest) = leading_duration(text.trim())?;
    rest.is_empty().then_some(delay)
}

/// The delay in `… retry in 36.43s.` or `… retry after 20 seconds`.
fn in_prose(message: &str) -> Option<Duration> {
    let lower = message.to_ascii_lowercase();
    ["retry in ", "retry after ", "try again in "]
        .iter()
        .flat_map(|mark| lower.match_indices(mark))
        .filter_map(|(at, mark)| Some(leading_duration(lower[at + mark.len()..].trim_start())?.0))
        .max()
}

fn limit_in_prose(message: &str) -> Option<u64> {
    let lower = message.to_ascii_lowercase();
    let (_, after) = lower.split_once("limit: ")?;
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    after[..digits].parse().ok()
}

/// Numbers with units at the beginning of `text`, added up, and what follows them.
fn leading_duration(text: &str) -> Option<(Duration, &str)> {
    let mut sum = None;
    let mut rest = text;
    loop {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let after_number = rest[digits..].trim_start();
        let letters = after_number.chars().take_while(|c| c.is_alphabetic()).map(char::len_utf8).sum();
        let (unit, after_unit) = after_number.split_at(letters);
        let (Some((whole, billionths)), Some(unit_ns)) = (decimal(&rest[..digits]), unit_ns(unit)) else {
            return sum.map(|sum| (sum, rest));
        };
        let ns = u128::from(whole) * u128::from(unit_ns)
            + u128::from(billionths) * u128::from(unit_ns) / 1_000_000_000;
        let delay = Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
        sum = Some(sum.unwrap_or(Duration::ZERO).saturating_add(delay));
        rest = after_unit;
    }
}

fn unit_ns(unit: &str) -> Option<u64> {
    Some(match unit {
        "h" | "hour" | "hours" => 3_600_000_000_000,
        "m" | "min" | "minute" | "minutes" => 60_000_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "ms" | "millisecond" | "milliseconds" => 1_000_000,
        "us" | "µs" | "μs" => 1000,
        "ns" => 1,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderName;
    use serde_json::json;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a header")))
            .collect()
    }

    fn check(pairs: &[(&'static str, &str)], details: &[Value], message: &str, expect_ms: Option<f64>) {
        let found = delay(&headers(pairs), details, &[message.to_owned()]);
        let expect = expect_ms.map(|ms| Duration::from_secs_f64(ms / 1000.0));
        assert_eq!(found, expect, "{pairs:?} {details:?} {message}");
    }

    fn retry_info(delay: &Value) -> Value {
        json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    }

    #[test]
    fn retry_info_is_read_in_every_spelling() {
        for (delay, expect_ms) in [
            (json!("34.5s"), Some(34_500.0)),
            (json!("7s"), Some(7000.0)),
            (json!("0s"), Some(0.0)),
            (json!("0.539477544s"), Some(539.477_544)),
            (json!("900ms"), Some(900.0)),
            (json!("900.2ms"), Some(900.2)),
            (json!("68940s"), Some(68_940_000.0)),
            (json!("10h17m5.7s"), Some(37_025_700.0)),
            (json!({"seconds": 5, "nanos": 250_000_000}), Some(5250.0)),
            (json!({"seconds": "5"}), Some(5000.0)),
            (json!("-3s"), None),
            (json!({"seconds": -3}), None),
            (json!("soon"), None),
            (json!("7"), None),
            (json!("7s later"), None),
            (json!("1e9s"), None),
            (json!("99999999999999999999s"), Some(86_400_000.0)),
            (json!("99999999999999999999.5s"), Some(86_400_000.0)),
            (json!({"seconds": "99999999999999999999", "nanos": 5}), Some(86_400_000.0)),
            (json!({"seconds": u64::MAX, "nanos": u64::MAX}), Some(86_400_000.0)),
            (json!({"seconds": 1e30}), Some(86_400_000.0)),
            (json!({"seconds": -1e30}), None),
            (json!("18446744073709551615h59m"), Some(86_400_000.0)),
            (json!(null), None),
            (json!("999999999s"), Some(86_400_000.0)),
        ] {
            check(&[], &[retry_info(&delay)], "", expect_ms);
        }
        check(&[], &[json!({" @type": "x/google.rpc.RetryInfo", "retryDelay": "7s"})], "", Some(7000.0));
        check(&[], &[json!({"@type": "x/google.rpc.Help", "retryDelay": "7s"})], "", None);
    }

    #[test]
    fn headers_are_read_in_every_spelling() {
        check(&[("retry-after", "20")], &[], "", Some(20_000.0));
        check(&[("retry-after", " 1.5 ")], &[], "", Some(1500.0));
        check(&[("retry-after", "0")], &[], "", Some(0.0));
        check(&[("retry-after-ms", "250.5")], &[], "", Some(250.5));
        for long in ["18446744073709551616", "18446744073709551615.999999999", &"9".repeat(300)] {
            check(&[("retry-after", long)], &[], "", Some(86_400_000.0));
            check(&[("retry-after-ms", long)], &[], "", Some(86_400_000.0));
        }
        let date = ("date", "Fri, 20 Nov 2026 10:00:00 GMT");
        check(&[("retry-after", "Fri, 20 Nov 2026 10:01:30 GMT"), date], &[], "", Some(90_000.0));
        check(&[("retry-after", "Fri, 20 Nov 2026 09:01:30 GMT"), date], &[], "", None);
        check(&[("retry-after", "Fri, 20 Nov 2026 10:01:30 GMT")], &[], "", None);
        for unreadable in ["-5", "soon", "", "1,5", "."] {
            check(&[("retry-after", unreadable)], &[], "", None);
        }
    }

    #[test]
    fn the_message_is_read_too() {
        check(&[], &[], "Quota exceeded, limit: 10\nPlease retry in 36.43s.", Some(36_430.0));
        check(&[], &[], "Please retry in 10h17m5.7s (request id: 7)", Some(37_025_700.0));
        check(&[], &[], "Please retry in 900.2ms.", Some(900.2));
        check(&[], &[], "please retry after 30 seconds.", Some(30_000.0));
        check(&[], &[], "Please retry in 99999999999999999999 seconds", Some(86_400_000.0));
        check(&[], &[], "Please retry in a moment", None);
        check(&[], &[], "retry in -5s", None);
    }

    #[test]
    fn the_largest_delay_counts() {
        check(
            &[("retry-after", "5")],
            &[retry_info(&json!("48s"))],
            "Please retry in 48.94s",
            Some(48_940.0),
        );
        check(
            &[("retry-after", "60")],
            &[retry_info(&json!("48s"))],
            "Please retry in 48.94s",
            Some(60_000.0),
        );
    }

    fn violation(id: &str, value: &Value) -> Value {
        json!({"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": id, "quotaValue": value}]})
    }

    #[test]
    fn the_stated_limit_is_read() {
        let minute = violation("GenerateRequestsPerMinutePerProjectPerModel", &json!("10"));
        let day = violation("GenerateRequestsPerDayPerProjectPerModel-FreeTier", &json!(100));
        let tokens = violation("GenerateContentInputTokensPerModelPerMinute", &json!("250000"));
        let found = quota(std::slice::from_ref(&minute), &[]).expect("stated");
        assert_eq!((found.requests_per_minute(), found.is_exhausted()), (Some(10), false));
        let found = quota(&[minute, day], &[]).expect("stated");
        assert_eq!((found.limit, found.period, found.is_exhausted()), (Some(100), QuotaPeriod::Day, true));
        assert_eq!(quota(&[tokens], &[]).expect("stated").requests_per_minute(), None);
        let info = json!({"@type": "x.ErrorInfo", "metadata": {"quota_limit": "RequestsPerMinute", "quota_limit_value": "0"}});
        assert!(quota(&[info], &[]).expect("stated").is_exhausted());
        let found = quota(&[], &["exceeded, limit: 0, model: x".to_owned()]).expect("stated");
        assert!(found.is_exhausted());
        assert_eq!(quota(&[], &["slow down".to_owned()]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        #[test]
        fn no_text_makes_it_panic(text in "(retry in |retry after |limit: |[0-9]{1,22}|[.hms ]|[µ-ü]|-){0,12}") {
            let details = [retry_info(&json!(text.clone())), violation(&text, &json!(text.clone()))];
            let _ = delay(&HeaderMap::new(), &details, std::slice::from_ref(&text));
            let _ = quota(&details, std::slice::from_ref(&text));
            if let Ok(value) = text.parse() {
                let _ = delay(&[(RETRY_AFTER, value)].into_iter().collect(), &[], &[]);
            }
        }
    }
}
