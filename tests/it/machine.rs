//! The machine's faults: disks, databases, signals, clocks, descriptors. Each ends in words that say
//! what to do and in an exit code, with the queue whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use nightpress::job::{AttemptOutcome, Clock, JobState, SystemClock, Timestamp};
use nightpress::output::{Disk, Free};
use nightpress::queue::Queue as _;
use nightpress::simulator::{Fault, FaultRule, Pictures, Scenario};
use nightpress::worker::{Ending, Event, Stop};

use crate::press::{Press, jobs, open_queue, scenario};
use crate::program::{Desk, manifest};

const MIB: u64 = 1024 * 1024;

/// A disk that says what the test wants.
#[derive(Debug)]
struct FakeDisk(AtomicU64);

impl FakeDisk {
    fn with(free: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(free)))
    }
}

impl Disk for FakeDisk {
    fn free(&self, _folder: &Path) -> Option<Free> {
        Some(Free { bytes: self.0.load(Ordering::Relaxed), files: None })
    }
}

/// A small file system in memory, where the system lets us have one.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path, size: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "nightpress-test"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at.to_owned()));
        }
        assert!(std::env::var_os("CI").is_none(), "CI must be able to mount a file system");
        #[expect(clippy::print_stdout, reason = "a test that did not run must say so")]
        let () = println!("skipped: this system lets us mount no file system");
        None
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.0).status().expect("mount runs");
        assert!(done.success(), "{options}");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

