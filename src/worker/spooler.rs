//! Takes the images of one answer to disk. The decoder hands over small blocks in memory;
//! they are written, digested and checked in large ones, off the async threads.

use std::sync::Arc;

use super::WorkError;
use super::blocking::blocking;
use crate::gemini::answer::ImageSink;
use crate::job::{AttemptId, CrashPoint, crash_point};
use crate::output::{SpoolDir, SpoolError, SpoolFile, SpooledPicture};

/// Bytes that are held back before they are written.
const BLOCK_BYTES: usize = 256 * 1024;

/// The images of one answer on their way to disk.
#[derive(Debug)]
pub(super) struct Spooler {
    dir: Arc<SpoolDir>,
    attempt: AttemptId,
    files: Vec<SpoolFile>,
    /// Blocks that are not written yet, with the number of their image.
    held: Vec<(usize, Vec<u8>)>,
    held_bytes: usize,
    image_bytes: u64,
}

impl ImageSink for Spooler {
    fn image(&mut self, number: usize, bytes: &[u8]) {
        self.held_bytes += bytes.len();
        self.image_bytes += bytes.len() as u64;
        match self.held.last_mut() {
            Some((last, block)) if *last == number => block.extend_from_slice(bytes),
            _ => {
                let mut block = Vec::with_capacity(bytes.len().max(BLOCK_BYTES / 4));
                block.extend_from_slice(bytes);
                self.held.push((number, block));
            }
        }
    }
}

impl Spooler {
    pub(super) fn new(dir: Arc<SpoolDir>, attempt: AttemptId) -> Self {
        Self { dir, attempt, files: Vec::new(), held: Vec::new(), held_bytes: 0, image_bytes: 0 }
    }

    /// Image bytes so far.
    pub(super) fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// How many images have begun.
    pub(super) fn images(&self) -> usize {
        self.files.len().max(self.held.last().map_or(0, |(number, _)| number + 1))
    }

    /// Writes what is held once it is worth it. Not cancel-safe: a dropped call loses the files,
    /// which then stay in the worker's folder until it is removed.
    pub(super) async fn flush_if_full(&mut self) -> Result<(), Trouble> {
        if self.held_bytes < BLOCK_BYTES { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), Trouble> {
        let held = std::mem::take(&mut self.held);
        self.held_bytes = 0;
        if held.is_empty() {
            return Ok(());
        }
        let mut files = std::mem::take(&mut self.files);
        let (dir, attempt) = (Arc::clone(&self.dir), self.attempt);
        self.files = on_disk(move || {
            let written = held.into_iter().try_for_each(|(number, block)| {
                while files.len() <= number {
                    files.push(dir.file(&format!("{attempt}-{}", files.len() + 1))?);
                }
                files.get_mut(number).map_or(Ok(()), |file| file.write(&block))
            });
            match written {
                Ok(()) => Ok(files),
                // Nothing comes of them any more, and the disk may need the room.
                Err(error) => {
                    for file in files {
                        drop(file.discard());
                    }
                    Err(error)
                }
            }
        })
        .await?;
        Ok(())
    }

    /// Makes the images with these numbers durable, in this order, and throws the rest away.
    /// `Ok(Err)` when one of them is not a whole picture.
    pub(super) async fn finish(
        mut self,
        wanted: Vec<usize>,
    ) -> Result<Result<Vec<SpooledPicture>, String>, Trouble> {
        self.flush().await?;
        let mut files: Vec<Option<SpoolFile>> = self.files.into_iter().map(Some).collect();
        let dir = self.dir;
        on_disk(move || {
            let mut pictures = Vec::new();
            let mut damage = None;
            for number in wanted {
                match files.get_mut(number).and_then(Option::take).map(SpoolFile::finish) {
                    Some(Ok(picture)) => pictures.push(picture),
                    Some(Err(SpoolError::Picture(error))) => damage = Some(error.to_string()),
                    Some(Err(error)) => return Err(error),
                    None => damage = Some("the answer named an image that it did not bring".to_owned()),
                }
            }
            files.into_iter().flatten().try_for_each(SpoolFile::discard)?;
            dir.sync()?;
            crash_point(CrashPoint::SpoolFolderSynced);
            Ok(damage.map_or(Ok(pictures), Err))
        })
        .await
    }
}

/// Why images cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] SpoolError),
    /// A task that panicked.
    #[error("{0}")]
    Task(String),
}

impl From<Trouble> for WorkError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Disk(error) => Self::Spool(error),
            Trouble::Task(text) => Self::Task(text),
        }
    }
}

/// As [`blocking`], with both kinds of trouble in one.
async fn on_disk<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, SpoolError> + Send + 'static,
) -> Result<T, Trouble> {
    Ok(blocking(step).await.map_err(Trouble::Task)??)
}
