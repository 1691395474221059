//! Whether a bucket can hold results, found out by doing once what a run does all the time, before
//! anything is paid: write, copy to where nothing is, be refused where something is, read, delete.

use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use rand::RngExt as _;

use super::super::store::Trouble;
use super::{Bucket, StoreError};

/// How its folder in the spool is called.
pub(super) const PROBE: &str = "probe-";
/// A probe takes seconds: what is left of one after so long belongs to a process that died over it.
const PROBE_AGE_MAX: Duration = Duration::from_secs(3_600);

const CONTENT: &[u8] = b"nightpress looks whether this bucket can hold results";

impl Bucket {
    /// Fails where the bucket is missing, the credentials do not serve, or the store does not keep two writers
    /// of one name apart.
    pub async fn check(&self) -> Result<(), StoreError> {
        let name = format!(".spool/{PROBE}{:016x}", rand::rng().random::<u64>());
        let (from, to) = (self.path(&format!("{name}/a"))?, self.path(&format!("{name}/b"))?);
        let written = self.0.brief.put(&from, PutPayload::from_static(CONTENT)).await;
        written.map_err(self.failed("write", &from)).map_err(|error| self.if_missing(error))?;
        let checked = self.try_copies(&from, &to).await;
        for path in [&from, &to] {
            let removed = self.remove(path).await;
            // What failed first is what is told.
            if checked.is_ok() {
                removed?;
            }
        }
        if checked.is_ok()
            && let Err(error) = self.sweep_probes().await
        {
            tracing::warn!(error = error.to_string(), "what is left of old probes was not removed");
        }
        checked
    }

    async fn sweep_probes(&self) -> Result<(), StoreError> {
        for folder in self.in_spool().await?.iter().filter(|folder| folder.starts_with(PROBE)) {
            self.discard_older(folder, PROBE_AGE_MAX).await?;
        }
        Ok(())
    }

    async fn try_copies(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        let store = &self.0.brief;
        match store.copy_if_not_exists(from, to).await.map_err(self.failed("copy to", to)) {
            Ok(()) => {}
            Err(StoreError::Failed { trouble: Trouble::Unsupported, why, .. }) => {
                return Err(
                    self.no_conditions(format!("it cannot copy to a name only if nothing has it ({why})"))
                );
            }
            Err(error) => return Err(error),
        }
        match store.copy_if_not_exists(from, to).await.map_err(self.failed("copy to", to)) {
            Err(error) if error.trouble() == Some(Trouble::Taken) => {}
            Ok(()) => {
                let why = "a copy that was to be made only if nothing has the name replaced what had it";
                return Err(self.no_conditions(why.to_owned()));
            }
            Err(error) => return Err(error),
        }
        let read = async { store.get(to).await?.bytes().await };
        if read.await.map_err(self.failed("read", to))? == CONTENT {
            return Ok(());
        }
        Err(self.no_conditions("what was written is not what is read".to_owned()))
    }

    fn no_conditions(&self, why: String) -> StoreError {
        StoreError::NoConditions { url: self.0.url.to_string(), why }
    }

    /// Writing where no object is fails with "not found" for one reason only.
    fn if_missing(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Failed { trouble: Trouble::NotThere, why, .. } => StoreError::Setup {
                url: self.0.url.to_string(),
                why: format!("there is no bucket `{}` ({why})", self.0.url.bucket()),
            },
            error => error,
        }
    }
}
