//! Objects that are there whole or not at all, written in parts so that none is ever held as a whole.

use std::path::Path as LocalPath;

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};

use super::super::blocking::blocking;
use super::{Bucket, HELD_BYTES_MAX, PERMIT_BYTES, StoreError};

/// A part of an upload; above the 5 MiB that S3 takes at least.
pub(super) const PART_BYTES: usize = 8 * 1024 * 1024;

const _: () = assert!(PART_BYTES <= HELD_BYTES_MAX, "no upload would ever begin");

/// An object on its way: it is there when [`NewObject::finish`] has returned.
#[derive(Debug)]
pub struct NewObject {
    bucket: Bucket,
    path: Path,
    held: BytesMut,
    parts: Option<Box<dyn MultipartUpload>>,
}

impl NewObject {
    pub(super) fn new(bucket: Bucket, path: Path) -> Self {
        Self { bucket, path, held: BytesMut::new(), parts: None }
    }

    /// Adds bytes. Not cancel-safe: a dropped call leaves a part behind that no object has.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PART_BYTES - self.held.len()));
            self.held.extend_from_slice(now);
            bytes = later;
            if self.held.len() == PART_BYTES {
                let part = std::mem::take(&mut self.held).freeze();
                self.held = self.part(part).await?;
            }
        }
        Ok(())
    }

    /// Sends a part, of which all but the last are of one size, and gives its memory back. What was begun is
    /// given up on an error.
    async fn part(&mut self, bytes: Bytes) -> Result<BytesMut, StoreError> {
        let failed = self.bucket.failed("write", &self.path);
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None => match self.bucket.store().put_multipart(&self.path).await {
                Ok(parts) => parts,
                Err(error) => return Err(failed(error)),
            },
        };
        if let Err(error) = parts.put_part(PutPayload::from(bytes.clone())).await {
            give_up(parts, self.bucket.failed("give up", &self.path)).await;
            return Err(failed(error));
        }
        self.parts = Some(parts);
        let mut spare = bytes.try_into_mut().unwrap_or_default();
        spare.clear();
        Ok(spare)
    }

    /// Makes the object what was written, in place of what stood there.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        let rest = std::mem::take(&mut self.held).freeze();
        if self.parts.is_none() {
            let put = self.bucket.store().put(&self.path, PutPayload::from(rest)).await;
            return put.map(drop).map_err(self.bucket.failed("write", &self.path));
        }
        if !rest.is_empty() {
            self.part(rest).await?;
        }
        let Some(mut parts) = self.parts.take() else { return Ok(()) };
        if let Err(error) = parts.complete().await {
            give_up(parts, self.bucket.failed("give up", &self.path)).await;
            return Err(self.bucket.failed("write", &self.path)(error));
        }
        Ok(())
    }

    /// Leaves what stood there, and takes back what was sent.
    pub async fn discard(mut self) {
        if let Some(parts) = self.parts.take() {
            give_up(parts, self.bucket.failed("give up", &self.path)).await;
        }
    }
}

/// Takes back what was sent. Parts that stay cost room until the store's own rule removes them.
async fn give_up(
    mut parts: Box<dyn MultipartUpload>,
    failed: impl FnOnce(object_store::Error) -> StoreError,
) {
    if let Err(error) = parts.abort().await.map_err(failed) {
        tracing::warn!(error = error.to_string(), "an upload may have left parts behind");
    }
}

impl Bucket {
    /// Copies a file of this machine into the store, read in blocks off the async threads.
    pub(super) async fn upload(&self, from: &LocalPath, to: &Path) -> Result<(), StoreError> {
        let mut source = Source::open(from).await?;
        let permits = source.bytes.min(PART_BYTES as u64).div_ceil(PERMIT_BYTES as u64).max(1);
        // Never closed, so there is always a turn.
        let _turn = self.0.held.acquire_many(u32::try_from(permits).unwrap_or(u32::MAX)).await.ok();
        let mut object = NewObject::new(self.clone(), to.clone());
        let mut spare = BytesMut::new();
        loop {
            let (block, rest) = match source.next(spare).await {
                Ok(read) => read,
                Err(error) => {
                    object.discard().await;
                    return Err(error);
                }
            };
            let Some(rest) = rest else {
                object.held = block;
                return object.finish().await;
            };
            source = rest;
            spare = object.part(block.freeze()).await?;
        }
    }
}

/// A file that is being read.
struct Source {
    file: std::fs::File,
    path: std::path::PathBuf,
    bytes: u64,
    left: u64,
}

impl Source {
    async fn open(path: &LocalPath) -> Result<Self, StoreError> {
        let path = path.to_owned();
        off_thread(path.clone(), move || {
            let file = std::fs::File::open(&path)?;
            let bytes = file.metadata()?.len();
            Ok(Self { file, path, bytes, left: bytes })
        })
        .await
    }

    /// The next block, in this memory, and the rest of the file if there is one.
    async fn next(mut self, mut block: BytesMut) -> Result<(BytesMut, Option<Self>), StoreError> {
        off_thread(self.path.clone(), move || {
            use std::io::Read as _;
            let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(PART_BYTES);
            block.resize(wanted, 0);
            self.file.read_exact(&mut block)?;
            self.left -= wanted as u64;
            Ok((block, Some(self).filter(|rest| rest.left > 0)))
        })
        .await
    }
}

async fn off_thread<T: Send + 'static>(
    path: std::path::PathBuf,
    step: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let done = blocking(step).await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    done.map_err(|source| StoreError::Local { what: "read", path, source })
}
