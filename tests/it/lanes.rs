//! Several lanes in one run: keys, models that stand in for others, outages, what is kept of limits.

use nightpress::gemini::{Client, Endpoint, Key};
use nightpress::job::{AttemptOutcome, JobState, ModelName, Provider};
use nightpress::queue::{LimitSource, Queue as _};
use nightpress::simulator::{Fault, FaultRule};
use nightpress::worker::{Ending, Event, PerMinute, Stop};
use tokio::net::TcpListener;

use crate::press::{Press, jobs, scenario};

#[tokio::test]
async fn an_outage_fails_no_job_and_the_run_goes_on_when_it_is_over() {
    // A port that nobody listens to until the outage is over.
    let port =
        TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("an address").port();
    let mut press = Press::new(scenario(vec![])).await;
    press.base_url = Some(format!("http://127.0.0.1:{port}"));
    press.load(jobs(8)).await;
    let over = async {
        while press.attempts().await.len() < 24 {
            tokio::task::yield_now().await;
        }
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("binds again");
        let to = press.simulator.base_url();
        let to = to.strip_prefix("http://").expect("an address").to_owned();
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (mut one, _) = listener.accept().await.expect("accepts");
            let to = to.clone();
            connections.spawn(async move {
                if let Ok(mut other) = tokio::net::TcpStream::connect(&to).await {
                    drop(tokio::io::copy_bidirectional(&mut one, &mut other).await);
                }
            });
        }
    };
    let ending = tokio::select! {
        ending = press.run() => ending.expect("runs"),
        () = over => unreachable!("it serves for ever"),
    };
    assert_eq!(ending, Ending::Done);
    assert!(press.states().await.iter().all(|(_, state)| *state == JobState::Succeeded));
    let attempts = press.attempts().await;
    let failed = attempts.iter().filter(|one| one.outcome == AttemptOutcome::Transient);
    assert!(failed.clone().count() >= 16, "the outage was not met");
    assert!(failed.into_iter().all(|one| one.cost_at_most.is_none_or(|cost| cost.0 == 0)));
}

#[tokio::test]
async fn a_key_that_does_not_serve_stops_its_own_lanes_alone() {
    let press = Press::new(scenario(vec![])).await;
    press.load(jobs(12)).await;
    let good = press.client(crate::press::KEY);
    // The simulator of another origin refuses this one's key.
    let other = Press::new(scenario(vec![FaultRule::always(Fault::Http401)])).await;
    let endpoint = Endpoint {
        provider: Provider::Simulator,
        base_url: other.simulator.base_url().parse().expect("a URL"),
        key: Key::new("np-test-KEY-of-nobody").expect("a key"),
    };
    let bad = Client::new(endpoint, press.timeouts).expect("builds");
    assert_eq!(press.run_with(vec![bad.clone(), good]).await.expect("runs"), Ending::Done);
    assert!(press.states().await.iter().all(|(_, state)| *state == JobState::Succeeded));
    let warnings = press.events.all();
    assert!(warnings.iter().any(|event| matches!(event, Event::Warning(text) if text.contains("keys"))));
    press.load(jobs(13)).await;
    let ending = press.run_with(vec![bad]).await.expect("runs");
    assert!(matches!(ending, Ending::Stopped(Stop::KeyRejected(_))), "{ending:?}");
}

#[tokio::test]
async fn another_model_stands_in_while_one_is_out() {
    let day =
        FaultRule { model: Some("gemini-3-pro-image".to_owned()), ..FaultRule::always(Fault::Http429Daily) };
    let press = Press::new(scenario(vec![day])).await;
    let pro: ModelName = "gemini-3-pro-image".parse().expect("a model");
    let flash = ModelName::default_model();
    let mut list = jobs(6);
    for job in &mut list {
        job.spec.model = pro.clone();
    }
    for job in &mut list[..4] {
        job.fallback_models = vec![flash.clone()];
    }
    press.load(list).await;
    let ending = press.run().await.expect("runs");
    assert!(matches!(ending, Ending::Stopped(Stop::Parked { .. })), "{ending:?}");
    for (n, (name, state)) in press.states().await.into_iter().enumerate() {
        let expect = if n < 4 { JobState::Succeeded } else { JobState::Pending };
        assert_eq!(state, expect, "{name}");
    }
    let made: Vec<String> = press
        .attempts()
        .await
        .into_iter()
        .filter(|one| one.outcome == AttemptOutcome::Succeeded)
        .map(|one| one.model)
        .collect();
    assert_eq!(made, vec![flash.to_string(); 4]);
    nightpress::report::write_reports(press.queue.as_ref(), &press.folder().into()).await.expect("writes");
    let usage = std::fs::read_to_string(press.folder().usage_csv()).expect("reads");
    let models: Vec<&str> = usage.lines().skip(1).filter_map(|line| line.split(',').nth(2)).collect();
    assert_eq!(models[..4], [flash.as_str(); 4], "who made the picture is not told");
    assert_eq!(models[4..], [pro.as_str(); 2]);
}

#[tokio::test]
async fn what_a_server_states_of_its_limit_is_kept_for_the_next_run() {
    let mut press =
        Press::new(scenario(vec![FaultRule { times: Some(1), ..FaultRule::always(Fault::Http429) }])).await;
    press.config.requests_per_minute = PerMinute::default();
    press.load(jobs(1)).await;
    assert_eq!(press.run().await.expect("runs"), Ending::Done);
    let key = nightpress::queue::LaneKey {
        provider: Provider::Simulator,
        model: ModelName::default_model(),
        key_id: Key::new(crate::press::KEY).expect("a key").id(),
    };
    let known = press.queue.lane(&key).await.expect("reads").known;
    let (known, _) = known.expect("something was learned");
    assert!(matches!(known.source, LimitSource::Stated | LimitSource::Learned), "{known:?}");
    assert!(press.queue.lane_states().await.expect("reads").is_empty(), "no worker is left");
}
