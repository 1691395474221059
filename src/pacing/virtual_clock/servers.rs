//! Simulated servers: a limit, what they say when they refuse, and their faults. Times are
//! seconds since the beginning.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

/// Seconds since the beginning.
pub(super) type Seconds = f64;

/// How requests are counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// A token bucket that holds so many.
    Bucket(f64),
    /// Windows of 60 s, side by side.
    Fixed,
    /// Any 60 s.
    Sliding,
    /// Any 60 s, refused requests included: gateways do this.
    SlidingCountsRefused,
    /// A third of so many per minute in flight, and no limit on the rate.
    InFlight,
}

/// What a refusal says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Says {
    Nothing,
    /// When to come back, in whole seconds.
    When,
    /// When to come back, and the limit.
    WhenAndLimit,
    /// Half the time that it takes.
    Half,
    /// Always the same.
    Always(Seconds),
}

/// A server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Server {
    pub(super) kind: Kind,
    pub(super) per_minute: f64,
    pub(super) says: Says,
    /// The limit is a third between these times.
    pub(super) drop: Option<(Seconds, Seconds)>,
    /// 95 % of requests meet a 503 between these times.
    pub(super) storm: Option<(Seconds, Seconds)>,
    /// The share of requests that meet one at other times.
    pub(super) overloaded: f64,
    /// What a 503 asks to wait.
    pub(super) overload_hint: Option<Seconds>,
    /// A refusal takes half to one and a half times as long to be answered.
    pub(super) slow_refusal: Seconds,
    /// One way over a connection that is kept.
    pub(super) connection: Seconds,
    /// How much longer than usual an upload takes.
    pub(super) slow_upload: f64,
    /// The others' share of the quota: it changes every three minutes among none, 20 % and 40 %.
    pub(super) has_other_users: bool,
    /// Median of the service's time in seconds.
    pub(super) latency: Seconds,
}

/// Deviation of the logarithm of the service's time.
pub(super) const LATENCY_SIGMA: f64 = 0.6;

impl Server {
    pub(super) const fn new(kind: Kind, per_minute: f64) -> Self {
        Self {
            kind,
            per_minute,
            says: Says::Nothing,
            drop: None,
            storm: None,
            overloaded: 0.0,
            overload_hint: None,
            slow_refusal: 0.0,
            connection: 0.03,
            slow_upload: 1.0,
            has_other_users: false,
            latency: 12.0,
        }
    }

    /// The limit at this time, per minute.
    pub(super) fn limit(&self, at: Seconds) -> f64 {
        match self.drop {
            Some((from, to)) if (from..to).contains(&at) => self.per_minute / 3.0,
            _ => self.per_minute,
        }
    }

    fn in_storm(&self, at: Seconds) -> bool {
        self.storm.is_some_and(|(from, to)| (from..to).contains(&at))
    }

    /// What a perfect client has admitted and answered, per second.
    pub(super) fn ideal(&self, at: Seconds) -> f64 {
        if self.kind == Kind::InFlight {
            let mean = self.latency * (LATENCY_SIGMA * LATENCY_SIGMA / 2.0).exp();
            return (self.per_minute / 3.0).round().max(2.0) / (mean + 0.03);
        }
        let others = if self.has_other_users { 0.8 } else { 1.0 };
        if self.in_storm(at) {
            return 0.0;
        }
        self.limit(at) / 60.0 * (1.0 - self.overloaded) * others
    }
}

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Answer {
    Image,
    Refused { hint: Option<Seconds>, stated: Option<f64> },
    Overloaded { hint: Option<Seconds> },
}

/// A server at work.
pub(super) struct Serving {
    server: Server,
    counter: Counter,
    in_flight: u32,
    others: Others,
}

#[derive(Default)]
struct Others {
    at: Seconds,
    share: f64,
    changes_at: Seconds,
}

impl Serving {
    pub(super) fn new(server: Server, rng: &mut StdRng) -> Self {
        let others = Others { share: 0.2, ..Others::default() };
        Self { server, counter: Counter::new(server, rng), in_flight: 0, others }
    }

