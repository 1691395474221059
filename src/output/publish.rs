//! From the spool into `images/`: atomically, never over a file that is not ours, never through
//! a symbolic link.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::store::StoreError;
use crate::job::{CrashPoint, Digest, crash_point};
use crate::platform;

/// What is known of a file: its size and digest.
pub type Record = (u64, Digest);

/// What can go wrong while a file is put in place.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The disk said no.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A folder on the way is a symbolic link: following it could lead out of the run folder.
    #[error(
        "{path} is a symbolic link or no folder; results are not written through it: remove or rename it"
    )]
    NotAFolder {
        /// The culprit.
        path: PathBuf,
    },
    /// A picture cannot leave the spool for `images/` without being copied.
    #[error(
        "{images} and the spool beside it are on different disks; make it a plain folder of the run folder, which may \
         be anywhere as a whole (-o)"
    )]
    OtherDisk {
        /// The folder of results.
        images: PathBuf,
    },
    /// The file is in the spool no more.
    #[error("{path} has vanished from the spool")]
    Vanished {
        /// Where it was.
        path: PathBuf,
    },
    /// The file is not in the bucket's spool, and not in that of this machine.
    #[error(
        "{staged} is not in the bucket: it could not be uploaded when it was made, and waits in the spool of the \
         machine that made it. Start nightpress there, in the same folder; or give it up, to be made and paid again, \
         with --repair"
    )]
    Elsewhere {
        /// Where it was to be.
        staged: String,
    },
    /// The run had to end before.
    #[error(
        "the run had to end before the result was in its place; the next run in this folder takes it there"
    )]
    NoTimeLeft,
    /// What is to be renamed is not there: a person deleted it.
    #[error("{name} is gone")]
    NoSuchResult {
        /// Its name so far.
        name: String,
    },
    /// Object storage said no.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A step on the disk panicked.
    #[error("a step on the disk failed: {0}; this is a bug in nightpress")]
    Task(String),
}

pub(super) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PublishError {
    let path = path.to_owned();
    move |source| PublishError::Io { what, path, source }
}

/// What became of a file that was to get its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The file stands under its name, durable.
    Done,
    /// A file that is not ours stands there; nothing was changed.
    Occupied,
}

/// Puts the file `spooled` under `images/name`.
///
/// A file that stands there already is left alone, unless it has the content that is to be
/// published (a crash came between the rename and its record) or the one of `ours`: the size and
/// digest of a file that this one replaces.
pub(super) fn publish(
    spooled: &Path,
    images: &Path,
    name: &str,
    content: Record,
    ours: Option<Record>,
) -> Result<Published, PublishError> {
    let target = images.join(name);
    let parent = target.parent().unwrap_or(images);
    create_folders(images, parent)?;
    if is_gone(spooled)? {
        return if matches_record(&target, content)? {
            platform::sync_folder(parent).map_err(io_error("sync", parent))?;
            Ok(Published::Done)
        } else {
            Err(PublishError::Vanished { path: spooled.to_owned() })
        };
    }
    crash_point(CrashPoint::BeforeLink);
    // A hard link fails when the name is taken, which a rename does not.
    match fs::hard_link(spooled, &target) {
        Ok(()) => {
            crash_point(CrashPoint::Linked);
            fs::remove_file(spooled).map_err(io_error("remove", spooled))?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let is_ours = match ours {
                Some(old) => matches_record(&target, old)?,
                None => false,
            };
            if !is_ours && !matches_record(&target, content)? {
                return Ok(Published::Occupied);
            }
            fs::rename(spooled, &target).map_err(io_error("rename", spooled))?;
            crash_point(CrashPoint::Replaced);
        }
        // A file system without hard links: the check and the rename are two steps there.
        Err(_) if fs::symlink_metadata(&target).is_err() => {
            fs::rename(spooled, &target).map_err(io_error("rename", spooled))?;
        }
        Err(error) => return Err(io_error("publish", &target)(error)),
    }
    crash_point(CrashPoint::Moved);
    platform::sync_folder(parent).map_err(io_error("sync", parent))?;
    crash_point(CrashPoint::Placed);
    Ok(Published::Done)
}

