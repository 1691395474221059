//! `summary.json`: the run in figures, for scripts. Keys keep their order; units stand in their
//! names; new keys only ever get added.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::job::{AttemptOutcome, JobState, Micros, Usage, json_safe};
use crate::queue::{BatchRow, Queue, QueueError, RunRow, Tally};

/// The version of the file's form.
const VERSION: u32 = 1;

/// A batch in figures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    version: u32,
    /// The manifest, relative to the run folder; `null` for standard input.
    pub manifest: Option<String>,
    /// Whom the requests go to.
    pub provider: &'static str,
    /// All jobs, by state; states without jobs are 0.
    pub jobs: BTreeMap<&'static str, u64>,
    /// Published files.
    pub images: u64,
    /// All requests, by outcome; outcomes without requests are 0.
    pub attempts: BTreeMap<&'static str, u64>,
    /// Tokens over all attempts.
    pub tokens: Tokens,
    /// Sum of the known costs: an estimate by list prices.
    pub cost_usd_estimate: Money,
    /// The most that all may have cost.
    pub cost_usd_at_most: Money,
    /// Starts of the program, oldest first.
    pub runs: Vec<RunFigures>,
}

/// Tokens; `null` where no answer gave any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Tokens {
    /// Prompts.
    pub prompt: Option<u64>,
    /// Text and images that came out.
    pub candidates: Option<u64>,
    /// Images that came out.
    pub image: Option<u64>,
    /// Thoughts.
    pub thoughts: Option<u64>,
    /// As the API adds them up.
    pub total: Option<u64>,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        Self {
            prompt: usage.prompt,
            candidates: usage.candidates,
            image: usage.image,
            thoughts: usage.thoughts,
            total: usage.total,
        }
    }
}

/// Dollars as a JSON number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Money(pub Micros);

impl Serialize for Money {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[expect(clippy::cast_precision_loss, reason = "exact up to nine billion dollars")]
        serializer.serialize_f64(self.0.0 as f64 / 1e6)
    }
}

/// One start of the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunFigures {
    /// Its number, as in `attempts.csv`.
    pub run: i64,
    /// `run` or `work`.
    pub command: String,
    /// The program's version.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// `null` while it runs, or when it died.
    pub ended_at: Option<String>,
    /// Why it ended.
    pub end_reason: Option<String>,
}

impl From<RunRow> for RunFigures {
    fn from(run: RunRow) -> Self {
        Self {
            run: run.run.0,
            command: run.command,
            version: run.version,
            started_at: run.started_at.to_string(),
            ended_at: run.ended_at.map(|at| at.to_string()),
            end_reason: run.end_reason,
        }
    }
}

impl Summary {
    /// The figures of a queue.
    pub async fn read(queue: &dyn Queue) -> Result<Self, QueueError> {
        let tally = queue.tally().await?;
        Ok(Self::new(queue.batch().await?, &tally, queue.runs().await?))
    }

    fn new(batch: BatchRow, tally: &Tally, runs: Vec<RunRow>) -> Self {
        let jobs = JobState::ALL.iter().map(|state| (state.as_str(), tally.jobs_in(*state)));
        let attempts = AttemptOutcome::ALL.iter().map(|one| (one.as_str(), tally.attempts_with(*one)));
        Self {
            version: VERSION,
            manifest: batch.manifest,
            provider: batch.provider.as_str(),
            jobs: jobs.collect(),
            images: tally.images,
            attempts: attempts.collect(),
            tokens: tally.usage.into(),
            cost_usd_estimate: Money(tally.cost),
            cost_usd_at_most: Money(tally.cost_at_most),
            runs: runs.into_iter().map(RunFigures::from).collect(),
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        // The type holds nothing that JSON cannot say.
        let json = serde_json::to_string_pretty(self).unwrap_or_default();
        // Why a run ended may be said in a server's words.
        let mut json = json_safe(&json).into_bytes();
        json.push(b'\n');
        json
    }
}
