//! What dead workers left in the bucket's spool.

use futures_util::TryStreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::super::store::Trouble;
use super::{Bucket, LOOKS_AT_ONCE, StoreError};

impl Bucket {
    /// The workers of whom something is in the spool, by their tokens.
    pub async fn tokens(&self) -> Result<Vec<String>, StoreError> {
        let spool = self.path(".spool")?;
        let found =
            self.0.brief.list_with_delimiter(Some(&spool)).await.map_err(self.failed("list", &spool))?;
        let tokens = found.common_prefixes.iter().filter_map(Path::filename);
        Ok(tokens.map(str::to_owned).collect())
    }

    /// Removes all that is in the spool of the worker with this token.
    pub async fn discard(&self, token: &str) -> Result<(), StoreError> {
        let spool = self.staged(token)?;
        let left = self.0.brief.list(Some(&spool)).map_err(self.failed_again("list", &spool));
        left.try_for_each_concurrent(LOOKS_AT_ONCE, async |object| self.remove(&object.location).await).await
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

fn unless_gone(deleted: Result<(), StoreError>) -> Result<(), StoreError> {
    match deleted {
        Err(error) if error.trouble() != Some(Trouble::NotThere) => Err(error),
        _ => Ok(()),
    }
}
