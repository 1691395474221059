//! What a process costs: CPU (user + system), time, and the most memory that it ever had.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Ticks of `/proc/PID/stat` in a second; the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// How often a process is looked at. Its CPU time is read when it has ended, so that only the peak
/// of the last moments can be missed.
const LOOK: Duration = Duration::from_millis(5);

/// What a process cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    /// `VmHWM`, in 10⁶ bytes.
    pub(crate) peak_mb: f64,
}

/// Runs `command` to its end.
pub(crate) fn cost_of(command: &mut Command) -> Result<Cost> {
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let mut peak_mb = 0.0;
    // Until it is waited for, a process that ended still tells what it used.
    let cpu = loop {
        let stat = fs::read_to_string(proc.join("stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        if fields.first() == Some(&"Z") {
            let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
            break Duration::from_secs_f64(ticks / TICKS_PER_SECOND);
        }
        let status = fs::read_to_string(proc.join("status"))?;
        if let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
            peak_mb = kib * 1024.0 / 1e6;
        }
        std::thread::park_timeout(LOOK);
    };
    let wall = started.elapsed();
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(Cost { cpu, wall, peak_mb })
}

/// Measures in a new folder. The pictures in it are emptied afterwards, not removed: ext4 passes over inodes
/// that were freed in the last seconds one by one, and whoever comes next would pay for it.
pub(crate) fn in_folder(root: &Path, run: impl FnOnce(&Path) -> Result<Cost>) -> Result<Cost> {
    let number = fs::read_dir(root)?.count();
    let folder = root.join(format!("run-{number}"));
    fs::create_dir(&folder)?;
    let cost = run(&folder)?;
    for pictures in [folder.join("out").join("images"), folder] {
        if !pictures.exists() {
            continue;
        }
        for entry in fs::read_dir(pictures)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::File::create(entry.path())?;
            }
        }
    }
    Ok(cost)
}

/// The middle one.
pub(crate) fn median<T>(of: &[T], value: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = of.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