    /// A request arrives. Returns the answer and how long it takes.
    pub(super) fn arrive(&mut self, at: Seconds, rng: &mut StdRng) -> (Answer, Seconds) {
        let server = self.server;
        if server.has_other_users {
            self.serve_others(at, rng);
        }
        let at_once = 0.05 + 0.05 * rng.random::<f64>();
        if server.kind == Kind::InFlight {
            if f64::from(self.in_flight) >= (server.per_minute / 3.0).round().max(2.0) {
                return (Answer::Refused { hint: None, stated: None }, at_once);
            }
        } else if let Err(wait) = self.counter.take(at, server.limit(at)) {
            let (hint, stated) = match server.says {
                Says::Nothing => (None, None),
                Says::When => (Some(wait.ceil()), None),
                Says::WhenAndLimit => (Some(wait.ceil()), Some(server.limit(at))),
                Says::Half => (Some((0.5 * wait).ceil()), None),
                Says::Always(seconds) => (Some(seconds), None),
            };
            let slow = server.slow_refusal * (0.5 + rng.random::<f64>());
            return (Answer::Refused { hint, stated }, at_once + slow);
        }
        let overloaded = if server.in_storm(at) { 0.95 } else { server.overloaded };
        if rng.random::<f64>() < overloaded {
            return (Answer::Overloaded { hint: server.overload_hint }, 1.0 + 7.0 * rng.random::<f64>());
        }
        self.in_flight += 1;
        (
            Answer::Image,
            lognormal(server.latency, LATENCY_SIGMA, rng).clamp(server.latency / 4.0, server.latency * 15.0),
        )
    }

    /// An image is done.
    pub(super) fn leave(&mut self) {
        self.in_flight -= 1;
    }

    fn serve_others(&mut self, at: Seconds, rng: &mut StdRng) {
        let others = &mut self.others;
        while others.at < at {
            if others.at >= others.changes_at {
                others.share = [0.0, 0.2, 0.4][rng.random_range(0..3)];
                others.changes_at += 180.0;
            }
            if others.share == 0.0 {
                others.at += 5.0;
                continue;
            }
            others.at -= (1.0 - rng.random::<f64>()).ln() / (others.share * self.server.per_minute / 60.0);
            if others.at <= at {
                let _ = self.counter.take(others.at, self.server.per_minute);
            }
        }
    }
}

/// A number whose logarithm is normally distributed around that of `median`.
pub(super) fn lognormal(median: f64, sigma: f64, rng: &mut impl Rng) -> f64 {
    let (u, v) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    median * (sigma * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()).exp()
}

enum Counter {
    Bucket { capacity: f64, tokens: f64, at: Seconds },
    Fixed { phase: Seconds, window: f64, used: f64 },
    Sliding { times: VecDeque<Seconds>, counts_refused: bool },
}

impl Counter {
    fn new(server: Server, rng: &mut StdRng) -> Self {
        match server.kind {
            Kind::Bucket(capacity) => Self::Bucket { capacity, tokens: capacity, at: 0.0 },
            Kind::Fixed => Self::Fixed { phase: 60.0 * rng.random::<f64>(), window: -1.0, used: 0.0 },
            Kind::Sliding | Kind::InFlight => Self::Sliding { times: VecDeque::new(), counts_refused: false },
            Kind::SlidingCountsRefused => Self::Sliding { times: VecDeque::new(), counts_refused: true },
        }
    }

    /// Counts a request if there is room; otherwise how long until there is.
    fn take(&mut self, now: Seconds, limit: f64) -> Result<(), Seconds> {
        match self {
            Self::Bucket { capacity, tokens, at } => {
                *tokens = (*tokens + (now - *at) * limit / 60.0).min(*capacity);
                *at = now;
                if *tokens < 1.0 {
                    return Err((1.0 - *tokens) * 60.0 / limit);
                }
                *tokens -= 1.0;
            }
            Self::Fixed { phase, window, used } => {
                let current = ((now + *phase) / 60.0).floor();
                if current > *window {
                    (*window, *used) = (current, 0.0);
                }
                if *used >= limit {
                    return Err((current + 1.0) * 60.0 - *phase - now);
                }
                *used += 1.0;
            }
            Self::Sliding { times, counts_refused } => {
                while times.front().is_some_and(|at| *at <= now - 60.0) {
                    times.pop_front();
                }
                let surplus = f64::from(u32::try_from(times.len()).expect("small")) - limit;
                if surplus >= 0.0 {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let opens = times.get(surplus as usize).or(times.back()).map_or(now, |at| at + 60.0);
                    if *counts_refused {
                        times.push_back(now);
                    }
                    return Err(opens - now);
                }
                times.push_back(now);
            }
        }
        Ok(())
    }
}