/// Removes the file of an earlier revision, if it is still as it was published. One that a
/// person has changed is left alone.
pub(super) fn remove_replaced(images: &Path, name: &str, record: Record) -> Result<(), PublishError> {
    let path = images.join(name);
    check_folders(images, path.parent().unwrap_or(images))?;
    if matches_record(&path, record)? {
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
        crash_point(CrashPoint::ReplacedRemoved);
    }
    Ok(())
}

/// Gives a published file another name. `Occupied` when the new one is taken; done already when
/// only the new one exists and has the content of `record`.
pub(super) fn rename_published(
    images: &Path,
    from: &str,
    to: &str,
    record: Record,
) -> Result<Published, PublishError> {
    let (old, new) = (images.join(from), images.join(to));
    let parent = new.parent().unwrap_or(images);
    create_folders(images, parent)?;
    let old_parent = old.parent().unwrap_or(images);
    check_folders(images, old_parent)?;
    // Where case does not count, `Hero` and `hero` are one file with two spellings.
    if !is_gone(&new)? && !platform::is_same_file(&old, &new) {
        let done = is_gone(&old)? && matches_record(&new, record)?;
        return Ok(if done { Published::Done } else { Published::Occupied });
    }
    match fs::rename(&old, &new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PublishError::NoSuchResult { name: old.display().to_string() });
        }
        renamed => renamed.map_err(io_error("rename", &old))?,
    }
    platform::sync_folder(parent).map_err(io_error("sync", parent))?;
    platform::sync_folder(old_parent).map_err(io_error("sync", old_parent))?;
    Ok(Published::Done)
}

/// Whether nothing is there. A disk that does not say is an error, not a "no".
fn is_gone(path: &Path) -> Result<bool, PublishError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(io_error("inspect", path)(error)),
    }
}

/// Whether a regular file at `path` has this size and digest.
pub(super) fn matches_record(path: &Path, (bytes, digest): Record) -> Result<bool, PublishError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("inspect", path)(error)),
    };
    if !found.is_file() || found.len() != bytes {
        return Ok(false);
    }
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 256 * 1024];
    loop {
        let n = file.read(&mut block).map_err(io_error("read", path))?;
        if n == 0 {
            return Ok(Digest::from_bytes(hasher.finalize().into()) == digest);
        }
        hasher.update(&block[..n]);
    }
}

/// Makes the folders from `images` down to `parent`, none of which may be a symbolic link.
fn create_folders(images: &Path, parent: &Path) -> Result<(), PublishError> {
    let below = parent.strip_prefix(images).unwrap_or(Path::new(""));
    let mut folder = images.to_owned();
    make_folder(&folder)?;
    for part in below.components() {
        folder.push(part);
        make_folder(&folder)?;
    }
    Ok(())
}

/// Whether results can be put below `images` at all: it is a folder, or will be made one.
pub(super) fn check_images(images: &Path, spool: &Path) -> Result<(), PublishError> {
    check_folders(images, images)?;
    if platform::is_same_disk(images, spool) {
        Ok(())
    } else {
        Err(PublishError::OtherDisk { images: images.to_owned() })
    }
}