fn disk_reason(ending: &Ending) -> String {
    match ending {
        Ending::Stopped(stop @ Stop::Disk(_)) => stop.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_room_no_request_is_sent_and_the_run_pauses() {
    let mut press = Press::new(scenario(vec![])).await;
    let disk = FakeDisk::with(7 * MIB);
    press.disk = Arc::clone(&disk) as Arc<dyn Disk>;
    press.load(jobs(5)).await;
    let reason = disk_reason(&press.run().await.expect("runs"));
    assert!(reason.contains("7.0 MiB are free, 8.0 are needed. Make room"), "{reason}");
    assert_eq!(press.log().entries.len(), 0);
    assert!(press.states().await.iter().all(|(_, state)| *state == JobState::Pending));
    disk.0.store(100 * MIB, Ordering::Relaxed);
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
    disk.0.store(0, Ordering::Relaxed);
    assert_eq!(press.run().await.expect("runs"), Ending::Done, "with nothing to send, no room is needed");
}

#[tokio::test]
async fn a_small_disk_makes_fewer_requests_run_at_once() {
    let mut press = Press::new(scenario(vec![])).await;
    press.disk = FakeDisk::with(12 * MIB);
    press.load(jobs(12)).await;
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
    let (mut running, mut most) = (0, 0);
    for event in press.events.all() {
        match event {
            Event::Started { .. } => running += 1,
            Event::Ended { .. } => running -= 1,
            _ => {}
        }
        most = most.max(running);
    }
    assert_eq!(most, 2);
}

/// The disk fills up behind the back of what was reckoned, wherever that may be: in the spool, in
/// `images/` or in the queue.
#[tokio::test]
async fn a_disk_that_fills_up_blames_no_job_and_the_next_run_finishes() {
    let dir = tempfile::tempdir().expect("temp dir");
    let Some(tmpfs) = Tmpfs::mount(dir.path(), "2500k") else { return };
    let large = Scenario { pictures: Pictures::default(), ..Scenario::default() };
    let mut press = Press::at(dir, large).await;
    press.timeouts.idle = Duration::from_secs(60);
    press.disk = FakeDisk::with(u64::MAX);
    press.load(jobs(36)).await;
    let reason = disk_reason(&press.run().await.expect("runs"));
    assert!(reason.contains("No space left") || reason.contains("full"), "{reason}");
    let sent = press.log().entries.len();
    assert!(sent < 36, "the disk was never full");
    for (name, state) in press.states().await {
        assert!(!matches!(state, JobState::Failed | JobState::Refused), "{name} was blamed");
    }
    tmpfs.remount("size=200m");
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
    assert!(press.states().await.iter().all(|(_, state)| *state == JobState::Succeeded));
    let again = press.log().entries.len() - 36;
    let cut_off =
        press.attempts().await.iter().filter(|one| one.outcome != AttemptOutcome::Succeeded).count();
    assert_eq!(again, cut_off, "a settled answer was asked for again");
    assert!(again <= 8, "{again} requests were in vain, more than were in flight");
    press.queue.close().await;
}

#[derive(Debug)]
struct JumpyClock(AtomicI64);

impl Clock for JumpyClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_ms(SystemClock.now().as_ms() + self.0.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn a_clock_that_jumps_back_stalls_no_job_and_kills_no_worker() {
    let throttled = FaultRule { times: Some(1), ..FaultRule::always(Fault::Http503) };
    let mut press = Press::new(scenario(vec![throttled])).await;
    let clock = Arc::new(JumpyClock(AtomicI64::new(0)));
    press.queue.close().await;
    press.queue = open_queue(press.folder().queue(), Arc::clone(&clock) as Arc<dyn Clock>).await;
    press.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    press.load(jobs(12)).await;
    press.events.on_start(move |started| {
        if started == 6 {
            clock.0.store(-86_400_000, Ordering::Relaxed);
        }
    });
    let (one, other) = tokio::join!(press.run(), press.run());
    assert_eq!((one.expect("runs"), other.expect("runs")), (Ending::Done, Ending::Done));
    press.check_books().await;
    assert!(press.states().await.iter().all(|(_, state)| *state == JobState::Succeeded));
    assert!(press.attempts().await.iter().all(|one| one.outcome != AttemptOutcome::Lost));
}

#[tokio::test]
async fn a_full_disk_gives_3_and_says_how_much_is_needed() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(3));
    fs::create_dir(desk.path("small")).expect("creates");
    let Some(_tmpfs) = Tmpfs::mount(&desk.path("small"), "16m") else { return };
    desk.write("small/other", &"x".repeat(10 * 1024 * 1024));
    desk.run(&["run", "m.jsonl", "-o", "small/run"])
        .await
        .ended(3)
        .says("the disk is full")
        .says("8.0 are needed");
    assert_eq!(desk.sent(), 0);
    fs::remove_file(desk.path("small/other")).expect("removes");
    desk.run(&["run", "m.jsonl", "-o", "small/run"]).await.ended(0);
    assert_eq!(desk.sent(), 3);
}

#[tokio::test]
async fn a_read_only_folder_sends_nothing_and_leaves_the_queue_as_it_was() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(3));
    fs::create_dir(desk.path("disk")).expect("creates");
    let Some(tmpfs) = Tmpfs::mount(&desk.path("disk"), "32m") else { return };
    desk.run(&["run", "m.jsonl", "-o", "disk/run", "--first", "1"]).await.ended(0);
    tmpfs.remount("ro");
    let seen = desk.run(&["run", "m.jsonl", "-o", "disk/run"]).await.ended(3);
    assert!(seen.err.contains("read") || seen.err.contains("written"), "{}", seen.err);
    desk.run(&["run", "m.jsonl", "-o", "disk/new"]).await.ended(3).says("Read-only");
    assert_eq!(desk.sent(), 1);
    tmpfs.remount("rw");
    desk.run(&["run", "m.jsonl", "-o", "disk/run"]).await.ended(0);
    assert_eq!(desk.sent(), 3);
}

#[tokio::test]
async fn a_queue_that_is_none_or_of_a_newer_program_is_left_alone() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(2));
    fs::create_dir_all(desk.path("out/m")).expect("creates");
    let letter = "a letter to grandmother, ".repeat(40);
    desk.write("out/m/queue.db", &letter);
    desk.run(&["run", "m.jsonl"]).await.ended(2).says("queue.db is damaged or not a database");
    assert_eq!(desk.read("out/m/queue.db"), letter);
    fs::remove_file(desk.path("out/m/queue.db")).expect("removes");
    desk.run(&["load", "m.jsonl"]).await.ended(0);
    // The schema's version stands at byte 60 of the file's header (sqlite.org/fileformat2.html).
    let mut bytes = fs::read(desk.path("out/m/queue.db")).expect("reads");
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(desk.path("out/m/queue.db"), &bytes).expect("writes");
    desk.run(&["run", "m.jsonl"]).await.ended(2).says("schema 99").says("newer nightpress");
    assert_eq!(fs::read(desk.path("out/m/queue.db")).expect("reads"), bytes);
    assert_eq!(desk.sent(), 0);
}

