//! `nightpress status`: how far a batch is.

use std::time::Duration;

use anyhow::{Context as _, Result};
use console::Term;
use serde_json::json;

use crate::cli::args::StatusArgs;
use crate::cli::closing::cost_line;
use crate::cli::crew;
use crate::cli::exit::Exit;
use crate::cli::lane_line::{self, Shown};
use crate::cli::session::Session;
use crate::cli::signals::Signals;
use crate::cli::text;
use crate::job::{AttemptOutcome, Clock, JobState, Timestamp, printable};
use crate::output::{Results, RunFolder};
use crate::queue::{Access, LaneStateRow, Left, Queue, QueueError, Scope, Tally, WorkerRow};
use crate::report::Summary;

const WATCH_EVERY: Duration = Duration::from_secs(2);
/// The rate is that of the last so many requests.
const RECENT_ATTEMPTS: u32 = 200;
/// Requests that were sent longer ago than this say nothing about the rate.
const RECENT: Duration = Duration::from_secs(300);

/// A look at a queue.
struct Look {
    tally: Tally,
    left: Left,
    /// Those that live.
    workers: Vec<WorkerRow>,
    images_per_minute: Option<f64>,
    time_left: Option<Duration>,
    /// Of the workers that live.
    lanes: Vec<LaneStateRow>,
    /// They belong to all workers together.
    lanes_are_shared: bool,
    now: Timestamp,
}

pub(in crate::cli) async fn run(session: Session, args: StatusArgs) -> Result<Exit> {
    let (site, queue) = session.existing(&args.folder, &args.queue, Access::Look).await?;
    let results = site.results(Some(queue.as_ref())).await?;
    if args.watch {
        watch(&session, (&results, queue.as_ref()), args.json).await?;
    } else {
        let look = Look::take(queue.as_ref(), results.folder(), session.clock.as_ref()).await?;
        show(&session, (&results, queue.as_ref()), &look, args.json).await?;
    }
    queue.close().await;
    Ok(Exit::Done)
}

