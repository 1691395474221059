//! Values as a person writes them: times, durations, limits, money, sizes. One spelling for
//! flags, the environment and `nightpress.yaml`.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil;
use jiff::tz::TimeZone;

use crate::job::{Micros, Timestamp};
use crate::queue::LostPolicy;
use crate::worker::FailureLimit;

/// A text that is not the value that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub(super) struct ValueError {
    expected: &'static str,
}

const fn expected<T>(expected: &'static str) -> Result<T, ValueError> {
    Err(ValueError { expected })
}

/// Longest duration that is accepted: ten years.
const SPAN_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Where to listen: an address with its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listen(pub(super) SocketAddr);

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().parse() {
            Ok(addr) => Ok(Self(addr)),
            Err(_) => expected("an address with its port, such as 127.0.0.1:9464"),
        }
    }
}

/// A duration: `90s`, `2m`, `1h 30m`, or a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "a duration such as 90s, 2m or 1h 30m";
        let text = text.trim();
        let parsed = match text.parse::<f64>() {
            Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
            Err(_) => text.parse::<jiff::SignedDuration>().ok().and_then(|span| span.try_into().ok()),
        };
        match parsed {
            Some(span) if span <= SPAN_MAX => Ok(Self(span)),
            _ => expected(EXPECTED),
        }
    }
}

/// When nothing more is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deadline {
    /// So long from now.
    In(Duration),
    /// At this instant.
    At(jiff::Timestamp),
    /// At this time of day, today or tomorrow, by the machine's time zone.
    Clock(civil::Time),
}

impl FromStr for Deadline {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Ok(at) = text.parse() {
            Ok(Self::At(at))
        } else if let Some(time) = time_of_day(text) {
            Ok(Self::Clock(time))
        } else if let Ok(Span(span)) = text.parse() {
            Ok(Self::In(span))
        } else {
            expected(
                "a time of day such as 06:30, a duration such as 6h, or an instant such as 2026-11-20T06:30:00Z",
            )
        }
    }
}

/// `H:MM`, `HH:MM` or `HH:MM:SS`.
fn time_of_day(text: &str) -> Option<civil::Time> {
    let mut parts = text.split(':').map(|part| part.parse::<i8>().ok().filter(|_| part.len() <= 2));
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    parts.next().is_none().then(|| civil::Time::new(hour, minute, second, 0).ok()).flatten()
}

impl Deadline {
    /// The instant that is meant, seen from `now`.
    pub(super) fn resolve(self, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, jiff::Error> {
        let time = match self {
            Self::In(span) => return Ok(now.plus(span)),
            Self::At(at) => return Ok(Timestamp::from_ms(at.as_millisecond())),
            Self::Clock(time) => time,
        };
        let here = jiff::Timestamp::from_millisecond(now.as_ms())?.to_zoned(zone.clone());
        let today = here.date().to_datetime(time).to_zoned(zone.clone())?;
        let at = if today > here {
            today
        } else {
            here.date().tomorrow()?.to_datetime(time).to_zoned(zone.clone())?
        };
        Ok(Timestamp::from_ms(at.timestamp().as_millisecond()))
    }
}

/// When failures are too many: `20` jobs or `5%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Failures(pub(super) FailureLimit);

impl FromStr for Failures {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "a positive number of jobs such as 20, or a share such as 5%";
        let text = text.trim();
        let limit = match text.strip_suffix('%') {
            Some(percent) => percent
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|percent| (0.0..=100.0).contains(percent))
                .map(FailureLimit::Percent),
            None => text.parse().ok().filter(|jobs| *jobs > 0).map(FailureLimit::Jobs),
        };
        limit.map_or_else(|| expected(EXPECTED), |limit| Ok(Self(limit)))
    }
}

/// Dollars: `5`, `2.50`, `$10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usd(pub(super) Micros);

impl FromStr for Usd {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let usd = text.strip_prefix('$').unwrap_or(text).parse().ok().and_then(Micros::from_usd);
        usd.map_or_else(|| expected("a positive sum in US dollars such as 5 or 2.50"), |usd| Ok(Self(usd)))
    }
}

