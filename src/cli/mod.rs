//! Floor 9: the command line. Arguments become settings, and each command has one file.
//!
//! Read in this order: [`run`], `args` and `config` (what is typed), `settings` (what is meant),
//! `session` (what every command starts from), `commands`, then `loading` (a manifest comes in),
//! `press` (the work) with `board`, `progress` and `plain` (what is seen of it), and `closing` (the
//! last words). `exit` has the exit codes, `terminal` is the only place that prints.
//!
//! `anyhow` lives here and only here: below, errors are enums that say what to do.

mod api;
mod args;
mod at_once;
mod board;
mod closing;
mod commands;
mod config;
mod crew;
mod destination;
mod exit;
mod folder;
mod key;
mod lane_line;
mod ledger;
mod listener;
mod loading;
mod logging;
mod metrics;
mod options;
mod plain;
mod press;
mod progress;
mod renaming;
mod session;
mod settings;
mod signals;
mod site;
mod terminal;
mod text;
mod value;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use self::args::{Cli, Command};
use self::exit::Exit;
use self::session::Session;
use self::terminal::Terminal;
use crate::job::printable;

/// Threads that may wait for the disk at once. More of them do not make it faster: with tokio's 512 there
/// were 150 for 32 requests at once. Looks into SQLite's queue take their turns among them; who writes to it does not.
const BLOCKING_THREADS_MAX: usize = 32;

/// Runs the command line `args`, program name first, to its end. Prints to this process's
/// standard output and error; see `exit` for the codes.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let terminal = Terminal::default();
    let mut shows = true;
    let exit = match Cli::try_parse_from(args) {
        Ok(cli) => {
            shows = cli.command.only_shows();
            in_runtime(cli, &terminal).unwrap_or_else(|error| {
                terminal.note(&error_text(&error));
                Exit::of_error(&error)
            })
        }
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // Help that nobody reads to its end is no error.
            drop(error.print());
            exit
        }
    };
    if let Err(kind) = terminal.flush() {
        let lost = format!("what belongs on standard output could not be written: {kind}");
        if shows {
            terminal.note(&format!("error: {lost}"));
            return Exit::Stopped.into();
        }
        // What was done is done, and stands in the folder.
        terminal.note(&format!("warning: {lost}; what was done stands, see `nightpress status`"));
    }
    exit.into()
}

fn in_runtime(cli: Cli, terminal: &Terminal) -> Result<Exit> {
    logging::tell(terminal);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build();
    let runtime = runtime.context("cannot start threads")?;
    runtime.block_on(command(cli, Session::start(terminal.clone())?))
}

async fn command(cli: Cli, session: Session) -> Result<Exit> {
    match cli.command {
        Command::Run(args) => commands::run::run(session, args).await,
        Command::Plan(args) => commands::plan::run(session, args).await,
        Command::Load(args) => commands::load::run(session, args).await,
        Command::Work(args) => commands::work::run(session, args).await,
        Command::Status(args) => commands::status::run(session, args).await,
        Command::Jobs(args) => commands::jobs::run(session, args).await,
        Command::Show(args) => commands::show::run(session, args).await,
        Command::Retry(args) => commands::retry::run(session, args).await,
        Command::Cancel(args) => commands::cancel::run(session, args).await,
        Command::Workers(args) => commands::workers::run(session, args).await,
        Command::Report(args) => commands::report::run(session, args).await,
        Command::Simulate(args) => commands::simulate::run(session, args).await,
        Command::Completions { shell } => commands::completions::run(&session, shell),
    }
}

/// `error: …` with its causes, each said once.
fn error_text(error: &anyhow::Error) -> String {
    let mut text = String::from("error");
    for cause in error.chain() {
        let cause = cause.to_string();
        // Errors of the floors below name their source in their own text.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    // The lines of a message stay lines; what is in them is harmless.
    text.lines().map(|line| printable(line).to_string()).collect::<Vec<_>>().join("\n")
}
