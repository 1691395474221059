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
        tasks.spawn(async move {
            let mut links = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (mut seen, socket) = (seen.clone(), socket.clone());
                links.spawn(async move {
                    if *seen.borrow_and_update() == Way::Broken {
                        return;
                    }
                    let Ok(server) = UnixStream::connect(socket).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::select! {
                        () = pass(from_client, to_server, seen.clone()) => {}
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

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

/// One direction, until an end closes or the way breaks.
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
            read = from.read(&mut buffer), if way == Way::Open => {
                let Ok(n @ 1..) = read else { return };
                if to.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
            () = std::future::ready(()), if way == Way::Broken => return,
        }
    }
}
