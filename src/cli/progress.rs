//! Progress on a terminal: one bar for the batch and a line for each running job, drawn at most
//! ten times a second. Where there is no terminal, [`super::plain`] speaks instead.

use std::sync::Arc;
use std::time::Duration;

use console::{Term, truncate_str};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::board::{Board, Running, State, lane_line};
use super::plain;
use super::terminal::Terminal;
use super::text;
use crate::worker::Phase;

const DRAWS_PER_SECOND: u8 = 10;
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Columns of the bar itself.
const BAR_COLUMNS: usize = 16;
/// Columns of a model's name: that of the longest one there is.
const MODEL_COLUMNS: usize = 30;
/// Fewest and most columns of a job's id beside it; in a narrower terminal the model goes.
const ID_COLUMNS_MIN: usize = 16;
const ID_COLUMNS_MAX: usize = 40;
/// Lanes that have a line of their own.
const LANES_SHOWN_MAX: usize = 6;
/// Lines of the terminal that are left to what stood there before.
const LINES_SPARED: usize = 4;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Not at all.
    None,
    /// A line now and then.
    Plain,
    /// Bars on a terminal.
    Bars,
}

impl Style {
    /// What fits standard error.
    pub(super) fn of_stderr(quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        match (quiet, Term::stderr().is_term() && !dumb) {
            (true, _) => Self::None,
            (false, true) => Self::Bars,
            (false, false) => Self::Plain,
        }
    }
}

/// Shows the board until it is told to end. Cancel-safe, but leaves the bars on the screen.
pub(super) async fn show(board: Arc<Board>, style: Style, terminal: Terminal, end: CancellationToken) {
    match style {
        Style::None => end.cancelled().await,
        Style::Plain => plain::show(&board, &terminal, &end).await,
        Style::Bars => bars(&board, &terminal, &end).await,
    }
}

async fn bars(board: &Board, terminal: &Terminal, end: &CancellationToken) {
    let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
    let bar = ProgressBar::with_draw_target(Some(0), target);
    if let Ok(style) = ProgressStyle::with_template(&format!("{{bar:{BAR_COLUMNS}}} {{msg}}")) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    terminal.draw_above(Some(bar.clone()));
    let mut ticks = interval(DRAW_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let state = board.state();
        let (rows, columns) = Term::stderr().size();
        bar.set_length(state.total);
        bar.set_position(state.done);
        bar.set_message(message(&state, usize::from(rows), usize::from(columns)));
    }
    terminal.draw_above(None);
    bar.finish_and_clear();
}

/// What stands beside and below the bar.
fn message(state: &State, rows: usize, columns: usize) -> String {
    // A line that is exactly as wide as the terminal makes some of them wrap.
    let width = columns.saturating_sub(1);
    let mut lines = vec![cut(&headline(state), width.saturating_sub(BAR_COLUMNS + 1))];
    let shown = state.lanes.iter().take(LANES_SHOWN_MAX.min(rows / 4));
    lines.extend(shown.map(|lane| cut(&format!("  {}", lane_line(lane)), width)));
    let lines_max = rows.saturating_sub(LINES_SPARED + 1 + lines.len()).max(1);
    let shown = if state.running.len() > lines_max { lines_max - 1 } else { state.running.len() };
    lines.extend(state.running.iter().take(shown).map(|one| cut(&job_line(one, width), width)));
    let hidden = state.running.len() - shown;
    if hidden > 0 {
        lines.push(cut(&format!("  … and {hidden} more"), width));
    }
    lines.join("\n")
}

fn cut(line: &str, width: usize) -> String {
    truncate_str(line, width, "…").into_owned()
}

/// `12/40 · 11.8 images/min · 2 min left · $0.81 · 3 throttled · 1 failed`.
pub(super) fn headline(state: &State) -> String {
    let mut parts = vec![format!("{}/{}", state.done, state.total)];
    parts.extend(state.images_per_minute().map(|rate| format!("{rate:.1} images/min")));
    if state.draining {
        parts.push("ending".to_owned());
    } else if let Some(left) = state.time_left().filter(|_| state.done < state.total) {
        parts.push(format!("{} left", text::span(left)));
    }
    parts.push(state.cost.rounded());
    for (n, what) in [(state.throttled, "throttled"), (state.failed, "failed")] {
        if n > 0 {
            parts.push(format!("{n} {what}"));
        }
    }
    parts.join(" · ")
}

fn job_line(one: &Running, width: usize) -> String {
    let phase = match one.progress.phase() {
        Phase::Waiting => "waiting".to_owned(),
        Phase::Thinking => "thinking".to_owned(),
        Phase::Receiving => format!("receiving {}", text::bytes(one.progress.bytes())),
        Phase::Saving => "saving".to_owned(),
    };
    let seconds = one.progress.elapsed().as_secs();
    // Blanks, phase and seconds take 29 columns; the id has what is left beside the model.
    let id_columns = width.saturating_sub(MODEL_COLUMNS + 29).min(ID_COLUMNS_MAX);
    let id = text::cut(one.job.as_str(), id_columns.max(ID_COLUMNS_MIN));
    if id_columns < ID_COLUMNS_MIN {
        return format!("  {id} {phase} {seconds} s");
    }
    let model = text::cut(one.model.as_str(), MODEL_COLUMNS);
    format!("  {id:<id_columns$} {model:<MODEL_COLUMNS$} {phase:<18} {seconds:>4} s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::board::Start;
    use crate::job::{AttemptId, Micros, ModelName};
    use crate::worker::{Event, Observer as _, Progress};

    #[test]
    fn lines_never_outgrow_the_terminal() {
        let start = Start { total: 40, done: 12, cost: Micros(810_000) };
        let board = Board::new(start, Terminal::default(), true);
        for n in 0..30 {
            board.event(&Event::Started {
                attempt: AttemptId(n),
                job: format!("{n}-{}", "ü".repeat(90)).parse().expect("an id"),
                model: ModelName::default_model(),
                progress: Arc::new(Progress::new()),
            });
        }
        for (rows, columns) in [(24, 80), (10, 40), (3, 20), (0, 0)] {
            let text = message(&board.state(), rows, columns);
            assert!(text.lines().count() <= rows.max(2), "{rows}: {text}");
            for (index, line) in text.lines().enumerate() {
                let room = if index == 0 { columns.saturating_sub(BAR_COLUMNS + 2) } else { columns };
                assert!(console::measure_text_width(line) <= room.max(1), "{columns}: {line}");
            }
        }
        assert!(message(&board.state(), 24, 80).contains("gemini-3.1-flash-image"), "no model in 80 columns");
        let text = message(&board.state(), 24, 120);
        assert!(text.starts_with("12/40"), "{text}");
        assert!(text.contains("$0.81"), "{text}");
        assert!(text.ends_with("  … and 13 more"), "{text}");
    }
}
