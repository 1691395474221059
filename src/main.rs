//! The program: the command line and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    nightpress::cli::run(std::env::args_os())
}
