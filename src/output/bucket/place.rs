//! From the bucket's spool to a name that nobody has.

use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::super::publish::{PublishError, Published, Record};
use super::super::store::Trouble;
use super::{Bucket, StoreError};
use crate::job::{CrashPoint, crash_point};
use crate::queue::PlannedOutput;

/// How often a copy is tried whose source or target changes meanwhile.
const TRIES_MAX: u32 = 4;

/// What became of a copy that must not replace anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copied {
    Done,
    /// Something stands there already.
    Taken,
    /// There is nothing to copy.
    NoSource,
}

impl Bucket {
    /// Puts a planned file under its name in `images/`.
    ///
    /// What stands there already is left alone, unless it has the content that is to be published (a crash
    /// came between the copy and its record) or that of `ours`, a file that this one replaces.
    pub async fn publish(
        &self,
        planned: &PlannedOutput,
        name: &str,
        ours: Option<Record>,
    ) -> Result<Published, PublishError> {
        let staged = self.staged(&planned.spool)?;
        let placed = self.place(planned, &staged, (&self.image(name)?, ours)).await?;
        if placed == Published::Done {
            crash_point(CrashPoint::Placed);
            self.forget(planned, &staged).await;
        }
        Ok(placed)
    }

    async fn place(
        &self,
        planned: &PlannedOutput,
        staged: &Path,
        (target, ours): (&Path, Option<Record>),
    ) -> Result<Published, PublishError> {
        let content = (planned.bytes, planned.digest);
        for _ in 0..TRIES_MAX {
            crash_point(CrashPoint::BeforeLink);
            match self.copy_if_absent(staged, target).await? {
                Copied::Done => {
                    crash_point(CrashPoint::Linked);
                    return Ok(Published::Done);
                }
                // A crash came between the copy and its record, or the step is run once more.
                Copied::Taken | Copied::NoSource if self.matches(target, content).await? => {
                    return Ok(Published::Done);
                }
                Copied::NoSource => self.stage_own(planned, staged).await?,
                Copied::Taken => {
                    if let Some(placed) = self.place_where_taken(staged, (target, ours)).await? {
                        return Ok(placed);
                    }
                }
            }
        }
        let error = StoreError::Failed {
            what: "publish",
            at: self.shown(target),
            trouble: Trouble::Changed,
            why: "what stands there changed again and again".to_owned(),
        };
        Err(error.into())
    }

    /// Replaces what has the name, if it is ours. `None` when that has changed just now.
    async fn place_where_taken(
        &self,
        staged: &Path,
        (target, ours): (&Path, Option<Record>),
    ) -> Result<Option<Published>, PublishError> {
        if let Some(old) = ours
            && self.matches(target, old).await?
        {
            let is_done = self.replace(staged, target).await? == Copied::Done;
            if is_done {
                crash_point(CrashPoint::Replaced);
            }
            return Ok(is_done.then_some(Published::Done));
        }
        // Or who had the name gave it up at this moment.
        Ok(self.size(target).await?.map(|_| Published::Occupied))
    }

    /// The upload had failed when the answer was settled: its bytes are in the spool of the machine that made
    /// it, which may be this one.
    async fn stage_own(&self, planned: &PlannedOutput, staged: &Path) -> Result<(), PublishError> {
        let path = self.0.folder.spool().join(&planned.spool);
        if path.is_file() {
            return Ok(self.upload(&path, staged).await?);
        }
        if path.parent().is_some_and(std::path::Path::is_dir) {
            return Err(PublishError::Vanished { path });
        }
        Err(PublishError::Elsewhere { staged: self.shown(staged) })
    }

    /// The file has its name: what is left of it elsewhere is of no use. Failing to remove it harms nobody, and
    /// the next sweep tries again.
    async fn forget(&self, planned: &PlannedOutput, staged: &Path) {
        if let Err(error) = self.remove(staged).await {
            tracing::warn!(error = error.to_string(), "left in the bucket's spool");
        }
        let path = self.0.folder.spool().join(&planned.spool);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(error = error.to_string(), path = %path.display(), "left in the spool");
            }
            _ => {}
        }
    }

    /// Copies an object to where there is none. Stores take this for one step.
    pub(super) async fn copy_if_absent(&self, from: &Path, to: &Path) -> Result<Copied, StoreError> {
        self.judged(self.store().copy_if_not_exists(from, to).await, to)
    }

    /// Copies an object over one that is ours.
    async fn replace(&self, from: &Path, to: &Path) -> Result<Copied, StoreError> {
        self.judged(self.store().copy(from, to).await, to)
    }

    fn judged(&self, copied: object_store::Result<()>, to: &Path) -> Result<Copied, StoreError> {
        match copied.map_err(self.failed("publish", to)) {
            Ok(()) => Ok(Copied::Done),
            Err(error) => match error.trouble() {
                Some(Trouble::Taken) => Ok(Copied::Taken),
                Some(Trouble::NotThere) => Ok(Copied::NoSource),
                _ => Err(error),
            },
        }
    }

    /// Removes the file of an earlier revision, if it is still as it was published.
    pub async fn remove_replaced(&self, name: &str, record: Record) -> Result<(), StoreError> {
        let path = self.image(name)?;
        if self.matches(&path, record).await? {
            self.delete(&path).await?;
            crash_point(CrashPoint::ReplacedRemoved);
        }
        Ok(())
    }

    /// Gives a published file another name. `Occupied` when a file that is not it has the new one; done already
    /// when it stands there.
    pub async fn rename(&self, (from, to): (&str, &str), record: Record) -> Result<Published, PublishError> {
        let (old, new) = (self.image(from)?, self.image(to)?);
        match self.copy_if_absent(&old, &new).await? {
            Copied::Done => {}
            // A crash came between the copy and the deletion.
            Copied::Taken if self.matches(&new, record).await? => {}
            Copied::Taken => return Ok(Published::Occupied),
            Copied::NoSource if self.matches(&new, record).await? => return Ok(Published::Done),
            Copied::NoSource => return Err(PublishError::NoSuchResult { name: self.shown(&old) }),
        }
        self.delete(&old).await?;
        Ok(Published::Done)
    }

    /// Whether a renaming that was begun has come to its end.
    pub async fn is_renamed(&self, (from, to): (&str, &str), record: Record) -> Result<bool, StoreError> {
        Ok(self.size(&self.image(from)?).await?.is_none() && self.matches(&self.image(to)?, record).await?)
    }
}
