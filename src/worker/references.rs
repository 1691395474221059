//! Whether a job's reference images are still what they were when the manifest was read. A
//! changed one must not be sent: the job would be paid for a picture that nobody described.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};

use crate::job::{Digest, ObjectUrl, Reference, Spec};
use crate::manifest::{DigestCache, ObjectError, ObjectStamp, Objects, ReferenceError};
use crate::output::blocking;

/// Digests of the references of a run, so that one that many jobs share is read once for all.
#[derive(Debug)]
pub(super) struct References {
    files: Arc<Mutex<DigestCache>>,
    objects: Arc<dyn Objects>,
    known: Mutex<HashMap<ObjectUrl, (ObjectStamp, Digest)>>,
}

/// Why a job cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReferenceFault {
    /// Its bytes are others.
    #[error("reference {} changed after the manifest was loaded; run the same command again to take it as it is now", .0.display())]
    Changed(PathBuf),
    /// It cannot be read.
    #[error("reference {} cannot be used any more: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ReferenceError,
    },
    /// The store it is in cannot be reached: the job is not to blame.
    #[error("references cannot be read: {0}")]
    Away(String),
    /// The check itself failed.
    #[error("references could not be checked: {0}")]
    Task(String),
}

impl ReferenceFault {
    /// A short stable word for the ledger.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Changed(_) => "reference_changed",
            Self::Unusable { .. } => "reference_unusable",
            Self::Away(_) => "reference_away",
            Self::Task(_) => "reference_unchecked",
        }
    }
}

impl References {
    /// Nothing is known yet.
    pub(super) fn new(objects: Arc<dyn Objects>) -> Self {
        Self { files: Arc::default(), objects, known: Mutex::default() }
    }

    /// Checks all references of `spec`. One is read only when its size, time or inode changed; in object
    /// storage, its size, time or mark.
    pub(super) async fn unchanged(&self, spec: &Spec) -> Result<(), ReferenceFault> {
        let mut files = Vec::new();
        for reference in &spec.references {
            match reference.object() {
                None => files.push(reference.clone()),
                Some(url) => self.object_unchanged(&url, reference).await?,
            }
        }
        if files.is_empty() { Ok(()) } else { self.files_unchanged(files).await }
    }

    async fn files_unchanged(&self, wanted: Vec<Reference>) -> Result<(), ReferenceFault> {
        let cache = Arc::clone(&self.files);
        let check = move || {
            let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
            for reference in wanted {
                let found = cache
                    .probe_again(&reference.path, u64::MAX)
                    .map_err(|source| ReferenceFault::Unusable { path: reference.path.clone(), source })?;
                if found.digest != reference.digest {
                    return Err(ReferenceFault::Changed(reference.path));
                }
            }
            Ok(())
        };
        blocking(check).await.unwrap_or_else(|panic| Err(ReferenceFault::Task(panic)))
    }

    async fn object_unchanged(&self, url: &ObjectUrl, wanted: &Reference) -> Result<(), ReferenceFault> {
        let found = self.object_digest(url).await;
        let digest = found.map_err(|error| match error {
            ObjectError::Away(why) => ReferenceFault::Away(why),
            error => ReferenceFault::Unusable { path: wanted.path.clone(), source: error.into() },
        })?;
        if digest == wanted.digest { Ok(()) } else { Err(ReferenceFault::Changed(wanted.path.clone())) }
    }

    async fn object_digest(&self, url: &ObjectUrl) -> Result<Digest, ObjectError> {
        let stamp = self.objects.stamp(url).await?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(url).cloned();
        if let Some((_, digest)) = known.filter(|(known, _)| *known == stamp) {
            return Ok(digest);
        }
        let mut hasher = Sha256::new();
        let mut blocks = self.objects.read(url, &stamp).await?;
        while let Some(block) = blocks.try_next().await? {
            hasher.update(&block);
        }
        let digest = Digest::from_bytes(hasher.finalize().into());
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(url.clone(), (stamp, digest));
        Ok(digest)
    }
}
