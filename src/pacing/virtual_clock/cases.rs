//! A case of the table: a server, what the lane is told, and what a run of it comes to.

use std::fmt::Write as _;

use super::clock::{Happened, Setup, run};
use super::servers::{Seconds, Server};
use super::workers::Workers;
use crate::pacing::{Lane, LaneLimits};

/// What must be reached; shares of 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Target {
    /// Admitted of what a perfect client has admitted, mean and worst seed.
    pub(super) goodput: (f64, f64),
    /// Refusals per success, mean and worst seed.
    pub(super) refused: (f64, f64),
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) server: Server,
    /// The limit is given.
    pub(super) is_given: bool,
    pub(super) until: Seconds,
    /// So many workers share the lane; 0: it is one process' own.
    pub(super) workers: usize,
    /// Requests in flight, fixed; 0: they are found out.
    pub(super) in_flight: u32,
    pub(super) target: Target,
}

/// Without a target of its own.
pub(super) const ANY: f64 = f64::INFINITY;

/// 40 minutes.
pub(super) const USUAL: Seconds = 2_400.0;

/// What one run came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    pub(super) goodput: f64,
    pub(super) refused: f64,
    pub(super) refusals: u32,
    pub(super) overloaded: f64,
    /// The same as `goodput` in the first 3 minutes.
    pub(super) begin: f64,
    /// The first time from which 3 minutes reach 90 %.
    pub(super) to_90: Seconds,
    /// From the end of a drop or a storm to a minute at 85 %.
    pub(super) recovered: Option<Seconds>,
    /// The p95 of a job's time less that of the service.
    pub(super) excess: Seconds,
    pub(super) lost: u32,
}

/// All runs of a case.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) case: Case,
    pub(super) runs: Vec<Figures>,
}

impl Case {
    /// One run after another, each from its seed.
    pub(super) fn runs(self) -> Row {
        // A lane that is kept and recalled with each request takes its time.
        let seeds = if self.workers > 0 { 2 } else { 10 };
        let seeds = std::env::var("NIGHTPRESS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(seeds);
        Row { case: self, runs: (0..seeds).map(|seed| self.run(seed)).collect() }
    }

    fn run(self, seed: u64) -> Figures {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let given = self.is_given.then_some(self.server.per_minute as u32);
        let in_flight = (self.in_flight > 0).then_some(self.in_flight);
        let limits = LaneLimits { requests_per_minute: given, in_flight, ..LaneLimits::default() };
        let setup = Setup { server: self.server, until: self.until, seed };
        let happened = match self.workers {
            0 => run(setup, |now| Lane::new(limits, None, now)),
            count => run(setup, |now| Workers::new(count, limits, now)),
        };
        self.figures(&happened)
    }

    fn figures(self, happened: &Happened) -> Figures {
        let ideal = Ideal::new(self.server, self.until);
        let admitted = &happened.admitted;
        let between = |from: Seconds, to: Seconds| {
            let before = |at: Seconds| admitted.partition_point(|sent| *sent < at);
            f64::from(u32::try_from(before(to) - before(from)).expect("few"))
        };
        let succeeded = f64::from(u32::try_from(admitted.len()).expect("few")).max(1.0);
        let to_90 = steps(0.0, self.until - 180.0, 10.0)
            .find(|at| between(*at, at + 180.0) >= 0.9 * ideal.between(*at, at + 180.0));
        let normal_again = self.server.drop.or(self.server.storm).map(|(_, to)| to);
        let recovered = normal_again.map(|from| {
            steps(from, self.until - 60.0, 5.0)
                .find(|at| between(*at, at + 60.0) >= 0.85 * self.server.per_minute)
                .map_or(999.0, |at| at - from)
        });
        Figures {
            goodput: between(0.0, self.until) / ideal.between(0.0, self.until),
            refused: f64::from(happened.refused) / succeeded,
            refusals: happened.refused,
            overloaded: f64::from(happened.overloaded) / succeeded,
            begin: between(0.0, 180.0) / ideal.between(0.0, 180.0),
            to_90: to_90.unwrap_or(9_999.0),
            recovered,
            excess: p95(&happened.took) - p95(&happened.service_took),
            lost: happened.lost,
        }
    }
}

/// What a perfect client has admitted, added up second by second.
struct Ideal(Vec<f64>);

impl Ideal {
    fn new(server: Server, until: Seconds) -> Self {
        let mut sums = vec![0.0];
        for second in steps(0.0, until, 1.0) {
            sums.push(sums.last().copied().unwrap_or(0.0) + server.ideal(second + 0.5));
        }
        Self(sums)
    }

