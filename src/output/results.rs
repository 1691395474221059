//! Where the results of a run go: into its folder, or into a bucket. Whoever works, reports or looks does
//! not know which.

use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use super::blocking::blocking;
use super::bucket::Bucket;
use super::folder::RunFolder;
use super::publish::{self, PublishError, Published, Record};
use super::report::NewReport;
use super::store::StoreError;
use crate::queue::PlannedOutput;

/// Where results go.
#[derive(Debug, Clone)]
pub enum Results {
    /// Beside the queue and the spool, on this machine.
    Folder(RunFolder),
    /// Elsewhere; queue, spool and log stay in a folder of this machine.
    Bucket(Bucket),
}

impl From<RunFolder> for Results {
    fn from(folder: RunFolder) -> Self {
        Self::Folder(folder)
    }
}

/// The folder, or the bucket's address.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.path().display().fmt(f),
            Self::Bucket(bucket) => bucket.url().fmt(f),
        }
    }
}

async fn on_disk<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, PublishError> + Send + 'static,
) -> Result<T, PublishError> {
    blocking(step).await.unwrap_or_else(|panic| Err(PublishError::Task(panic)))
}

impl Results {
    /// The run folder of this machine.
    pub fn folder(&self) -> &RunFolder {
        match self {
            Self::Folder(folder) => folder,
            Self::Bucket(bucket) => bucket.folder(),
        }
    }

    /// Whether several workers see the same place, whatever machine they are on.
    pub const fn are_shared(&self) -> bool {
        matches!(self, Self::Bucket(_))
    }

    /// Whether results can be put there at all.
    pub async fn check(&self) -> Result<(), PublishError> {
        match self {
            Self::Folder(folder) => publish::check_images(&folder.images(), &folder.spool()),
            Self::Bucket(bucket) => Ok(bucket.check().await?),
        }
    }

