//! The event loop: one lane, one server, an endless queue of jobs, and a clock that jumps.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::servers::{Answer, Seconds, Server, Serving, lognormal};
use super::workers::Paced;
use crate::pacing::{Backoff, End, Hints, Ticket};

/// How a run of the clock is set up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) server: Server,
    /// Jobs begin until then.
    pub(super) until: Seconds,
    pub(super) seed: u64,
}

/// What happened.
#[derive(Debug, Default)]
pub(super) struct Happened {
    /// When each request left that ended with an image, in order.
    pub(super) admitted: Vec<Seconds>,
    pub(super) refused: u32,
    pub(super) overloaded: u32,
    /// From each job's first request to its image.
    pub(super) took: Vec<Seconds>,
    /// The same for the request alone that brought it: the service and the network.
    pub(super) service_took: Vec<Seconds>,
    /// Jobs that were begun and never got their image.
    pub(super) lost: u32,
    pub(super) in_flight_max: u32,
}

/// A job that has been sent before.
#[derive(Debug, Clone, Copy)]
struct Job {
    first_sent: Seconds,
    overloads: u32,
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Arrives(Job, Ticket),
    /// The image is done: it no longer counts as in flight at the server.
    Leaves,
    Answered(Job, Ticket, Answer),
    Wakes,
}

/// How long after the last new job is begun the old ones are still followed.
const GRACE: Seconds = 400.0;

struct Clock {
    now: Seconds,
    begin: Instant,
    serial: u64,
    /// By nanosecond and serial number: what was put in first happens first.
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    /// In nanoseconds.
    wakes_at: u64,
}

