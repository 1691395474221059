//! Batches from end to end: queue, lanes, client, decoder, spool and simulator together.

use std::time::Duration;

use nightpress::job::{AttemptOutcome, JobState, Micros};
use nightpress::queue::Queue as _;
use nightpress::simulator::{Fault, FaultRule, Hint, LimitKind, LimitRule};
use nightpress::worker::{Concurrency, Ending, Event, FailureLimit, Shutdown, Stop};

use crate::press::{Press, job, jobs, scenario};

fn strike(fault: Fault, times: u64) -> FaultRule {
    FaultRule { times: Some(times), ..FaultRule::always(fault) }
}

#[tokio::test]
async fn a_batch_runs_to_its_end_and_every_prompt_arrives_byte_for_byte() {
    let press = Press::new(scenario(vec![])).await;
    let mut batch = jobs(20);
    batch.push(job("odd", " “quotes” \\ \u{2028} {{ braces }} \n 猫 "));
    let mut once = job("once", "not streamed");
    once.stream = false;
    batch.push(once);
    press.load(batch.clone()).await;
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
    let mut sent: Vec<String> = press.log().entries.into_iter().map(|entry| entry.prompt).collect();
    let mut wanted: Vec<String> = batch.into_iter().map(|job| job.spec.prompt).collect();
    sent.sort();
    wanted.sort();
    assert_eq!(sent, wanted);
    assert!(press.states().await.iter().all(|(_, state)| *state == JobState::Succeeded));
    let tally = press.queue.tally().await.expect("reads");
    assert_eq!(tally.usage, press.log().told(), "tokens do not add up");
}

#[tokio::test]
async fn a_second_run_of_a_done_batch_sends_nothing() {
    let press = Press::new(scenario(vec![])).await;
    press.load(jobs(3)).await;
    press.run().await.expect("runs");
    press.load(jobs(3)).await;
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    assert_eq!(press.log().entries.len(), 3);
}

