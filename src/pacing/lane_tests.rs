//! Each rule of a lane by itself.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{Grant, Hints, Lane, LaneLimits, Learned, Source, Ticket, Why};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(11)
}

fn unknown(now: Instant) -> Lane {
    Lane::new(LaneLimits::default(), None, now)
}

fn given(per_minute: u32, now: Instant) -> Lane {
    let limits = LaneLimits { requests_per_minute: Some(per_minute), ..LaneLimits::default() };
    Lane::new(limits, None, now)
}

fn asks(wait: Duration) -> Hints {
    Hints { wait: Some(wait), per_minute: None }
}

/// Thirty requests that left one after the other; the lane is in the middle of a search.
fn busy(start: Instant) -> (Lane, Vec<Ticket>) {
    let mut lane = unknown(start);
    let tickets = (0..30).map(|n| lane.sent(start - ms(10 * (30 - n)))).collect();
    (lane, tickets)
}

/// Sends all that may leave from `from` until `to`; each is answered at once with `images`. Returns
/// when each left.
fn send(lane: &mut Lane, from: Instant, to: Instant, images: u32) -> Vec<Instant> {
    let (mut now, mut sent) = (from, Vec::new());
    while now < to {
        let grant = lane.grant(now, 100);
        for _ in 0..grant.permits {
            let ticket = lane.sent(now);
            lane.succeeded(now, ticket, images);
            sent.push(now);
        }
        now = grant.wake_at.filter(|at| *at > now).unwrap_or(now + ms(1));
    }
    sent
}

/// The most that left in any 60 s.
fn most_per_minute(sent: &[Instant]) -> usize {
    let until = |at: usize| sent.partition_point(|other| *other < sent[at] + s(60));
    (0..sent.len()).map(|at| until(at) - at).max().unwrap_or(0)
}

#[test]
fn a_refusal_closes_the_lane_for_everyone_and_never_for_less_than_the_hint() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let tickets: Vec<Ticket> = (0..4).map(|_| lane.sent(start)).collect();
    let until = lane.refused(start + ms(100), tickets[0], asks(s(7)), &mut rng());
    assert!((start + ms(7_150)..start + ms(7_500)).contains(&until));
    assert_eq!(lane.grant(start + s(7), 8), Grant { permits: 0, wake_at: Some(until) });
    assert_eq!(lane.closed(start + s(7)).map(|closed| closed.why), Some(Why::Asked));
}

#[test]
fn after_a_cooldown_one_probe_goes_first() {
    let start = Instant::now() + s(60);
    let (mut lane, tickets) = busy(start);
    for ticket in &tickets[..29] {
        lane.succeeded(start, *ticket, 1);
    }
    let until = lane.refused(start, tickets[29], asks(s(1)), &mut rng());
    assert_eq!(lane.grant(until, 8).permits, 1);
    let probe = lane.sent(until);
    assert_eq!(lane.grant(until + ms(10), 8).permits, 0, "a second one went with the probe");
    lane.succeeded(until + ms(20), probe, 1);
    assert!(lane.grant(until + s(120), 8).permits > 0);
}

#[test]
fn a_probe_that_is_not_refused_for_a_while_was_admitted() {
    let start = Instant::now() + s(60);
    let (mut lane, tickets) = busy(start);
    for ticket in &tickets[..29] {
        lane.succeeded(start, *ticket, 1);
    }
    let until = lane.refused(start, tickets[29], asks(s(1)), &mut rng());
    lane.sent(until);
    let wake_at = lane.grant(until + ms(10), 8).wake_at.expect("silence has an end");
    assert!((until + ms(1_200)..until + ms(1_500)).contains(&wake_at));
    assert!(lane.grant(wake_at + s(120), 8).permits > 0);
}

#[test]
fn where_refusals_are_slow_a_probe_is_listened_to_for_longer() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let mut now = start;
    for _ in 0..10 {
        let ticket = lane.sent(now);
        now = lane.refused(now + s(5), ticket, asks(s(1)), &mut rng());
    }
    lane.sent(now);
    let wake_at = lane.grant(now, 8).wake_at.expect("silence has an end");
    assert!(wake_at > now + s(4), "{:?}", wake_at - now);
}

#[test]
fn an_answer_to_a_request_from_before_the_closure_does_not_open_the_lane() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let (early, refused) = (lane.sent(start), lane.sent(start));
    let until = lane.refused(start + ms(50), refused, asks(s(1)), &mut rng());
    lane.succeeded(until, early, 1);
    assert_eq!(lane.grant(until, 8).permits, 1, "the probe was skipped");
}

