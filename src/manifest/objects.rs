//! What is read from object storage: reference images, and manifests themselves. Who speaks to the stores
//! is in a floor below; here is what this one and those that send references ask of it.

use std::fmt::Debug;
use std::io::{self, Read};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::runtime::Handle;

use crate::job::{Digest, ObjectUrl};

/// Objects, by their addresses.
#[async_trait]
pub trait Objects: Debug + Send + Sync {
    /// What tells a changed object from the same one.
    async fn stamp(&self, url: &ObjectUrl) -> Result<ObjectStamp, ObjectError>;

    /// The bytes of an object, if it is still the one of this stamp.
    async fn read(&self, url: &ObjectUrl, stamp: &ObjectStamp) -> Result<ObjectBytes, ObjectError>;
}

/// The bytes of an object, block by block.
pub type ObjectBytes = BoxStream<'static, Result<Bytes, ObjectError>>;

/// An object as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStamp {
    /// Its size.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// The store's own mark, where it gives one.
    pub tag: Option<String>,
}

impl ObjectStamp {
    /// The mark as the number that files have.
    pub(super) fn number(&self) -> u64 {
        let tag = Digest::of(self.tag.as_deref().unwrap_or_default().as_bytes()).to_string();
        // 63 bits, which every database takes.
        tag.get(..15).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
    }
}

/// Why an object cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObjectError {
    /// It is not there, or may not be read.
    #[error("{0}")]
    Unreadable(String),
    /// It is another one by now.
    #[error("it changed while it was read; try again when it is complete")]
    Changed,
    /// The store cannot be reached, or failed again and again: nothing is said about the object.
    #[error("{0}")]
    Away(String),
}

/// Objects for who may block, on a thread that the runtime has for that.
#[derive(Debug, Clone)]
pub struct BlockingObjects {
    objects: Arc<dyn Objects>,
    runtime: Handle,
}

impl BlockingObjects {
    /// To be made in a runtime.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects, runtime: Handle::current() }
    }

    /// See [`Objects::stamp`].
    pub fn stamp(&self, url: &ObjectUrl) -> Result<ObjectStamp, ObjectError> {
        self.runtime.block_on(self.objects.stamp(url))
    }

    /// See [`Objects::read`].
    pub fn read(&self, url: &ObjectUrl, stamp: &ObjectStamp) -> Result<ObjectReader, ObjectError> {
        let blocks = self.runtime.block_on(self.objects.read(url, stamp))?;
        Ok(ObjectReader { blocks, runtime: self.runtime.clone(), block: Bytes::new() })
    }
}

/// An object that is being read.
pub struct ObjectReader {
    blocks: ObjectBytes,
    runtime: Handle,
    block: Bytes,
}

impl Read for ObjectReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            match self.runtime.block_on(self.blocks.next()) {
                Some(block) => self.block = block.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let read = into.len().min(self.block.len());
        self.block.split_to(read).copy_to_slice(into.get_mut(..read).unwrap_or_default());
        Ok(read)
    }
}