#[tokio::test]
async fn a_report_that_cannot_be_written_is_told_and_the_images_are_kept() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(2));
    fs::create_dir_all(desk.path("out/m/usage.csv")).expect("creates");
    desk.run(&["run", "m.jsonl"]).await.ended(3).says("usage.csv").says("nightpress report");
    assert_eq!(fs::read_dir(desk.path("out/m/images")).expect("lists").count(), 2);
    fs::remove_dir(desk.path("out/m/usage.csv")).expect("removes");
    desk.run(&["report"]).await.ended(0);
    assert_eq!(desk.read("out/m/usage.csv").lines().count(), 3);
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    assert_eq!(desk.sent(), 2);
}

#[cfg(unix)]
#[tokio::test]
async fn sigterm_and_a_terminal_that_goes_away_give_143_and_let_requests_finish() {
    for signal in ["-TERM", "-HUP"] {
        // A hint of a second makes sure that something is left when the signal comes; one job alone meets
        // it, or the lane would learn a limit that is not there.
        let once = FaultRule { times: Some(1), ..FaultRule::always(Fault::Http429) };
        let desk = Desk::new(vec![FaultRule { jobs: Some("number 3".to_owned()), ..once }]).await;
        desk.write("m.jsonl", &manifest(20));
        let child = desk.command(&["run", "m.jsonl"]).spawn().expect("starts");
        desk.requests(8).await;
        crate::program::signal(&child, signal);
        desk.finish(child).await.ended(143).says("run the same command again");
        let attempts = desk.read("out/m/attempts.csv");
        assert!(!attempts.contains(",aborted,") && !attempts.contains(",lost,"), "{attempts}");
        desk.run(&["run", "m.jsonl"]).await.ended(0);
        assert_eq!(fs::read_dir(desk.path("out/m/images")).expect("lists").count(), 20);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_reader_that_has_seen_enough_neither_ends_the_run_nor_loses_results() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(12));
    let mut command = desk.command(&["run", "m.jsonl"]);
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let program = command.get_program().to_string_lossy().into_owned();
    let line = format!("{{ '{program}' {}; echo $? >code; }} 2>&1 | head -n 1; exec 1>&-", args.join(" "));
    let envs: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
    command = Command::new("sh");
    command.args(["-c", &line]).current_dir(desk.dir.path());
    for (key, value) in envs {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    desk.finish(command.spawn().expect("starts")).await.ended(0);
    assert_eq!(desk.read("code").trim(), "0");
    assert_eq!(fs::read_dir(desk.path("out/m/images")).expect("lists").count(), 12);
    assert_eq!(desk.read("out/m/usage.csv").lines().count(), 13);
}

#[cfg(unix)]
#[tokio::test]
async fn too_few_descriptors_are_told_before_anything_is_sent() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(64));
    let limited = |rest: &str| {
        let command = desk.command(&[]);
        let line =
            format!("ulimit -n 64; exec '{}' run m.jsonl {rest}", command.get_program().to_string_lossy());
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(desk.dir.path());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(key, value),
                None => shell.env_remove(key),
            };
        }
        shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        shell.spawn().expect("starts")
    };
    desk.finish(limited("--concurrency 64")).await.ended(2).says("ulimit -n 232").says("--concurrency 8");
    assert!(!desk.path("out").exists());
    assert_eq!(desk.sent(), 0);
    desk.finish(limited("--concurrency 8")).await.ended(0);
    assert_eq!(desk.sent(), 64);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn descriptors_that_run_out_pause_the_run_and_blame_no_job() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    // A hint of a second: while all wait for it, the limit is taken away.
    let desk = Desk::new(vec![FaultRule { times: Some(1), ..FaultRule::always(Fault::Http429) }]).await;
    desk.write("m.jsonl", &manifest(4));
    let child = desk.command(&["run", "m.jsonl", "--concurrency", "4"]).spawn().expect("starts");
    desk.requests(4).await;
    let pid = Pid::from_child(&child);
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(0), maximum: Some(0) }).expect("lowers");
    desk.finish(child).await.ended(3).says("no more files can be opened").says("ulimit -n");
    let failed = desk.run(&["jobs", "--state", "failed", "--json"]).await.ended(0);
    assert!(!failed.out.contains("j0"), "{}", failed.out);
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    assert_eq!(fs::read_dir(desk.path("out/m/images")).expect("lists").count(), 4);
}

