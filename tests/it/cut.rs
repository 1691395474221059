//! A worker whose way to the database is cut.

use std::time::{Duration, Instant};

use nightpress::simulator::{Fault, FaultRule, LogEntry, Simulator, SimulatorConfig};

use crate::press::scenario;
use crate::program::{Desk, signal};
use crate::wire::{Way, Wire};
use crate::{many, postgres};

/// What nobody waits for longer: minutes less than a server is waited for otherwise.
const SOON: Duration = Duration::from_secs(90);

fn one_by_one(desk: &Desk, folder: &str, url: &str) -> std::process::Command {
    let mut command = desk.command(&["work", "--queue", url, "--batch", "spring", "--concurrency", "1"]);
    std::fs::create_dir(desk.path(folder)).expect("creates");
    command.current_dir(desk.path(folder)).env("NIGHTPRESS_SILENT_AFTER", "1s");
    command
}

/// The content of what stands there.
fn images(desk: &Desk, folder: &str) -> Vec<Vec<u8>> {
    let found = std::fs::read_dir(desk.path(folder).join("images")).expect("lists").flatten();
    found.map(|file| std::fs::read(file.path()).expect("reads")).collect()
}

async fn seen(desk: &Desk, what: impl Fn(&[LogEntry]) -> bool) {
    while !what(&desk.simulator.log().entries) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_cut_off_and_comes_back_publishes_nothing_twice() {
    let Some(server) = postgres::shared() else { return };
    let url = server.database(&postgres::unique("cut"));
    let wire = Wire::to(&url, server.socket()).await;
    // Answers that take long enough to be cut off in.
    let mut slow = scenario(vec![]);
    slow.latency.median_ms = 4_000;
    let config = SimulatorConfig { scenario: slow, ..SimulatorConfig::default() };
    let simulator = Simulator::start(config).await.expect("starts");
    let desk = Desk { dir: tempfile::tempdir().expect("temp dir"), simulator };
    desk.write("m.jsonl", &many::manifest(1));
    let place = format!("file://{}/shared", desk.dir.path().display());
    let load =
        ["load", "m.jsonl", "-o", &place, "--provider", "simulator", "--queue", &url, "--batch", "spring"];
    desk.run(&load).await.ended(0);
    let cut_off = one_by_one(&desk, "one", wire.url()).spawn().expect("starts");
    seen(&desk, |log| log.len() == 1).await;
    wire.set(Way::Silent);
    let other = one_by_one(&desk, "two", &url).spawn().expect("starts");
    // The other takes the job over, while the first goes on: its answer comes to its end.
    seen(&desk, |log| log.len() == 2 && log[0].complete).await;
    desk.finish(other).await.ended(0).says("1 request lost (possibly billed)");
    let published = images(&desk, "shared");
    assert_eq!(published.len(), 1);
    wire.set(Way::Open);
    desk.finish(cut_off).await.ended(0).says("it goes on as a new one");
    assert!(desk.read("one/out/spring/nightpress.log").contains("lease lost"), "it was not counted");
    assert_eq!(images(&desk, "shared"), published, "it published what it had lost");
    let left = std::fs::read_dir(desk.path("shared/.spool")).expect("lists").count();
    assert_eq!(left, 0, "it left what it had uploaded");
    let attempts = desk.run(&["show", "j0", "--json", "--queue", &url, "--batch", "spring"]).await.ended(0);
    assert_eq!(attempts.out.matches("\"outcome\": \"lost\"").count(), 1, "{}", attempts.out);
    assert_eq!(attempts.out.matches("\"outcome\": \"succeeded\"").count(), 1, "{}", attempts.out);
    assert_eq!(desk.sent(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_heard_of_when_others_have_the_job_is_not_sent() {
    let Some(server) = postgres::shared() else { return };
    let url = server.database(&postgres::unique("cut"));
    let wire = Wire::to(&url, server.socket()).await;
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &many::manifest(1));
    let load = ["load", "m.jsonl", "--provider", "simulator", "--queue", &url, "--batch", "spring"];
    desk.run(&load).await.ended(0);
    wire.set(Way::CutAtClaim);
    let cut_off = one_by_one(&desk, "one", wire.url()).spawn().expect("starts");
    wire.is(Way::Mute).await;
    let other = one_by_one(&desk, "two", &url).arg("--forever").spawn().expect("starts");
    seen(&desk, |log| log.len() == 1 && log[0].complete).await;
    wire.set(Way::Open);
    desk.finish(cut_off).await.ended(0).says("it goes on as a new one");
    signal(&other, "-TERM");
    desk.finish(other).await.ended(0);
    assert_eq!(desk.sent(), 1, "it sent what others had done");
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_while_the_database_is_away_a_worker_takes_its_grace_and_says_what_is_lost() {
    let Some(server) = postgres::shared() else { return };
    for (way, sent) in [(Way::Silent, "-TERM"), (Way::Broken, "-INT")] {
        let url = server.database(&postgres::unique("cut"));
        let wire = Wire::to(&url, server.socket()).await;
        let stalls = FaultRule { times: Some(1), ..FaultRule::always(Fault::StallBefore) };
        let desk = Desk::new(vec![stalls]).await;
        desk.write("m.jsonl", &many::manifest(2));
        let run = ["run", "m.jsonl", "-o", "one", "--provider", "simulator", "--queue", wire.url()];
        let child = desk.command(&[&run[..], &["--grace", "1s"]].concat()).spawn().expect("starts");
        desk.requests(2).await;
        wire.set(way);
        signal(&child, sent);
        let asked = Instant::now();
        let seen = desk.finish(child).await;
        assert!(asked.elapsed() < SOON, "it waited for the database");
        let code = if sent == "-TERM" { 143 } else { 130 };
        let seen = seen.ended(code);
        assert!(seen.err.contains("the end of 2 requests could not be recorded"), "{}", seen.err);
        wire.set(Way::Open);
        desk.run(&run).await.ended(0).says("2 requests lost (possibly billed)");
        assert_eq!(desk.sent(), 4, "both are sent again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_while_the_database_is_away_is_recorded_when_it_is_back_and_nothing_else_is_sent() {
    let Some(server) = postgres::shared() else { return };
    let url = server.database(&postgres::unique("cut"));
    let wire = Wire::to(&url, server.socket()).await;
    let mut slow = scenario(vec![]);
    slow.latency.median_ms = 700;
    let config = SimulatorConfig { scenario: slow, ..SimulatorConfig::default() };
    let simulator = Simulator::start(config).await.expect("starts");
    let desk = Desk { dir: tempfile::tempdir().expect("temp dir"), simulator };
    desk.write("m.jsonl", &many::manifest(8));
    let run = ["run", "m.jsonl", "-o", "one", "--provider", "simulator", "--queue", wire.url()];
    let child = desk.command(&[&run[..], &["--concurrency", "3"]].concat()).spawn().expect("starts");
    seen(&desk, |log| log.len() == 3).await;
    wire.set(Way::Broken);
    seen(&desk, |log| log.iter().all(|one| one.complete)).await;
    assert_eq!(desk.sent(), 3, "sent while nobody could write it down");
    wire.set(Way::Open);
    desk.finish(child).await.ended(0);
    assert_eq!(desk.sent(), 8, "each once");
    assert_eq!(images(&desk, "one").len(), 8);
    let status = desk.run(&["status", "--json", "-o", "one", "--queue", wire.url()]).await.ended(0);
    assert!(!status.out.contains("\"lost\":1"), "{}", status.out);
}
