//! One lane in a line: its rate, the limit that is believed and where that comes from, what is in
//! flight, and why it waits.

use std::time::Duration;

use super::text;
use crate::job::printable;
use crate::queue::LimitSource;

/// What is shown of a lane.
#[derive(Debug, Clone)]
pub(super) struct Shown<'a> {
    pub(super) model: &'a str,
    /// Where there are several keys.
    pub(super) key_id: Option<&'a str>,
    pub(super) sent_last_minute: u32,
    pub(super) per_minute: Option<f64>,
    pub(super) source: LimitSource,
    pub(super) in_flight: u32,
    pub(super) in_flight_max: u32,
    pub(super) waits: Option<(Duration, &'a str)>,
}

/// `gemini-3.1-flash-image: 58/min of 60 (learned), 12 of 24 in flight`; one that waits says so first,
/// since a narrow terminal cuts the end: `gemini-3.1-flash-image: cooling down for 34 s, as asked by the
/// server · 58/min of 60 (learned), 12 of 24 in flight`.
pub(super) fn line(lane: &Shown<'_>) -> String {
    let key = lane.key_id.map_or_else(String::new, |id| format!(" (key {id})"));
    let limit = match (lane.per_minute, lane.source) {
        (Some(limit), source) => format!(" of {limit:.0} ({source})"),
        (None, _) => ", limit not known yet".to_owned(),
    };
    let waits = match lane.waits {
        None => String::new(),
        Some((Duration::ZERO, why)) => format!("{} · ", printable(why)),
        Some((wait, why)) => format!("cooling down for {}, {} · ", text::span(wait), printable(why)),
    };
    format!(
        "{}{key}: {waits}{}/min{limit}, {} of {} in flight",
        printable(lane.model),
        lane.sent_last_minute,
        lane.in_flight,
        lane.in_flight_max
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_says_how_fast_it_is_and_why_it_waits() {
        let lane = Shown {
            model: "flash",
            key_id: None,
            sent_last_minute: 58,
            per_minute: Some(60.2),
            source: LimitSource::Learned,
            in_flight: 12,
            in_flight_max: 24,
            waits: Some((Duration::from_secs(34), "as asked by the server")),
        };
        assert_eq!(
            line(&lane),
            "flash: cooling down for 34 s, as asked by the server · 58/min of 60 (learned), 12 of 24 in flight"
        );
        let fresh = Shown {
            key_id: Some("0a1b"),
            per_minute: None,
            source: LimitSource::Unknown,
            waits: None,
            ..lane
        };
        assert_eq!(line(&fresh), "flash (key 0a1b): 58/min, limit not known yet, 12 of 24 in flight");
    }
}
