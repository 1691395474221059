//! The only place that writes to standard output and standard error. Results go to the one,
//! everything else to the other, line by line and above the progress bars.

use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;

use crate::job::json_safe;

/// Bytes of results that are kept back to be written at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// Standard output and error of this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Terminal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    out: Mutex<Out>,
    bars: Mutex<Option<ProgressBar>>,
}

#[derive(Debug, Default)]
struct Out {
    buffer: Vec<u8>,
    /// Why nothing can be written any more.
    broken: Option<io::ErrorKind>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards is whole at any instant.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Terminal {
    /// A line of results.
    pub(super) fn out(&self, line: &str) {
        let mut out = lock(&self.0.out);
        out.buffer.extend_from_slice(line.as_bytes());
        out.buffer.push(b'\n');
        if out.buffer.len() >= BUFFER_BYTES {
            self.above_bars(|| out.write());
        }
    }

    /// JSON among the results. It may hold prompts and servers' words: nothing of them steers a
    /// terminal.
    pub(super) fn json(&self, json: &str) {
        self.out(&json_safe(json));
    }

    /// A line for the person who watches: progress, warnings, errors. What was printed to
    /// standard output before it is written first.
    pub(super) fn note(&self, line: &str) {
        self.above_bars(|| {
            lock(&self.0.out).write();
            // Nobody can be told that standard error does not work.
            drop(writeln!(io::stderr().lock(), "{line}"));
        });
    }

    /// Shows what was kept back to whoever waits for it.
    pub(super) fn show(&self) {
        lock(&self.0.out).write();
    }

    /// Writes what was kept back. `Err` when results were lost for another reason than that the
    /// reader had seen enough.
    pub(super) fn flush(&self) -> Result<(), io::ErrorKind> {
        let mut out = lock(&self.0.out);
        out.write();
        match out.broken {
            None | Some(io::ErrorKind::BrokenPipe) => Ok(()),
            Some(kind) => Err(kind),
        }
    }

    /// Nobody reads the results any more.
    pub(super) fn is_broken(&self) -> bool {
        lock(&self.0.out).broken.is_some()
    }

    /// Lines are written above `bars` from here on, until the next call.
    pub(super) fn draw_above(&self, bars: Option<ProgressBar>) {
        *lock(&self.0.bars) = bars;
    }

    fn above_bars(&self, write: impl FnOnce()) {
        let bars = lock(&self.0.bars).clone();
        match bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }
}

impl Out {
    fn write(&mut self) {
        let lines = std::mem::take(&mut self.buffer);
        if lines.is_empty() || self.broken.is_some() {
            return;
        }
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(&lines).and_then(|()| stdout.flush()) {
            self.broken = Some(error.kind());
        }
    }
}
