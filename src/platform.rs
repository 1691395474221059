//! What is specific to a platform, all of it. Below the floors: whoever needs it may ask. Linux
//! and macOS behave alike here; elsewhere the weaker form stands, and it is said where it does.

mod memory;

use std::fs::File;
use std::io;
use std::path::Path;

pub use memory::memory_available;

/// Makes the entries of a folder durable: after this, a file that was created in it or renamed
/// into it is still there when the machine loses power.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
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
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
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

/// Whether two folders are on one disk, so that a file can get a second name in the other. Where that
/// cannot be told, it is found out by trying.
pub(crate) fn is_same_disk(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let disk = |path: &Path| std::fs::metadata(path).map(|folder| folder.dev()).ok();
        disk(one).zip(disk(other)).is_none_or(|(one, other)| one == other)
    }
    #[cfg(not(unix))]
    {
        let _ = (one, other);
        true
    }
}

/// Tries to take the lock of a folder and returns the handle that holds it; `None` when another
/// process holds it. The lock ends with the process, however it ends.
pub(crate) fn try_lock_folder(path: &Path) -> io::Result<Option<File>> {
    let folder = File::open(path)?;
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Waits for the lock of a folder.
pub(crate) fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = File::open(path)?;
    folder.lock()?;
    Ok(folder)
}

/// Room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// Bytes that this process may still write.
    pub bytes: u64,
    /// Files that it may still make; `None` where a disk sets no limit of its own.
    pub files: Option<u64>,
}

/// Tells how much room is left where a run's files go. A test hands in its own.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// The room in the file system of `folder`; `None` when that cannot be told.
    fn free(&self, folder: &Path) -> Option<Free>;
}

/// The disk itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalDisk;

impl Disk for LocalDisk {
    fn free(&self, folder: &Path) -> Option<Free> {
        #[cfg(unix)]
        {
            let found = rustix::fs::statvfs(folder).ok()?;
            // Some systems of files in memory or elsewhere state no size at all.
            (found.f_blocks > 0).then(|| Free {
                bytes: found.f_bavail.saturating_mul(found.f_frsize),
                files: (found.f_files > 0).then_some(found.f_favail),
            })
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

/// Whether an operation failed since this process, or the machine, has no file descriptor left.
pub(crate) fn is_out_of_files(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        let code = rustix::io::Errno::from_io_error(error);
        matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
    }
    #[cfg(not(unix))]
    {
        let _ = error;
        false
    }
}

/// Whether no file can be opened at this moment, for want of a descriptor: for errors that keep their
/// cause to themselves.
pub(crate) fn no_file_can_be_opened() -> bool {
    File::open(std::path::MAIN_SEPARATOR_STR).is_err_and(|error| is_out_of_files(&error))
}

/// The network file system that `folder` is on; `None` on a local disk, or where it cannot be told.
/// There, neither the shared memory of SQLite's log nor the locks of folders hold between machines.
pub(crate) fn network_file_system(folder: &Path) -> Option<&'static str> {
    #[cfg(target_os = "linux")]
    {
        // As the kernel has it: 32 bits, whatever the sign and width of the word.
        let word = rustix::fs::statfs(folder).ok()?.f_type.to_le_bytes();
        network_kind(u32::from_le_bytes(*word.first_chunk()?))
    }
    #[cfg(target_os = "macos")]
    {
        // `MNT_LOCAL` of sys/mount.h.
        const LOCAL: u32 = 0x1000;
        let found = rustix::fs::statfs(folder).ok()?;
        (found.f_flags & LOCAL == 0).then_some("a network file system")
    }
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    {
        let _ = folder;
        None
    }
}

/// Network file systems by their numbers (linux/magic.h and statfs(2), read 2026-11). FUSE is not
/// among them: it holds local disks as well.
#[cfg(target_os = "linux")]
fn network_kind(number: u32) -> Option<&'static str> {
    match number {
        0x6969 => Some("NFS"),
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => Some("SMB"),
        0x0102_1997 => Some("9P"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        0x00c3_6400 => Some("Ceph"),
        0x0bd0_0bd0 => Some("Lustre"),
        0x0116_1970 => Some("GFS2"),
        0x7461_636f => Some("OCFS2"),
        _ => None,
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

/// The number by which the disk knows a file: another one means that the file was replaced. 0
/// where there is none.
pub(crate) fn inode(metadata: &std::fs::Metadata) -> u64 {
    #[cfg(unix)]
    {
        std::os::unix::fs::MetadataExt::ino(metadata)
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        0
    }
}

/// Who ended the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM or SIGHUP.
    Terminate,
}

/// The signals that end a process, from when this value is made until it is dropped.
pub(crate) struct SignalStreams {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// `None` under `nohup`: who started this wants it to outlive the terminal.
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl SignalStreams {
    /// Begins to listen.
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    /// The next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = hangup => Signal::Terminate,
        }
    }
}

/// Whether this process was started with SIGHUP ignored, by the mask that Linux tells of it (`proc(5)`).
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Elsewhere there is Ctrl-C alone.
#[cfg(not(unix))]
impl SignalStreams {
    /// Begins to listen.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// The next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Signal {
        // An error means that no signal can ever come.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::Interrupt
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_told_from_local_ones() {
        assert_eq!(network_kind(0x6969), Some("NFS"));
        assert_eq!(network_kind(0xff53_4d42), Some("SMB"));
        // ext4, btrfs, XFS, tmpfs, overlay.
        for local in [0xef53, 0x9123_683e, 0x5846_5342, 0x0102_1994, 0x794c_7630] {
            assert_eq!(network_kind(local), None, "{local:#x}");
        }
        assert_eq!(network_file_system(Path::new("/proc")), None);
        assert_eq!(network_file_system(Path::new("/no/such/folder")), None);
    }

    #[test]
    fn only_a_lack_of_descriptors_is_one() {
        assert!(is_out_of_files(&rustix::io::Errno::MFILE.into()));
        assert!(is_out_of_files(&rustix::io::Errno::NFILE.into()));
        assert!(!is_out_of_files(&rustix::io::Errno::NOSPC.into()));
        assert!(!is_out_of_files(&io::Error::other("no code")));
    }
}
