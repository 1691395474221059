//! `nightpress.log`: JSON lines by tracing. Warnings also go to the terminal, in plain form and
//! above the bars.
//!
//! Only this crate's own events are logged beyond warnings: those of the HTTP crates may hold URLs
//! with the key in them. What is written passes through [`Key::redact`] besides.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use super::terminal::Terminal;
use crate::gemini::Key;
use crate::job::printable;
use crate::output::RunFolder;

/// Whose warnings reach the terminal as events already.
const DISPATCHER: &str = "nightpress::worker::dispatcher";

/// Begins to log into the run folder. A second call in one process changes nothing.
pub(super) fn start(folder: &RunFolder, keys: &[Key], verbose: u8, terminal: &Terminal) -> Result<()> {
    let path = folder.log();
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.with_context(|| format!("cannot write the log {}", path.display()))?;
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let own = EnvFilter::new(format!("warn,nightpress={level}"));
    let keys: Arc<[Key]> = keys.into();
    let to_file = Lines::File(Arc::new(Mutex::new(file)), Arc::clone(&keys));
    let to_terminal = Lines::Terminal(terminal.clone(), keys);
    // The dispatcher tells a person through its events; what it logs is the same once more.
    let told = Targets::new().with_default(LevelFilter::WARN).with_target(DISPATCHER, LevelFilter::OFF);
    let subscriber = tracing_subscriber::registry()
        .with(fmt::layer().json().flatten_event(true).with_writer(to_file).with_filter(own))
        .with(
            fmt::layer()
                .without_time()
                .with_target(false)
                .with_ansi(false)
                .with_writer(to_terminal)
                .with_filter(told),
        );
    drop(subscriber.try_init());
    Ok(())
}

/// Where whole events go, one line each.
#[derive(Clone)]
enum Lines {
    File(Arc<Mutex<File>>, Arc<[Key]>),
    Terminal(Terminal, Arc<[Key]>),
}

fn redact(text: &str, keys: &[Key]) -> String {
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
            Self::File(file, keys) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.write_all(redact(&text, keys).as_bytes())?;
            }
            Self::Terminal(terminal, keys) => {
                let text = redact(text.trim(), keys);
                terminal.note(&printable(text.trim_start_matches("WARN").trim_start()).to_string());
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
