//! `nightpress completions`: a completion script for a shell.

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

use crate::cli::args::Cli;
use crate::cli::exit::Exit;
use crate::cli::session::Session;

#[expect(clippy::unnecessary_wraps, reason = "as all commands")]
pub(in crate::cli) fn run(session: &Session, shell: Shell) -> Result<Exit> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "nightpress", &mut script);
    session.terminal.out(String::from_utf8_lossy(&script).trim_end());
    Ok(Exit::Done)
}