#[tokio::test]
async fn after_the_deadline_nothing_is_sent() {
    let mut press = Press::new(scenario(vec![])).await;
    press.load(jobs(3)).await;
    press.config.deadline = Some(press.clock.now());
    assert_eq!(press.run().await.expect("runs"), Ending::Stopped(Stop::Deadline));
    assert_eq!(press.log().entries.len(), 0);
    press.config.deadline = Some(press.clock.now().plus(Duration::from_secs(3600)));
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
}

#[tokio::test]
async fn a_queue_that_was_lost_is_told_before_anything_is_paid_again() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(3));
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    let queue = desk.path("out/m/queue.db");
    let good = fs::read(&queue).expect("reads");
    let ledger = desk.read("out/m/attempts.csv");
    let refused = async |what: &str| {
        for command in ["run", "load", "plan"] {
            desk.run(&[command, "m.jsonl"])
                .await
                .ended(2)
                .says(what)
                .says("paid again")
                .says("queue.db back");
        }
        assert_eq!((desk.sent(), desk.read("out/m/attempts.csv")), (3, ledger.clone()));
    };
    fs::remove_file(&queue).expect("removes");
    refused("attempts.csv tells of 3 requests, but queue.db is missing or empty").await;
    fs::write(&queue, b"").expect("empties");
    refused("attempts.csv tells of 3 requests").await;
    // An older copy: two more pictures were made since.
    fs::write(&queue, &good).expect("writes");
    desk.write("m.jsonl", &manifest(5));
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    fs::write(&queue, &good).expect("writes");
    for command in [&["run", "m.jsonl"][..], &["work"], &["report"]] {
        desk.run(command)
            .await
            .ended(2)
            .says("attempts.csv tells of 5 requests, but queue.db knows of 3 only");
    }
    fs::remove_file(desk.path("out/m/attempts.csv")).expect("removes");
    fs::remove_file(&queue).expect("removes");
    desk.run(&["run", "m.jsonl"]).await.ended(2).says("there are files in images/");
    assert_eq!(desk.sent(), 5);
    fs::remove_dir_all(desk.path("out/m/images")).expect("removes");
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    assert_eq!(desk.sent(), 10, "a person begins anew");
}

#[tokio::test]
async fn results_on_another_disk_and_a_disk_without_inodes_are_told_before_anything_is_sent() {
    let desk = Desk::new(vec![]).await;
    desk.write("m.jsonl", &manifest(3));
    desk.run(&["load", "m.jsonl"]).await.ended(0);
    fs::create_dir_all(desk.path("out/m/images")).expect("creates");
    {
        let Some(_elsewhere) = Tmpfs::mount(&desk.path("out/m/images"), "4m") else { return };
        desk.run(&["work"]).await.ended(3).says("on different disks").says("-o");
    }
    fs::create_dir(desk.path("disk")).expect("creates");
    let Some(small) = Tmpfs::mount(&desk.path("disk"), "64m,nr_inodes=60") else { return };
    desk.run(&["run", "m.jsonl", "-o", "disk/run"]).await.ended(3).says("more files (inodes), 68 are needed");
    assert_eq!(desk.sent(), 0);
    small.remount("nr_inodes=0");
    desk.run(&["run", "m.jsonl", "-o", "disk/run"]).await.ended(0);
    desk.run(&["work", "-o", "out/m"]).await.ended(0);
    assert_eq!(desk.sent(), 6);
}