/// Each fault strikes the first try of a job; how its attempts must end.
#[tokio::test]
async fn each_fault_has_its_outcome_and_the_job_ends_as_it_should() {
    use AttemptOutcome::{Failed, NoImage, Refused, Succeeded, Throttled, Transient};
    let once_more = |first: AttemptOutcome| (vec![first, Succeeded], JobState::Succeeded);
    let at_once = || (vec![Succeeded], JobState::Succeeded);
    let final_ = |outcome, state| (vec![outcome], state);
    let table = vec![
        (Fault::Http400, final_(Failed, JobState::Failed)),
        (Fault::Http413, final_(Failed, JobState::Failed)),
        (Fault::Http422, final_(Failed, JobState::Failed)),
        (Fault::Http403Html, once_more(Transient)),
        (Fault::Http408, once_more(Transient)),
        (Fault::Http500, once_more(Transient)),
        (Fault::Http502Html, once_more(Transient)),
        (Fault::Http503, once_more(Transient)),
        (Fault::Http504, once_more(Transient)),
        (Fault::Http520, once_more(Transient)),
        (Fault::Http524, once_more(Transient)),
        (Fault::Http529, once_more(Transient)),
        (Fault::Http429, once_more(Throttled)),
        (Fault::ResetBefore, once_more(Transient)),
        (Fault::ResetMid, once_more(Transient)),
        (Fault::TruncateClean, once_more(Transient)),
        (Fault::StallBefore, once_more(Transient)),
        (Fault::StallMid, once_more(Transient)),
        (Fault::NeverEnd, at_once()),
        (Fault::BadBase64, once_more(Transient)),
        (Fault::BrokenJson, once_more(Transient)),
        (Fault::Html200, once_more(Transient)),
        (Fault::CorruptPng, once_more(Transient)),
        (Fault::TruncatedJpeg, once_more(Transient)),
        (Fault::NoImage, once_more(NoImage)),
        (Fault::TextOnly, once_more(NoImage)),
        (Fault::NoCandidates, once_more(NoImage)),
        (Fault::RefusedSafety, final_(Refused, JobState::Refused)),
        (Fault::PromptBlocked, final_(Refused, JobState::Refused)),
        (Fault::Recitation, final_(Failed, JobState::Failed)),
        (Fault::MaxTokens, final_(Failed, JobState::Failed)),
        (Fault::NoUsage, at_once()),
        (Fault::WrongMime, at_once()),
        (Fault::TwoImages, at_once()),
        (Fault::ThoughtImages, at_once()),
        (Fault::SnakeCaseAnswer, at_once()),
        (Fault::Crlf, at_once()),
        (Fault::NoLastBlankLine, at_once()),
        (Fault::Array, at_once()),
        (Fault::HugeSignature, at_once()),
    ];
    let rules = table
        .iter()
        .map(|(fault, _)| FaultRule { jobs: Some(format!("<{}>", fault.name())), ..strike(*fault, 1) });
    let press = Press::new(scenario(rules.collect())).await;
    let batch = table.iter().map(|(fault, _)| job(fault.name(), &format!("a prompt for <{}>", fault.name())));
    press.load(batch.collect()).await;
    let ending = press.run().await.expect("runs");
    let mut wrong = Vec::new();
    for (fault, expect) in &table {
        let row = press.row(fault.name()).await;
        let found = (press.outcomes(fault.name()).await, row.state);
        if found != *expect {
            let error = row.last.and_then(|last| last.error);
            wrong.push(format!("{}: {found:?} instead of {expect:?} ({error:?})", fault.name()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(ending, Ending::Done);
    press.check_books().await;
    let names =
        |row: &nightpress::queue::JobRow| row.outputs.iter().map(|o| o.name.clone()).collect::<Vec<_>>();
    let two = press.row("two_images").await;
    let extension = two.outputs[0].media.extension();
    assert_eq!(names(&two), [format!("two_images.{extension}"), format!("two_images-2.{extension}")]);
    assert_eq!(press.row("thought_images").await.outputs.len(), 1);
}

#[tokio::test]
async fn allowances_are_counted_apart_and_their_end_fails_the_job() {
    let rules = vec![
        FaultRule { jobs: Some("always 503".to_owned()), ..FaultRule::always(Fault::Http503) },
        FaultRule { jobs: Some("never an image".to_owned()), ..FaultRule::always(Fault::NoImage) },
    ];
    let press = Press::new(scenario(rules)).await;
    press.load(vec![job("a", "always 503"), job("b", "never an image"), job("c", "fine")]).await;
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    assert_eq!(press.outcomes("a").await, [AttemptOutcome::Transient; 5]);
    assert_eq!(press.outcomes("b").await, [AttemptOutcome::NoImage; 2]);
    assert_eq!(press.row("a").await.state, JobState::Failed);
    assert_eq!(press.row("b").await.state, JobState::Failed);
    assert_eq!(press.row("c").await.state, JobState::Succeeded);
}

#[tokio::test]
async fn throttling_uses_up_no_allowance_and_a_closed_lane_is_not_hammered() {
    let mut limited = scenario(vec![]);
    limited.limits = vec![LimitRule {
        kind: LimitKind::Bucket,
        per_window: 1,
        window_ms: 60,
        burst: Some(2),
        hint: Hint::RetryInfo,
        ..LimitRule::default()
    }];
    let press = Press::new(limited).await;
    press.load(jobs(12)).await;
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
    assert!(press.states().await.iter().all(|(_, state)| *state == JobState::Succeeded));
    let throttled = press.log().throttled();
    assert!(throttled > 0, "the limit was never met: the test shows nothing");
    assert!(throttled < 60, "{throttled} refusals for 12 pictures");
    assert!(press.events.all().iter().any(|event| matches!(event, Event::LaneClosed { .. })));
}

#[tokio::test]
async fn a_key_that_does_not_serve_stops_the_run_within_one_round() {
    let press = Press::new(scenario(vec![FaultRule::always(Fault::ApiKeyInvalid)])).await;
    press.load(jobs(50)).await;
    let ending = press.run().await.expect("runs");
    assert!(matches!(ending, Ending::Stopped(Stop::KeyRejected(_))), "{ending:?}");
    assert!(press.log().entries.len() <= 8, "{} requests", press.log().entries.len());
    assert!(press.states().await.iter().all(|(_, state)| *state == JobState::Pending), "jobs were blamed");
    press.check_books().await;
}

#[tokio::test]
async fn a_model_that_is_not_there_stops_its_lane_alone() {
    let press = Press::new(scenario(vec![])).await;
    let mut missing = jobs(10);
    for job in &mut missing {
        job.name = format!("x-{}", job.name).parse().expect("an id");
        job.output = job.name.as_str().parse().expect("a name");
        job.spec.model = "gemini-9-unheard-of".parse().expect("a name");
    }
    let batch = [missing, jobs(10)].concat();
    press.load(batch).await;
    let ending = press.run().await.expect("runs");
    assert!(matches!(ending, Ending::Stopped(Stop::ModelUnavailable(_))), "{ending:?}");
    let states = press.states().await;
    let count = |state| states.iter().filter(|(_, found)| *found == state).count();
    assert_eq!((count(JobState::Succeeded), count(JobState::Pending)), (10, 10));
}

#[tokio::test]
async fn the_same_permanent_error_twenty_times_stops_the_run() {
    let press = Press::new(scenario(vec![FaultRule::always(Fault::Http400)])).await;
    press.load(jobs(60)).await;
    let ending = press.run().await.expect("runs");
    assert!(matches!(ending, Ending::Stopped(Stop::SameError { times: 20, .. })), "{ending:?}");
    assert!(press.log().entries.len() < 30);
}

#[tokio::test]
async fn too_many_failures_stop_the_run() {
    let mut press = Press::new(scenario(vec![
        FaultRule { jobs: Some("number 0".to_owned()), ..FaultRule::always(Fault::Http400) },
        FaultRule { jobs: Some("number 1".to_owned()), ..FaultRule::always(Fault::Http422) },
    ]))
    .await;
    press.config.failures_max = Some(FailureLimit::Jobs(2));
    press.config.concurrency = Concurrency::Fixed(1);
    press.load(jobs(10)).await;
    let ending = press.run().await.expect("runs");
    assert_eq!(ending, Ending::Stopped(Stop::Failures { failed: 2 }));
    assert_eq!(press.log().entries.len(), 2);
}

#[tokio::test]
async fn the_cost_cap_holds_and_can_be_raised_later() {
    let mut press = Press::new(scenario(vec![])).await;
    press.load(jobs(10)).await;
    press.config.cost_max = Some(Micros(300_000));
    let ending = press.run().await.expect("runs");
    assert!(matches!(ending, Ending::Stopped(Stop::CostCap { .. })), "{ending:?}");
    let tally = press.queue.tally().await.expect("reads");
    assert!(tally.cost <= Micros(300_000), "{}", tally.cost);
    assert!(tally.jobs_in(JobState::Succeeded) > 0);
    press.config.cost_max = None;
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
}

#[tokio::test]
async fn a_pilot_leaves_the_rest_pending() {
    let mut press = Press::new(scenario(vec![])).await;
    press.load(jobs(10)).await;
    press.config.scope.first = Some(3);
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.config.scope.first = None;
    press.config.scope.glob = Some("j00[5-6]".to_owned());
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    let done: Vec<String> = press
        .states()
        .await
        .into_iter()
        .filter(|(_, state)| *state == JobState::Succeeded)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(done, ["j000", "j001", "j002", "j005", "j006"]);
}

#[tokio::test]
async fn the_first_interrupt_lets_requests_finish_and_the_next_run_does_the_rest() {
    let press = Press::new(scenario(vec![])).await;
    press.load(jobs(30)).await;
    let shutdown = press.shutdown.clone();
    press.events.on_start(move |started| {
        if started == 5 {
            shutdown.send_replace(Shutdown::Drain);
        }
    });
    assert_eq!(press.run().await.expect("runs"), Ending::Interrupted);
    press.check_books().await;
    let attempts = press.attempts().await;
    assert!(attempts.len() < 30, "nothing was left to do");
    assert!(
        attempts.iter().all(|attempt| attempt.outcome == AttemptOutcome::Succeeded),
        "a request was cut off"
    );
    press.shutdown.send_replace(Shutdown::No);
    press.events.on_start(|_| {});
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    press.check_books().await;
    assert_eq!(press.log().entries.len(), 30, "a job was asked for twice");
}

#[tokio::test]
async fn the_second_interrupt_cuts_requests_off_and_they_are_recorded_as_aborted() {
    let mut press =
        Press::new(scenario(vec![FaultRule { times: Some(1), ..FaultRule::always(Fault::StallBefore) }]))
            .await;
    press.timeouts.idle = Duration::from_secs(60);
    press.load(jobs(3)).await;
    let shutdown = press.shutdown.clone();
    press.events.on_start(move |started| {
        if started == 3 {
            shutdown.send_replace(Shutdown::Abort);
        }
    });
    assert_eq!(press.run().await.expect("runs"), Ending::Interrupted);
    let attempts = press.attempts().await;
    assert!(attempts.iter().all(|attempt| attempt.outcome == AttemptOutcome::Aborted));
    assert!(attempts.iter().all(|attempt| attempt.cost_at_most > Some(Micros(0))), "possibly billed");
    assert!(press.states().await.iter().all(|(_, state)| *state == JobState::Pending));
}

#[tokio::test]
async fn the_key_is_in_nothing_that_was_written() {
    let press = Press::new(scenario(vec![strike(Fault::ApiKeyInvalid, 1)])).await;
    press.load(jobs(4)).await;
    press.run().await.expect("runs");
    press.queue.close().await;
    let mut files = vec![press.dir.path().to_owned()];
    let mut read = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).expect("lists").flatten().map(|entry| entry.path()));
            continue;
        }
        let bytes = std::fs::read(&path).expect("reads");
        read += 1;
        for needle in ["np-test-KEY", "KEY-0123456789"] {
            let found = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            assert!(!found, "{} holds the key", path.display());
        }
    }
    assert!(read > 0);
}
