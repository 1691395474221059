//! Figures and lists as a person reads them.

use std::time::Duration;

use crate::worker::Concurrency;

/// `1 job`, `2 jobs`.
pub(super) fn count(n: u64, one: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{} {one}{s}", grouped(n))
}

/// `1,234,567`.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `0.8 s`, `42 s`, `7 min`, `2 h 05 min`.
pub(super) fn span(span: Duration) -> String {
    match span.as_secs() {
        0..10 => format!("{:.1} s", span.as_secs_f64()),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
    }
}

/// `312 KB`, `4.1 MB`.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{} KB", bytes / 1_000),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
    }
}

/// `text` cut to `chars`, with `…` where something is missing.
pub(super) fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// The same with `…` in the middle, where names differ at both ends.
pub(super) fn cut_middle(text: &str, chars: usize) -> String {
    let there = text.chars().count();
    if there <= chars {
        return text.to_owned();
    }
    let kept = chars.saturating_sub(1);
    let tail = text.chars().skip(there - kept.div_ceil(2));
    text.chars().take(kept / 2).chain(['…']).chain(tail).collect()
}

/// A quotient for a rate; 0 where nothing has passed.
#[expect(clippy::cast_precision_loss, reason = "figures for a person, rounded to one digit")]
pub(super) fn per_minute(n: u64, over: Duration) -> f64 {
    let minutes = over.as_secs_f64() / 60.0;
    if minutes > 0.0 { n as f64 / minutes } else { 0.0 }
}

/// How long `left` jobs take at this rate, which the lanes' limits may keep from lasting; `None` when
/// nothing moves. `limits` are those of the lanes, per minute.
#[expect(clippy::cast_precision_loss, reason = "figures for a person, rounded to minutes")]
pub(super) fn time_left(
    left: u64,
    per_minute: f64,
    limits: impl IntoIterator<Item = Option<f64>>,
) -> Option<Duration> {
    let limit = limits.into_iter().sum::<Option<f64>>().filter(|limit| *limit > 0.0);
    let per_minute = limit.map_or(per_minute, |limit| per_minute.min(limit));
    let seconds = left as f64 / per_minute * 60.0;
    Duration::try_from_secs_f64(seconds).ok().filter(|_| per_minute > 0.0)
}

/// How many requests are in flight, for people.
pub(super) fn at_once(concurrency: Concurrency) -> String {
    match concurrency {
        Concurrency::Auto { max } => format!("as many at once as are of use (up to {max})"),
        Concurrency::Fixed(n) => format!("up to {n} at once"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_keep_their_units() {
        assert_eq!(count(1, "job"), "1 job");
        assert_eq!(count(1_234_567, "job"), "1,234,567 jobs");
        assert_eq!(grouped(0), "0");
        assert_eq!(span(Duration::from_millis(840)), "0.8 s");
        assert_eq!(span(Duration::from_secs(119)), "119 s");
        assert_eq!(span(Duration::from_secs(7_500)), "2 h 05 min");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(4_180_000), "4.1 MB");
        assert_eq!(cut("größer", 4), "grö…");
        assert_eq!(cut("größer", 6), "größer");
        assert_eq!(cut_middle("größer", 4), "g…er");
        assert_eq!(cut_middle("größer", 6), "größer");
    }

    #[test]
    fn a_rate_of_nothing_predicts_nothing() {
        assert!(per_minute(5, Duration::ZERO).abs() < f64::EPSILON);
        assert_eq!(time_left(5, 0.0, []), None);
        assert_eq!(time_left(30, 60.0, []), Some(Duration::from_secs(30)));
    }

    #[test]
    fn what_the_lanes_allow_bounds_what_a_good_start_predicts() {
        let at_600 = |limits: [Option<f64>; 2]| time_left(60, 600.0, limits).map(|left| left.as_secs());
        assert_eq!(at_600([Some(10.0), Some(20.0)]), Some(120));
        assert_eq!(at_600([Some(10.0), None]), Some(6), "one lane's limit is not known");
    }
}
