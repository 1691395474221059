//! `--listen`: `/healthz` for whoever restarts what is not well, `/metrics` for Prometheus.
//!
//! Figures of the batch come from the queue, those of this process from the board. Names follow
//! Prometheus' conventions: base units, `_total` for counters, nothing that can be computed from
//! the rest.

use std::fmt::{self, Write as _};
use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::board::{self, Board};
use crate::job::{AttemptOutcome, JobState, Micros};
use crate::queue::{Queue, Tally};

/// The form of the text, as Prometheus documents it (2026-11).
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A queue that does not answer for so long is not well.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What can be watched from outside.
#[derive(Clone)]
struct Sources {
    queue: Arc<dyn Queue>,
    board: Arc<Board>,
}

/// A listener that has its port.
pub(super) struct Watched {
    listener: TcpListener,
    sources: Sources,
}

impl Watched {
    /// Takes the port; an error if it is taken.
    pub(super) async fn bind(addr: SocketAddr, queue: Arc<dyn Queue>, board: Arc<Board>) -> Result<Self> {
        let listener = TcpListener::bind(addr).await.with_context(|| {
            format!("cannot listen on {addr} (--listen); choose another port, or leave it out")
        })?;
        Ok(Self { listener, sources: Sources { queue, board } })
    }

    /// Where it listens: with the port that it got.
    pub(super) fn addr(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until it is dropped.
    pub(super) async fn serve(self) {
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/metrics", get(metrics))
            .with_state(self.sources);
        if let Err(error) = axum::serve(self.listener, router).into_future().await {
            tracing::warn!(%error, "health and metrics are not served any more");
        }
    }
}

async fn tally(sources: &Sources) -> Result<Tally, String> {
    match tokio::time::timeout(ANSWER_TIMEOUT, sources.queue.tally()).await {
        Ok(Ok(tally)) => Ok(tally),
        Ok(Err(error)) => Err(format!("the queue cannot be read: {error}\n")),
        Err(_) => Err("the queue does not answer\n".to_owned()),
    }
}

/// 200 while the work goes on and the queue answers, also while it drains.
async fn healthz(State(sources): State<Sources>) -> Response {
    match tally(&sources).await {
        Ok(_) if sources.board.state().draining => (StatusCode::OK, "draining\n").into_response(),
        Ok(_) => (StatusCode::OK, "ok\n").into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn metrics(State(sources): State<Sources>) -> Response {
    match tally(&sources).await {
        Ok(tally) => {
            let text = text(&tally, &sources.board.state());
            ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
        }
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

/// Everything, in Prometheus' text format.
fn text(tally: &Tally, state: &board::State) -> String {
    let mut page = Page::default();
    page.family("nightpress_jobs", "gauge", "Jobs of the batch by state.");
    for job_state in JobState::ALL {
        page.sample("nightpress_jobs", &[("state", job_state.as_str())], tally.jobs_in(*job_state));
    }
    page.family("nightpress_requests_total", "counter", "Requests of the batch that ended, by outcome.");
    for outcome in AttemptOutcome::ALL.iter().filter(|outcome| **outcome != AttemptOutcome::Sent) {
        let labels = [("outcome", outcome.as_str())];
        page.sample("nightpress_requests_total", &labels, tally.attempts_with(*outcome));
    }
    page.family("nightpress_images_total", "counter", "Images of the batch that were published.");
    page.sample("nightpress_images_total", &[], tally.images);
    page.family(
        "nightpress_tokens_total",
        "counter",
        "Tokens of the batch by kind, as the API reports them.",
    );
    let usage = &tally.usage;
    let kinds = [("prompt", usage.prompt), ("candidates", usage.candidates), ("thoughts", usage.thoughts)];
    for (kind, tokens) in kinds {
        page.sample("nightpress_tokens_total", &[("kind", kind)], tokens.unwrap_or(0));
    }
    page.family("nightpress_cost_usd_total", "counter", "Known cost of the batch by list prices.");
    page.sample("nightpress_cost_usd_total", &[], Dollars(tally.cost));
    page.family("nightpress_cost_at_most_usd", "gauge", "Known cost, and what may have been spent besides.");
    page.sample("nightpress_cost_at_most_usd", &[], Dollars(tally.cost_at_most));
    page.family("nightpress_requests_in_flight", "gauge", "Requests of this process on their way.");
    page.sample("nightpress_requests_in_flight", &[], state.running.len());
    page.family("nightpress_leases_lost_total", "counter", "Jobs of this process that another took over.");
    page.sample("nightpress_leases_lost_total", &[], state.leases_lost);
    lanes(&mut page, state);
    page.0
}

fn lanes(page: &mut Page, state: &board::State) {
    let families: [(&str, &str); 4] = [
        ("nightpress_lane_requests_per_minute", "Requests of this process in the last minute."),
        ("nightpress_lane_limit_per_minute", "The limit that is believed, and where that comes from."),
        ("nightpress_lane_in_flight", "Requests of this process on their way."),
        ("nightpress_lane_closed_seconds", "How long the lane is still closed."),
    ];
    for (name, help) in families {
        page.family(name, "gauge", help);
        for lane in &state.lanes {
            let key = lane.key_id.as_deref().unwrap_or_default();
            let labels = [("model", lane.model.as_str()), ("key", key), ("source", lane.source.as_str())];
            let (plain, sourced) = (labels.get(..2).unwrap_or_default(), labels.as_slice());
            match name {
                "nightpress_lane_requests_per_minute" => page.sample(name, plain, lane.state.rate_per_minute),
                "nightpress_lane_limit_per_minute" => {
                    if let Some(limit) = lane.state.limit_per_minute {
                        page.sample(name, sourced, limit);
                    }
                }
                "nightpress_lane_in_flight" => page.sample(name, plain, lane.state.in_flight),
                _ => {
                    let wait = lane.waits.as_ref().map_or(0.0, |(wait, _)| wait.as_secs_f64());
                    page.sample(name, plain, wait);
                }
            }
        }
    }
}

/// A page in the text format.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// Millionths as dollars, exactly.
struct Dollars(Micros);

impl fmt::Display for Dollars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.0 / 1_000_000, self.0.0.rem_euclid(1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::board::Start;
    use crate::cli::terminal::Terminal;
    use crate::job::JobName;
    use crate::worker::{Event, Observer as _};

    #[test]
    fn every_figure_has_its_family_and_labels_are_escaped() {
        let board = Board::new(Start::default(), Terminal::default(), true);
        let job: JobName = "hero".parse().expect("legal");
        board.event(&Event::LeaseLost { job });
        let tally =
            Tally { jobs: [(JobState::Succeeded, 3)].into(), cost: Micros(1_250_001), ..Tally::default() };
        let text = text(&tally, &board.state());
        for line in [
            "nightpress_jobs{state=\"succeeded\"} 3",
            "nightpress_jobs{state=\"failed\"} 0",
            "nightpress_cost_usd_total 1.250001",
            "nightpress_leases_lost_total 1",
            "# TYPE nightpress_requests_total counter",
        ] {
            assert!(text.lines().any(|one| one == line), "no `{line}` in\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            assert!(text.contains(&format!("# TYPE {name} ")), "{line}");
            assert!(line.rsplit(' ').next().is_some_and(|value| value.parse::<f64>().is_ok()), "{line}");
        }
        let mut page = Page::default();
        page.sample("a", &[("b", "c\"d\\e\nf"), ("g", "h")], 1);
        assert_eq!(page.0, "a{b=\"c\\\"d\\\\e\\nf\",g=\"h\"} 1\n");
    }
}
