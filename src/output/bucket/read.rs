//! What stands in the bucket.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};

use super::super::publish::Record;
use super::super::store::Trouble;
use super::{Bucket, LOOKS_AT_ONCE, StoreError};
use crate::job::Digest;

/// `None` where there is no such object.
fn unless_absent<T>(looked: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.trouble() == Some(Trouble::NotThere) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Bucket {
    /// The size of an object; `None` where there is none.
    pub(super) async fn size(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        let looked = self.store().head(path).await.map_err(self.failed("look at", path));
        Ok(unless_absent(looked)?.map(|found| found.size))
    }

    /// Whether an object of this size and digest is there. Its bytes are only read where the size is right.
    pub(super) async fn matches(&self, path: &Path, (bytes, digest): Record) -> Result<bool, StoreError> {
        if self.size(path).await? != Some(bytes) {
            return Ok(false);
        }
        let failed = || self.failed("read", path);
        let Some(found) = unless_absent(self.store().get(path).await.map_err(failed()))? else {
            return Ok(false);
        };
        let mut hasher = Sha256::new();
        let mut blocks = found.into_stream();
        while let Some(block) = blocks.try_next().await.map_err(failed())? {
            hasher.update(&block);
        }
        Ok(Digest::from_bytes(hasher.finalize().into()) == digest)
    }

    /// Which of these results are not there.
    pub async fn are_gone(&self, names: &[String]) -> Result<Vec<bool>, StoreError> {
        let looks = stream::iter(names.iter().map(|name| async {
            let path = self.image(name)?;
            Ok(self.size(&path).await?.is_none())
        }));
        looks.buffered(LOOKS_AT_ONCE).try_collect().await
    }

    /// Whether there is any result.
    pub async fn holds_images(&self) -> Result<bool, StoreError> {
        let path = self.path("images")?;
        let first = self.store().list(Some(&path)).next().await.transpose();
        Ok(first.map_err(self.failed("list", &path))?.is_some())
    }

    /// The last bytes of what has this name; `None` where there is nothing.
    pub async fn tail(&self, name: &str, bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(name)?;
        if self.size(&path).await?.unwrap_or(0) == 0 {
            return Ok(None);
        }
        let options = GetOptions::new().with_range(Some(GetRange::Suffix(bytes)));
        let failed = || self.failed("read", &path);
        let got = unless_absent(self.store().get_opts(&path, options).await.map_err(failed()))?;
        let Some(found) = got else { return Ok(None) };
        Ok(Some(found.bytes().await.map_err(failed())?.to_vec()))
    }
}
