//! A way to the server that breaks when a test says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// What is to happen to the next COMMIT; once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cut {
    Nothing,
    /// The connection breaks before the server hears of it.
    Before,
    /// The server commits, and the connection breaks before it can say so.
    After,
}

/// Passes everything on, until its tasks are dropped.
pub(super) struct Proxy {
    folder: TempDir,
    cut: Arc<AtomicU8>,
    accepted: Arc<AtomicU32>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub(super) fn to(socket: PathBuf) -> Self {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let cut = Arc::new(AtomicU8::new(Cut::Nothing as u8));
        let mut tasks = JoinSet::new();
        let shared = Arc::clone(&cut);
        let accepted = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&accepted);
        tasks.spawn(async move {
            let mut ways = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                ways.spawn(pass(client, socket.clone(), Arc::clone(&shared)));
            }
        });
        Self { folder, cut, accepted, _tasks: tasks }
    }

    pub(super) fn url(&self) -> String {
        self.url_of("nightpress")
    }

    pub(super) fn url_of(&self, user: &str) -> String {
        let folder = Path::new(self.folder.path()).display().to_string().replace('/', "%2F");
        format!("postgres://{user}@{folder}/postgres")
    }

    pub(super) fn cut_at_next_commit(&self, cut: Cut) {
        self.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// Connections so far.
    pub(super) fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Whether the cut was made.
    pub(super) fn was_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst) == Cut::Nothing as u8
    }
}

async fn pass(mut client: UnixStream, socket: PathBuf, cut: Arc<AtomicU8>) {
    let Ok(mut server) = UnixStream::connect(socket).await else { return };
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(n @ 1..) = read else { return };
                let is_commit = up[..n].windows(7).any(|window| window == b"COMMIT\0");
                let what = if is_commit { cut.swap(Cut::Nothing as u8, Ordering::SeqCst) } else { 0 };
                if what == Cut::Before as u8 {
                    return;
                }
                if server.write_all(&up[..n]).await.is_err() {
                    return;
                }
                if what == Cut::After as u8 {
                    // Its answer has come, and goes no further.
                    drop(server.read(&mut down).await);
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(n @ 1..) = read else { return };
                if client.write_all(&down[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
