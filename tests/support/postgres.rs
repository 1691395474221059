//! A PostgreSQL of the tests' own, from the system's binaries, in a temporary folder and on a Unix socket.
//! It ends with the process that started it, however that ends: a shell beside it waits for the other end
//! of its pipe to close.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Once, OnceLock};

/// Set where a missing PostgreSQL is a failure: in `.ci/run`.
const REQUIRED: &str = "NIGHTPRESS_REQUIRE_POSTGRES";
/// What a server of tests needs.
const PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "createdb"];
static TOLD: Once = Once::new();
/// Users that a server runs as when the tests run as root, which it refuses to.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// Whether a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// No: what a test is about is not whether a power failure loses anything.
    Quick,
    /// Yes.
    Durable,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    programs: PathBuf,
    user: Option<&'static str>,
    /// Closed, it ends the server.
    pipe: Option<ChildStdin>,
    shell: Child,
}

/// The server that all tests of this process share; `None` where there is no PostgreSQL, which is told.
pub(crate) fn shared() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(|| start(Disk::Quick)).as_ref()
}

/// A server of one test's own; `None` where there is no PostgreSQL, which is told.
pub(crate) fn start(disk: Disk) -> Option<Server> {
    let Some(programs) = programs() else {
        assert!(
            std::env::var_os(REQUIRED).is_none(),
            "{REQUIRED} is set, but there is no PostgreSQL: initdb and pg_ctl were not found"
        );
        TOLD.call_once(|| {
            // Past the capture of the test runner: whoever runs the tests is to know.
            let line = "skipped: the tests of PostgreSQL, since initdb and pg_ctl were not found\n";
            drop(std::io::stderr().lock().write_all(line.as_bytes()));
        });
        return None;
    };
    Some(Server::start(programs, disk))
}

/// A name that no other test of this process has.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Server {
    fn start(programs: PathBuf, disk: Disk) -> Self {
        let folder = std::env::temp_dir().join(format!("np-pg-{}-{}", std::process::id(), unique("s")));
        std::fs::create_dir_all(&folder).expect("makes the server's folder");
        // The socket's path must be short, and others' users must get through to it.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).expect("sets permissions");
        let is_root = std::fs::metadata(&folder).expect("looks at the folder").uid() == 0;
        let user = if is_root { Some(user()) } else { None };
        if let Some(user) = user {
            let owned = Command::new("chown").arg(user).arg(&folder).status().expect("runs chown");
            assert!(owned.success(), "chown {user} failed");
        }
        let (sync, settings) = match disk {
            Disk::Quick => ("--no-sync", "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"),
            Disk::Durable => ("--no-sync", "-c fsync=on -c synchronous_commit=on"),
        };
        let script = format!(
            "trap '' INT TERM HUP
            cd {folder}
            {programs}/initdb -D data -U nightpress --auth=trust -E UTF8 --no-locale {sync} >initdb.log 2>&1 &&
            {programs}/pg_ctl -D {folder}/data -w -t 60 -l server.log -o \"-k {folder} -c listen_addresses='' \
                -c max_connections=400 -c shared_buffers=64MB {settings}\" start >start.log 2>&1 \
                </dev/null || {{ cat initdb.log start.log server.log; echo failed; exit 1; }}
            echo ready
            cat >/dev/null
            {programs}/pg_ctl -D {folder}/data -m immediate stop >/dev/null 2>&1
            cd /
            rm -rf {folder}/* {folder}/.s.* 2>/dev/null
            rmdir {folder} 2>/dev/null",
            folder = folder.display(),
            programs = programs.display(),
        );
        let mut shell = as_user(user, "sh")
            .arg("-c")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts a shell");
        let mut said = String::new();
        for line in BufReader::new(shell.stdout.take().expect("a pipe")).lines() {
            let line = line.expect("reads what the shell says");
            match line.as_str() {
                "ready" => break,
                "failed" => panic!("PostgreSQL did not start: {said}"),
                line => said = format!("{said}\n{line}"),
            }
        }
        let pipe = shell.stdin.take();
        Self { folder, programs, user, pipe, shell }
    }

    /// The address of its only database.
    pub(crate) fn url(&self) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://nightpress@{folder}/postgres")
    }

    /// The address of a new database.
    pub(crate) fn database(&self, name: &str) -> String {
        let mut command = Command::new(self.programs.join("createdb"));
        let made = command.arg("-h").arg(&self.folder).args(["-U", "nightpress", name]).status();
        let made = made.expect("runs createdb");
        assert!(made.success(), "createdb failed");
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://nightpress@{folder}/{name}")
    }

    /// Where its socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// Kills all its processes and starts it again: no connection ends in order.
    pub(crate) fn restart_at_once(&self) {
        self.control(&["-m", "immediate", "restart"]);
    }

    fn control(&self, arguments: &[&str]) {
        let data = self.folder.join("data");
        let mut command = as_user(self.user, self.programs.join("pg_ctl").to_str().expect("a path"));
        command.arg("-D").arg(&data).args(["-w", "-t", "60", "-l"]).arg(self.folder.join("server.log"));
        // Not through a pipe: the server would keep it open.
        let said = self.folder.join("said.log");
        let log = std::fs::File::create(&said).expect("makes a log");
        let both = log.try_clone().expect("a second handle");
        let done = command.args(arguments).stdin(Stdio::null()).stdout(log).stderr(both).status();
        let said = || std::fs::read_to_string(&said).unwrap_or_default();
        assert!(done.expect("runs pg_ctl").success(), "pg_ctl {arguments:?} failed: {}", said());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.pipe.take());
        drop(self.shell.wait());
        drop(std::fs::remove_dir(&self.folder));
    }
}

/// A command as another user, where one is given.
fn as_user(user: Option<&str>, program: &str) -> Command {
    let Some(user) = user else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args(["--reuid", user, "--regid", "nogroup", "--clear-groups", program]);
    command.current_dir("/");
    command
}

fn user() -> &'static str {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let exists = |user: &&str| users.lines().any(|line| line.starts_with(&format!("{user}:")));
    USERS.into_iter().find(exists).expect("a user that is not root, for the server to run as")
}

/// The folder of the server's programs: on the path, or the newest where Debian keeps them.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    folders.extend(versions.into_iter().rev().map(|(_, folder)| folder));
    folders.into_iter().find(|folder| has_programs(folder))
}

fn has_programs(folder: &Path) -> bool {
    PROGRAMS.iter().all(|program| folder.join(program).is_file())
}
