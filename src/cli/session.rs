//! What every command starts from: the terminal, the clock, the configuration, and a queue.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::args::{FolderArgs, QueueOptions};
use super::config::Config;
use super::folder;
use super::terminal::Terminal;
use crate::job::{Clock, Provider, SystemClock};
use crate::output::RunFolder;
use crate::queue::sqlite::{Access, Identity, OpenOptions, SqliteQueue, Synchronous};
use crate::queue::{Queue, QueueError};

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

    /// The folder and the queue of a command without a manifest.
    pub(super) async fn existing(
        &self,
        args: &FolderArgs,
        options: &QueueOptions,
        access: Access,
    ) -> Result<(RunFolder, Arc<dyn Queue>)> {
        options.clone().or(self.config()?.options.queue).check()?;
        let folder = folder::of_run(args.output.as_deref(), &self.current)?;
        let queue = self.open(&folder, access, Identity::AsItIs).await?;
        Ok((folder, queue))
    }

    /// Opens the queue of a run folder.
    pub(super) async fn open(
        &self,
        folder: &RunFolder,
        access: Access,
        identity: Identity,
    ) -> Result<Arc<dyn Queue>> {
        Ok(Arc::new(SqliteQueue::open(self.options(folder, access, identity)).await?))
    }

    /// Whom a run folder's queue is for.
    pub(super) async fn provider_of(&self, folder: &RunFolder) -> Result<Provider> {
        let queue = self.open(folder, Access::ReadOnly, Identity::AsItIs).await?;
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

    /// The queue of a manifest's folder if there is one, else an empty one that leaves nothing.
    pub(super) async fn compare_with(
        &self,
        folder: &RunFolder,
        manifest: &Path,
        provider: Provider,
    ) -> Result<Arc<dyn Queue>> {
        match self.open_if_made(folder, identity(folder, manifest, provider)?).await? {
            Some(queue) => Ok(queue),
            None => Ok(Arc::new(SqliteQueue::in_memory(provider, Arc::clone(&self.clock)).await?)),
        }
    }

    /// The queue of a folder, to read only; `None` when there is none, or when it is being made or
    /// its maker died over that.
    pub(super) async fn open_if_made(
        &self,
        folder: &RunFolder,
        whose: Identity,
    ) -> Result<Option<Arc<dyn Queue>>> {
        match SqliteQueue::open(self.options(folder, Access::ReadOnly, whose)).await {
            Ok(queue) => Ok(Some(Arc::new(queue))),
            Err(QueueError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whose queue a manifest's folder must hold.
pub(super) fn identity(folder: &RunFolder, manifest: &Path, provider: Provider) -> Result<Identity> {
    Ok(Identity::Of { manifest: folder::manifest_name(manifest, folder)?, provider })
}
