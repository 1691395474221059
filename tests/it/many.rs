//! Many machines on one queue in PostgreSQL, as far as one machine with several folders can play them.

use nightpress::job::CRASH_AT;
use nightpress::simulator::{Simulator, SimulatorConfig};

use sqlx::Connection as _;

use crate::postgres;
use crate::press::scenario;
use crate::program::{Desk, Seen};

/// A database of the test's own; `None` where there is no PostgreSQL, which is told.
fn database() -> Option<String> {
    Some(postgres::shared()?.database(&postgres::unique("many")))
}

pub(crate) fn manifest(jobs: usize) -> String {
    let lines: Vec<String> =
        (0..jobs).map(|n| format!("{{\"id\":\"j{n}\",\"prompt\":\"picture {n}\"}}")).collect();
    lines.join("\n")
}

fn images(desk: &Desk, folder: &str) -> usize {
    std::fs::read_dir(desk.path(folder).join("images")).map_or(0, Iterator::count)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_share_one_batch_and_every_job_is_sent_once() {
    let Some(url) = database() else { return };
    let desk = Desk::new(vec![]).await;
    desk.write("catalog.jsonl", &manifest(60));
    let at = ["--provider", "simulator", "--queue", &url];
    let run = async |args: &[&str]| -> Seen { desk.run(&[args, &at[2..]].concat()).await };
    let loaded =
        desk.run(&[&["load", "catalog.jsonl", "-o", "one"], &at[..], &["--batch", "spring"]].concat()).await;
    let loaded = loaded.ended(0);
    assert!(loaded.out.contains("--batch spring"), "{}", loaded.out);
    assert!(!desk.path("one/queue.db").exists(), "the queue is elsewhere");
    let work = |folder: &'static str| {
        let args = [&["work", "-o", folder, "--batch", "spring"], &at[2..]].concat();
        desk.command(&args).spawn().expect("starts")
    };
    let (one, two) = (work("one"), work("two"));
    let (one, two) = tokio::join!(desk.finish(one), desk.finish(two));
    one.ended(0);
    two.ended(0);
    assert_eq!(desk.sent(), 60, "each job once");
    assert_eq!(images(&desk, "one") + images(&desk, "two"), 60);
    let status = run(&["status", "--json"]).await.ended(0);
    assert!(status.out.contains("\"succeeded\":60"), "{}", status.out);
    let jobs = run(&["jobs", "--json", "--batch", "spring"]).await.ended(0);
    assert_eq!(jobs.out.matches("\"job\":").count(), 60, "{}", jobs.out);
    run(&["report", "-o", "two", "--batch", "spring"]).await.ended(0);
    assert_eq!(desk.read("two/attempts.csv").lines().count(), 61);
    // The same again, on another machine: nothing is left to do, and nothing is paid again.
    run(&["work", "-o", "three", "--batch", "spring"]).await.ended(0);
    assert_eq!(desk.sent(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_chosen_by_name_and_a_run_resumes_its_own() {
    let Some(url) = database() else { return };
    let desk = Desk::new(vec![]).await;
    desk.write("a.jsonl", &manifest(3));
    desk.write("b.jsonl", &manifest(2));
    let queue = ["--provider", "simulator", "--queue", &url];
    for (manifest, sent) in [("a.jsonl", 3), ("b.jsonl", 5), ("a.jsonl", 5), ("b.jsonl", 5)] {
        desk.run(&[&["run", manifest], &queue[..]].concat()).await.ended(0);
        assert_eq!(desk.sent(), sent);
    }
    assert_eq!(images(&desk, "out/a-simulator"), 3);
    let which = desk.run(&["status", "--queue", &url]).await.ended(2);
    assert!(which.err.contains("a-simulator") && which.err.contains("--batch"), "{}", which.err);
    let none = desk.run(&["status", "--queue", &url, "--batch", "c"]).await.ended(2);
    assert!(none.err.contains("batch `c`"), "{}", none.err);
    let other =
        desk.run(&[&["run", "b.jsonl", "--batch", "a-simulator"], &queue[..]].concat()).await.ended(2);
    assert!(other.err.contains("a.jsonl"), "{}", other.err);
    let planned = desk.run(&[&["plan", "a.jsonl", "--json"], &queue[..]].concat()).await.ended(0);
    assert!(planned.out.contains("\"unchanged\":3"), "{}", planned.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_shown_nowhere() {
    if postgres::shared().is_none() {
        return;
    }
    let desk = Desk::new(vec![]).await;
    desk.write("a.jsonl", &manifest(1));
    for url in [
        "postgres://ann:s3cr3t@127.0.0.1:x/press",
        "postgres://ann:s3cr3t@h/press?sslmode=nonsense",
        "postgres:/ann:s3cr3t@h/press",
    ] {
        let seen = desk.run(&["run", "a.jsonl", "--provider", "simulator", "--queue", url]).await.ended(2);
        assert!(!seen.err.contains("s3cr3t") && !seen.out.contains("s3cr3t"), "{}", seen.err);
    }
    assert_eq!(desk.sent(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_opened_is_named_with_what_to_do() {
    let Some(url) = database() else { return };
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(1));
    let told = async |url: &str, says: [&str; 2]| {
        let load = desk.run(&["load", "m.jsonl", "--queue", url]).await;
        let seen = load.ended(2).says(says[0]).says(says[1]);
        assert!(!seen.err.contains("at line"), "a line of PostgreSQL's own source: {}", seen.err);
    };
    told(&format!("{url}x"), ["does not exist; make it with `createdb`", "postgres://nightpress@"]).await;
    told(&url.replace("nightpress@", "ann@"), ["role \"ann\" does not exist", "pg_hba.conf"]).await;
    let (_, name) = url.rsplit_once('/').expect("a database");
    let latin = format!("CREATE DATABASE {name}latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let mut server = sqlx::PgConnection::connect(&url).await.expect("connects");
    sqlx::raw_sql(sqlx::AssertSqlSafe(latin)).execute(&mut server).await.expect("makes it");
    told(&format!("{url}latin"), ["has the encoding LATIN1", "createdb -E UTF8"]).await;
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn batches_that_share_a_folder_leave_each_others_paid_answers_alone() {
    let Some(url) = database() else { return };
    let desk = Desk::new(vec![]).await;
    let queue = ["--provider", "simulator", "--queue", &url];
    for batch in ["spring", "autumn"] {
        desk.write("m.jsonl", &format!("{{\"prompt\":\"{batch}\"}}"));
        let load = [&["load", "m.jsonl", "-o", "here", "--batch", batch], &queue[..]].concat();
        desk.run(&load).await.ended(0);
    }
    let work = |batch: &'static str| {
        let mut command =
            desk.command(&["work", "-o", "here", "--queue", &url, "--batch", batch, "--concurrency", "1"]);
        command.env("NIGHTPRESS_SILENT_AFTER", "1s");
        command
    };
    let died = work("spring").env(CRASH_AT, "settle_committed").spawn().expect("starts");
    assert_eq!(desk.finish(died).await.code, None);
    desk.finish(work("autumn").spawn().expect("starts")).await.ended(0);
    desk.finish(work("spring").spawn().expect("starts")).await.ended(2).says("Choose its batch with --batch");
    std::fs::remove_file(desk.path("here/attempts.csv")).expect("removes");
    desk.finish(work("spring").spawn().expect("starts")).await.ended(0);
    assert_eq!(desk.sent(), 2, "what was paid was paid again");
    assert_eq!(images(&desk, "here"), 2);
    let spool = std::fs::read_dir(desk.path("here/spool")).expect("lists").count();
    assert_eq!(spool, 0, "what its worker left is swept in the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_set_aside_of_the_cap_is_waited_for() {
    let Some(url) = database() else { return };
    let mut slow = scenario(vec![]);
    slow.latency.median_ms = 2_000;
    let config = SimulatorConfig { scenario: slow, ..SimulatorConfig::default() };
    let simulator = Simulator::start(config).await.expect("starts");
    let desk = Desk { dir: tempfile::tempdir().expect("temp dir"), simulator };
    desk.write("m.jsonl", &manifest(2));
    let load = ["load", "m.jsonl", "-o", "one", "--provider", "simulator", "--queue", &url];
    desk.run(&[&load[..], &["--batch", "spring"]].concat()).await.ended(0);
    // Enough for one request, which the first one has.
    let work = |folder: &'static str| {
        let args = ["work", "-o", folder, "--queue", &url, "--batch", "spring", "--max-cost", "0.1"];
        desk.command(&args).spawn().expect("starts")
    };
    let first = work("one");
    desk.requests(1).await;
    desk.finish(work("two")).await.ended(3).says("--max-cost");
    assert!(desk.simulator.log().entries[0].complete, "it ended though the money might have come back");
    desk.finish(first).await.ended(3);
    assert_eq!(desk.sent(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_prices_are_dearer_than_those_of_the_load_stops_instead_of_passing_the_cap() {
    let Some(url) = database() else { return };
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(30));
    let load = ["load", "m.jsonl", "-o", "one", "--provider", "simulator", "--queue", &url];
    desk.run(&[&load[..], &["--batch", "spring"]].concat()).await.ended(0);
    desk.write("nightpress.yaml", "prices:\n  gemini-3.1-flash-image: { request: 5 }\n");
    let work = ["work", "-o", "one", "--queue", &url, "--batch", "spring", "--concurrency", "1"];
    let seen = desk.run(&[&work[..], &["--max-cost", "1"]].concat()).await.ended(3);
    seen.says("may cost $5.00 by the prices here").says("Load the manifest again");
    assert_eq!(desk.sent(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_for_many_machines_says_that_files_must_stand_at_the_same_path() {
    let Some(url) = database() else { return };
    let desk = Desk::new(vec![]).await;
    std::fs::write(desk.path("mug.png"), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").expect("writes");
    desk.write("with.jsonl", "{\"id\":\"a\",\"prompt\":\"a\",\"references\":[\"mug.png\"]}");
    desk.write("without.jsonl", &manifest(1));
    let said = "must stand at the same path";
    desk.run(&["load", "with.jsonl", "--queue", &url]).await.ended(0).says(said).says("mug.png");
    for args in [&["load", "with.jsonl"][..], &["load", "without.jsonl", "--queue", &url]] {
        let alone = desk.run(args).await.ended(0);
        assert!(!alone.err.contains(said), "{}", alone.err);
    }
}