    fn between(&self, from: Seconds, to: Seconds) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let upto = |at: Seconds| self.0.get(at as usize).or(self.0.last()).copied().unwrap_or(0.0);
        upto(to) - upto(from)
    }
}

fn p95(took: &[Seconds]) -> Seconds {
    let mut took = took.to_vec();
    took.sort_by(f64::total_cmp);
    took.get(took.len() * 95 / 100).copied().unwrap_or(0.0)
}

fn steps(from: Seconds, to: Seconds, step: Seconds) -> impl Iterator<Item = Seconds> {
    std::iter::successors(Some(from), move |at| Some(at + step)).take_while(move |at| *at < to)
}

impl Row {
    pub(super) fn mean(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        self.runs.iter().map(of).sum::<f64>() / f64::from(u32::try_from(self.runs.len()).expect("few"))
    }

    pub(super) fn most(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        self.runs.iter().map(of).fold(f64::NEG_INFINITY, f64::max)
    }

    pub(super) fn least(&self, of: impl Fn(&Figures) -> f64) -> f64 {
        self.runs.iter().map(of).fold(f64::INFINITY, f64::min)
    }

    /// What the row misses of its target, in words; empty if nothing.
    pub(super) fn missed(&self) -> Vec<String> {
        let Target { goodput, refused } = self.case.target;
        let mut missed = Vec::new();
        let mut must = |what: &str, is: f64, at_most: f64| {
            if is > at_most {
                missed.push(format!("{}: {what} {is:.4}, target {at_most:.4}", self.case.name));
            }
        };
        must("goodput lost", 1.0 - self.mean(|run| run.goodput), 1.0 - goodput.0);
        must("goodput lost, worst seed", 1.0 - self.least(|run| run.goodput), 1.0 - goodput.1);
        must("429s per success", self.mean(|run| run.refused), refused.0);
        must("429s per success, worst seed", self.most(|run| run.refused), refused.1);
        must("jobs lost", self.most(|run| f64::from(run.lost)), 0.0);
        missed
    }

    /// The row as people read it.
    pub(super) fn line(&self) -> String {
        let percent = |share: f64| 100.0 * share;
        let mut line = format!(
            "{:<34} {:6.1} ({:5.1}) {:6.2} ({:5.2}) {:5.0} {:6.1} ({:5.1}) {:6.0} {:6.1}",
            self.case.name,
            percent(self.mean(|run| run.goodput)),
            percent(self.least(|run| run.goodput)),
            percent(self.mean(|run| run.refused)),
            percent(self.most(|run| run.refused)),
            self.most(|run| f64::from(run.refusals)),
            percent(self.mean(|run| run.begin)),
            percent(self.least(|run| run.begin)),
            self.mean(|run| run.to_90),
            self.mean(|run| run.excess),
        );
        if self.runs.iter().any(|run| run.recovered.is_some()) {
            let recovered = |run: &Figures| run.recovered.unwrap_or(0.0);
            let _ = write!(line, "  {:4.0} ({:3.0})", self.mean(recovered), self.most(recovered));
        }
        if self.mean(|run| run.overloaded) > 0.0 {
            let _ = write!(line, "  503s {:.2} %", percent(self.mean(|run| run.overloaded)));
        }
        line
    }
}

/// The head of the table.
pub(super) const HEAD: &str = "case                               goodput % (worst) 429s % (worst)  429s  first 3 min %   to 90 %  p95 +  recovered\n                                                                   at most                   after s   s    s (worst)";
