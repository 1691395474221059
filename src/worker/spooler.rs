//! Takes the images of one answer to disk. The decoder hands over small blocks in memory; they are
//! collected in one large one, which is written, digested and checked off the async threads and
//! then used again.

use std::mem;
use std::sync::Arc;

use super::WorkError;
use crate::gemini::answer::ImageSink;
use crate::job::{AttemptId, CrashPoint, crash_point};
use crate::output::{SpoolDir, SpoolError, SpoolFile, SpooledPicture, blocking};

/// Bytes that are held back before they are written.
const BLOCK_BYTES: usize = 256 * 1024;

/// The most that may be handed over between two calls of [`Spooler::flush_if_full`], so that the
/// block never grows.
pub(super) const PIECE_BYTES: usize = 64 * 1024;

/// The images of one answer on their way to disk.
#[derive(Debug)]
pub(super) struct Spooler {
    dir: Arc<SpoolDir>,
    attempt: AttemptId,
    files: Vec<SpoolFile>,
    held: Held,
    image_bytes: u64,
}

/// What is not written yet. Its memory is used again after each write.
#[derive(Debug, Default)]
struct Held {
    block: Vec<u8>,
    /// Whose bytes they are: number of an image, and where in the block it stops.
    images: Vec<(usize, usize)>,
}

impl ImageSink for Spooler {
    fn image(&mut self, number: usize, bytes: &[u8]) {
        self.image_bytes += bytes.len() as u64;
        self.held.push(number, bytes);
    }
}

impl Held {
    fn push(&mut self, number: usize, bytes: &[u8]) {
        if self.block.capacity() == 0 {
            self.block.reserve_exact(BLOCK_BYTES);
        }
        self.block.extend_from_slice(bytes);
        let end = self.block.len();
        match self.images.last_mut() {
            Some((last, last_end)) if *last == number => *last_end = end,
            _ => self.images.push((number, end)),
        }
    }

    fn is_full(&self) -> bool {
        self.block.len() + PIECE_BYTES > BLOCK_BYTES
    }

    /// Writes everything to `files`, which become as many as there are images.
    fn write(
        &mut self,
        files: &mut Vec<SpoolFile>,
        (dir, attempt): (&SpoolDir, AttemptId),
    ) -> Result<(), SpoolError> {
        let mut start = 0;
        for (number, end) in self.images.drain(..) {
            while files.len() <= number {
                files.push(dir.file(&format!("{attempt}-{}", files.len() + 1))?);
            }
            if let Some(file) = files.get_mut(number) {
                file.write(&self.block[start..end])?;
            }
            start = end;
        }
        self.block.clear();
        Ok(())
    }
}

impl Spooler {
    pub(super) fn new(dir: Arc<SpoolDir>, attempt: AttemptId) -> Self {
        Self { dir, attempt, files: Vec::new(), held: Held::default(), image_bytes: 0 }
    }

    /// Image bytes so far.
    pub(super) fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// How many images have begun.
    pub(super) fn images(&self) -> usize {
        self.files.len().max(self.held.images.last().map_or(0, |(number, _)| number + 1))
    }

    /// Writes what is held once it is worth it. Not cancel-safe: a dropped call loses the files,
    /// which then stay in the worker's folder until it is removed.
    pub(super) async fn flush_if_full(&mut self) -> Result<(), Trouble> {
        if !self.held.is_full() {
            return Ok(());
        }
        let (mut held, mut files) = (mem::take(&mut self.held), mem::take(&mut self.files));
        let (dir, attempt) = (Arc::clone(&self.dir), self.attempt);
        (self.held, self.files) = on_disk(move || match held.write(&mut files, (&dir, attempt)) {
            Ok(()) => Ok((held, files)),
            Err(error) => Err(given_up(files, error)),
        })
        .await?;
        Ok(())
    }

    /// Makes the images with these numbers durable, in this order, and throws the rest away.
    /// `Ok(Err)` when one of them is not a whole picture.
    pub(super) async fn finish(
        self,
        wanted: Vec<usize>,
    ) -> Result<Result<Vec<SpooledPicture>, String>, Trouble> {
        let Self { dir, attempt, mut files, mut held, .. } = self;
        on_disk(move || {
            if let Err(error) = held.write(&mut files, (&dir, attempt)) {
                return Err(given_up(files, error));
            }
            let mut files: Vec<Option<SpoolFile>> = files.into_iter().map(Some).collect();
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

/// Nothing comes of these files any more, and the disk may need the room.
fn given_up(files: Vec<SpoolFile>, error: SpoolError) -> SpoolError {
    for file in files {
        drop(file.discard());
    }
    error
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
