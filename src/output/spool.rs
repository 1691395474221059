//! The spool: where an answer's bytes land until they are a whole, durable picture.
//!
//! Each worker process has a folder of its own in `spool/`, named by a random token, and holds
//! the lock of that folder while it lives. Who can take the lock knows that the process is dead.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::picture::{PictureCheck, PictureError};
use crate::job::{CrashPoint, Digest, MediaType, crash_point};
use crate::platform;

/// What can go wrong in the spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A file or folder could not be made, written or made durable.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The bytes are not a whole picture.
    #[error(transparent)]
    Picture(#[from] PictureError),
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { what, path, source }
}

/// A worker's folder in the spool, locked while this value lives.
#[derive(Debug)]
pub struct SpoolDir {
    path: PathBuf,
    token: String,
    _lock: File,
}

impl SpoolDir {
    /// Makes and locks the folder `spool/<token>`.
    pub fn create(spool: &Path, token: &str) -> Result<Self, SpoolError> {
        fs::create_dir_all(spool).map_err(io_error("create", spool))?;
        // Between making a folder and locking it, a sweeper would take it for a dead one's.
        let _no_sweep = platform::lock_folder(spool).map_err(io_error("lock", spool))?;
        let path = spool.join(token);
        fs::create_dir(&path).map_err(io_error("create", &path))?;
        let lock = platform::lock_folder(&path).map_err(io_error("lock", &path))?;
        platform::sync_folder(spool).map_err(io_error("sync", spool))?;
        Ok(Self { path, token: token.to_owned(), _lock: lock })
    }

    /// The token of the worker whose folder it is.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Begins a file. `name` is unique within this folder.
    pub fn file(&self, name: &str) -> Result<SpoolFile, SpoolError> {
        let path = self.path.join(name);
        let file = File::create_new(&path).map_err(io_error("create", &path))?;
        Ok(SpoolFile {
            file,
            name: format!("{}/{name}", self.token),
            path,
            bytes: 0,
            digest: Sha256::new(),
            check: PictureCheck::default(),
        })
    }

    /// Makes the names of the files in this folder durable.
    pub fn sync(&self) -> Result<(), SpoolError> {
        platform::sync_folder(&self.path).map_err(io_error("sync", &self.path))
    }

    /// Removes the folder with all that is left in it. The lock ends with this.
    pub fn remove(self) -> Result<(), SpoolError> {
        fs::remove_dir_all(&self.path).map_err(io_error("remove", &self.path))
    }
}

/// An image on its way into the spool.
#[derive(Debug)]
pub struct SpoolFile {
    file: File,
    name: String,
    path: PathBuf,
    bytes: u64,
    digest: Sha256,
    check: PictureCheck,
}

/// A picture in the spool: whole, and durable once its folder is synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpooledPicture {
    /// Its file, relative to `spool/`.
    pub name: String,
    /// Format by its bytes.
    pub media: MediaType,
    /// Size.
    pub bytes: u64,
    /// Digest.
    pub digest: Digest,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