impl Clock {
    fn at(&mut self, when: Seconds, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse((nanos(when), self.serial)));
        self.events.insert(self.serial, event);
    }

    /// The earliest wake-up is kept; later ones are asked for again when it comes.
    fn wake(&mut self, when: Instant) {
        let when = nanos((when - self.begin).as_secs_f64() + 1e-6);
        if !(nanos(self.now) < self.wakes_at && self.wakes_at <= when) {
            self.wakes_at = when;
            self.at(Duration::from_nanos(when).as_secs_f64(), Event::Wakes);
        }
    }

    fn next(&mut self) -> Option<Event> {
        let Reverse((at, serial)) = self.queue.pop()?;
        self.now = Duration::from_nanos(at).as_secs_f64();
        self.events.remove(&serial)
    }

    fn instant(&self) -> Instant {
        self.begin + Duration::from_nanos(nanos(self.now))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn nanos(at: Seconds) -> u64 {
    (at * 1e9).round() as u64
}

/// One run of a lane against a server.
struct Run<P> {
    setup: Setup,
    clock: Clock,
    serving: Serving,
    lane: P,
    /// Jobs to be sent again, by when.
    again: BinaryHeap<Reverse<(u64, u64)>>,
    jobs: BTreeMap<u64, Job>,
    rng: StdRng,
    in_flight: u32,
    happened: Happened,
}

/// Runs the lane that `lane` makes against a server.
pub(super) fn run<P: Paced>(setup: Setup, lane: impl FnOnce(Instant) -> P) -> Happened {
    let mut rng = StdRng::seed_from_u64(setup.seed);
    let begin = Instant::now();
    let mut run = Run {
        setup,
        clock: Clock {
            now: 0.0,
            begin,
            serial: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            wakes_at: 0,
        },
        serving: Serving::new(setup.server, &mut rng),
        lane: lane(begin),
        again: BinaryHeap::new(),
        jobs: BTreeMap::new(),
        rng,
        in_flight: 0,
        happened: Happened::default(),
    };
    run.send_what_may_leave();
    while let Some(event) = run.clock.next() {
        if run.clock.now > setup.until + GRACE {
            break;
        }
        run.take(event);
    }
    let mut happened = run.happened;
    happened.lost = run.in_flight + u32::try_from(run.again.len()).expect("few");
    happened.admitted.sort_by(f64::total_cmp);
    happened
}

impl<P: Paced> Run<P> {
    /// One way over the network: connections are kept, prompts are small.
    fn way(&mut self) -> Seconds {
        self.setup.server.connection + self.setup.server.slow_upload * lognormal(0.08, 0.8, &mut self.rng)
    }

    fn take(&mut self, event: Event) {
        let now = self.clock.now;
        match event {
            Event::Arrives(job, ticket) => {
                let (answer, after) = self.serving.arrive(now, &mut self.rng);
                if answer == Answer::Image {
                    self.clock.at(now + after, Event::Leaves);
                }
                let back = self.way();
                self.clock.at(now + after + back, Event::Answered(job, ticket, answer));
                return;
            }
            Event::Leaves => return self.serving.leave(),
            Event::Answered(job, ticket, answer) => self.answered(job, ticket, answer),
            Event::Wakes => {}
        }
        self.send_what_may_leave();
    }

    fn answered(&mut self, mut job: Job, ticket: Ticket, answer: Answer) {
        let now = self.clock.instant();
        self.in_flight -= 1;
        match answer {
            Answer::Image => {
                let end = End::Answered { images: 1, slowest: None };
                self.lane.ended(now, ticket, end, &mut self.rng);
                let sent_at = (ticket.sent_at() - self.clock.begin).as_secs_f64();
                self.happened.admitted.push(sent_at);
                self.happened.service_took.push(self.clock.now - sent_at);
                self.happened.took.push(self.clock.now - job.first_sent);
            }
            Answer::Refused { hint, stated } => {
                self.happened.refused += 1;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let hints = Hints {
                    wait: hint.map(Duration::from_secs_f64),
                    per_minute: stated.map(|limit| limit as u32),
                };
                let opens = self.lane.ended(now, ticket, End::Refused(hints), &mut self.rng);
                self.send_again(job, opens);
            }
            Answer::Overloaded { hint } => {
                self.happened.overloaded += 1;
                let hint = hint.map(Duration::from_secs_f64);
                self.lane.ended(now, ticket, End::Overloaded(hint), &mut self.rng);
                job.overloads += 1;
                let backoff = Backoff::default().delay(job.overloads, &mut self.rng);
                self.send_again(job, now + backoff.max(hint.unwrap_or_default()));
            }
        }
    }

    fn send_again(&mut self, job: Job, at: Instant) {
        self.clock.serial += 1;
        let serial = self.clock.serial;
        self.again.push(Reverse((nanos((at - self.clock.begin).as_secs_f64()), serial)));
        self.jobs.insert(serial, job);
        self.clock.at((at - self.clock.begin).as_secs_f64(), Event::Wakes);
    }

    fn next_job(&mut self) -> Option<Job> {
        let now = self.clock.now;
        if let Some(Reverse((at, serial))) = self.again.peek().copied()
            && at <= nanos(now)
        {
            self.again.pop();
            return self.jobs.remove(&serial);
        }
        (now < self.setup.until).then_some(Job { first_sent: now, overloads: 0 })
    }

    fn send_what_may_leave(&mut self) {
        let now = self.clock.instant();
        loop {
            let due = self.again.iter().filter(|Reverse((at, _))| *at <= nanos(self.clock.now)).count();
            let wanted =
                if self.clock.now < self.setup.until { 1_000 } else { u32::try_from(due).expect("few") };
            let grant = self.lane.grant(now, wanted);
            for _ in 0..grant.permits {
                let Some(job) = self.next_job() else { break };
                let ticket = self.lane.sent(now);
                self.in_flight += 1;
                self.happened.in_flight_max = self.happened.in_flight_max.max(self.in_flight);
                let way = self.way();
                self.clock.at(self.clock.now + way, Event::Arrives(job, ticket));
            }
            if grant.permits == 0 {
                if let Some(at) = grant.wake_at {
                    self.clock.wake(at);
                }
                return;
            }
        }
    }
}
