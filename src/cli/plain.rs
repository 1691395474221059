//! Progress where there is no terminal: a line every ten seconds while something changes, and at
//! each tenth of the batch.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::board::{Board, State};
use super::progress::headline;
use super::terminal::Terminal;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const SPEAK_EVERY: Duration = Duration::from_secs(10);

pub(super) async fn show(board: &Board, terminal: &Terminal, end: &CancellationToken) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Told { at: Instant::now(), tenth: tenth(&board.state()) };
    loop {
        tokio::select! {
            () = end.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let state = board.state();
        if told.is_due(&state) {
            terminal.note(&format!("{} · {} on the way", headline(&state), state.running.len()));
        }
    }
}

/// When something was said last, and how far the batch was.
struct Told {
    at: Instant,
    tenth: u64,
}

impl Told {
    fn is_due(&mut self, state: &State) -> bool {
        let tenth = tenth(state);
        let due = self.at.elapsed() >= SPEAK_EVERY || tenth > self.tenth;
        if due {
            *self = Self { at: Instant::now(), tenth };
        }
        due
    }
}

fn tenth(state: &State) -> u64 {
    (state.done * 10).checked_div(state.total).unwrap_or(10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::board::Start;

    #[tokio::test(start_paused = true)]
    async fn a_line_comes_with_time_and_with_each_tenth() {
        let at = |done| {
            Board::new(Start { total: 100, done, ..Start::default() }, Terminal::default(), true).state()
        };
        let mut told = Told { at: Instant::now(), tenth: 0 };
        assert!(!told.is_due(&at(9)));
        assert!(told.is_due(&at(10)));
        assert!(!told.is_due(&at(11)));
        tokio::time::advance(SPEAK_EVERY).await;
        assert!(told.is_due(&at(11)));
        assert!(!told.is_due(&at(11)));
    }
}