/// A size: `100MB`, `16MiB`, or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

impl FromStr for Bytes {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: Option<u64> = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => Some(1),
            "k" | "kb" => Some(1_000),
            "m" | "mb" => Some(1_000_000),
            "g" | "gb" => Some(1_000_000_000),
            "kib" => Some(1 << 10),
            "mib" => Some(1 << 20),
            "gib" => Some(1 << 30),
            _ => None,
        };
        let bytes = factor.and_then(|factor| number.parse::<u64>().ok()?.checked_mul(factor));
        bytes.filter(|bytes| *bytes > 0).map_or_else(
            || expected("a size such as 100MB, 16MiB or a number of bytes"),
            |bytes| Ok(Self(bytes)),
        )
    }
}

/// A number of things, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count(pub(super) u32);

impl FromStr for Count {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim().parse() {
            Ok(count) if count > 0 => Ok(Self(count)),
            _ => expected("a number, at least 1"),
        }
    }
}

/// How many requests are in flight: `auto`, or a number that fixes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtOnce {
    Auto,
    Fixed(u32),
}

impl FromStr for AtOnce {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            text => match text.parse() {
                Ok(n) if n > 0 => Ok(Self::Fixed(n)),
                _ => expected("auto or a number, at least 1"),
            },
        }
    }
}

/// What becomes of jobs whose attempt was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost(pub(super) LostPolicy);

impl FromStr for Lost {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.trim() {
            "retry" => Ok(Self(LostPolicy::Retry)),
            "hold" => Ok(Self(LostPolicy::Hold)),
            _ => expected("retry or hold"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_friendly_or_seconds() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(
                text.parse::<Span>().ok().map(|span| span.0),
                expect.map(Duration::from_secs),
                "{text}"
            );
        };
        check("90s", Some(90));
        check("1h 30m", Some(5_400));
        check("120", Some(120));
        check("0", Some(0));
        check("PT2M", Some(120));
        check("-5s", None);
        check("soon", None);
        check("inf", None);
        check("", None);
        check("99999999h", None);
    }

    #[test]
    fn limits_money_and_sizes_say_what_would_be_right() {
        assert_eq!("5%".parse(), Ok(Failures(FailureLimit::Percent(5.0))));
        assert_eq!("20".parse(), Ok(Failures(FailureLimit::Jobs(20))));
        for wrong in ["-1", "101%", "many", "%"] {
            assert!(wrong.parse::<Failures>().is_err(), "{wrong}");
        }
        assert_eq!("$2.50".parse(), Ok(Usd(Micros(2_500_000))));
        assert!("-1".parse::<Usd>().is_err());
        assert_eq!("16MiB".parse(), Ok(Bytes(16 << 20)));
        assert_eq!("100 MB".parse(), Ok(Bytes(100_000_000)));
        assert_eq!("7".parse(), Ok(Bytes(7)));
        assert!("7 parsecs".parse::<Bytes>().is_err());
        let error = "0".parse::<Count>().expect_err("refused");
        assert_eq!(error.to_string(), "expected a number, at least 1");
        assert_eq!("hold".parse(), Ok(Lost(LostPolicy::Hold)));
    }

    #[test]
    fn a_deadline_is_a_time_of_day_a_duration_or_an_instant() {
        let now = Timestamp::from_ms(1_795_129_445_000); // 2026-11-19T23:04:05Z
        let check = |text: &str, expect: &str| {
            let deadline: Deadline = text.parse().expect("a deadline");
            assert_eq!(
                deadline.resolve(now, &TimeZone::UTC).expect("resolves").to_string(),
                expect,
                "{text}"
            );
        };
        check("6h", "2026-11-20T05:04:05.000Z");
        check("06:30", "2026-11-20T06:30:00.000Z");
        check("6:30", "2026-11-20T06:30:00.000Z");
        check("23:30", "2026-11-19T23:30:00.000Z");
        check("2026-11-21T00:00:00+01:00", "2026-11-20T23:00:00.000Z");
        for wrong in ["25:00", "6:30:00:00", "tonight", ""] {
            assert!(wrong.parse::<Deadline>().is_err(), "{wrong}");
        }
    }
}
