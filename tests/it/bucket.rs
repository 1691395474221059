//! Results in a bucket: the real program against a store that speaks S3.

use std::collections::BTreeSet;
use std::process::Child;

use axum::http::Method;
use nightpress::job::{CRASH_AT, Digest};
use nightpress::simulator::{Pictures, Scenario};

use crate::postgres;
use crate::program::{Desk, Seen, manifest};
use crate::s3::{self, Bucket, Refusal};

const DENIED: &str = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";

/// When a machine that says nothing is dead, so that tests of that take seconds.
const SILENT_AFTER: &str = "2s";

/// A desk whose programs find a bucket.
pub(crate) struct Studio {
    pub(crate) desk: Desk,
    pub(crate) bucket: Bucket,
}

impl Studio {
    pub(crate) async fn new(jobs: usize) -> Option<Self> {
        let bucket = s3::bucket().await?;
        let desk = Desk::new(vec![]).await;
        desk.write("m.jsonl", &manifest(jobs));
        Some(Self { desk, bucket })
    }

    fn start(&self, args: &[&str], env: &[(&str, &str)]) -> Child {
        let mut command = self.desk.command(args);
        self.bucket.dress(&mut command);
        command.envs(env.iter().copied());
        command.spawn().expect("starts")
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Seen {
        self.desk.finish(self.start(args, &[])).await
    }

    /// The program with its results in the bucket, under `spring/`.
    async fn print(&self) -> Seen {
        self.run(&["run", "m.jsonl", "-o", &self.bucket.url("spring/")]).await
    }

    async fn keys(&self, folder: &str) -> Vec<String> {
        let keys = self.bucket.keys().await;
        keys.into_iter().filter_map(|key| Some(key.strip_prefix(folder)?.to_owned())).collect()
    }

    /// Whatever stands among the results came whole from the server, once, and nothing else is left.
    pub(crate) async fn check(&self, images: usize) {
        let sent: Vec<Digest> =
            self.desk.simulator.log().entries.into_iter().flat_map(|entry| entry.images).collect();
        let keys = self.keys("spring/images/").await;
        assert_eq!(keys.len(), images, "{keys:?}");
        let mut seen = BTreeSet::new();
        for key in &keys {
            let digest = Digest::of(&self.bucket.content(&format!("spring/images/{key}")).await);
            assert!(sent.contains(&digest), "{key} is foreign or torn");
            assert!(seen.insert(digest), "{key} is there twice");
        }
        assert_eq!(self.keys("spring/.spool/").await, Vec::<String>::new());
        assert_eq!(self.bucket.unfinished().await, 0, "parts of an upload are left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_of_the_store_is_told_before_anything_is_written_or_sent() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(1));
    let told = async |(name, value): (&str, &str), says: &str| {
        let mut command = desk.command(&["run", "m.jsonl", "-o", "s3://studio/spring"]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        let child = command.env(name, value).spawn().expect("starts");
        let seen = desk.finish(child).await.ended(2).says(says);
        assert!(!seen.err.contains(value) && !seen.err.contains("panicked"), "{}", seen.err);
    };
    told(("AWS_ENDPOINT_URL", "minio:9000"), "AWS_ENDPOINT_URL is no URL").await;
    told(("AWS_ENDPOINT_URL", "http://minio:9000"), "AWS_ALLOW_HTTP=true").await;
    told(("AWS_ACCESS_KEY_ID", "AKIA\nTHESECOND"), "AWS_ACCESS_KEY_ID has characters").await;
    told(("AWS_ACCESS_KEY_ID", "AKIATHEONLY"), "AWS_SECRET_ACCESS_KEY").await;
    assert!(!desk.path("out").exists());
    assert_eq!(desk.sent(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_end_after_a_key_and_an_empty_variable_do_not_count() {
    let Some(at) = Studio::new(1).await else { return };
    let args = ["run", "m.jsonl", "-o", &at.bucket.url("spring/")];
    let key = format!("{}\n", s3::ACCESS_KEY);
    let env = [("AWS_ACCESS_KEY_ID", key.as_str()), ("AWS_ENDPOINT_URL_S3", ""), ("AWS_SESSION_TOKEN", "")];
    at.desk.finish(at.start(&args, &env)).await.ended(0);
    at.check(1).await;
}

fn refusal(method: Method, what: &'static str, times: usize, status: u16) -> Refusal {
    Refusal { method, what, times, status, body: DENIED }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_reports_go_to_the_bucket_and_the_queue_stays_here() {
    let Some(at) = Studio::new(5).await else { return };
    let url = at.bucket.url("spring");
    at.print().await.ended(0).says(&format!("look at: {url}/images/"));
    at.check(5).await;
    assert_eq!(at.keys("spring/").await.len(), 8, "five images and three reports");
    let usage = at.bucket.text("spring/usage.csv").await;
    assert_eq!(usage.matches(",succeeded,").count(), 5, "{usage}");
    assert!(at.desk.path("out/spring/queue.db").exists());
    assert!(!at.desk.path("out/spring/images").exists() && !at.desk.path("out/spring/usage.csv").exists());
    // The same again, by its address and by nothing: the folder remembers.
    at.print().await.ended(0);
    at.run(&["work"]).await.ended(0);
    at.run(&["status"]).await.ended(0).says(&url);
    assert_eq!(at.desk.sent(), 5, "a job was paid again");
    let before = at.bucket.content("spring/attempts.csv").await;
    at.bucket.delete("spring/attempts.csv").await;
    at.run(&["report", "-o", &url]).await.ended(0).says(&format!("{url}/attempts.csv"));
    assert_eq!(at.bucket.content("spring/attempts.csv").await, before);
    let elsewhere = at.bucket.url("autumn/spring");
    at.run(&["run", "m.jsonl", "-o", &elsewhere]).await.ended(2).says(&url);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_at_any_step_leaves_nothing_torn_and_what_was_paid_is_not_paid_again() {
    // Where it dies, and how many answers were on their way or not yet in the bucket's spool: they are lost.
    let points = [
        "spool_folder_synced:2",
        "before_settle:2",
        "settle_committed:2",
        "before_link:2",
        "linked:2",
        "placed:2",
        "published_committed:2",
        "worker_retired:1",
        "report_written:2",
    ];
    for point in points {
        let Some(at) = Studio::new(6).await else { return };
        let url = at.bucket.url("spring");
        let args = ["run", "m.jsonl", "-o", &url, "--concurrency", "1"];
        let died = at.desk.finish(at.start(&args, &[(CRASH_AT, point)])).await;
        assert_eq!(died.code, None, "{point}: {}", died.err);
        let settled = matches!(point.split(':').next(), Some(name) if !["spool_folder_synced", "before_settle"].contains(&name));
        if settled {
            // The machine's disk is gone, but for the lock that tells that its worker is dead.
            for token in std::fs::read_dir(at.desk.path("out/spring/spool")).expect("lists").flatten() {
                for file in std::fs::read_dir(token.path()).expect("lists").flatten() {
                    std::fs::remove_file(file.path()).expect("removes");
                }
            }
        }
        at.print().await.ended(0);
        at.check(6).await;
        let lost = usize::from(!settled);
        assert_eq!(at.desk.sent(), 6 + lost, "{point}: requests");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_object_is_left_alone_and_a_changed_job_replaces_its_own() {
    let Some(at) = Studio::new(2).await else { return };
    for extension in ["png", "jpg", "webp"] {
        at.bucket.put(&format!("spring/images/j00.{extension}"), b"a person's own").await;
    }
    // Objects without a queue are a queue that was lost, unless that is said otherwise.
    at.print().await.ended(2).says("has lost its queue");
    for extension in ["png", "jpg", "webp"] {
        at.bucket.delete(&format!("spring/images/j00.{extension}")).await;
    }
    at.run(&["load", "m.jsonl", "-o", &at.bucket.url("spring")]).await.ended(0);
    at.run(&["run", "m.jsonl", "-o", &at.bucket.url("spring"), "--job", "j01"]).await.ended(0);
    for extension in ["png", "jpg", "webp"] {
        at.bucket.put(&format!("spring/images/j00.{extension}"), b"a person's own").await;
    }
    at.print().await.ended(0);
    let keys = at.keys("spring/images/").await;
    assert_eq!(keys.len(), 5, "{keys:?}");
    assert!(keys.iter().any(|key| key.starts_with("j00-2.")), "{keys:?}");
    for extension in ["png", "jpg", "webp"] {
        assert_eq!(at.bucket.content(&format!("spring/images/j00.{extension}")).await, b"a person's own");
    }
    let mine = keys.iter().find(|key| key.starts_with("j01.")).expect("there").clone();
    let old = at.bucket.content(&format!("spring/images/{mine}")).await;
    at.desk.write("m.jsonl", &manifest(2).replace("number 1", "number one"));
    at.print().await.ended(0);
    let new = at.bucket.content(&format!("spring/images/{mine}")).await;
    assert_ne!(old, new);
    assert_eq!((at.keys("spring/images/").await.len(), at.desk.sent()), (5, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_result_moves_and_a_deleted_one_is_made_again_when_that_is_asked_for() {
    let Some(at) = Studio::new(3).await else { return };
    at.print().await.ended(0);
    at.desk.write("m.jsonl", &manifest(3).replace("\"j01\",", "\"j01\", \"output\": \"new/name\","));
    at.print().await.ended(0).says("1 file renamed");
    let keys = at.keys("spring/images/").await;
    assert!(keys.iter().any(|key| key.starts_with("new/name.")), "{keys:?}");
    at.check(3).await;
    assert_eq!(at.desk.sent(), 3, "a renaming costs nothing");
    at.bucket.delete(&format!("spring/images/{}", keys[0])).await;
    at.print().await.ended(0);
    assert_eq!(at.desk.sent(), 3);
    at.run(&["run", "m.jsonl", "-o", &at.bucket.url("spring"), "--repair"])
        .await
        .ended(0)
        .says("1 of 3 results");
    at.check(3).await;
    assert_eq!(at.desk.sent(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_for_a_while_costs_nothing_but_time() {
    let Some(at) = Studio::new(4).await else { return };
    at.run(&["load", "m.jsonl", "-o", &at.bucket.url("spring")]).await.ended(0);
    at.bucket.refuse(refusal(Method::PUT, "/images/", 3, 503));
    at.bucket.refuse(refusal(Method::PUT, "-1$", 3, 503));
    at.bucket.refuse(refusal(Method::POST, "/images/", 2, 500));
    at.bucket.refuse(refusal(Method::DELETE, "-1$", 2, 503));
    at.print().await.ended(0);
    at.check(4).await;
    assert_eq!(at.desk.sent(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_uploaded_waits_here_and_is_not_paid_again() {
    let Some(at) = Studio::new(4).await else { return };
    at.bucket.refuse(refusal(Method::PUT, "-1$", usize::MAX, 403));
    let args = ["run", "m.jsonl", "-o", &at.bucket.url("spring"), "--concurrency", "2"];
    let seen = at.run(&args).await.ended(3).says("AccessDenied").says("spool");
    assert!(!seen.err.contains(s3::SECRET_KEY) && !seen.out.contains(s3::SECRET_KEY));
    let paid = at.desk.sent();
    assert!((1..=2).contains(&paid), "{paid} requests left after the store had failed");
    assert_eq!(at.keys("spring/images/").await, Vec::<String>::new());
    at.bucket.open();
    at.print().await.ended(0);
    at.check(4).await;
    assert_eq!(at.desk.sent(), 4, "what was paid was paid again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_hold_results_is_told_before_anything_is_paid() {
    let Some(at) = Studio::new(2).await else { return };
    let missing = at.run(&["run", "m.jsonl", "-o", "s3://no-such-bucket/spring"]).await;
    missing.ended(2).says("there is no bucket `no-such-bucket`");
    at.run(&["run", "m.jsonl", "-o", "ftp://studio/spring"]).await.ended(2).says("s3://");
    at.bucket.refuse(Refusal {
        method: Method::PUT,
        what: "",
        times: 1,
        status: 403,
        body: "<Error><Code>InvalidAccessKeyId</Code><Message>It does not exist.</Message>\
               <AWSAccessKeyId>AKIATHETESTSOWN</AWSAccessKeyId></Error>",
    });
    let denied = at.print().await.ended(2).says("InvalidAccessKeyId: It does not exist.").says("credentials");
    assert!(!denied.err.contains(s3::SECRET_KEY) && !denied.err.contains(s3::ACCESS_KEY), "{}", denied.err);
    at.bucket.open();
    at.bucket.refuse(refusal(Method::PUT, "", usize::MAX, 503));
    at.print().await.ended(3).says("cannot write");
    at.bucket.open();
    at.bucket.forget_conditions();
    at.print().await.ended(2).says("cannot hold results").says("AWS_COPY_IF_NOT_EXISTS");
    assert_eq!((at.desk.sent(), at.desk.path("out").exists()), (0, false));
    assert_eq!(at.bucket.keys().await, Vec::<String>::new());
}

/// A database of the test's own; `None` where there is no PostgreSQL, which is told.
fn database() -> Option<String> {
    Some(postgres::shared()?.database(&postgres::unique("bucket")))
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_one_database_know_where_results_go() {
    let (Some(at), Some(queue)) = (Studio::new(30).await, database()) else { return };
    let url = at.bucket.url("spring");
    let provider = ["--provider", "simulator", "--queue", &queue];
    at.run(&[&["load", "m.jsonl", "-o", &url], &provider[..]].concat()).await.ended(0).says(&url);
    let machines = ["one", "two"].map(|machine| {
        std::fs::create_dir(at.desk.path(machine)).expect("creates");
        let mut command = at.desk.command(&["work", "--queue", &queue]);
        at.bucket.dress(&mut command);
        command.current_dir(at.desk.path(machine)).spawn().expect("starts")
    });
    for machine in machines {
        at.desk.finish(machine).await.ended(0);
    }
    at.check(30).await;
    assert_eq!(at.desk.sent(), 30, "each job once");
    let attempts = at.bucket.text("spring/attempts.csv").await;
    assert_eq!(attempts.lines().count(), 31, "the last to end leaves the last word");
    assert_eq!(at.bucket.text("spring/usage.csv").await.matches(",succeeded,").count(), 30);
    at.run(&["status", "--queue", &queue]).await.ended(0).says(&url);
    let other = at.bucket.url("autumn");
    let refused = at.run(&["work", "--queue", &queue, "--batch", "spring", "-o", &other]).await;
    refused.ended(2).says(&url).says("--batch");
    // A batch whose results went into folders stays with them.
    at.run(&[&["run", "m.jsonl", "-o", "here", "--first", "1"], &provider[..]].concat()).await.ended(0);
    let late = [&["work", "--batch", "here", "-o", &other], &provider[2..]].concat();
    at.run(&late).await.ended(2).says("run folder of each machine");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_machine_that_is_gone_was_paid_for_is_published_by_another() {
    let (Some(at), Some(queue)) = (Studio::new(6).await, database()) else { return };
    let url = at.bucket.url("spring");
    let provider = ["--provider", "simulator", "--queue", &queue];
    at.run(&[&["load", "m.jsonl", "-o", &url], &provider[..]].concat()).await.ended(0);
    let machine = |name: &str, args: &[&str], env: &[(&str, &str)]| {
        std::fs::create_dir(at.desk.path(name)).expect("creates");
        let mut command = at.desk.command(&[&["work", "--queue", &queue], args].concat());
        at.bucket.dress(&mut command);
        command.envs(env.iter().copied()).env("NIGHTPRESS_SILENT_AFTER", SILENT_AFTER);
        command.current_dir(at.desk.path(name)).spawn().expect("starts")
    };
    // One answer is settled and not published, another one may be on its way.
    let died = machine("gone", &["--concurrency", "1"], &[(CRASH_AT, "settle_committed:2")]);
    assert_eq!(at.desk.finish(died).await.code, None);
    std::fs::remove_dir_all(at.desk.path("gone")).expect("removes");
    let staged = at.keys("spring/.spool/").await;
    assert_eq!(staged.len(), 1, "{staged:?}");
    // What it had uploaded, and did not come to settle.
    let (token, _) = staged[0].split_once('/').expect("a worker");
    at.bucket.put(&format!("spring/.spool/{token}/999-1"), b"half a night's work").await;
    at.bucket.put("spring/.spool/another-batch/1-1", b"nobody knows whose").await;
    let heir = machine("heir", &["--forever"], &[]);
    // It judges nobody before it was there itself for so long.
    while at.keys("spring/images/").await.len() < 6 {
        tokio::task::yield_now().await;
    }
    let pid = heir.id().to_string();
    let told = std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("runs kill");
    assert!(told.success());
    at.desk.finish(heir).await.ended(0);
    assert_eq!(at.keys("spring/.spool/").await, ["another-batch/1-1"]);
    at.bucket.delete("spring/.spool/another-batch/1-1").await;
    at.check(6).await;
    assert_eq!(at.desk.sent(), 6, "what was paid was paid again");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_large_picture_is_never_held_as_a_whole() {
    const PICTURE_BYTES: u64 = 40 << 20;
    /// What the program has by itself, a part of the upload, and the store's copy of it.
    const MEMORY_KIB_MAX: u64 = 70 << 10;
    let Some(bucket) = s3::bucket().await else { return };
    let desk = Desk::of(Scenario {
        pictures: Pictures { bytes: Some(PICTURE_BYTES), tiny: true, ..Pictures::default() },
        ..Scenario::default()
    });
    let at = Studio { desk: desk.await, bucket };
    at.desk.write("m.jsonl", &manifest(2));
    let args = ["run", "m.jsonl", "-o", &at.bucket.url("spring"), "--concurrency", "1"];
    let mut child = at.start(&args, &[]);
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().expect("asks").is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok());
        most = most.max(line.unwrap_or(0));
        tokio::task::yield_now().await;
    }
    at.desk.finish(child).await.ended(0);
    at.check(2).await;
    let key = format!("spring/images/{}", at.keys("spring/images/").await[0]);
    assert!(at.bucket.content(&key).await.len() as u64 >= PICTURE_BYTES);
    assert!(most > 0 && most < MEMORY_KIB_MAX, "{most} KiB");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_uploaded_is_published_by_whoever_has_the_job_when_its_machine_is_back() {
    let (Some(at), Some(queue)) = (Studio::new(3).await, database()) else { return };
    let url = at.bucket.url("spring");
    let provider = ["--provider", "simulator", "--queue", &queue];
    at.run(&[&["load", "m.jsonl", "-o", &url], &provider[..]].concat()).await.ended(0);
    let machine = |name: &str, args: &[&str]| {
        std::fs::create_dir_all(at.desk.path(name)).expect("creates");
        let mut command = at.desk.command(&[&["work", "--queue", &queue], args].concat());
        at.bucket.dress(&mut command);
        command.env("NIGHTPRESS_SILENT_AFTER", SILENT_AFTER);
        command.current_dir(at.desk.path(name)).spawn().expect("starts")
    };
    at.bucket.refuse(refusal(Method::PUT, "-1$", usize::MAX, 403));
    let one = machine("one", &["--concurrency", "1"]);
    at.desk.finish(one).await.ended(3).says("AccessDenied");
    at.bucket.open();
    assert_eq!(at.desk.sent(), 1);
    let mut heir = machine("heir", &["--forever"]);
    // It takes over what `one` had, whose bytes it does not have.
    let mut said = std::io::BufReader::new(heir.stderr.take().expect("a pipe"));
    let (said, heard) = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        while std::io::BufRead::read_line(&mut said, &mut line).expect("reads") > 0 {
            if line.contains("is not in the bucket") {
                return (said, true);
            }
            line.clear();
        }
        (said, false)
    })
    .await
    .expect("joins");
    assert!(heard, "the heir does not say what it waits for");
    heir.stderr = Some(said.into_inner());
    assert_eq!((at.keys("spring/images/").await.len(), at.desk.sent()), (2, 3));
    let one = machine("one", &[]);
    at.desk.finish(one).await;
    while at.keys("spring/images/").await.len() < 3 {
        tokio::task::yield_now().await;
    }
    let pid = heir.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("runs kill").success());
    at.desk.finish(heir).await.ended(0);
    at.check(3).await;
    assert_eq!(at.desk.sent(), 3, "what was paid was paid again");
}