impl SpoolFile {
    /// Appends a block: written, digested and checked in one go while it is in the cache.
    pub fn write(&mut self, block: &[u8]) -> Result<(), SpoolError> {
        self.file.write_all(block).map_err(io_error("write", &self.path))?;
        self.digest.update(block);
        self.check.push(block);
        self.bytes += block.len() as u64;
        Ok(())
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Checks that the picture is whole and makes its bytes durable. On an error the file is removed.
    pub fn finish(self) -> Result<SpooledPicture, SpoolError> {
        let picture = match self.check.finish() {
            Ok(picture) => picture,
            Err(error) => {
                remove_if_there(&self.path)?;
                return Err(error.into());
            }
        };
        crash_point(CrashPoint::SpoolWritten);
        if let Err(error) = self.file.sync_all() {
            drop(remove_if_there(&self.path));
            return Err(io_error("sync", &self.path)(error));
        }
        crash_point(CrashPoint::SpoolSynced);
        Ok(SpooledPicture {
            name: self.name,
            media: picture.media,
            bytes: self.bytes,
            digest: Digest::from_bytes(self.digest.finalize().into()),
            width: picture.width,
            height: picture.height,
        })
    }

    /// Throws the file away.
    pub fn discard(self) -> Result<(), SpoolError> {
        remove_if_there(&self.path)
    }
}

fn remove_if_there(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Whether the worker with this token is dead: its folder's lock can be taken, or it is gone.
pub fn worker_is_dead(spool: &Path, token: &str) -> Result<bool, SpoolError> {
    let path = spool.join(token);
    match platform::try_lock_folder(&path) {
        Ok(lock) => Ok(lock.is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error("lock", &path)(error)),
    }
}

/// The folder of a dead worker, kept from others while this value lives.
#[derive(Debug)]
pub struct DeadFolder {
    path: PathBuf,
    token: String,
    _lock: File,
}

impl DeadFolder {
    /// The token of the worker whose folder it was.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether nothing is in it. What cannot be listed is taken for something.
    pub fn is_empty(&self) -> bool {
        fs::read_dir(&self.path).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// Removes the folder with all that is left in it. Call it when nothing in it is planned.
    pub fn remove(self) -> Result<(), SpoolError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &self.path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Takes the folders of dead workers, and removes stray files. What is planned from them is to be
/// asked after this: the dead plan nothing more.
pub fn dead_folders(spool: &Path) -> Result<Vec<DeadFolder>, SpoolError> {
    let _no_create = match platform::lock_folder(spool) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("lock", spool)(error)),
    };
    let mut dead = Vec::new();
    for entry in fs::read_dir(spool).map_err(io_error("list", spool))? {
        let entry = entry.map_err(io_error("list", spool))?;
        let path = entry.path();
        let is_folder = entry.file_type().map_err(io_error("inspect", &path))?.is_dir();
        if !is_folder {
            remove_if_there(&path)?;
            continue;
        }
        match platform::try_lock_folder(&path) {
            Ok(Some(lock)) => {
                let token = entry.file_name().to_string_lossy().into_owned();
                dead.push(DeadFolder { path, token, _lock: lock });
            }
            Ok(None) => {}
            // Its worker has ended in order meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("lock", &path)(error)),
        }
    }
    Ok(dead)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png() -> Vec<u8> {
        let mut bytes = io::Cursor::new(Vec::new());
        image::RgbImage::new(4, 3).write_to(&mut bytes, image::ImageFormat::Png).expect("encodes");
        bytes.into_inner()
    }

    #[test]
    fn a_whole_picture_is_kept_with_its_digest_and_a_torn_one_is_removed() {
        let root = tempfile::tempdir().expect("temp dir");
        let spool = SpoolDir::create(root.path(), "w1").expect("creates");
        let bytes = png();
        let mut file = spool.file("1-1").expect("creates");
        bytes.chunks(7).for_each(|block| file.write(block).expect("writes"));
        let picture = file.finish().expect("whole");
        assert_eq!((picture.width, picture.height, picture.bytes), (4, 3, bytes.len() as u64));
        assert_eq!(picture.digest, Digest::of(&bytes));
        assert_eq!(fs::read(root.path().join(&picture.name)).expect("reads"), bytes);

        let mut torn = spool.file("1-2").expect("creates");
        torn.write(&bytes[..20]).expect("writes");
        assert!(matches!(torn.finish(), Err(SpoolError::Picture(PictureError::Truncated("PNG")))));
        assert!(!root.path().join("w1/1-2").exists());
    }

    #[test]
    fn a_sweep_removes_dead_folders_and_strays_and_leaves_living_ones() {
        let root = tempfile::tempdir().expect("temp dir");
        let living = SpoolDir::create(root.path(), "living").expect("creates");
        let dead = SpoolDir::create(root.path(), "dead").expect("creates");
        drop(dead.file("1-1").expect("creates"));
        drop(dead); // as after a crash: the lock is gone, the folder is not
        fs::write(root.path().join("stray"), b"x").expect("writes");
        assert!(worker_is_dead(root.path(), "dead").expect("asks"));
        assert!(worker_is_dead(root.path(), "never-was").expect("asks"));
        assert!(!worker_is_dead(root.path(), "living").expect("asks"));
        for folder in dead_folders(root.path()).expect("lists") {
            assert_eq!(folder.token(), "dead");
            folder.remove().expect("removes");
        }
        let left: Vec<_> =
            fs::read_dir(root.path()).expect("lists").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["living"]);
        living.remove().expect("removes");
        assert_eq!(fs::read_dir(root.path()).expect("lists").count(), 0);
    }
}
