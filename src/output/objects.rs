//! What is read from object storage: references and manifests, by their addresses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::{GetOptions, ObjectStore, ObjectStoreExt as _};

use super::store::{self, Patience, StoreError, Trouble};
use crate::job::{ObjectUrl, StoreKind};
use crate::manifest::{ObjectBytes, ObjectError, ObjectStamp, Objects};

/// Reads from all stores that the environment has credentials for. Each bucket is opened once.
#[derive(Debug)]
pub struct Buckets {
    patience: Patience,
    opened: Mutex<HashMap<(StoreKind, String), Arc<dyn ObjectStore>>>,
}

impl Buckets {
    /// For a person who waits: a store that cannot be reached is given up after some seconds.
    #[must_use]
    pub fn brief() -> Self {
        Self { patience: Patience::Short, opened: Mutex::default() }
    }

    /// For work that goes on over night.
    #[must_use]
    pub fn patient() -> Self {
        Self { patience: Patience::Long, opened: Mutex::default() }
    }

    fn store(&self, url: &ObjectUrl) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (url.kind(), url.bucket().to_owned());
        if let Some(store) = opened.get(&key) {
            return Ok(Arc::clone(store));
        }
        let store = store::open(url, self.patience)?;
        opened.insert(key, Arc::clone(&store));
        Ok(store)
    }
}

impl From<StoreError> for ObjectError {
    fn from(error: StoreError) -> Self {
        match error.trouble() {
            Some(Trouble::Away | Trouble::NoCredentials) => Self::Away(error.to_string()),
            Some(Trouble::Changed) => Self::Changed,
            _ => Self::Unreadable(error.to_string()),
        }
    }
}

#[async_trait]
impl Objects for Buckets {
    async fn stamp(&self, url: &ObjectUrl) -> Result<ObjectStamp, ObjectError> {
        let (store, path) = (self.store(url)?, store::path_of(url.key())?);
        let found = store.head(&path).await.map_err(StoreError::of("look at", url.to_string()))?;
        Ok(ObjectStamp {
            bytes: found.size,
            modified_ns: found.last_modified.timestamp_nanos_opt().unwrap_or(0),
            tag: found.e_tag,
        })
    }

    async fn read(&self, url: &ObjectUrl, stamp: &ObjectStamp) -> Result<ObjectBytes, ObjectError> {
        let (store, path) = (self.store(url)?, store::path_of(url.key())?);
        let options = GetOptions::new().with_if_match(stamp.tag.clone());
        let at = url.to_string();
        let found = store.get_opts(&path, options).await.map_err(StoreError::of("read", at.clone()))?;
        let blocks = found.into_stream();
        Ok(blocks.map_err(move |error| StoreError::of("read", at.clone())(error).into()).boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Digest;
    use crate::manifest::{BlockingObjects, DigestCache, ReferenceError};

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

    #[tokio::test]
    async fn an_object_is_read_as_it_was_looked_at_or_not_at_all() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("a b#c.png"), PNG).expect("writes");
        let url: ObjectUrl =
            format!("file://{}/a b#c.png", dir.path().display()).parse().expect("an address");
        let objects = Buckets::brief();
        let stamp = objects.stamp(&url).await.expect("there");
        assert_eq!(stamp.bytes, PNG.len() as u64);
        let blocks: Vec<_> =
            objects.read(&url, &stamp).await.expect("there").try_collect().await.expect("reads");
        assert_eq!(blocks.concat(), PNG);
        std::fs::write(dir.path().join("a b#c.png"), b"another").expect("writes");
        assert!(matches!(objects.read(&url, &stamp).await, Err(ObjectError::Changed)));
        std::fs::remove_file(dir.path().join("a b#c.png")).expect("removes");
        assert!(matches!(objects.stamp(&url).await, Err(ObjectError::Unreadable(_))));
    }

    #[tokio::test]
    async fn a_reference_in_object_storage_is_digested_once_while_it_stays_the_same() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = dir.path().join("a.png");
        std::fs::write(&file, PNG).expect("writes");
        let path = std::path::PathBuf::from(format!("file://{}", file.display()));
        let objects = BlockingObjects::new(Arc::new(Buckets::brief()));
        let probed = tokio::task::spawn_blocking(move || {
            let mut cache = DigestCache::default().with_objects(objects);
            let first = cache.probe(&path, 1 << 20).expect("a picture");
            assert_eq!((first.digest, first.bytes, &first.path), (Digest::of(PNG), PNG.len() as u64, &path));
            assert!(first.object().is_some());
            let kept: Vec<_> = cache.entries().cloned().collect();
            std::fs::write(&file, [PNG, b"more"].concat()).expect("writes");
            assert_eq!(cache.probe(&path, 1 << 20).expect("known").digest, first.digest);
            assert_ne!(cache.probe_again(&path, 1 << 20).expect("read").digest, first.digest);
            let large = cache.probe_again(&path, 3).map(drop);
            let unknown = DigestCache::from_entries(kept).probe(&path, 1 << 20).map(drop);
            (large, unknown)
        });
        let (large, unknown) = probed.await.expect("joins");
        assert!(matches!(unknown, Err(ReferenceError::NoObjects)), "{unknown:?}");
        assert!(large.is_ok(), "its size was checked when it was read");
    }
}
