//! `nightpress load`: a manifest into the queue, without working on it. `run` begins with it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::cli::args::LoadArgs;
use crate::cli::exit::Exit;
use crate::cli::ledger;
use crate::cli::loading::{self, Contents, Loader};
use crate::cli::renaming;
use crate::cli::session::{Session, identity};
use crate::cli::settings::{LoadSettings, Voice};
use crate::cli::site::Site;
use crate::cli::text;
use crate::job::{CrashPoint, Micros, crash_point};
use crate::manifest::DigestCache;
use crate::output::Results;
use crate::queue::{Access, Queue};

/// What is loaded, and how.
pub(super) struct Load<'a> {
    pub(super) manifest: &'a Path,
    pub(super) loader: &'a Loader,
    pub(super) settings: &'a LoadSettings,
    pub(super) cost_max: Option<Micros>,
    pub(super) voice: Voice,
}

pub(in crate::cli) async fn run(session: Session, args: LoadArgs) -> Result<Exit> {
    let config = session.config()?;
    let queue = args.queue.or(config.options.queue.clone());
    let settings = args.load.or(config.options.load.clone()).settings(&config);
    let voice = args.output.or(config.options.output).voice();
    let site = Site::of_manifest(&args.folder, &queue, (&args.manifest, settings.provider))?;
    let loader = Loader::new(&args.manifest, settings.clone(), session.clock.as_ref()).await?;
    let what = Load { manifest: &args.manifest, loader: &loader, settings: &settings, cost_max: None, voice };
    let (queue, results) = load(&session, &site, what).await?;
    let tally = queue.tally().await?;
    queue.close().await;
    if voice.json {
        let jobs = tally.jobs.iter().map(|(state, n)| (state.as_str().to_owned(), (*n).into()));
        let jobs = serde_json::Value::Object(jobs.collect());
        session.terminal.json(
            &serde_json::json!({
                "folder": site.folder.path().display().to_string(), "results": results.to_string(), "jobs": jobs
            })
            .to_string(),
        );
    } else if !voice.quiet {
        session.terminal.out(&format!("next: nightpress work {}", site.flags()));
    }
    Ok(Exit::Done)
}

/// Loads a manifest; the queue is open afterwards. A manifest with errors makes no folder.
pub(super) async fn load(
    session: &Session,
    site: &Site,
    what: Load<'_>,
) -> Result<(Arc<dyn Queue>, Results)> {
    let whose = || identity(site, what.manifest, what.settings.provider);
    let made = session.open_if_made(site, whose()?).await?;
    let is_new = made.is_none();
    let known = if let Some(queue) = made {
        let known = known_digests(queue.as_ref(), site).await;
        queue.close().await;
        known?
    } else {
        check(None, &site.results(None).await?).await?;
        DigestCache::default()
    };
    let (contents, digests) = what.loader.check(known, &session.terminal).await?;
    if is_new {
        contents.check_cap(what.cost_max)?;
    }

    let at = site.folder.path();
    std::fs::create_dir_all(at).with_context(|| {
        format!("cannot make the run folder {}; name one that can be written with -o DIR", at.display())
    })?;
    let queue = session.open(site, Access::Create, whose()?).await?;
    match apply(session, (queue.as_ref(), site), &what, (contents, digests)).await {
        Ok(results) => Ok((queue, results)),
        Err(error) => {
            queue.close().await;
            Err(error)
        }
    }
}

/// Whether results can go there, and whether what is there fits the queue.
pub(super) async fn check(queue: Option<&dyn Queue>, results: &Results) -> Result<()> {
    // A folder is looked at when the work begins.
    if results.are_shared() {
        results.check().await?;
    }
    ledger::check(queue, results).await
}

async fn known_digests(queue: &dyn Queue, site: &Site) -> Result<DigestCache> {
    check(Some(queue), &site.results(Some(queue)).await?).await?;
    Loader::known_digests(queue).await
}

async fn apply(
    session: &Session,
    (queue, site): (&dyn Queue, &Site),
    what: &Load<'_>,
    (contents, digests): (Contents, DigestCache),
) -> Result<Results> {
    let results = site.decide_results(queue).await?;
    let digests = what.loader.stage(queue, digests).await?;
    let diff = queue.staged_diff(what.settings.policy).await?;
    loading::check_shrink(&diff, what.settings.prune)?;
    // On a resume, only what is still to be sent needs a price.
    contents.check_cap(what.cost_max.filter(|_| diff.unpriced > 0))?;
    crash_point(CrashPoint::Staged);
    let diff = queue.apply_load(what.settings.policy).await?;
    crash_point(CrashPoint::LoadCommitted);
    loading::save_digests(queue, &digests).await?;
    if !what.voice.quiet {
        for line in loading::diff_lines(&diff) {
            session.terminal.note(&line);
        }
        if let Some(note) = contents.note_for_others().filter(|_| site.database.is_some()) {
            session.terminal.note(&note);
        }
    }
    let renamed = renaming::rename_outputs(queue, &results, &session.terminal).await?;
    if renamed > 0 && !what.voice.quiet {
        session.terminal.note(&format!("{} renamed", text::count(renamed, "file")));
    }
    Ok(results)
}
