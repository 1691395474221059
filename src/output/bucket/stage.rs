//! Into the bucket's spool, before anything is settled.

use super::{Bucket, StoreError};
use crate::queue::PlannedOutput;

impl Bucket {
    /// Puts the files of an answer into the bucket's spool. What was there under these names, which belong to
    /// one worker and one attempt, is replaced.
    pub async fn stage(&self, files: &[PlannedOutput]) -> Result<(), StoreError> {
        for file in files {
            self.upload(&self.0.folder.spool().join(&file.spool), &self.staged(&file.spool)?).await?;
        }
        Ok(())
    }

    /// Puts files into the bucket's spool that are in that of this machine and are missing there.
    pub async fn stage_late(&self, spooled: &[String]) -> Result<(), StoreError> {
        for name in spooled {
            let (path, staged) = (self.0.folder.spool().join(name), self.staged(name)?);
            if path.is_file() && self.size(&staged).await?.is_none() {
                self.upload(&path, &staged).await?;
            }
        }
        Ok(())
    }
}
