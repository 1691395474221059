//! `nightpress run`: load a manifest and work until it is done.
//!
//! The order matters. What can be wrong with the command line, the key, the address and the
//! manifest is found out before the folder is made: exit code 2 leaves nothing behind.

use std::sync::Arc;

use anyhow::Result;

use crate::cli::api::Api;
use crate::cli::args::RunArgs;
use crate::cli::exit::Exit;
use crate::cli::loading::Loader;
use crate::cli::logging;
use crate::cli::press::Press;
use crate::cli::session::Session;
use crate::cli::settings::Settings;
use crate::cli::site::Site;
use crate::output::Results;
use crate::queue::Queue;

use super::load::{Load, load};

pub(in crate::cli) async fn run(session: Session, args: RunArgs) -> Result<Exit> {
    let settings = Settings::new(args.options, &session.config()?, session.clock.as_ref())?;
    let api = Api::find(&settings)?;
    let site = Site::of_manifest(&args.folder, &settings.queue, (&args.manifest, settings.load.provider))?;
    let loader = Loader::new(&args.manifest, settings.load.clone(), session.clock.as_ref()).await?;
    let what = Load {
        manifest: &args.manifest,
        loader: &loader,
        settings: &settings.load,
        cost_max: settings.send.cost_max,
        voice: settings.voice,
    };
    let (queue, results) = load(&session, &site, what).await?;
    let exit = press(session, (results, site.batch_name()), (Arc::clone(&queue), settings), api).await;
    queue.close().await;
    exit
}

async fn press(
    session: Session,
    (results, batch): (Results, String),
    (queue, settings): (Arc<dyn Queue>, Settings),
    api: Api,
) -> Result<Exit> {
    logging::start(results.folder(), api.keys(), settings.voice.verbose)?;
    let api = api.start().await?;
    Press { session, results, queue, batch, settings, command: "run", forever: false }.run(api).await
}
