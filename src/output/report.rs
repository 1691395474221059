//! Reports that are there whole or not at all, wherever they go.

use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt as _;

use super::bucket::NewObject;
use super::publish::{PublishError, io_error};
use crate::job::{CrashPoint, crash_point};

/// A report on its way: it gets its name in [`NewReport::finish`].
#[derive(Debug)]
pub struct NewReport(Way);

#[derive(Debug)]
enum Way {
    File { target: PathBuf, temporary: PathBuf, file: tokio::fs::File },
    Object(NewObject),
}

impl NewReport {
    pub(super) async fn in_folder(folder: &Path, name: &str) -> Result<Self, PublishError> {
        let (target, temporary) = (folder.join(name), folder.join(format!(".{name}.tmp")));
        let file = tokio::fs::File::create(&temporary).await.map_err(io_error("create", &temporary))?;
        Ok(Self(Way::File { target, temporary, file }))
    }

    pub(super) const fn in_bucket(object: NewObject) -> Self {
        Self(Way::Object(object))
    }

    /// Adds bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        match &mut self.0 {
            Way::File { temporary, file, .. } => {
                file.write_all(bytes).await.map_err(io_error("write", temporary))
            }
            Way::Object(object) => Ok(object.write(bytes).await?),
        }
    }

    /// Puts the report in the place of the one that stood there.
    pub async fn finish(self) -> Result<(), PublishError> {
        match self.0 {
            Way::File { target, temporary, mut file } => {
                file.flush().await.map_err(io_error("write", &temporary))?;
                // Without this a power failure could leave an empty file under the report's name.
                file.sync_all().await.map_err(io_error("sync", &temporary))?;
                crash_point(CrashPoint::ReportWritten);
                let replaced = tokio::fs::rename(&temporary, &target).await;
                crash_point(CrashPoint::ReportReplaced);
                replaced.map_err(io_error("replace", &target))
            }
            Way::Object(object) => {
                crash_point(CrashPoint::ReportWritten);
                object.finish().await?;
                crash_point(CrashPoint::ReportReplaced);
                Ok(())
            }
        }
    }

    /// Leaves the report that stood there. A temporary file is written over by the next call.
    pub async fn discard(self) {
        if let Way::Object(object) = self.0 {
            object.discard().await;
        }
    }
}
