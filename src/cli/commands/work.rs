//! `nightpress work`: work on a queue until it is empty.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};

use crate::cli::api::Api;
use crate::cli::args::WorkArgs;
use crate::cli::exit::Exit;
use crate::cli::logging;
use crate::cli::press::Press;
use crate::cli::session::Session;
use crate::cli::settings::Settings;
use crate::cli::site::Site;
use crate::queue::{Access, Identity, Queue, QueueError};

use super::load::check;

pub(in crate::cli) async fn run(session: Session, args: WorkArgs) -> Result<Exit> {
    let config = session.config()?;
    let mut options = args.options;
    let queue = options.queue.clone().or(config.options.queue.clone());
    let site = Site::of_run(&args.folder, &queue, &session.current).await?;
    let found = session.provider_of(&site).await?;
    // A queue knows whom it is for; naming the provider again is a check, not a choice.
    let asked = *options.load.provider.get_or_insert(config.options.load.provider.unwrap_or(found));
    if asked != found {
        return Err(QueueError::OtherProvider { found, asked }.into());
    }
    let settings = Settings::new(options, &config, session.clock.as_ref())?;
    let api = Api::find(&settings)?;
    let queue = session.open(&site, Access::Existing, Identity::AsItIs).await?;
    let exit = press(session, &site, (Arc::clone(&queue), settings), (api, args.forever)).await;
    queue.close().await;
    exit
}

async fn press(
    session: Session,
    site: &Site,
    (queue, settings): (Arc<dyn Queue>, Settings),
    (api, forever): (Api, bool),
) -> Result<Exit> {
    // On a machine that is new to the batch there is no folder yet.
    let at = site.folder.path();
    std::fs::create_dir_all(at).with_context(|| {
        format!("cannot make the run folder {}; name one that can be written with -o DIR", at.display())
    })?;
    let results = site.decide_results(queue.as_ref()).await?;
    check(Some(queue.as_ref()), &results).await?;
    check_cap(queue.as_ref(), &settings).await?;
    logging::start(&site.folder, api.keys(), settings.voice.verbose)?;
    let api = api.start().await?;
    let batch = site.batch_name();
    Press { session, results, queue, batch, settings, command: "work", forever }.run(api).await
}

/// A cap on cost says nothing about a model without a price.
async fn check_cap(queue: &dyn Queue, settings: &Settings) -> Result<()> {
    if settings.send.cost_max.is_none() {
        return Ok(());
    }
    let left = queue.models_left(&settings.send.scope).await?;
    let mut unpriced: Vec<String> =
        left.into_iter().flat_map(|left| left.fallbacks.into_iter().chain([left.model])).collect();
    unpriced.sort();
    unpriced.dedup();
    unpriced.retain(|model| model.parse().is_ok_and(|model| settings.load.prices.get(&model).is_none()));
    if unpriced.is_empty() {
        // A price that came after the load is not in what was set aside then.
        let stale = queue.unpriced(&settings.send.scope).await?;
        anyhow::ensure!(
            stale == 0,
            "--max-cost cannot hold: {stale} jobs were loaded when their model had no price; load the manifest again"
        );
        return Ok(());
    }
    bail!(
        "--max-cost cannot hold: there is no price for {}; add it to `prices:` in {}",
        unpriced.join(", "),
        crate::cli::config::FILE_NAME
    )
}