#[test]
fn refusals_of_one_volley_are_one_and_only_refused_probes_lengthen_the_guess() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let volley: Vec<Ticket> = (0..8).map(|_| lane.sent(start)).collect();
    let mut until = start;
    for ticket in volley {
        until = lane.refused(start + ms(100), ticket, Hints::default(), &mut rng());
    }
    assert!(until < start + ms(1_300), "eight refusals at once were taken for eight in a row");
    let probe = lane.sent(until);
    let second = lane.refused(until + ms(100), probe, Hints::default(), &mut rng());
    assert!(second > until + ms(3_600), "the second refusal in a row did not lengthen the wait");
}

#[test]
fn a_short_hint_does_not_undo_a_long_one() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let (one, two) = (lane.sent(start), lane.sent(start));
    let long = lane.refused(start, one, asks(s(30)), &mut rng());
    assert_eq!(lane.refused(start, two, asks(s(1)), &mut rng()), long);
}

#[test]
fn a_given_limit_is_never_passed_in_any_minute() {
    for per_minute in [1, 7, 60, 600, 3_000] {
        let start = Instant::now();
        let sent = send(&mut given(per_minute, start), start, start + s(300), 1);
        let most = most_per_minute(&sent);
        assert!(most <= per_minute as usize, "{most} of {per_minute}");
        assert!(sent.len() * 100 >= per_minute as usize * 5 * 97, "{} of 5 × {per_minute}", sent.len());
    }
}

#[test]
fn a_lane_that_is_late_grants_several_at_once_but_never_a_volley() {
    let start = Instant::now();
    let mut lane = given(3_000, start);
    lane.sent(start);
    assert_eq!(lane.grant(start + ms(90), 100).permits, 4, "90 ms are four gaps of 20 ms");
    assert_eq!(lane.grant(start + s(9), 100).permits, 15, "300 ms of a pause are made up for, not more");
}

#[test]
fn images_count_as_many_as_came() {
    let start = Instant::now();
    let limits = LaneLimits { images_per_minute: Some(60), ..LaneLimits::default() };
    let sent = send(&mut Lane::new(limits, None, start), start, start + s(300), 3);
    let most = most_per_minute(&sent);
    assert!((18..=20).contains(&most), "{most} requests of three images each in a minute");
}

#[test]
fn of_two_limits_the_smaller_one_paces() {
    let start = Instant::now();
    let limits =
        LaneLimits { requests_per_minute: Some(600), images_per_minute: Some(30), ..LaneLimits::default() };
    let sent = send(&mut Lane::new(limits, None, start), start, start + s(180), 1);
    assert!((29..=30).contains(&most_per_minute(&sent)));
}

#[test]
fn a_refusal_measures_the_limit() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let (mut now, mut sent) = (start, 0_u32);
    while now < start + s(40) {
        for _ in 0..lane.grant(now, 100).permits {
            lane.sent(now);
            sent += 1;
        }
        now += ms(10);
    }
    assert_eq!(lane.state(start + s(40)).limit_per_minute, None, "nothing has met it yet");
    let ticket = lane.sent(start + s(40));
    lane.refused(start + s(40), ticket, asks(s(20)), &mut rng());
    let state = lane.state(start + s(40));
    assert!(sent > 20, "the search was no search");
    assert_eq!((state.limit_per_minute, state.source), (Some(f64::from(sent)), Source::Learned));
}

#[test]
fn a_stated_limit_is_believed_at_once_and_a_given_one_more() {
    let start = Instant::now();
    let hints = Hints { wait: Some(s(1)), per_minute: Some(42) };
    let mut lane = unknown(start);
    let ticket = lane.sent(start);
    lane.refused(start, ticket, hints, &mut rng());
    let state = lane.state(start);
    assert_eq!((state.limit_per_minute, state.source), (Some(42.0), Source::Stated));
    let mut lane = given(30, start);
    let ticket = lane.sent(start);
    lane.refused(start, ticket, hints, &mut rng());
    assert_eq!(lane.state(start).source, Source::Given);
}

#[test]
fn time_without_work_does_not_raise_the_limit() {
    let start = Instant::now();
    let mut lane = unknown(start);
    for second in 0..600 {
        assert_eq!(lane.grant(start + s(second), 0).permits, 0);
    }
    let (mut now, mut sent) = (start + s(600), 0);
    while now < start + s(610) {
        for _ in 0..lane.grant(now, 100).permits {
            lane.sent(now);
            sent += 1;
        }
        now += ms(10);
    }
    // Had it searched upwards all the time, far more could leave now.
    assert!(sent < 12, "{sent} left in 10 s");
}

