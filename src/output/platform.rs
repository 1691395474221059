//! What is specific to a platform. Linux and macOS behave alike here; elsewhere the weaker
//! form stands, and it is said where it does.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes the entries of a folder durable: after this, a file that was created in it or renamed
/// into it is still there when the machine loses power.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        File::open(path)?.sync_all()
    }
    // Windows offers no such call for a folder; NTFS journals its entries.
    #[cfg(not(unix))]
    {
        let _ = path;
        Ok(())
    }
}

/// Whether two paths lead to one file.
pub(super) fn is_same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let key = |path: &Path| std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino())).ok();
        key(one).is_some() && key(one) == key(other)
    }
    #[cfg(not(unix))]
    {
        let key = |path: &Path| std::fs::canonicalize(path).ok();
        key(one).is_some() && key(one) == key(other)
    }
}

/// Tries to take the lock of a folder and returns the handle that holds it; `None` when another
/// process holds it. The lock ends with the process, however it ends.
pub(super) fn try_lock_folder(path: &Path) -> io::Result<Option<File>> {
    let folder = File::open(path)?;
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Waits for the lock of a folder.
pub(super) fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = File::open(path)?;
    folder.lock()?;
    Ok(folder)
}

/// Tells how much room is left where a run's files go. A test hands in its own.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Bytes that this process may still write into the file system of `folder`; `None` when that
    /// cannot be told.
    fn free_bytes(&self, folder: &Path) -> Option<u64>;
}

/// The disk itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn free_bytes(&self, folder: &Path) -> Option<u64> {
        #[cfg(unix)]
        {
            let found = rustix::fs::statvfs(folder).ok()?;
            // Some systems of files in memory or elsewhere state no size at all.
            (found.f_blocks > 0).then(|| found.f_bavail.saturating_mul(found.f_frsize))
        }
        // Elsewhere a full disk is noticed when it is.
        #[cfg(not(unix))]
        {
            let _ = folder;
            None
        }
    }
}

/// How many files this process may have open; raised as far as the system lets a process do so
/// itself. `None` when there is no limit or it cannot be told.
pub fn open_files_max() -> Option<u64> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let found = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: found.maximum, maximum: found.maximum };
        // macOS refuses `unlimited` here; what it had stands then.
        let _ = setrlimit(Resource::Nofile, raised);
        getrlimit(Resource::Nofile).current
    }
    #[cfg(not(unix))]
    {
        None
    }
}

/// The machine's name, for people; `unknown` where it cannot be had.
pub fn host_name() -> String {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .map(|name| name.trim().to_owned())
        .or_else(|| std::env::var("HOSTNAME").ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}
