//! Whether a job's reference images are still what they were when the manifest was read. A
//! changed one must not be sent: the job would be paid for a picture that nobody described.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::job::Spec;
use crate::manifest::{DigestCache, ReferenceError};
use crate::output::blocking;

/// Digests of the references of a run, so that one that many jobs share is read once for all.
pub(super) type References = Arc<Mutex<DigestCache>>;

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
            Self::Task(_) => "reference_unchecked",
        }
    }
}

/// Checks all references of `spec`. A file is read only when its size, time or inode changed.
pub(super) async fn unchanged(references: &References, spec: &Spec) -> Result<(), ReferenceFault> {
    if spec.references.is_empty() {
        return Ok(());
    }
    let (cache, wanted) = (Arc::clone(references), spec.references.clone());
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
