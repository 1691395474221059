//! When a daily quota is filled again.

use jiff::tz::{Offset, TimeZone};
use jiff::{ToSpan, civil};

use crate::job::Timestamp;

/// The next midnight in California, when Google fills daily quotas again (ai.google.dev, "Rate
/// limits", read 2026-11). On a machine without a time zone database, that of Pacific standard
/// time: an hour late in summer, never early.
pub fn daily_quota_reset(now: Timestamp) -> Timestamp {
    let pacific =
        TimeZone::get("America/Los_Angeles").unwrap_or_else(|_| TimeZone::fixed(Offset::constant(-8)));
    next_midnight(now, &pacific).unwrap_or_else(|| now.plus(std::time::Duration::from_secs(24 * 60 * 60)))
}

fn next_midnight(now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let here = jiff::Timestamp::from_millisecond(now.as_ms()).ok()?.to_zoned(zone.clone());
    let tomorrow: civil::Date = here.date().checked_add(1.day()).ok()?;
    let midnight = tomorrow.to_zoned(zone.clone()).ok()?;
    Some(Timestamp::from_ms(midnight.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_comes_back_at_midnight_pacific() {
        let zone = TimeZone::fixed(Offset::constant(-8));
        let at =
            |text: &str| Timestamp::from_ms(text.parse::<jiff::Timestamp>().expect("time").as_millisecond());
        let check = |now: &str, expect: &str| assert_eq!(next_midnight(at(now), &zone), Some(at(expect)));
        check("2026-11-20T07:59:59Z", "2026-11-20T08:00:00Z");
        check("2026-11-20T08:00:00Z", "2026-11-21T08:00:00Z");
        let reset = daily_quota_reset(at("2026-11-20T23:00:00Z"));
        assert_eq!(reset, at("2026-11-21T08:00:00Z"));
    }
}
