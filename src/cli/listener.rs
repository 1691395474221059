//! A TCP listener for those who ask a worker how it is: few of them at a time, each for a short while.
//!
//! Without bounds, connections that say nothing take all files that the process may have open, and with them the
//! work that was paid for.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// At a time; more of them wait in the system's own queue.
    pub(super) connections_max: usize,
    /// From accepted to closed.
    pub(super) lifetime: Duration,
}

/// Accepts within [`Bounds`].
pub(super) struct BoundedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
    lifetime: Duration,
}

impl BoundedListener {
    pub(super) fn new(listener: TcpListener, bounds: Bounds) -> Self {
        let places = Arc::new(Semaphore::new(bounds.connections_max));
        Self { listener, places, lifetime: bounds.lifetime }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, from) = Listener::accept(&mut self.listener).await;
        (Connection { stream, end: Box::pin(tokio::time::sleep(self.lifetime)), _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that keeps its place until it is dropped, and fails when its time is over.
pub(super) struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn poll_in_time<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        poll(Pin::new(&mut self.stream), context)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_in_time(context, |stream, context| stream.poll_read(context, into))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_in_time(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_in_time(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_in_time(context, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    async fn bounded(connections_max: usize, lifetime: Duration) -> (BoundedListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        (BoundedListener::new(listener, Bounds { connections_max, lifetime }), addr)
    }

    #[tokio::test]
    async fn more_than_so_many_connections_wait_until_one_has_ended() {
        let (mut listener, addr) = bounded(2, LONG).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(addr).await.expect("the system takes it"));
        }
        let (first, _) = listener.accept().await;
        let (_second, _) = listener.accept().await;
        assert!(listener.accept().now_or_never().is_none(), "a third one");
        drop(first);
        listener.accept().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_time_is_over_can_neither_read_nor_write() {
        let (mut listener, addr) = bounded(1, LONG).await;
        let mut client = TcpStream::connect(addr).await.expect("connects");
        client.write_all(b"GET / HT").await.expect("writes");
        let (mut connection, _) = listener.accept().await;
        let mut byte = [0];
        tokio::time::advance(LONG).await;
        let kinds = [
            connection.read(&mut byte).await.expect_err("no time").kind(),
            connection.write(&byte).await.expect_err("no time").kind(),
        ];
        assert_eq!(kinds, [io::ErrorKind::TimedOut; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_is_woken_when_its_time_is_over() {
        let (mut listener, addr) = bounded(1, LONG).await;
        let _client = TcpStream::connect(addr).await.expect("connects");
        let (mut connection, _) = listener.accept().await;
        let error = connection.read(&mut [0]).await.expect_err("its time is over");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