async fn watch(session: &Session, (results, queue): (&Results, &dyn Queue), json: bool) -> Result<()> {
    let mut signals = Signals::listen().context("cannot listen to signals")?;
    let screen = Term::stdout();
    let mut drawn = 0;
    loop {
        let look = Look::take(queue, results.folder(), session.clock.as_ref()).await?;
        if screen.is_term() && !json {
            // A terminal that went away is found out by the flush below.
            drop(screen.clear_last_lines(drawn));
        }
        drawn = show(session, (results, queue), &look, json).await?;
        session.terminal.show();
        if look.is_done() || session.terminal.is_broken() {
            return Ok(());
        }
        tokio::select! {
            _ = signals.next() => return Ok(()),
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}

/// Prints a look and returns how many lines it took.
async fn show(
    session: &Session,
    (results, queue): (&Results, &dyn Queue),
    look: &Look,
    as_json: bool,
) -> Result<usize> {
    if as_json {
        let mut status = serde_json::to_value(Summary::read(queue).await?)?;
        let more = json!({
            "folder": results.folder().path().display().to_string(),
            "results": results.to_string(),
            "left": {
                "ready": look.left.ready, "snoozed": look.left.snoozed, "waiting": look.left.waiting,
                "running": look.left.running, "held": look.left.held,
            },
            "workers": look.workers.iter().map(crew::json).collect::<Vec<_>>(),
            "images_per_minute": look.images_per_minute,
            "seconds_left_estimate": look.time_left.map(|left| left.as_secs()),
            "lanes": look.lanes.iter().map(lane_json).collect::<Vec<_>>(),
        });
        if let (Some(status), serde_json::Value::Object(more)) = (status.as_object_mut(), more) {
            status.extend(more);
        }
        session.terminal.json(&status.to_string());
        return Ok(1);
    }
    let lines = look.lines(results, crew::HostName::for_who_reads());
    session.terminal.out(&lines.join("\n"));
    Ok(lines.len())
}

impl Look {
    async fn take(queue: &dyn Queue, folder: &RunFolder, clock: &dyn Clock) -> Result<Self, QueueError> {
        let tally = queue.tally().await?;
        let left = queue.left(&Scope::default()).await?;
        let workers = crew::living(queue, folder).await?;
        let mut lanes = queue.lane_states().await?;
        lanes.retain(|lane| workers.iter().any(|worker| worker.worker == lane.worker));
        let rates = match workers.first() {
            Some(worker) => rates(queue, worker.read_at).await?,
            None => None,
        };
        let to_do = left.ready + left.snoozed + left.waiting + left.running;
        let time_left = rates.filter(|_| to_do > 0).and_then(|rates| {
            text::time_left(to_do, rates.jobs, lanes.iter().map(|lane| lane.state.per_minute))
        });
        let images_per_minute = rates.map(|rates| rates.images);
        let lanes_are_shared = queue.spans_machines();
        let now = clock.now();
        Ok(Self { tally, left, workers, images_per_minute, time_left, lanes, lanes_are_shared, now })
    }

    fn is_done(&self) -> bool {
        self.left.ready + self.left.snoozed + self.left.waiting + self.left.running == 0
    }

    fn lines(&self, results: &Results, name: crew::HostName) -> Vec<String> {
        let Self { tally, left, .. } = self;
        let succeeded = text::grouped(tally.jobs_in(JobState::Succeeded));
        let at = results.to_string();
        let mut lines = vec![format!(
            "{}: {succeeded} of {} succeeded, {}",
            printable(&at),
            text::count(tally.jobs_total(), "job"),
            text::count(tally.images, "image")
        )];
        for state in JobState::ALL.iter().filter(|state| tally.jobs_in(**state) > 0) {
            let due = if *state == JobState::Pending && left.snoozed > 0 {
                format!(" ({} of them due later)", text::grouped(left.snoozed))
            } else {
                String::new()
            };
            lines.push(format!("  {:<10} {:>9}{due}", state, text::grouped(tally.jobs_in(*state))));
        }
        let throttled = text::grouped(tally.attempts_with(AttemptOutcome::Throttled));
        let requests = text::count(tally.attempts.values().sum(), "request");
        lines.push(format!("{requests}, of them {throttled} throttled"));
        if let Some(rate) = self.images_per_minute {
            let left =
                self.time_left.map_or_else(String::new, |left| format!(", about {} left", text::span(left)));
            lines.push(format!("{rate:.1} images/min{left}"));
        }
        lines.push(cost_line(tally.cost, tally.cost_at_most));
        if self.workers.is_empty() {
            lines.push("nobody works on it".to_owned());
        } else {
            lines.push(text::count(self.workers.len() as u64, "worker"));
            lines.extend(self.workers.iter().map(|worker| format!("  {}", crew::line(worker, name))));
        }
        lines.extend(self.lanes_to_show().iter().map(|lane| format!("  {}", self.lane_line(lane))));
        lines
    }

    /// Each lane once, with what all workers send.
    fn lanes_to_show(&self) -> Vec<LaneStateRow> {
        let mut shown: Vec<LaneStateRow> = Vec::new();
        for lane in &self.lanes {
            let is_same = |one: &&mut LaneStateRow| {
                self.lanes_are_shared && (&one.model, &one.key_id) == (&lane.model, &lane.key_id)
            };
            let Some(one) = shown.iter_mut().find(is_same) else {
                shown.push(lane.clone());
                continue;
            };
            let (all, more) = (&mut one.state, &lane.state);
            all.sent_last_minute = all.sent_last_minute.saturating_add(more.sent_last_minute);
            all.in_flight = all.in_flight.saturating_add(more.in_flight);
            all.in_flight_max = all.in_flight_max.saturating_add(more.in_flight_max);
            all.closed = all.closed.clone().or_else(|| more.closed.clone());
        }
        shown
    }

    fn lane_line(&self, row: &LaneStateRow) -> String {
        let several_keys = self.lanes.iter().any(|lane| lane.key_id != row.key_id);
        let state = &row.state;
        lane_line::line(&Shown {
            model: &row.model,
            key_id: several_keys.then_some(row.key_id.as_str()),
            sent_last_minute: state.sent_last_minute,
            per_minute: state.per_minute,
            source: state.source,
            in_flight: state.in_flight,
            in_flight_max: state.in_flight_max,
            waits: state.closed.as_ref().map(|(until, why)| (until.since(self.now), why.as_str())),
        })
    }
}

fn lane_json(row: &LaneStateRow) -> serde_json::Value {
    let state = &row.state;
    json!({
        "model": row.model, "key_id": row.key_id, "worker": row.worker.0,
        "requests_last_minute": state.sent_last_minute, "limit_per_minute": state.per_minute,
        "limit_source": state.source.as_str(), "in_flight": state.in_flight,
        "in_flight_max": state.in_flight_max,
        "opens_at": state.closed.as_ref().map(|(until, _)| until.to_string()),
        "waits_because": state.closed.as_ref().map(|(_, why)| why),
    })
}

/// A minute's worth of late.
#[derive(Debug, Clone, Copy)]
struct Rates {
    images: f64,
    jobs: f64,
}

/// What the last requests came to, by the queue's clock; `None` when nothing moves.
async fn rates(queue: &dyn Queue, now: Timestamp) -> Result<Option<Rates>, QueueError> {
    let mut recent = queue.latest_attempts(RECENT_ATTEMPTS).await?;
    recent.retain(|attempt| now.since(attempt.sent_at) <= RECENT);
    let Some(first) = recent.first() else { return Ok(None) };
    let with = |outcomes: &[AttemptOutcome]| {
        recent.iter().filter(|attempt| outcomes.contains(&attempt.outcome)).count() as u64
    };
    let over = now.since(first.sent_at);
    let images = with(&[AttemptOutcome::Succeeded]);
    let jobs = with(&[AttemptOutcome::Succeeded, AttemptOutcome::Failed, AttemptOutcome::Refused]);
    let rates = Rates { images: text::per_minute(images, over), jobs: text::per_minute(jobs, over) };
    Ok(Some(rates).filter(|rates| rates.jobs > 0.0))
}
