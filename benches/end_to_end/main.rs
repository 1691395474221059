//! What an image costs, end to end: the real program and a floor client of its own, in turns,
//! against a fast server in another process. `docs/performance.md` explains the table that it prints.
//!
//! `cargo bench --bench end_to_end` runs all cases; `-- 20MB references` those whose name has one of
//! these words, `-- --rounds 5` more rounds, `-- --program PATH` adds another build of the program, in
//! turns with this one. Linux only: figures come from `/proc`.

#![expect(clippy::print_stdout, reason = "a table is what this is for")]

mod case;
mod floor;
mod measure;
mod picture;
mod process;
mod program;
mod server;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use case::{CASES, Case};
use measure::Cost;
use process::Server;

/// Rounds of which the table shows the medians.
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("--serve") => process::serve(),
        Some("--floor") => floor::run(&args[1..]),
        _ => compare(&args),
    }
}

/// What is typed.
struct Options {
    rounds: usize,
    /// The program as it is, then others.
    programs: Vec<PathBuf>,
    /// Cases whose name has one of them; all if there are none.
    words: Vec<String>,
}

impl Options {
    fn of(args: &[String]) -> Result<Self> {
        let programs = vec![PathBuf::from(env!("CARGO_BIN_EXE_nightpress"))];
        let mut options = Self { rounds: ROUNDS, programs, words: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--rounds" => options.rounds = args.next().context("--rounds takes a number")?.parse()?,
                "--program" => {
                    let path = args.next().context("--program takes a path")?;
                    options.programs.push(std::path::absolute(path)?);
                }
                word => options.words.push(word.to_owned()),
            }
        }
        Ok(options)
    }

    fn wants(&self, case: &Case) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| case.name.contains(word))
    }
}

/// The table: every case, programs and floor in turns.
fn compare(args: &[String]) -> Result<()> {
    let options = Options::of(args)?;
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("end_to_end");
    if root.exists() {
        std::fs::remove_dir_all(&root)?;
    }
    std::fs::create_dir_all(&root)?;
    let server = Server::start()?;
    println!("| case | CPU ms/image | floor | ratio | jobs/s | floor | peak MB | floor |");
    println!("|---|---|---|---|---|---|---|---|");
    for case in CASES.iter().filter(|case| options.wants(case)) {
        rows(case, &options, &server, &root)?.iter().for_each(|row| println!("{row}"));
        std::io::stdout().flush()?;
    }
    std::fs::remove_dir_all(&root)?;
    Ok(())
}

/// A row for each program.
fn rows(case: &Case, options: &Options, server: &Server, root: &Path) -> Result<Vec<String>> {
    let references = case.write_references(root)?;
    let base = server.base_url(case.image_bytes);
    let mut programs: Vec<Vec<Cost>> = vec![Vec::new(); options.programs.len()];
    let mut floor = Vec::new();
    for _ in 0..options.rounds {
        floor.push(measure::in_folder(root, |folder| floor::cost(case, &base, &references, folder))?);
        for (program, costs) in options.programs.iter().zip(&mut programs) {
            let cost = |folder: &Path| program::cost(case, program, (&base, &references), folder);
            costs.push(measure::in_folder(root, cost)?);
        }
    }
    let named = options.programs.len() > 1;
    let name = |program: &Path| if named { format!(" ({})", program.display()) } else { String::new() };
    let row = |(program, costs): (&PathBuf, &Vec<Cost>)| row(case, &name(program), costs, &floor);
    Ok(options.programs.iter().zip(&programs).map(row).collect())
}

fn row(case: &Case, program: &str, costs: &[Cost], floor: &[Cost]) -> String {
    let jobs = f64::from(case.jobs);
    let cpu_ms = |costs: &[Cost]| measure::median(costs, |cost| cost.cpu.as_secs_f64()) * 1000.0 / jobs;
    let rate = |costs: &[Cost]| jobs / measure::median(costs, |cost| cost.wall.as_secs_f64());
    let peak = |costs: &[Cost]| measure::median(costs, |cost| cost.peak_mb);
    let pairs: Vec<(Cost, Cost)> = costs.iter().copied().zip(floor.iter().copied()).collect();
    let ratio = measure::median(&pairs, |(ours, least)| {
        ours.cpu.as_secs_f64() / least.cpu.as_secs_f64().max(f64::EPSILON)
    });
    format!(
        "| {}{program} | {:.2} | {:.2} | {ratio:.2} | {:.1} | {:.1} | {:.1} | {:.1} |",
        case.name,
        cpu_ms(costs),
        cpu_ms(floor),
        rate(costs),
        rate(floor),
        peak(costs),
        peak(floor),
    )
}
