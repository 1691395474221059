//! What a process leaves behind when it dies, and what the next one makes of it. A run whose
//! future is dropped is as good as killed: nothing is settled, the locks are gone.

use std::fs;
use std::time::Duration;

use nightpress::job::{AttemptOutcome, Digest, Job, JobState, MediaType, Reference};
use nightpress::output::SpoolDir;
use nightpress::queue::{LostPolicy, Queue as _, RunStart, Scope, WorkerStart};
use nightpress::simulator::{Fault, FaultRule};
use nightpress::worker::{Concurrency, Ending, Event, Shutdown, Stop};

use crate::press::{Press, job, jobs, scenario};
use crate::program::Desk;

/// Runs until `n` requests have reached the server, then drops the run with all that it holds.
async fn run_and_die(press: &Press, n: usize) {
    let arrived = async {
        while press.log().entries.len() < n {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ending = press.run() => panic!("the run ended by itself: {ending:?}"),
        () = arrived => {}
    }
}

fn stalls_at_first() -> Vec<FaultRule> {
    vec![FaultRule { times: Some(1), ..FaultRule::always(Fault::StallBefore) }]
}

#[tokio::test]
async fn what_was_in_flight_is_lost_counted_and_asked_for_again() {
    let mut press = Press::new(scenario(stalls_at_first())).await;
    press.timeouts.idle = Duration::from_secs(60);
    press.load(jobs(4)).await;
    run_and_die(&press, 4).await;
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
    let attempts = press.attempts().await;
    let lost: Vec<_> = attempts.iter().filter(|one| one.outcome == AttemptOutcome::Lost).collect();
    assert_eq!(lost.len(), 4);
    assert!(lost.iter().all(|one| one.cost.is_none() && one.cost_at_most.is_some_and(|cost| cost.0 > 0)));
    assert!(press.events.all().iter().any(|event| matches!(event, Event::Rescued { lost: 4, .. })));
    let tally = press.queue.tally().await.expect("reads");
    assert!(tally.cost_at_most > tally.cost, "a lost attempt may have been billed");
}

#[tokio::test]
async fn with_hold_a_person_decides_on_what_was_lost() {
    let mut press = Press::new(scenario(stalls_at_first())).await;
    press.timeouts.idle = Duration::from_secs(60);
    press.config.lost = LostPolicy::Hold;
    press.load(jobs(3)).await;
    run_and_die(&press, 3).await;
    assert_eq!(press.run().await.expect("runs"), Ending::Stopped(Stop::Held(3)));
    assert_eq!(press.log().entries.len(), 3, "a held job was sent");
}

fn blocked_job() -> Job {
    let mut blocked = job("a", "one");
    blocked.output = "sub/a".parse().expect("a name");
    blocked
}

/// A job whose file belongs into a folder, where a file of a person stands instead.
async fn blocked_press() -> Press {
    let press = Press::new(scenario(vec![])).await;
    press.load(vec![blocked_job(), job("b", "two"), job("c", "three")]).await;
    fs::create_dir(press.folder().images()).expect("creates");
    fs::write(press.folder().images().join("sub"), b"in the way").expect("writes");
    press
}

#[tokio::test]
async fn a_result_that_cannot_be_put_in_place_waits_in_the_spool_and_holds_nobody_up() {
    let press = blocked_press().await;
    for _ in 0..2 {
        let ending = press.run().await.expect("runs");
        assert!(matches!(ending, Ending::Stopped(Stop::Blocked { results: 1, .. })), "{ending:?}");
        assert_eq!(press.row("a").await.state, JobState::Running, "planned, not published");
        assert_eq!(press.row("b").await.state, JobState::Succeeded);
        assert_eq!(press.log().entries.len(), 3, "a settled answer was paid twice");
    }
    fs::remove_file(press.folder().images().join("sub")).expect("removes");
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
    assert_eq!(press.log().entries.len(), 3, "a settled answer was paid twice");
    assert!(press.row("a").await.outputs[0].name.starts_with("sub/a."));
}

#[tokio::test]
async fn what_waits_in_the_spool_is_kept_whatever_else_ends_the_run() {
    let press = blocked_press().await;
    let shutdown = press.shutdown.clone();
    press.events.on_start(move |started| {
        if started == 3 {
            shutdown.send_replace(Shutdown::Drain);
        }
    });
    assert_eq!(press.run().await.expect("runs"), Ending::Interrupted);
    fs::remove_file(press.folder().images().join("sub")).expect("removes");
    press.shutdown.send_replace(Shutdown::No);
    press.events.on_start(|_| {});
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    assert_eq!(press.log().entries.len(), 3, "a settled answer was paid twice");
    press.check_books().await;
}

#[tokio::test]
async fn nothing_is_sent_while_a_file_stands_where_the_results_belong() {
    let press = Press::new(scenario(vec![])).await;
    press.load(jobs(2)).await;
    fs::write(press.folder().images(), b"in the way").expect("writes");
    let ending = press.run().await.expect("ends in order");
    assert!(matches!(&ending, Ending::Stopped(Stop::Disk(why)) if why.contains("images")), "{ending:?}");
    assert_eq!(press.log().entries.len(), 0);
}

#[tokio::test]
async fn a_run_that_begins_leaves_alone_what_another_heir_is_about_to_publish() {
    let press = blocked_press().await;
    press.run().await.expect("runs");
    fs::remove_file(press.folder().images().join("sub")).expect("removes");
    // Another process takes over, and dies before it has published, while a third one runs.
    let spool = press.folder().spool();
    let heirs = SpoolDir::create(&spool, "heir").expect("creates");
    let start = RunStart { command: "run".to_owned(), version: "0".to_owned() };
    let run = press.queue.start_run(start).await.expect("starts");
    let start = WorkerStart { run, token: "heir".to_owned(), host: "h".to_owned(), pid: 1 };
    let heir = press.queue.register_worker(start).await.expect("registers");
    let dead: Vec<_> = press.queue.workers().await.expect("reads").iter().map(|one| one.worker).collect();
    let rescued = press.queue.rescue(&dead[..1], heir, LostPolicy::Retry).await.expect("rescues");
    assert_eq!(rescued.publications.len(), 1);
    press.load(vec![blocked_job(), job("b", "two"), job("c", "three"), job("d", "four")]).await;
    let dying = std::sync::Mutex::new(Some(heirs));
    press.events.on_start(move |_| drop(dying.lock().expect("no panic while held").take()));
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    assert_eq!(press.log().entries.len(), 4, "a settled answer was paid twice");
    press.check_books().await;
}

#[tokio::test]
async fn what_dies_beside_a_run_leaves_nothing_in_the_spool_when_that_ends() {
    let mut press = Press::new(scenario(stalls_at_first())).await;
    press.config.concurrency = Concurrency::Fixed(2);
    press.load(jobs(4)).await;
    let ((), ending) = tokio::join!(run_and_die(&press, 4), press.run());
    assert_eq!(ending.expect("runs"), Ending::Done);
    press.check_books().await;
}

#[tokio::test]
async fn two_runs_of_one_folder_share_the_work() {
    let press = Press::new(scenario(vec![])).await;
    press.load(jobs(40)).await;
    let (one, other) = tokio::join!(press.run(), press.run());
    assert_eq!((one.expect("runs"), other.expect("runs")), (Ending::Done, Ending::Done));
    press.check_books().await;
    assert_eq!(press.log().entries.len(), 40, "a job was sent twice");
}

#[tokio::test]
async fn a_changed_job_replaces_its_old_file_and_a_renamed_one_costs_nothing() {
    let press = Press::new(scenario(vec![])).await;
    press.load(vec![job("a", "one"), job("b", "two")]).await;
    press.run().await.expect("runs");
    let old = press.row("a").await.outputs[0].clone();
    let mut renamed = job("b", "two");
    renamed.output = "new/name".parse().expect("a name");
    press.load(vec![job("a", "one, changed"), renamed]).await;
    let moves = press.queue.moves().await.expect("reads");
    assert_eq!(moves.len(), 1);
    assert!(moves[0].to.starts_with("new/name."), "{}", moves[0].to);
    assert_eq!(press.row("a").await.state, JobState::Pending);
    assert!(press.folder().images().join(&old.name).exists(), "the old file went before the new one came");
    press.run().await.expect("runs");
    let new = press.row("a").await.outputs[0].clone();
    assert_eq!(new.name, old.name);
    assert_ne!(new.digest, old.digest);
    assert_eq!(press.log().entries.len(), 3);
}

#[tokio::test]
async fn a_foreign_file_in_the_way_is_kept_and_the_picture_gets_the_next_name() {
    let press = Press::new(scenario(vec![])).await;
    press.load(vec![job("a", "one")]).await;
    fs::create_dir(press.folder().images()).expect("creates");
    for extension in ["png", "jpg"] {
        fs::write(press.folder().images().join(format!("a.{extension}")), b"mine").expect("writes");
    }
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
    let output = press.row("a").await.outputs[0].clone();
    assert!(output.name.starts_with("a-2."), "{}", output.name);
    for extension in ["png", "jpg"] {
        let kept = fs::read(press.folder().images().join(format!("a.{extension}"))).expect("reads");
        assert_eq!(kept, b"mine");
    }
}

#[tokio::test]
async fn a_reference_that_changed_after_the_load_fails_the_job_before_it_is_sent() {
    let press = Press::new(scenario(vec![])).await;
    let path = press.dir.path().join("ref.png");
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(4, 3).write_to(&mut png, image::ImageFormat::Png).expect("encodes");
    fs::write(&path, png.get_ref()).expect("writes");
    let mut edit = job("a", "edit this");
    edit.spec.references = vec![Reference {
        path: path.clone(),
        digest: Digest::of(png.get_ref()),
        bytes: png.get_ref().len() as u64,
        media: MediaType::Png,
    }];
    press.load(vec![edit.clone(), job("b", "fine")]).await;
    let mut other = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(5, 3).write_to(&mut other, image::ImageFormat::Png).expect("encodes");
    fs::write(&path, other.get_ref()).expect("writes");
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    let row = press.row("a").await;
    assert_eq!(row.state, JobState::Failed);
    assert_eq!(row.last.expect("an attempt").error_code.as_deref(), Some("reference_changed"));
    assert_eq!(press.log().entries.len(), 1, "it was sent");
    // As it was: the job can be sent again.
    fs::write(&path, png.get_ref()).expect("writes");
    press.load(vec![edit, job("b", "fine")]).await;
    let names = vec!["a".parse().expect("an id")];
    let selection = nightpress::queue::Selection { names, ..Default::default() };
    assert_eq!(press.queue.retry(&selection).await.expect("retries"), 1);
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    assert_eq!(press.row("a").await.state, JobState::Succeeded);
}

#[tokio::test]
async fn images_by_url_are_fetched_from_the_own_origin_and_nowhere_private() {
    let shapes = [Fault::ImageUrlText, Fault::ImageUrlFileData, Fault::ImageUrlMarkdown];
    let rules = shapes
        .iter()
        .map(|fault| FaultRule { jobs: Some(format!("<{}>", fault.name())), ..FaultRule::always(*fault) });
    let private =
        FaultRule { jobs: Some("<private>".to_owned()), ..FaultRule::always(Fault::ImageUrlRedirect) };
    let press = Press::new(scenario(rules.chain([private]).collect())).await;
    let mut batch: Vec<_> =
        shapes.iter().map(|fault| job(fault.name(), &format!("by <{}>", fault.name()))).collect();
    batch.push(job("private", "by <private>"));
    press.load(batch).await;
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    for fault in shapes {
        let row = press.row(fault.name()).await;
        assert_eq!(row.state, JobState::Succeeded, "{}: {:?}", fault.name(), row.last);
        let note = row.last.and_then(|last| last.note).unwrap_or_default();
        assert!(note.contains("Aggregate-NanoUrl"), "{note}");
    }
    let row = press.row("private").await;
    assert_eq!(row.state, JobState::Failed);
    let left = press.queue.left(&Scope::default()).await.expect("reads");
    assert_eq!(left, nightpress::queue::Left::default());
}

/// Three innocents beside one job on whose request the process dies each time.
#[tokio::test]
async fn a_job_that_kills_the_process_ends_alone_and_takes_no_innocent_with_it() {
    let stall = |jobs: &str, times| FaultRule {
        jobs: Some(jobs.to_owned()),
        times,
        ..FaultRule::always(Fault::StallBefore)
    };
    let mut press = Press::new(scenario(vec![stall("poison", None), stall("innocent", Some(3))])).await;
    press.timeouts.idle = Duration::from_secs(60);
    let innocents = (0..3).map(|n| job(&format!("b{n}"), &format!("innocent {n}")));
    press.load([job("a", "poison")].into_iter().chain(innocents).collect()).await;
    for death in 1..=3 {
        run_and_die(&press, 4 * death).await;
    }
    for death in 1..=2 {
        run_and_die(&press, 12 + death).await;
        let in_flight =
            press.attempts().await.iter().filter(|one| one.outcome == AttemptOutcome::Sent).count();
        assert_eq!(in_flight, 1, "others were in flight beside the suspect");
    }
    let before = press.events.all().len();
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
    let poison = press.row("a").await;
    assert_eq!(poison.state, JobState::Failed);
    assert_eq!(poison.last.expect("attempts").error_code.as_deref(), Some("poison"));
    assert_eq!(press.outcomes("a").await, [AttemptOutcome::Lost; 5]);
    for name in ["b0", "b1", "b2"] {
        assert_eq!(press.row(name).await.state, JobState::Succeeded, "{name} was blamed");
    }
    let (mut running, mut warned) = (0, false);
    for event in &press.events.all()[before..] {
        match event {
            Event::Started { .. } => running += 1,
            Event::Ended { .. } => running -= 1,
            Event::Warning(text) => warned |= text.contains("nightpress show a"),
            _ => {}
        }
        assert!(running <= 1, "two suspects at once");
    }
    assert!(warned, "nobody was told");
}

#[tokio::test]
async fn jobs_beside_a_suspect_wait_until_it_has_ended() {
    let stall = FaultRule { times: Some(4), ..FaultRule::always(Fault::StallBefore) };
    let suspect = FaultRule { jobs: Some("suspect".to_owned()), ..stall };
    let mut press = Press::new(scenario(vec![suspect])).await;
    press.timeouts.idle = Duration::from_secs(60);
    press.load(vec![job("a", "suspect")]).await;
    for death in 1..=3 {
        run_and_die(&press, death).await;
    }
    // Longer than the dispatcher takes to look for new jobs.
    press.timeouts.idle = Duration::from_millis(2_500);
    let before = press.events.all().len();
    let others = async {
        while press.log().entries.len() < 4 {
            tokio::task::yield_now().await;
        }
        let others = (0..5).map(|n| job(&format!("b{n}"), "fine"));
        press.load([job("a", "suspect")].into_iter().chain(others).collect()).await;
    };
    let (ending, ()) = tokio::join!(press.run(), others);
    assert_eq!(ending.expect("runs"), Ending::Done);
    press.check_books().await;
    let mut suspect_runs = false;
    for event in &press.events.all()[before..] {
        match event {
            Event::Started { job, .. } => {
                assert!(!suspect_runs, "{job} was sent beside a suspect");
                suspect_runs = job.as_str() == "a";
            }
            Event::Ended { job, .. } if job.as_str() == "a" => suspect_runs = false,
            _ => {}
        }
    }
    assert!(press.states().await.iter().all(|(_, state)| *state == JobState::Succeeded));
}

#[tokio::test]
async fn a_kill_while_results_are_renamed_loses_no_name_whatever_is_wanted_next() {
    let desk = Desk::new(vec![]).await;
    let manifest = |folder: &str| {
        let line = |n| format!("{{\"id\": \"j{n}\", \"prompt\": \"{n}\", \"output\": \"{folder}j{n}\"}}\n");
        (0..4).map(line).collect::<String>()
    };
    let names = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(desk.path("out/m/images").join(folder))
            .map(|entries| entries.flatten().filter(|one| one.path().is_file()).map(|one| one.file_name()))
            .map(Iterator::collect)
            .unwrap_or_default();
        names.sort();
        names
    };
    desk.write("m.jsonl", &manifest(""));
    desk.run(&["run", "m.jsonl"]).await.ended(0);
    let first = names("");
    assert_eq!(first.len(), 4);
    for (step, next) in [("file_moved:2", ""), ("moves_begun", ""), ("file_moved:3", "elsewhere/")] {
        desk.write("m.jsonl", &manifest("new/"));
        let mut command = desk.command(&["run", "m.jsonl"]);
        let child = command.env("NIGHTPRESS_CRASH_AT", step).spawn().expect("starts");
        assert_eq!(desk.finish(child).await.code, None, "it was not killed at {step}");
        desk.write("m.jsonl", &manifest(next));
        let seen = desk.run(&["run", "m.jsonl"]).await.ended(0);
        assert!(!format!("{}{}", seen.out, seen.err).contains("gone"), "{}", seen.err);
        assert_eq!((names(next), names("new")), (first.clone(), vec![]), "after {step}");
    }
    assert_eq!(desk.sent(), 4, "a picture was paid for again");
}
