//! What the program says, and the exit code it ends with, where a person or a script must know what
//! to do next.

use std::fs;

use nightpress::simulator::{Fault, FaultRule, Simulator, SimulatorConfig};
use serde_json::{Value, json};

use crate::press::scenario;
use crate::program::{Desk, Seen, manifest};

fn object(seen: &Seen) -> Value {
    assert_eq!(seen.out.lines().count(), 1, "{}", seen.out);
    serde_json::from_str(&seen.out).expect("one JSON object")
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_run_whose_standard_output_is_full_ends_as_its_jobs_did() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(2));
    let full = async |args: &[&str]| {
        let device = fs::OpenOptions::new().write(true).open("/dev/full").expect("opens");
        desk.finish(desk.command(args).stdout(device).spawn().expect("starts")).await
    };
    full(&["run", "m.jsonl"]).await.ended(0).says("warning: what belongs on standard output");
    assert_eq!(fs::read_dir(desk.path("out/m/images")).expect("lists").count(), 2);
    full(&["report"]).await.ended(0);
    // Of these the output is all there is.
    full(&["jobs"]).await.ended(3).says("error: what belongs on standard output");
    full(&["status", "--json"]).await.ended(3);
}

#[cfg(unix)]
#[tokio::test]
async fn an_interrupt_during_the_last_requests_is_no_interruption() {
    let mut slow = scenario(vec![]);
    slow.latency.median_ms = 700;
    let config = SimulatorConfig { scenario: slow, ..SimulatorConfig::default() };
    let simulator = Simulator::start(config).await.expect("starts");
    let desk = Desk { dir: tempfile::tempdir().expect("temp dir"), simulator };
    desk.write("m.jsonl", &manifest(2));
    let child = desk.command(&["run", "m.jsonl"]).spawn().expect("starts");
    desk.requests(2).await;
    crate::program::signal(&child, "-INT");
    let seen = desk.finish(child).await.ended(0).says("nothing more is sent");
    assert!(!seen.out.contains("left") && !seen.out.contains("stopped"), "{}", seen.out);
    assert_eq!(desk.sent(), 2);
}

#[tokio::test]
async fn what_changes_the_queue_tells_scripts_what_it_did() {
    let refused = FaultRule { jobs: Some("number 1".to_owned()), ..FaultRule::always(Fault::RefusedSafety) };
    let desk = Desk::new(vec![refused]).await;
    desk.write("m.jsonl", &manifest(3));
    desk.run(&["run", "m.jsonl"]).await.ended(1);
    let files = ["out/m/usage.csv", "out/m/attempts.csv", "out/m/summary.json"];
    let seen = desk.run(&["report", "--json"]).await.ended(0);
    assert_eq!(object(&seen), json!({"folder": "out/m", "results": "out/m", "files": files}));
    let seen = desk.run(&["retry", "j00", "--refused", "--json"]).await.ended(0);
    assert_eq!(object(&seen), json!({"folder": "out/m", "pending": 2, "paid_again": ["j00"]}));
    let seen = desk.run(&["cancel", "--all", "--json"]).await.ended(0);
    assert_eq!(object(&seen), json!({"folder": "out/m", "cancelled": 2}));
}

#[tokio::test]
async fn a_job_that_succeeded_is_said_to_be_paid_again() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(2));
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    let seen = desk.run(&["retry", "j01"]).await.ended(0).says("1 job pending again");
    assert!(
        seen.out.contains("j01 had succeeded: the next run makes it, and pays it, again"),
        "{}",
        seen.out
    );
    let seen = desk.run(&["retry", "j01"]).await.ended(0);
    assert_eq!(seen.out, "0 jobs pending again\n");
}

#[tokio::test]
async fn a_queue_that_cannot_be_used_is_told_with_what_to_do() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(1));
    fs::create_dir_all(desk.path("out/m/queue.db")).expect("creates");
    for args in [&["run", "m.jsonl"][..], &["status", "-o", "out/m"], &["report", "-o", "out/m"]] {
        desk.run(args).await.ended(2).says("out/m/queue.db is a folder, not a queue; move it away");
    }
    fs::remove_dir(desk.path("out/m/queue.db")).expect("removes");
    desk.write("out/m/queue.db", &"no database ".repeat(100));
    let seen =
        desk.run(&["status"]).await.ended(2).says("restore it from a copy, or move the run folder aside");
    assert!(seen.err.contains("pays, all jobs again"), "{}", seen.err);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_run_folder_that_cannot_be_made_is_told_with_what_to_do() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(1));
    // Nobody can make a folder there, not even root.
    desk.run(&["run", "m.jsonl", "-o", "/proc/run"])
        .await
        .ended(2)
        .says("name one that can be written with -o");
}

#[tokio::test]
async fn a_negative_sum_is_refused_in_the_words_of_its_option() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(1));
    for (option, expect) in [("--max-cost", "expected a positive sum"), ("--concurrency", "at least 1")] {
        let seen = desk.run(&["run", "m.jsonl", option, "-3"]).await.ended(2).says(expect);
        assert!(!seen.err.contains("-- -3"), "{}", seen.err);
    }
}

#[tokio::test]
async fn a_run_that_stops_says_how_to_go_on() {
    let stopped = async |fault, jobs, options: &[&str]| {
        let desk = Desk::new(vec![FaultRule::always(fault)]).await;
        desk.write("m.jsonl", &manifest(jobs));
        let seen = desk.run(&[&["run", "m.jsonl"], options].concat()).await.ended(3);
        assert!(!seen.err.contains("again in 0.0 s"), "{}", seen.err);
        let all = seen.out.lines().find(|line| line.starts_with("stopped: ")).map(str::to_owned);
        (all.expect("a reason"), seen.err)
    };
    let (reason, told) = stopped(Fault::ApiKeyInvalid, 2, &[]).await;
    assert!(reason.starts_with("stopped: the API does not accept the key"), "{reason}");
    assert!(reason.ends_with("run the same command again"), "{reason}");
    assert!(told.contains("; waits for the next run"), "{told}");
    for (fault, expect) in [
        (Fault::UnsupportedLocation, "stopped: the API does not serve this location"),
        (Fault::BillingPrecondition, "stopped: the key's project has no billing"),
    ] {
        let (reason, _) = stopped(fault, 2, &[]).await;
        assert!(reason.starts_with(expect) && !reason.contains("heck the key"), "{reason}");
    }
    let (reason, _) = stopped(Fault::Http400, 40, &[]).await;
    assert!(reason.contains("mend it, then use `nightpress retry --failed` and run the same"), "{reason}");
    let (reason, _) = stopped(Fault::Http400, 9, &["--max-failures", "2"]).await;
    assert!(
        reason.contains("then use `nightpress retry --failed` and run the same command again"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_picture_whose_url_is_gone_costs_two_answers() {
    let desk = Desk::new(vec![FaultRule::always(Fault::ImageUrlMissing)]).await;
    desk.write("m.jsonl", &manifest(1));
    desk.run(&["run", "m.jsonl"]).await.ended(1).says("image_url_failed").says("404");
    let attempts = desk.read("out/m/attempts.csv");
    assert_eq!(attempts.matches(",no_image,").count(), 2, "{attempts}");
}