#[test]
fn a_search_is_clocked_by_answers_where_they_are_quick() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let (mut now, mut left, mut under_way) = (start, 0, Vec::new());
    while now < start + s(3) {
        for _ in 0..lane.grant(now, 100).permits {
            under_way.push((now + ms(100), lane.sent(now)));
            left += 1;
        }
        while let Some((at, ticket)) = under_way.first().copied().filter(|(at, _)| *at <= now) {
            under_way.remove(0);
            lane.succeeded(at, ticket, 1);
        }
        now += ms(5);
    }
    assert!(left > 60, "{left} left in 3 s although each takes 0.1 s");
}

/// Many were refused together, and few of those before them have left the window when the next one is admitted.
#[test]
fn a_full_window_after_a_quick_search_is_no_bucket() {
    let start = Instant::now();
    let mut lane = unknown(start);
    // 300 in 12 s are admitted; the next 20 leave before the first of them comes back refused.
    for n in 0..300 {
        let at = start + ms(40 * n);
        let ticket = lane.sent(at);
        lane.succeeded(at, ticket, 1);
    }
    let met = start + s(12);
    let refused: Vec<Ticket> = (0..20).map(|n| lane.sent(met + ms(5 * n))).collect();
    let mut opens = met;
    for ticket in refused {
        opens = lane.refused(met + ms(200), ticket, asks(ms(47_900)), &mut rng());
    }
    let probe = opens;
    assert_eq!(lane.grant(probe, 64).permits, 1);
    let ticket = lane.sent(probe);
    lane.succeeded(probe + ms(100), ticket, 1);
    let sent = send(&mut lane, probe + ms(100), probe + s(60), 1).len();
    // Nobody refuses any, so that it goes on searching from there.
    assert!(sent < 400, "{sent} in a minute after 300 were admitted");
}

#[test]
fn the_ceiling_is_what_rate_and_latency_need() {
    let start = Instant::now();
    let mut lane = given(600, start);
    assert_eq!(lane.state(start).ceiling, 256, "600 a minute of 30 s each need more");
    for n in 0..40 {
        let sent_at = start + ms(100 * n);
        let ticket = lane.sent(sent_at);
        lane.succeeded(sent_at + s(4), ticket, 1);
    }
    assert_eq!(lane.state(start).ceiling, 60, "1.5 × 10 a second × 4 s");
    let fixed = LaneLimits { in_flight: Some(3), ..LaneLimits::default() };
    assert_eq!(Lane::new(fixed, None, start).state(start).ceiling, 3);
}

#[test]
fn five_straight_overloads_close_the_lane_until_a_picture_succeeds() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let tickets: Vec<Ticket> = (0..5).map(|_| lane.sent(start)).collect();
    for ticket in &tickets[..4] {
        assert_eq!(lane.overloaded(start, *ticket, None, &mut rng()), None);
    }
    let until = lane.overloaded(start, tickets[4], None, &mut rng()).expect("closed");
    assert_eq!(lane.closed(start).map(|closed| closed.why), Some(Why::Trouble));
    assert_eq!(lane.grant(until, 8).permits, 1);
    let probe = lane.sent(until);
    assert_eq!(lane.grant(until + s(60), 8), Grant { permits: 0, wake_at: None }, "silence proves nothing");
    let again = lane.overloaded(until + s(60), probe, None, &mut rng()).expect("closed");
    assert!(again > until + s(65), "the second closure is not longer");
    lane.grant(again, 8);
    let probe = lane.sent(again);
    lane.succeeded(again + s(9), probe, 1);
    assert_eq!(lane.closed(again + s(9)), None);
    assert!(lane.state(again + s(9)).ceiling < 8, "no slow start");
}

#[test]
fn overloads_between_successes_are_no_storm_and_say_nothing_about_the_limit() {
    let start = Instant::now();
    let mut lane = given(60, start);
    for n in 0..40 {
        let ticket = lane.sent(start);
        if n % 4 == 3 {
            lane.succeeded(start, ticket, 1);
        } else {
            assert_eq!(lane.overloaded(start, ticket, None, &mut rng()), None);
        }
    }
    assert_eq!(lane.state(start).limit_per_minute, Some(60.0));
}

