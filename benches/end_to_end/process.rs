//! The server in a process of its own, so that what it costs is not the client's.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use super::server;

/// A server that lives as long as this value.
pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts one and waits until it listens.
    pub(crate) fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        Ok(Self { child, port: line.trim().parse().context("the server did not tell its port")? })
    }

    /// Where pictures of this size are made.
    pub(crate) fn base_url(&self, image_bytes: usize) -> String {
        format!("http://127.0.0.1:{}/{image_bytes}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Serves until it is killed or its standard input ends.
#[expect(clippy::print_stdout, reason = "its parent reads the port there")]
pub(crate) fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?.port());
    std::thread::spawn(move || server::answer_all(&listener));
    // The parent holds the other end: when it dies, so does this process.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
