//! `nightpress run`: load a manifest and work until it is done.
//!
//! The order matters. What can be wrong with the command line, the key, the address and the
//! manifest is found out before the folder is made: exit code 2 leaves nothing behind.

use anyhow::Result;

use crate::cli::api::Api;
use crate::cli::args::RunArgs;
use crate::cli::exit::Exit;
use crate::cli::folder;
use crate::cli::loading::Loader;
use crate::cli::logging;
use crate::cli::press::Press;
use crate::cli::session::Session;
use crate::cli::settings::Settings;

use super::load::{Load, load};

pub(in crate::cli) async fn run(session: Session, args: RunArgs) -> Result<Exit> {
    let settings = Settings::new(args.options, &session.config()?, session.clock.as_ref())?;
    let api = Api::find(&settings)?;
    let folder = folder::of_manifest(args.folder.output.as_deref(), &args.manifest, settings.load.provider)?;
    let loader = Loader::new(&args.manifest, settings.load.clone(), session.clock.as_ref())?;
    let what = Load {
        manifest: &args.manifest,
        loader: &loader,
        settings: &settings.load,
        cost_max: settings.send.cost_max,
        voice: settings.voice,
    };
    let queue = load(&session, &folder, what).await?;
    logging::start(&folder, api.key(), settings.voice.verbose, &session.terminal)?;
    let api = api.start().await?;
    let press = Press { session, folder, queue, settings, command: "run", forever: false };
    let queue = std::sync::Arc::clone(&press.queue);
    let exit = press.run(api).await;
    queue.close().await;
    exit
}
