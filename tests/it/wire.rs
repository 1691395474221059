//! A way to the database that a test cuts and mends: a port that passes everything on to the server's socket.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How the way is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Everything gets through.
    Open,
    /// Nothing gets through, and nobody is told: a cable that was pulled.
    Silent,
    /// Everything gets through up to the end of the first claim. From then on the server hears all, and nobody hears it.
    CutAtClaim,
    /// The server hears all, and nobody hears it.
    Mute,
    /// Connections break, and no new one is made: a server that is down.
    Broken,
}

/// The way. What goes through it ends with it.
pub(crate) struct Wire {
    url: String,
    way: watch::Sender<Way>,
    _tasks: JoinSet<()>,
}

impl Wire {
    /// To the database of this URL, which is behind this socket.
    pub(crate) async fn to(url: &str, socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (_, database) = url.rsplit_once('/').expect("a database");
        let (way, seen) = watch::channel(Way::Open);
        let mut tasks = JoinSet::new();
        let passing = way.clone();
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (way, mut seen, socket) = (passing.clone(), seen.clone(), socket.clone());
                links.spawn(async move {
                    if *seen.borrow_and_update() == Way::Broken {
                        return;
                    }
                    let Ok(server) = UnixStream::connect(socket).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pass_to_server((from_client, to_server), &way, seen.clone()) => {}
                        () = pass(from_server, to_client, seen) => {}
                    }
                });
            }
        });
        let url = format!("postgres://nightpress@127.0.0.1:{port}/{database}");
        Self { url, way, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Until it is like that.
    pub(crate) async fn is(&self, way: Way) {
        self.way.subscribe().wait_for(|is| *is == way).await.expect("it lasts");
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

/// From the server, until an end closes or the way breaks.
async fn pass(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut seen: watch::Receiver<Way>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let way = *seen.borrow_and_update();
        tokio::select! {
            biased;
            changed = seen.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer), if matches!(way, Way::Open | Way::CutAtClaim) => {
                let Ok(n @ 1..) = read else { return };
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
            () = std::future::ready(()), if way == Way::Broken => return,
        }
    }
}

/// To the server, likewise.
async fn pass_to_server(
    (mut from, mut to): (impl tokio::io::AsyncRead + Unpin, impl tokio::io::AsyncWrite + Unpin),
    passing: &watch::Sender<Way>,
    mut seen: watch::Receiver<Way>,
) {
    let has = |bytes: &[u8], word: &[u8]| bytes.windows(word.len()).any(|at| at == word);
    let mut buffer = vec![0; 65_536];
    let mut claims = false;
    loop {
        let way = *seen.borrow_and_update();
        tokio::select! {
            biased;
            changed = seen.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer), if !matches!(way, Way::Silent | Way::Broken) => {
                let Ok(n @ 1..) = read else { return };
                claims |= has(&buffer[..n], b"INSERT INTO attempt");
                if claims && way == Way::CutAtClaim && has(&buffer[..n], b"COMMIT") {
                    passing.send_replace(Way::Mute);
                }
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
            () = std::future::ready(()), if way == Way::Broken => return,
        }
    }
}
