//! `--listen`: `/healthz` for whoever restarts what is not well, `/metrics` for Prometheus.
//!
//! Figures of the batch come from the queue and carry its name, since all of its workers tell the same; those of
//! this process come from the board, also while the queue is away. Names follow Prometheus' conventions
//! (<https://prometheus.io/docs/practices/naming/>, 2026-11): base units, `_total` for what only ever grows.

use std::fmt::{self, Write as _};
use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::board::{self, Board};
use super::listener::{BoundedListener, Bounds};
use crate::job::{AttemptOutcome, JobState, Micros};
use crate::queue::{Queue, Tally};

/// The form of the text, as Prometheus documents it (2026-11).
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A queue that does not answer for so long is not well.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A scrape takes less, also while the queue does not answer.
const BOUNDS: Bounds = Bounds { connections_max: 32, lifetime: Duration::from_secs(10) };
/// Seconds.
const MINUTE: f64 = 60.0;

/// What can be watched from outside.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) board: Arc<Board>,
    /// The batch's name.
    pub(super) batch: String,
}

/// A listener that has its port.
pub(super) struct Watched {
    listener: TcpListener,
    sources: Sources,
}

impl Watched {
    /// Takes the port; an error if it is taken.
    pub(super) async fn bind(addr: SocketAddr, sources: Sources) -> Result<Self> {
        let listener = TcpListener::bind(addr).await.with_context(|| {
            format!("cannot listen on {addr} (--listen); choose another port, or leave it out")
        })?;
        Ok(Self { listener, sources })
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
            .layer(map_response(last))
            .with_state(self.sources);
        let listener = BoundedListener::new(self.listener, BOUNDS);
        if let Err(error) = axum::serve(listener, router).into_future().await {
            tracing::warn!(%error, "health and metrics are not served any more");
        }
    }
}

/// One answer a connection: one that is kept for the next question would be closed while that is asked.
async fn last(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
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
    let tally = tally(&sources).await.ok();
    let text = text((&sources.batch, tally.as_ref()), &sources.board.state());
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
}

/// Everything, in Prometheus' text format; `tally` where the queue can be read.
fn text((batch, tally): (&str, Option<&Tally>), state: &board::State) -> String {
    let mut page = Page::default();
    page.family("nightpress_build_info", "gauge", "The program's version.");
    page.sample("nightpress_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.family("nightpress_queue_up", "gauge", "Whether the queue can be read.");
    page.sample("nightpress_queue_up", &[("batch", batch)], u8::from(tally.is_some()));
    if let Some(tally) = tally {
        batch_figures(&mut page, batch, tally);
    }
    page.family("nightpress_requests_in_flight", "gauge", "Requests of this process on their way.");
    page.sample("nightpress_requests_in_flight", &[], state.running.len());
    page.family("nightpress_leases_lost_total", "counter", "Jobs of this process that another took over.");
    page.sample("nightpress_leases_lost_total", &[], state.leases_lost);
    lanes(&mut page, state);
    page.0
}

fn batch_figures(page: &mut Page, batch: &str, tally: &Tally) {
    let of_batch = [("batch", batch)];
    page.family("nightpress_jobs", "gauge", "Jobs of the batch by state.");
    for job_state in JobState::ALL {
        let labels = [("batch", batch), ("state", job_state.as_str())];
        page.sample("nightpress_jobs", &labels, tally.jobs_in(*job_state));
    }
    page.family("nightpress_requests_total", "counter", "Requests of the batch that ended, by outcome.");
    for outcome in AttemptOutcome::ALL.iter().filter(|outcome| **outcome != AttemptOutcome::Sent) {
        let labels = [("batch", batch), ("outcome", outcome.as_str())];
        page.sample("nightpress_requests_total", &labels, tally.attempts_with(*outcome));
    }
    // One that is made again replaces the old one.
    page.family("nightpress_images", "gauge", "Images of the batch that are published.");
    page.sample("nightpress_images", &of_batch, tally.images);
    page.family(
        "nightpress_tokens_total",
        "counter",
        "Tokens of the batch by kind, as the API reports them.",
    );
    let usage = &tally.usage;
    let kinds = [("prompt", usage.prompt), ("candidates", usage.candidates), ("thoughts", usage.thoughts)];
    for (kind, tokens) in kinds {
        page.sample("nightpress_tokens_total", &[("batch", batch), ("kind", kind)], tokens.unwrap_or(0));
    }
    page.family("nightpress_cost_usd_total", "counter", "Known cost of the batch by list prices.");
    page.sample("nightpress_cost_usd_total", &of_batch, Dollars(tally.cost));
    page.family("nightpress_cost_at_most_usd", "gauge", "Known cost, and what may have been spent besides.");
    page.sample("nightpress_cost_at_most_usd", &of_batch, Dollars(tally.cost_at_most));
}

fn lanes(page: &mut Page, state: &board::State) {
    let families: [(&str, &str); 4] = [
        (
            "nightpress_lane_requests_per_second",
            "Requests of this process that left in the last minute, a second.",
        ),
        (
            "nightpress_lane_limit_requests_per_second",
            "The limit that is believed, and where that comes from.",
        ),
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
                "nightpress_lane_requests_per_second" => {
                    page.sample(name, plain, f64::from(lane.state.rate_per_minute) / MINUTE);
                }
                "nightpress_lane_limit_requests_per_second" => {
                    if let Some(limit) = lane.state.limit_per_minute {
                        page.sample(name, sourced, limit / MINUTE);
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
        let text = super::text(("spring", Some(&tally)), &board.state());
        for line in [
            "nightpress_jobs{batch=\"spring\",state=\"succeeded\"} 3",
            "nightpress_jobs{batch=\"spring\",state=\"failed\"} 0",
            "nightpress_cost_usd_total{batch=\"spring\"} 1.250001",
            "nightpress_queue_up{batch=\"spring\"} 1",
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
        let away = super::text(("spring", None), &board.state());
        assert!(away.contains("nightpress_queue_up{batch=\"spring\"} 0\n"), "{away}");
        assert!(
            away.contains("nightpress_leases_lost_total 1\n") && !away.contains("nightpress_jobs"),
            "{away}"
        );
        let mut page = Page::default();
        page.sample("a", &[("b", "c\"d\\e\nf"), ("g", "h")], 1);
        assert_eq!(page.0, "a{b=\"c\\\"d\\\\e\\nf\",g=\"h\"} 1\n");
    }
}
