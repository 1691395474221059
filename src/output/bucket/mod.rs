//! Results in object storage, where workers of many machines put them.
//!
//! An answer lands in the local spool, as everywhere. From there it goes into the *bucket's spool*,
//! `.spool/<worker>/<file>` below the results' address, before it is settled: so whoever takes over from
//! a machine that died finds what was paid for. Publishing is a copy inside the store, to a name that
//! nobody has; then the copy in the spool goes.
//!
//! Read in this order: [`Bucket::check`] in `probe`, `stage`, `place`, `sweep`; `writer` has the uploads
//! and `read` what is looked at.

mod place;
mod probe;
mod read;
mod stage;
mod sweep;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::Semaphore;

use super::RunFolder;
use super::store::{self, Patience, StoreError};
use crate::job::ObjectUrl;

pub use writer::NewObject;

/// Bytes that all uploads of a process hold at once.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What its permits stand for.
const PERMIT_BYTES: usize = 64 * 1024;
/// Requests that only look, or delete, at once.
const LOOKS_AT_ONCE: usize = 16;

/// Where results go, and the local folder that they pass through.
#[derive(Debug, Clone)]
pub struct Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    url: ObjectUrl,
    folder: RunFolder,
    store: Arc<dyn ObjectStore>,
    /// The same, for questions that nobody wants to wait for.
    brief: Arc<dyn ObjectStore>,
    held: Semaphore,
}

impl Bucket {
    /// Results below `url`, for the worker or command that has its queue, spool and log in `folder`. Nothing
    /// is sent.
    pub fn open(url: &ObjectUrl, folder: RunFolder) -> Result<Self, StoreError> {
        let (store, brief) = (store::open(url, Patience::Long)?, store::open(url, Patience::Short)?);
        Ok(Self::on(url.clone(), folder, (store, brief)))
    }

    fn on(
        url: ObjectUrl,
        folder: RunFolder,
        (store, brief): (Arc<dyn ObjectStore>, Arc<dyn ObjectStore>),
    ) -> Self {
        let held = Semaphore::new(HELD_BYTES_MAX / PERMIT_BYTES);
        Self(Arc::new(Inner { url, folder, store, brief, held }))
    }

    /// Its address.
    pub fn url(&self) -> &ObjectUrl {
        &self.0.url
    }

    /// The local folder.
    pub fn folder(&self) -> &RunFolder {
        &self.0.folder
    }

    fn store(&self) -> &dyn ObjectStore {
        self.0.store.as_ref()
    }

    /// The path of what has this name below the results' address.
    fn path(&self, name: &str) -> Result<Path, StoreError> {
        let key = self.0.url.key();
        if key.is_empty() { store::path_of(name) } else { store::path_of(&format!("{key}/{name}")) }
    }

    /// Where the result with this name is, or will be.
    fn image(&self, name: &str) -> Result<Path, StoreError> {
        self.path(&format!("images/{name}"))
    }

    /// Where the planned file with this name waits.
    fn staged(&self, spool: &str) -> Result<Path, StoreError> {
        self.path(&format!(".spool/{spool}"))
    }

    /// Begins a report.
    pub fn report(&self, name: &str) -> Result<NewObject, StoreError> {
        Ok(NewObject::new(self.clone(), self.path(name)?))
    }

    /// A path as a person knows it.
    fn shown(&self, path: &Path) -> String {
        let url = &self.0.url;
        format!("{}{}/{path}", url.kind().scheme(), url.bucket())
    }

    fn failed(
        &self,
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(object_store::Error) -> StoreError + use<> {
        StoreError::of(what, self.shown(path))
    }
}