/// None of the folders from `images` down to `parent` may be a symbolic link; one that is not
/// there leads nowhere.
fn check_folders(images: &Path, parent: &Path) -> Result<(), PublishError> {
    let below = parent.strip_prefix(images).unwrap_or(Path::new(""));
    let mut folder = images.to_owned();
    for part in std::iter::once(None).chain(below.components().map(Some)) {
        folder.extend(part);
        match fs::symlink_metadata(&folder) {
            Ok(found) if !found.is_dir() => return Err(PublishError::NotAFolder { path: folder }),
            _ => {}
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), PublishError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(PublishError::NotAFolder { path: path.to_owned() }),
        Err(_) => {
            match fs::create_dir(path) {
                // Another worker was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(io_error("create", path))?,
            }
            let parent = path.parent().unwrap_or(path);
            platform::sync_folder(parent).map_err(io_error("sync", parent))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        root: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("temp dir");
            fs::create_dir(root.path().join("spool")).expect("creates");
            Self { root }
        }

        fn images(&self) -> PathBuf {
            self.root.path().join("images")
        }

        fn spooled(&self, content: &[u8]) -> (PathBuf, (u64, Digest)) {
            let path = self.root.path().join("spool/1");
            fs::write(&path, content).expect("writes");
            (path, record(content))
        }
    }

    fn record(content: &[u8]) -> (u64, Digest) {
        (content.len() as u64, Digest::of(content))
    }

    #[test]
    fn a_file_moves_into_a_folder_that_did_not_exist() {
        let at = Fixture::new();
        let (spooled, content) = at.spooled(b"new");
        assert_eq!(
            publish(&spooled, &at.images(), "de/hero.png", content, None).expect("io"),
            Published::Done
        );
        assert_eq!(fs::read(at.images().join("de/hero.png")).expect("reads"), b"new");
        assert!(!spooled.exists());
        // A crash came before the record: the same step again finds its work done.
        let again = publish(&spooled, &at.images(), "de/hero.png", content, None);
        assert_eq!(again.expect("io"), Published::Done);
    }

    #[test]
    fn a_foreign_file_is_never_overwritten_and_our_own_old_one_is() {
        let at = Fixture::new();
        fs::create_dir(at.images()).expect("creates");
        let target = at.images().join("hero.png");
        fs::write(&target, b"old").expect("writes");
        let (spooled, content) = at.spooled(b"new");
        let step = |ours| publish(&spooled, &at.images(), "hero.png", content, ours).expect("io");
        assert_eq!(step(None), Published::Occupied);
        assert_eq!(step(Some(record(b"edited by a person"))), Published::Occupied);
        assert_eq!(fs::read(&target).expect("reads"), b"old");
        assert_eq!(step(Some(record(b"old"))), Published::Done);
        assert_eq!(fs::read(&target).expect("reads"), b"new");
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_not_followed_out_of_the_folder() {
        let at = Fixture::new();
        let elsewhere = tempfile::tempdir().expect("temp dir");
        fs::create_dir(at.images()).expect("creates");
        std::os::unix::fs::symlink(elsewhere.path(), at.images().join("de")).expect("links");
        let (spooled, content) = at.spooled(b"new");
        let result = publish(&spooled, &at.images(), "de/hero.png", content, None);
        assert!(matches!(result, Err(PublishError::NotAFolder { .. })), "{result:?}");
        assert_eq!(fs::read_dir(elsewhere.path()).expect("lists").count(), 0);
    }

    #[test]
    fn a_replaced_file_goes_unless_a_person_changed_it() {
        let at = Fixture::new();
        fs::create_dir(at.images()).expect("creates");
        fs::write(at.images().join("a.png"), b"old").expect("writes");
        fs::write(at.images().join("b.png"), b"mine").expect("writes");
        remove_replaced(&at.images(), "a.png", record(b"old")).expect("io");
        remove_replaced(&at.images(), "b.png", record(b"old")).expect("io");
        assert!(!at.images().join("a.png").exists());
        assert!(at.images().join("b.png").exists());
    }

    #[test]
    fn renaming_does_not_overwrite_and_can_be_repeated() {
        let at = Fixture::new();
        fs::create_dir(at.images()).expect("creates");
        fs::write(at.images().join("a.png"), b"x").expect("writes");
        fs::write(at.images().join("taken.png"), b"y").expect("writes");
        let step = |to| rename_published(&at.images(), "a.png", to, record(b"x")).expect("io");
        assert_eq!(step("taken.png"), Published::Occupied);
        fs::write(at.images().join("A.png"), b"a person's own").expect("writes");
        assert_eq!(step("A.png"), Published::Occupied, "another file, where case counts");
        assert_eq!(step("b/c.png"), Published::Done);
        assert_eq!(step("b/c.png"), Published::Done, "a second time after a crash");
        assert_eq!(fs::read(at.images().join("b/c.png")).expect("reads"), b"x");
    }
}