#[test]
fn nothing_succeeded_for_ten_minutes_is_an_outage_with_one_probe_a_minute() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let mut now = start;
    let mut sent = Vec::new();
    while now < start + s(1_800) {
        let grant = lane.grant(now, 8);
        for _ in 0..grant.permits {
            sent.push(now);
            let ticket = lane.sent(now);
            lane.ended(now + ms(100), ticket);
        }
        now += s(1);
    }
    let since = sent.iter().filter(|at| **at >= start + s(700)).count();
    assert!((17..=19).contains(&since), "{since} probes in 1,100 s");
    assert_eq!(lane.closed(now - s(1)).map(|closed| closed.why), Some(Why::Outage));
    let probe_at = lane.closed(now - s(1)).expect("closed").until;
    assert_eq!(lane.grant(probe_at, 8).permits, 1);
    let probe = lane.sent(probe_at);
    lane.succeeded(probe_at + s(9), probe, 1);
    assert!(lane.grant(probe_at + s(10), 8).permits >= 1, "a success ends it");
}

#[test]
fn a_search_begins_with_a_small_volley() {
    let start = Instant::now();
    assert_eq!(unknown(start).grant(start, 100).permits, 4);
    assert_eq!(given(60, start).grant(start, 100).permits, 1, "a given limit knows no volley");
}

#[test]
fn refused_with_its_first_request_a_lane_does_not_creep() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let ticket = lane.sent(start);
    let until = lane.refused(start + ms(300), ticket, asks(s(40)), &mut rng());
    let sent = send(&mut lane, until, until + s(60), 1);
    assert!(sent.len() >= 8, "{} left in the minute after the refusal", sent.len());
}

#[test]
fn a_limit_in_flight_that_is_met_no_more_is_raised_ever_faster() {
    let start = Instant::now();
    let learned = Learned {
        requests_per_minute: 600.0,
        confidence: 2,
        in_flight: Some(2),
        is_stated: false,
        age: Duration::ZERO,
    };
    let mut lane = Lane::new(LaneLimits::default(), Some(learned), start);
    for second in 0..600 {
        for _ in 0..lane.grant(start + s(second), 100).permits {
            lane.sent(start + s(second));
        }
    }
    let ceiling = lane.state(start + s(600)).ceiling;
    assert!(ceiling > 60, "{ceiling} after ten minutes");
}

#[test]
fn a_parked_lane_waits_and_then_probes() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let ticket = lane.sent(start);
    let until = lane.parked(start, ticket, s(3_600));
    assert_eq!(lane.closed(start).map(|closed| closed.why), Some(Why::Parked));
    assert_eq!(lane.grant(start + s(3_599), 8).permits, 0);
    assert_eq!(lane.grant(until, 8).permits, 1);
}

#[test]
fn a_probe_that_proves_nothing_is_followed_by_another() {
    let start = Instant::now();
    let mut lane = unknown(start);
    let ticket = lane.sent(start);
    let until = lane.refused(start, ticket, asks(s(1)), &mut rng());
    let probe = lane.sent(until);
    lane.ended(until, probe);
    assert_eq!(lane.grant(until, 8).permits, 1);
}

#[test]
fn what_was_learned_is_where_the_next_run_begins_unless_it_is_old() {
    let start = Instant::now();
    let learned = Learned {
        requests_per_minute: 120.0,
        confidence: 2,
        in_flight: Some(9),
        is_stated: false,
        age: s(3_600),
    };
    let lane = Lane::new(LaneLimits::default(), Some(learned), start);
    let state = lane.state(start);
    assert_eq!((state.limit_per_minute, state.source, state.ceiling), (Some(120.0), Source::Learned, 9));
    assert_eq!(lane.learned(), Some(Learned { age: Duration::ZERO, ..learned }));
    let old = Learned { age: s(7 * 3_600), ..learned };
    assert_eq!(Lane::new(LaneLimits::default(), Some(old), start).learned(), None);
    let broken = Learned { requests_per_minute: f64::NAN, ..learned };
    assert!(Lane::new(LaneLimits::default(), Some(broken), start).state(start).limit_per_minute > Some(0.0));
}

#[test]
fn a_lane_does_not_grow_with_what_passed_through_it() {
    let start = Instant::now();
    let mut lane = given(12_000, start);
    for n in 0..40_000 {
        let ticket = lane.sent(start + Duration::from_micros(5_000 * n));
        lane.succeeded(start + Duration::from_micros(5_000 * n), ticket, 1);
    }
    assert!(format!("{lane:?}").len() < 4_000_000, "the log is not bounded");
}
