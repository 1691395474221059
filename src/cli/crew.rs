//! Who works on a queue: the workers that live, as people and programs read them.

use std::io::IsTerminal as _;
use std::time::Duration;

use serde_json::json;

use super::text;
use crate::job::printable;
use crate::output::{RunFolder, worker_is_dead};
use crate::queue::{Queue, QueueError, WorkerRow};

/// A worker that was not heard of for so long is dead, if there were another one to declare it.
const SILENT: Duration = Duration::from_secs(60);
/// Characters of a machine's name that are shown: a line has to fit into 80 columns.
const HOST_CHARS_MAX: usize = 24;

/// The workers that live, and those of other machines that may: of them there are only heartbeats to go by. One
/// that died is listed by the queue until the next worker takes over what it had.
pub(super) async fn living(queue: &dyn Queue, folder: &RunFolder) -> Result<Vec<WorkerRow>, QueueError> {
    let lives = |worker: &WorkerRow| {
        queue.spans_machines() || !worker_is_dead(&folder.spool(), &worker.token).unwrap_or(false)
    };
    let mut living = queue.workers().await?;
    living.retain(lives);
    Ok(living)
}

/// How the name of a machine is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostName {
    Whole,
    /// Cut to fit into a line; what a pod is known by stands at its end.
    Short,
}

impl HostName {
    /// On a screen lines have to fit; a program wants what it can use.
    pub(super) fn for_who_reads() -> Self {
        if std::io::stdout().is_terminal() { Self::Short } else { Self::Whole }
    }

    fn of(self, host: &str) -> String {
        let whole = printable(host).to_string();
        match self {
            Self::Whole => whole,
            Self::Short => text::cut_middle(&whole, HOST_CHARS_MAX),
        }
    }
}

/// The machine that is meant by a name as it stands in a list; `None` where that is none of them, or several.
pub(super) fn meant<'a>(shown: &str, living: &'a [WorkerRow]) -> Option<&'a str> {
    let hosts = || living.iter().map(|worker| worker.host.as_str());
    if let Some(host) = hosts().find(|host| *host == shown) {
        return Some(host);
    }
    let mut alike = hosts().filter(|host| HostName::Short.of(host) == shown);
    let first = alike.next()?;
    alike.all(|host| host == first).then_some(first)
}

/// `blue-1 0.1.0: 8 running, since 2 h 5 min, heard 1 s ago`.
pub(super) fn line(worker: &WorkerRow, name: HostName) -> String {
    let silent = text::span(worker.silent_for());
    let state = if worker.silent_for() >= SILENT {
        format!("silent for {silent}")
    } else if worker.draining {
        format!("draining, heard {silent} ago")
    } else {
        format!("since {}, heard {silent} ago", text::span(worker.works_for()))
    };
    format!(
        "{} {}: {} running, {state}",
        name.of(&worker.host),
        worker.version,
        text::grouped(worker.running),
    )
}

/// As `--json` has it.
pub(super) fn json(worker: &WorkerRow) -> serde_json::Value {
    json!({
        "worker": worker.worker.0, "host": worker.host, "pid": worker.pid, "version": worker.version,
        "started_at": worker.started_at.to_string(), "heartbeat_at": worker.heartbeat_at.to_string(),
        "running": worker.running, "draining": worker.draining,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Timestamp, WorkerId};

    fn worker_on(host: &str) -> WorkerRow {
        WorkerRow {
            worker: WorkerId(3),
            token: "t".to_owned(),
            host: host.to_owned(),
            pid: 4_194_303,
            version: "0.1.0".to_owned(),
            draining: false,
            started_at: Timestamp::from_ms(0),
            heartbeat_at: Timestamp::from_ms(86_340_000 - 59_000),
            read_at: Timestamp::from_ms(86_340_000),
            running: 64,
        }
    }

    #[test]
    fn a_long_name_keeps_its_end_and_is_whole_for_a_program() {
        let pods = ["k3d", "x7k2p"].map(|end| worker_on(&format!("nightpress-catalog-of-spring-{end}")));
        let shown = line(&pods[1], HostName::Short);
        assert!(shown.starts_with("nightpress-…spring-x7k2p 0.1.0"), "{shown}");
        assert!(line(&pods[1], HostName::Whole).starts_with("nightpress-catalog-of-spring-x7k2p 0.1.0"));
        let check = |name: &str, expect| assert_eq!(meant(name, &pods), expect, "{name}");
        check("nightpress-…spring-x7k2p", Some("nightpress-catalog-of-spring-x7k2p"));
        check("nightpress-catalog-of-spring-k3d", Some("nightpress-catalog-of-spring-k3d"));
        check("nightpress", None);
        let twins = ["a", "b"].map(|n| worker_on(&format!("nightpress-catalog-{n}-of-spring-x7k2p")));
        assert_eq!(meant("nightpress-…spring-x7k2p", &twins), None, "either could be meant");
    }

    #[test]
    fn a_line_fits_into_80_columns_and_holds_no_control_characters() {
        let worker = worker_on(&format!("render-\u{1b}[31m{}", "x".repeat(90)));
        let shown = line(&worker, HostName::Short);
        assert!(shown.chars().count() + 2 <= 80 && !shown.contains('\u{1b}'), "{shown}");
        let worker = WorkerRow { host: "blue".to_owned(), ..worker };
        assert_eq!(
            line(&worker, HostName::Short),
            "blue 0.1.0: 64 running, since 23 h 59 min, heard 59 s ago"
        );
        let worker = WorkerRow { draining: true, ..worker };
        assert_eq!(line(&worker, HostName::Short), "blue 0.1.0: 64 running, draining, heard 59 s ago");
        let worker = WorkerRow { heartbeat_at: Timestamp::from_ms(86_340_000 - 3_600_000), ..worker };
        assert_eq!(line(&worker, HostName::Short), "blue 0.1.0: 64 running, silent for 60 min");
    }
}
