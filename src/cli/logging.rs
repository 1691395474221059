//! `nightpress.log`: JSON lines by tracing. Warnings also go to the terminal, in plain form and
//! above the bars, from the first moment on.
//!
//! Only this crate's own events are logged beyond warnings: those of the HTTP crates may hold URLs
//! with the key in them. What is written passes through [`Key::redact`] besides.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

use super::terminal::Terminal;
use crate::gemini::Key;
use crate::job::printable;
use crate::output::RunFolder;

/// Whose warnings reach the terminal as events already.
const DISPATCHER: &str = "nightpress::worker::dispatcher";

/// The log, once there is a run folder, and the keys that nothing may tell.
static LOG: OnceLock<(Mutex<File>, Vec<Key>)> = OnceLock::new();
/// What goes into the log, of which there is none at first.
static DETAIL: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Begins to tell warnings on the terminal: a server may be waited for before there is a log. A second call in one
/// process changes nothing.
pub(super) fn tell(terminal: &Terminal) {
    let (detail, handle) = reload::Layer::new(EnvFilter::new("off"));
    // The dispatcher tells a person through its events; what it logs is the same once more.
    let told = Targets::new().with_default(LevelFilter::WARN).with_target(DISPATCHER, LevelFilter::OFF);
    let subscriber = tracing_subscriber::registry()
        .with(fmt::layer().json().flatten_event(true).with_writer(Lines::File).with_filter(detail))
        .with(
            fmt::layer()
                .without_time()
                .with_target(false)
                .with_ansi(false)
                .with_writer(Lines::Terminal(terminal.clone()))
                .with_filter(told),
        );
    if subscriber.try_init().is_ok() {
        drop(DETAIL.set(handle));
    }
}

/// Begins to log into the run folder. A second call in one process changes nothing.
pub(super) fn start(folder: &RunFolder, keys: &[Key], verbose: u8) -> Result<()> {
    let path = folder.log();
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("cannot write the log {}", path.display()))?;
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    if LOG.set((Mutex::new(file), keys.to_vec())).is_ok()
        && let Some(detail) = DETAIL.get()
    {
        detail.reload(EnvFilter::new(format!("warn,nightpress={level}"))).context("cannot begin the log")?;
    }
    Ok(())
}

/// Where whole events go, one line each.
#[derive(Clone)]
enum Lines {
    File,
    Terminal(Terminal),
}

fn redact(text: &str) -> String {
    let keys = LOG.get().map_or(&[][..], |(_, keys)| keys);
    keys.iter().fold(text.to_owned(), |text, key| key.redact(&text))
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self::Writer {
        self.clone()
    }
}

impl Write for Lines {
    /// Takes an event's text, which the formatter hands over in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        match self {
            Self::File => {
                if let Some((file, _)) = LOG.get() {
                    let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                    file.write_all(redact(&text).as_bytes())?;
                }
            }
            Self::Terminal(terminal) => {
                let text = redact(text.trim());
                terminal.note(&printable(text.trim_start_matches("WARN").trim_start()).to_string());
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
