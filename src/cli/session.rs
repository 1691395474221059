//! What every command starts from: the terminal, the clock, the configuration, and a queue.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::config::Config;
use super::folder;
use super::options::{FolderArgs, QueueOptions};
use super::site::{Database, Site};
use super::terminal::Terminal;
use crate::job::{Clock, Provider, SystemClock};
use crate::output::RunFolder;
use crate::queue::postgres::{self, PostgresQueue};
use crate::queue::sqlite::{OpenOptions, SqliteQueue, Synchronous};
use crate::queue::{Access, Identity, Queue, QueueError};

/// One call of the program.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) terminal: Terminal,
    pub(super) clock: Arc<dyn Clock>,
    /// The current directory: `nightpress.yaml` and `out/` are looked for in it.
    pub(super) current: PathBuf,
}

impl Session {
    pub(super) fn start(terminal: Terminal) -> Result<Self> {
        let current = std::env::current_dir().context("cannot tell the current directory")?;
        Ok(Self { terminal, clock: Arc::new(SystemClock), current })
    }

    /// `nightpress.yaml`.
    pub(super) fn config(&self) -> Result<Config> {
        Ok(Config::read(&self.current)?)
    }

    /// The site and the queue of a command without a manifest.
    pub(super) async fn existing(
        &self,
        args: &FolderArgs,
        options: &QueueOptions,
        access: Access,
    ) -> Result<(Site, Arc<dyn Queue>)> {
        let options = options.clone().or(self.config()?.options.queue);
        let site = Site::of_run(args, &options, &self.current).await?;
        let queue = self.open(&site, access, Identity::AsItIs).await?;
        Ok((site, queue))
    }

    /// Opens the queue of a site.
    pub(super) async fn open(
        &self,
        site: &Site,
        access: Access,
        identity: Identity,
    ) -> Result<Arc<dyn Queue>, QueueError> {
        match &site.database {
            None => Ok(Arc::new(SqliteQueue::open(self.options(&site.folder, access, identity)).await?)),
            Some(Database { address, batch, silent_after }) => {
                let (address, batch, silent_after) = (address.clone(), batch.clone(), *silent_after);
                let options = postgres::OpenOptions { address, batch, access, identity, silent_after };
                Ok(Arc::new(PostgresQueue::open(options).await?))
            }
        }
    }

    /// Whom a site's queue is for.
    pub(super) async fn provider_of(&self, site: &Site) -> Result<Provider> {
        let queue = self.open(site, Access::ReadOnly, Identity::AsItIs).await?;
        let batch = queue.batch().await;
        queue.close().await;
        Ok(batch?.provider)
    }

    fn options(&self, folder: &RunFolder, access: Access, identity: Identity) -> OpenOptions {
        OpenOptions {
            path: folder.queue(),
            access,
            identity,
            clock: Arc::clone(&self.clock),
            synchronous: Synchronous::Full,
        }
    }

    /// The queue of a manifest's site if there is one, else an empty one that leaves nothing.
    pub(super) async fn compare_with(
        &self,
        site: &Site,
        manifest: &Path,
        provider: Provider,
    ) -> Result<Arc<dyn Queue>> {
        match self.open_if_made(site, identity(site, manifest, provider)?).await? {
            Some(queue) => Ok(queue),
            None => Ok(Arc::new(SqliteQueue::in_memory(provider, Arc::clone(&self.clock)).await?)),
        }
    }

    /// The queue of a site, to read only; `None` when there is none, or when it is being made or its
    /// maker died over that.
    pub(super) async fn open_if_made(&self, site: &Site, whose: Identity) -> Result<Option<Arc<dyn Queue>>> {
        match self.open(site, Access::ReadOnly, whose).await {
            Ok(queue) => Ok(Some(queue)),
            Err(QueueError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whose queue a manifest's site must hold. In a run folder the manifest is known by its way from there; in
/// a database that many machines load into, by its name.
pub(super) fn identity(site: &Site, manifest: &Path, provider: Provider) -> Result<Identity> {
    let manifest = match &site.database {
        None => folder::manifest_name(manifest, &site.folder)?,
        Some(_) if manifest == Path::new("-") => None,
        Some(_) => manifest.file_name().map(|name| name.to_string_lossy().into_owned()),
    };
    Ok(Identity::Of { manifest, provider })
}