    /// Takes the files of an answer, which lie in the spool of this machine, to where whoever takes over from
    /// it finds them. After that they may be settled.
    pub async fn stage(&self, files: &[PlannedOutput]) -> Result<(), PublishError> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Bucket(bucket) => Ok(bucket.stage(files).await?),
        }
    }

    /// As [`Results::stage`] for files that are planned and may not have been taken there when they were made;
    /// by their names in the spool.
    pub async fn stage_late(&self, spooled: Vec<String>) -> Result<(), PublishError> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Bucket(bucket) => Ok(bucket.stage_late(&spooled).await?),
        }
    }

    /// Puts a planned file under `images/name`, durable. What stands there already is left alone, unless it has
    /// the content of the planned file or that of `ours`, a file that this one replaces.
    pub async fn publish(
        &self,
        planned: &PlannedOutput,
        name: &str,
        ours: Option<Record>,
    ) -> Result<Published, PublishError> {
        match self {
            Self::Folder(folder) => {
                let (spooled, images) = (folder.spool().join(&planned.spool), folder.images());
                let (name, content) = (name.to_owned(), (planned.bytes, planned.digest));
                on_disk(move || publish::publish(&spooled, &images, &name, content, ours)).await
            }
            Self::Bucket(bucket) => bucket.publish(planned, name, ours).await,
        }
    }

    /// Removes files of an earlier revision, each if it is still as it was published.
    pub async fn remove_replaced(&self, old: Vec<(String, Record)>) -> Result<(), PublishError> {
        match self {
            Self::Folder(folder) => {
                let images = folder.images();
                let remove = move || {
                    old.iter().try_for_each(|(name, record)| publish::remove_replaced(&images, name, *record))
                };
                on_disk(remove).await
            }
            Self::Bucket(bucket) => {
                for (name, record) in &old {
                    bucket.remove_replaced(name, *record).await?;
                }
                Ok(())
            }
        }
    }

    /// Gives a published file another name, unless that is taken; done already when the file has it.
    pub async fn rename(&self, names: (&str, &str), record: Record) -> Result<Published, PublishError> {
        match self {
            Self::Folder(folder) => {
                let (images, from, to) = (folder.images(), names.0.to_owned(), names.1.to_owned());
                on_disk(move || publish::rename_published(&images, &from, &to, record)).await
            }
            Self::Bucket(bucket) => bucket.rename(names, record).await,
        }
    }

    /// Whether a renaming that was begun has come to its end.
    pub async fn is_renamed(&self, names: (&str, &str), record: Record) -> Result<bool, PublishError> {
        match self {
            Self::Folder(folder) => {
                let (old, new) = (folder.images().join(names.0), folder.images().join(names.1));
                let is_gone = move || std::fs::symlink_metadata(old).is_err();
                on_disk(move || Ok(is_gone() && publish::matches_record(&new, record)?)).await
            }
            Self::Bucket(bucket) => Ok(bucket.is_renamed(names, record).await?),
        }
    }

    /// Which of these results are not there, in their order.
    pub async fn are_gone(&self, names: Vec<String>) -> Result<Vec<bool>, PublishError> {
        match self {
            Self::Folder(folder) => {
                let images = folder.images();
                let is_gone = move |name: &String| {
                    !std::fs::symlink_metadata(images.join(name)).is_ok_and(|file| file.is_file())
                };
                on_disk(move || Ok(names.iter().map(is_gone).collect())).await
            }
            Self::Bucket(bucket) => Ok(bucket.are_gone(&names).await?),
        }
    }

    /// Whether there is any result.
    pub async fn hold_images(&self) -> Result<bool, PublishError> {
        match self {
            Self::Folder(folder) => {
                let images = folder.images();
                on_disk(move || {
                    Ok(std::fs::read_dir(images).is_ok_and(|mut entries| entries.next().is_some()))
                })
                .await
            }
            Self::Bucket(bucket) => Ok(bucket.holds_images().await?),
        }
    }

    /// Begins a report, which stands under its name once it is finished.
    pub async fn report(&self, name: &'static str) -> Result<NewReport, PublishError> {
        match self {
            Self::Folder(folder) => NewReport::in_folder(folder.path(), name).await,
            Self::Bucket(bucket) => Ok(NewReport::in_bucket(bucket.report(name)?)),
        }
    }

    /// The last bytes of a report; `None` where there is none.
    pub async fn end_of_report(
        &self,
        name: &'static str,
        bytes: u64,
    ) -> Result<Option<Vec<u8>>, PublishError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.path().join(name);
                on_disk(move || match tail(&path, bytes) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(PublishError::Io { what: "read", path, source }),
                    Ok(tail) => Ok(Some(tail)),
                })
                .await
            }
            Self::Bucket(bucket) => Ok(bucket.tail(name, bytes).await?),
        }
    }

    /// Waits until no other process writes reports here; the turn ends when the value is dropped. Where a
    /// folder cannot be locked (a network file system), and in a bucket, everyone goes at once.
    pub async fn take_turn(&self) -> Option<File> {
        let Self::Folder(folder) = self else { return None };
        let folder = folder.path().to_owned();
        let lock = move || {
            let file = File::open(folder).ok()?;
            file.lock().ok().map(|()| file)
        };
        tokio::task::spawn_blocking(lock).await.ok().flatten()
    }

    /// Removes what the worker with this token left where other machines see it. Call it when nothing of that
    /// is planned.
    pub async fn discard(&self, token: &str) -> Result<(), StoreError> {
        match self {
            Self::Folder(_) => Ok(()),
            Self::Bucket(bucket) => bucket.discard(token).await,
        }
    }

    /// The workers of whom something is left where other machines see it, by their tokens.
    pub async fn tokens(&self) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Folder(_) => Ok(Vec::new()),
            Self::Bucket(bucket) => bucket.tokens().await,
        }
    }
}

fn tail(path: &std::path::Path, bytes: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(bytes).read_to_end(&mut tail)?;
    Ok(tail)
}
