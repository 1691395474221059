//! What dead workers left in the bucket's spool.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt as _};

use super::super::store::Trouble;
use super::probe::PROBE;
use super::{Bucket, LOOKS_AT_ONCE, StoreError};
use crate::job::{Clock as _, StoreKind, SystemClock, Timestamp};

impl Bucket {
    /// The workers of whom something is in the spool, by their tokens.
    pub async fn tokens(&self) -> Result<Vec<String>, StoreError> {
        let mut tokens = self.in_spool().await?;
        tokens.retain(|token| !token.starts_with(PROBE));
        Ok(tokens)
    }

    /// The folders in the spool.
    pub(super) async fn in_spool(&self) -> Result<Vec<String>, StoreError> {
        let spool = self.path(".spool")?;
        let found =
            self.0.brief.list_with_delimiter(Some(&spool)).await.map_err(self.failed("list", &spool))?;
        let tokens = found.common_prefixes.iter().filter_map(Path::filename);
        Ok(tokens.map(str::to_owned).collect())
    }

    /// Removes all that is in the spool of the worker with this token.
    pub async fn discard(&self, token: &str) -> Result<(), StoreError> {
        self.discard_older(token, Duration::ZERO).await
    }

    /// Removes what has been in a folder of the spool for that long.
    pub(super) async fn discard_older(&self, folder: &str, age: Duration) -> Result<(), StoreError> {
        let spool = self.staged(folder)?;
        let now = SystemClock.now();
        let left = self.0.brief.list(Some(&spool)).map_err(self.failed_again("list", &spool));
        let remove = async |object: ObjectMeta| {
            let written = Timestamp::from_ms(object.last_modified.timestamp_millis());
            if now.since(written) >= age { self.remove(&object.location).await } else { Ok(()) }
        };
        left.try_for_each_concurrent(LOOKS_AT_ONCE, remove).await?;
        if self.url().kind() == StoreKind::File {
            remove_folder(&spool).await;
        }
        Ok(())
    }

    /// Deletes what nobody wants any more, or finds that it is gone. Nobody waits long for that.
    pub(super) async fn remove(&self, path: &Path) -> Result<(), StoreError> {
        unless_gone(self.0.brief.delete(path).await.map_err(self.failed("delete", path)))
    }

    /// Deletes an object, or finds that it is gone.
    pub(super) async fn delete(&self, path: &Path) -> Result<(), StoreError> {
        unless_gone(self.store().delete(path).await.map_err(self.failed("delete", path)))
    }

    fn failed_again(
        &self,
        what: &'static str,
        path: &Path,
    ) -> impl Fn(object_store::Error) -> StoreError + use<> {
        let (bucket, path) = (self.clone(), path.clone());
        move |error| bucket.failed(what, &path)(error)
    }
}

/// On a disk a folder stays when all in it is gone. Removing it is not worth an error: the next sweep tries again.
async fn remove_folder(path: &Path) {
    if let Ok(folder) = LocalFileSystem::new().path_to_filesystem(path)
        && let Err(error) = tokio::fs::remove_dir(&folder).await
        && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty)
    {
        tracing::warn!(%error, folder = %folder.display(), "left in the spool");
    }
}

fn unless_gone(deleted: Result<(), StoreError>) -> Result<(), StoreError> {
    match deleted {
        Err(error) if error.trouble() != Some(Trouble::NotThere) => Err(error),
        _ => Ok(()),
    }
}
