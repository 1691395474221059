//! `nightpress plan`: what `run` would do, cost and take. Sends nothing and writes nothing.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::cli::args::RunArgs;
use crate::cli::exit::Exit;
use crate::cli::ledger;
use crate::cli::loading::{self, Contents, Loader};
use crate::cli::session::Session;
use crate::cli::settings::{SendSettings, Settings};
use crate::cli::site::Site;
use crate::cli::text;
use crate::job::printable;
use crate::queue::LoadDiff;
use crate::report::Money;
use crate::worker::Concurrency;

/// How long one answer takes: the median of users' reports for 1K pictures, 2026-11. An
/// assumption that is said where it is used.
const LATENCY: Duration = Duration::from_secs(12);
/// The same for models that think longer.
const LATENCY_PRO: Duration = Duration::from_secs(30);
/// What `--concurrency auto` comes to where nothing is known of the limit: 60 requests a minute, a
/// common one of the first paid tier (users' reports, 2026-11).
const AT_ONCE: u32 = 12;

pub(in crate::cli) async fn run(session: Session, args: RunArgs) -> Result<Exit> {
    let settings = Settings::new(args.options, &session.config()?, session.clock.as_ref())?;
    let provider = settings.load.provider;
    let site = Site::of_manifest(&args.folder, &settings.queue, (&args.manifest, provider))?;
    let loader = Loader::new(&args.manifest, settings.load.clone(), session.clock.as_ref()).await?;
    let queue = session.compare_with(&site, &args.manifest, provider).await?;
    let results = site.results(Some(queue.as_ref())).await?;
    ledger::check(Some(queue.as_ref()), &results).await?;
    let known = Loader::known_digests(queue.as_ref()).await?;
    let (contents, digests) = loader.check(known, &session.terminal).await?;
    loader.stage(queue.as_ref(), digests).await?;
    let diff = queue.staged_diff(settings.load.policy).await?;
    queue.close().await;

    let shrunk = loading::check_shrink(&diff, settings.load.prune).err();
    let takes = estimate(&contents, &diff, &settings.send);
    if settings.voice.json {
        let plan = json!({
            "folder": site.folder.path().display().to_string(), "results": results.to_string(),
            "jobs": diff.total, "new": diff.new, "unchanged": diff.unchanged, "changed": diff.changed,
            "changed_done": diff.changed_done, "kept": diff.kept, "returned": diff.returned,
            "renamed": diff.renamed, "cancelled": diff.cancelled, "to_send": diff.to_send,
            "models": contents.models,
            "cost_usd_estimate": Money(diff.estimate), "unpriced": diff.unpriced,
            "seconds_estimate": takes.as_secs(),
            "refused": shrunk.as_ref().map(ToString::to_string),
        });
        session.terminal.json(&plan.to_string());
    } else {
        for line in lines(&contents, &diff, (&settings.send, takes)) {
            session.terminal.out(&line);
        }
        session.terminal.out(&format!("folder: {}", printable(&results.to_string())));
    }
    // What `run` would refuse, `plan` refuses, after it has told the rest.
    shrunk.map_or(Ok(()), Err)?;
    contents.check_cap(settings.send.cost_max.filter(|_| diff.unpriced > 0))?;
    Ok(Exit::Done)
}

fn lines(contents: &Contents, diff: &LoadDiff, (send, takes): (&SendSettings, Duration)) -> Vec<String> {
    let mut lines = loading::diff_lines(diff);
    for (model, n) in &contents.models {
        lines.push(format!("  {} for {}", text::count(*n, "job"), printable(model)));
    }
    lines.push(format!("to send: {}", text::count(diff.to_send, "request")));
    let unpriced = if diff.unpriced > 0 {
        format!(", and {} without a known price", text::count(diff.unpriced, "job"))
    } else {
        String::new()
    };
    lines.push(format!("estimated cost by list prices: {}{unpriced}", diff.estimate.rounded()));
    let pace = send.rpm.all.map_or_else(String::new, |rpm| format!(" and {rpm} requests a minute"));
    lines.push(format!(
        "estimated time: {}, with {} at once{pace} and {} an answer ({} for pro models); throttling not counted",
        text::span(takes),
        at_once(send),
        text::span(LATENCY),
        text::span(LATENCY_PRO),
    ));
    if send.scope != crate::queue::Scope::default() {
        lines.push(
            "(--first and --job are not counted in: these figures are those of the whole manifest)"
                .to_owned(),
        );
    }
    lines
}

/// Requests in flight that the estimate reckons with.
fn at_once(send: &SendSettings) -> u32 {
    match send.concurrency {
        // With a rate, as many as it needs are in flight.
        Concurrency::Auto { max } if send.rpm.all.or(send.ipm.all).is_some() => max,
        Concurrency::Auto { max } => max.min(AT_ONCE),
        Concurrency::Fixed(n) => n,
    }
}

/// How long the requests take: as many at once as are allowed, no faster than the rate.
fn estimate(contents: &Contents, diff: &LoadDiff, send: &SendSettings) -> Duration {
    let latency_of = |model: &str| if model.contains("-pro-") { LATENCY_PRO } else { LATENCY };
    let all: f64 =
        contents.models.iter().map(|(model, n)| seconds(*n) * latency_of(model).as_secs_f64()).sum();
    let share = if diff.total == 0 { 0.0 } else { seconds(diff.to_send) / seconds(diff.total) };
    let longest = contents.models.keys().map(|model| latency_of(model).as_secs_f64()).fold(0.0, f64::max);
    let at_least = if diff.to_send == 0 { 0.0 } else { longest };
    let by_slots = (all * share / f64::from(at_once(send))).max(at_least);
    // A limit holds for each model; the one with the most jobs is ready last.
    let by_rate = contents.models.iter().filter_map(|(model, n)| {
        let model = model.parse().ok()?;
        let rpm = send.rpm.of(&model).into_iter().chain(send.ipm.of(&model)).min()?;
        Some(seconds(*n) * share * 60.0 / f64::from(rpm))
    });
    Duration::try_from_secs_f64(by_rate.fold(by_slots, f64::max)).unwrap_or(Duration::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "an estimate, rounded to minutes")]
fn seconds(n: u64) -> f64 {
    n as f64
}
