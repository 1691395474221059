//! Files that are there whole or not at all.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt as _;

use crate::job::{CrashPoint, crash_point};
use crate::queue::QueueError;

/// What can go wrong while reports are written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The queue could not be read.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The disk said no.
    #[error("cannot {what} {path}: {source}; when that is mended, `nightpress report` writes the reports")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A row could not be put into its format. Cannot happen as long as all rows have as many
    /// cells as the header.
    #[error("cannot format a row of {path}: {source}; this is a bug in nightpress")]
    Format {
        /// The report.
        path: PathBuf,
        /// Why not.
        source: csv::Error,
    },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReportError {
    let path = path.to_owned();
    move |source| ReportError::Io { what, path, source }
}

/// A file on its way: it gets its name in [`Pending::finish`].
#[derive(Debug)]
pub(super) struct Pending {
    target: PathBuf,
    temporary: PathBuf,
    file: tokio::fs::File,
}

impl Pending {
    /// Begins a file that will stand at `target`.
    pub(super) async fn create(target: &Path) -> Result<Self, ReportError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let temporary = target.with_file_name(format!(".{name}.tmp"));
        let file = tokio::fs::File::create(&temporary).await.map_err(io_error("create", &temporary))?;
        Ok(Self { target: target.to_owned(), temporary, file })
    }

    /// Adds rows, each a list of cells.
    pub(super) async fn rows<R>(&mut self, rows: impl IntoIterator<Item = R>) -> Result<(), ReportError>
    where
        R: IntoIterator,
        R::Item: AsRef<[u8]>,
    {
        let format = |source| ReportError::Format { path: self.target.clone(), source };
        let mut page = csv::Writer::from_writer(Vec::new());
        for row in rows {
            page.write_record(row).map_err(format)?;
        }
        let page = page.into_inner().map_err(|error| format(error.into_error().into()))?;
        self.bytes(&page).await
    }

    /// Adds bytes.
    pub(super) async fn bytes(&mut self, bytes: &[u8]) -> Result<(), ReportError> {
        self.file.write_all(bytes).await.map_err(io_error("write", &self.temporary))
    }

    /// Puts the file in place of the one that stood there.
    pub(super) async fn finish(mut self) -> Result<(), ReportError> {
        self.file.flush().await.map_err(io_error("write", &self.temporary))?;
        // Without this a power failure could leave an empty file under the report's name.
        self.file.sync_all().await.map_err(io_error("sync", &self.temporary))?;
        crash_point(CrashPoint::ReportWritten);
        let replaced = tokio::fs::rename(&self.temporary, &self.target).await;
        crash_point(CrashPoint::ReportReplaced);
        replaced.map_err(io_error("replace", &self.target))
    }
}

/// Writes a small file in one go.
pub(super) async fn write_whole(target: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let mut file = Pending::create(target).await?;
    file.bytes(bytes).await?;
    file.finish().await
}

/// Waits until no other process writes reports here; the turn ends when the value is dropped.
/// Where a folder cannot be locked (a network file system), everyone goes at once: the worst that
/// can follow is a report that the next refresh puts right.
pub(super) async fn take_turn(folder: &Path) -> Option<File> {
    let folder = folder.to_owned();
    let locked = tokio::task::spawn_blocking(move || {
        let file = File::open(folder).ok()?;
        file.lock().ok().map(|()| file)
    });
    locked.await.ok().flatten()
}
